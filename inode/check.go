package inode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"dcfs/dcdb"
	"dcfs/snap"
	"dcfs/spill"
)

// CheckOptions say how a view is checked.
type CheckOptions struct {
	// Problem is called for every invariant of the package comment that does
	// not hold.
	Problem func(line string)
	// Mended is called for every problem that was mended; nil: none is to be.
	// Only those of a live view can be, and by a caller that nobody else uses
	// the volume with. See mend.
	Mended func(line string)
	// Base is a view of which it is known what is wrong with it: only what is
	// different is checked. nil: everything is.
	Base *snap.View
	// Progress is called for every inode that was looked at; may be nil.
	Progress func()
	Spill    spill.Options // the memory that is taken, about
}

// Check calls report for every invariant of the package comment that does not
// hold in a view.
func (f *FS) Check(ctx context.Context, v *snap.View, report func(problem string)) error {
	return f.CheckView(ctx, v, CheckOptions{Problem: report})
}

// CheckView verifies the invariants of the package comment in a view. Nothing may
// change the view meanwhile, so the live view of a volume in use is checked by a
// snapshot of it. Its memory is bounded by the options; what does not fit goes to
// a temporary file. What can't be read is a problem; the error is that of a check
// that could not go on.
func (f *FS) CheckView(ctx context.Context, v *snap.View, o CheckOptions) error {
	if err := f.space.SyncAll(ctx); err != nil { // inodes are listed as they are committed
		return op{"check", snap.RootIno, ""}.wrap(err)
	}
	c := &checker{f: f, v: v, o: o, rows: spill.New(findingBytes, o.Spill.Share(2))}
	defer c.rows.Close()
	walk := c.all
	if o.Base != nil {
		walk = c.changed
	}
	if err := walk(ctx); err != nil {
		return fmt.Errorf("check of %s: %w", v.Name(), err)
	}
	if o.Mended == nil {
		return nil
	}
	return f.SyncAll(ctx)
}

type checker struct {
	f    *FS
	v    *snap.View
	o    CheckOptions
	rows *spill.Sorter // findings
	row  []byte

	blind bool // something can't be read: who knows what it names
}

func (c *checker) problem(ino uint64, format string, args ...any) {
	c.o.Problem(fmt.Sprintf("%s: inode %d: %s", c.v.Name(), ino, fmt.Sprintf(format, args...)))
}

// What a finding says of an inode. Those of one inode are in this order.
const (
	foundInode  = 1 // it exists
	foundEntry  = 2 // directory other has an entry that names it, of type mode
	foundOrphan = 3 // the orphan directory has it
)

// finding is one thing that was found about an inode. It is a row of a
// spill.Sorter, which brings all about one inode together.
type finding struct {
	ino    uint64
	what   byte
	other  uint64 // of an inode that is a directory: 2 and the number of subdirectories
	mode   uint32
	nlink  uint32
	links  uint32 // that it knows of
	wrong  bool   // ... and one is wrong
	filled bool   // a directory with entries
	dark   bool   // it can't be read
}

const findingBytes = 8 + 1 + 8 + 3*4 + 1

func (c *checker) found(x finding) error {
	if c.o.Base != nil {
		return nil // what is different is looked up
	}
	b := binary.BigEndian.AppendUint64(c.row[:0], x.ino)
	b = append(b, x.what)
	b = binary.BigEndian.AppendUint64(b, x.other)
	for _, n := range [...]uint32{x.mode, x.nlink, x.links} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	flags := byte(0)
	for i, set := range [...]bool{x.wrong, x.filled, x.dark} {
		if set {
			flags |= 1 << i
		}
	}
	c.row = append(b, flags)
	return c.rows.Add(c.row)
}

func decodeFinding(b []byte) finding {
	u64, u32 := binary.BigEndian.Uint64, binary.BigEndian.Uint32
	return finding{
		ino: u64(b), what: b[8], other: u64(b[9:]), mode: u32(b[17:]), nlink: u32(b[21:]), links: u32(b[25:]),
		wrong: b[29]&1 != 0, filled: b[29]&2 != 0, dark: b[29]&4 != 0,
	}
}

