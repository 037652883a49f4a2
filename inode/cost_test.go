package inode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dcfs/dcdb/store"
	"dcfs/dcdb/store/embedded"
	"dcfs/snap"
)

// Operations on live data that is in memory call the store not once.
func TestOperationsOnCachedDataDoNoIO(t *testing.T) {
	st := store.NewCounting(newMemory())
	vol, err := snap.Open(bg, st, snap.Options{CommitInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer vol.Close(bg)
	f, v := New(vol, Options{}), vol.Main()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// A directory of several pages, committed, and looked at once.
	dir, err := f.Mkdir(bg, v, snap.RootIno, "dir", root, 0o755)
	must(err)
	for i := range 500 {
		_, err := f.Mknod(bg, v, dir.Ino, fmt.Sprintf("file%03d", i), root, 0o100644, 0)
		must(err)
	}
	must(f.SyncAll(bg))
	for i := range 500 {
		_, err := f.Lookup(bg, v, dir.Ino, fmt.Sprintf("file%03d", i))
		must(err)
	}

	before := st.Calls()
	data := make([]byte, 10000)
	for i := range 200 {
		name := fmt.Sprintf("new%03d", i)
		a, err := f.Mknod(bg, v, dir.Ino, name, root, 0o100644, 0)
		must(err)
		_, err = f.Write(bg, v, a.Ino, root, data, 0, WriteFlags{})
		must(err)
		_, err = f.Read(bg, v, a.Ino, data, 0)
		must(err)
		must(f.Setxattr(bg, v, a.Ino, "user.a", []byte("b"), 0))
		_, err = f.Getattr(bg, v, a.Ino)
		must(err)
		_, err = f.Link(bg, v, a.Ino, dir.Ino, name+"l")
		must(err)
		_, _, err = f.Rename(bg, v, dir.Ino, name, snap.RootIno, name, 0)
		must(err)
		_, _, err = f.Unlink(bg, v, dir.Ino, name+"l")
		must(err)
		_, _, err = f.Unlink(bg, v, dir.Ino, fmt.Sprintf("file%03d", i))
		must(err)
		mode := uint32(0o600)
		_, err = f.Setattr(bg, v, a.Ino, root, SetAttr{Mode: &mode})
		must(err)
	}
	d, err := f.OpenDir(bg, v, dir.Ino)
	must(err)
	n := 0
	must(d.Read(bg, 0, func(Dirent) bool { n++; return true }))
	d.Close()
	if n != 302 {
		t.Errorf("%d entries, want 302", n)
	}
	if calls := st.Calls() - before; calls != 0 {
		t.Errorf("%d store calls", calls)
	}
}

// A 4 KiB write into a large file stores what it changed, not a record.
func TestSmallWriteIntoALargeFileStoresLittle(t *testing.T) {
	size := uint64(1 << 30)
	if testing.Short() {
		size = 64 << 20
	}
	inner, err := embedded.Create(t.TempDir(), embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	st := store.NewCounting(inner)
	vol, err := snap.Open(bg, st, snap.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer vol.Close(bg)
	f, v := New(vol, Options{}), vol.Main()
	a, err := f.Mknod(bg, v, snap.RootIno, "large", root, 0o100644, 0)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = byte(i >> 3)
	}
	for off := uint64(0); off < size; off += uint64(len(buf)) {
		if _, err := f.Write(bg, v, a.Ino, root, buf, off, WriteFlags{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Fsync(bg, v, a.Ino); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		written := func() int64 { return st.BytesPut.Load() + st.RecordBytesPut.Load() }
		before := written()
		off := rnd.Uint64N(size/4096) * 4096
		if _, err := f.Write(bg, v, a.Ino, root, buf[:4096], off, WriteFlags{}); err != nil {
			t.Fatal(err)
		}
		if err := f.Fsync(bg, v, a.Ino); err != nil {
			t.Fatal(err)
		}
		if n := written() - before; n >= 64<<10 {
			t.Errorf("4 KiB at %d and fsync write %d bytes to the store", off, n)
		}
	}
}

// A copy of a large file shares its contents, also out of a snapshot; what does
// not fill a record is copied.
func TestCopyOfALargeFileTakesNoSpace(t *testing.T) {
	st := store.NewCounting(newMemory())
	vol, err := snap.Open(bg, st, snap.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer vol.Close(bg)
	f, v := New(vol, Options{}), vol.Main()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	const size = 10<<20 + 12345
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i >> 7)
	}
	src, err := f.Mknod(bg, v, snap.RootIno, "src", root, 0o100644, 0)
	must(err)
	_, err = f.Write(bg, v, src.Ino, root, data, 0, WriteFlags{})
	must(err)
	s, err := vol.CreateSnapshot(bg, v, "s")
	must(err)
	zero := uint64(0)
	for _, from := range []*snap.View{v, s} {
		if from == s { // the live file has let go of the contents
			_, err := f.Setattr(bg, v, src.Ino, root, SetAttr{Size: &zero})
			must(err)
		}
		before := st.BytesPut.Load()
		dst, err := f.Mknod(bg, v, snap.RootIno, "dst "+from.Name(), root, 0o100644, 0)
		must(err)
		n, err := f.CopyRange(bg, from, src.Ino, 0, v, dst.Ino, 0, size+1000, root)
		must(err)
		must(f.SyncAll(bg))
		if put := st.BytesPut.Load() - before; n != size || put > 64<<10 {
			t.Errorf("copy out of %s: %d bytes, and %d bytes put into the store", from.Name(), n, put)
		}
		got := make([]byte, size)
		_, err = f.Read(bg, v, dst.Ino, got, 0)
		must(err)
		if !bytes.Equal(got, data) {
			t.Errorf("copy out of %s is not what was copied", from.Name())
		}
	}
}

// slowReads is a store whose reads take a while, so that what they read is
// dropped meanwhile.
type slowReads struct{ store.Store }

func (s slowReads) Read(ctx context.Context, id store.ID, kind store.Kind, off int, p []byte) error {
	time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
	return s.Store.Read(ctx, id, kind, off, p)
}

// What readers are at is overwritten, cut off and deleted, directories change
// under open handles, snapshots come and go: nobody gets an error but that
// something is gone.
func TestReadersNeverMeetErasedObjects(t *testing.T) {
	vol, err := snap.Open(bg, slowReads{newMemory()}, snap.Options{CommitInterval: time.Millisecond, CacheBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer vol.Close(bg)
	f, v := New(vol, Options{}), vol.Main()
	var files [4]uint64
	for i := range files {
		a, err := f.Mknod(bg, v, snap.RootIno, fmt.Sprint("f", i), root, 0o100644, 0)
		if err != nil {
			t.Fatal(err)
		}
		files[i] = a.Ino
	}
	dir, err := f.Mkdir(bg, v, snap.RootIno, "dir", root, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var reads atomic.Int64
	var all sync.WaitGroup
	run := func(what string, fn func(rnd *rand.Rand) error) {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
			for !stop.Load() {
				if err := fn(rnd); err != nil && !errors.Is(err, ErrStale) && !errors.Is(err, ErrNotExist) {
					t.Errorf("%s: %v", what, err)
					return
				}
			}
		})
	}
	view := func(rnd *rand.Rand) *snap.View {
		if all := vol.Snapshots(v); len(all) > 0 && rnd.IntN(2) == 0 {
			return all[rnd.IntN(len(all))]
		}
		return v
	}
	for range 3 {
		run("read", func(rnd *rand.Rand) error {
			buf := make([]byte, 200<<10)
			_, err := f.Read(bg, view(rnd), files[rnd.IntN(4)], buf, rnd.Uint64N(300<<10))
			reads.Add(1)
			return err
		})
	}
	run("list", func(rnd *rand.Rand) error {
		d, err := f.OpenDir(bg, view(rnd), dir.Ino)
		if err != nil {
			return err
		}
		defer d.Close()
		err = d.Read(bg, 0, func(e Dirent) bool {
			time.Sleep(10 * time.Microsecond)
			return true
		})
		reads.Add(1)
		return err
	})
	run("write", func(rnd *rand.Rand) error {
		_, err := f.Write(bg, v, files[rnd.IntN(4)], root, make([]byte, 1+rnd.IntN(150<<10)), rnd.Uint64N(300<<10), WriteFlags{})
		return err
	})
	run("truncate", func(rnd *rand.Rand) error {
		size := rnd.Uint64N(400 << 10)
		_, err := f.Setattr(bg, v, files[rnd.IntN(4)], root, SetAttr{Size: &size})
		time.Sleep(2 * time.Millisecond)
		return err
	})
	run("entries", func(rnd *rand.Rand) error {
		name := fmt.Sprintf("a rather long name, so that pages fill up: %d", rnd.IntN(600))
		a, err := f.Mknod(bg, v, dir.Ino, name, root, 0o100644, 0)
		if errors.Is(err, ErrExist) {
			if a.Ino, _, err = f.Unlink(bg, v, dir.Ino, name); err == nil {
				err = f.Forget(bg, v, a.Ino)
			}
		}
		return err
	})
	n := 0
	run("snapshot", func(rnd *rand.Rand) error {
		n++
		if _, err := vol.CreateSnapshot(bg, v, fmt.Sprint(n)); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
		if n > 3 {
			return vol.DeleteSnapshot(bg, v, fmt.Sprint(n-3))
		}
		return nil
	})
	run("sync", func(*rand.Rand) error { time.Sleep(time.Millisecond); return f.SyncAll(bg) })
	time.Sleep(3 * time.Second)
	stop.Store(true)
	all.Wait()
	if reads.Load() < 100 || n < 10 {
		t.Errorf("%d reads, %d snapshots: too few to mean anything", reads.Load(), n)
	}
}

// telling is the context of one operation that says when it is going to wait.
type telling struct {
	context.Context
	told atomic.Bool
}

func (c *telling) Waits() { c.told.Store(true) }

// listening fails a test whose operation reads the store and did not say so.
type listening struct {
	*store.Counting
	t *testing.T
}

func (l *listening) heard(ctx context.Context) {
	if c, ok := ctx.(*telling); ok && !c.told.Load() {
		l.t.Error("an operation reads the store and did not say that it waits")
	}
}

func (l *listening) Read(ctx context.Context, id store.ID, kind store.Kind, off int, p []byte) error {
	l.heard(ctx)
	return l.Counting.Read(ctx, id, kind, off, p)
}

func (l *listening) Get(ctx context.Context, keys ...[]byte) ([][]byte, error) {
	l.heard(ctx)
	return l.Counting.Get(ctx, keys...)
}

// An operation tells its context before it reads the store, and does not
// otherwise.
func TestOperationsSayThatTheyWait(t *testing.T) {
	mem := newMemory()
	vol, err := snap.Open(bg, mem, snap.Options{})
	if err != nil {
		t.Fatal(err)
	}
	x := &fixture{TB: t, vol: vol, fs: New(vol, Options{}), view: vol.Main(), clock: newTestClock()}
	dir := x.mkdir("dir")
	for i := range 500 {
		x.create(fmt.Sprintf("dir/file%03d", i), "")
	}
	x.create("dir/data", string(bytes.Repeat([]byte("x"), 300<<10)))
	ino := x.ino("dir/data")
	x.must(x.fs.Setxattr(bg, x.view, ino, "user.large", bytes.Repeat([]byte("x"), 10000), 0))
	x.must(x.vol.Close(bg))

	st := &listening{store.NewCounting(mem), t}
	x = newFixtureOnStore(t, st, Options{})
	buf := make([]byte, 10000)
	ops := []struct {
		name string
		cold bool // its second run reads the store too
		run  func(ctx context.Context) error
	}{
		{"getattr", false, func(ctx context.Context) error { _, err := x.fs.Getattr(ctx, x.view, ino); return err }},
		{"lookup", false, func(ctx context.Context) error {
			_, err := x.fs.Lookup(ctx, x.view, dir, "file250")
			return err
		}},
		{"read", true, func(ctx context.Context) error { _, err := x.fs.Read(ctx, x.view, ino, buf, 0); return err }},
		{"getxattr", true, func(ctx context.Context) error {
			_, err := x.fs.Getxattr(ctx, x.view, ino, "user.large")
			return err
		}},
		{"mknod", false, func(ctx context.Context) error {
			_, err := x.fs.Mknod(ctx, x.view, dir, "file000", root, 0o100644, 0)
			if !errors.Is(err, ErrExist) {
				return fmt.Errorf("got %v, want %v", err, ErrExist)
			}
			return nil
		}},
	}
	for _, o := range ops {
		for run := range 2 {
			before, c := st.Reads.Load()+st.Gets.Load(), &telling{Context: bg}
			x.must(o.run(c))
			reads := st.Reads.Load() + st.Gets.Load() - before
			if want := run == 0 || o.cold; (reads > 0) != want {
				t.Errorf("%s, run %d: %d calls to the store", o.name, run, reads)
			}
			if c.told.Load() != (reads > 0) {
				t.Errorf("%s, run %d: said that it waits: %v, with %d calls to the store", o.name, run, c.told.Load(), reads)
			}
		}
	}
}

// A write that waits for room says so.
func TestWritesSayThatTheyWaitForRoom(t *testing.T) {
	vol, err := snap.Open(bg, newMemory(), snap.Options{DirtyBytes: 1 << 20, CommitInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer vol.Close(bg)
	f, v := New(vol, Options{}), vol.Main()
	a, err := f.Mknod(bg, v, snap.RootIno, "file", root, 0o100644, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Pieces of half a record are not written ahead: they wait for their group.
	c := &telling{Context: bg}
	for i := range uint64(200) {
		if _, err := f.Write(c, v, a.Ino, root, make([]byte, 20<<10), i*(128<<10), WriteFlags{}); err != nil {
			t.Fatal(err)
		}
	}
	if !c.told.Load() {
		t.Error("4 MiB were written with room for 1, and no write said that it waits")
	}
}
