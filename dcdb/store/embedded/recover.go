package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"

	"dcfs/dcdb/store"
)

// recover brings the store to the last group that is whole: what later groups
// wrote ahead is erased, durably, before anything new is written. It costs in
// proportion to that, and to the number of segments.
func (s *Store) recover(seen witnessed) error {
	old, err := s.readState()
	if err != nil {
		return err
	}
	if err := seen.check(old.last); err != nil {
		return err
	}
	s.last.Store(old.last)
	s.acked.Store(old.last)
	s.first = max(old.first, old.last, seen.begun) + groupSkip
	if old.fence == 0 && seen.begun == 0 {
		s.first = 1 // a new volume
	}
	s.fence = old.fence + 1

	s.segments = &segments{
		dir:      filepath.Join(s.dir, segmentsName),
		maxBlock: uint32(s.opt.SegmentBytes / store.BlockBytes),
		mine:     map[uint32]*segment{},
	}
	s.segments.files = &segmentFiles{dir: s.segments.dir, open: map[uint32]*segmentFile{}}
	if s.segments.next, err = s.segments.recover(old); err != nil {
		return fmt.Errorf("erase what was not committed: %w", err)
	}
	if err := s.eraseAfter(old.last); err != nil {
		return fmt.Errorf("erase what was not committed: %w", err)
	}
	return s.writeState(state{last: old.last, first: s.first, fence: s.fence, next: s.segments.next})
}

// readState returns the state of the last batch; zero in a new volume.
func (s *Store) readState() (st state, err error) {
	defer recovered("read state", &err)
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	item, err := txn.Get(stateKey)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return state{next: 1}, nil
	}
	if err != nil {
		return st, engineError(err)
	}
	err = item.Value(func(frame []byte) error {
		b, err := store.DecodeRecord(s.super.UUID, stateKey, frame)
		if err == nil {
			st, err = decodeState(b)
		}
		return err
	})
	return st, err
}

// writeState makes a state durable, and with it what was written before.
func (s *Store) writeState(st state) error {
	txn := s.db.NewTransaction(true)
	defer txn.Discard()
	frame := store.EncodeRecord(s.super.UUID, stateKey, st.encode())
	if err := txn.Set(stateKey, frame); err != nil {
		return engineError(err)
	}
	if err := s.wal.write(txn, int64(len(stateKey)+len(frame)), 1, true); err != nil {
		return engineError(err)
	}
	return s.wal.sync()
}

// eraseAfter deletes the objects in Badger of groups after last.
func (s *Store) eraseAfter(last uint64) (err error) {
	defer recovered("list objects", &err)
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{objectPrefix}})
	defer it.Close()
	b := smallBatch{s: s}
	defer b.discard()
	for it.Seek(objectKey(store.ID{Group: last + 1})); it.Valid(); it.Next() {
		if err := b.delete(it.Item().KeyCopy(nil)); err != nil {
			return err
		}
	}
	return b.flush()
}

// recover erases what st does not cover, and returns the number of the next
// segment.
func (s *segments) recover(st state) (next uint32, err error) {
	nums, err := s.numbers()
	if err != nil {
		return 0, err
	}
	next = st.next
	for _, num := range nums {
		if num >= st.next {
			next = max(next, num+1)
			if err := s.removeFile(num); err != nil {
				return 0, err
			}
		}
	}
	for _, g := range st.segs {
		if err := s.trim(g); err != nil {
			return 0, fmt.Errorf("%s: %w", segmentName(g.num), err)
		}
	}
	return next, syncDir(s.dir)
}

// trim erases what does not belong to a committed group from one segment.
func (s *segments) trim(g segState) error {
	f, err := s.files.get(g.num)
	if errors.Is(err, store.ErrNotFound) {
		return nil // nothing was left in it
	}
	if err != nil {
		return err
	}
	err = trimFile(f.File, g)
	s.files.put(f)
	if err == nil {
		s.removeIfEmpty(g.num)
	}
	return err
}

func trimFile(f *os.File, g segState) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if end := int64(g.mark) * store.BlockBytes; info.Size() > end {
		if err := f.Truncate(end); err != nil {
			return err
		}
	}
	for _, e := range g.exceptions {
		if err := punch(f, e); err != nil {
			return err
		}
	}
	return unix.Fsync(int(f.Fd()))
}
