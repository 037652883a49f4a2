package inode

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
	"dcfs/snap"
)

// victim is something in a store that a test damages.
type victim struct {
	class string // of several that are alike
	key   []byte // of a record
	id    store.ID
	kind  store.Kind // of an object
	bytes int        // of its frame
}

// name is what an error or a line of a check must call it, in one of these ways.
func (d *victim) names() []string {
	if d.key == nil {
		return []string{d.id.String()}
	}
	return []string{fmt.Sprintf("%q", d.key), fmt.Sprintf("%x", d.key)}
}

func (d *victim) namedIn(text string) bool {
	return slices.ContainsFunc(d.names(), func(n string) bool { return strings.Contains(text, n) })
}

// String is what a tracer calls it.
func (d *victim) String() string { return d.names()[0] }

// flipClasses are the classes of victims that a world must have, besides those of
// the kinds that snap.Kinds names. A record's class is its kind, and what its value
// begins with where that says which sort it is.
var flipClasses = []string{
	"f1", "f2", // forks, and merged ones
	"n1", "n2", // snapshots, and counted ones
	"h1", "h2", "h4", "h12", // heads: deleted, inline, with a table, with an end to be dropped
	"s2", "s4", // saved heads
	"d1", "d2", "d4", // dead lists, by their first entry
	"r1", "r3", // tasks
	"content among the records", "content in a segment", "leaf", "inner page", "table node",
}

// recordClass returns a record's class.
func recordClass(r store.Record) string {
	class := string(r.Key[:1])
	switch {
	case strings.Contains("fn", class):
		return class + fmt.Sprint(r.Value[0])
	case strings.Contains("hsdr", class):
		return class + fmt.Sprint(r.Value[1])
	}
	return class
}

// tracer notes what is read of a store.
type tracer struct {
	store.Store

	mu   sync.Mutex
	read map[string]bool // guarded by mu; by names of victims
}

func (r *tracer) note(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.read == nil {
		r.read = map[string]bool{}
	}
	r.read[name] = true
}

// take returns what was read since the last take.
func (r *tracer) take() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	read := r.read
	r.read = nil
	return read
}

func (r *tracer) Read(ctx context.Context, id store.ID, kind store.Kind, off int, p []byte) error {
	r.note(id.String())
	return r.Store.Read(ctx, id, kind, off, p)
}

func (r *tracer) Get(ctx context.Context, keys ...[]byte) ([][]byte, error) {
	for _, k := range keys {
		r.note(fmt.Sprintf("%q", k))
	}
	return r.Store.Get(ctx, keys...)
}

func (r *tracer) Scan(ctx context.Context, from, to []byte, limit int) ([]store.Record, error) {
	recs, err := r.Store.Scan(ctx, from, to, limit)
	for _, rec := range recs {
		r.note(fmt.Sprintf("%q", rec.Key))
	}
	return recs, err
}

// flipWorld is a volume that has a record and an object of every class, and what
// its views show.
type flipWorld struct {
	mem     *store.Memory
	victims []victim
	shows   map[string]map[uint64]string          // by view and inode, what dumper.inode says
	needs   map[string]map[uint64]map[string]bool // ... and which victims that reads
	opening map[string]bool                       // what an open reads
	kept    uint64                                // a file of main that change leaves as it is
}

func openFixture(t testing.TB, st store.Store, still bool) (*fixture, error) {
	vol, err := snap.Open(bg, st, snap.Options{CommitInterval: time.Hour, Still: still})
	if err != nil {
		return nil, err
	}
	return &fixture{TB: t, vol: vol, fs: New(vol, Options{}), view: vol.Main()}, nil
}

// in returns x for another view.
func (x *fixture) in(v *snap.View, err error) *fixture {
	x.Helper()
	x.must(err)
	y := *x
	y.view = v
	return &y
}

// sparse makes a file whose tree has so many records.
func (x *fixture) sparse(path string, records int) uint64 {
	x.Helper()
	ino := x.create(path, "")
	for i := range records {
		x.write(ino, strings.Repeat(path, 500), uint64(i*dcdb.RecordBytes))
	}
	return ino
}

func (x *fixture) snapshot(name string) *snap.View {
	x.Helper()
	v, err := x.vol.CreateSnapshot(bg, x.view, name)
	x.must(err)
	return v
}

