package snap

import (
	"bytes"
	"context"
	"testing"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// TestTruncatedFileIsTrimmedAfterACrash: a crash at the end of each group of a
// truncate that takes several; nobody opens the file afterwards.
func TestTruncatedFileIsTrimmedAfterACrash(t *testing.T) {
	const records = 3000
	ctx := context.Background()
	mem := store.NewMemory(store.Superblock{Version: store.FormatVersion, UUID: store.NewUUID()})
	limits := store.MemoryLimits
	limits.BatchRecords = 4500 // a step or two of the trimmer fill a group
	mem.SetLimits(limits)
	fault := store.NewFault(mem)
	v, err := Open(ctx, fault, Options{CommitInterval: time.Millisecond, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	m := v.Main()
	var ino uint64
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	update := func(fn func(tx *dcdb.Tx) error) {
		t.Helper()
		must(v.space.Update(ctx, fn))
	}
	update(func(tx *dcdb.Tx) error {
		ino = m.NewIno()
		tx.Create(m.Key(ino), dcdb.Attr{Mode: 0o100644, Nlink: 1})
		return nil
	})
	for r := range uint64(records) {
		_, err := v.space.Write(ctx, m.Key(ino), bytes.Repeat([]byte("dcfs"), 1000), func(*dcdb.DB) uint64 { return r * dcdb.RecordBytes }, func(*dcdb.DB) error { return nil })
		must(err)
	}
	must(v.WaitIdle(ctx))
	full, err := mem.List(ctx, store.ID{}, 2*records)
	must(err)

	var crashed []*store.Memory
	fault.Before(func(op store.Op) {
		if op == store.OpBarrier {
			crashed = append(crashed, mem.CrashAt(mem.LastGroup()))
		}
	})
	update(func(tx *dcdb.Tx) error {
		db, err := tx.DB(m.Key(ino))
		if err != nil {
			return err
		}
		return db.Truncate(dcdb.RecordBytes)
	})
	must(v.WaitIdle(ctx))
	fault.Before(nil)
	must(v.Close(ctx))

	between := 0
	for i, st := range append(crashed, mem.Reopen()) {
		recs, err := st.Scan(ctx, key(keyExcess), after(key(keyExcess)), 10)
		must(err)
		between += len(recs)
		look(t, st, ino)
		v, err := Open(ctx, st, Options{CommitInterval: time.Millisecond, Log: t.Logf})
		must(err)
		must(v.WaitIdle(ctx))
		sound(t, v, CheckOptions{Contents: true})
		must(v.Close(ctx))
		ids, err := st.List(ctx, store.ID{}, 2*records)
		must(err)
		if len(ids) > 5 {
			t.Errorf("crash %d: %d objects of %d are left", i, len(ids), len(full))
		}
		if recs, err = st.Scan(ctx, key(keyExcess), after(key(keyExcess)), 10); err != nil || len(recs) > 0 {
			t.Errorf("crash %d: %d files are to be trimmed, %v", i, len(recs), err)
		}
	}
	t.Logf("%d crashes, %d of them with the file's end there", len(crashed), between)
	if between == 0 {
		t.Error("no crash left anything to trim")
	}
}

// look opens a volume for a look at it, reads a file, and wants the volume as it was.
func look(t *testing.T, st *store.Memory, ino uint64) {
	t.Helper()
	ctx, before := context.Background(), st.LastGroup()
	v, err := Open(ctx, st, Options{Still: true, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.space.Read(ctx, v.Main().Key(ino), make([]byte, 10), 0); err != nil {
		t.Fatal(err)
	}
	n := v.space.Trimming()
	if err := v.Close(ctx); err != nil || n > 0 || st.LastGroup() != before {
		t.Errorf("after a look, %v: %d files are being trimmed, the last group is %d, was %d", err, n, st.LastGroup(), before)
	}
}
