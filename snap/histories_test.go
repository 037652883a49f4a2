package snap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// history is a volume that a test tells a short history.
type history struct {
	t      *testing.T
	ctx    context.Context
	st     *store.Memory
	v      *Volume
	o      Options
	now    func() time.Time // nil: the true one
	cancel context.CancelFunc

	wrap func(store.Store) store.Store // what the volume sees of st
}

func newHistory(t *testing.T) *history {
	h := &history{t: t, o: Options{CommitInterval: time.Millisecond, Log: t.Logf}}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	t.Cleanup(h.cancel)
	h.st = store.NewMemory(store.Superblock{Version: store.FormatVersion, UUID: store.NewUUID()})
	h.open()
	return h
}

func (h *history) open() {
	h.t.Helper()
	var st store.Store = h.st
	if h.wrap != nil {
		st = h.wrap(st)
	}
	h.o.Now = h.now
	v, err := Open(h.ctx, st, h.o)
	h.must(err)
	h.v = v
	h.t.Cleanup(func() { v.stop() })
}

func (h *history) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// create makes a file of one object: what marks it is in its first bytes.
func (h *history) create(w *View, mark string) uint64 {
	h.t.Helper()
	var ino uint64
	h.must(h.v.space.Update(h.ctx, func(tx *dcdb.Tx) error {
		ino = w.NewIno()
		tx.Create(w.Key(ino), dcdb.Attr{Mode: 0o100644, Nlink: 1})
		return nil
	}))
	h.write(w, ino, mark)
	return ino
}

func (h *history) write(w *View, ino uint64, mark string) {
	h.t.Helper()
	data := make([]byte, 64<<10)
	copy(data, mark)
	_, err := h.v.space.Write(h.ctx, w.Key(ino), data, func(*dcdb.DB) uint64 { return 0 }, func(*dcdb.DB) error { return nil })
	h.must(err)
}

func (h *history) remove(w *View, ino uint64) {
	h.t.Helper()
	h.must(h.v.space.Update(h.ctx, func(tx *dcdb.Tx) error {
		db, err := tx.DB(w.Key(ino))
		if err == nil {
			db.Delete()
		}
		return err
	}))
}

// want checks what a view shows of a file; "" is nothing.
func (h *history) want(w *View, ino uint64, mark string) {
	h.t.Helper()
	buf := make([]byte, 20)
	n, err := h.v.space.Read(h.ctx, w.Key(ino), buf, 0)
	if mark == "" {
		if !errors.Is(err, dcdb.ErrNotExist) {
			h.t.Fatalf("inode %d in %q: %v, want none", ino, w.Name(), err)
		}
		return
	}
	if got := string(bytes.TrimRight(buf[:n], "\x00")); err != nil || got != mark {
		h.t.Fatalf("inode %d in %q: %q, %v; want %q", ino, w.Name(), got, err, mark)
	}
}

func (h *history) snapshot(w *View, name string) *View {
	h.t.Helper()
	s, err := h.v.CreateSnapshot(h.ctx, w, name)
	h.must(err)
	return s
}

func (h *history) fork(w *View, name string) *View {
	h.t.Helper()
	f, err := h.v.CreateFork(h.ctx, w, name)
	h.must(err)
	return f
}

func (h *history) dropSnapshot(w *View, name string) {
	h.t.Helper()
	h.must(h.v.DeleteSnapshot(h.ctx, w, name))
	h.idle()
}

func (h *history) dropFork(w *View, name string) {
	h.t.Helper()
	h.must(h.v.DeleteFork(h.ctx, w, name))
	h.idle()
}

func (h *history) idle() {
	h.t.Helper()
	for range 5000 {
		h.must(h.v.space.SyncAll(h.ctx))
		ok, err := h.v.Idle(h.ctx)
		h.must(err)
		if ok {
			return
		}
		time.Sleep(time.Millisecond)
	}
	b, _ := h.v.Backlog(h.ctx)
	h.t.Fatalf("reclamation does not end: %+v", b)
}

// objects checks how many contents the store has.
func (h *history) objects(want int) {
	h.t.Helper()
	h.idle()
	ids, err := h.st.List(h.ctx, store.ID{}, 1000)
	h.must(err)
	n := 0
	for _, id := range ids {
		if id.Len == 64<<10 {
			n++
		}
	}
	if n != want {
		h.t.Fatalf("%d contents in the store, want %d: %v", n, want, ids)
	}
}

