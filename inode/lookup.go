package inode

import (
	"context"

	"dcfs/dcdb"
	"dcfs/snap"
)

// Lookup returns the inode that name in directory dir names. "." and ".." are
// answered too: the kernel asks for them where a file handle is opened.
func (f *FS) Lookup(ctx context.Context, v *snap.View, dir uint64, name string) (Attr, error) {
	o := op{"lookup", dir, name}
	if err := checkName(name, nil, nil); err != nil {
		return Attr{}, o.wrap(err)
	}
	var found Attr
	err := f.read(ctx, o, v, func(tx *dcdb.Tx) error {
		ino, err := target(tx, v, dir, name)
		if err != nil {
			return err
		}
		db, err := getChild(tx, v, ino)
		if err != nil {
			return err
		}
		found = Attr{ino, *db.Attr()}
		return nil
	})
	return found, err
}

// target returns the number that name in dir leads to.
func target(tx *dcdb.Tx, v *snap.View, dir uint64, name string) (uint64, error) {
	switch name {
	case ".":
		_, err := getDir(tx, v, dir)
		return dir, err
	case "..":
		db, err := getDir(tx, v, dir)
		if err != nil {
			return 0, err
		}
		return parentOf(dir, db.Attr())
	}
	e, err := readOldEntry(tx, v, dir, name)
	return e.ino, err
}

// parentOf returns where ".." of directory ino leads to. A removed directory
// has no parent any more.
func parentOf(ino uint64, a *dcdb.Attr) (uint64, error) {
	switch {
	case ino == snap.RootIno:
		return ino, nil
	case a.Nlink == 0:
		return 0, ErrNotExist
	}
	return a.Parent, nil
}

// Getattr returns the attributes of an inode.
func (f *FS) Getattr(ctx context.Context, v *snap.View, ino uint64) (Attr, error) {
	var a Attr
	err := f.read(ctx, op{"getattr", ino, ""}, v, func(tx *dcdb.Tx) error {
		db, err := get(tx, v, ino)
		if err != nil {
			return err
		}
		a = Attr{ino, *db.Attr()}
		return nil
	})
	return a, err
}