// populate makes what each view shows.
func (x *fixture) populate() {
	main, large := x.vol.Main(), strings.Repeat("large", 40_000)
	x.create("tiny", "tiny")
	x.create("small", strings.Repeat("small", 1500))
	big := x.create("big", large)
	x.sparse("tr", 600)
	x.mkdir("d")
	x.mkdir("d/e")
	for i := range 150 {
		x.must(x.link("tiny", fmt.Sprintf("d/%0200d", i)))
	}
	_, err := x.fs.Symlink(bg, main, snap.RootIno, "sym", root, strings.Repeat("t/", 2000))
	x.must(err)
	x.must(x.fs.Setxattr(bg, main, big, "user.small", []byte("x"), 0))
	x.must(x.fs.Setxattr(bg, main, big, "user.large", []byte(large[:60000]), 0))
	x.snapshot("s1")
	x.write(big, "changed", 70_000)
	x.must(x.link("tiny", "d/e/again"))
	copied := x.create("copied", "")
	_, err = x.fs.CopyRange(bg, main, big, 0, main, copied, 0, uint64(len(large)), root)
	x.must(err)
	gone := x.create("gone", "gone")
	s2 := x.snapshot("s2")
	x.must(x.unlink("gone"))
	x.must(x.fs.Forget(bg, main, gone))
	x.write(big, "changed", 0)
	x.snapshot("s3")
	size := uint64(100_000) // drops a record that was there since before s1
	_, err = x.fs.Setattr(bg, main, big, root, SetAttr{Size: &size})
	x.must(err)
	x.must(x.vol.Hold(bg, main, "s1", snap.DefaultTag))
	x.must(x.vol.SetSnapshotTTL(bg, main, "s1", time.Hour))
	p, err := snap.ParsePolicy("7d")
	x.must(err)
	x.must(x.vol.SetPolicy(bg, main, p))

	// A fork of a snapshot, and one that takes over its deleted parent's place.
	a := x.in(x.vol.CreateFork(bg, s2, "a"))
	a.write(big, "of a", 5)
	a.create("own", large)
	a.snapshot("1")
	a.write(a.ino("own"), "new", 3)
	b := x.in(x.vol.CreateFork(bg, main, "b"))
	for i := range 250 { // so many that merged's heads move to b's place
		b.create(fmt.Sprint("in b ", i), "")
	}
	merged := x.in(x.vol.CreateFork(bg, b.view, "merged"))
	merged.write(big, "merged", 9)
	x.must(x.vol.RenameFork(bg, b.view, "merged", main, "merged"))
	x.must(x.vol.DeleteFork(bg, main, "b"))
	x.must(x.vol.WaitIdle(bg))
	_, err = x.vol.Sizes(true).Snapshots(bg, main)
	x.must(err)
	x.snapshot("s4")
}

// leave leaves work to the background.
func (w *flipWorld) leave(x *fixture) {
	main := x.vol.Main()
	reader, err := x.fs.space.Freeze(bg, main.Key(snap.RootIno)) // and so nothing is erased
	x.must(err)
	defer reader.Close()
	x.must(x.vol.DeleteSnapshot(bg, main, "s3"))
	x.must(x.vol.RenameSnapshot(bg, main, "s4", "s5"))
	x.must(x.unlink("small"))
	un, over := x.sparse("un", 600), x.create("over", strings.Repeat("over", 50_000))
	x.create("orphan", "held open")
	x.must(x.unlink("orphan"))
	x.sparse("cu", 600)
	x.must(x.fs.SyncAll(bg))
	x.must(x.unlink("un"))
	x.must(x.fs.Forget(bg, main, un))
	x.write(over, strings.Repeat("free", 50_000), 0)
	size := uint64(5)
	_, err = x.fs.Setattr(bg, main, x.ino("cu"), root, SetAttr{Size: &size})
	x.must(err)
	f := x.in(x.vol.CreateFork(bg, main, "dropped"))
	f.create("in it", "some")
	f.snapshot("1")
	f.create("more", "some")
	f.snapshot("2")
	x.must(x.vol.DeleteFork(bg, main, "dropped"))
	w.kept = over
	_, err = x.fs.CopyRange(bg, main, over, 0, main, x.create("twin", ""), 0, 200_000, root)
	x.must(err)
	x.write(x.ino("big"), "the last", 0)
	x.must(x.vol.Close(bg))
}

