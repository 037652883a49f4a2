package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dcfs/dcdb/store"
)

// fillRecords commits n records of size bytes each, a hundred to a group, and
// an object of 4 KiB for each of the groups.
func fillRecords(t *testing.T, s *Store, n, size int) (ids []store.ID) {
	t.Helper()
	g := s.LastGroup() + 1
	if g < s.FirstGroup() {
		g = s.FirstGroup()
	}
	for i := 0; i < n; g++ {
		ids = append(ids, must(s.Put(ctx, g, store.KindContent, [][]byte{data(byte(i), 4<<10)}))(t)...)
		b := &store.Batch{Group: g, Fence: s.Fence()}
		for end := min(i+100, n); i < end; i++ {
			b.Puts = append(b.Puts, store.Record{Key: fmt.Appendf(nil, "k/%08d", i), Value: data(byte(i), size)})
		}
		if err := s.Commit(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	barrier(t, s)
	return ids
}

// deleteRecords deletes records from .. to and objects.
func deleteRecords(t *testing.T, s *Store, from, to int, ids []store.ID) {
	t.Helper()
	for i := from; i < to; {
		b := &store.Batch{Group: s.LastGroup() + 1, Fence: s.Fence()}
		for end := min(i+1000, to); i < end; i++ {
			b.Deletes = append(b.Deletes, fmt.Appendf(nil, "k/%08d", i))
		}
		if err := s.Commit(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(ctx, ids); err != nil {
		t.Fatal(err)
	}
	barrier(t, s)
}

// wantRecords checks which of n records are there.
func wantRecords(t *testing.T, s *Store, n, size int, there func(i int) bool) {
	t.Helper()
	for i := range n {
		v := must(s.Get(ctx, fmt.Appendf(nil, "k/%08d", i)))(t)[0]
		if there(i) && string(v) != string(data(byte(i), size)) || !there(i) && v != nil {
			t.Fatalf("record %d: %d bytes, there: %v", i, len(v), there(i))
		}
	}
}

func TestCompactGivesBackWhatWasDeleted(t *testing.T) {
	dir := t.TempDir()
	records := filepath.Join(dir, recordsName)
	o := Options{ReserveBytes: 1 << 20, Log: t.Logf} // memtables of the usual size
	s := must(Create(dir, o))(t)
	const n, size = 100_000, 4000
	ids := fillRecords(t, s, n, size)
	full := diskUsage(records)
	deleteRecords(t, s, 0, n/2, ids[:len(ids)/2])
	began := time.Now()
	if err := s.Compact(ctx); err != nil {
		t.Fatal(err)
	}
	half, took := diskUsage(records), time.Since(began)
	wantRecords(t, s, n, size, func(i int) bool { return i >= n/2 })
	deleteRecords(t, s, n/2, n, ids[len(ids)/2:])
	began = time.Now()
	if err := s.Compact(ctx); err != nil {
		t.Fatal(err)
	}
	empty := diskUsage(records)
	t.Logf("%d records of %d bytes: %d MiB; half of them %d MiB, in %v; none %d MiB, in %v",
		n, size, full>>20, half>>20, took, empty>>20, time.Since(began))
	if half > full*2/3 || empty > 64<<20 {
		t.Error("too little was given back")
	}
	if u := must(s.Usage(ctx))(t); u.UsedBytes > 65<<20 {
		t.Errorf("Usage says %d MiB", u.UsedBytes>>20)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = must(Open(dir, o))(t)
	defer s.Close()
	if rs := must(s.Scan(ctx, nil, nil, 10))(t); len(rs) > 0 {
		t.Errorf("records are left: %d", len(rs))
	}
	if got := must(s.List(ctx, store.ID{}, 10))(t); len(got) > 0 {
		t.Errorf("objects are left: %v", got)
	}
}

func TestCompactionInTheBackground(t *testing.T) {
	dir := t.TempDir()
	records := filepath.Join(dir, recordsName)
	s := must(Create(dir, small(t)))(t)
	defer s.Close()
	const n, size = 20_000, 4000
	ids := fillRecords(t, s, n, size)
	full := diskUsage(records)
	deleteRecords(t, s, 0, n-100, ids)
	for end := time.Now().Add(30 * time.Second); diskUsage(records) > full/4; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			deleted, all := s.deleted()
			t.Fatalf("of %d MiB there are %d left; %d MiB count as deleted, tables have %d", full>>20, diskUsage(records)>>20, deleted>>20, all>>20)
		}
	}
	wantRecords(t, s, n, size, func(i int) bool { return i >= n-100 })
}

// TestCompactBesidesEverythingElse changes, reads and compacts at one time, and
// closes the store in the midst of it.
func TestCompactBesidesEverythingElse(t *testing.T) {
	dir := t.TempDir()
	s := must(Create(dir, small(t)))(t)
	const keys = 500
	key := func(i int) []byte { return fmt.Appendf(nil, "k/%08d", i) }
	var all sync.WaitGroup
	var stop atomic.Bool
	var committed, compacted atomic.Int64
	expected := func(err error) bool { return stop.Load() && errors.Is(err, store.ErrClosed) }
	all.Go(func() { // each round puts all keys with the round's number, or deletes them
		for g := s.FirstGroup(); ; g++ {
			b := &store.Batch{Group: g, Fence: s.Fence()}
			ids, err := s.Put(ctx, g, store.KindPage, [][]byte{data(1, 4000), data(2, 30_000)})
			for i := range keys {
				if g%3 == 0 {
					b.Deletes = append(b.Deletes, key(i))
				} else {
					b.Puts = append(b.Puts, store.Record{Key: key(i), Value: fmt.Appendf(data(3, 400), "%08d", g)})
				}
			}
			if err == nil {
				err = s.Commit(ctx, b)
			}
			if err == nil {
				err = s.Barrier(ctx)
			}
			if err == nil {
				committed.Store(int64(g))
				err = s.Delete(ctx, ids)
			}
			if err != nil {
				if !expected(err) {
					t.Errorf("group %d: %v", g, err)
				}
				return
			}
		}
	})
	all.Go(func() {
		for {
			vs, err := s.Get(ctx, key(0), key(keys/2), key(keys-1))
			if err != nil {
				if !expected(err) {
					t.Errorf("Get: %v", err)
				}
				return
			}
			if string(vs[0]) != string(vs[1]) || string(vs[1]) != string(vs[2]) {
				t.Error("records of one batch differ")
				return
			}
		}
	})
	for range 2 {
		all.Go(func() {
			for {
				if err := s.Compact(ctx); err != nil {
					if !expected(err) {
						t.Errorf("Compact: %v", err)
					}
					return
				}
				compacted.Add(1)
			}
		})
	}
	time.Sleep(2 * time.Second)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.Compact(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("Compact with a context that has ended: %v", err)
	}
	stop.Store(true)
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	all.Wait()
	t.Logf("%d groups, %d compactions", committed.Load(), compacted.Load())
	if compacted.Load() == 0 {
		t.Error("no compaction came to its end")
	}
	if err := s.Compact(ctx); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Compact of a closed store: %v", err)
	}
	s = must(Open(dir, small(t)))(t)
	defer s.Close()
	last := s.LastGroup()
	for i, v := range must(s.Get(ctx, key(0), key(keys-1)))(t) {
		if (v == nil) != (last%3 == 0) || v != nil && string(v[400:]) != fmt.Sprintf("%08d", last) {
			t.Errorf("record %d is not of group %d", i, last)
		}
	}
}

// A young volume has all tables in level 0.
func TestCompactOfAYoungVolume(t *testing.T) {
	dir := t.TempDir()
	s := must(Create(dir, small(t)))(t)
	defer s.Close()
	const n, size = 3000, 4000
	deleteRecords(t, s, 0, n, fillRecords(t, s, n, size))
	if err := s.Compact(ctx); err != nil {
		t.Fatal(err)
	}
	if left := diskUsage(filepath.Join(dir, recordsName)); left > 6<<20 {
		t.Errorf("%d MiB are left", left>>20)
	}
}

// TestFlattenIsStoppedBetweenItsSteps shows that Badger still tells before it
// begins one: how a compaction ends early and takes its time depends on it.
func TestFlattenIsStoppedBetweenItsSteps(t *testing.T) {
	s := must(Create(t.TempDir(), small(t)))(t)
	defer s.Close()
	var err error
	for range 10 { // Badger's own compactors may leave nothing to do
		fillRecords(t, s, 5000, 4000)
		ended, cancel := context.WithCancel(ctx)
		p := &pace{s: s, ctx: ended}
		if err := s.pushOut(p); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err = s.flatten(p); err != nil {
			break
		}
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := s.Compact(ctx); err != nil {
		t.Errorf("after it: %v", err)
	}
	wantRecords(t, s, 5000, 4000, func(int) bool { return true })
}

func TestCompactOnAFullDisk(t *testing.T) {
	disk := smallDisk(t, 256)
	o := small(t)
	o.ReserveBytes = 60 << 20
	dir := filepath.Join(disk, "store")
	s := must(Create(dir, o))(t)
	defer s.Close()
	const n, size = 6000, 4000
	ids := fillRecords(t, s, n, size)
	if err := s.Compact(ctx); err != nil { // so that Badger writes nothing while others fill the disk
		t.Fatal(err)
	}
	others := fillDisk(t, disk, 1<<20)
	s.space.look(0)
	deleteRecords(t, s, 0, n, ids)
	full := diskUsage(dir)
	err := s.Compact(ctx)
	t.Logf("%d MiB, after Compact %d MiB, %v", full>>20, diskUsage(dir)>>20, err)
	if err != nil && !errors.Is(err, store.ErrFull) {
		t.Error(err)
	}
	os.Remove(others)
	if err := s.Compact(ctx); err != nil {
		t.Errorf("when there is space: %v", err)
	}
	if left := diskUsage(filepath.Join(dir, recordsName)); left > 16<<20 {
		t.Errorf("%d MiB are left", left>>20)
	}
	wantRecords(t, s, n, size, func(int) bool { return false })
}

// TestDamagedTablesAreNotRewritten: what a compaction makes of one shows no
// more what was lost.
func TestDamagedTablesAreNotRewritten(t *testing.T) {
	s := must(Create(t.TempDir(), small(t)))(t)
	defer s.Close()
	s.damage.add(keyRange{from: []byte("rx"), to: []byte("ry")})
	if err := s.Compact(ctx); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}
