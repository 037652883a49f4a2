package embedded

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"dcfs/dcdb/store"
)

// segments are the segment files that this process appends to.
type segments struct {
	dir      string // immutable
	maxBlock uint32 // immutable; where a segment ends
	files    *segmentFiles

	mu    sync.Mutex
	cur   *segment            // guarded by mu; where the next object goes, or nil
	mine  map[uint32]*segment // guarded by mu; made by this process, some part maybe not committed
	next  uint32              // guarded by mu; number of the next segment
	named bool                // guarded by mu; a new file's name is not durable
}

// segment is one that this process has made. segments.mu guards its fields
// but num and f.
type segment struct {
	num      uint32
	f        *os.File
	end      uint32 // blocks given out
	mark     uint32 // end of the last committed run
	pending  []run  // not committed, ordered by off
	dirty    bool   // written since the last sync
	inflight int    // writes not finished
	sealed   bool   // nothing is given out any more
}

// run is a range of blocks that one group's objects lie in.
type run struct {
	extent
	group uint64
}

// lostGroup is the group of a run whose write failed: it is never committed.
const lostGroup = math.MaxUint64

func segmentName(num uint32) string { return fmt.Sprintf("%08d.seg", num) }

// reserve gives group n blocks in a row, and room to write them to. Every
// reserve must be followed by finish.
func (s *segments) reserve(group uint64, n uint32) (*segment, uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur != nil && s.cur.end+n > s.maxBlock {
		s.cur.sealed = true
		s.cur = nil
	}
	if s.cur == nil {
		// The file is made with the lock held: who else puts an object now
		// needs this segment as well.
		if err := s.addLocked(); err != nil {
			return nil, 0, err
		}
	}
	g := s.cur
	off := g.end
	g.end += n
	g.inflight++
	if k := len(g.pending) - 1; k >= 0 && g.pending[k].group == group && g.pending[k].end() == off {
		g.pending[k].n += n
	} else {
		g.pending = append(g.pending, run{extent{off, n}, group})
	}
	return g, off, nil
}

func (s *segments) addLocked() error {
	f, err := os.OpenFile(filepath.Join(s.dir, segmentName(s.next)), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	s.cur = &segment{num: s.next, f: f}
	s.mine[s.next] = s.cur
	s.next++
	s.named = true
	return nil
}

// finish ends a reserve: the blocks were written, or, with failed, not.
func (s *segments) finish(g *segment, e extent, failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g.inflight--
	g.dirty = true
	if failed {
		g.pending = splitRun(g.pending, e)
	}
}

// splitRun makes the blocks e, part of one run, a lost run of their own.
func splitRun(runs []run, e extent) (out []run) {
	for _, r := range runs {
		if r.off > e.off || r.end() < e.end() {
			out = append(out, r)
			continue
		}
		if r.off < e.off {
			out = append(out, run{extent{r.off, e.off - r.off}, r.group})
		}
		out = append(out, run{e, lostGroup})
		if e.end() < r.end() {
			out = append(out, run{extent{e.end(), r.end() - e.end()}, r.group})
		}
	}
	return out
}

// sync makes everything durable that was written before the call.
func (s *segments) sync() error {
	s.mu.Lock()
	var dirty []*segment
	for _, g := range s.mine {
		if g.dirty {
			g.dirty = false
			dirty = append(dirty, g)
		}
	}
	named := s.named
	s.named = false
	s.mu.Unlock()

	for _, g := range dirty {
		if err := unix.Fdatasync(int(g.f.Fd())); err != nil {
			return fmt.Errorf("sync %s: %w", segmentName(g.num), err)
		}
	}
	if named {
		if err := syncDir(s.dir); err != nil {
			return fmt.Errorf("sync segments: %w", err)
		}
	}
	return nil
}

// states says what is committed of each segment once group is.
func (s *segments) states(group uint64) (next uint32, segs []segState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for num := range s.mine {
		if st, whole := s.mine[num].state(group); !whole {
			segs = append(segs, st)
		}
	}
	sortSegs(segs)
	return s.next, segs
}

// state of a segment once group is committed; whole if there is nothing in it
// that belongs to a later one, and never will be.
func (g *segment) state(group uint64) (st segState, whole bool) {
	st = segState{num: g.num, mark: g.mark}
	for _, r := range g.pending {
		if r.group <= group {
			st.mark = max(st.mark, r.end())
		}
	}
	whole = g.sealed && g.inflight == 0
	for _, r := range g.pending {
		if r.group <= group {
			continue
		}
		whole = false
		if r.off < st.mark {
			st.exceptions = append(st.exceptions, r.extent)
		}
	}
	st.exceptions = mergeExtents(st.exceptions)
	return st, whole
}

// committed forgets what belongs to groups up to group, after their batch is
// in the records.
func (s *segments) committed(group uint64) {
	s.mu.Lock()
	var whole []*segment
	for num, g := range s.mine {
		st, done := g.state(group)
		g.mark = st.mark
		var rest []run
		for _, r := range g.pending {
			if r.group > group {
				rest = append(rest, r)
			}
		}
		g.pending = rest
		if done {
			delete(s.mine, num)
			whole = append(whole, g)
		}
	}
	s.mu.Unlock()
	for _, g := range whole {
		g.f.Close()
		s.removeIfEmpty(g.num)
	}
}

// removeIfEmpty removes a segment that nothing is written to any more, and
// that holds nothing. Errors only mean that it stays.
func (s *segments) removeIfEmpty(num uint32) {
	s.mu.Lock()
	_, mine := s.mine[num]
	s.mu.Unlock()
	if mine {
		return
	}
	f, err := s.files.get(num)
	if err != nil {
		return
	}
	defer s.files.put(f)
	if _, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA); err == unix.ENXIO {
		os.Remove(filepath.Join(s.dir, segmentName(num)))
		s.files.drop(num)
	}
}

// close closes the files that are appended to.
func (s *segments) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, g := range s.mine {
		errs = append(errs, g.f.Close())
	}
	s.mine, s.cur = nil, nil
	return errors.Join(errs...)
}

// blocksFor is the number of blocks that an object of n bytes takes.
func blocksFor(n int) uint32 {
	return uint32((store.PrefixBytes(n) + n + store.BlockBytes - 1) / store.BlockBytes)
}
