package sealed

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"dcfs/dcdb/store"
	"dcfs/dcdb/store/storetest"
)

var ctx = context.Background()

func newMemory() *store.Memory {
	return store.NewMemory(store.Superblock{Version: store.FormatVersion, UUID: store.NewUUID()})
}

func testKey() *Key { return newKey(bytes.Repeat([]byte{7}, keyBytes)) }

// under returns the memory that a store made by TestSealedConforms lies on.
func under(s store.Store) *store.Memory {
	return s.(*Store).Store.(*store.Fault).Store.(*store.Memory)
}

func TestSealedConforms(t *testing.T) {
	seal := func(m *store.Memory) store.Store { return New(store.NewFault(m), testKey()) }
	storetest.Run(t, storetest.Opener{
		New: func(*testing.T) store.Store { return seal(newMemory()) },
		Reopen: func(_ *testing.T, s store.Store) store.Store {
			s.Close()
			return seal(under(s).Reopen())
		},
		Crash: func(_ *testing.T, s store.Store) store.Store { return seal(under(s).Crash()) },
	})
}

// filled is a sealed store with some objects and records.
type filled struct {
	*Store
	below *store.Memory
	ids   []store.ID
	parts [][]byte
	keys  [][]byte
}

const secret = "nobody shall read this, "

func newFilled(t *testing.T) *filled {
	t.Helper()
	f := &filled{below: newMemory()}
	f.Store = New(f.below, testKey())
	for _, n := range []int{30, 4096, 5000, 3 * 4096, 20_000} {
		f.parts = append(f.parts, []byte(strings.Repeat(secret, n/len(secret)+1))[:n])
	}
	var err error
	if f.ids, err = f.Put(ctx, 1, store.KindContent, f.parts); err != nil {
		t.Fatal(err)
	}
	b := &store.Batch{Group: 1, Fence: f.Fence()}
	for i := range 3 {
		f.keys = append(f.keys, fmt.Appendf(nil, "key %d", i))
		b.Puts = append(b.Puts, store.Record{Key: f.keys[i], Value: fmt.Append(nil, secret, i)})
	}
	if err := f.Commit(ctx, b); err != nil {
		t.Fatal(err)
	}
	return f
}