// records checks how many records of a kind there are.
func (h *history) records(kind byte, want int) {
	h.t.Helper()
	h.idle()
	n := 0
	h.must(scan(h.ctx, h.st, key(kind), func(k, val []byte) error { n++; return nil }))
	if n != want {
		h.t.Fatalf("%d records %q, want %d", n, kind, want)
	}
}

// clone makes a file share the contents of another.
func (h *history) clone(src *View, from uint64, dst *View, to uint64) {
	h.t.Helper()
	_, err := h.v.space.Clone(h.ctx, src.Key(from), 0, dst.Key(to), 0, 64<<10, func(*dcdb.DB) error { return nil })
	h.must(err)
}

// The histories of RULES.md, by their numbers there.

func TestHistoryR1CloneBackFromASnapshot(t *testing.T) {
	h := newHistory(t)
	m := h.v.Main()
	i := h.create(m, "A")
	s1 := h.snapshot(m, "1")
	h.write(m, i, "B")
	h.must(h.v.space.SyncAll(h.ctx))
	h.clone(s1, i, m, i)
	h.want(m, i, "A")
	h.dropSnapshot(m, "1")
	h.want(m, i, "A")
	h.objects(1)
	h.remove(m, i)
	h.objects(0)
	h.records(keyExtra, 0)
}

func TestHistoryR2ASharedSlotHasItsOwnSince(t *testing.T) {
	h := newHistory(t)
	m := h.v.Main()
	i := h.create(m, "A")
	s1 := h.snapshot(m, "1")
	h.remove(m, i)
	h.snapshot(m, "2")
	j := h.create(m, "x")
	h.clone(s1, i, m, j)
	h.dropSnapshot(m, "1")
	h.want(m, j, "A")
	h.remove(m, j)
	h.objects(0) // snapshot 2 never showed A

	// And with the live state cut off.
	k := h.create(m, "A")
	f := h.fork(m, "f")
	h.snapshot(f, "1")
	l := h.create(f, "x")
	h.clone(f, k, f, l)
	h.want(f, l, "A")
	h.dropFork(m, "f")
	h.want(m, k, "A")
	h.remove(m, k)
	h.objects(0)
	h.records(keyExtra, 0)
}

func TestHistoryR7CloneFromAnotherFork(t *testing.T) {
	h := newHistory(t)
	m := h.v.Main()
	i := h.create(m, "x")
	f := h.fork(m, "f")
	h.write(f, i, "A")
	s := h.snapshot(f, "1")
	h.clone(s, i, m, i)
	h.dropFork(m, "f")
	h.want(m, i, "A")
	h.objects(1)
	h.remove(m, i)
	h.objects(0)
}

func TestHistoryR3LastSnapshotOfAForkWithoutLiveState(t *testing.T) {
	h := newHistory(t)
	m := h.v.Main()
	f := h.fork(m, "f")
	i := h.create(f, "A")
	s1 := h.snapshot(f, "1")
	g := h.fork(s1, "g")
	h.must(h.v.RenameFork(h.ctx, f, "g", m, "g"))
	h.write(f, i, "B")
	h.snapshot(f, "2")
	h.dropFork(m, "f") // cut at 1: the death of A no longer happened
	h.want(g, i, "A")
	h.objects(1)
	h.dropFork(m, "g") // the second cut: A and the head go, once
	h.objects(0)
	h.records(keyHead, 2)
	h.records(keySaved, 0)
	h.records(keyDead, 0)
	h.records(keySum, 0)
}

func TestHistoryR4DeletedStaysDeleted(t *testing.T) {
	h := newHistory(t)
	m := h.v.Main()
	i := h.create(m, "A")
	f := h.fork(m, "f")
	h.write(m, i, "B")
	h.snapshot(m, "2")
	h.remove(m, i)
	h.dropSnapshot(m, "2")
	h.want(m, i, "") // the head saved for the fork must not shine through
	h.want(f, i, "A")
	h.dropFork(m, "f")
	h.want(m, i, "")
	h.records(keyHead, 2) // and no tombstone stays for ever
	h.records(keySaved, 0)
	h.objects(0)
}

