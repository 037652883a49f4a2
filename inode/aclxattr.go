package inode

import (
	"context"
	"fmt"
	"syscall"

	"dcfs/dcdb"
	"dcfs/snap"
)

// The xattrs that ACLs are: they are kept as any other, in the form that
// acl.encode gives, but obeyed.
const (
	accessXattr  = "system.posix_acl_access"
	defaultXattr = "system.posix_acl_default"
)

// FlagAccessACL and FlagDefaultACL in Attr.Flags say that the inode has these
// xattrs (invariant 9), so that a chmod and a create have nothing to look for
// where there are none. The kernel has no FS_IOC_SETFLAGS bits here.
const (
	FlagAccessACL  = 1 << 27
	FlagDefaultACL = 1 << 26
)

// aclFlag returns the flag of an ACL's xattr, 0 for all other names.
func aclFlag(name string) uint32 {
	switch name {
	case accessXattr:
		return FlagAccessACL
	case defaultXattr:
		return FlagDefaultACL
	}
	return 0
}

// IsACL reports whether an xattr of this name is a POSIX ACL.
func IsACL(name string) bool { return aclFlag(name) != 0 }

// readACL returns the ACL that is the xattr called name, nil if there is none.
func readACL(db *dcdb.DB, name string) (acl, error) {
	if db.Attr().Flags&aclFlag(name) == 0 {
		return nil, nil
	}
	val, ok, err := db.Get(dcdb.KindXattr, name)
	if err != nil {
		return nil, err
	}
	l, err := decodeACL(val)
	if !ok || err != nil || l == nil {
		return nil, fmt.Errorf("%s is missing or bad, % x: %w", name, val, ErrIO)
	}
	return l, nil
}

// putACL makes l the xattr called name, nil takes that away. It was read
// before, or the inode is new.
func putACL(db *dcdb.DB, name string, l acl) {
	a := db.Edit()
	if l != nil {
		a.Flags |= aclFlag(name)
		db.Put(dcdb.KindXattr, name, l.encode())
	} else if a.Flags&aclFlag(name) != 0 {
		a.Flags &^= aclFlag(name)
		db.Remove(dcdb.KindXattr, name)
	}
}

// setxattrACL is Setxattr of the ACL that o is about.
func (f *FS) setxattrACL(ctx context.Context, o op, v *snap.View, ino uint64, value []byte, flags uint32) error {
	var l acl
	if len(value) > 0 { // else a way to remove it, as in Linux
		var err error
		if l, err = decodeACL(value); err != nil {
			return o.wrap(err)
		}
		if len(value) > MaxACLBytes {
			return o.wrap(ErrTooBig)
		}
	}
	return f.setACL(ctx, o, v, ino, o.arg, l, flags)
}

// setACL is Setxattr and, if l is nil, Removexattr of an ACL. As in Linux,
// XattrCreate and XattrReplace count for nothing, the mode follows the access
// ACL, one that says no more than the mode is none, and to remove one that is
// not there is no error.
func (f *FS) setACL(ctx context.Context, o op, v *snap.View, ino uint64, name string, l acl, flags uint32) error {
	return f.update(ctx, o, v, func(tx *dcdb.Tx) error {
		db, err := get(tx, v, ino)
		if err != nil {
			return err
		}
		mode := db.Attr().Mode
		switch {
		case isLink(mode):
			return ErrNotSupported
		case name == defaultXattr && !isDir(mode) && l != nil:
			return ErrAccess
		}
		_, there, err := db.Get(dcdb.KindXattr, name)
		if err != nil {
			return err
		}
		if l == nil && !there {
			return nil
		}
		a := db.Edit()
		a.Ctime = tx.Now()
		if name == accessXattr && l != nil {
			perm, minimal := l.perm()
			a.Mode = mode&^0777 | perm
			if flags&XattrKillSgid != 0 {
				a.Mode &^= syscall.S_ISGID
			}
			if minimal {
				l = nil
			}
		}
		putACL(db, name, l)
		return nil
	})
}

// aclChange is what a chmod does to the access ACL, read and ready.
type aclChange struct {
	db *dcdb.DB
	l  acl
}

// planChmod reads what is needed for a new mode, if s has one.
func (s *SetAttr) planChmod(db *dcdb.DB) (aclChange, error) {
	if s.Mode == nil {
		return aclChange{}, nil
	}
	l, err := readACL(db, accessXattr)
	if l != nil {
		l = l.chmod(*s.Mode)
	}
	return aclChange{db, l}, err
}

func (c *aclChange) apply() {
	if c.l != nil {
		putACL(c.db, accessXattr, c.l)
	}
}

// inheritance is what the ACL of a directory makes of the permissions of a new
// inode.
type inheritance struct {
	access, deflt acl
}

// inherit sets the permission bits of a new inode: those of the default ACL of
// its directory, if there is one, else those that the umask leaves.
func inherit(a *dcdb.Attr, deflt acl, umask uint32) (h inheritance) {
	switch {
	case isLink(a.Mode):
	case deflt == nil:
		a.Mode &^= umask & 0777
	default:
		h.access, a.Mode = deflt.inherit(a.Mode)
		if isDir(a.Mode) {
			h.deflt = deflt
		}
	}
	return h
}

// apply gives a new inode its ACLs.
func (h *inheritance) apply(db *dcdb.DB) {
	if h.access != nil {
		putACL(db, accessXattr, h.access)
	}
	if h.deflt != nil {
		putACL(db, defaultXattr, h.deflt)
	}
}

// aclProblems verifies invariant (9).
func aclProblems(db *dcdb.DB) (problems []string, err error) {
	a := db.Attr()
	for _, name := range []string{accessXattr, defaultXattr} {
		val, ok, err := db.Get(dcdb.KindXattr, name)
		if err != nil {
			return nil, err
		}
		if ok != (a.Flags&aclFlag(name) != 0) {
			problems = append(problems, fmt.Sprintf("flags %#x, but %s: %v", a.Flags, name, ok))
		}
		if !ok {
			continue
		}
		l, err := decodeACL(val)
		if err != nil || l == nil || string(l.encode()) != string(val) {
			problems = append(problems, fmt.Sprintf("%s is bad: % x", name, val))
			continue
		}
		perm, minimal := l.perm()
		switch {
		case name == defaultXattr && !isDir(a.Mode), isLink(a.Mode):
			problems = append(problems, fmt.Sprintf("mode %o, but %s", a.Mode, name))
		case name == accessXattr && (minimal || perm != a.Mode&0777):
			problems = append(problems, fmt.Sprintf("mode %o, but an access ACL of mode %o, minimal: %v", a.Mode, perm, minimal))
		}
	}
	return problems, nil
}
