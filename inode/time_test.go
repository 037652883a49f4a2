package inode

import (
	"strings"
	"testing"

	"dcfs/dcdb"
	"dcfs/snap"
)

// TestOperationsSetTheTimesThatPOSIXSays: after each operation the letters
// say which of atime, mtime and ctime of each inode are those of the
// operation; all others must be as they were.
func TestOperationsSetTheTimesThatPOSIXSays(t *testing.T) {
	tests := []struct {
		name string
		do   func(x *fixture) error
		want string // path:times, separated by spaces
	}{
		{"mknod", func(x *fixture) error { x.create("d/new", ""); return nil }, "d:mc d/new:amc"},
		{"mkdir", func(x *fixture) error { x.mkdir("d/new"); return nil }, "d:mc d/new:amc"},
		{"symlink", func(x *fixture) error {
			_, err := x.fs.Symlink(bg, x.view, x.ino("d"), "new", root, "t")
			return err
		}, "d:mc d/new:amc"},
		{"link", func(x *fixture) error { return x.link("d/f", "e/new") }, "e:mc d/f:c e/new:c"},
		{"unlink of one of two", func(x *fixture) error { return x.unlink("d/g") }, "d:mc e/g:c"},
		{"rmdir", func(x *fixture) error { return x.rmdir("d/s") }, "d:mc"},
		{"rename", func(x *fixture) error { return x.rename("d/f", "e/new", 0) }, "d:mc e:mc e/new:c"},
		{"rename in a directory", func(x *fixture) error { return x.rename("d/f", "d/new", 0) }, "d:mc d/new:c"},
		{"rename of a directory", func(x *fixture) error { return x.rename("d/s", "e/s", 0) }, "d:mc e:mc e/s:c"},
		{"rename onto one of two", func(x *fixture) error { return x.rename("d/f", "d/g", 0) }, "d:mc d/g:c e/g:c"},
		{"rename onto itself", func(x *fixture) error { return x.rename("d/g", "e/g", 0) }, ""},
		{"exchange", func(x *fixture) error { return x.rename("d/f", "e/s", RenameExchange) }, "d:mc e:mc d/f:c e/s:c"},
		{"failed rename", func(x *fixture) error {
			x.want("rename", x.rename("d/f", "e/s", 0), ErrIsDir)
			return nil
		}, ""},
		{"write", func(x *fixture) error { x.write(x.ino("d/f"), "x", 0); return nil }, "d/f:mc"},
		{"write of nothing", func(x *fixture) error { x.write(x.ino("d/f"), "", 0); return nil }, ""},
		{"read", func(x *fixture) error { x.content(x.ino("d/f")); return nil }, ""},
		{"readdir", func(x *fixture) error { x.list(x.ino("d")); return nil }, ""},
		{"truncate", func(x *fixture) error { return x.set("d/f", SetAttr{Size: new(uint64)}) }, "d/f:mc"},
		{"truncate to the same size", func(x *fixture) error {
			size := uint64(4)
			return x.set("d/f", SetAttr{Size: &size})
		}, "d/f:mc"},
		{"chmod", func(x *fixture) error { return x.set("d/f", SetAttr{Mode: new(uint32)}) }, "d/f:c"},
		{"chown", func(x *fixture) error { return x.set("d/f", SetAttr{UID: new(uint32)}) }, "d/f:c"},
		{"chown to nobody new", func(x *fixture) error { return x.set("d/f", SetAttr{}) }, "d/f:c"},
		{"touch", func(x *fixture) error { return x.set("d/f", SetAttr{AtimeNow: true, MtimeNow: true}) }, "d/f:amc"},
		{"touch -a", func(x *fixture) error { return x.set("d/f", SetAttr{AtimeNow: true}) }, "d/f:ac"},
		{"punch", func(x *fixture) error {
			return x.fs.Fallocate(bg, x.view, x.ino("d/f"), 0, 1, FallocPunchHole|FallocKeepSize)
		}, "d/f:mc"},
		{"fallocate", func(x *fixture) error { return x.fs.Fallocate(bg, x.view, x.ino("d/f"), 0, 1, 0) }, "d/f:mc"},
		{"setxattr", func(x *fixture) error {
			return x.fs.Setxattr(bg, x.view, x.ino("d/f"), "user.a", nil, 0)
		}, "d/f:c"},
		{"removexattr", func(x *fixture) error {
			return x.fs.Removexattr(bg, x.view, x.ino("d/f"), "user.x")
		}, "d/f:c"},
		{"copy", func(x *fixture) error {
			_, err := x.fs.CopyRange(bg, x.view, x.ino("d/f"), 0, x.view, x.ino("d/g"), 0, 9, root)
			return err
		}, "e/g:mc d/g:mc"},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			x := newFixture(t)
			x.mkdir("d")
			x.mkdir("e")
			x.mkdir("d/s")
			x.mkdir("e/s")
			x.must(x.fs.Setxattr(bg, x.view, x.create("d/f", "data"), "user.x", nil, 0))
			x.create("d/g", "")
			x.must(x.link("d/g", "e/g"))
			before := x.times("", map[string]Attr{})
			now := x.clock.tick()
			x.must(c.do(x))
			x.compareTimes(before, now, c.want)
			x.check()
		})
	}
}