// Two forks give the same number to two inodes. One is saved in the group that
// takes the other's last saved head away.
func TestTombstoneGoesThoughAnotherForkSavesItsNumber(t *testing.T) {
	h := newHistory(t)
	m := h.v.Main()
	f := h.fork(m, "f")
	i := h.create(m, "A")
	if j := h.create(f, "B"); i != j {
		t.Fatalf("inodes %d and %d, want one number", i, j)
	}
	h.snapshot(m, "gone")
	h.snapshot(f, "keep")
	h.remove(m, i)
	h.must(h.v.space.SyncAll(h.ctx))

	h.v.stop() // the reclaimer: its step is ours
	<-h.v.done
	h.must(h.v.DeleteSnapshot(h.ctx, m, "gone"))
	h.write(f, i, "C")
	for len(h.v.tasks) > 0 {
		h.must(h.v.snapshotStep(h.ctx, h.v.tasks[0]))
	}
	h.want(f, i, "C")
	h.records(keyHead, 3) // root, orphans and f's inode
	h.records(keyIndex, 4)
}

func TestHistoryR5DeletedSnapshotLeavesTheKeptSetAtOnce(t *testing.T) {
	h := newHistory(t)
	m := h.v.Main()
	i := h.create(m, "A")
	h.snapshot(m, "1")
	h.must(h.v.DeleteSnapshot(h.ctx, m, "1"))
	h.remove(m, i) // whether the reclaim has run or not, nothing needs A
	h.objects(0)
	h.records(keyDead, 0)
}

func TestHistoryR6ObjectsAheadOfTheirGroupAreErasedAfterACrash(t *testing.T) {
	h := newHistory(t)
	m := h.v.Main()
	h.create(m, "A")
	h.must(h.v.space.SyncAll(h.ctx))
	if _, err := h.st.Put(h.ctx, h.st.LastGroup()+1, store.KindContent, [][]byte{make([]byte, 64<<10)}); err != nil {
		t.Fatal(err)
	}
	h.st = h.st.Crash()
	h.open()
	h.objects(1)
}

func TestHistoryR9ForkKeepsWhatTheParentDeletes(t *testing.T) {
	h := newHistory(t)
	m := h.v.Main()
	i := h.create(m, "A")
	f := h.fork(m, "f")
	h.remove(m, i)
	h.want(m, i, "")
	h.want(f, i, "A")
	h.objects(1)
}

func TestHistoryR10MiddleSnapshotDeletedOlderStaysReadable(t *testing.T) {
	h := newHistory(t)
	m := h.v.Main()
	i := h.create(m, "1")
	s1 := h.snapshot(m, "1")
	h.write(m, i, "2")
	h.snapshot(m, "2")
	h.write(m, i, "3")
	h.dropSnapshot(m, "2")
	h.want(s1, i, "1")
	h.want(m, i, "3")
	h.objects(2)
}

func TestHistoryR11InodeNumbersAreNeverGivenTwice(t *testing.T) {
	h := newHistory(t)
	m := h.v.Main()
	s := h.snapshot(m, "1")
	a := h.create(m, "A")
	f := h.fork(s, "f")
	if b := h.create(f, "B"); b <= a {
		t.Fatalf("the fork gives out %d, main had given out %d before", b, a)
	}
	h.want(s, a, "")
}

func TestForkOfForkOfSnapshotTenLevelsDeep(t *testing.T) {
	h := newHistory(t)
	w := h.v.Main()
	i := h.create(w, "0")
	var views []*View
	for d := 1; d <= 10; d++ {
		s := h.snapshot(w, "s")
		w = h.fork(s, "f")
		h.want(w, i, fmt.Sprint(d-1))
		h.write(w, i, fmt.Sprint(d))
		views = append(views, s, w)
	}
	check := func() {
		t.Helper()
		for n, w := range views {
			if w.Err() == nil {
				h.want(w, i, fmt.Sprint((n+1)/2))
			}
		}
	}
	check()
	// Every other snapshot goes, then every other origin, by way of the names.
	for n := 0; n < len(views); n += 4 {
		s := views[n]
		h.dropSnapshot(s.Live(), "s")
		check()
	}
	h.must(h.v.Close(h.ctx))
	h.st = h.st.Reopen()
	h.open()
	w = h.v.Main()
	for d := range 10 {
		h.want(w, i, fmt.Sprint(d))
		var err error
		w, err = h.v.Fork(w, "f")
		h.must(err)
	}
	h.want(w, i, "10")
}

