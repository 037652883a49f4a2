package inode

import (
	"context"

	"dcfs/dcdb"
	"dcfs/snap"
)

// What Seek looks for, as lseek(2) numbers it.
const (
	SeekData = 3
	SeekHole = 4
)

// Seek returns the first offset from off on that is data, or a hole. Beyond
// every file lies a hole. ErrNXIO: there is no data, or off is not in the
// file.
func (f *FS) Seek(ctx context.Context, v *snap.View, ino, off uint64, whence uint32) (uint64, error) {
	o := op{"seek", ino, ""}
	if whence != SeekData && whence != SeekHole {
		return 0, o.wrap(ErrInvalid)
	}
	var at uint64
	err := f.read(ctx, o, v, func(tx *dcdb.Tx) error {
		db, err := get(tx, v, ino)
		if err != nil {
			return err
		}
		if err := regular(db.Attr().Mode); err != nil {
			return err
		}
		at, err = seek(db, off, whence == SeekHole)
		return err
	})
	return at, err
}

func seek(db *dcdb.DB, off uint64, hole bool) (uint64, error) {
	size := db.Attr().Size
	if off >= size {
		return 0, ErrNXIO
	}
	at, found, err := db.Seek(off, hole)
	if err != nil {
		return 0, err
	}
	found = found && at < size
	switch {
	case found:
		return at, nil
	case hole:
		return size, nil
	}
	return 0, ErrNXIO
}
