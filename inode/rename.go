package inode

import (
	"context"
	"fmt"
	"syscall"

	"dcfs/dcdb"
	"dcfs/snap"
)

// Flags of Rename, as those of renameat2(2). RENAME_WHITEOUT is a function of
// its own, RenameWhiteout.
const (
	RenameNoReplace = 1 << 0
	RenameExchange  = 1 << 1
)

// maxDepth bounds the walk to the root that finds cycles: damaged parents
// must not hang the volume.
const maxDepth = 1 << 20

// Rename moves name in directory dir to newname in directory newdir. replaced
// is the inode that lost the new name, 0 if there was none, and last reports
// that it was its last one.
func (f *FS) Rename(ctx context.Context, v *snap.View, dir uint64, name string, newdir uint64, newname string, flags uint32) (replaced uint64, last bool, err error) {
	return f.rename(ctx, v, dir, name, newdir, newname, flags, nil)
}

// RenameWhiteout is Rename that leaves a whiteout under the old name, an inode
// that overlayfs takes for "deleted here": a character device 0:0 of cred.
func (f *FS) RenameWhiteout(ctx context.Context, v *snap.View, dir uint64, name string, newdir uint64, newname string, flags uint32, cred Cred) (replaced uint64, last bool, err error) {
	o := op{"rename", dir, name}
	if err := writable(v); err != nil {
		return 0, false, o.wrap(err)
	}
	if flags&RenameExchange != 0 {
		return 0, false, o.wrap(ErrInvalid) // no name becomes free
	}
	if err := f.roomForInode(ctx, v); err != nil {
		return 0, false, o.wrap(err)
	}
	return f.rename(ctx, v, dir, name, newdir, newname, flags, &cred)
}

// rename is Rename; with the credentials of who wants one, it leaves a
// whiteout.
func (f *FS) rename(ctx context.Context, v *snap.View, dir uint64, name string, newdir uint64, newname string, flags uint32, whiteout *Cred) (replaced uint64, last bool, err error) {
	o := op{"rename", dir, name}
	if err := writable(v); err != nil {
		return 0, false, o.wrap(err)
	}
	if err := checkRename(name, newname, flags); err != nil {
		return 0, false, o.wrap(err)
	}
	err = f.update(ctx, o, v, func(tx *dcdb.Tx) error {
		replaced, last = 0, false
		r, err := readRename(tx, v, dir, name, newdir, newname)
		if err != nil {
			return err
		}
		if err := r.check(tx, v, flags); err != nil {
			return err
		}
		switch {
		case r.to.used && r.from.ino == r.to.ino:
			return nil // two names of one file: POSIX wants both to stay
		case flags&RenameExchange != 0:
			return r.exchange(tx)
		}
		replaced, last, err = r.move(tx, v, whiteout)
		return err
	})
	return replaced, last, err
}

// checkRename verifies what can be seen without the directories.
func checkRename(name, newname string, flags uint32) error {
	if flags&^(RenameNoReplace|RenameExchange) != 0 || flags == RenameNoReplace|RenameExchange {
		return ErrInvalid
	}
	dots := ErrBusy
	if flags&RenameNoReplace != 0 {
		dots = ErrExist
	}
	if err := checkName(name, ErrBusy, ErrBusy); err != nil {
		return err
	}
	return checkName(newname, dots, dots)
}

// rename is the two entries of a Rename and the inodes that they name.
type rename struct {
	from, to     entry
	child, other *dcdb.DB // what from and to name; other is nil if to is unused
}

func readRename(tx *dcdb.Tx, v *snap.View, dir uint64, name string, newdir uint64, newname string) (*rename, error) {
	r := new(rename)
	var err error
	if r.from, err = readEntry(tx, v, dir, name); err != nil {
		return nil, err
	}
	to, err := getLiveDir(tx, v, newdir)
	if err != nil {
		return nil, err
	}
	if !r.from.used {
		return nil, ErrNotExist
	}
	if r.to, err = readEntryIn(to, newdir, newname); err != nil {
		return nil, err
	}
	if r.child, err = getChild(tx, v, r.from.ino); err != nil {
		return nil, err
	}
	if r.to.used {
		r.other, err = getChild(tx, v, r.to.ino)
	}
	return r, err
}

// check applies the rules of rename(2) and renameat2(2), in the order in
// which Linux does.
func (r *rename) check(tx *dcdb.Tx, v *snap.View, flags uint32) error {
	exchange := flags&RenameExchange != 0
	switch {
	case r.to.used && flags&RenameNoReplace != 0:
		return ErrExist
	case !r.to.used && exchange:
		return ErrNotExist
	}
	if err := r.checkCycles(tx, v, exchange); err != nil {
		return err
	}
	if r.to.used && r.from.ino == r.to.ino {
		return nil
	}
	if !exchange {
		if err := r.checkReplace(); err != nil {
			return err
		}
	}
	return r.checkLinks(exchange)
}

