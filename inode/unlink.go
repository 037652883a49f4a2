package inode

import (
	"context"

	"dcfs/dcdb"
	"dcfs/snap"
)

// Unlink takes a name from what is no directory. last reports that it was the
// inode's last one: the inode stands in the orphan directory then, until
// Forget.
func (f *FS) Unlink(ctx context.Context, v *snap.View, dir uint64, name string) (ino uint64, last bool, err error) {
	o := op{"unlink", dir, name}
	if err := writable(v); err != nil {
		return 0, false, o.wrap(err)
	}
	if err := checkName(name, ErrIsDir, ErrIsDir); err != nil {
		return 0, false, o.wrap(err)
	}
	err = f.update(ctx, o, v, func(tx *dcdb.Tx) error {
		e, err := readOldEntry(tx, v, dir, name)
		if err != nil {
			return err
		}
		if isDir(e.mode) {
			return ErrIsDir
		}
		d, err := takeAway(tx, v, &e)
		ino, last = e.ino, d.last
		return err
	})
	return ino, last, err
}

// takeAway removes an entry and the link that it is. The caller has nothing
// left to read.
func takeAway(tx *dcdb.Tx, v *snap.View, e *entry) (drop, error) {
	db, err := getChild(tx, v, e.ino)
	if err != nil {
		return drop{}, err
	}
	d, err := planDrop(tx, v, e.ino, db, e.place())
	if err != nil {
		return drop{}, err
	}
	now := tx.Now()
	e.clear(now)
	d.apply(now)
	return d, nil
}

// Rmdir removes an empty directory. Like an unlinked file it stands in the
// orphan directory until Forget.
func (f *FS) Rmdir(ctx context.Context, v *snap.View, dir uint64, name string) (ino uint64, err error) {
	o := op{"rmdir", dir, name}
	if err := writable(v); err != nil {
		return 0, o.wrap(err)
	}
	if err := checkName(name, ErrInvalid, ErrNotEmpty); err != nil {
		return 0, o.wrap(err)
	}
	err = f.update(ctx, o, v, func(tx *dcdb.Tx) error {
		e, err := readOldEntry(tx, v, dir, name)
		if err != nil {
			return err
		}
		if !isDir(e.mode) {
			return ErrNotDir
		}
		if err := emptyDir(tx, v, e.ino); err != nil {
			return err
		}
		ino = e.ino
		_, err = takeAway(tx, v, &e)
		return err
	})
	return ino, err
}

// emptyDir returns ErrNotEmpty unless directory ino has no entry. Its Size
// tells (invariant 3), no page need be read.
func emptyDir(tx *dcdb.Tx, v *snap.View, ino uint64) error {
	db, err := getChild(tx, v, ino)
	if err != nil {
		return err
	}
	if db.Attr().Size != 0 {
		return ErrNotEmpty
	}
	return nil
}
