package dcdb

import (
	"context"
	"sync"
	"time"

	"dcfs/dcdb/store"
)

// eraser erases what durable groups dropped, once no reader can come across it.
type eraser struct {
	s *Space

	mu    sync.Mutex
	queue []freed // guarded by mu; groups ascend
	wakes chan struct{}
}

// freed are objects that a group dropped.
type freed struct {
	group uint64
	ids   []store.ID
	keys  [][]byte // of the records that say so, taken out afterwards
}

// eraseBatch is how many objects are erased between two looks at the clock.
const eraseBatch = 512

func (e *eraser) add(f freed) {
	e.mu.Lock()
	e.queue = append(e.queue, f)
	if e.wakes == nil {
		e.wakes = make(chan struct{}, 1)
	}
	wake(e.wakes)
	e.mu.Unlock()
}

// Erase hands objects over that an earlier run of the program had freed and, it
// may be, not erased, with the keys of the records that name them.
func (s *Space) Erase(ids []store.ID, keys [][]byte) { s.erase.add(freed{0, ids, keys}) }

// Erasing returns how many objects wait to be erased.
func (s *Space) Erasing() int {
	s.erase.mu.Lock()
	defer s.erase.mu.Unlock()
	n := 0
	for _, f := range s.erase.queue {
		n += len(f.ids)
	}
	return n
}

func (e *eraser) run() {
	defer e.s.workers.Done()
	e.mu.Lock()
	if e.wakes == nil {
		e.wakes = make(chan struct{}, 1)
	}
	wakes := e.wakes
	e.mu.Unlock()
	tick := time.NewTicker(200 * time.Millisecond) // for readers that end
	defer tick.Stop()
	for {
		select {
		case <-wakes:
		case <-tick.C:
		case <-e.s.stop:
			return
		}
		for e.step() {
			select {
			case <-e.s.stop:
				return
			default:
			}
		}
	}
}

// step erases what one group dropped, if it may, and reports whether it did.
func (e *eraser) step() bool {
	oldest := e.s.epochs.oldest(e.s.openGroup.Load())
	e.mu.Lock()
	if len(e.queue) == 0 || e.queue[0].group >= oldest {
		e.mu.Unlock()
		return false
	}
	f := e.queue[0]
	e.mu.Unlock()

	ctx := context.Background()
	for ids := f.ids; len(ids) > 0; {
		n := min(len(ids), eraseBatch)
		if err := e.s.st.Delete(ctx, ids[:n]); err != nil {
			e.s.o.Log("erasing objects of group %d: %v", f.group, err)
			return false // the next tick tries again
		}
		ids = ids[n:]
	}
	err := e.s.Meta(ctx, false, func(m *Meta) error {
		for _, k := range f.keys {
			m.Delete(k)
		}
		return nil
	})
	if err != nil {
		return false // closed or failed: the next mount finishes it
	}
	e.mu.Lock()
	e.queue = e.queue[1:]
	e.mu.Unlock()
	return true
}
