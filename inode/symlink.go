package inode

import (
	"context"
	"fmt"
	"syscall"

	"dcfs/dcdb"
	"dcfs/snap"
)

// Symlink creates a symbolic link that leads to text.
func (f *FS) Symlink(ctx context.Context, v *snap.View, dir uint64, name string, cred Cred, text string) (Attr, error) {
	o := op{"symlink", dir, name}
	if err := writable(v); err != nil {
		return Attr{}, o.wrap(err)
	}
	if text == "" {
		return Attr{}, o.wrap(ErrNotExist)
	}
	if len(text) > MaxTarget {
		return Attr{}, o.wrap(ErrNameTooLong)
	}
	a := dcdb.Attr{Mode: syscall.S_IFLNK | 0777, Size: uint64(len(text))}
	return f.create(ctx, o, v, cred, a, text)
}

// Readlink returns the target of a symlink.
func (f *FS) Readlink(ctx context.Context, v *snap.View, ino uint64) (string, error) {
	var text string
	o := op{"readlink", ino, ""}
	err := f.read(ctx, o, v, func(tx *dcdb.Tx) error {
		db, err := get(tx, v, ino)
		if err != nil {
			return err
		}
		text, err = readTarget(db)
		return err
	})
	if err != nil {
		return "", err
	}
	return text, f.touchAtime(ctx, v, ino)
}

// readTarget returns where a symlink leads to.
func readTarget(db *dcdb.DB) (string, error) {
	if db.Attr().Mode&syscall.S_IFMT != syscall.S_IFLNK {
		return "", ErrInvalid
	}
	text, ok, err := db.Get(dcdb.KindText, "")
	if err != nil {
		return "", err
	}
	if !ok {
		return "", fmt.Errorf("symlink without a target: %w", ErrIO)
	}
	return string(text), nil
}
