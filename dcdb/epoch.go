package dcdb

import "sync"

// epochs knows which readers of the store run, by the number of the group that
// was open when they began. What group N dropped can be erased when N is durable
// and no reader of N or before is left.
type epochs struct {
	mu     sync.Mutex
	active map[uint64]int // guarded by mu
}

func (e *epochs) enter(group uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.active == nil {
		e.active = map[uint64]int{}
	}
	e.active[group]++
}

func (e *epochs) leave(group uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.active[group]--; e.active[group] == 0 {
		delete(e.active, group)
	}
}

// oldest returns the lowest group a reader began in, or next if there is none.
func (e *epochs) oldest(next uint64) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	for g := range e.active {
		next = min(next, g)
	}
	return next
}
