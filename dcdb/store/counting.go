package store

import (
	"context"
	"errors"
	"sync/atomic"
)

// Counters are the calls that a Counting has passed on, and what they carried.
// All fields may be read at any time.
type Counters struct {
	Puts, Reads, ObjectDeletes, Lists atomic.Int64 // calls
	Gets, Scans, Commits, Barriers    atomic.Int64 // calls

	ObjectsPut, BytesPut    atomic.Int64
	BytesRead               atomic.Int64
	ObjectsDeleted          atomic.Int64
	KeysGot, RecordsScanned atomic.Int64 // keys asked for, records returned
	RecordsPut              atomic.Int64
	RecordsDeleted          atomic.Int64
	RecordBytesPut          atomic.Int64 // keys and values
}

// Calls is the number of all calls that can mean I/O.
func (c *Counters) Calls() int64 {
	var n int64
	for _, v := range []*atomic.Int64{
		&c.Puts, &c.Reads, &c.ObjectDeletes, &c.Lists,
		&c.Gets, &c.Scans, &c.Commits, &c.Barriers,
	} {
		n += v.Load()
	}
	return n
}

// Counting passes calls on to a Store and counts them, for tests that show how
// much store I/O something takes, or none.
type Counting struct {
	Store
	Counters
}

var (
	_ Compacter = (*Counting)(nil)
	_ Scrubber  = (*Counting)(nil)
)

// NewCounting wraps s.
func NewCounting(s Store) *Counting { return &Counting{Store: s} }

// Put implements Objects.
func (c *Counting) Put(ctx context.Context, group uint64, kind Kind, parts [][]byte) ([]ID, error) {
	sizes, _ := Made(parts)
	c.put(sizes)
	return c.Store.Put(ctx, group, kind, parts)
}

// PutMade implements Objects.
func (c *Counting) PutMade(ctx context.Context, group uint64, kind Kind, sizes []int, part func(i int, id ID) []byte) ([]ID, error) {
	c.put(sizes)
	return c.Store.PutMade(ctx, group, kind, sizes, part)
}

func (c *Counting) put(sizes []int) {
	c.Puts.Add(1)
	c.ObjectsPut.Add(int64(len(sizes)))
	for _, n := range sizes {
		c.BytesPut.Add(int64(n))
	}
}

// Read implements Objects.
func (c *Counting) Read(ctx context.Context, id ID, kind Kind, off int, p []byte) error {
	c.Reads.Add(1)
	c.BytesRead.Add(int64(len(p)))
	return c.Store.Read(ctx, id, kind, off, p)
}

// Delete implements Objects.
func (c *Counting) Delete(ctx context.Context, ids []ID) error {
	c.ObjectDeletes.Add(1)
	c.ObjectsDeleted.Add(int64(len(ids)))
	return c.Store.Delete(ctx, ids)
}

// List implements Objects.
func (c *Counting) List(ctx context.Context, after ID, limit int) ([]ID, error) {
	c.Lists.Add(1)
	return c.Store.List(ctx, after, limit)
}

// Get implements Records.
func (c *Counting) Get(ctx context.Context, keys ...[]byte) ([][]byte, error) {
	c.Gets.Add(1)
	c.KeysGot.Add(int64(len(keys)))
	return c.Store.Get(ctx, keys...)
}

// Scan implements Records.
func (c *Counting) Scan(ctx context.Context, from, to []byte, limit int) ([]Record, error) {
	c.Scans.Add(1)
	rs, err := c.Store.Scan(ctx, from, to, limit)
	c.RecordsScanned.Add(int64(len(rs)))
	return rs, err
}

// Commit implements Records.
func (c *Counting) Commit(ctx context.Context, b *Batch) error {
	c.Commits.Add(1)
	c.RecordsPut.Add(int64(len(b.Puts)))
	c.RecordsDeleted.Add(int64(len(b.Deletes)))
	for _, r := range b.Puts {
		c.RecordBytesPut.Add(int64(len(r.Key) + len(r.Value)))
	}
	return c.Store.Commit(ctx, b)
}

// Barrier implements Records.
func (c *Counting) Barrier(ctx context.Context) error {
	c.Barriers.Add(1)
	return c.Store.Barrier(ctx)
}

// Compact implements Compacter. A Store that is none has nothing to give back.
func (c *Counting) Compact(ctx context.Context) error {
	if s, ok := c.Store.(Compacter); ok {
		return s.Compact(ctx)
	}
	return nil
}

// Scrub implements Scrubber, for a Store that is one.
func (c *Counting) Scrub(ctx context.Context, read func(bytes int) error, problem func(error)) error {
	if s, ok := c.Store.(Scrubber); ok {
		return s.Scrub(ctx, read, problem)
	}
	return errors.ErrUnsupported
}