func viewName(v *snap.View) string {
	if v.IsSnapshot() {
		return v.Live().Name() + "@" + v.Name()
	}
	return v.Name()
}

func newFlipWorld(t testing.TB) *flipWorld {
	mem := newMemory()
	x, err := openFixture(t, mem, false)
	if err != nil {
		t.Fatal(err)
	}
	x.populate()
	x.must(x.vol.Close(bg))
	mem = mem.Reopen()
	x, err = openFixture(t, mem, true)
	x.must(err)
	w := &flipWorld{}
	w.leave(x)
	w.mem = mem.Reopen()
	w.findVictims(x)
	w.trace(x)
	return w
}

func (w *flipWorld) findVictims(x *fixture) {
	recs, err := w.mem.Scan(bg, nil, nil, 1<<20)
	x.must(err)
	for _, r := range recs {
		w.victims = append(w.victims, victim{class: recordClass(r), key: r.Key, bytes: len(store.EncodeRecord(store.UUID{}, r.Key, r.Value))})
	}
	ids, err := w.mem.List(bg, store.ID{}, 1<<20)
	x.must(err)
	for _, id := range ids {
		d := victim{id: id, bytes: store.PrefixBytes(int(id.Len)) + int(id.Len)}
		p := make([]byte, id.Len)
		for d.kind = store.KindContent; w.mem.Read(bg, id, d.kind, 0, p) != nil; d.kind++ {
		}
		switch {
		case d.kind == store.KindTable:
			d.class = "table node"
		case d.kind == store.KindPage && p[0] == 0:
			d.class = "leaf"
		case d.kind == store.KindPage:
			d.class = "inner page"
		case id.Seg == 0:
			d.class = "content among the records"
		default:
			d.class = "content in a segment"
		}
		w.victims = append(w.victims, d)
	}
}

// trace writes down what each inode of each view is, and what that takes to read.
func (w *flipWorld) trace(x *fixture) {
	w.shows, w.needs = map[string]map[uint64]string{}, map[string]map[uint64]map[string]bool{}
	r := &tracer{Store: w.mem}
	open := func() []*snap.View {
		y, err := openFixture(x.TB, r, true)
		x.must(err)
		x.vol, x.fs = y.vol, y.fs
		return viewsOf(x.vol, x.vol.Main())
	}
	views := len(open())
	w.opening = r.take()
	x.must(x.vol.Close(bg))
	for i := range views {
		v := open()[i]
		name := viewName(v)
		d := &dumper{f: x.fs, v: v, seen: map[uint64]bool{snap.RootIno: true}, todo: []uint64{snap.RootIno}}
		x.must(d.orphans())
		w.shows[name], w.needs[name] = map[uint64]string{}, map[uint64]map[string]bool{}
		for i := 0; i < len(d.todo); i++ {
			_, err := d.inode(d.todo[i])
			x.must(err)
		}
		x.must(x.vol.Close(bg))
		for _, ino := range d.todo {
			d.v = open()[i]
			d.f = x.fs
			r.take()
			line, err := d.inode(ino)
			x.must(err)
			w.shows[name][ino], w.needs[name][ino] = line, r.take()
			x.must(x.vol.Close(bg))
		}
	}
}

// flipped is one run with something damaged.
type flipped struct {
	*flipWorld
	victim
	t   testing.TB
	at  int // which byte
	mem *store.Memory
}

func (f *flipped) errorf(format string, args ...any) {
	f.t.Helper()
	f.t.Errorf("%s %v, byte %d: %s", f.class, &f.victim, f.at, fmt.Sprintf(format, args...))
}

// eio reports whether err is the answer to damage.
func eio(err error) bool {
	return errors.Is(err, ErrIO) || errors.Is(translate(err), ErrIO)
}

// open opens the volume, or wants to know from the error what is damaged.
func (f *flipped) open(still bool) *fixture {
	x, err := openFixture(f.t, f.mem, still)
	if err == nil {
		return x
	}
	if !eio(err) || !f.namedIn(err.Error()) {
		f.errorf("open: %v", err)
	}
	if !f.opening[f.String()] && f.class != "e" {
		f.errorf("open reads nothing of it and fails: %v", err)
	}
	return nil
}

