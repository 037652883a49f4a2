package snap

import (
	"maps"
	"slices"

	"dcfs/dcdb"
)

// bytesFrom notes that from a counter on a fork refers to so many bytes more than
// below it, or less. What it has inherited is no more than what its origin has.
func (f *checkedFork) bytesFrom(counter uint64, bytes int64) {
	if counter > f.origin {
		f.bytes[counter] += bytes
	}
}

// diedBytes notes bytes of a dead list. What died beyond a cut has not died.
func (w *forkWalk) diedBytes(since, death uint64, bytes int64) {
	if death <= w.cut(since) {
		w.f.bytesFrom(since, bytes)
		w.f.bytesFrom(death, -bytes)
	}
}

// aliveBytes notes bytes of a state if they have not died.
func (w *forkWalk) aliveBytes(s *state, since uint64, bytes int) {
	if p := w.cut(since); p == ^uint64(0) && s.newest || p != ^uint64(0) && w.newestUpTo(s, p) {
		w.f.bytesFrom(since, int64(bytes))
	}
}

// refers verifies invariant (10), where all else is in order.
func (c *checker) refers() error {
	if len(c.report.Problems) > 0 {
		return nil
	}
	begin := map[*fork]map[uint64]int64{} // what kept counters refer to
	for _, f := range c.sorted() {
		var bytes int64
		if f.parent != nil {
			bytes = begin[f.parent][f.origin]
		}
		at := map[uint64]int64{}
		begin[f.fork] = at
		changes := slices.Sorted(maps.Keys(f.bytes))
		for _, sn := range f.snaps { // by counter
			for len(changes) > 0 && changes[0] <= sn.counter {
				bytes += f.bytes[changes[0]]
				changes = changes[1:]
			}
			at[sn.counter] = bytes
			if sn.counted && sn.refer != uint64(bytes) {
				c.problem(10, "snapshot %d of fork %d refers to %d bytes, its record says %d", sn.counter, f.id, bytes, sn.refer)
			}
		}
	}
	return c.enough()
}

// headBytes is how long a head's record is.
func headBytes(h *dcdb.Head) int {
	if h.Deleted {
		return 0
	}
	return len(dcdb.EncodeHead(h))
}
