package inode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"dcfs/dcdb"
	"dcfs/snap"
)

// Check walks a view and calls report for every invariant of the package
// comment that does not hold. Nothing may change the view meanwhile, so the
// live view of a volume in use is checked by a snapshot of it. It keeps a few
// words of memory for each inode. The error is that of a walk that could not
// go on.
func (f *FS) Check(ctx context.Context, v *snap.View, report func(problem string)) error {
	c := &checker{f: f, v: v, report: report, named: map[uint64]uint32{}}
	c.dirs = []uint64{snap.RootIno}
	for len(c.dirs) > 0 {
		dir := c.dirs[len(c.dirs)-1]
		c.dirs = c.dirs[:len(c.dirs)-1]
		if err := c.directory(ctx, dir); err != nil {
			return op{"check", dir, ""}.wrap(err)
		}
	}
	for ino, names := range c.named {
		if err := c.inode(ctx, ino, names); err != nil {
			return op{"check", ino, ""}.wrap(err)
		}
	}
	if err := c.contents(ctx, snap.RootIno); err != nil {
		return op{"check", snap.RootIno, ""}.wrap(err)
	}
	return op{"check", snap.OrphanIno, ""}.wrap(c.orphans(ctx))
}

type checker struct {
	f      *FS
	v      *snap.View
	report func(string)
	dirs   []uint64          // found and not yet walked
	named  map[uint64]uint32 // inodes, directories too, and the number of entries that name them
}

func (c *checker) problem(ino uint64, format string, args ...any) {
	c.report(fmt.Sprintf("%s: inode %d: %s", c.v.Name(), ino, fmt.Sprintf(format, args...)))
}

// directory verifies what a directory says of itself and its entries.
func (c *checker) directory(ctx context.Context, ino uint64) error {
	frozen, err := c.f.space.Freeze(ctx, c.v.Key(ino))
	if err != nil {
		return err
	}
	defer frozen.Close()
	a := *frozen.Attr()
	if ino == snap.RootIno && a.Parent != ino {
		c.problem(ino, "the root's parent is %d", a.Parent) // (4)
	}
	list, err := c.list(ctx, ino, frozen)
	if err != nil {
		return err
	}
	subdirs := uint32(0)
	cookies := make(map[uint64]bool, len(list))
	for _, e := range list {
		if cookies[e.cookie] || e.cookie < firstCookie || e.cookie >= a.NextCookie {
			c.problem(ino, "entry %q: cookie %d is not unique or not in [%d, %d)", e.name, e.cookie, firstCookie, a.NextCookie) // (6)
		}
		cookies[e.cookie] = true
		subdirs += subdir(e.mode)
		if err := c.entry(ctx, e); err != nil {
			return err
		}
	}
	if a.Size != uint64(len(list)) {
		c.problem(ino, "size %d, but %d entries", a.Size, len(list)) // (3)
	}
	if a.Nlink != 2+subdirs {
		c.problem(ino, "link count %d, but %d subdirectories", a.Nlink, subdirs) // (2)
	}
	return nil
}

// list returns the entries of a frozen directory.
func (c *checker) list(ctx context.Context, ino uint64, frozen *dcdb.Frozen) ([]entry, error) {
	var list []entry
	err := frozen.Ascend(ctx, dcdb.KindDirent, "", func(name string, val []byte) bool {
		d, err := decodeDirent(val)
		if err != nil {
			c.problem(ino, "entry %q: %v", name, err)
			return true
		}
		list = append(list, entry{dir: ino, name: name, dirent: d, used: true})
		return true
	})
	return list, err
}

// entry verifies that an entry names an inode of its type, and queues what is
// to be looked at after it.
func (c *checker) entry(ctx context.Context, e entry) error {
	if err := checkName(e.name, ErrInvalid, ErrInvalid); err != nil {
		c.problem(e.dir, "entry %q: %v", e.name, err)
	}
	a, ok, err := c.attr(ctx, e.ino)
	if err != nil {
		return err
	}
	if !ok || e.ino == snap.RootIno || e.ino == snap.OrphanIno {
		c.problem(e.dir, "entry %q names inode %d, which is missing or has no name", e.name, e.ino) // (1)
		return nil
	}
	if a.Mode&syscall.S_IFMT != e.mode {
		c.problem(e.dir, "entry %q has type %o, its inode %d mode %o", e.name, e.mode, e.ino, a.Mode) // (1)
	}
	c.named[e.ino]++
	if !isDir(a.Mode) {
		return nil
	}
	if c.named[e.ino] > 1 {
		c.problem(e.ino, "a directory with a further name %d/%q", e.dir, e.name) // (2)
		return nil
	}
	c.dirs = append(c.dirs, e.ino)
	return nil
}

// attr returns the attributes of an inode, false if it does not exist.
func (c *checker) attr(ctx context.Context, ino uint64) (a dcdb.Attr, ok bool, err error) {
	err = c.f.space.View(ctx, func(tx *dcdb.Tx) error {
		db, err := tx.DB(c.v.Key(ino))
		if err == nil {
			a = *db.Attr()
		}
		return err
	})
	return a, err == nil, ignoreMissing(err)
}

