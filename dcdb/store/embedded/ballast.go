package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"

	"dcfs/dcdb/store"
)

// space keeps the store away from the end of the disk, where Badger's writes
// through mmap kill the process.
//
// Nothing is written that would leave less than the scratch space: what Badger
// may write in the background, to end what it has begun. What Usage calls free
// leaves more than that: room for what was admitted on its word and is still to
// be written, and for logs and tables that grow meanwhile. If all the same there
// is not enough, the ballast, a file that only takes space, is released. Then
// nothing is free any more for those who ask, but what was admitted, and deletes,
// go on until that space is used too. When there is space again the ballast is
// made again.
type space struct {
	dir   string // immutable
	name  string // immutable; of the ballast file
	most  uint64 // immutable; bytes that the ballast may have, 0: none
	fixed bool   // immutable; it always has as many
	mem   uint64 // immutable; bytes of a memtable
	log   func(string, ...any)

	compaction atomic.Uint64 // what compactions may take, see lookAt
	asked      atomic.Int64  // when something was to be written last, in Unix nanoseconds

	mu   sync.Mutex
	held uint64 // guarded by mu; bytes of the ballast, 0: it is released
}

// spaceCheck is how often space is looked at without a write. For a while after
// one, Badger may write by itself, and others may fill the disk meanwhile: then it is
// looked at more often.
const (
	spaceCheck     = time.Second
	spaceCheckBusy = 20 * time.Millisecond
	spaceBusy      = 10 * time.Second
)

func newSpace(dir string, o Options) (*space, error) {
	total, free, err := statfs(dir)
	if err != nil {
		return nil, err
	}
	s := &space{
		dir: dir, name: filepath.Join(dir, ballastName), log: o.Log,
		mem:   uint64(o.MemTableBytes),
		most:  uint64(max(o.ReserveBytes, 0)),
		fixed: o.ReserveBytes > 0,
	}
	if o.ReserveBytes == 0 {
		s.most = total / 16
	}
	if s.most == 0 {
		os.Remove(s.name) // from an earlier open that wanted one
	} else if info, err := os.Stat(s.name); err == nil {
		s.held = uint64(blocksBytes(info))
	}
	s.balanceLocked(free, 0)
	return s, nil
}

// scratch is the space that Badger may need without being asked: for two
// memtables that become tables, a log file to go on with, and compactions.
func (s *space) scratch() uint64 { return 2*s.mem + logBytes(s.mem) + s.compaction.Load() }

// logBytes is what is allocated for a log file: Badger begins a new one only
// when the memtable's size is passed, by up to a batch.
func logBytes(mem uint64) uint64 { return mem * 5 / 4 }

// deepCompactionBytes is what a compaction between lower levels takes: a table
// and ten below it, of 8 MiB.
const deepCompactionBytes = 96 << 20

// lookAt notes what compactions may take: new tables are written before the
// old ones are removed, all of level 0 and the level below it at once.
func (s *space) lookAt(levels []badger.LevelInfo) {
	var top, deep uint64
	for _, l := range levels {
		if l.Level == 0 || l.IsBaseLevel {
			top += uint64(l.Size)
		} else {
			deep += uint64(l.Size)
		}
	}
	s.compaction.Store(top + min(deep, deepCompactionBytes))
}

// statfs returns the size of the file system and what is free for everyone.
func statfs(dir string) (total, free uint64, err error) {
	var st unix.Statfs_t
	for {
		if err = unix.Statfs(dir, &st); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return st.Blocks * uint64(st.Frsize), st.Bavail * uint64(st.Frsize), nil
}

// balanceLocked releases the ballast or makes it again, as what is free and what
// is needed ask for, and returns what is free then.
func (s *space) balanceLocked(free, need uint64) uint64 {
	switch want := s.want(); {
	case s.most == 0:
	case s.held > 0 && free < need+s.scratch():
		if err := os.Remove(s.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log("release %s: %v", s.name, err)
			return free
		}
		s.log("%s: the disk is full: its reserve of %d MiB is released, only deleting goes on", s.dir, s.held>>20)
		s.held = 0
		_, free, _ = statfs(s.dir)
	case s.held < want && free >= want-s.held+s.scratch()+2*s.mem:
		if err := makeBallast(s.name, int64(want)); err != nil {
			s.log("reserve %s: %v", s.name, err)
			return free
		}
		s.held = want
		_, free, _ = statfs(s.dir)
	}
	return free
}

// want is how large the ballast should be now: the scratch space, and as much
// for deleting as two memtables take. It grows in steps of a memtable, and
// does not shrink.
func (s *space) want() uint64 {
	if s.fixed {
		return s.most
	}
	return min(s.most, (s.scratch()+2*s.mem)/s.mem*s.mem)
}

// makeBallast makes the ballast, or enlarges it, to n bytes.
func makeBallast(name string, n int64) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fallocate(int(f.Fd()), 0, 0, n)
}

// look balances, and returns what is free and whether times are good. need is
// what is about to be written.
func (s *space) look(need uint64) (total, free uint64, good bool, err error) {
	// What is free is asked under the lock: an answer from before somebody
	// else released the ballast would refuse what there is room for.
	s.mu.Lock()
	defer s.mu.Unlock()
	total, free, err = statfs(s.dir)
	if err != nil {
		return 0, 0, false, err
	}
	free = s.balanceLocked(free, need)
	return total, free, s.held > 0 || s.most == 0, nil
}

// margin is what is not free for those who ask: the scratch space, and a memtable,
// its log and its table.
func (s *space) margin() uint64 { return s.scratch() + s.mem + logBytes(s.mem) + s.mem }

// forWrite refuses n bytes of objects or records when not even the ballast's
// space is left.
func (s *space) forWrite(n int64) error {
	s.asked.Store(time.Now().UnixNano())
	_, free, _, err := s.look(uint64(n))
	if err == nil && free < uint64(n)+s.scratch() {
		err = store.ErrFull
	}
	return err
}

// watch looks at the space, and at the memory that tables take, until stop is
// closed, and then closes done: Badger also writes when nobody asks it to.
func (s *space) watch(db *badger.DB, stop <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	tables := filepath.Join(s.dir, recordsName)
	if abs, err := filepath.Abs(tables); err == nil {
		tables = abs
	}
	if real, err := filepath.EvalSymlinks(tables); err == nil {
		tables = real
	}
	t, busy, trim := time.NewTicker(spaceCheck), time.NewTicker(spaceCheckBusy), time.NewTicker(residentCheck)
	defer t.Stop()
	defer busy.Stop()
	defer trim.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			s.lookAt(db.Levels())
			s.look(0)
		case <-busy.C:
			if s.asked.Load() > time.Now().Add(-spaceBusy).UnixNano() {
				s.look(0)
			}
		case <-trim.C:
			trimResident(tables)
		}
	}
}

// asFull makes the errors of a full disk ErrFull.
func asFull(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	}
	return err
}
