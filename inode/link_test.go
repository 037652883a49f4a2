package inode

import (
	"fmt"
	"testing"

	"dcfs/snap"
)

// TestLinksAreKnownWhateverIsDoneToThem: the first link may go, move and be
// replaced as any other; Check compares what the inode remembers.
func TestLinksAreKnownWhateverIsDoneToThem(t *testing.T) {
	x := newFixture(t)
	x.mkdir("d")
	x.mkdir("e")
	f := x.create("d/a", "data")
	steps := []struct {
		what  string
		do    func() error
		nlink uint32
	}{
		{"link", func() error { return x.link("d/a", "d/b") }, 2},
		{"link elsewhere", func() error { return x.link("d/b", "e/a") }, 3},
		{"rename the first", func() error { return x.rename("d/a", "e/z", 0) }, 3},
		{"rename another", func() error { return x.rename("d/b", "b", 0) }, 3},
		{"unlink the first", func() error { return x.unlink("e/z") }, 2},
		{"link again", func() error { return x.link("b", "e/z") }, 3},
		{"rename onto another link", func() error { return x.rename("b", "e/z", 0) }, 3},
		{"replace one", func() error { x.create("g", ""); return x.rename("g", "b", 0) }, 2},
		{"exchange one", func() error { return x.rename("b", "e/z", RenameExchange) }, 2},
		{"unlink", func() error { return x.unlink("b") }, 1},
		{"unlink the last", func() error { return x.unlink("e/a") }, 0},
	}
	for _, s := range steps {
		x.want(s.what, s.do(), nil)
		a, err := x.fs.Getattr(bg, x.view, f)
		x.must(err)
		if a.Nlink != s.nlink {
			t.Errorf("%s: link count %d, want %d", s.what, a.Nlink, s.nlink)
		}
		x.check()
	}
	if got := x.content(f); got != "data" {
		t.Errorf("got %q, want the data of the open file", got)
	}
	x.write(f, "more", 4)
	x.must(x.fs.Forget(bg, x.view, f))
	_, err := x.fs.Getattr(bg, x.view, f)
	x.want("getattr after Forget", err, ErrStale)
	x.check()
}

func TestDirectoriesGetNoFurtherLink(t *testing.T) {
	x := newFixture(t)
	x.mkdir("d")
	x.want("link", x.link("d", "e"), ErrPermission)
	x.want("link onto", x.link("d", "d"), ErrExist)
}

func TestUnlinkAndRmdirKeepApart(t *testing.T) {
	x := newFixture(t)
	x.mkdir("d")
	x.create("d/f", "")
	x.want("unlink of a directory", x.unlink("d"), ErrIsDir)
	x.want("rmdir of a file", x.rmdir("d/f"), ErrNotDir)
	x.want("rmdir of a full directory", x.rmdir("d"), ErrNotEmpty)
	x.want("unlink of nothing", x.unlink("x"), ErrNotExist)
	x.want("rmdir of nothing", x.rmdir("x"), ErrNotExist)
	x.must(x.unlink("d/f"))
	x.must(x.rmdir("d"))
	x.check()
}

func TestManyLinks(t *testing.T) {
	x := newFixture(t)
	n := 70000
	if testing.Short() {
		n = 5000
	}
	d := x.mkdir("d")
	f := x.create("f", "")
	for i := range n {
		_, err := x.fs.Link(bg, x.view, f, d, fmt.Sprint(i))
		x.must(err)
	}
	if a := x.stat("f"); a.Nlink != uint32(n)+1 {
		t.Errorf("link count %d, want %d", a.Nlink, n+1)
	}
	x.must(x.unlink("f")) // the first
	x.check()
}

func TestTmpfileIsLinkedOrGoes(t *testing.T) {
	x := newFixture(t)
	x.mkdir("d")
	for _, c := range []struct{ link bool }{{true}, {false}} {
		a, err := x.fs.Tmpfile(bg, x.view, x.ino("d"), user, 0640)
		x.must(err)
		if a.Nlink != 0 || a.UID != 1000 {
			t.Errorf("tmpfile: %+v", a)
		}
		x.write(a.Ino, "data", 0)
		x.check()
		if c.link {
			l, err := x.fs.Link(bg, x.view, a.Ino, snap.RootIno, "f")
			x.must(err)
			if l.Nlink != 1 {
				t.Errorf("linked: link count %d", l.Nlink)
			}
		}
		x.must(x.fs.Forget(bg, x.view, a.Ino))
		_, err = x.fs.Getattr(bg, x.view, a.Ino)
		if c.link {
			x.want("getattr of the linked one", err, nil)
		} else {
			x.want("getattr of the other", err, ErrStale)
		}
		x.check()
	}
	if got := x.content(x.ino("f")); got != "data" {
		t.Errorf("got %q", got)
	}
}

func TestForgetHarmsNothingThatHasAName(t *testing.T) {
	x := newFixture(t)
	f := x.create("f", "data")
	for _, ino := range []uint64{f, f, snap.RootIno, snap.OrphanIno, 4711} {
		x.must(x.fs.Forget(bg, x.view, ino))
	}
	if got := x.content(f); got != "data" {
		t.Errorf("got %q", got)
	}
	x.check()
}

func TestCleanOrphansTakesWhatACrashLeft(t *testing.T) {
	x := newFixture(t)
	x.mkdir("d")
	x.must(x.rmdir("d"))
	for i := range orphansPerStep/2 + 10 {
		_, err := x.fs.Tmpfile(bg, x.view, snap.RootIno, root, 0600)
		x.must(err)
		x.create(fmt.Sprint(i), "x")
		x.must(x.unlink(fmt.Sprint(i)))
	}
	kept := x.create("kept", "data")
	s, err := x.vol.CreateSnapshot(bg, x.view, "s")
	x.must(err)
	f, err := x.vol.CreateFork(bg, s, "f")
	x.must(err)
	x.must(x.fs.CleanOrphans(bg, x.view))
	x.must(x.fs.CleanOrphans(bg, s))
	for v, want := range map[*snap.View]int{x.view: 0, s: orphansPerStep + 21, f: orphansPerStep + 21} {
		if got := x.orphans(v); got != want {
			t.Errorf("view %q has %d orphans, want %d", v.Name(), got, want)
		}
		x.must(x.fs.Check(bg, v, func(p string) { t.Errorf("check: %s", p) }))
	}
	x.must(x.fs.CleanOrphans(bg, f))
	if got := x.orphans(f); got != 0 {
		t.Errorf("the fork still has %d orphans", got)
	}
	if got := x.content(kept); got != "data" {
		t.Errorf("got %q", got)
	}
}

func (x *fixture) orphans(v *snap.View) int {
	x.Helper()
	lines, err := dumpView(x.fs, v)
	x.must(err)
	n := 0
	for _, l := range lines {
		var ino, mode, nlink uint64
		fmt.Sscanf(l, "%d mode %o nlink %d", &ino, &mode, &nlink)
		if nlink == 0 {
			n++
		}
	}
	return n
}
