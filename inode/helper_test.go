package inode

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
	"dcfs/snap"
)

var bg = context.Background()

// root is a caller that may do everything, user one that may not.
var (
	root = Cred{Root: true}
	user = Cred{UID: 1000, GID: 1000, Groups: func(gid uint32) bool { return gid == 44 }}
)

func isErr(err, want error) bool {
	if want == nil {
		return err == nil
	}
	return errors.Is(err, want)
}

func splitNames(list []byte) []string {
	if len(list) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(list), "\x00"), "\x00")
}

// testClock stands still until it is moved, so that times can be compared.
type testClock struct {
	mu  sync.Mutex
	now time.Time // guarded by mu
}

func newTestClock() *testClock {
	return &testClock{now: time.Date(2024, 1, 2, 3, 4, 5, 6, time.UTC)}
}

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// tick moves the clock and returns the new time.
func (c *testClock) tick() dcdb.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Second + time.Nanosecond)
	return dcdb.Time{Sec: c.now.Unix(), Nsec: uint32(c.now.Nanosecond())}
}

func newMemory() *store.Memory {
	return store.NewMemory(store.Superblock{Version: store.FormatVersion, UUID: store.NewUUID(), Created: time.Unix(1e9, 0)})
}

// fixture is a file system on a fresh volume in memory, with helpers that
// name files by paths and fail the test where that goes wrong.
type fixture struct {
	testing.TB
	vol   *snap.Volume
	fs    *FS
	view  *snap.View // that the helpers work in
	clock *testClock

	f, d, e, o, l uint64 // a file, a directory, one in it, an orphan, a symlink; see newCheckFixture
}

func newFixture(t testing.TB) *fixture { return newFixtureOn(t, newMemory(), Options{}) }

func newFixtureOn(t testing.TB, mem *store.Memory, o Options) *fixture {
	t.Helper()
	return newFixtureOnStore(t, mem, o)
}

func newFixtureOnStore(t testing.TB, st store.Store, o Options) *fixture {
	t.Helper()
	clock := newTestClock()
	vol, err := snap.Open(bg, st, snap.Options{Now: clock.Now, Log: t.Logf, CommitInterval: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vol.Close(bg); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return &fixture{TB: t, vol: vol, fs: New(vol, o), view: vol.Main(), clock: clock}
}

func (x *fixture) must(err error) {
	x.Helper()
	if err != nil {
		x.Fatal(err)
	}
}

// want fails unless err is one of the package's errors, or nil.
func (x *fixture) want(what string, err, want error) {
	x.Helper()
	if !isErr(err, want) {
		x.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// split returns the directory that path is in, and the last name.
func (x *fixture) split(path string) (uint64, string) {
	x.Helper()
	dir := uint64(snap.RootIno)
	names := strings.Split(path, "/")
	for _, name := range names[:len(names)-1] {
		a, err := x.fs.Lookup(bg, x.view, dir, name)
		x.must(err)
		dir = a.Ino
	}
	return dir, names[len(names)-1]
}

func (x *fixture) lookup(path string) (Attr, error) {
	x.Helper()
	dir, name := x.split(path)
	return x.fs.Lookup(bg, x.view, dir, name)
}

func (x *fixture) stat(path string) Attr {
	x.Helper()
	a, err := x.lookup(path)
	x.must(err)
	return a
}

func (x *fixture) ino(path string) uint64 {
	x.Helper()
	if path == "" {
		return snap.RootIno
	}
	return x.stat(path).Ino
}

func (x *fixture) mkdir(path string) uint64 {
	x.Helper()
	dir, name := x.split(path)
	a, err := x.fs.Mkdir(bg, x.view, dir, name, root, 0755)
	x.must(err)
	return a.Ino
}

func (x *fixture) create(path, data string) uint64 {
	x.Helper()
	dir, name := x.split(path)
	a, err := x.fs.Mknod(bg, x.view, dir, name, root, 0644, 0)
	x.must(err)
	if data != "" {
		x.write(a.Ino, data, 0)
	}
	return a.Ino
}

func (x *fixture) write(ino uint64, data string, off uint64) {
	x.Helper()
	n, err := x.fs.Write(bg, x.view, ino, root, []byte(data), off, WriteFlags{})
	x.must(err)
	if n != len(data) {
		x.Fatalf("write %d bytes: wrote %d", len(data), n)
	}
}

func (x *fixture) content(ino uint64) string {
	x.Helper()
	a, err := x.fs.Getattr(bg, x.view, ino)
	x.must(err)
	p := make([]byte, a.Size+1)
	n, err := x.fs.Read(bg, x.view, ino, p, 0)
	x.must(err)
	return string(p[:n])
}

func (x *fixture) rename(from, to string, flags uint32) error {
	x.Helper()
	d, name := x.split(from)
	nd, newname := x.split(to)
	_, _, err := x.fs.Rename(bg, x.view, d, name, nd, newname, flags)
	return err
}

func (x *fixture) link(from, to string) error {
	x.Helper()
	dir, name := x.split(to)
	_, err := x.fs.Link(bg, x.view, x.ino(from), dir, name)
	return err
}

func (x *fixture) unlink(path string) error {
	x.Helper()
	dir, name := x.split(path)
	_, _, err := x.fs.Unlink(bg, x.view, dir, name)
	return err
}

func (x *fixture) rmdir(path string) error {
	x.Helper()
	dir, name := x.split(path)
	_, err := x.fs.Rmdir(bg, x.view, dir, name)
	return err
}

// list returns the names in a directory, without the two that all have.
func (x *fixture) list(ino uint64) []string {
	x.Helper()
	d, err := x.fs.OpenDir(bg, x.view, ino)
	x.must(err)
	defer d.Close()
	var names []string
	x.must(d.Read(bg, cookieDotDot, func(e Dirent) bool {
		names = append(names, e.Name)
		return true
	}))
	return names
}

// check fails if an invariant does not hold in the view.
func (x *fixture) check() {
	x.Helper()
	x.must(x.fs.Check(bg, x.view, func(p string) { x.Errorf("check: %s", p) }))
}
