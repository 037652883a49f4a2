package dcdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"dcfs/dcdb/store"
)

// eraser erases what durable groups dropped, once no reader can come across it.
type eraser struct {
	s *Space

	mu    sync.Mutex
	queue []freed  // guarded by mu; groups ascend
	n     int      // guarded by mu; objects in queue
	bytes int64    // guarded by mu; of them
	ids   int      // guarded by mu; those whose IDs are in memory
	notes bool     // guarded by mu; waits for a group, to note what is erased
	said  Repeated // by run
	wakes chan struct{}
}

// freed are objects that a group dropped.
type freed struct {
	group uint64
	n     int
	bytes int64
	ids   []store.ID // nil: to be read from the records
	keys  [][]byte   // of the records that say so, taken out afterwards
}

const (
	// eraseBatch is how many objects are erased between two pauses: a hole for
	// each may take 100 us and more.
	eraseBatch = 64
	// eraseInMemory is of how many objects the IDs are kept. The records have
	// the others': a reader that goes on for long keeps the queue growing.
	eraseInMemory = 100_000
	// eraseHurry objects, or eraseHurryBytes of them, wait before the eraser gives
	// way to nobody any more.
	eraseHurry      = 200_000
	eraseHurryBytes = 128 << 20
	// eraseMostBytes wait, and groups are held up for the eraser, up to
	// eraseHoldUp each: what is overwritten at random may be written faster
	// than holes are made.
	eraseMostBytes = 192 << 20
	eraseHoldUp    = time.Second
)

func (e *eraser) add(f freed) {
	e.mu.Lock()
	for _, id := range f.ids {
		f.bytes += int64(id.Len)
	}
	e.bytes += f.bytes
	if f.n = len(f.ids); e.ids+f.n > eraseInMemory && len(f.keys) > 0 {
		f.ids = nil
	}
	e.ids += len(f.ids)
	e.n += f.n
	e.queue = append(e.queue, f)
	if e.wakes == nil {
		e.wakes = make(chan struct{}, 1)
	}
	wake(e.wakes)
	e.mu.Unlock()
}

// Erase hands objects over that an earlier run of the program had freed and, it
// may be, not erased, with the keys of the records that name them.
func (s *Space) Erase(ids []store.ID, keys [][]byte) {
	s.erase.add(freed{group: 0, ids: ids, keys: keys})
}

// Erasing returns how many objects wait to be erased.
func (s *Space) Erasing() int {
	s.erase.mu.Lock()
	defer s.erase.mu.Unlock()
	return s.erase.n
}

// Erased reports whether nothing waits to be erased of what was freed up to a group.
func (s *Space) Erased(group uint64) bool {
	s.erase.mu.Lock()
	defer s.erase.mu.Unlock()
	return len(s.erase.queue) == 0 || s.erase.queue[0].group > group
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

	err := e.erase(context.Background(), f)
	if errors.Is(err, ErrClosed) {
		return false // the next mount finishes it
	}
	if err != nil {
		e.said.Log(e.s.o.Log, "erasing objects of group %d: %v", f.group, err)
		return false // the next tick tries again
	}
	e.noting(true)
	err = e.s.Meta(context.Background(), false, func(m *Meta) error {
		for _, k := range f.keys {
			m.Delete(k)
		}
		return nil
	})
	e.noting(false)
	if err != nil {
		return false // likewise, or failed
	}
	e.mu.Lock()
	e.queue[0] = freed{}
	e.queue = e.queue[1:]
	e.n, e.bytes = e.n-f.n, e.bytes-f.bytes
	e.ids -= len(f.ids)
	e.mu.Unlock()
	return true
}

func (e *eraser) noting(is bool) {
	e.mu.Lock()
	e.notes = is
	e.mu.Unlock()
}

// erase erases the objects of f, a few at a time.
func (e *eraser) erase(ctx context.Context, f freed) error {
	if f.ids != nil {
		return e.eraseSome(ctx, f.ids)
	}
	for _, k := range f.keys {
		vals, err := e.s.st.Get(ctx, k)
		if err != nil {
			return err
		}
		if vals[0] == nil {
			return fmt.Errorf("%w: the record %x of freed objects is missing", ErrCorrupt, k)
		}
		ids, err := DecodeFree(vals[0])
		if err == nil {
			err = e.eraseSome(ctx, ids)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// eraseSome takes them in the order in which they lie: a group frees neighbours in
// any order, and a store makes one hole of neighbours that it gets together.
func (e *eraser) eraseSome(ctx context.Context, ids []store.ID) error {
	slices.SortFunc(ids, func(a, b store.ID) int {
		return cmp.Or(cmp.Compare(a.Seg, b.Seg), cmp.Compare(a.Off, b.Off), cmp.Compare(a.Group, b.Group))
	})
	for len(ids) > 0 {
		select {
		case <-e.s.stop:
			return ErrClosed
		default:
		}
		n := min(len(ids), eraseBatch)
		if e.ease() == 0 || e.s.patience(restMost) == 0 {
			n = min(len(ids), 8*eraseBatch)
		}
		began := time.Now()
		if err := e.s.st.Delete(ctx, ids[:n]); err != nil {
			return err
		}
		ids = ids[n:]
		e.s.rest(time.Duration(float64(time.Since(began)) * e.ease()))
	}
	return nil
}

// behind reports whether more bytes than limit wait and nothing but the eraser's
// time keeps them: not while it waits for a group itself.
func (e *eraser) behind(limit int64) bool {
	oldest := e.s.epochs.oldest(e.s.openGroup.Load())
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.bytes > limit && e.queue[0].group < oldest && !e.notes
}

// holdUp returns when the eraser is not behind, or after most.
func (e *eraser) holdUp(limit int64, most time.Duration) {
	for end := time.Now().Add(most); e.behind(limit) && time.Now().Before(end); {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-e.s.stop:
			return
		}
	}
}

// AwaitEraser lets the eraser come near, so that what the background frees does
// not hold up anybody else. It may be called before each step.
func (s *Space) AwaitEraser() { s.erase.holdUp(eraseHurryBytes/2, eraseHoldUp) }

// ease is how much of its rest the eraser may take, from all to nothing.
func (e *eraser) ease() float64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return max(0, 1-max(float64(e.n)/eraseHurry, float64(e.bytes)/eraseHurryBytes))
}
