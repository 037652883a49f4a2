package dcdb

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// room knows about how much more the store may take, so that who writes learns at
// once that it is full, and not when the group is written.
type room struct {
	free func(ctx context.Context) (uint64, error) // immutable; nil: no limit is known
	left atomic.Int64                              // bytes, less what was written since it was asked

	asking sync.Mutex
	asked  atomic.Int64 // when, in nanoseconds
}

const (
	roomFor   = time.Second           // how long an answer is good
	roomAgain = 20 * time.Millisecond // when to ask again if it was not enough
	roomSpare = 256 << 10             // for pages and heads of what is written
)

// Room returns ErrFull if the store has no room for n bytes more, as far as is
// known. It may ask the store, and must not be called in a transaction.
func (s *Space) Room(ctx context.Context, n int) error {
	r := &s.space
	if r.free == nil {
		return nil
	}
	age := time.Duration(time.Now().UnixNano() - r.asked.Load())
	if age > roomFor || age < 0 {
		s.askRoom(ctx)
	} else if r.left.Load() < int64(n)+roomSpare && age > roomAgain {
		s.askRoom(ctx)
	}
	if r.left.Load() < int64(n)+roomSpare {
		return ErrFull
	}
	return nil
}

// askRoom asks the store, unless somebody else is about to.
func (s *Space) askRoom(ctx context.Context) {
	r := &s.space
	if !r.asking.TryLock() {
		return
	}
	defer r.asking.Unlock()
	free, err := r.free(ctx)
	if err != nil {
		s.o.Log("free space of the store: %v", err)
		return
	}
	s.mu.RLock()
	dirty := s.dirty
	s.mu.RUnlock()
	r.left.Store(int64(min(free, 1<<62)) - dirty)
	r.asked.Store(time.Now().UnixNano())
}
