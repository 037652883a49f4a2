package embedded

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"dcfs/dcdb/store"
)

// scrubPause follows each table, so that the scrub takes a small part of the
// disk's time; a list of tables that can't be read is tried again after
// scrubRetry, scrubTries times in all.
const (
	scrubPause = 20 * time.Millisecond
	scrubRetry = 100 * time.Millisecond
	scrubTries = 5
)

// damage is the ranges of keys that lay in damaged blocks of tables. A key in
// there may be missing, or an older value of it come up from below, so nothing
// in there is answered.
type damage struct {
	ranges atomic.Pointer[[]keyRange]
	unseen atomic.Pointer[error] // why some table was not verified
}

// bad returns why tables must stay as they are: what is damaged in one is known
// only while it is there.
func (d *damage) bad() error {
	if d.ranges.Load() != nil {
		return fmt.Errorf("tables are damaged and stay as they are: %w", store.ErrCorrupt)
	}
	if err := d.unseen.Load(); err != nil {
		return fmt.Errorf("tables could not be verified and stay as they are until the store is opened again: %w", *err)
	}
	return nil
}

func (d *damage) add(r keyRange) {
	for {
		old := d.ranges.Load()
		var rs []keyRange
		if old != nil {
			rs = append(rs, *old...)
		}
		if slices.ContainsFunc(rs, func(o keyRange) bool { return bytes.Equal(o.from, r.from) && bytes.Equal(o.to, r.to) }) {
			return // found by an earlier run
		}
		rs = append(rs, r)
		if d.ranges.CompareAndSwap(old, &rs) {
			return
		}
	}
}

// check fails if a key of Badger in [from, to] may be affected.
func (d *damage) check(from, to []byte) error {
	rs := d.ranges.Load()
	if rs == nil {
		return nil
	}
	for _, r := range *rs {
		if bytes.Compare(to, r.from) >= 0 && (r.to == nil || bytes.Compare(from, r.to) <= 0) {
			return fmt.Errorf("key %x lies in a damaged block: %w", from, store.ErrCorrupt)
		}
	}
	return nil
}

// scrub verifies the tables that there were when the store was opened, once,
// and notes what is damaged; the tables that Badger writes later were in
// memory. What can't be verified is noted as well. It ends early when stop is
// closed, and closes done.
func (s *Store) scrub(stop <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	unverified := func(err error) {
		s.damage.unseen.CompareAndSwap(nil, &err)
		s.opt.Log("verifying the records: %v", err)
	}
	err := s.verifyTables(func(bytes int) error {
		pause := scrubPause
		if bytes > 0 {
			pause = 0 // within a table
		}
		return rest(stop, pause)
	}, unverified)
	if err != nil && !errors.Is(err, store.ErrClosed) {
		unverified(fmt.Errorf("list of tables: %w", err))
	}
}

// rest waits for a while, or until stop is closed.
func rest(stop <-chan struct{}, d time.Duration) error {
	select {
	case <-stop:
		return store.ErrClosed
	default:
	}
	if d == 0 {
		return nil
	}
	select {
	case <-stop:
		return store.ErrClosed
	case <-time.After(d):
		return nil
	}
}

// verifyTables verifies the tables that there are. It calls read after each block
// with its size, and after each table with 0; an error of it ends the run. It notes
// and logs damage, and calls problem for a table that can't be verified. Its own
// error, if it is not read's, is why there is no list of tables.
func (s *Store) verifyTables(read func(bytes int) error, problem func(error)) error {
	dir := filepath.Join(s.dir, recordsName)
	names, err := tableNames(dir)
	for tries := 1; err != nil && tries < scrubTries; tries++ {
		if err := rest(s.stop, scrubRetry); err != nil {
			return err
		}
		names, err = tableNames(dir)
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		stopped, err := s.verifyTable(name, read)
		if stopped != nil {
			return stopped
		}
		if err != nil {
			problem(err)
		}
		if err := read(0); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) verifyTable(name string, read func(bytes int) error) (stopped, err error) {
	t, err := openTable(name)
	if tableGone(name) {
		if err == nil {
			t.close()
		}
		return nil, nil
	}
	if err != nil {
		return nil, err // damaged since checkTables
	}
	defer t.close()
	return s.verifyBlocks(name, t, read), nil
}

// tableGone reports whether Badger has deleted a table. It cuts the file to
// nothing before it removes it, and so also for whoever has it open.
func tableGone(name string) bool {
	info, err := os.Stat(name)
	return errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0
}

func (s *Store) verifyBlocks(name string, t *table, read func(bytes int) error) (stopped error) {
	for i := range t.blocks() {
		if err := t.verify(i); err != nil {
			if tableGone(name) {
				return nil // and what was in it is in other tables
			}
			r := t.keys(i)
			s.damage.add(r)
			s.opt.Log("%s: block %d with keys from %x to %x: %v", name, i, r.from, r.to, err)
		}
		if err := read(t.blockBytes(i)); err != nil {
			return err
		}
	}
	return nil
}
