package inode

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"dcfs/dcdb/store"
	"dcfs/snap"
)

func TestXattrRules(t *testing.T) {
	x := newFixture(t)
	f := x.create("f", "")
	l, err := x.fs.Symlink(bg, x.view, snap.RootIno, "l", root, "t")
	x.must(err)
	p, err := x.fs.Mknod(bg, x.view, snap.RootIno, "p", root, syscall.S_IFIFO|0600, 0)
	x.must(err)
	long := "user." + strings.Repeat("n", 250)
	for _, c := range []struct {
		ino   uint64
		name  string
		n     int
		flags uint32
		want  error
	}{
		{f, "user.a", 3, 0, nil},
		{f, "user.a", 4, XattrCreate, ErrExist},
		{f, "user.a", 5, XattrReplace, nil},
		{f, "user.b", 5, XattrReplace, ErrNoData},
		{f, "user.b", 0, XattrCreate, nil},
		{f, "user.c", 1, 4, ErrInvalid},
		{f, "trusted.a", 1, 0, nil},
		{f, "security.a", 1, 0, nil},
		{f, "system.posix_acl_access", 1, 0, ErrInvalid},
		{f, "system.other", 1, 0, ErrNotSupported},
		{f, "os2.a", 1, 0, ErrNotSupported},
		{f, "user", 1, 0, ErrNotSupported},
		{f, "user.", 1, 0, ErrInvalid},
		{f, "", 1, 0, ErrRange},
		{f, long, 1, 0, nil},
		{f, long + "n", 1, 0, ErrRange},
		{f, "user.big", 65536, 0, nil},
		{f, "user.big", 65537, 0, ErrTooBig},
		{l.Ino, "user.a", 1, 0, ErrPermission},
		{l.Ino, "trusted.a", 1, 0, nil},
		{p.Ino, "user.a", 1, 0, ErrPermission},
		{snap.RootIno, "user.a", 1, 0, nil},
	} {
		val := bytes.Repeat([]byte("v"), c.n)
		x.want(fmt.Sprintf("setxattr %.10q %d", c.name, c.flags), x.fs.Setxattr(bg, x.view, c.ino, c.name, val, c.flags), c.want)
		if c.want != nil {
			continue
		}
		clear(val) // the value is the file system's own by now
		got, err := x.fs.Getxattr(bg, x.view, c.ino, c.name)
		x.must(err)
		if string(got) != strings.Repeat("v", c.n) {
			t.Errorf("getxattr %.10q: %d bytes, want %d", c.name, len(got), c.n)
		}
	}
	list, err := x.fs.Listxattr(bg, x.view, f)
	x.must(err)
	want := "security.a\x00trusted.a\x00user.a\x00user.b\x00user.big\x00" + long + "\x00"
	if string(list) != want {
		t.Errorf("listxattr: got %q, want %q", list, want)
	}
	x.want("removexattr", x.fs.Removexattr(bg, x.view, f, "user.a"), nil)
	x.want("removexattr again", x.fs.Removexattr(bg, x.view, f, "user.a"), ErrNoData)
	x.want("removexattr of no xattr", x.fs.Removexattr(bg, x.view, f, "system.other"), ErrNotSupported)
	for name, want := range map[string]error{"user.a": ErrNoData, "": ErrRange, "system.posix_acl_access": ErrNoData, "system.other": ErrNotSupported} {
		_, err := x.fs.Getxattr(bg, x.view, f, name)
		x.want("getxattr "+name, err, want)
	}
	_, err = x.fs.Getxattr(bg, x.view, l.Ino, "user.a")
	x.want("getxattr of a symlink", err, ErrNoData)
	x.check()
}

func TestAThousandXattrs(t *testing.T) {
	n, size := 1000, 64<<10
	if testing.Short() {
		n, size = 200, 8<<10
	}
	mem := newMemory()
	x := newFixtureOn(t, mem, Options{})
	f := x.create("f", "data")
	val := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, size) }
	for i := range n {
		x.must(x.fs.Setxattr(bg, x.view, f, fmt.Sprintf("user.%04d", i), val(i), XattrCreate))
	}
	x.must(x.fs.SyncAll(bg))
	count := store.NewCounting(mem.Crash())
	x = newFixtureOnStore(t, count, Options{})
	list, err := x.fs.Listxattr(bg, x.view, f)
	x.must(err)
	if len(list) != n*10 {
		t.Errorf("list of %d bytes, want %d", len(list), n*10)
	}
	if read := count.BytesRead.Load(); read > int64(n*size/10) {
		t.Errorf("a list of names read %d bytes", read)
	}
	for i := 0; i < n; i += 37 {
		got, err := x.fs.Getxattr(bg, x.view, f, fmt.Sprintf("user.%04d", i))
		x.must(err)
		if !bytes.Equal(got, val(i)) {
			t.Errorf("value %d differs", i)
		}
	}
	x.must(x.unlink("f"))
	x.must(x.fs.Forget(bg, x.view, f))
	x.check()
}
