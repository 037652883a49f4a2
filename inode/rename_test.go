package inode

import (
	"syscall"
	"testing"

	"dcfs/snap"
)

// TestRenameRules: every rule of rename(2) and renameat2(2), on one tree.
func TestRenameRules(t *testing.T) {
	const nr, ex = RenameNoReplace, RenameExchange
	for _, c := range []struct {
		from, to string
		flags    uint32
		want     error
	}{
		{"f", "new", 0, nil},
		{"d", "new", 0, nil},
		{"f", "g", 0, nil},
		{"f", "f", 0, nil},
		{"d", "d", 0, nil},
		{"d", "empty", 0, nil},
		{"d", "full", 0, ErrNotEmpty},
		{"f", "empty", 0, ErrIsDir},
		{"d", "f", 0, ErrNotDir},
		{"d", "d/sub/x", 0, ErrInvalid},
		{"d", "d/x", 0, ErrInvalid},
		{"d/sub", "d", 0, ErrNotEmpty},
		{"d/sub/deep", "d", 0, ErrNotEmpty},
		{"d/file", "d", 0, ErrNotEmpty}, // an ancestor of the source, seen before the types
		{"missing", "new", 0, ErrNotExist},
		{"missing", "f", 0, ErrNotExist},
		{"f", "d/f", 0, nil},
		{"f", "new", nr, nil},
		{"f", "g", nr, ErrExist},
		{"f", "f", nr, ErrExist},
		{"f", "missing", ex, ErrNotExist},
		{"f", "g", ex, nil},
		{"f", "full", ex, nil},
		{"d", "full", ex, nil},
		{"d/sub", "f", ex, nil},
		{"f", "d/sub", ex, nil},
		{"d/sub", "full", ex, nil},
		{"d", "d/sub", ex, ErrInvalid},
		{"d/sub", "d", ex, ErrInvalid},
		{"d/sub/deep", "d", ex, ErrInvalid},
		{"hard", "f", 0, nil},
		{"hard", "f", nr, ErrExist},
		{"hard", "f", ex, nil},
		{"f", "new", nr | ex, ErrInvalid},
		{"f", "new", 4, ErrInvalid}, // RENAME_WHITEOUT: see RenameWhiteout
		{"f", "new", 8, ErrInvalid},
	} {
		x := newFixture(t)
		for _, d := range []string{"d", "d/sub", "d/sub/deep", "empty", "full"} {
			x.mkdir(d)
		}
		for _, f := range []string{"f", "g", "full/x", "d/file"} {
			x.create(f, f)
		}
		x.must(x.link("f", "hard"))
		from, _ := x.lookup(c.from)
		to, _ := x.lookup(c.to)
		x.want("rename "+c.from+" "+c.to, x.rename(c.from, c.to, c.flags), c.want)
		x.renamed(c.from, c.to, from.Ino, to.Ino, c.want == nil, c.flags)
		x.check()
	}
}

// renamed verifies what two names lead to after a rename.
func (x *fixture) renamed(from, to string, ino, old uint64, done bool, flags uint32) {
	x.Helper()
	if !done || ino == old {
		return
	}
	if got := x.ino(to); got != ino {
		x.Errorf("%s to %s: the new name leads to %d, want %d", from, to, got, ino)
	}
	a, err := x.lookup(from)
	if flags == RenameExchange && a.Ino != old {
		x.Errorf("%s to %s: the old name leads to %d, want %d", from, to, a.Ino, old)
	}
	if flags != RenameExchange && !isErr(err, ErrNotExist) {
		x.Errorf("%s to %s: the old name is there: %v", from, to, err)
	}
}

func TestRenameTellsWhatItReplaced(t *testing.T) {
	x := newFixture(t)
	x.create("a", "")
	b := x.create("b", "old")
	x.must(x.link("b", "c"))
	for _, c := range []struct {
		from, to string
		ino      uint64
		last     bool
	}{{"a", "b", b, false}, {"b", "c", b, true}, {"c", "d", 0, false}} {
		ino, last, err := x.fs.Rename(bg, x.view, snap.RootIno, c.from, snap.RootIno, c.to, 0)
		x.must(err)
		if ino != c.ino || last != c.last {
			t.Errorf("rename %s %s: replaced %d, last %v, want %d, %v", c.from, c.to, ino, last, c.ino, c.last)
		}
	}
	if got := x.content(b); got != "old" {
		t.Errorf("the replaced file has %q, want its data until Forget", got)
	}
	x.check()
	x.must(x.fs.Forget(bg, x.view, b))
	_, err := x.fs.Getattr(bg, x.view, b)
	x.want("getattr after Forget", err, ErrStale)
	x.check()
}

