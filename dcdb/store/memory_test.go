package store_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"dcfs/dcdb/store"
	"dcfs/dcdb/store/storetest"
)

func newMemory() *store.Memory {
	return store.NewMemory(store.Superblock{Version: store.FormatVersion, UUID: store.NewUUID()})
}

func TestMemoryConforms(t *testing.T) {
	storetest.Run(t, storetest.Opener{
		New: func(*testing.T) store.Store { return newMemory() },
		Reopen: func(_ *testing.T, s store.Store) store.Store {
			s.Close()
			return s.(*store.Memory).Reopen()
		},
		Crash: func(_ *testing.T, s store.Store) store.Store { return s.(*store.Memory).Crash() },
	})
}

func TestWrappersConform(t *testing.T) {
	wrap := func(m *store.Memory) store.Store { return store.NewCounting(store.NewFault(m)) }
	memory := func(s store.Store) *store.Memory {
		return s.(*store.Counting).Store.(*store.Fault).Store.(*store.Memory)
	}
	storetest.Run(t, storetest.Opener{
		New: func(*testing.T) store.Store { return wrap(newMemory()) },
		Reopen: func(_ *testing.T, s store.Store) store.Store {
			s.Close()
			return wrap(memory(s).Reopen())
		},
	})
}

var ctx = context.Background()

func commit(t *testing.T, s store.Store, group uint64, value string) {
	t.Helper()
	err := s.Commit(ctx, &store.Batch{Group: group, Fence: s.Fence(), Puts: []store.Record{{Key: []byte("k"), Value: []byte(value)}}})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCrashLeavesAPrefix(t *testing.T) {
	m := newMemory()
	var ids []store.ID
	for g := uint64(1); g <= 6; g++ {
		id, err := m.Put(ctx, g, store.KindPage, [][]byte{fmt.Append(nil, g)})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id...)
		if g == 6 {
			break // put only
		}
		commit(t, m, g, fmt.Sprint(g))
		if g == 3 {
			if err := m.Barrier(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := fmt.Sprint(m.Undurable()); got != "[4 5]" {
		t.Errorf("Undurable: got %s, want [4 5]", got)
	}
	for keep, last := range map[uint64]uint64{0: 3, 2: 3, 3: 3, 4: 4, 5: 5, 9: 5} {
		c := m.CrashAt(keep)
		if c.LastGroup() != last || c.FirstGroup() <= 6 {
			t.Errorf("CrashAt(%d): LastGroup %d, want %d; FirstGroup %d", keep, c.LastGroup(), last, c.FirstGroup())
		}
		vs, err := c.Get(ctx, []byte("k"))
		if err != nil || string(vs[0]) != fmt.Sprint(last) {
			t.Errorf("CrashAt(%d): %q, %v", keep, vs, err)
		}
		if got, err := c.List(ctx, store.ID{}, 10); err != nil || len(got) != int(last) {
			t.Errorf("CrashAt(%d): %v, %v", keep, got, err)
		}
		commit(t, c, c.FirstGroup(), "changes the copy only")
	}
	if vs, _ := m.Get(ctx, []byte("k")); string(vs[0]) != "5" {
		t.Errorf("the store that crashed has changed: %q", vs)
	}
	if err := m.Read(ctx, ids[5], store.KindPage, 0, make([]byte, 1)); err != nil {
		t.Errorf("the store that crashed has lost %v: %v", ids[5], err)
	}
}

func TestDamageInMemoryIsFound(t *testing.T) {
	m := newMemory()
	ids, err := m.Put(ctx, 1, store.KindPage, [][]byte{[]byte("object")})
	if err != nil {
		t.Fatal(err)
	}
	commit(t, m, 1, "value")
	if !m.CorruptObject(ids[0], 50) || !m.CorruptRecord([]byte("k"), 7) {
		t.Fatal("nothing to damage")
	}
	if err := m.Read(ctx, ids[0], store.KindPage, 0, make([]byte, 6)); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Read: got %v, want ErrCorrupt", err)
	}
	if _, err := m.Get(ctx, []byte("k")); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Get: got %v, want ErrCorrupt", err)
	}
	if _, err := m.Scan(ctx, nil, nil, 9); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Scan: got %v, want ErrCorrupt", err)
	}
}

