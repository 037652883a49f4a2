package inode

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
	"dcfs/snap"
	"dcfs/spill"
)

// harms break each invariant of the package comment. A check finds them, and one
// that mends mends some of them.
var harms = []struct {
	name  string
	harm  func(x *fixture, tx *dcdb.Tx)
	found string
	mends bool
}{
	{"(1) entry of nothing", func(x *fixture, tx *dcdb.Tx) { x.addDirent(tx, "x", dirent{99, 0100000, 90}) }, "missing", false},
	{"(1) entry of the root", func(x *fixture, tx *dcdb.Tx) { x.addDirent(tx, "x", dirent{1, 0040000, 90}) }, "has no name", false},
	{"(1) entry of the wrong type", func(x *fixture, tx *dcdb.Tx) { x.putDirent(tx, "f", dirent{x.f, 0010000, 90}) }, "has type", false},
	{"bad entry", func(x *fixture, tx *dcdb.Tx) { x.db(tx, 1).Put(dcdb.KindDirent, "f", []byte{9}) }, "bad dirent", false},
	{"bad name", func(x *fixture, tx *dcdb.Tx) {
		x.addDirent(tx, "a/b", dirent{x.f, 0100000, 90})
		x.db(tx, x.f).Edit().Nlink++
		putLink(x.db(tx, x.f), place{1, "a/b"})
	}, "invalid", false},
	{"(2) link count", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.f).Edit().Nlink = 7 }, "link count 7", true},
	{"(2) link count too low", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.f).Edit().Nlink = 1 }, "link count 1", true},
	{"(2) link count of a directory", func(x *fixture, tx *dcdb.Tx) { x.db(tx, 1).Edit().Nlink = 7 }, "subdirectories", true},
	{"(2) link count 0 of a directory", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.e).Edit().Nlink = 0 }, "link count 0", true},
	{"(2) second name of a directory", func(x *fixture, tx *dcdb.Tx) { x.addDirent(tx, "x", dirent{x.d, 0040000, 90}) }, "of directory|does not know of this link", false},
	{"(3) size of a directory", func(x *fixture, tx *dcdb.Tx) { x.db(tx, 1).Edit().Size = 7 }, "entries", true},
	{"(3) size of the orphan directory", func(x *fixture, tx *dcdb.Tx) { x.db(tx, snap.OrphanIno).Edit().Size = 9 }, "size 9", true},
	{"(4) parent", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.d).Edit().Parent = x.d }, "does not name it", true},
	{"(4) parent of the root", func(x *fixture, tx *dcdb.Tx) { x.db(tx, 1).Edit().Parent = x.d }, "the root's parent", false},
	{"(4) name", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.f).Edit().Name = "g" }, "first one again", true},
	{"(4) link too many", func(x *fixture, tx *dcdb.Tx) { putLink(x.db(tx, x.f), place{1, "q"}) }, "does not name it", true},
	{"(4) link unknown", func(x *fixture, tx *dcdb.Tx) { removeLink(x.db(tx, x.f), place{1, "g"}) }, "know", true},
	{"(5) orphan with links", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.o).Edit().Nlink = 1 }, "orphan with", true},
	{"(5) missing orphan", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.o).Delete() }, "orphan that is missing", true},
	{"(5) orphan forgotten", func(x *fixture, tx *dcdb.Tx) {
		x.db(tx, snap.OrphanIno).Edit().Size--
		x.db(tx, snap.OrphanIno).Remove(dcdb.KindDirent, orphanKey(x.o))
	}, "no entry names it, and it is no orphan", true},
	{"(5) orphan with entries", func(x *fixture, tx *dcdb.Tx) {
		x.unname(tx, "d", 0040000)
		a := x.db(tx, x.d).Edit()
		a.Nlink, a.Parent, a.Name = 0, 0, ""
		x.db(tx, snap.OrphanIno).Edit().Size++
		x.db(tx, snap.OrphanIno).Put(dcdb.KindDirent, orphanKey(x.d), dirent{ino: x.d, mode: 0040000}.encode())
	}, "orphaned directory with entries", true},
	{"file that nothing names", func(x *fixture, tx *dcdb.Tx) { x.unname(tx, "l", 0) }, "no entry names it|does not name it", true},
	{"directory that nothing names", func(x *fixture, tx *dcdb.Tx) { x.unname(tx, "d", 0040000) }, "no entry names it|does not name it", true},
	{"circle", func(x *fixture, tx *dcdb.Tx) {
		x.unname(tx, "d", 0040000)
		a := x.db(tx, x.e).Edit()
		a.Size, a.Nlink, a.NextCookie = 1, 3, 4
		x.db(tx, x.e).Put(dcdb.KindDirent, "d", dirent{x.d, 0040000, 3}.encode())
		x.db(tx, x.d).Edit().Parent = x.e
	}, "above itself", false},
	{"(6) cookie twice", func(x *fixture, tx *dcdb.Tx) { x.putDirent(tx, "f", dirent{x.f, 0100000, 4}) }, "cookie", false},
	{"(6) cookie of the future", func(x *fixture, tx *dcdb.Tx) { x.putDirent(tx, "f", dirent{x.f, 0100000, 90}) }, "cookie 90 is not in", false},
	{"(7) capability flag", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.f).Edit().Flags |= FlagCapability }, "capabilities", false},
	{"(9) ACL flag", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.f).Edit().Flags |= FlagDefaultACL }, "posix_acl_default: false", false},
	{"(9) bad ACL", func(x *fixture, tx *dcdb.Tx) { x.putACL(tx, x.f, accessXattr, nil) }, "is bad", false},
	{"(9) ACL that is not the mode's", func(x *fixture, tx *dcdb.Tx) {
		x.putACL(tx, x.f, accessXattr, aclOf(x, "u::--- g::r-- m::r-- o::r--").encode())
	}, "an access ACL of mode 44", false},
	{"(9) default ACL of a file", func(x *fixture, tx *dcdb.Tx) {
		x.putACL(tx, x.f, defaultXattr, aclOf(x, "u::--- g::r-- o::r--").encode())
	}, "but system.posix_acl_default", false},
	{"(8) size of a symlink", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.l).Edit().Size = 1 }, "target of", false},
	{"(8) size of a file", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.f).Edit().Size = MaxFileBytes + 1 }, "size 17592186044417", false},
}