// raw is an object as the store below has it.
func (f *filled) raw(t *testing.T, i int) []byte {
	t.Helper()
	id := f.Store.below(f.ids[i])
	b := make([]byte, id.Len)
	if err := f.below.Read(ctx, id, store.KindContent, 0, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func (f *filled) rawRecord(t *testing.T, key []byte) []byte {
	t.Helper()
	vs, err := f.below.Get(ctx, key)
	if err != nil || vs[0] == nil {
		t.Fatalf("record %q: %v", key, err)
	}
	return bytes.Clone(vs[0])
}

// putRaw makes b a record of the store below.
func (f *filled) putRaw(t *testing.T, key, b []byte) {
	t.Helper()
	err := f.below.Commit(ctx, &store.Batch{Group: f.LastGroup() + 1, Fence: f.Fence(), Puts: []store.Record{{Key: key, Value: b}}})
	if err != nil {
		t.Fatal(err)
	}
}

// replaceRaw puts b below under an ID of its own and returns the ID that it has
// above.
func (f *filled) replaceRaw(t *testing.T, b []byte) store.ID {
	t.Helper()
	ids, err := f.below.Put(ctx, f.LastGroup()+1, store.KindContent, [][]byte{b})
	if err != nil {
		t.Fatal(err)
	}
	id, err := above(ids[0])
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (f *filled) wantCorrupt(t *testing.T, what string, id store.ID, off, n int) {
	t.Helper()
	p := make([]byte, n)
	if err := f.Read(ctx, id, store.KindContent, off, p); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("%s: got %v, want ErrCorrupt", what, err)
	}
	if bytes.Contains(p, []byte(secret[:8])) {
		t.Errorf("%s: gives out bytes all the same", what)
	}
}

// TestSampleBoxesOpen reads what the first version has sealed.
func TestSampleBoxesOpen(t *testing.T) {
	const (
		record = "0a5ac08f0862f187f7c49180e1e971f6194b7a2d7b6651818033eb85b0f909772f2239e24ded618cdc7d0f4d"
		object = "30a84807cb5952107a754b9d7a040b91b3a25064c2e2ad07bf9e451ffe8f948b3660bd6230455afa4f62e54e52cbf9db6e7b"
	)
	for _, c := range []struct {
		box, want string
		about     []byte
	}{
		{record, "a record", aboutRecord([]byte("its key"))},
		{object, "an object's 14", aboutObject(store.ID{Group: 7, Seg: 3, Off: 9, Len: 14}, store.KindPage)},
	} {
		box, err := hex.DecodeString(c.box)
		if err != nil {
			t.Fatal(err)
		}
		o := opener{k: testKey()}
		if got, ok := o.open(box, 0, c.about); !ok || string(got) != c.want {
			t.Errorf("got %q, %v, want %q", got, ok, c.want)
		}
	}
}

func TestNothingIsInTheClear(t *testing.T) {
	f := newFilled(t)
	for i := range f.ids {
		if bytes.Contains(f.raw(t, i), []byte(secret[:8])) {
			t.Errorf("object %d is in the clear", i)
		}
	}
	rs, err := f.below.Scan(ctx, nil, nil, 100)
	if err != nil || len(rs) != len(f.keys) {
		t.Fatalf("%d records, %v", len(rs), err)
	}
	for _, r := range rs {
		if bytes.Contains(r.Value, []byte(secret[:8])) {
			t.Errorf("record %q is in the clear", r.Key)
		}
	}
}

// TestEveryChangedByteIsNoticed changes what the store below takes for sound.
func TestEveryChangedByteIsNoticed(t *testing.T) {
	f := newFilled(t)
	box := f.rawRecord(t, f.keys[1])
	for i := range box {
		b := bytes.Clone(box)
		b[i] ^= 0x40
		f.putRaw(t, f.keys[1], b)
		if _, err := f.Get(ctx, f.keys[1]); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("byte %d of a record: got %v, want ErrCorrupt", i, err)
		}
		if _, err := f.Scan(ctx, f.keys[1], nil, 1); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("byte %d of a record in a scan: got %v, want ErrCorrupt", i, err)
		}
	}
	for _, n := range []int{0, 1, boxBytes - 1, boxBytes, len(box) - 1} {
		f.putRaw(t, f.keys[1], box[:n])
		if _, err := f.Get(ctx, f.keys[1]); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%d bytes of a record: got %v, want ErrCorrupt", n, err)
		}
	}
	f.putRaw(t, f.keys[1], box)
	if _, err := f.Get(ctx, f.keys[0], f.keys[1], f.keys[2]); err != nil {
		t.Errorf("as it was: %v", err)
	}

	// The object's place is part of what is authenticated, so a changed one is
	// made for the place that it gets.
	plain := f.parts[2]
	for i := 0; i < sealedBytes(len(plain)); i += 97 {
		var id store.ID
		ids, err := f.below.PutMade(ctx, f.LastGroup()+1, store.KindContent, []int{sealedBytes(len(plain))}, func(_ int, at store.ID) []byte {
			id, _ = above(at)
			b := f.key.sealObject(id, store.KindContent, plain)
			b[i] ^= 1
			return b
		})
		if err != nil {
			t.Fatal(err)
		}
		f.wantCorrupt(t, fmt.Sprintf("byte %d of %v", i, ids[0]), id, 0, len(plain))
	}
}