// read reads all that views show.
func (f *flipped) read(x *fixture, views []*snap.View) {
	for _, v := range views {
		d := &dumper{f: x.fs, v: v, seen: map[uint64]bool{}}
		for ino := range f.shows[viewName(v)] {
			f.readInode(d, ino)
		}
	}
}

func (f *flipped) readInode(d *dumper, ino uint64) {
	name := viewName(d.v)
	got, err := d.inode(ino)
	want, needed := f.shows[name][ino], f.needs[name][ino][f.String()]
	switch {
	case err == nil && got != want:
		f.errorf("inode %d of %s reads\n%.300s, it was\n%.300s", ino, name, got, want)
	case err == nil && needed && f.kind != store.KindContent: // of which some block may not be read
		f.errorf("inode %d of %s reads well", ino, name)
	case err != nil && !needed:
		f.errorf("inode %d of %s, which does not need it: %v", ino, name, err)
	case err != nil && !eio(err):
		f.errorf("inode %d of %s: %v is no EIO", ino, name, err)
	}
}

// needed reports whether some view shows it: what is dropped and not yet erased
// nobody reads.
func (f *flipped) needed() bool {
	for _, inos := range f.needs {
		for _, reads := range inos {
			if reads[f.String()] {
				return true
			}
		}
	}
	return false
}

// check wants a line that names what is damaged.
func (f *flipped) check(x *fixture) {
	var lines []string
	note := func(line string) { lines = append(lines, line) }
	if _, err := x.vol.Check(bg, snap.CheckOptions{Contents: true, Problem: note}); err != nil {
		f.errorf("check: %v", err)
	}
	for _, v := range viewsOf(x.vol, x.vol.Main()) {
		if err := x.fs.CheckView(bg, v, CheckOptions{Problem: note}); err != nil {
			f.errorf("check of %s: %v", viewName(v), err)
		}
	}
	if !f.namedIn(strings.Join(lines, "\n")) && (f.key != nil || f.needed()) {
		f.errorf("check names it not: %.500q", lines)
	}
}

// change changes something of everything, and returns the files that were
// acknowledged, by view. Whatever fails must be for the damage.
func (f *flipped) change(x *fixture) (acked map[string]bool) {
	try := func(what string, err error) bool {
		if err != nil && !eio(err) {
			f.errorf("%s: %v is no EIO", what, err)
		}
		return err == nil
	}
	acked = map[string]bool{}
	for _, v := range viewsOf(x.vol, x.vol.Main()) {
		if v.IsSnapshot() {
			continue
		}
		for ino := range f.shows[viewName(v)] {
			if ino == f.kept {
				continue
			}
			if a, err := x.fs.Getattr(bg, v, ino); try("stat", err) && isLink(a.Mode) {
				continue // has no mode to change
			}
			mode := uint32(0o700)
			if a, err := x.fs.Setattr(bg, v, ino, root, SetAttr{Mode: &mode}); try("chmod", err) && isReg(a.Mode) {
				_, err := x.fs.Write(bg, v, ino, root, []byte("x"), 3, WriteFlags{})
				try("write", err)
			}
		}
		a, err := x.fs.Mknod(bg, v, snap.RootIno, "new", root, 0o644, 0)
		if !try("create", err) {
			continue
		}
		_, err = x.fs.Write(bg, v, a.Ino, root, []byte("new"), 0, WriteFlags{})
		if try("write", err) && try("fsync", x.fs.Fsync(bg, v, a.Ino)) {
			acked[viewName(v)] = true
		}
	}
	main := x.vol.Main()
	for _, name := range []string{"tr", "twin"} {
		ino, _, err := x.fs.Unlink(bg, main, snap.RootIno, name)
		if try("unlink", err) {
			try("forget", x.fs.Forget(bg, main, ino))
		}
	}
	try("delete snapshot", x.vol.DeleteSnapshot(bg, main, "s2"))
	try("delete fork", x.vol.DeleteFork(bg, main, "merged"))
	if _, err := x.vol.CreateSnapshot(bg, main, "later"); !try("snapshot", err) {
		return acked
	}
	try("wait for the reclamation", x.vol.WaitIdle(bg)) // it ends
	if err := x.fs.SyncAll(bg); err != nil {
		f.errorf("nothing can be committed any more: %v", err)
	}
	return acked
}

