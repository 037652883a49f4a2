package inode

import (
	"context"
	"syscall"

	"dcfs/dcdb"
	"dcfs/snap"
)

// FlagCapability in Attr.Flags says that the inode has the xattr
// security.capability (invariant 7). Every write must take that away, and
// should not have to look for what is hardly ever there. The bit is one that
// FS_IOC_SETFLAGS leaves to the file system.
const FlagCapability = 1 << 31

const capabilityXattr = "security.capability"

// SetAttr is what Setattr shall change; what is nil stays.
type SetAttr struct {
	Mode         *uint32 // permission bits; type bits are ignored
	UID, GID     *uint32
	Size         *uint64
	Atime, Mtime *dcdb.Time
	// AtimeNow and MtimeNow set the time of the change, as UTIME_NOW.
	AtimeNow, MtimeNow bool
	// Ctime is for a kernel that keeps times itself (write-back cache); else
	// every change sets it.
	Ctime *dcdb.Time
	// KillSuidGid says that the caller has no right to keep S_ISUID and
	// S_ISGID (FUSE_HANDLE_KILLPRIV_V2); only Groups of its Cred counts then.
	KillSuidGid bool
}

func (s *SetAttr) chown() bool { return s.UID != nil || s.GID != nil }

// empty reports whether s says nothing. FUSE sends that for chown(-1, -1), and
// before a write that takes set-id bits away. From the owner and from root it is a
// change to the owner that is. From anybody else it is nothing: nobody may take
// set-id bits from the programs of others, and a write itself does so.
func (s *SetAttr) empty() bool {
	return s.Mode == nil && !s.chown() && s.Size == nil && s.Atime == nil && s.Mtime == nil &&
		!s.AtimeNow && !s.MtimeNow && s.Ctime == nil && !s.KillSuidGid
}

// check verifies s for an inode of this mode.
func (s *SetAttr) check(mode uint32) error {
	if s.Mode != nil && mode&syscall.S_IFMT == syscall.S_IFLNK {
		return ErrNotSupported
	}
	if s.Size == nil {
		return nil
	}
	if err := regular(mode); err != nil {
		return err
	}
	if *s.Size > MaxFileBytes {
		return ErrFileTooBig
	}
	return nil
}

// Setattr changes attributes, all of s at once.
func (f *FS) Setattr(ctx context.Context, v *snap.View, ino uint64, cred Cred, s SetAttr) (Attr, error) {
	var set Attr
	err := f.update(ctx, op{"setattr", ino, ""}, v, func(tx *dcdb.Tx) error {
		db, err := get(tx, v, ino)
		if err != nil {
			return err
		}
		if err := s.check(db.Attr().Mode); err != nil {
			return err
		}
		if s.empty() {
			if a := db.Attr(); !cred.Root && cred.UID != 0 && cred.UID != a.UID {
				set = Attr{ino, *a} // not theirs to change
				return nil
			}
			uid := db.Attr().UID
			s.UID = &uid
		}
		caps, err := planCapability(db, s.Size != nil || s.chown())
		if err != nil {
			return err
		}
		acls, err := s.planChmod(db)
		if err != nil {
			return err
		}
		if s.Size != nil && *s.Size != db.Attr().Size {
			if err := db.Truncate(*s.Size); err != nil {
				return err
			}
		}
		caps.apply()
		acls.apply()
		s.apply(db.Edit(), cred, tx.Now())
		set = Attr{ino, *db.Attr()}
		return nil
	})
	return set, err
}

// apply changes a. The order is Linux's: a new owner takes S_ISUID away, as
// the old group says, and a mode that comes along is judged by the new group.
func (s *SetAttr) apply(a *dcdb.Attr, cred Cred, now dcdb.Time) {
	if s.chown() || s.KillSuidGid {
		a.Mode = withoutSuid(a, cred, s.KillSuidGid)
	}
	if s.UID != nil {
		a.UID = *s.UID
	}
	if s.GID != nil {
		a.GID = *s.GID
	}
	if s.Mode != nil {
		a.Mode = a.Mode&syscall.S_IFMT | *s.Mode&permBits
		if !cred.in(a.GID) {
			a.Mode &^= syscall.S_ISGID
		}
	}
	s.applyTimes(a, now)
}

func (s *SetAttr) applyTimes(a *dcdb.Attr, now dcdb.Time) {
	a.Ctime = now
	if s.Ctime != nil {
		a.Ctime = *s.Ctime
	}
	if s.AtimeNow {
		a.Atime = now
	} else if s.Atime != nil {
		a.Atime = *s.Atime
	}
	if s.MtimeNow || s.Size != nil && s.Mtime == nil {
		a.Mtime = now
	} else if s.Mtime != nil {
		a.Mtime = *s.Mtime
	}
}

// withoutSuid returns the mode of a after a change of owner or data by
// somebody who may not hand on the identities that a program runs under.
// S_ISGID without S_IXGRP was mandatory locking once: who belongs to the group
// leaves it. On a directory both mean something else, and stay. plain says
// that cred has no capabilities here, be it root or not.
func withoutSuid(a *dcdb.Attr, cred Cred, plain bool) uint32 {
	mode := a.Mode
	if isDir(mode) {
		return mode
	}
	cred.Root = cred.Root && !plain
	mode &^= syscall.S_ISUID
	if mode&syscall.S_ISGID != 0 && (mode&syscall.S_IXGRP != 0 || !cred.in(a.GID)) {
		mode &^= syscall.S_ISGID
	}
	return mode
}

// capability is the loss of file capabilities, read and ready.
type capability struct {
	db   *dcdb.DB
	lost bool
}

// planCapability reads what is needed to take the capabilities from an inode
// that changes in a way, if lose is set, that they do not survive.
func planCapability(db *dcdb.DB, lose bool) (capability, error) {
	a := db.Attr()
	c := capability{db, lose && a.Flags&FlagCapability != 0 && !isDir(a.Mode)}
	if !c.lost {
		return c, nil
	}
	_, _, err := db.Get(dcdb.KindXattr, capabilityXattr)
	return c, err
}

func (c *capability) apply() {
	if c.lost {
		c.db.Edit().Flags &^= FlagCapability
		c.db.Remove(dcdb.KindXattr, capabilityXattr)
	}
}

// touchAtime sets the access time, if the options want reads to do so and
// the view can change.
func (f *FS) touchAtime(ctx context.Context, v *snap.View, ino uint64) error {
	if !f.StrictAtime() || v.ReadOnly() {
		return nil
	}
	return f.update(ctx, op{"touch", ino, ""}, v, func(tx *dcdb.Tx) error {
		db, err := get(tx, v, ino)
		if err != nil {
			return err
		}
		db.Edit().Atime = tx.Now()
		return nil
	})
}
