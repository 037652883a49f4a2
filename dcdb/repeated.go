package dcdb

import "fmt"

// Repeated logs what goes wrong again and again: once, until it is something else.
// It is one goroutine's.
type Repeated struct{ last string }

// Log logs a line unless it is the last one again.
func (r *Repeated) Log(log func(format string, args ...any), format string, args ...any) {
	if line := fmt.Sprintf(format, args...); line != r.last {
		r.last = line
		log("%s", line)
	}
}