// run damages a byte, looks at everything, works with the volume, and looks at
// what that has left.
func (f *flipped) run() {
	f.mem = f.flipWorld.mem.Reopen()
	if f.key != nil && !f.mem.CorruptRecord(f.key, f.at) || f.key == nil && !f.mem.CorruptObject(f.id, f.at) {
		f.errorf("it is not there")
		return
	}
	damaged := f.mem
	x := f.open(true)
	if x == nil {
		return
	}
	f.check(x)
	x.vol.Close(bg)

	f.mem = damaged.Reopen()
	if x = f.open(false); x == nil {
		return
	}
	f.read(x, viewsOf(x.vol, x.vol.Main()))
	acked := f.change(x)
	x.vol.Close(bg)

	f.mem = f.mem.Reopen()
	if x = f.open(true); x == nil {
		return
	}
	defer x.vol.Close(bg)
	var snaps []*snap.View
	for _, v := range viewsOf(x.vol, x.vol.Main()) {
		if v.IsSnapshot() {
			snaps = append(snaps, v)
		} else if acked[viewName(v)] {
			a, err := x.fs.Lookup(bg, v, snap.RootIno, "new")
			if err != nil || a.Size != 3 {
				f.errorf("what was acknowledged in %s: %d bytes, %v", viewName(v), a.Size, err)
			}
		}
	}
	f.read(x, snaps)
	f.readInode(&dumper{f: x.fs, v: x.vol.Main(), seen: map[uint64]bool{}}, f.kept)
}

// TestFlippedBytesOfEveryKind flips a byte of a record or object of every kind, and
// wants EIO, or an open that is refused, from what needs it, and all else right; a
// check that names it; and no harm done by whatever works on. DCFS_FLIPS is of how
// many of each kind, and how many bytes of each (1).
func TestFlippedBytesOfEveryKind(t *testing.T) {
	w := newFlipWorld(t)
	classes := map[string][]victim{}
	for _, d := range w.victims {
		classes[d.class] = append(classes[d.class], d)
	}
	for _, kind := range snap.Kinds() {
		if !slices.ContainsFunc(w.victims, func(d victim) bool { return d.key != nil && d.key[0] == kind }) {
			t.Errorf("the world has no record of kind %q", kind)
		}
	}
	for _, c := range flipClasses {
		if len(classes[c]) == 0 {
			t.Errorf("the world has nothing of class %q", c)
		}
	}
	w.everyByteIsCovered(t)
	n, seed := int(crashEnv("DCFS_FLIPS", 1)), uint64(time.Now().UnixNano())
	t.Logf("%d records and objects of %d classes, seed %d", len(w.victims), len(classes), seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	cases := 0
	for _, class := range slices.Sorted(maps.Keys(classes)) {
		of := classes[class]
		for _, i := range rnd.Perm(len(of))[:min(n, len(of))] {
			for range n {
				f := &flipped{flipWorld: w, victim: of[i], t: t, at: rnd.IntN(of[i].bytes)}
				watched(t, fmt.Sprintf("%s %v, byte %d", class, &of[i], f.at), f.run)
				cases++
			}
		}
	}
	t.Logf("%d bytes flipped", cases)
}

// everyByteIsCovered flips every byte of what is short, and many of what is long.
func (w *flipWorld) everyByteIsCovered(t *testing.T) {
	m, p, flips := w.mem.Reopen(), make([]byte, dcdb.RecordBytes), 0
	for i := range w.victims {
		d := &w.victims[i]
		step := 1 + d.bytes/50
		for at := 0; at < d.bytes; at += step {
			var err error
			if d.key != nil {
				m.CorruptRecord(d.key, at)
				_, err = m.Get(bg, d.key)
				m.CorruptRecord(d.key, at) // and back
			} else {
				m.CorruptObject(d.id, at)
				err = m.Read(bg, d.id, d.kind, 0, p[:d.id.Len])
				m.CorruptObject(d.id, at)
			}
			if !errors.Is(err, store.ErrCorrupt) || !d.namedIn(err.Error()) {
				t.Fatalf("%s %v, byte %d: %v", d.class, d, at, err)
			}
			flips++
		}
	}
	t.Logf("%d bytes flipped in the store", flips)
}

// watched runs fn, which must end.
func watched(t testing.TB, what string, fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		b := make([]byte, 1<<20)
		os.Stderr.Write(b[:runtime.Stack(b, true)])
		t.Fatalf("%s: it does not end", what)
	}
}
