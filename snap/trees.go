package snap

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"sync"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// droppedTrees knows where in each fork's queue of dropped trees the first one
// is, so that nobody has to look for it among the marks of those that are done
// with.
type droppedTrees struct {
	mu    sync.Mutex
	first map[uint64]*firstTree // guarded by mu; by fork
	seq   uint64                // guarded by mu; counts trees that were added
	done  uint64                // guarded by mu; counts trees that are expanded
}

// firstTree says that a queue has nothing before at.
type firstTree struct {
	at    []byte
	added uint64 // seq when a tree was last added
}

// add notes a tree that a group is about to record under key k. The flusher
// calls it: the group is closed and not durable.
func (d *droppedTrees) add(k []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seq++
	d.addLocked(k)
}

func (d *droppedTrees) addLocked(k []byte) {
	fork := binary.BigEndian.Uint64(k[1:])
	t := d.first[fork]
	if t == nil || bytes.Compare(k, t.at) < 0 {
		t = &firstTree{at: k}
		if d.first == nil {
			d.first = map[uint64]*firstTree{}
		}
		d.first[fork] = t
	}
	t.added = d.seq
}

// addTree records a dropped tree.
func (v *Volume) addTree(b *dcdb.Builder, fork uint64, bk *bulk) {
	l := v.lists.of(b)
	l.bulks++
	k := binary.BigEndian.AppendUint32(key(keyBulk, fork, b.Group), l.bulks)
	b.Put(k, bk.encode())
	v.trees.add(k)
	l.wake = true
}

// load finds the first tree of each fork.
func (d *droppedTrees) load(ctx context.Context, st store.Store) error {
	for from, end := key(keyBulk), after(key(keyBulk)); ; {
		recs, err := st.Scan(ctx, from, end, 1)
		if err != nil || len(recs) == 0 {
			return err
		}
		if err := checkTreeKey(recs[0].Key); err != nil {
			return err
		}
		d.add(recs[0].Key)
		from = after(recs[0].Key[:1+8])
	}
}

func checkTreeKey(k []byte) error {
	if len(k) != 1+8+8+4 {
		return fmt.Errorf("%w: key %x", dcdb.ErrCorrupt, k)
	}
	return nil
}

// forks returns those that may have dropped trees, and where to look for them.
func (d *droppedTrees) forks() map[uint64]firstTree {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make(map[uint64]firstTree, len(d.first))
	for f, t := range d.first {
		all[f] = *t
	}
	return all
}

// empty reports whether there are none.
func (d *droppedTrees) empty() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.first) == 0
}

// finished notes that a tree is expanded.
func (d *droppedTrees) finished() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done++
}

// count returns about how many there are: of what an earlier run left only the
// first of each fork is counted.
func (d *droppedTrees) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.first) == 0 {
		return 0
	}
	return int(max(int64(d.seq-d.done), 1))
}

// found notes what a look from t on has found: the fork's first tree k, or none.
// None counts only if none was added since t was asked for.
func (d *droppedTrees) found(fork uint64, t firstTree, k []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch now := d.first[fork]; {
	case now == nil:
	case k != nil:
		now.at = k
	case now.added == t.added:
		delete(d.first, fork)
	}
}

// skip leaves a tree of a fork as it is: the next one is at at, or behind it.
func (d *droppedTrees) skip(fork uint64, at []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t := d.first[fork]; t != nil {
		t.at = at
	}
}

// nextTree returns the record of a dropped tree, nil if there is none.
func (v *Volume) nextTree(ctx context.Context) (*store.Record, error) {
	forks := v.trees.forks()
	if len(forks) == 0 {
		return nil, nil
	}
	// What was added may be in a group that is still being written.
	if err := v.space.SyncClosed(ctx); err != nil {
		return nil, err
	}
	for f, t := range forks {
		end := after(key(keyBulk, f))
		recs, err := v.st.Scan(ctx, t.at, end, 1)
		if err != nil {
			return nil, v.inTree(f, end, err)
		}
		if len(recs) == 0 {
			v.trees.found(f, t, nil)
			continue
		}
		v.trees.found(f, t, recs[0].Key)
		return &recs[0], checkTreeKey(recs[0].Key)
	}
	return nil, nil
}

// countTrees counts the dropped trees, up to limit.
func (v *Volume) countTrees(ctx context.Context, limit int) (int, error) {
	n := 0
	for f, t := range v.trees.forks() {
		if n == limit {
			break
		}
		recs, err := v.st.Scan(ctx, t.at, after(key(keyBulk, f)), limit-n)
		if err != nil {
			return n, err
		}
		n += len(recs)
	}
	return n, nil
}