func TestFullMemory(t *testing.T) {
	m := newMemory()
	m.SetCapacity(1 << 20)
	if _, err := m.Put(ctx, 1, store.KindPage, [][]byte{make([]byte, 1<<20)}); !errors.Is(err, store.ErrFull) {
		t.Errorf("Put: got %v, want ErrFull", err)
	}
	if _, err := m.Put(ctx, 1, store.KindPage, [][]byte{make([]byte, 1<<19)}); err != nil {
		t.Errorf("Put of half: %v", err)
	}
	if u, err := m.Usage(ctx); err != nil || u.FreeBytes >= 1<<19 || u.TotalBytes != 1<<20 {
		t.Errorf("Usage: %+v, %v", u, err)
	}
}

func TestFaultFailsAsTold(t *testing.T) {
	m := newMemory()
	f := store.NewFault(m)
	get := func() error { _, err := f.Get(ctx, []byte("k")); return err }

	f.FailAfter(store.OpGet, 2, store.ErrInjected)
	for i, want := range []error{nil, nil, store.ErrInjected, store.ErrInjected} {
		if err := get(); !errors.Is(err, want) {
			t.Errorf("FailAfter 2, call %d: got %v, want %v", i, err, want)
		}
	}
	f.FailOnce(store.OpGet|store.OpScan, 1, store.ErrRetry)
	for i, want := range []error{nil, store.ErrRetry, nil} {
		if err := get(); !errors.Is(err, want) {
			t.Errorf("FailOnce 1, call %d: got %v, want %v", i, err, want)
		}
	}
	f.FailDone(store.OpCommit, 0, store.ErrInjected)
	err := f.Commit(ctx, &store.Batch{Group: 1, Fence: f.Fence()})
	if !errors.Is(err, store.ErrInjected) || m.LastGroup() != 1 {
		t.Errorf("FailDone: %v, and the last group is %d", err, m.LastGroup())
	}
	if f.Failed() != 4 {
		t.Errorf("Failed: got %d, want 4", f.Failed())
	}
	var ops []store.Op
	f.Before(func(op store.Op) { ops = append(ops, op) })
	get()
	f.Barrier(ctx)
	if fmt.Sprint(ops) != fmt.Sprint([]store.Op{store.OpGet, store.OpBarrier}) {
		t.Errorf("Before saw %v", ops)
	}
}

func TestCountingCounts(t *testing.T) {
	c := store.NewCounting(newMemory())
	c.Put(ctx, 1, store.KindPage, [][]byte{{1, 2}, {3}})
	c.Commit(ctx, &store.Batch{Group: 1, Fence: c.Fence(), Puts: []store.Record{{Key: []byte("k"), Value: []byte("va")}}})
	c.Get(ctx, []byte("k"), []byte("x"))
	if c.Calls() != 3 || c.ObjectsPut.Load() != 2 || c.BytesPut.Load() != 3 || c.RecordBytesPut.Load() != 3 || c.KeysGot.Load() != 2 {
		t.Errorf("calls %d, objects %d, bytes %d", c.Calls(), c.ObjectsPut.Load(), c.BytesPut.Load())
	}
}

func BenchmarkMemoryScan(b *testing.B) {
	m := newMemory()
	for g := range uint64(10) {
		batch := &store.Batch{Group: g + 1, Fence: m.Fence()}
		for i := range 20_000 {
			batch.Puts = append(batch.Puts, store.Record{Key: fmt.Appendf(nil, "%d/%d", i, g), Value: []byte("v")})
		}
		if err := m.Commit(ctx, batch); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if rs, err := m.Scan(ctx, []byte("5000/"), nil, 10); err != nil || len(rs) != 10 {
			b.Fatal(len(rs), err)
		}
	}
}
