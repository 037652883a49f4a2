package dcdb

import (
	"context"
	"testing"
	"time"

	"dcfs/dcdb/store"
)

// TestEraserKeepsFewIDsWhileAReaderHoldsItUp frees more objects than it may keep
// the IDs of: the others' it reads from their records, and all are erased once the
// reader has ended.
func TestEraserKeepsFewIDsWhileAReaderHoldsItUp(t *testing.T) {
	const groups, each = 60, 2000
	ctx := context.Background()
	ts := newTestSpace(t, Options{})
	reader := ts.openGroup.Load()
	ts.epochs.enter(reader)
	parts := make([][]byte, each)
	for i := range parts {
		parts[i] = []byte("object")
	}
	var last store.ID
	for range groups {
		err := ts.Work(ctx, 1, each, each, func(ctx context.Context, b *Builder) error {
			ids, err := ts.mem.Put(ctx, b.Group, store.KindContent, parts)
			for _, id := range ids {
				b.Free(id)
				last = id
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for ts.Erasing() < groups*each { // it is handed over just after the answer
		time.Sleep(time.Millisecond)
	}
	ts.erase.mu.Lock()
	ids, n := ts.erase.ids, ts.erase.n
	ts.erase.mu.Unlock()
	if ids > eraseInMemory || ids < eraseInMemory/2 || n != groups*each {
		t.Errorf("%d objects wait, and the IDs of %d are in memory; want %d, and %d at most", n, ids, groups*each, eraseInMemory)
	}
	if left, err := ts.mem.List(ctx, store.ID{}, 2*n); err != nil || len(left) != n {
		t.Errorf("with the reader there: %d objects of %d are there, %v", len(left), n, err)
	}
	ts.epochs.leave(reader)
	for end := time.Now().Add(time.Minute); ts.Erasing() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d objects still wait, the last one %v", ts.Erasing(), last)
		}
	}
	ts.sync()
	if left, err := ts.mem.List(ctx, store.ID{}, 10); err != nil || len(left) > 0 {
		t.Errorf("objects are left: %v, %v", left, err)
	}
	if recs, err := ts.mem.Scan(ctx, FreePrefix(), []byte{freeKey + 1}, 10); err != nil || len(recs) > 0 {
		t.Errorf("records of freed objects are left: %d, %v", len(recs), err)
	}
}

// TestGroupsWaitForAnEraserThatIsBehind: but not for one that a reader holds up, and
// not for ever.
func TestGroupsWaitForAnEraserThatIsBehind(t *testing.T) {
	ctx := context.Background()
	ts := newTestSpace(t, Options{})
	reader := ts.openGroup.Load()
	ts.epochs.enter(reader)
	gate := make(chan struct{})
	ts.fault.Before(func(op store.Op) {
		if op == store.OpDelete {
			<-gate
		}
	})
	err := ts.Work(ctx, 1, 1, 100, func(ctx context.Context, b *Builder) error {
		ids, err := ts.mem.Put(ctx, b.Group, store.KindContent, [][]byte{make([]byte, 100)})
		b.Free(ids[0])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for ts.Erasing() == 0 {
		time.Sleep(time.Millisecond)
	}
	if ts.erase.behind(99) {
		t.Error("behind, though a reader is to blame")
	}
	ts.epochs.leave(reader)
	if !ts.erase.behind(99) || ts.erase.behind(100) {
		t.Errorf("100 bytes wait: behind 99 is %v, behind 100 is %v", ts.erase.behind(99), ts.erase.behind(100))
	}
	began := time.Now()
	ts.erase.holdUp(99, 30*time.Millisecond)
	if waited := time.Since(began); waited < 30*time.Millisecond {
		t.Errorf("held up for %v", waited)
	}
	close(gate)
	ts.erase.holdUp(99, time.Minute)
	if ts.erase.behind(99) {
		t.Error("still behind")
	}
}

// TestNoGroupWaitsForAnEraserThatWaitsForIt: the eraser has erased what it had to,
// and notes that in a group that is full; that one is written after the one that
// is held up.
func TestNoGroupWaitsForAnEraserThatWaitsForIt(t *testing.T) {
	ctx := context.Background()
	ts := newTestSpace(t, Options{Interval: time.Hour})
	deletes, barriers := make(chan struct{}), make(chan struct{})
	erasing := make(chan struct{}, 10)
	work := func() error {
		return ts.Work(ctx, 1, 1, 100, func(ctx context.Context, b *Builder) error {
			ids, err := ts.mem.Put(ctx, b.Group, store.KindContent, [][]byte{make([]byte, 100)})
			if err == nil {
				b.Free(ids[0])
			}
			return err
		})
	}
	ts.fault.Before(func(op store.Op) {
		if op == store.OpDelete {
			erasing <- struct{}{}
			<-deletes
		}
	})
	if err := work(); err != nil {
		t.Fatal(err)
	}
	<-erasing
	held := make(chan struct{}, 10)
	ts.fault.Before(func(op store.Op) {
		if op == store.OpBarrier {
			held <- struct{}{}
			<-barriers
		}
	})
	done := make(chan error, 1)
	go func() { done <- work() }()
	<-held
	err := ts.Meta(ctx, false, func(m *Meta) error {
		m.Put([]byte("key"), []byte("value"))
		ts.open.records = ts.st.Limits().BatchRecords
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	close(deletes)
	for end := time.Now().Add(20 * time.Second); ts.erase.behind(99); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Error("a group would wait for the eraser")
			break
		}
	}
	if ts.Erasing() == 0 {
		t.Error("the eraser did not wait")
	}
	close(barriers)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
