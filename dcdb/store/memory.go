package store

import (
	"context"
	"fmt"
	"sync"

	"github.com/tidwall/btree"
)

const (
	// memoryThreshold is the size from which a Memory keeps an object in its
	// one segment, as the embedded store would.
	memoryThreshold = 16 << 10
	// groupSkip is how far FirstGroup jumps at an open, beyond every number
	// that may have been used.
	groupSkip = 1024
)

// MemoryLimits are the limits of a Memory unless SetLimits changes them: those
// of the embedded store.
var MemoryLimits = Limits{
	BatchRecords: 50_000,
	BatchBytes:   4_500_000,
	KeyBytes:     1 << 10,
	ValueBytes:   512 << 10,
	ObjectBytes:  16 << 20,
}

// Memory is a Store in memory, for tests. What it keeps has the same frames as
// on a disk, so that tests can damage them, and it can show what a crash would
// leave.
//
// Its trees are tidwall/btree because they copy in constant time, sharing what
// does not change: the state after each batch that no Barrier has covered yet
// is kept as such a copy, and a crash goes back to one of them.
type Memory struct {
	super Superblock // immutable
	first uint64     // immutable
	fence uint64     // immutable

	mu       sync.RWMutex
	limits   Limits                      // guarded by mu; changes only before use
	capacity uint64                      // guarded by mu; 0: no bound
	closed   bool                        // guarded by mu
	now      memoryState                 // guarded by mu
	undone   []memoryState               // guarded by mu; durable state, then what later batches made, without now
	objects  *btree.BTreeG[memoryObject] // guarded by mu
	used     uint64                      // guarded by mu; bytes of objects and records
	spent    uint64                      // guarded by mu; highest group of a Put or Commit
	numbers  map[uint64]uint32           // guarded by mu; objects put in an open group
	segOff   uint32                      // guarded by mu; next free block
	unsure   unsure                      // guarded by mu; what Cut can choose from
}

// memoryState is the records as one batch left them. Values are record frames.
type memoryState struct {
	group   uint64
	records *btree.Map[string, []byte]
}

type memoryObject struct {
	id    ID
	frame []byte // never changed in place: copies of the tree share it
}

func lessObject(a, b memoryObject) bool { return a.id.Compare(b.id) < 0 }

// NewMemory returns an empty store with superblock sb.
func NewMemory(sb Superblock) *Memory {
	return &Memory{
		super:   sb,
		first:   1,
		fence:   1,
		limits:  MemoryLimits,
		now:     memoryState{0, new(btree.Map[string, []byte])},
		objects: btree.NewBTreeGOptions(lessObject, btree.Options{NoLocks: true}),
		numbers: map[uint64]uint32{},
	}
}

// SetLimits changes the limits, before the store is used.
func (m *Memory) SetLimits(l Limits) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limits = l
}

// SetCapacity makes a store of so many bytes: Put and Commit beyond it are
// ErrFull. 0 is no bound.
func (m *Memory) SetCapacity(bytes uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = bytes
}

// Put implements Objects.
func (m *Memory) Put(ctx context.Context, group uint64, kind Kind, parts [][]byte) ([]ID, error) {
	sizes, made := Made(parts)
	return m.PutMade(ctx, group, kind, sizes, made)
}

// PutMade implements Objects.
func (m *Memory) PutMade(ctx context.Context, group uint64, kind Kind, sizes []int, part func(i int, id ID) []byte) ([]ID, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	if err := CheckSizes(group, m.now.group, m.first, sizes, m.limits); err != nil {
		return nil, err
	}
	if err := m.roomLocked(sizes); err != nil {
		return nil, fmt.Errorf("put in group %d: %w", group, err)
	}
	m.spent = max(m.spent, group)
	ids := make([]ID, len(sizes))
	for i, n := range sizes {
		ids[i] = m.placeLocked(group, n)
		frame := EncodeObject(m.super.UUID, ids[i], kind, part(i, ids[i]))
		m.objects.Set(memoryObject{ids[i], frame})
		m.unsure.putObject(ids[i])
		m.used += uint64(len(frame))
	}
	return ids, nil
}

func (m *Memory) roomLocked(sizes []int) error {
	need := m.used
	for _, n := range sizes {
		need += uint64(PrefixBytes(n) + n)
	}
	if m.capacity != 0 && need > m.capacity {
		return ErrFull
	}
	return nil
}

// placeLocked gives out an ID for an object of n bytes.
func (m *Memory) placeLocked(group uint64, n int) ID {
	if n < memoryThreshold {
		number := m.numbers[group]
		m.numbers[group]++
		return ID{group, 0, number, uint32(n)}
	}
	off := m.segOff
	m.segOff += uint32(blocksOf(PrefixBytes(n) + n))
	return ID{group, 1, off, uint32(n)}
}

