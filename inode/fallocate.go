package inode

import (
	"context"
	"syscall"

	"dcfs/dcdb"
	"dcfs/snap"
)

// Modes of Fallocate, as those of fallocate(2).
const (
	FallocKeepSize  = 0x01
	FallocPunchHole = 0x02
	FallocZeroRange = 0x10
)

// Fallocate changes what [off, off+n) of a file occupies. Nothing is ever
// reserved: every change of a file is written to a new place, so a reserved
// one would be of no use to it. That there is no room now is said, though.
func (f *FS) Fallocate(ctx context.Context, v *snap.View, ino, off, n uint64, mode uint32) error {
	o := op{"fallocate", ino, ""}
	if err := writable(v); err != nil {
		return o.wrap(err)
	}
	if n == 0 {
		return o.wrap(ErrInvalid)
	}
	a, err := f.Getattr(ctx, v, ino)
	if err != nil {
		return err
	}
	if err := fallocatable(a.Mode, mode); err != nil {
		return o.wrap(err)
	}
	to, err := end(off, n)
	if err != nil {
		return o.wrap(err)
	}
	switch mode {
	case 0, FallocKeepSize:
		if err := f.roomFor(ctx, n-min(n, a.Alloc)); err != nil {
			return o.wrap(err)
		}
	default:
		if err := f.punch(ctx, o, v, ino, off, to); err != nil {
			return err
		}
	}
	if mode&FallocKeepSize != 0 {
		to = 0
	}
	return f.extend(ctx, o, v, ino, to, Cred{}, false)
}

// fallocatable returns the error that Linux has for this mode of Fallocate
// on this type of inode.
func fallocatable(inodeMode, mode uint32) error {
	switch mode {
	case 0, FallocKeepSize, FallocPunchHole | FallocKeepSize, FallocZeroRange, FallocZeroRange | FallocKeepSize:
	default:
		return ErrNotSupported
	}
	switch inodeMode & syscall.S_IFMT {
	case syscall.S_IFREG:
		return nil
	case syscall.S_IFDIR:
		return ErrIsDir
	case syscall.S_IFIFO:
		return ErrSeek
	}
	return ErrNoDevice
}

// roomFor returns ErrNoSpace if the store has no room for so many bytes.
func (f *FS) roomFor(ctx context.Context, bytes uint64) error {
	u, err := f.vol.Usage(ctx)
	if err != nil {
		return err
	}
	if bytes > u.FreeBytes {
		return ErrNoSpace
	}
	return nil
}

// punch makes [off, to) a hole, as far as the file reaches. It is an Update
// of its own, before that of extend: both may fail, and a crash between them
// leaves zeros where zeros were asked for.
func (f *FS) punch(ctx context.Context, o op, v *snap.View, ino, off, to uint64) error {
	return f.update(ctx, o, v, func(tx *dcdb.Tx) error {
		db, err := get(tx, v, ino)
		if err != nil {
			return err
		}
		to := min(to, db.Attr().Size)
		if off >= to {
			return nil
		}
		return db.Punch(off, to-off)
	})
}

// extend makes the file at least size bytes long and marks it as modified.
func (f *FS) extend(ctx context.Context, o op, v *snap.View, ino, size uint64, cred Cred, killSuidGid bool) error {
	return f.update(ctx, o, v, func(tx *dcdb.Tx) error {
		db, err := get(tx, v, ino)
		if err != nil {
			return err
		}
		caps, err := planCapability(db, true)
		if err != nil {
			return err
		}
		if size > db.Attr().Size {
			if err := db.Truncate(size); err != nil {
				return err
			}
		}
		caps.apply()
		modified(db.Edit(), cred, killSuidGid, tx.Now())
		return nil
	})
}