// inode verifies what an inode knows of its names and what is in it.
func (c *checker) inode(ctx context.Context, ino uint64, names uint32) error {
	frozen, err := c.f.space.Freeze(ctx, c.v.Key(ino))
	if err != nil {
		return err
	}
	defer frozen.Close()
	a := frozen.Attr()
	if !isDir(a.Mode) && a.Nlink != names {
		c.problem(ino, "link count %d, but %d names", a.Nlink, names) // (2)
	}
	links := []place{{a.Parent, a.Name}}
	err = frozen.Ascend(ctx, dcdb.KindLink, "", func(key string, _ []byte) bool {
		p, err := placeOf(key)
		if err != nil || p == links[0] {
			c.problem(ino, "link %q is bad or the first one again", key) // (4)
		}
		links = append(links, p)
		return true
	})
	if err != nil {
		return err
	}
	if err := c.links(ctx, ino, links, names); err != nil {
		return err
	}
	return c.contents(ctx, ino)
}

// links verifies invariant (4): as many links as entries, each at an entry
// that names the inode. No two links are equal, so there are no others.
func (c *checker) links(ctx context.Context, ino uint64, links []place, names uint32) error {
	if len(links) != int(names) {
		c.problem(ino, "it knows of %d links, but has %d names", len(links), names)
	}
	for _, p := range links {
		var e entry
		err := c.f.space.View(ctx, func(tx *dcdb.Tx) (err error) {
			e, err = readEntry(tx, c.v, p.parent, p.name)
			return err
		})
		damage := errors.Is(err, ErrNotDir) || errors.Is(err, ErrStale) || errors.Is(err, errDirent)
		if err != nil && !damage && ignoreMissing(err) != nil {
			return err
		}
		if err != nil || !e.used || e.ino != ino {
			c.problem(ino, "its link %d/%q does not name it", p.parent, p.name)
		}
	}
	return nil
}

// contents verifies invariants (7) to (9).
func (c *checker) contents(ctx context.Context, ino uint64) error {
	var problems []string
	err := c.f.space.View(ctx, func(tx *dcdb.Tx) (err error) {
		db, err := tx.DB(c.v.Key(ino))
		if err != nil {
			return err
		}
		problems, err = contentProblems(db)
		return err
	})
	for _, p := range problems {
		c.problem(ino, "%s", p)
	}
	return err
}

func contentProblems(db *dcdb.DB) (problems []string, err error) {
	a := db.Attr()
	_, caps, err := db.Get(dcdb.KindXattr, capabilityXattr)
	if err != nil {
		return nil, err
	}
	if caps != (a.Flags&FlagCapability != 0) {
		problems = append(problems, fmt.Sprintf("flags %#x, but capabilities: %v", a.Flags, caps))
	}
	acls, err := aclProblems(db)
	if err != nil {
		return nil, err
	}
	problems = append(problems, acls...)
	text, _, err := db.Get(dcdb.KindText, "")
	if err != nil {
		return nil, err
	}
	switch {
	case isDir(a.Mode):
	case isReg(a.Mode) && a.Size > MaxFileBytes:
		problems = append(problems, fmt.Sprintf("size %d", a.Size))
	case !isReg(a.Mode) && a.Size != uint64(len(text)):
		problems = append(problems, fmt.Sprintf("size %d, but a target of %d bytes", a.Size, len(text)))
	}
	return problems, nil
}

// orphans verifies invariant (5).
func (c *checker) orphans(ctx context.Context) error {
	frozen, err := c.f.space.Freeze(ctx, c.v.Key(snap.OrphanIno))
	if err != nil {
		return err
	}
	defer frozen.Close()
	var keys []string
	err = frozen.Ascend(ctx, dcdb.KindDirent, "", func(key string, val []byte) bool {
		e, err := decodeDirent(val)
		if err != nil || key != orphanKey(e.ino) {
			c.problem(snap.OrphanIno, "entry %x of inode %d: %v", key, e.ino, err)
			return true
		}
		keys = append(keys, key)
		return true
	})
	if err != nil {
		return err
	}
	if size := frozen.Attr().Size; size != uint64(len(keys)) {
		c.problem(snap.OrphanIno, "size %d, but %d entries", size, len(keys)) // (3)
	}
	for _, key := range keys {
		if err := c.orphan(ctx, binary.BigEndian.Uint64([]byte(key))); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) orphan(ctx context.Context, ino uint64) error {
	a, ok, err := c.attr(ctx, ino)
	switch {
	case err != nil:
		return err
	case !ok:
		c.problem(ino, "an orphan that is missing")
	case a.Nlink != 0 || a.Parent != 0 || a.Name != "" || c.named[ino] != 0:
		c.problem(ino, "an orphan with %d links, the first %d/%q, and %d names", a.Nlink, a.Parent, a.Name, c.named[ino])
	case isDir(a.Mode) && a.Size != 0:
		c.problem(ino, "an orphaned directory with %d entries", a.Size)
	}
	return nil
}
