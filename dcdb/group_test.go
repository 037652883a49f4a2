package dcdb

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"sync"
	"testing"
	"time"

	"dcfs/dcdb/store"
)

// TestWorkIsDurableWhenItReturnsThoughTheStoreWasFull: whoever is told that a
// Work failed would do it again, and free twice what it frees.
func TestWorkIsDurableWhenItReturnsThoughTheStoreWasFull(t *testing.T) {
	ts := newTestSpace(t, Options{})
	ts.fault.FailOnce(store.OpCommit, 0, store.ErrFull)
	key := []byte{'w'}
	err := ts.Work(context.Background(), 1, 1, 10, func(ctx context.Context, b *Builder) error {
		b.Put(key, []byte{1})
		return nil
	})
	if err != nil {
		t.Fatalf("work: %v, want none", err)
	}
	v, err := ts.mem.Get(context.Background(), key)
	if err != nil || len(v[0]) != 1 {
		t.Fatalf("after the work its record is %v, %v", v, err)
	}
}

// TestFailedWorkIsLeftOut: what the background can't read is no reason for losing
// what else is in its group.
func TestFailedWorkIsLeftOut(t *testing.T) {
	ts := newTestSpace(t, Options{Interval: time.Hour})
	ts.create(5)
	damaged := fmt.Errorf("some record: %w", ErrCorrupt)
	errs := make(chan error, 3)
	for i := range byte(3) {
		go func() {
			errs <- ts.Work(context.Background(), 1, 2, 20, func(ctx context.Context, b *Builder) error {
				b.Put([]byte{'w', i}, []byte{1})
				if i == 1 {
					return damaged
				}
				return nil
			})
		}()
	}
	failed := 0
	for range 3 {
		if err := <-errs; errors.Is(err, ErrCorrupt) {
			failed++
		} else if err != nil {
			t.Errorf("work: %v", err)
		}
	}
	v, err := ts.mem.Get(context.Background(), []byte{'w', 0}, []byte{'w', 1}, []byte{'w', 2}, testHeadKey(5))
	if err != nil || failed != 1 || v[0] == nil || v[1] != nil || v[2] == nil || v[3] == nil {
		t.Fatalf("%d works failed; the store has %v, %v", failed, v, err)
	}
	ts.create(6)
	ts.sync()
}

// TestGroupIsWrittenAgainAfterAPassingError fails one call of a group's flush, and
// expects all that was changed and nothing else in the store.
func TestGroupIsWrittenAgainAfterAPassingError(t *testing.T) {
	for n := range 6 {
		for _, op := range []store.Op{store.OpPut, store.OpCommit} {
			t.Run(fmt.Sprint("op=", op, ",call=", n), func(t *testing.T) {
				t.Parallel()
				defer recoverModel()
				ts := newTestSpace(t, Options{CacheBytes: 64 << 10})
				m := newFileModel(t, ts, rand.New(rand.NewSource(int64(n))), 20, 3*RecordBytes)
				tree := &treeModel{t: t, ts: ts, want: map[string][]byte{}}
				round := func() {
					for range 30 {
						m.step()
						tree.change(m.rnd, 300, true)
					}
				}
				round()
				ts.sync()
				round()
				ts.fault.FailOnce(op, n%3, []error{store.ErrFull, store.ErrRetry}[n/3])
				for ts.SyncAll(context.Background()) != nil {
					time.Sleep(50 * time.Millisecond)
				}
				ts.fault.Heal()
				round()
				m.whole()
				ts.check()
				ts.reopen()
				m.whole()
				tree.list(m.rnd, "")
				ts.check()
			})
		}
	}
}

// TestGroupsStayWithinTheLimits makes small operations that drop and share many
// references. A batch that is too big would end all commits.
func TestGroupsStayWithinTheLimits(t *testing.T) {
	mem := store.NewMemory(store.Superblock{Version: 1, UUID: store.NewUUID()})
	l := store.MemoryLimits
	l.BatchRecords = opRecords + groupRecords + 2000
	mem.SetLimits(l)
	ts := openTestSpace(t, mem, Options{})
	const records, files = 8000, 40
	data := make([]byte, MaxInlineValue+1)
	at := func(off uint64) func(*DB) uint64 { return func(*DB) uint64 { return off } }
	touch := func(*DB) error { return nil }
	ctx := context.Background()
	ts.create(20)
	for i := range uint64(records) {
		if _, err := ts.Write(ctx, ts.live(20), data, at(i*RecordBytes), touch); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			ts.snapshot()
		}
	}
	const part = records / files
	for i := range uint64(files) {
		ts.create(21 + i)
		n := uint64(part * RecordBytes)
		if i == files-1 {
			n = (part-1)*RecordBytes + MaxInlineValue + 1
		}
		if _, err := ts.Clone(ctx, ts.live(20), i*part*RecordBytes, ts.live(21+i), 0, n, touch); err != nil {
			t.Fatalf("clone %d: %v", i, err)
		}
	}
	ts.check()
	for i := range uint64(files) {
		ts.update(func(tx *Tx) error {
			db, err := tx.DB(ts.live(21 + i))
			if err != nil {
				return err
			}
			return db.Truncate(0)
		})
	}
	ts.check()
}

// Whoever asks for room while somebody else asks the store waits for the answer:
// nobody is told of a full store that was never looked at.
func TestRoomIsWhatTheStoreSays(t *testing.T) {
	var s Space
	s.o = Options{}.withDefaults()
	s.space.free = func(context.Context) (uint64, error) {
		time.Sleep(5 * time.Millisecond)
		return 1 << 40, nil
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if err := s.Room(context.Background(), 100); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}
