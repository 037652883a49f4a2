package dcdb

import (
	"context"
	"encoding/binary"

	"dcfs/dcdb/store"
)

// freeKey begins the keys of the records that name freed objects.
const freeKey = 'e'

// freePerRecord is how many objects one of them names at most.
const freePerRecord = 500

// Builder gathers the records that a group changes. Get shows them as they will
// be: as the store has them, changed by what was put so far.
type Builder struct {
	Group uint64

	st    store.Store
	forks map[uint64]any
	muts  map[string][]byte // nil: deleted
	free  []store.ID
}

// Get returns the value of a key, nil if it is absent.
func (b *Builder) Get(ctx context.Context, key []byte) ([]byte, error) {
	if v, ok := b.muts[string(key)]; ok {
		return v, nil
	}
	v, err := b.st.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	return v[0], nil
}

// Changed reports whether the group changes a key, and to what; nil is deleted.
func (b *Builder) Changed(key string) (val []byte, ok bool) {
	val, ok = b.muts[key]
	return val, ok
}

// Put sets a record. Neither key nor val may change any more.
func (b *Builder) Put(key, val []byte) { b.muts[string(key)] = val }

// Delete takes a record out.
func (b *Builder) Delete(key []byte) { b.muts[string(key)] = nil }

// Free gives an object up: it is erased when the group is durable.
func (b *Builder) Free(id store.ID) { b.free = append(b.free, id) }

// Facts is what Rules.Freeze said of a fork at the group's end. The fork must
// have changes in the group, or be the one of a Work.
func (b *Builder) Facts(fork uint64) any { return b.forks[fork] }

// Store is the store as it was before the group.
func (b *Builder) Store() store.Store { return b.st }

// putFree makes the records that name the freed objects and returns their keys.
func (b *Builder) putFree() [][]byte {
	var keys [][]byte
	for i := 0; i < len(b.free); i += freePerRecord {
		ids := b.free[i:min(len(b.free), i+freePerRecord)]
		key := binary.BigEndian.AppendUint64([]byte{freeKey}, b.Group)
		key = binary.BigEndian.AppendUint32(key, uint32(i))
		b.Put(key, encodeFree(ids))
		keys = append(keys, key)
	}
	return keys
}

func encodeFree(ids []store.ID) []byte {
	b := binary.AppendUvarint([]byte{1}, uint64(len(ids)))
	for _, id := range ids {
		b = id.Append(b)
	}
	return b
}

// DecodeFree reads a record of freed objects.
func DecodeFree(b []byte) ([]store.ID, error) {
	d := &decoder{b: b}
	if d.byte() != 1 {
		d.fail("unknown version")
	}
	n := d.max(uint64(len(d.b)), "count")
	ids := make([]store.ID, 0, n)
	for range n {
		ids = append(ids, d.id())
	}
	return ids, d.end()
}

// FreePrefix is the prefix of the keys of records of freed objects.
func FreePrefix() []byte { return []byte{freeKey} }

func (b *Builder) batch(fence uint64) *store.Batch {
	out := &store.Batch{Group: b.Group, Fence: fence}
	for k, v := range b.muts {
		if v == nil {
			out.Deletes = append(out.Deletes, []byte(k))
		} else {
			out.Puts = append(out.Puts, store.Record{Key: []byte(k), Value: v})
		}
	}
	return out
}
