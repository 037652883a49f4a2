package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"

	"dcfs/dcdb/store"
)

// scrubChunk is about how many bytes are read in one go, between two looks at
// whether the store is to be closed.
const scrubChunk = 1 << 20

// Scrub implements store.Scrubber: tables, then what Badger has in them and in its
// logs, then the segments.
func (s *Store) Scrub(ctx context.Context, read func(bytes int) error, problem func(error)) error {
	c := &scrubber{s: s, ctx: ctx, read: read, problem: problem}
	for _, step := range [...]func() error{c.super, c.tables, c.records, c.segments} {
		if err := step(); err != nil {
			return fmt.Errorf("scrub: %w", err)
		}
	}
	return nil
}

// scrubber is one run of Scrub.
type scrubber struct {
	s       *Store
	ctx     context.Context
	read    func(bytes int) error
	problem func(error)
}

func (c *scrubber) super() error {
	if _, err := readSuper(c.s.dir); err != nil {
		c.problem(err)
	}
	return nil
}

// tables has all tables verified, which an iterator would not do: what is damaged
// in them is in the ranges of Store.damage then.
func (c *scrubber) tables() error {
	err := c.s.verifyTables(func(bytes int) error {
		leave, err := c.s.enter(c.ctx)
		if err != nil {
			return err
		}
		leave()
		return c.read(bytes)
	}, c.problem)
	if rs := c.s.damage.ranges.Load(); rs != nil {
		for _, r := range *rs {
			c.problem(fmt.Errorf("keys from %x to %x lie in a damaged block: %w", r.from, r.to, store.ErrCorrupt))
		}
	}
	return err
}

// records verifies each record and small object.
func (c *scrubber) records() error {
	for _, prefix := range []byte{objectPrefix, recordPrefix} {
		for from := []byte{prefix}; from != nil; {
			next, bytes, err := c.chunk(prefix, from)
			if err == nil {
				err = c.read(bytes)
			}
			if err != nil {
				return err
			}
			from = next
		}
	}
	return nil
}

// chunk verifies some entries from a key on, and returns where to go on, nil for
// the end.
func (c *scrubber) chunk(prefix byte, from []byte) (next []byte, bytes int, err error) {
	leave, err := c.s.enter(c.ctx)
	if err != nil {
		return nil, 0, err
	}
	defer leave()
	defer recovered("scrub", &err)
	txn := c.s.db.NewTransaction(false)
	defer txn.Discard()
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{prefix}})
	defer it.Close()
	for it.Seek(from); it.Valid(); it.Next() {
		item := it.Item()
		if bytes >= scrubChunk {
			return item.KeyCopy(nil), bytes, nil
		}
		err := item.Value(func(frame []byte) error {
			bytes += len(frame)
			return c.entry(item.KeyCopy(nil), frame)
		})
		if err != nil {
			c.problem(err)
		}
	}
	return nil, bytes, nil
}

// entry verifies what Badger has under a key.
func (c *scrubber) entry(key, frame []byte) error {
	if key[0] == recordPrefix {
		_, err := store.DecodeRecord(c.s.super.UUID, key[1:], frame)
		return err
	}
	id, err := store.VerifyObject(c.s.super.UUID, frame)
	if err == nil && string(objectKey(id)) != string(key) || errors.Is(err, store.ErrNotFound) {
		err = store.ErrCorrupt
	}
	if err != nil {
		return fmt.Errorf("small object %x: %w", key[1:], err)
	}
	return nil
}

// segments verifies each object in segments.
func (c *scrubber) segments() error {
	nums, err := c.s.segments.numbers()
	if err != nil {
		return err
	}
	for _, num := range nums {
		if err := c.segment(num); err != nil {
			return fmt.Errorf("%s: %w", segmentName(num), err)
		}
	}
	return nil
}

func (c *scrubber) segment(num uint32) error {
	for at, inDamage := int64(0), false; at >= 0; {
		leave, err := c.s.enter(c.ctx)
		if err != nil {
			return err
		}
		next, bytes, err := c.object(num, at, &inDamage)
		leave()
		if err == nil {
			err = c.read(bytes)
		}
		if err != nil {
			return err
		}
		at = next
	}
	return nil
}

// object verifies the first object of a segment at at or behind it, and returns
// where to go on, -1 for the end. inDamage: what was there before can't be told.
func (c *scrubber) object(num uint32, at int64, inDamage *bool) (next int64, bytes int, err error) {
	f, err := c.s.segments.files.get(num)
	if errors.Is(err, store.ErrNotFound) {
		return -1, 0, nil // removed meanwhile
	}
	if err != nil {
		return 0, 0, err
	}
	defer c.s.segments.files.put(f)
	data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	if err == unix.ENXIO {
		return -1, 0, nil // only a hole is left
	}
	if err != nil {
		return 0, 0, err
	}
	at = max(at, data/store.BlockBytes*store.BlockBytes)
	var id store.ID
	for tries := range scrubTries {
		// An object may be on its way there, or be erased just now.
		id, err = c.verifyAt(f, at)
		if err == nil || errors.Is(err, store.ErrNotFound) || c.s.segments.pending(num, at) {
			break
		}
		if *inDamage {
			break
		}
		if tries < scrubTries-1 {
			time.Sleep(scrubPause)
		}
	}
	n := int64(store.BlockBytes)
	if !id.IsZero() {
		n *= int64(blocksFor(int(id.Len)))
		*inDamage = false
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) && !c.s.segments.pending(num, at) {
		if !*inDamage {
			c.problem(fmt.Errorf("%s, block %d: %w", segmentName(num), at/store.BlockBytes, err))
		}
		*inDamage = id.IsZero() // then whatever follows may be the rest of it
	}
	return at + n, int(n), nil
}

// verifyAt verifies the object at a place in a segment. Its ID is returned if its
// header is sound, whatever else is not.
func (c *scrubber) verifyAt(f *segmentFile, at int64) (store.ID, error) {
	id, ok := objectAt(f, c.s.super.UUID, at)
	if !ok {
		b := make([]byte, store.PrefixBytes(1))
		if _, err := f.ReadAt(b, at); err != nil {
			return store.ID{}, err
		}
		_, err := store.ParseHeader(b)
		if err == nil {
			err = fmt.Errorf("header of an object: %w", store.ErrCorrupt)
		}
		return store.ID{}, err
	}
	frame := make([]byte, store.PrefixBytes(int(id.Len))+int(id.Len))
	if _, err := f.ReadAt(frame, at); err != nil {
		return id, fmt.Errorf("object %v: %w", id, err)
	}
	_, err := store.VerifyObject(c.s.super.UUID, frame)
	return id, err
}

// pending reports whether a place in a segment belongs to no committed group.
func (s *segments) pending(num uint32, at int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.mine[num]
	if g == nil {
		return false
	}
	block := uint32(at / store.BlockBytes)
	for _, r := range g.pending {
		if r.off <= block && block < r.end() {
			return true
		}
	}
	return block >= g.end
}

var _ store.Scrubber = (*Store)(nil)
