package snap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"dcfs/dcdb"
)

// inodesPerScan is how many heads Inodes reads at a time, unless one of them
// can't be read.
const inodesPerScan = 500

// Inodes returns the numbers of some inodes, in order, from number from on: all
// that the view shows up to the last one, and maybe some that it does not show.
// The call that goes on is at the number after that; none is returned at the end.
// It sees what is committed. Heads before one that can't be read are found, and
// those after it by calls from numbers above its own.
func (v *Volume) Inodes(ctx context.Context, w *View, from uint64) (inos []uint64, err error) {
	for n := inodesPerScan; n > 0; n /= 4 {
		if inos, err = v.inodes(ctx, w, from, n); !errors.Is(err, dcdb.ErrCorrupt) {
			break
		}
	}
	return inos, err
}

func (v *Volume) inodes(ctx context.Context, w *View, from uint64, limit int) ([]uint64, error) {
	var inos []uint64
	last := uint64(math.MaxUint64) // that all scans have reached
	add := func(kind byte, prefix uint64) error {
		recs, err := v.st.Scan(ctx, key(kind, prefix, from), after(key(kind, prefix)), limit)
		if err != nil {
			return fmt.Errorf("inodes of %q: %w", w.Name(), err)
		}
		for _, r := range recs {
			if len(r.Key) < 17 {
				return fmt.Errorf("%w: key %x", dcdb.ErrCorrupt, r.Key)
			}
			inos = append(inos, binary.BigEndian.Uint64(r.Key[9:]))
		}
		if len(recs) == limit {
			last = min(last, inos[len(inos)-1])
		}
		return nil
	}
	// Heads move from a line's first place to its second.
	for _, l := range slices.Backward(v.lines(w.Key(0))) {
		for _, prefix := range l.prefixes() {
			if err := add(keyHead, prefix); err != nil {
				return nil, err
			}
			if l.n == dcdb.Live {
				continue // a saved head is not the newest
			}
			if err := add(keySaved, prefix); err != nil {
				return nil, err
			}
		}
	}
	slices.Sort(inos)
	inos = slices.Compact(inos)
	n, found := slices.BinarySearch(inos, last)
	if found {
		n++
	}
	return inos[:n], nil
}

// Changed calls fn for the numbers of all inodes that may differ between two
// views, in no order and some of them more than once: those with a state that
// only one of the two may show. It sees what is committed.
func (v *Volume) Changed(ctx context.Context, a, b *View, fn func(ino uint64) error) error {
	from, to := map[uint64]uint64{}, map[uint64]uint64{} // by prefix: what only one can show
	for _, l := range v.lines(a.Key(0)) {
		for _, p := range l.prefixes() {
			to[p] = l.n
		}
	}
	for _, l := range v.lines(b.Key(0)) {
		for _, p := range l.prefixes() {
			n := to[p]
			from[p], to[p] = min(n, l.n), max(n, l.n)
		}
	}
	for prefix, n := range to {
		if from[prefix] == n {
			continue
		}
		if err := v.indexed(ctx, prefix, from[prefix], n, fn); err != nil {
			return err
		}
	}
	return nil
}

// indexed calls fn for the inodes below a prefix with a state of a counter above
// from and up to n.
func (v *Volume) indexed(ctx context.Context, prefix, from, n uint64, fn func(ino uint64) error) error {
	to := after(key(keyIndex, prefix))
	if n != dcdb.Live {
		to = key(keyIndex, prefix, n+1)
	}
	return scanRange(ctx, v.st, key(keyIndex, prefix, from+1), to, func(key, _ []byte) error {
		k, err := keyNums(key, 3)
		if err != nil {
			return err
		}
		return fn(k[2])
	})
}
