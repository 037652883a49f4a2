package dcdb

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"testing"
	"time"

	"dcfs/dcdb/store"
)

// testRules are the simplest Rules there can be: one fork without snapshots.
// Heads lie under 'h' and the inode number, and what is dropped is free at once.
type testRules struct {
	st      store.Store
	counter uint64 // guarded by Space.mu
}

func testHeadKey(ino uint64) []byte { return binary.BigEndian.AppendUint64([]byte{'h'}, ino) }

func (r *testRules) Load(ctx context.Context, k Key) ([]byte, error) {
	v, err := r.st.Get(ctx, testHeadKey(k.Ino))
	if err == nil && v[0] == nil {
		err = ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	return v[0], nil
}

func (r *testRules) Alive(fork, at uint64) error { return nil }
func (r *testRules) Counter(fork uint64) uint64  { return r.counter }
func (r *testRules) Freeze(fork uint64) any      { return nil }

func (r *testRules) Change(ctx context.Context, b *Builder, _ any, c *Change) error {
	if c.Record == nil {
		b.Delete(testHeadKey(c.Key.Ino))
	} else {
		b.Put(testHeadKey(c.Key.Ino), c.Record)
	}
	dropped := c.Dropped
	if c.Bulk {
		_, done, err := Expand(ctx, r.st, c.Old, c.Records, 0, 0, math.MaxInt, func(d Dropped) { dropped = append(dropped, d) })
		if err != nil || !done {
			return fmt.Errorf("expanding a dropped tree: %w, done %t", err, done)
		}
	}
	for _, d := range dropped {
		if err := r.release(ctx, b, d.ID); err != nil {
			return err
		}
	}
	return nil
}

// Share keeps extra references under 'x' and the object.
func (r *testRules) Share(ctx context.Context, b *Builder, id store.ID) error {
	v, err := b.Get(ctx, testExtraKey(id))
	if err != nil {
		return err
	}
	b.Put(testExtraKey(id), append(append([]byte(nil), v...), 1))
	return nil
}

func testExtraKey(id store.ID) []byte { return id.Append([]byte{'x'}) }

func (r *testRules) release(ctx context.Context, b *Builder, id store.ID) error {
	v, err := b.Get(ctx, testExtraKey(id))
	switch {
	case err != nil:
		return err
	case len(v) == 0:
		b.Free(id)
	case len(v) == 1:
		b.Delete(testExtraKey(id))
	default:
		b.Put(testExtraKey(id), v[1:])
	}
	return nil
}

func (r *testRules) Finish(context.Context, *Builder) error { return nil }

// testSpace is a Space over testRules and a store in memory.
type testSpace struct {
	*Space
	t     testing.TB
	ended bool
	rules *testRules
	fault *store.Fault
	mem   *store.Memory
	o     Options
}

func newTestSpace(t testing.TB, o Options) *testSpace {
	return openTestSpace(t, store.NewMemory(store.Superblock{Version: 1, UUID: store.NewUUID()}), o)
}

func openTestSpace(t testing.TB, mem *store.Memory, o Options) *testSpace {
	if o.Interval == 0 {
		o.Interval = time.Hour
	}
	ts := &testSpace{t: t, fault: store.NewFault(mem), mem: mem, o: o}
	ts.rules = &testRules{st: ts.fault, counter: 1}
	ts.Space = NewSpace(ts.fault, ts.rules, o)
	t.Cleanup(func() { ts.close() })
	return ts
}

// live is the key of an inode.
func (ts *testSpace) live(ino uint64) Key { return Key{Fork: 1, At: Live, Ino: ino} }

func (ts *testSpace) update(fn func(tx *Tx) error) {
	ts.t.Helper()
	if err := ts.Update(context.Background(), fn); err != nil {
		ts.t.Fatalf("update: %v", err)
	}
}

func (ts *testSpace) create(ino uint64) {
	ts.t.Helper()
	ts.update(func(tx *Tx) error { tx.Create(ts.live(ino), Attr{}); return nil })
}

func (ts *testSpace) sync() {
	ts.t.Helper()
	if err := ts.SyncAll(context.Background()); err != nil {
		ts.t.Fatalf("sync: %v", err)
	}
}

// snapshot raises the counter, as a snapshot would.
func (ts *testSpace) snapshot() {
	ts.Exclusive(func() {
		ts.closeGroup()
		ts.rules.counter++
	})
	ts.sync()
}

func (ts *testSpace) close() error {
	if ts.ended {
		return nil
	}
	ts.ended = true
	return ts.Close(context.Background())
}

// reopen ends the Space and opens another one over what the store has.
func (ts *testSpace) reopen() {
	ts.t.Helper()
	if err := ts.close(); err != nil {
		ts.t.Fatalf("close: %v", err)
	}
	ts.ended = false
	counter := ts.rules.counter
	ts.mem = ts.mem.Reopen()
	ts.fault = store.NewFault(ts.mem)
	ts.rules = &testRules{st: ts.fault, counter: counter}
	ts.Space = NewSpace(ts.fault, ts.rules, ts.o)
}

// check verifies all heads in the store, and that each object there is
// referenced once, or waits to be erased.
func (ts *testSpace) check() {
	ts.t.Helper()
	ts.sync()
	ctx := context.Background()
	refs := map[store.ID]int{}
	recs, err := ts.mem.Scan(ctx, []byte{'h'}, []byte{'h' + 1}, math.MaxInt)
	if err != nil {
		ts.t.Fatal(err)
	}
	for _, r := range recs {
		h, err := DecodeHead(r.Value)
		if err != nil {
			ts.t.Fatalf("head %x: %v", r.Key, err)
		}
		report := func(p string) { ts.t.Errorf("check: head %x: %s", r.Key, p) }
		err = CheckHead(ctx, ts.mem, h, report, func(r Ref) {
			refs[r.ID]++
			if err := ts.mem.Read(ctx, r.ID, r.Kind, 0, make([]byte, r.ID.Len)); err != nil {
				ts.t.Errorf("check: %v", err)
			}
		})
		if err != nil {
			ts.t.Fatal(err)
		}
	}
	free := map[store.ID]bool{}
	recs, err = ts.mem.Scan(ctx, []byte{freeKey}, []byte{freeKey + 1}, math.MaxInt)
	if err != nil {
		ts.t.Fatal(err)
	}
	for _, r := range recs {
		ids, err := DecodeFree(r.Value)
		if err != nil {
			ts.t.Fatal(err)
		}
		for _, id := range ids {
			if free[id] || refs[id] > 0 {
				ts.t.Errorf("check: object %v is free twice, or free and referenced", id)
			}
			free[id] = true
		}
	}
	ids, err := ts.mem.List(ctx, store.ID{}, math.MaxInt)
	if err != nil {
		ts.t.Fatal(err)
	}
	for _, id := range ids {
		x, err := ts.mem.Get(ctx, testExtraKey(id))
		if err != nil {
			ts.t.Fatal(err)
		}
		if refs[id] != 1+len(x[0]) && !free[id] {
			ts.t.Errorf("check: object %v has %d references, want %d", id, refs[id], 1+len(x[0]))
		}
	}
	if ts.t.Failed() {
		ts.t.FailNow()
	}
}

// seeded names a subtest by its seed, to be run again by -run.
func seeded(seed int64) string { return fmt.Sprintf("seed=%d", seed) }
