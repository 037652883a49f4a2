package sealed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"

	"dcfs/dcdb/store"
)

// recordShare is the part of a batch's bytes, in percent, that is kept for boxes
// of small records. It decides how many records a batch may have: 37,700 instead
// of 50,000 in the embedded store, and 70 % of the bytes.
const recordShare = 30

// Store seals what goes to another store.
type Store struct {
	store.Store
	key    *Key         // immutable
	limits store.Limits // immutable
}

var (
	_ store.Compacter = (*Store)(nil)
	_ store.Scrubber  = (*Store)(nil)
)

// New returns a store that seals everything in s by k.
func New(s store.Store, k *Key) *Store {
	l := s.Limits()
	l.BatchRecords = min(l.BatchRecords, l.BatchBytes/100*recordShare/boxBytes)
	l.BatchBytes -= l.BatchRecords * boxBytes
	l.ValueBytes -= boxBytes
	l.ObjectBytes -= chunksOf(l.ObjectBytes) * boxBytes
	return &Store{Store: s, key: k, limits: l}
}

// Limits implements store.Store.
func (s *Store) Limits() store.Limits { return s.limits }

// below is the ID that the store below has for id. What no object can have, it
// does not find there either.
func (s *Store) below(id store.ID) store.ID {
	n := uint64(sealedBytes(int(id.Len)))
	id.Len = uint32(min(n, math.MaxUint32))
	return id
}

// above is the inverse of below.
func above(id store.ID) (store.ID, error) {
	n, ok := plainBytes(int(id.Len))
	if !ok {
		return id, fmt.Errorf("object %v: its length is not that of a sealed one: %w", id, store.ErrCorrupt)
	}
	id.Len = uint32(n)
	return id, nil
}

// aboutObject is what is authenticated beside an object's bytes.
func aboutObject(id store.ID, kind store.Kind) []byte {
	b := append(make([]byte, 0, 22), 'o', byte(kind))
	b = binary.BigEndian.AppendUint64(b, id.Group)
	b = binary.BigEndian.AppendUint32(b, id.Seg)
	b = binary.BigEndian.AppendUint32(b, id.Off)
	return binary.BigEndian.AppendUint32(b, id.Len)
}

// aboutRecord is what is authenticated beside a record's value.
func aboutRecord(key []byte) []byte { return append([]byte{'r'}, key...) }

// Put implements store.Objects.
func (s *Store) Put(ctx context.Context, group uint64, kind store.Kind, parts [][]byte) ([]store.ID, error) {
	sizes, made := store.Made(parts)
	return s.PutMade(ctx, group, kind, sizes, made)
}

// PutMade implements store.Objects.
func (s *Store) PutMade(ctx context.Context, group uint64, kind store.Kind, sizes []int, part func(i int, id store.ID) []byte) ([]store.ID, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := store.CheckSizes(group, s.LastGroup(), s.FirstGroup(), sizes, s.limits); err != nil {
		return nil, err
	}
	sealed := make([]int, len(sizes))
	for i, n := range sizes {
		sealed[i] = sealedBytes(n)
	}
	ids, err := s.Store.PutMade(ctx, group, kind, sealed, func(i int, id store.ID) []byte {
		id.Len = uint32(sizes[i])
		return s.key.sealObject(id, kind, part(i, id))
	})
	if err != nil {
		return nil, err
	}
	for i := range ids {
		ids[i].Len = uint32(sizes[i])
	}
	return ids, nil
}

// sealObject returns the boxes of an object.
func (k *Key) sealObject(id store.ID, kind store.Kind, plain []byte) []byte {
	about := aboutObject(id, kind)
	n := newNonce()
	g := k.gcm(&n)
	b := make([]byte, 0, sealedBytes(len(plain)))
	for i := 0; len(plain) > 0; i++ {
		c := min(len(plain), chunkBytes)
		n.setIndex(i)
		b = appendBox(b, g, &n, plain[:c], about)
		plain = plain[c:]
	}
	return b
}

// buffers holds *[]byte for what is read.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// pooledBytes is the most that is kept for later: a record of a file, sealed.
const pooledBytes = 256 << 10

