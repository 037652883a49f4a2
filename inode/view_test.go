package inode

import (
	"testing"

	"dcfs/snap"
)

// changing is every operation that changes something, on bad arguments as
// well: a snapshot refuses before it looks at them.
func changing(x *fixture, v *snap.View, f uint64) map[string]error {
	errs := map[string]error{}
	do := func(what string, err error) { errs[what] = err }
	_, err := x.fs.Setattr(bg, v, f, root, SetAttr{})
	do("setattr", err)
	_, err = x.fs.Mknod(bg, v, 1, "..", root, 0040000, 0)
	do("mknod", err)
	_, err = x.fs.Mkdir(bg, v, 1, "f", root, 0)
	do("mkdir", err)
	_, err = x.fs.Symlink(bg, v, 1, "", root, "")
	do("symlink", err)
	_, err = x.fs.Tmpfile(bg, v, 1, root, 0)
	do("tmpfile", err)
	_, err = x.fs.Link(bg, v, 99, 1, ".")
	do("link", err)
	_, _, err = x.fs.Unlink(bg, v, 1, ".")
	do("unlink", err)
	_, err = x.fs.Rmdir(bg, v, 1, "..")
	do("rmdir", err)
	_, _, err = x.fs.Rename(bg, v, 1, "x", 1, "", 99)
	do("rename", err)
	_, err = x.fs.Write(bg, v, f, root, nil, 0, WriteFlags{})
	do("write", err)
	do("fallocate", x.fs.Fallocate(bg, v, f, 0, 0, 99))
	_, err = x.fs.CopyRange(bg, x.view, 99, 0, v, f, 0, 1, root)
	do("copy", err)
	do("setxattr", x.fs.Setxattr(bg, v, f, "", nil, 99))
	do("removexattr", x.fs.Removexattr(bg, v, f, ""))
	return errs
}

func TestSnapshotsRefuseEveryChange(t *testing.T) {
	x := newFixture(t)
	f := x.create("f", "data")
	s, err := x.vol.CreateSnapshot(bg, x.view, "s")
	x.must(err)
	for what, err := range changing(x, s, f) {
		x.want(what, err, ErrReadOnly)
	}
	x.want("forget", x.fs.Forget(bg, s, f), nil)
	x.want("fsync", x.fs.Fsync(bg, s, f), nil)
	x.want("clean orphans", x.fs.CleanOrphans(bg, s), nil)
}

func TestAViewThatIsGoneIsStale(t *testing.T) {
	x := newFixture(t)
	f := x.create("f", "data")
	s, err := x.vol.CreateSnapshot(bg, x.view, "s")
	x.must(err)
	k, err := x.vol.CreateFork(bg, x.view, "k")
	x.must(err)
	d, err := x.fs.OpenDir(bg, s, snap.RootIno)
	x.must(err)
	x.must(x.vol.DeleteSnapshot(bg, x.view, "s"))
	x.must(x.vol.DeleteFork(bg, x.view, "k"))
	x.want("readdir", d.Read(bg, 0, func(Dirent) bool { return true }), ErrStale)
	d.Close()
	for _, v := range []*snap.View{s, k} {
		errs := changing(x, v, f)
		_, errs["lookup"] = x.fs.Lookup(bg, v, 1, "f")
		_, errs["getattr"] = x.fs.Getattr(bg, v, f)
		_, errs["readlink"] = x.fs.Readlink(bg, v, f)
		_, errs["read"] = x.fs.Read(bg, v, f, make([]byte, 1), 0)
		_, errs["seek"] = x.fs.Seek(bg, v, f, 0, SeekData)
		_, errs["copy from"] = x.fs.CopyRange(bg, v, f, 0, x.view, f, 9, 1, root)
		errs["fsync"] = x.fs.Fsync(bg, v, f)
		_, errs["opendir"] = x.fs.OpenDir(bg, v, 1)
		_, errs["getxattr"] = x.fs.Getxattr(bg, v, f, "user.a")
		_, errs["listxattr"] = x.fs.Listxattr(bg, v, f)
		_, errs["statfs"] = x.fs.Statfs(bg, v)
		errs["clean orphans"] = x.fs.CleanOrphans(bg, v)
		for what, err := range errs {
			x.want(what, err, ErrStale)
		}
		x.want("forget", x.fs.Forget(bg, v, f), nil)
	}
}

func TestSnapshotsAndForksStandApart(t *testing.T) {
	x := newFixture(t)
	x.mkdir("d")
	f := x.create("d/f", "one")
	s, err := x.vol.CreateSnapshot(bg, x.view, "s")
	x.must(err)
	x.write(f, "two", 0)
	x.must(x.rename("d", "e", 0))
	k, err := x.vol.CreateFork(bg, s, "k")
	x.must(err)
	x.view = k
	x.write(f, "six", 0)
	x.create("d/g", "")
	for _, c := range []struct {
		v          *snap.View
		path, want string
	}{{x.vol.Main(), "e/f", "two"}, {s, "d/f", "one"}, {k, "d/f", "six"}} {
		x.view = c.v
		if got := x.content(x.ino(c.path)); got != c.want {
			t.Errorf("view %q: got %q, want %q", c.v.Name(), got, c.want)
		}
		x.check()
	}
}
