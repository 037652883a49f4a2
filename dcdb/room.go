package dcdb

import (
	"context"
	"math"
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
	want := roomFor // how old an answer may be
	if r.left.Load() < int64(n)+roomSpare {
		want = roomAgain
	}
	if r.age() > want {
		s.askRoom(ctx, want)
	}
	if r.left.Load() < int64(n)+roomSpare {
		return ErrFull
	}
	return nil
}

// age is how old the last answer is.
func (r *room) age() time.Duration {
	age := time.Duration(time.Now().UnixNano() - r.asked.Load())
	if age < 0 {
		return math.MaxInt64 // the clock went back
	}
	return age
}

// askRoom asks the store, or waits for somebody else's answer if that will be
// young enough.
func (s *Space) askRoom(ctx context.Context, want time.Duration) {
	r := &s.space
	r.asking.Lock()
	defer r.asking.Unlock()
	if r.age() <= want {
		return
	}
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