// all verifies a view by itself: first each inode that there is, then what was
// found about it elsewhere.
func (c *checker) all(ctx context.Context) error {
	gap := 0 // numbers that were tried in vain
	for from := uint64(0); ; {
		inos, err := c.f.vol.Inodes(ctx, c.v, from)
		if gap == 0 || !unreadable(err) {
			if err := c.unlisted(err); err != nil {
				return err
			}
		}
		if err != nil && gap < maxGap {
			gap, from = gap+1, from+1
			continue
		}
		if len(inos) == 0 {
			return c.names(ctx)
		}
		gap = 0
		for _, ino := range inos {
			if err := c.inode(ctx, ino); err != nil {
				return op{"check", ino, ""}.wrap(err)
			}
		}
		from = inos[len(inos)-1] + 1
	}
}

// maxGap is how far above a head that can't be read the next one may be, to be
// found: numbers are given out one after the other.
const maxGap = 4096

// unlisted notes that inodes can't be listed, if that is what err says.
func (c *checker) unlisted(err error) error {
	if !unreadable(err) {
		return err
	}
	c.blind = true
	c.o.Problem(fmt.Sprintf("%s: not all inodes can be checked: %v", c.v.Name(), err))
	return nil
}

// unreadable reports whether an error says that something in the store can't be
// had: a problem, and the check goes on.
func unreadable(err error) bool {
	for _, e := range [...]error{dcdb.ErrIO, dcdb.ErrCorrupt, dcdb.ErrVersion, ErrIO} {
		if errors.Is(err, e) {
			return !errors.Is(err, dcdb.ErrFailed)
		}
	}
	return false
}

// dark notes that an inode can't be read, if that is what err says.
func (c *checker) dark(ino uint64, err error) error {
	if !unreadable(err) {
		return err
	}
	c.blind = true
	c.problem(ino, "can't be read: %v", err)
	return nil
}

// freeze returns an inode as a view shows it, nil if it does not.
func (c *checker) freeze(ctx context.Context, v *snap.View, ino uint64) (*dcdb.Frozen, error) {
	fz, err := c.f.space.Freeze(ctx, v.Key(ino))
	return fz, ignoreMissing(err)
}

// inode verifies what an inode says of itself, and finds what it says of others.
func (c *checker) inode(ctx context.Context, ino uint64) error {
	if c.o.Progress != nil {
		c.o.Progress()
	}
	x := finding{ino: ino, what: foundInode}
	fz, err := c.freeze(ctx, c.v, ino)
	if err == nil && fz == nil {
		return nil
	}
	if err == nil {
		err = c.read(ctx, fz, &x)
		fz.Close()
	}
	if unreadable(err) {
		x.dark = true
	}
	if err := c.dark(ino, err); err != nil {
		return err
	}
	return c.found(x)
}

// read verifies all that is in an inode.
func (c *checker) read(ctx context.Context, fz *dcdb.Frozen, x *finding) error {
	a := fz.Attr()
	x.mode, x.nlink = a.Mode&syscall.S_IFMT, a.Nlink
	x.filled = isDir(a.Mode) && a.Size > 0
	if x.ino == snap.OrphanIno {
		return c.orphans(ctx, fz)
	}
	if isDir(a.Mode) {
		x.other = 2
		err := c.directory(ctx, x.ino, fz, func(e *entry) error {
			x.other += uint64(subdir(e.mode))
			return c.found(finding{ino: e.ino, what: foundEntry, other: e.dir, mode: e.mode})
		})
		if err != nil {
			return err
		}
	}
	if err := c.contents(ctx, x.ino); err != nil || x.ino == snap.RootIno {
		return err
	}
	if isDir(a.Mode) {
		known := x.ino
		if c.o.Base != nil {
			known = 0
		}
		if err := c.connected(ctx, x.ino, a.Parent, known); err != nil {
			return err
		}
	}
	return c.links(ctx, fz, x)
}

