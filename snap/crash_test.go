package snap

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// shortScript does some of everything that makes work for the reclaimer, and waits
// for it. It goes on after errors, and returns main's highest inode number.
func shortScript(ctx context.Context, v *Volume) uint64 {
	m := v.Main()
	s := &scenario{ctx: ctx, v: v, files: map[*View][]uint64{}}
	create := func(w *View) uint64 {
		s.create(w)
		if n := len(s.files[w]); n > 0 {
			return s.files[w][n-1]
		}
		return 0
	}
	write := func(w *View, ino, off uint64, n int) {
		v.Space().Write(ctx, w.Key(ino), make([]byte, n), func(*dcdb.DB) uint64 { return off }, func(*dcdb.DB) error { return nil })
		if off%2 == 0 {
			v.Space().SyncAll(ctx)
		}
	}
	remove := func(w *View, ino uint64) {
		v.Space().Update(ctx, func(tx *dcdb.Tx) error {
			db, err := tx.DB(w.Key(ino))
			if err == nil {
				db.Delete()
			}
			return err
		})
	}
	fork := func(w *View, name string) *View {
		f, err := v.CreateFork(ctx, w, name)
		if err != nil {
			return m
		}
		return f
	}
	small, shared := create(m), create(m)
	write(m, small, 0, 100)
	write(m, shared, 0, 200_000)
	large := create(m)
	for i := range uint64(300) { // more than fits its head: dropped as a tree
		write(m, large, i*dcdb.RecordBytes+1, 10)
	}
	v.CreateSnapshot(ctx, m, "a")
	write(m, small, 50, 5000)
	clone := create(m)
	last := max(small, shared, large, clone)
	v.Space().Clone(ctx, m.Key(shared), 0, m.Key(clone), 0, 200_000, func(*dcdb.DB) error { return nil })
	p := fork(m, "p")
	write(p, small, 0, 300)
	write(p, shared, 0, 4096)
	own := create(p)
	write(p, own, 0, 70_000)
	v.CreateSnapshot(ctx, p, "pa")
	write(p, own, 5, 70_000)
	g := fork(p, "g")
	write(p, own, 9, 10)
	v.CreateSnapshot(ctx, p, "pb")
	write(g, own, 0, 20_000)
	remove(g, small)
	v.CreateSnapshot(ctx, g, "ga")
	remove(m, large)
	v.CreateSnapshot(ctx, m, "b")
	write(m, shared, 100_000, 50_000)
	v.RenameFork(ctx, p, "g", m, "g")
	v.DeleteFork(ctx, m, "p") // has g left: it is merged
	v.DeleteSnapshot(ctx, m, "a")
	write(g, own, 30_000, 20_000)
	v.DeleteSnapshot(ctx, g, "ga")
	v.WaitIdle(ctx)
	write(g, shared, 0, 10)
	v.DeleteSnapshot(ctx, m, "b")
	v.DeleteFork(ctx, m, "g")
	v.WaitIdle(ctx)
	return last
}

// emptied deletes all there is in a volume, and returns what is left in its store.
func emptied(t *testing.T, st store.Store, v *Volume, last uint64) (left []string) {
	ctx, m := context.Background(), v.Main()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range v.Forks(m) {
		must(v.DeleteForks(ctx, m, f.Name()))
	}
	for _, s := range v.Snapshots(m) {
		must(v.DeleteSnapshot(ctx, m, s.Name()))
	}
	for ino := uint64(firstIno); ino <= last; ino++ {
		err := v.Space().Update(ctx, func(tx *dcdb.Tx) error {
			db, err := tx.DB(m.Key(ino))
			if err == nil {
				db.Delete()
			}
			return err
		})
		if !errors.Is(err, dcdb.ErrNotExist) {
			must(err)
		}
	}
	must(v.WaitIdle(ctx))
	ids, err := st.List(ctx, store.ID{}, 10)
	must(err)
	for _, id := range ids {
		left = append(left, fmt.Sprint("object ", id))
	}
	must(scan(ctx, st, nil, func(k, val []byte) error {
		switch k[0] {
		case keyVolume, keyViews:
			return nil
		case keyFork:
			if k[8] == mainFork {
				return nil
			}
		case keyHead, keyIndex:
			if ino := k[len(k)-1]; ino == RootIno || ino == OrphanIno {
				return nil
			}
		}
		left = append(left, fmt.Sprintf("record %x", k))
		return nil
	}))
	return left
}

// TestCrashAtEveryStoreCall ends the process at each call that changes the store,
// in a script that reclaims. What the next one finds is sound; it finishes what was
// half done, and when all is deleted nothing is left.
func TestCrashAtEveryStoreCall(t *testing.T) {
	ctx := context.Background()
	crashes := 0
	for n := 0; ; n++ {
		mem := store.NewMemory(store.Superblock{Version: store.FormatVersion, UUID: store.NewUUID()})
		fault := store.NewFault(mem)
		o := Options{CommitInterval: time.Hour, atOnce: 2}
		v, err := Open(ctx, fault, o)
		if err != nil {
			t.Fatal(err)
		}
		fault.FailAfter(store.OpWrites, n, store.ErrInjected)
		last := shortScript(ctx, v)
		done := fault.Failed() == 0
		v.Close(ctx)
		for _, keep := range append(mem.Undurable(), 0) {
			crashed := mem.CrashAt(keep)
			r, err := check(ctx, crashed, CheckOptions{Contents: true})
			if err != nil || len(r.Problems) > 0 {
				t.Fatalf("crash at call %d: %v\n%v", n, err, r.Problems)
			}
			v, err := Open(ctx, crashed, o)
			if err != nil {
				t.Fatalf("crash at call %d: %v", n, err)
			}
			if err := v.WaitIdle(ctx); err != nil {
				t.Fatalf("crash at call %d: %v", n, err)
			}
			sound(t, v, CheckOptions{Contents: true})
			if left := emptied(t, crashed, v, last); len(left) > 0 {
				t.Fatalf("crash at call %d: all is deleted, and %d things are left: %v", n, len(left), left)
			}
			if err := v.Close(ctx); err != nil {
				t.Fatal(err)
			}
			crashes++
		}
		if done {
			break
		}
	}
	t.Logf("%d crashes", crashes)
}
