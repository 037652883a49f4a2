package inode

import (
	"bytes"
	"context"
	"strings"

	"dcfs/dcdb"
	"dcfs/snap"
)

// Flags of Setxattr, the first two as those of setxattr(2).
const (
	XattrCreate  = 1 // ErrExist if it exists
	XattrReplace = 2 // ErrNoData if it does not
	// XattrKillSgid says that who sets an access ACL has no right to keep
	// S_ISGID (FUSE_SETXATTR_ACL_KILL_SGID).
	XattrKillSgid = 1 << 16
)

// Getxattr returns the value of an extended attribute. The caller must not
// change it.
func (f *FS) Getxattr(ctx context.Context, v *snap.View, ino uint64, name string) ([]byte, error) {
	o := op{"getxattr", ino, name}
	if err := checkXattrName(name); err != nil {
		return nil, o.wrap(err)
	}
	var value []byte
	err := f.read(ctx, o, v, func(tx *dcdb.Tx) error {
		db, err := get(tx, v, ino)
		if err != nil {
			return err
		}
		if !xattrAllowed(db.Attr().Mode, name) {
			return ErrNoData
		}
		val, ok, err := db.Get(dcdb.KindXattr, name)
		if err == nil && !ok {
			return ErrNoData
		}
		value = val
		return err
	})
	return value, err
}

// Setxattr sets an extended attribute, of at most MaxXattrBytes. ACLs are
// xattrs of their own kind: see setACL.
func (f *FS) Setxattr(ctx context.Context, v *snap.View, ino uint64, name string, value []byte, flags uint32) error {
	o := op{"setxattr", ino, name}
	if err := writable(v); err != nil {
		return o.wrap(err)
	}
	if err := checkSetxattr(name, value, flags); err != nil {
		return o.wrap(err)
	}
	if aclFlag(name) != 0 {
		return f.setxattrACL(ctx, o, v, ino, value, flags)
	}
	value = bytes.Clone(value)
	return f.update(ctx, o, v, func(tx *dcdb.Tx) error {
		db, err := getForXattr(tx, v, ino, name)
		if err != nil {
			return err
		}
		_, there, err := db.Get(dcdb.KindXattr, name)
		switch {
		case err != nil:
			return err
		case there && flags&XattrCreate != 0:
			return ErrExist
		case !there && flags&XattrReplace != 0:
			return ErrNoData
		}
		a := db.Edit()
		a.Ctime = tx.Now()
		if name == capabilityXattr {
			a.Flags |= FlagCapability
		}
		db.Put(dcdb.KindXattr, name, value)
		return nil
	})
}

// Removexattr removes an extended attribute.
func (f *FS) Removexattr(ctx context.Context, v *snap.View, ino uint64, name string) error {
	o := op{"removexattr", ino, name}
	if err := writable(v); err != nil {
		return o.wrap(err)
	}
	if err := checkXattrName(name); err != nil {
		return o.wrap(err)
	}
	if aclFlag(name) != 0 {
		return f.setACL(ctx, o, v, ino, name, nil, 0)
	}
	return f.update(ctx, o, v, func(tx *dcdb.Tx) error {
		db, err := getForXattr(tx, v, ino, name)
		if err != nil {
			return err
		}
		_, there, err := db.Get(dcdb.KindXattr, name)
		if err != nil {
			return err
		}
		if !there {
			return ErrNoData
		}
		a := db.Edit()
		a.Ctime = tx.Now()
		if name == capabilityXattr {
			a.Flags &^= FlagCapability
		}
		db.Remove(dcdb.KindXattr, name)
		return nil
	})
}

// Listxattr returns the names of an inode's extended attributes, each closed
// by a zero byte. Who may see those of trusted. is the kernel's to filter.
func (f *FS) Listxattr(ctx context.Context, v *snap.View, ino uint64) ([]byte, error) {
	var names []byte
	err := f.read(ctx, op{"listxattr", ino, ""}, v, func(tx *dcdb.Tx) error {
		names = nil
		db, err := get(tx, v, ino)
		if err != nil {
			return err
		}
		return db.AscendKeys(dcdb.KindXattr, "", func(name string) bool {
			names = append(append(names, name...), 0)
			return true
		})
	})
	return names, err
}

// getForXattr returns the DCDB of an inode that an xattr is to be changed of.
func getForXattr(tx *dcdb.Tx, v *snap.View, ino uint64, name string) (*dcdb.DB, error) {
	db, err := get(tx, v, ino)
	if err == nil && !xattrAllowed(db.Attr().Mode, name) {
		return nil, ErrPermission
	}
	return db, err
}

// xattrAllowed reports whether an inode of this mode can have the xattr: as
// in Linux, user.* is for files and directories, because what protects it is
// the permission to read and write them.
func xattrAllowed(mode uint32, name string) bool {
	return isReg(mode) || isDir(mode) || !strings.HasPrefix(name, "user.")
}

// checkXattrName verifies a name and its namespace.
func checkXattrName(name string) error {
	if name == "" || len(name) > MaxName {
		return ErrRange
	}
	if strings.Contains(name, "\x00") {
		return ErrInvalid
	}
	if aclFlag(name) != 0 {
		return nil
	}
	for _, space := range []string{"user.", "trusted.", "security."} {
		if name == space {
			return ErrInvalid
		}
		if strings.HasPrefix(name, space) {
			return nil
		}
	}
	return ErrNotSupported
}

func checkSetxattr(name string, value []byte, flags uint32) error {
	if flags&^(XattrCreate|XattrReplace|XattrKillSgid) != 0 {
		return ErrInvalid
	}
	if err := checkXattrName(name); err != nil {
		return err
	}
	if len(value) > MaxXattrBytes {
		return ErrTooBig
	}
	return nil
}