// TestCheckFindsDamage breaks each invariant and wants a line about it, from a
// check of all and from one of what is different from a snapshot before.
func TestCheckFindsDamage(t *testing.T) {
	for _, c := range harms {
		t.Run(c.name, func(t *testing.T) {
			x := newCheckFixture(t)
			x.check()
			base, err := x.vol.CreateSnapshot(bg, x.view, "base")
			x.must(err)
			x.harm(c.harm)
			for what, o := range map[string]CheckOptions{
				"all": {}, "with little memory": {Spill: spill.Options{Bytes: 50}}, "what is different": {Base: base},
			} {
				if found := x.problems(o); !regexp.MustCompile(c.found).MatchString(strings.Join(found, "\n")) {
					t.Errorf("check of %s finds %q, want one with %q", what, found, c.found)
				}
			}
		})
	}
}

// putACL puts val in place of an ACL, with its flag.
func (x *fixture) putACL(tx *dcdb.Tx, ino uint64, name string, val []byte) {
	db := x.db(tx, ino)
	db.Edit().Flags |= aclFlag(name)
	db.Put(dcdb.KindXattr, name, val)
}

// TestCheckMends mends what it can. A second check finds nothing then, and no inode
// is lost. What can't be mended is left alone.
func TestCheckMends(t *testing.T) {
	for _, c := range harms {
		t.Run(c.name, func(t *testing.T) {
			x := newCheckFixture(t)
			x.harm(c.harm)
			was := x.problems(CheckOptions{})
			var did []string
			x.problems(CheckOptions{Mended: func(line string) { did = append(did, line) }})
			if c.mends != (len(did) > 0) {
				t.Errorf("a check that mends did %q", did)
			}
			if !c.mends {
				if now := x.problems(CheckOptions{}); !slices.Equal(was, now) {
					t.Errorf("check finds %q, before %q", now, was)
				}
				return
			}
			x.check()
			for _, ino := range []uint64{x.f, x.d, x.e, x.l} {
				if a, err := x.fs.Getattr(bg, x.view, ino); err != nil || a.Nlink == 0 {
					t.Errorf("inode %d has link count %d, %v", ino, a.Nlink, err)
				}
			}
			if got := x.content(x.f); got != "data" {
				t.Errorf("the file has %q", got)
			}
			if strings.Contains(c.name, "nothing names") {
				if found := x.list(x.ino(lostFound)); len(found) != 1 {
					t.Errorf("/lost+found has %q, want one", found)
				}
			}
		})
	}
}

