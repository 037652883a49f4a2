package inode

import (
	"context"
	"syscall"

	"dcfs/dcdb"
	"dcfs/snap"
)

const (
	permBits      = 07777 // of a mode
	setgidProgram = syscall.S_ISGID | syscall.S_IXGRP
)

// Mknod creates a regular file, FIFO, socket or device. A mode without type
// bits is a regular file, as for mknod(2). This and all that creates inodes
// obeys the umask of cred, or in its place the directory's default ACL.
func (f *FS) Mknod(ctx context.Context, v *snap.View, dir uint64, name string, cred Cred, mode, rdev uint32) (Attr, error) {
	o := op{"mknod", dir, name}
	if err := writable(v); err != nil {
		return Attr{}, o.wrap(err)
	}
	mode, rdev, err := nodeMode(mode, rdev)
	if err != nil {
		return Attr{}, o.wrap(err)
	}
	return f.create(ctx, o, v, cred, dcdb.Attr{Mode: mode, Rdev: rdev}, "")
}

// nodeMode verifies and completes the mode of mknod(2). Only devices have a
// device number.
func nodeMode(mode, rdev uint32) (uint32, uint32, error) {
	mode &= syscall.S_IFMT | permBits
	switch mode & syscall.S_IFMT {
	case 0:
		return mode | syscall.S_IFREG, 0, nil
	case syscall.S_IFREG, syscall.S_IFIFO, syscall.S_IFSOCK:
		return mode, 0, nil
	case syscall.S_IFCHR, syscall.S_IFBLK:
		return mode, rdev, nil
	case syscall.S_IFDIR:
		return 0, 0, ErrPermission
	}
	return 0, 0, ErrInvalid
}

// Mkdir creates a directory. As in Linux, S_ISUID and S_ISGID of mode count
// for nothing: a directory gets the latter from its parent.
func (f *FS) Mkdir(ctx context.Context, v *snap.View, dir uint64, name string, cred Cred, mode uint32) (Attr, error) {
	mode = syscall.S_IFDIR | mode&(0777|syscall.S_ISVTX)
	return f.create(ctx, op{"mkdir", dir, name}, v, cred, dcdb.Attr{Mode: mode}, "")
}

// inodeBytes is about what a new inode takes in the store.
const inodeBytes = 1 << 10

// roomForInode makes sure that there are space and a number for a new inode.
func (f *FS) roomForInode(ctx context.Context, v *snap.View) error {
	if err := f.space.Room(ctx, inodeBytes); err != nil {
		return err
	}
	return v.ReserveInos(ctx)
}

// create makes an inode of attributes a, with what the directory and the
// credentials add to them, under the name that o is about.
func (f *FS) create(ctx context.Context, o op, v *snap.View, cred Cred, a dcdb.Attr, text string) (Attr, error) {
	if err := writable(v); err != nil {
		return Attr{}, o.wrap(err)
	}
	if err := checkNewName(o.arg); err != nil {
		return Attr{}, o.wrap(err)
	}
	if err := f.roomForInode(ctx, v); err != nil {
		return Attr{}, o.wrap(err)
	}
	var made Attr
	err := f.update(ctx, o, v, func(tx *dcdb.Tx) error {
		e, err := readNewEntry(tx, v, o.ino, o.arg)
		if err != nil {
			return err
		}
		if isDir(a.Mode) {
			if err := e.roomForSubdir(); err != nil {
				return err
			}
		}
		deflt, err := readACL(e.db, defaultXattr)
		if err != nil {
			return err
		}
		now := tx.Now()
		ino, child := v.NewIno(), newborn(a, e.db.Attr(), cred, now)
		acls := inherit(&child, deflt, cred.Umask)
		child.Nlink, child.Parent, child.Name = 1+subdir(a.Mode), o.ino, o.arg
		db := tx.Create(v.Key(ino), child)
		acls.apply(db)
		if text != "" {
			db.Put(dcdb.KindText, "", []byte(text))
		}
		e.set(ino, a.Mode, now)
		made = Attr{ino, *db.Attr()}
		return nil
	})
	return made, err
}

// newborn completes the attributes of a new inode: its owner, its times, and
// what a directory with S_ISGID hands down, its group and, to directories,
// the bit itself.
func newborn(a dcdb.Attr, dir *dcdb.Attr, cred Cred, now dcdb.Time) dcdb.Attr {
	a.UID, a.GID = cred.UID, cred.GID
	if dir.Mode&syscall.S_ISGID != 0 {
		a.GID = dir.GID
		switch {
		case isDir(a.Mode):
			a.Mode |= syscall.S_ISGID
		case a.Mode&setgidProgram == setgidProgram && !cred.in(a.GID):
			// Nobody makes a program that runs as a group that is not his.
			a.Mode &^= syscall.S_ISGID
		}
	}
	a.Atime, a.Mtime, a.Ctime, a.Btime = now, now, now, now
	if isDir(a.Mode) {
		a.NextCookie = firstCookie
	}
	return a
}

// Tmpfile creates a regular file without a name (O_TMPFILE) in the file
// system of directory dir, from which it inherits as any new file. It stands
// in the orphan directory until Link gives it a name or Forget ends it.
func (f *FS) Tmpfile(ctx context.Context, v *snap.View, dir uint64, cred Cred, mode uint32) (Attr, error) {
	o := op{"tmpfile", dir, ""}
	if err := writable(v); err != nil {
		return Attr{}, o.wrap(err)
	}
	if err := f.roomForInode(ctx, v); err != nil {
		return Attr{}, o.wrap(err)
	}
	var made Attr
	err := f.update(ctx, o, v, func(tx *dcdb.Tx) error {
		parent, err := getLiveDir(tx, v, dir)
		if err != nil {
			return err
		}
		// No earlier inode had this number, so there is no item to read: the
		// look in the orphan directory brings the page that the item goes to.
		ino := v.NewIno()
		orphan, err := planOrphan(tx, v, ino)
		if err != nil {
			return err
		}
		deflt, err := readACL(parent, defaultXattr)
		if err != nil {
			return err
		}
		a := newborn(dcdb.Attr{Mode: syscall.S_IFREG | mode&permBits}, parent.Attr(), cred, tx.Now())
		acls := inherit(&a, deflt, cred.Umask)
		db := tx.Create(v.Key(ino), a)
		acls.apply(db)
		orphan.add(a.Mode)
		made = Attr{ino, *db.Attr()}
		return nil
	})
	return made, err
}
