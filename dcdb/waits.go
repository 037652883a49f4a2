package dcdb

import "context"

// Waiter is a context of an operation that is to be told before the operation
// waits: for the store to read something, or for a commit group.
type Waiter interface {
	context.Context
	// Waits may be called several times. No lock is held.
	Waits()
}

// waits tells a Waiter.
func waits(ctx context.Context) {
	if w, ok := ctx.(Waiter); ok {
		w.Waits()
	}
}
