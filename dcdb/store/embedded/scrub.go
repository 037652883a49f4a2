package embedded

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	var rs []keyRange
	if old := d.ranges.Load(); old != nil {
		rs = append(rs, *old...)
	}
	rs = append(rs, r)
	d.ranges.Store(&rs)
}

// check fails if a key of Badger in [from, to] may be affected.
func (d *damage) check(from, to []byte) error {
	rs := d.ranges.Load()
	if rs == nil {
		return nil
	}
	for _, r := range *rs {
		if bytes.Compare(to, r.from) >= 0 && (r.to == nil || bytes.Compare(from, r.to) <= 0) {
			return fmt.Errorf("key %q lies in a damaged block: %w", from, store.ErrCorrupt)
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
	dir := filepath.Join(s.dir, recordsName)
	names, err := tableNames(dir)
	for tries := 1; err != nil && tries < scrubTries; tries++ {
		select {
		case <-stop:
			return
		case <-time.After(scrubRetry):
		}
		names, err = tableNames(dir)
	}
	if err != nil {
		s.unverified(fmt.Errorf("list of tables: %w", err))
		return
	}
	for _, name := range names {
		if err := s.scrubTable(name, stop); err != nil {
			s.unverified(err)
		}
		select {
		case <-stop:
			return
		case <-time.After(scrubPause):
		}
	}
}

func (s *Store) unverified(err error) {
	s.damage.unseen.CompareAndSwap(nil, &err)
	s.opt.Log("verifying the records: %v", err)
}

func (s *Store) scrubTable(name string, stop <-chan struct{}) error {
	t, err := openTable(name)
	if tableGone(name) {
		if err == nil {
			t.close()
		}
		return nil
	}
	if err != nil {
		return err // damaged since checkTables
	}
	defer t.close()
	s.scrubBlocks(name, t, stop)
	return nil
}

// tableGone reports whether Badger has deleted a table. It cuts the file to
// nothing before it removes it, and so also for whoever has it open.
func tableGone(name string) bool {
	info, err := os.Stat(name)
	return errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0
}

func (s *Store) scrubBlocks(name string, t *table, stop <-chan struct{}) {
	for i := range t.blocks() {
		select {
		case <-stop:
			return
		default:
		}
		if err := t.verify(i); err != nil {
			if tableGone(name) {
				return // and what was in it is in other tables
			}
			r := t.keys(i)
			s.damage.add(r)
			s.opt.Log("%s: block %d with keys from %q to %q: %v", name, i, r.from, r.to, err)
		}
	}
}