// TestMendingThatIsCutOff fails the store at each call of a check that mends. What
// the next process finds, a check mends.
func TestMendingThatIsCutOff(t *testing.T) {
	for _, c := range harms {
		if !c.mends {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			for n, done := 0, false; !done; n++ {
				mem := newMemory()
				fault := store.NewFault(mem)
				x := fixtureOn(t, fault)
				x.prepareCheck()
				x.harm(c.harm)
				x.must(x.fs.SyncAll(bg))
				fault.FailAfter(store.OpWrites, n, store.ErrInjected)
				err := x.fs.CheckView(bg, x.view, CheckOptions{
					Problem: func(string) {},
					Mended:  func(string) { x.fs.SyncAll(bg) }, // each in a group of its own
				})
				done = err == nil && fault.Failed() == 0
				crashed := mem.CrashAt(crashPoint(mem, n))
				x.vol.Close(bg) // it may have failed
				y := fixtureOn(t, crashed)
				y.problems(CheckOptions{Mended: func(string) {}})
				y.check()
				y.must(y.vol.Close(bg))
				if n == 1 && done {
					t.Error("nothing was written")
				}
			}
		})
	}
}

// fixtureOn opens a volume as a check that mends does. The caller closes it.
func fixtureOn(t *testing.T, st store.Store) *fixture {
	vol, err := snap.Open(bg, st, snap.Options{CommitInterval: time.Minute, Still: true})
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{TB: t, vol: vol, fs: New(vol, Options{}), view: vol.Main()}
}

// crashPoint is a group that a crash may leave as the last one.
func crashPoint(mem *store.Memory, n int) uint64 {
	groups := append([]uint64{0}, mem.Undurable()...)
	return groups[n%len(groups)]
}

// TestCheckGoesOnPastDamage wants the problem that can be found although something
// can't be read, and nothing mended by guess.
func TestCheckGoesOnPastDamage(t *testing.T) {
	mem := newMemory()
	x := fixtureOn(t, mem)
	x.prepareCheck()
	for range 200 { // /d is a tree of pages
		x.create("d/"+strings.Repeat("n", 100)+fmt.Sprint(len(x.list(x.d))), "")
	}
	x.harm(func(x *fixture, tx *dcdb.Tx) {
		x.db(tx, x.f).Edit().Nlink = 1
		x.unname(tx, "l", 0)
	})
	base, err := x.vol.CreateSnapshot(bg, x.view, "base")
	x.must(err)
	x.create("new", "")
	x.must(x.vol.Close(bg))
	for name, damage := range map[string]func(t *testing.T, mem *store.Memory) string{
		"page": func(t *testing.T, mem *store.Memory) string {
			ids, err := mem.List(bg, store.ID{}, 5)
			if err != nil || !mem.CorruptObject(ids[4], 60) {
				t.Fatal("no page to damage")
			}
			return "can't be read"
		},
		"head": func(t *testing.T, mem *store.Memory) string {
			recs, err := mem.Scan(bg, []byte("h"), []byte("i"), 100)
			if err != nil || !mem.CorruptRecord(recs[50].Key, 20) {
				t.Fatal("no head to damage")
			}
			return "not all inodes can be checked"
		},
	} {
		t.Run(name, func(t *testing.T) {
			mem := mem.Reopen()
			want := damage(t, mem)
			y := fixtureOn(t, mem)
			defer y.vol.Close(bg)
			for what, o := range map[string]CheckOptions{"check": {}, "mending": {Mended: func(l string) { t.Errorf("mended: %s", l) }}} {
				found := strings.Join(y.problems(o), "\n")
				if !strings.Contains(found, want) || !strings.Contains(found, "link count 1, but 2 names") {
					t.Errorf("%s finds %q", what, found)
				}
				if strings.Contains(found, "missing") || strings.Contains(found, "no entry names it") {
					t.Errorf("%s guesses %q", what, found)
				}
			}
			s, err := y.vol.Snapshot(y.view, base.Name())
			y.must(err)
			y.must(y.fs.CheckView(bg, s, CheckOptions{Problem: func(string) {}, Base: y.view}))
		})
	}
}