func TestSwappedRecordsAreNoticed(t *testing.T) {
	f := newFilled(t)
	a, b := f.rawRecord(t, f.keys[0]), f.rawRecord(t, f.keys[1])
	f.putRaw(t, f.keys[0], b)
	f.putRaw(t, f.keys[1], a)
	for _, k := range f.keys[:2] {
		if _, err := f.Get(ctx, k); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("record %q has another's value: got %v, want ErrCorrupt", k, err)
		}
	}
	if _, err := f.Get(ctx, f.keys[2]); err != nil {
		t.Errorf("a record that is in its place: %v", err)
	}
}

func TestSwappedObjectsAreNoticed(t *testing.T) {
	f := newFilled(t)
	for i := range f.ids {
		f.wantCorrupt(t, fmt.Sprintf("object %d in another's place", i), f.replaceRaw(t, f.raw(t, i)), 0, 30)
	}
	// Boxes of one object, in another order, and without the last.
	const box = chunkBytes + boxBytes
	var id store.ID
	_, err := f.below.PutMade(ctx, f.LastGroup()+1, store.KindContent, []int{3 * box}, func(_ int, at store.ID) []byte {
		id, _ = above(at)
		b := f.key.sealObject(id, store.KindContent, f.parts[3])
		return append(append(append([]byte(nil), b[box:2*box]...), b[:box]...), b[2*box:]...)
	})
	if err != nil {
		t.Fatal(err)
	}
	f.wantCorrupt(t, "first box is the second", id, 0, 10)
	f.wantCorrupt(t, "second box is the first", id, chunkBytes, 10)
	if err := f.Read(ctx, id, store.KindContent, 2*chunkBytes, make([]byte, chunkBytes)); err != nil {
		t.Errorf("third box, in its place: %v", err)
	}
	_, err = f.below.PutMade(ctx, f.LastGroup()+1, store.KindContent, []int{2 * box}, func(_ int, at store.ID) []byte {
		long := at
		long.Len = 3 * chunkBytes
		id, _ = above(at)
		return f.key.sealObject(long, store.KindContent, f.parts[3])[:2*box]
	})
	if err != nil {
		t.Fatal(err)
	}
	f.wantCorrupt(t, "cut object", id, 0, 10)
}

func TestAnotherKeyOpensNothing(t *testing.T) {
	f := newFilled(t)
	other := New(f.below, newKey(bytes.Repeat([]byte{8}, keyBytes)))
	if err := other.Read(ctx, f.ids[0], store.KindContent, 0, make([]byte, 1)); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("object: got %v, want ErrCorrupt", err)
	}
	if _, err := other.Get(ctx, f.keys[0]); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("record: got %v, want ErrCorrupt", err)
	}
}

// TestARangeReadsItsBoxesOnly wants no more of a sealed object read than what the
// range lies in.
func TestARangeReadsItsBoxesOnly(t *testing.T) {
	m := store.NewCounting(newMemory())
	s := New(m, testKey())
	ids, err := s.Put(ctx, 1, store.KindContent, [][]byte{make([]byte, 128<<10)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ off, n, boxes int }{{0, 4096, 1}, {8192, 1, 1}, {4095, 2, 2}, {60_000, 8192, 3}, {0, 128 << 10, 32}} {
		before := m.BytesRead.Load()
		if err := s.Read(ctx, ids[0], store.KindContent, c.off, make([]byte, c.n)); err != nil {
			t.Fatal(err)
		}
		if got, want := m.BytesRead.Load()-before, int64(c.boxes*(chunkBytes+boxBytes)); got != want {
			t.Errorf("%d bytes at %d: %d read, want %d", c.n, c.off, got, want)
		}
	}
}

func BenchmarkSealObject(b *testing.B) {
	k, p := testKey(), make([]byte, 128<<10)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		k.sealObject(store.ID{Group: 1, Len: uint32(len(p))}, store.KindContent, p)
	}
}

func BenchmarkSealRecord(b *testing.B) {
	k, p := testKey(), make([]byte, 200)
	for b.Loop() {
		k.appendSealed(nil, p, []byte("a key of seventeen"))
	}
}