func (x *fixture) set(path string, s SetAttr) error {
	x.Helper()
	_, err := x.fs.Setattr(bg, x.view, x.ino(path), root, s)
	return err
}

// times returns the attributes of every path at and below one.
func (x *fixture) times(path string, to map[string]Attr) map[string]Attr {
	x.Helper()
	a, err := x.fs.Getattr(bg, x.view, x.ino(path))
	x.must(err)
	to[path] = a
	if isDir(a.Mode) {
		for _, name := range x.list(a.Ino) {
			x.times(strings.TrimPrefix(path+"/"+name, "/"), to)
		}
	}
	return to
}

// compareTimes verifies that exactly the wanted times are now.
func (x *fixture) compareTimes(before map[string]Attr, now dcdb.Time, want string) {
	x.Helper()
	wanted := map[string]string{}
	for _, w := range strings.Fields(want) {
		path, letters, _ := strings.Cut(w, ":")
		wanted[path] = letters
	}
	byIno := map[uint64]Attr{}
	for _, a := range before {
		byIno[a.Ino] = a
	}
	for path, a := range x.times("", map[string]Attr{}) {
		old := byIno[a.Ino] // zero for a new inode
		for _, c := range []struct {
			letter   string
			got, was dcdb.Time
		}{{"a", a.Atime, old.Atime}, {"m", a.Mtime, old.Mtime}, {"c", a.Ctime, old.Ctime}} {
			expect := c.was
			if strings.Contains(wanted[path], c.letter) {
				expect = now
			}
			if c.got != expect {
				x.Errorf("%q: %stime is %v, want %v (now is %v)", path, c.letter, c.got, expect, now)
			}
		}
	}
}

func TestTimesOfAnyYearAreKept(t *testing.T) {
	x := newFixture(t)
	x.create("f", "")
	for _, sec := range []int64{-1 << 40, -1, 0, 1<<31 - 1, 1 << 31, 1 << 33, 1 << 45} {
		at, mt := dcdb.Time{Sec: sec, Nsec: 999999999}, dcdb.Time{Sec: sec, Nsec: 1}
		x.must(x.set("f", SetAttr{Atime: &at, Mtime: &mt}))
		if a := x.stat("f"); a.Atime != at || a.Mtime != mt {
			t.Errorf("got %v, %v, want %v, %v", a.Atime, a.Mtime, at, mt)
		}
	}
}

func TestStrictAtimeIsSetByReads(t *testing.T) {
	x := newFixtureOn(t, newMemory(), Options{StrictAtime: true})
	f := x.create("f", "data")
	l, err := x.fs.Symlink(bg, x.view, snap.RootIno, "l", root, "f")
	x.must(err)
	for what, c := range map[string]struct {
		ino uint64
		do  func()
	}{
		"read":     {f, func() { x.content(f) }},
		"readlink": {l.Ino, func() { _, err := x.fs.Readlink(bg, x.view, l.Ino); x.must(err) }},
		"readdir": {snap.RootIno, func() {
			d, err := x.fs.OpenDir(bg, x.view, snap.RootIno)
			x.must(err)
			defer d.Close()
			x.must(d.Read(bg, 0, func(Dirent) bool { return true }))
		}},
	} {
		now := x.clock.tick()
		c.do()
		a, err := x.fs.Getattr(bg, x.view, c.ino)
		x.must(err)
		if a.Atime != now || a.Ctime == now {
			t.Errorf("%s: atime %v, ctime %v, want %v and older", what, a.Atime, a.Ctime, now)
		}
	}
	s, err := x.vol.CreateSnapshot(bg, x.view, "s")
	x.must(err)
	_, err = x.fs.Read(bg, s, f, make([]byte, 1), 0)
	x.want("read in a snapshot", err, nil)
}