// checkCycles refuses to move a directory below itself. It walks inside the
// same Update as the change: two renames that are harmless alone may make a
// cycle together.
func (r *rename) checkCycles(tx *dcdb.Tx, v *snap.View, exchange bool) error {
	if r.from.dir == r.to.dir {
		return nil
	}
	if isDir(r.from.mode) {
		if err := notBelow(tx, v, r.to.dir, r.from.ino, ErrInvalid); err != nil {
			return err
		}
	}
	if !r.to.used || !isDir(r.to.mode) {
		return nil
	}
	bad := ErrNotEmpty // an ancestor of the source has at least that in it
	if exchange {
		bad = ErrInvalid
	}
	return notBelow(tx, v, r.from.dir, r.to.ino, bad)
}

// notBelow returns bad if directory ino is top or lies below it.
func notBelow(tx *dcdb.Tx, v *snap.View, ino, top uint64, bad error) error {
	for depth := 0; depth < maxDepth; depth++ {
		if ino == top {
			return bad
		}
		if ino == snap.RootIno {
			return nil
		}
		db, err := getChild(tx, v, ino)
		if err != nil {
			return err
		}
		if ino, err = parentOf(ino, db.Attr()); err != nil {
			return err
		}
	}
	return fmt.Errorf("directory %d: more than %d parents: %w", ino, maxDepth, ErrIO)
}

// checkReplace verifies that the types agree and that a directory which is
// replaced is empty.
func (r *rename) checkReplace() error {
	switch {
	case !r.to.used:
		return nil
	case isDir(r.from.mode) && !isDir(r.to.mode):
		return ErrNotDir
	case !isDir(r.from.mode) && isDir(r.to.mode):
		return ErrIsDir
	case isDir(r.to.mode) && r.other.Attr().Size != 0:
		return ErrNotEmpty
	}
	return nil
}

// checkLinks verifies that the directories may have the subdirectories that
// they get.
func (r *rename) checkLinks(exchange bool) error {
	if r.from.dir == r.to.dir {
		return nil
	}
	if subdir(r.from.mode) > subdir(r.to.mode) {
		return r.to.roomForSubdir()
	}
	if exchange && subdir(r.to.mode) > subdir(r.from.mode) {
		return r.from.roomForSubdir()
	}
	return nil
}

// exchange lets both names change their inodes.
func (r *rename) exchange(tx *dcdb.Tx) error {
	there, err := planMove(r.child, r.from.place(), r.to.place())
	if err != nil {
		return err
	}
	back, err := planMove(r.other, r.to.place(), r.from.place())
	if err != nil {
		return err
	}
	now := tx.Now()
	from, to := r.from.dirent, r.to.dirent
	r.to.set(from.ino, from.mode, now)
	r.from.set(to.ino, to.mode, now)
	there.apply(now)
	back.apply(now)
	return nil
}

// move gives the inode its new name, and takes that from who had it.
func (r *rename) move(tx *dcdb.Tx, v *snap.View, whiteout *Cred) (replaced uint64, last bool, err error) {
	m, err := planMove(r.child, r.from.place(), r.to.place())
	if err != nil {
		return 0, false, err
	}
	var d drop
	if r.to.used {
		if d, err = planDrop(tx, v, r.to.ino, r.other, r.to.place()); err != nil {
			return 0, false, err
		}
	}
	now := tx.Now()
	if r.to.used {
		replaced, last = r.to.ino, d.last
		d.apply(now)
	}
	moved := r.from.dirent
	if whiteout != nil {
		r.from.whiteOut(tx, v, *whiteout, now)
	} else {
		r.from.clear(now)
	}
	r.to.set(moved.ino, moved.mode, now)
	m.apply(now)
	return replaced, last, nil
}

// whiteOut makes the entry name a new whiteout, which inherits no ACL.
func (e *entry) whiteOut(tx *dcdb.Tx, v *snap.View, cred Cred, now dcdb.Time) {
	ino, a := v.NewIno(), newborn(dcdb.Attr{Mode: syscall.S_IFCHR}, e.db.Attr(), cred, now)
	a.Nlink, a.Parent, a.Name = 1, e.dir, e.name
	tx.Create(v.Key(ino), a)
	e.set(ino, a.Mode, now)
}
