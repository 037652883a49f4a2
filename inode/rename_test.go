package inode

import (
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
		{"f", "new", 4, ErrInvalid}, // RENAME_WHITEOUT
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
