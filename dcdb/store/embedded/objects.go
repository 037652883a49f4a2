package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"dcfs/dcdb/store"
)

const (
	objectPrefix   = 'o'
	objectKeyBytes = 13
)

func objectKey(id store.ID) []byte {
	b := make([]byte, 0, objectKeyBytes)
	b = append(b, objectPrefix)
	b = binary.BigEndian.AppendUint64(b, id.Group)
	return binary.BigEndian.AppendUint32(b, id.Off)
}

// numbers gives small objects their numbers within their group.
type numbers struct {
	mu   sync.Mutex
	next map[uint64]uint32 // guarded by mu; of groups not committed
}

func (n *numbers) take(group uint64) uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := n.next[group]
	n.next[group]++
	return k
}

// forget drops the groups up to group, which get no more objects.
func (n *numbers) forget(group uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for g := range n.next {
		if g <= group {
			delete(n.next, g)
		}
	}
}

// Put implements store.Objects.
func (s *Store) Put(ctx context.Context, group uint64, kind store.Kind, parts [][]byte) ([]store.ID, error) {
	sizes, made := store.Made(parts)
	return s.PutMade(ctx, group, kind, sizes, made)
}

// PutMade implements store.Objects.
func (s *Store) PutMade(ctx context.Context, group uint64, kind store.Kind, sizes []int, part func(i int, id store.ID) []byte) ([]store.ID, error) {
	leave, err := s.enterWrite(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := store.CheckSizes(group, s.last.Load(), s.first, sizes, s.limits); err != nil {
		return nil, err
	}
	if err := s.near(group); err != nil {
		return nil, fmt.Errorf("put: %w", err)
	}
	bytes := int64(0)
	for _, n := range sizes {
		bytes += int64(blocksFor(n)) * store.BlockBytes
	}
	if err := s.space.forWrite(bytes); err != nil {
		return nil, fmt.Errorf("put in group %d: %w", group, err)
	}
	p := &putting{group: group, kind: kind, sizes: sizes, part: part, ids: make([]store.ID, len(sizes))}
	err = s.putSmall(p)
	if err == nil {
		err = s.putLarge(p)
	}
	if err != nil {
		s.takeBack(p.ids)
		return nil, fmt.Errorf("put in group %d: %w", group, asFull(err))
	}
	s.usage.add(bytes)
	return p.ids, nil
}

// putting is what one call puts.
type putting struct {
	group uint64
	kind  store.Kind
	sizes []int
	part  func(i int, id store.ID) []byte
	ids   []store.ID // as they are given out
}

// takeBack erases what a failed Put has written, lest it stay when its group
// is committed. What can't be erased stays until a check finds it.
func (s *Store) takeBack(ids []store.ID) {
	ids = slices.DeleteFunc(ids, store.ID.IsZero)
	if err := s.erase(ids); err != nil {
		s.opt.Log("take back objects of a failed write: %v", err)
	}
}

// putSmall puts those below the threshold into Badger, in as few transactions
// as it takes.
func (s *Store) putSmall(p *putting) error {
	b := smallBatch{s: s}
	defer b.discard()
	for i, n := range p.sizes {
		if n >= s.opt.ObjectThreshold {
			continue
		}
		id := store.ID{Group: p.group, Off: s.numbers.take(p.group), Len: uint32(n)}
		p.ids[i] = id
		if err := b.set(objectKey(id), store.EncodeObject(s.super.UUID, id, p.kind, p.part(i, id))); err != nil {
			return err
		}
	}
	return b.flush()
}

// putLarge puts the others into segments, in stretches that leave most of a
// segment usable.
func (s *Store) putLarge(p *putting) error {
	var run []int
	bytes := 0
	flush := func() error {
		if len(run) == 0 {
			return nil
		}
		err := s.segments.put(s.super.UUID, p, run)
		run, bytes = run[:0], 0
		return err
	}
	for i, n := range p.sizes {
		if n < s.opt.ObjectThreshold {
			continue
		}
		if bytes+n > objectBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		run = append(run, i)
		bytes += n
	}
	return flush()
}

// smallBatch writes entries to Badger that need not stay together.
type smallBatch struct {
	s       *Store
	txn     *badger.Txn
	bytes   int64
	entries int64
}

func (b *smallBatch) set(key, frame []byte) error {
	return b.add(int64(len(key)+len(frame)), func() error { return b.txn.Set(key, frame) })
}

func (b *smallBatch) delete(key []byte) error {
	return b.add(int64(len(key)), func() error { return b.txn.Delete(key) })
}

func (b *smallBatch) add(bytes int64, do func() error) error {
	if b.bytes+bytes > b.s.opt.badgerBatchBytes()/2 || b.entries >= b.s.opt.badgerBatchRecords()/2 {
		if err := b.flush(); err != nil {
			return err
		}
	}
	if b.txn == nil {
		b.txn = b.s.db.NewTransaction(true)
	}
	b.bytes += bytes
	b.entries++
	return engineError(do())
}

func (b *smallBatch) flush() error {
	if b.txn == nil {
		return nil
	}
	err := b.s.wal.write(b.txn, b.bytes, b.entries, false)
	b.discard()
	return engineError(err)
}

func (b *smallBatch) discard() {
	if b.txn != nil {
		b.txn.Discard()
	}
	*b = smallBatch{s: b.s}
}

// Read implements store.Objects.
func (s *Store) Read(ctx context.Context, id store.ID, kind store.Kind, off int, p []byte) (err error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if id.IsZero() || id.Len == 0 || id.Len > objectBytes {
		return fmt.Errorf("object %v: %w", id, store.ErrNotFound)
	}
	if id.Seg != 0 {
		return s.segments.read(s.super.UUID, id, kind, off, p)
	}
	if err := s.damage.check(objectKey(id), objectKey(id)); err != nil {
		return fmt.Errorf("object %v: %w", id, err)
	}
	defer recovered("object "+id.String(), &err)
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	item, err := txn.Get(objectKey(id))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return fmt.Errorf("object %v: %w", id, store.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("object %v: %w", id, engineError(err))
	}
	return item.Value(func(frame []byte) error {
		return store.ReadObject(s.super.UUID, id, kind, frame, off, p)
	})
}

// Delete implements store.Objects.
func (s *Store) Delete(ctx context.Context, ids []store.ID) error {
	leave, err := s.enterWrite(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return s.erase(ids)
}

// erase takes the large ones first: that needs no space, but makes some.
func (s *Store) erase(ids []store.ID) error {
	var large, small []store.ID
	for _, id := range ids {
		if id.Seg != 0 {
			large = append(large, id)
		} else {
			small = append(small, id)
		}
	}
	if err := s.segments.erase(large); err != nil {
		return err
	}
	if err := s.eraseSmall(small); err != nil {
		return fmt.Errorf("delete objects: %w", err)
	}
	return nil
}

func (s *Store) eraseSmall(ids []store.ID) error {
	if len(ids) == 0 {
		return nil
	}
	if err := s.space.forWrite(objectKeyBytes * int64(len(ids))); err != nil {
		return err
	}
	b := smallBatch{s: s}
	defer b.discard()
	for _, id := range ids {
		if err := b.delete(objectKey(id)); err != nil {
			return err
		}
		s.compaction.bytes.Add(objectKeyBytes + int64(id.Len))
	}
	return b.flush()
}

// List implements store.Objects. Every call reads the headers of all objects
// in segments.
func (s *Store) List(ctx context.Context, after store.ID, limit int) (ids []store.ID, err error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if limit <= 0 {
		return nil, nil
	}
	defer recovered("list", &err)
	if ids, err = s.listSmall(ctx, after, limit); err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	err = s.segments.list(s.super.UUID, func(id store.ID) {
		if id.Compare(after) > 0 {
			ids = append(ids, id)
		}
		// Sorting twice as many as are wanted, now and then, bounds them.
		if len(ids) >= 2*limit+1024 {
			ids = lowest(ids, limit)
		}
	})
	if err != nil {
		return nil, err
	}
	return lowest(ids, limit), ctx.Err()
}

// lowest sorts ids and returns the first limit ones.
func lowest(ids []store.ID, limit int) []store.ID {
	slices.SortFunc(ids, store.ID.Compare)
	return ids[:min(limit, len(ids))]
}

// listSmall lists objects in Badger in the order of their IDs. Those of one
// group come before its large ones, as segment 0 does.
func (s *Store) listSmall(ctx context.Context, after store.ID, limit int) (ids []store.ID, err error) {
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{objectPrefix}})
	defer it.Close()
	for it.Seek(objectKey(store.ID{Group: after.Group})); it.Valid() && len(ids) < limit; it.Next() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var h store.ObjectHeader
		key := string(it.Item().Key())
		err := it.Item().Value(func(frame []byte) (err error) {
			h, err = store.ParseHeader(frame)
			return err
		})
		if err != nil || h.ID.Seg != 0 || string(objectKey(h.ID)) != key {
			return nil, fmt.Errorf("small object %x: %w", key[1:], store.ErrCorrupt)
		}
		if h.ID.Compare(after) > 0 {
			ids = append(ids, h.ID)
		}
	}
	return ids, nil
}