func TestForksAreDeletedWithAllBelowThem(t *testing.T) {
	h := newHistory(t)
	m := h.v.Main()
	i := h.create(m, "A")
	f := h.fork(m, "f")
	h.write(f, i, "F")
	s := h.snapshot(f, "s")
	g := h.fork(f, "g")
	h.write(g, i, "G")
	k := h.fork(s, "k")
	h.write(k, i, "K")
	e := h.fork(g, "elsewhere")
	h.must(h.v.RenameFork(h.ctx, g, "elsewhere", m, "elsewhere"))
	if err := h.v.DeleteFork(h.ctx, m, "f"); !errors.Is(err, ErrNotEmpty) {
		t.Fatalf("delete of a fork that lists others: %v", err)
	}
	h.must(h.v.DeleteForks(h.ctx, m, "f"))
	for _, w := range []*View{f, s, g, k} {
		if w.Err() == nil {
			t.Errorf("a view of fork %d is still there", w.fork.id)
		}
	}
	h.want(e, i, "G")
	h.want(m, i, "A")
	h.objects(2)
	sound(t, h.v, CheckOptions{})
	h.dropFork(m, "elsewhere")
	h.objects(1)
}

func TestSnapshotAndForkWriteFewRecords(t *testing.T) {
	for _, files := range []int{10, 3000} {
		h := newHistory(t)
		counting := store.NewCounting(h.st)
		h.must(h.v.Close(h.ctx))
		v, err := Open(h.ctx, counting, Options{CommitInterval: time.Hour})
		h.must(err)
		h.v = v
		t.Cleanup(v.stop)
		m := v.Main()
		var inos []uint64
		for range files {
			h.must(v.space.Update(h.ctx, func(tx *dcdb.Tx) error {
				ino := m.NewIno()
				inos = append(inos, ino)
				tx.Create(m.Key(ino), dcdb.Attr{Mode: 0o100644, Nlink: 1})
				return nil
			}))
		}
		h.must(v.space.SyncAll(h.ctx))
		count := func(what string, most int64, fn func()) {
			t.Helper()
			changed := func() int64 { return counting.RecordsPut.Load() + counting.RecordsDeleted.Load() }
			before := changed()
			fn()
			if n := changed() - before; n > most {
				t.Errorf("%s in a volume of %d files writes %d records, want at most %d", what, files, n, most)
			}
		}
		count("snapshot", 4, func() { h.snapshot(m, "a") })
		count("fork", 5, func() { h.fork(m, "b") })
		count("first change after a snapshot", 6, func() {
			h.must(v.space.Update(h.ctx, func(tx *dcdb.Tx) error {
				db, err := tx.DB(m.Key(inos[5]))
				if err == nil {
					db.Edit().Mode = 0o100600
				}
				return err
			}))
			h.must(v.space.SyncAll(h.ctx))
		})
	}
}

func TestHistoryR8NamelessForksKeepNothingThatNobodySees(t *testing.T) {
	h := newHistory(t)
	const files = 20
	m := h.v.Main()
	var inos []uint64
	f := h.fork(m, "f")
	for i := range files {
		inos = append(inos, h.create(f, fmt.Sprint(i)))
	}
	// Fork the last one, overwrite everything in it, delete the last one.
	for gen := range 12 {
		name := fmt.Sprint("g", gen)
		s := h.snapshot(f, "s")
		g := h.fork(s, name)
		h.must(h.v.RenameFork(h.ctx, f, name, m, name))
		// A child of the last one keeps some of it for a while.
		var side *View
		if gen%3 == 1 {
			side = h.fork(s, "side")
			h.must(h.v.RenameFork(h.ctx, f, "side", m, "side"))
		}
		for i, ino := range inos {
			h.write(g, ino, fmt.Sprint(gen, " ", i))
		}
		h.snapshot(g, "mine")
		h.write(g, inos[0], fmt.Sprint(gen, " 0"))
		h.must(h.v.DeleteFork(h.ctx, m, f.Name()))
		if side != nil {
			h.idle()
			h.want(side, inos[3], fmt.Sprint(gen-1, " 3"))
			h.dropFork(m, "side")
		}
		h.dropSnapshot(g, "mine")
		h.objects(files)
		sound(t, h.v, CheckOptions{})
		f = g
	}
	var forks int
	h.v.space.Locked(func() { forks = len(h.v.forks) })
	if forks != 2 {
		t.Errorf("%d forks are left, nameless ones among them, want 2", forks)
	}
	h.must(h.v.Close(h.ctx))
	h.st = h.st.Reopen()
	h.open()
	m = h.v.Main()
	f, err := h.v.Fork(m, "g11")
	h.must(err)
	for i, ino := range inos {
		h.want(f, ino, fmt.Sprint("11 ", i))
	}
	h.dropFork(m, "g11")
	h.objects(0)
	h.records(keyHead, 2)
	h.records(keyIndex, 2)
	h.records(keySaved, 0)
}