// directory verifies what a directory says of itself and its entries, and calls
// fn for each of them.
func (c *checker) directory(ctx context.Context, ino uint64, fz *dcdb.Frozen, fn func(*entry) error) error {
	a := *fz.Attr()
	if ino == snap.RootIno && a.Parent != ino {
		c.problem(ino, "the root's parent is %d", a.Parent) // (4)
	}
	cookies := spill.New(8, c.o.Spill.Share(4))
	defer cookies.Close()
	entries, subdirs, bad := uint64(0), uint32(0), false
	u := entriesOf(ctx, fz)
	for {
		e, err := u.next()
		if err != nil {
			return err
		}
		if e == nil {
			break
		}
		entries++
		if e.err != nil {
			c.problem(ino, "entry %q: %v", e.name, e.err)
			c.blind, bad = true, true
			continue
		}
		if e.cookie < firstCookie || e.cookie >= a.NextCookie {
			c.problem(ino, "entry %q: cookie %d is not in [%d, %d)", e.name, e.cookie, firstCookie, a.NextCookie) // (6)
		}
		if err := cookies.Add(binary.BigEndian.AppendUint64(c.row[:0], e.cookie)); err != nil {
			return err
		}
		subdirs += subdir(e.mode)
		if err := checkName(e.name, ErrInvalid, ErrInvalid); err != nil {
			c.problem(ino, "entry %q: %v", e.name, err)
		}
		if err := fn(&entry{dir: ino, name: e.name, dirent: e.dirent, used: true}); err != nil {
			return err
		}
	}
	if err := c.unique(ino, cookies); err != nil {
		return err
	}
	if a.Size != entries {
		c.problem(ino, "size %d, but %d entries", a.Size, entries) // (3)
	}
	// A directory that was removed has link count 0, whatever is in it.
	if want := 2 + subdirs; a.Nlink != want && a.Nlink != 0 {
		c.problem(ino, "link count %d, but %d subdirectories", a.Nlink, subdirs) // (2)
		a.Nlink = want
	} else if a.Size == entries {
		return nil
	}
	if bad {
		return nil
	}
	return c.mendDirectory(ctx, ino, entries, a.Nlink)
}

// unique verifies that no two entries have one cookie.
func (c *checker) unique(ino uint64, cookies *spill.Sorter) error {
	rows, err := cookies.Sort()
	if err != nil {
		return err
	}
	last := uint64(0)
	for {
		row, err := rows.Next()
		if err != nil || row == nil {
			return err
		}
		n := binary.BigEndian.Uint64(row)
		if n == last {
			c.problem(ino, "two entries have cookie %d", n) // (6)
		}
		last = n
	}
}

// connected verifies that the way up from a directory ends at the root. Those
// below number known are known to be on such a way, or told by their own check:
// in a circle the lowest one finds it.
func (c *checker) connected(ctx context.Context, ino, up, known uint64) error {
	mark, steps, power := ino, 0, 1 // Brent's: mark moves up in ever longer leaps
	for up != snap.RootIno && up >= known {
		if up == ino {
			c.problem(ino, "the directory is above itself")
			return nil
		}
		if up == mark {
			return nil // a circle further up
		}
		if steps++; steps == power {
			mark, steps, power = up, 0, 2*power
		}
		a, ok, err := c.attr(ctx, up)
		if !ok && (err == nil || unreadable(err)) {
			return nil // told where it is named
		}
		if err != nil {
			return err
		}
		up = a.Parent
	}
	return nil
}

// attr returns the attributes of an inode, false if there are none to be had.
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

// linksOf calls fn for the links that an inode knows of, the first one first. What
// is no link is an error for fn.
func linksOf(ctx context.Context, fz *dcdb.Frozen, fn func(p place, err error) error) error {
	a := fz.Attr()
	first := place{a.Parent, a.Name}
	if first != (place{}) {
		if err := fn(first, nil); err != nil {
			return err
		}
	}
	var inner error
	err := fz.Ascend(ctx, dcdb.KindLink, "", func(key string, _ []byte) bool {
		p, err := placeOf(key)
		if err == nil && p == first {
			err = errLinkTwice
		}
		inner = fn(p, err)
		return inner == nil
	})
	if err == nil {
		err = inner
	}
	return err
}