// Read implements Objects.
func (m *Memory) Read(ctx context.Context, id ID, kind Kind, off int, p []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.RLock()
	o, ok := m.objects.Get(memoryObject{id: id})
	closed := m.closed
	m.mu.RUnlock()
	switch {
	case closed:
		return ErrClosed
	case !ok:
		return fmt.Errorf("object %v: %w", id, ErrNotFound)
	}
	return ReadObject(m.super.UUID, id, kind, o.frame, off, p)
}

// Delete implements Objects.
func (m *Memory) Delete(ctx context.Context, ids []ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	for _, id := range ids {
		if o, ok := m.objects.Delete(memoryObject{id: id}); ok {
			m.used -= uint64(len(o.frame))
			m.unsure.deleteObject(o)
		}
	}
	return nil
}

// List implements Objects.
func (m *Memory) List(ctx context.Context, after ID, limit int) ([]ID, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return nil, ErrClosed
	}
	var ids []ID
	m.objects.Ascend(memoryObject{id: after}, func(o memoryObject) bool {
		if len(ids) >= limit {
			return false
		}
		if o.id != after {
			ids = append(ids, o.id)
		}
		return true
	})
	return ids, nil
}

// Get implements Records.
func (m *Memory) Get(ctx context.Context, keys ...[]byte) ([][]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return nil, ErrClosed
	}
	values := make([][]byte, len(keys))
	for i, k := range keys {
		frame, ok := m.now.records.Get(string(k))
		if !ok {
			continue
		}
		var err error
		if values[i], err = DecodeRecord(m.super.UUID, k, frame); err != nil {
			return nil, fmt.Errorf("get: %w", err)
		}
	}
	return values, nil
}

// Scan implements Records.
func (m *Memory) Scan(ctx context.Context, from, to []byte, limit int) ([]Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return nil, ErrClosed
	}
	var rs []Record
	var err error
	end := string(to)
	m.now.records.Ascend(string(from), func(k string, frame []byte) bool {
		if len(rs) >= limit || end != "" && k >= end {
			return false
		}
		key := []byte(k)
		var value []byte
		if value, err = DecodeRecord(m.super.UUID, key, frame); err != nil {
			return false
		}
		rs = append(rs, Record{key, value})
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("scan: %w", err)
	}
	return rs, nil
}

// Commit implements Records.
func (m *Memory) Commit(ctx context.Context, b *Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	if err := CheckBatch(b, m.fence, m.now.group, m.first, m.limits); err != nil {
		return err
	}
	if m.capacity != 0 && len(b.Puts) > 0 && m.used > m.capacity {
		return fmt.Errorf("commit group %d: %w", b.Group, ErrFull)
	}
	m.undone = append(m.undone, memoryState{m.now.group, m.now.records.Copy()})
	for _, r := range b.Puts {
		frame := EncodeRecord(m.super.UUID, r.Key, r.Value)
		old, _ := m.now.records.Set(string(r.Key), frame)
		m.used += uint64(len(frame)) - uint64(len(old))
	}
	for _, k := range b.Deletes {
		old, _ := m.now.records.Delete(string(k))
		m.used -= uint64(len(old))
	}
	m.unsure.commit(b, m.now.records)
	m.now.group = b.Group
	m.spent = max(m.spent, b.Group)
	for g := range m.numbers {
		if g <= b.Group {
			delete(m.numbers, g)
		}
	}
	return nil
}

// Barrier implements Records.
func (m *Memory) Barrier(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	m.undone = nil
	m.unsure.barrier(m.now.group)
	return nil
}

// Super implements Store.
func (m *Memory) Super() Superblock { return m.super }

// LastGroup implements Store.
func (m *Memory) LastGroup() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.now.group
}

// FirstGroup implements Store.
func (m *Memory) FirstGroup() uint64 { return m.first }

// Fence implements Store. It grows with every open.
func (m *Memory) Fence() uint64 { return m.fence }

// Limits implements Store.
func (m *Memory) Limits() Limits {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.limits
}

// Usage implements Store.
func (m *Memory) Usage(ctx context.Context) (Usage, error) {
	if err := ctx.Err(); err != nil {
		return Usage{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	total := m.capacity
	if total == 0 {
		total = 1 << 40
	}
	return Usage{TotalBytes: total, FreeBytes: total - min(total, m.used), UsedBytes: m.used}, nil
}

// Close implements Store. What the store holds can be had again by Reopen.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.undone = nil
	return nil
}
