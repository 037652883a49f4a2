package inode

import (
	"strings"
	"testing"

	"dcfs/dcdb"
	"dcfs/snap"
)

// TestCheckFindsDamage breaks each invariant and wants a line about it.
func TestCheckFindsDamage(t *testing.T) {
	for _, c := range []struct {
		name  string
		harm  func(x *fixture, tx *dcdb.Tx)
		found string
	}{
		{"entry of nothing", func(x *fixture, tx *dcdb.Tx) { x.putDirent(tx, "x", dirent{99, 0100000, 90}) }, "missing"},
		{"entry of the wrong type", func(x *fixture, tx *dcdb.Tx) { x.putDirent(tx, "f", dirent{x.f, 0010000, 90}) }, "has type"},
		{"bad entry", func(x *fixture, tx *dcdb.Tx) { x.db(tx, 1).Put(dcdb.KindDirent, "f", []byte{9}) }, "bad dirent"},
		{"bad name", func(x *fixture, tx *dcdb.Tx) { x.putDirent(tx, "a/b", dirent{x.f, 0100000, 90}) }, "invalid"},
		{"cookie twice", func(x *fixture, tx *dcdb.Tx) { x.putDirent(tx, "f", dirent{x.f, 0100000, 4}) }, "cookie"},
		{"link count", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.f).Edit().Nlink = 7 }, "link count 7"},
		{"link count of a directory", func(x *fixture, tx *dcdb.Tx) { x.db(tx, 1).Edit().Nlink = 7 }, "subdirectories"},
		{"size of a directory", func(x *fixture, tx *dcdb.Tx) { x.db(tx, 1).Edit().Size = 7 }, "entries"},
		{"parent", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.d).Edit().Parent = x.d }, "does not name it"},
		{"name", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.f).Edit().Name = "g" }, "first one again"},
		{"link too many", func(x *fixture, tx *dcdb.Tx) { putLink(x.db(tx, x.f), place{1, "q"}) }, "knows of"},
		{"second name of a directory", func(x *fixture, tx *dcdb.Tx) { x.putDirent(tx, "x", dirent{x.d, 0040000, 90}) }, "further name"},
		{"named orphan", func(x *fixture, tx *dcdb.Tx) { x.putDirent(tx, "x", dirent{x.o, 0100000, 90}) }, "orphan with"},
		{"orphan with links", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.o).Edit().Nlink = 1 }, "orphan with"},
		{"missing orphan", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.o).Delete() }, "orphan that is missing"},
		{"size of the orphan directory", func(x *fixture, tx *dcdb.Tx) { x.db(tx, snap.OrphanIno).Edit().Size = 9 }, "size 9"},
		{"capability flag", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.f).Edit().Flags |= FlagCapability }, "capabilities"},
		{"ACL flag", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.f).Edit().Flags |= FlagDefaultACL }, "posix_acl_default: false"},
		{"bad ACL", func(x *fixture, tx *dcdb.Tx) { x.putACL(tx, x.f, accessXattr, nil) }, "is bad"},
		{"ACL that is not the mode's", func(x *fixture, tx *dcdb.Tx) {
			x.putACL(tx, x.f, accessXattr, aclOf(x, "u::--- g::r-- m::r-- o::r--").encode())
		}, "an access ACL of mode 44"},
		{"default ACL of a file", func(x *fixture, tx *dcdb.Tx) {
			x.putACL(tx, x.f, defaultXattr, aclOf(x, "u::--- g::r-- o::r--").encode())
		}, "but system.posix_acl_default"},
		{"size of a symlink", func(x *fixture, tx *dcdb.Tx) { x.db(tx, x.l).Edit().Size = 1 }, "target of"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newCheckFixture(t)
			x.check()
			x.must(x.fs.space.Update(bg, func(tx *dcdb.Tx) error {
				if err := x.touchAll(tx); err != nil {
					return err
				}
				c.harm(x, tx)
				return nil
			}))
			var found []string
			x.must(x.fs.Check(bg, x.view, func(p string) { found = append(found, p) }))
			if !strings.Contains(strings.Join(found, "\n"), c.found) {
				t.Errorf("check found %q, want one with %q", found, c.found)
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

// newCheckFixture makes a file system with an inode of each sort.
func newCheckFixture(t *testing.T) *fixture {
	x := newFixture(t)
	x.f, x.d, x.o = x.create("f", "data"), x.mkdir("d"), x.create("o", "")
	l, err := x.fs.Symlink(bg, x.view, snap.RootIno, "l", root, "target")
	x.must(err)
	x.l = l.Ino
	x.must(x.link("f", "g"))
	x.must(x.unlink("o"))
	return x
}

// touchAll reads what the harms change, as Update demands.
func (x *fixture) touchAll(tx *dcdb.Tx) error {
	for _, ino := range []uint64{1, x.f, x.d, x.o, x.l, snap.OrphanIno} {
		if _, err := tx.DB(x.view.Key(ino)); err != nil {
			return err
		}
	}
	for _, name := range []string{"f", "x", "a/b"} {
		if _, _, err := x.db(tx, 1).Get(dcdb.KindDirent, name); err != nil {
			return err
		}
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