var errLinkTwice = errors.New("the first one again")

// links verifies invariant (4): as many links as entries, each at an entry
// that names the inode. No two links are equal, so there are no others.
func (c *checker) links(ctx context.Context, fz *dcdb.Frozen, x *finding) error {
	return linksOf(ctx, fz, func(p place, err error) error {
		x.links++
		if err != nil {
			c.problem(x.ino, "its link %d/%q is bad or the first one again", p.parent, p.name)
			x.wrong = true
			return nil
		}
		named, err := c.namedBy(ctx, p, x.ino)
		if err == nil && !named {
			c.problem(x.ino, "its link %d/%q does not name it", p.parent, p.name)
			x.wrong = true
		}
		return err
	})
}

// namedBy reports whether the entry at p names an inode.
func (c *checker) namedBy(ctx context.Context, p place, ino uint64) (bool, error) {
	var e entry
	err := c.f.space.View(ctx, func(tx *dcdb.Tx) (err error) {
		e, err = readEntry(tx, c.v, p.parent, p.name)
		return err
	})
	if errors.Is(err, ErrNotDir) || errors.Is(err, ErrStale) || errors.Is(err, errDirent) || ignoreMissing(err) == nil {
		return err == nil && e.used && e.ino == ino, nil
	}
	if unreadable(err) {
		c.blind = true
		return true, nil // the directory's own check tells
	}
	return false, err
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

// orphans verifies the orphan directory by itself.
func (c *checker) orphans(ctx context.Context, fz *dcdb.Frozen) error {
	entries := uint64(0)
	u := entriesOf(ctx, fz)
	for {
		e, err := u.next()
		if err != nil {
			return err
		}
		if e == nil {
			break
		}
		entries++
		if e.err != nil || e.name != orphanKey(e.ino) {
			c.problem(snap.OrphanIno, "entry %x of inode %d: %v", e.name, e.ino, e.err)
			c.blind = true
			continue
		}
		if err := c.found(finding{ino: e.ino, what: foundOrphan}); err != nil {
			return err
		}
	}
	size := fz.Attr().Size
	if size == entries {
		return nil
	}
	c.problem(snap.OrphanIno, "size %d, but %d entries", size, entries) // (3)
	return c.mendDirectory(ctx, snap.OrphanIno, entries, fz.Attr().Nlink)
}

// entryCursor goes through the entries of a directory.
type entryCursor struct {
	ctx  context.Context
	fz   *dcdb.Frozen // nil: none
	from string
	some []namedDirent
	end  bool
}

type namedDirent struct {
	name string
	dirent
	err error // it makes no sense
}

func entriesOf(ctx context.Context, fz *dcdb.Frozen) *entryCursor {
	return &entryCursor{ctx: ctx, fz: fz, end: fz == nil}
}

// peek returns the entry that next goes beyond, nil at the end.
func (u *entryCursor) peek() (*namedDirent, error) {
	const some = 256
	if len(u.some) == 0 && !u.end {
		u.some = nil
		err := u.fz.Ascend(u.ctx, dcdb.KindDirent, u.from, func(name string, val []byte) bool {
			e := namedDirent{name: name}
			e.dirent, e.err = decodeDirent(val)
			u.some = append(u.some, e)
			return len(u.some) < some
		})
		if err != nil {
			return nil, err
		}
		if u.end = len(u.some) < some; !u.end {
			u.from = u.some[some-1].name + "\x00"
		}
	}
	if len(u.some) == 0 {
		return nil, nil
	}
	return &u.some[0], nil
}

func (u *entryCursor) next() (*namedDirent, error) {
	e, err := u.peek()
	if e != nil {
		u.some = u.some[1:]
	}
	return e, err
}