func TestAReplacedDirectoryBecomesAnOrphan(t *testing.T) {
	x := newFixture(t)
	x.mkdir("a")
	b := x.mkdir("b")
	ino, last, err := x.fs.Rename(bg, x.view, snap.RootIno, "a", snap.RootIno, "b", 0)
	x.must(err)
	if ino != b || !last {
		t.Errorf("replaced %d, last %v, want %d, true", ino, last, b)
	}
	_, err = x.fs.Mknod(bg, x.view, b, "f", root, 0644, 0)
	x.want("mknod in it", err, ErrNotExist)
	x.check()
	x.must(x.fs.Forget(bg, x.view, b))
	x.check()
}

func TestRenameInADirectoryKeepsAReplacedNamesPlace(t *testing.T) {
	x := newFixture(t)
	x.create("a", "")
	x.create("b", "")
	_, cookies := x.cookies()
	x.must(x.rename("a", "b", 0))
	if _, after := x.cookies(); after["b"] != cookies["b"] {
		t.Errorf("cookie of b was %d, is %d", cookies["b"], after["b"])
	}
	x.must(x.rename("b", "a", 0))
	if _, after := x.cookies(); after["a"] == cookies["a"] || after["a"] == cookies["b"] {
		t.Errorf("a new entry got cookie %d, one that was used", after["a"])
	}
}

// cookies returns the names in the root and their cookies.
func (x *fixture) cookies() ([]string, map[string]uint64) {
	x.Helper()
	d, err := x.fs.OpenDir(bg, x.view, snap.RootIno)
	x.must(err)
	defer d.Close()
	var names []string
	at := map[string]uint64{}
	x.must(d.Read(bg, 0, func(e Dirent) bool {
		names = append(names, e.Name)
		at[e.Name] = e.Cookie
		return true
	}))
	return names, at
}

// TestRenameLeavesAWhiteout: RENAME_WHITEOUT leaves a character device 0:0
// under the old name, and does else what a rename does.
func TestRenameLeavesAWhiteout(t *testing.T) {
	for _, c := range []struct {
		from, to string
		flags    uint32
		want     error
	}{
		{"d/f", "d/new", 0, nil},
		{"d/f", "new", 0, nil},
		{"d/sub", "d/new", 0, nil},
		{"d/sub", "e/new", 0, nil},
		{"d/f", "e/g", 0, nil},
		{"d/sub", "e/empty", 0, nil},
		{"d/f", "new", RenameNoReplace, nil},
		{"d/f", "e/g", RenameNoReplace, ErrExist},
		{"d/f", "e/g", RenameExchange, ErrInvalid},
		{"d", "d/sub/x", 0, ErrInvalid},
		{"d/no", "new", 0, ErrNotExist},
	} {
		x := newFixture(t)
		for _, d := range []string{"d", "d/sub", "e", "e/empty"} {
			x.mkdir(d)
		}
		x.create("d/f", "text")
		x.create("e/g", "other")
		dir, name := x.split(c.from)
		newdir, newname := x.split(c.to)
		moved, _ := x.lookup(c.from)
		before := x.list(dir)
		cred := Cred{UID: 7, GID: 8}
		_, _, err := x.fs.RenameWhiteout(bg, x.view, dir, name, newdir, newname, c.flags, cred)
		what := c.from + " to " + c.to
		x.want(what, err, c.want)
		if err == nil {
			if a := x.stat(c.from); a.Mode != syscall.S_IFCHR || a.Rdev != 0 || a.Nlink != 1 || a.UID != 7 || a.GID != 8 {
				t.Errorf("%s: left behind is %+v, want a whiteout of 7:8", what, a)
			}
			if a := x.stat(c.to); a.Ino != moved.Ino {
				t.Errorf("%s: arrived is %d, want %d", what, a.Ino, moved.Ino)
			}
			if got := x.list(dir); len(got) < len(before) {
				t.Errorf("%s: the directory lists %q, before %q", what, got, before)
			}
			x.must(x.unlink(c.from)) // it is a file like others
		}
		x.check()
	}
}