// Read implements store.Objects.
func (s *Store) Read(ctx context.Context, id store.ID, kind store.Kind, off int, p []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if id.Len == 0 || int64(id.Len) > int64(s.limits.ObjectBytes) {
		return fmt.Errorf("object %v: %w", id, store.ErrNotFound)
	}
	from, to, err := store.Span(id, off, len(p))
	if err != nil {
		return err
	}
	// from is where a box begins, or the object's end.
	first := chunksOf(from)
	n := to - from + chunksOf(to-from)*boxBytes
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	boxes := *buf
	if cap(boxes) < n {
		boxes = make([]byte, n)
		if n <= pooledBytes {
			*buf = boxes
		}
	}
	boxes = boxes[:n]
	if err := s.Store.Read(ctx, s.below(id), kind, from+first*boxBytes, boxes); err != nil {
		return err
	}
	// All are opened before any is given out.
	about, o := aboutObject(id, kind), opener{k: s.key}
	for i, b := first, boxes; len(b) > 0; i++ {
		c := min(len(b), chunkBytes+boxBytes)
		if _, ok := o.open(b[:c], i, about); !ok {
			return fmt.Errorf("object %v: the volume's key does not open block %d: %w", id, i, store.ErrCorrupt)
		}
		b = b[c:]
	}
	for at := from; len(boxes) > 0; at += chunkBytes {
		c := min(len(boxes), chunkBytes+boxBytes)
		plain := boxes[randomBytes : c-tagBytes]
		if at < off {
			plain = plain[off-at:]
			copy(p, plain)
		} else {
			copy(p[at-off:], plain)
		}
		boxes = boxes[c:]
	}
	return nil
}

// Delete implements store.Objects.
func (s *Store) Delete(ctx context.Context, ids []store.ID) error {
	below := make([]store.ID, len(ids))
	for i, id := range ids {
		below[i] = s.below(id)
	}
	return s.Store.Delete(ctx, below)
}

// List implements store.Objects. Lengths do not change the order.
func (s *Store) List(ctx context.Context, after store.ID, limit int) ([]store.ID, error) {
	ids, err := s.Store.List(ctx, s.below(after), limit)
	if err != nil {
		return nil, err
	}
	for i := range ids {
		if ids[i], err = above(ids[i]); err != nil {
			return nil, fmt.Errorf("list: %w", err)
		}
	}
	return ids, nil
}

// Get implements store.Records.
func (s *Store) Get(ctx context.Context, keys ...[]byte) ([][]byte, error) {
	values, err := s.Store.Get(ctx, keys...)
	if err != nil {
		return nil, err
	}
	for i, v := range values {
		if v == nil {
			continue
		}
		if values[i], err = s.openRecord(keys[i], v); err != nil {
			return nil, fmt.Errorf("get: %w", err)
		}
	}
	return values, nil
}

// Scan implements store.Records.
func (s *Store) Scan(ctx context.Context, from, to []byte, limit int) ([]store.Record, error) {
	rs, err := s.Store.Scan(ctx, from, to, limit)
	if err != nil {
		return nil, err
	}
	for i, r := range rs {
		if rs[i].Value, err = s.openRecord(r.Key, r.Value); err != nil {
			return nil, fmt.Errorf("scan: %w", err)
		}
	}
	return rs, nil
}

// openRecord returns the value in a box, which is never nil. The box stays as it
// is: the store below may have given out its own memory.
func (s *Store) openRecord(key, box []byte) ([]byte, error) {
	o := opener{k: s.key}
	v, ok := o.open(append(make([]byte, 0, len(box)), box...), 0, aboutRecord(key))
	if !ok {
		return nil, fmt.Errorf("record %x: the volume's key does not open it: %w", key, store.ErrCorrupt)
	}
	return v[:len(v):len(v)], nil
}

// Commit implements store.Records.
func (s *Store) Commit(ctx context.Context, b *store.Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := store.CheckBatch(b, s.Fence(), s.LastGroup(), s.FirstGroup(), s.limits); err != nil {
		return err
	}
	sealed := *b
	sealed.Puts = make([]store.Record, len(b.Puts))
	for i, r := range b.Puts {
		box := make([]byte, 0, len(r.Value)+boxBytes)
		sealed.Puts[i] = store.Record{Key: r.Key, Value: s.key.appendSealed(box, r.Value, aboutRecord(r.Key))}
	}
	return s.Store.Commit(ctx, &sealed)
}

// Compact implements store.Compacter. A store that is none has nothing to give
// back.
func (s *Store) Compact(ctx context.Context) error {
	if c, ok := s.Store.(store.Compacter); ok {
		return c.Compact(ctx)
	}
	return nil
}

// Scrub implements store.Scrubber, over a store that is one. It verifies what that
// store does, its checksums over boxes, and opens none.
func (s *Store) Scrub(ctx context.Context, read func(bytes int) error, problem func(error)) error {
	if c, ok := s.Store.(store.Scrubber); ok {
		return c.Scrub(ctx, read, problem)
	}
	return errors.ErrUnsupported
}