// newCheckFixture makes a file system with an inode of each sort.
func newCheckFixture(t *testing.T) *fixture {
	x := newFixture(t)
	x.prepareCheck()
	return x
}

func (x *fixture) prepareCheck() {
	x.f, x.d, x.o = x.create("f", "data"), x.mkdir("d"), x.create("o", "")
	x.e = x.mkdir("d/e")
	l, err := x.fs.Symlink(bg, x.view, snap.RootIno, "l", root, "target")
	x.must(err)
	x.l = l.Ino
	x.must(x.link("f", "g"))
	x.must(x.unlink("o"))
}

// problems checks the view.
func (x *fixture) problems(o CheckOptions) (found []string) {
	x.Helper()
	o.Problem = func(p string) { found = append(found, p) }
	x.must(x.fs.CheckView(bg, x.view, o))
	return found
}

// harm does what no operation does.
func (x *fixture) harm(fn func(x *fixture, tx *dcdb.Tx)) {
	x.Helper()
	x.must(x.fs.space.Update(bg, func(tx *dcdb.Tx) error {
		if err := x.touchAll(tx); err != nil {
			return err
		}
		fn(x, tx)
		return nil
	}))
}

// touchAll reads what the harms change, as Update demands.
func (x *fixture) touchAll(tx *dcdb.Tx) error {
	for _, ino := range []uint64{1, x.f, x.d, x.e, x.o, x.l, snap.OrphanIno} {
		if _, err := tx.DB(x.view.Key(ino)); err != nil {
			return err
		}
	}
	for _, name := range []string{"f", "x", "a/b", "l", "d"} {
		for _, dir := range []uint64{1, x.e} {
			if _, _, err := x.db(tx, dir).Get(dcdb.KindDirent, name); err != nil {
				return err
			}
		}
	}
	for _, ino := range []uint64{x.o, x.d} {
		if _, _, err := x.db(tx, snap.OrphanIno).Get(dcdb.KindDirent, orphanKey(ino)); err != nil {
			return err
		}
	}
	if err := readLink(x.db(tx, x.f), place{1, "g"}); err != nil {
		return err
	}
	if err := readLink(x.db(tx, x.f), place{1, "a/b"}); err != nil {
		return err
	}
	return readLink(x.db(tx, x.f), place{1, "q"})
}

// db returns a DCDB that touchAll has brought into memory.
func (x *fixture) db(tx *dcdb.Tx, ino uint64) *dcdb.DB {
	db, _ := tx.DB(x.view.Key(ino))
	return db
}

func (x *fixture) putDirent(tx *dcdb.Tx, name string, d dirent) {
	x.db(tx, 1).Put(dcdb.KindDirent, name, d.encode())
}

// addDirent adds an entry, and nothing but that is wrong with the root.
func (x *fixture) addDirent(tx *dcdb.Tx, name string, d dirent) {
	a := x.db(tx, 1).Edit()
	a.Size, a.NextCookie = a.Size+1, d.cookie+1
	a.Nlink += subdir(d.mode)
	x.putDirent(tx, name, d)
}

// unname takes an entry out of the root, and only that.
func (x *fixture) unname(tx *dcdb.Tx, name string, mode uint32) {
	a := x.db(tx, 1).Edit()
	a.Size--
	a.Nlink -= subdir(mode)
	x.db(tx, 1).Remove(dcdb.KindDirent, name)
}
