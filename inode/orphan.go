package inode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"dcfs/dcdb"
	"dcfs/snap"
)

// orphansPerStep is how many orphans CleanOrphans looks up at a time.
const orphansPerStep = 256

// orphan is the place of an inode in the orphan directory, read and so ready
// to be changed. Times of the orphan directory mean nothing and stay.
type orphan struct {
	db  *dcdb.DB // of the orphan directory
	ino uint64
	in  bool // the inode stands there
}

func orphanKey(ino uint64) string {
	return string(binary.BigEndian.AppendUint64(nil, ino))
}

// planOrphan reads the place of ino.
func planOrphan(tx *dcdb.Tx, v *snap.View, ino uint64) (orphan, error) {
	db, err := tx.DB(v.Key(snap.OrphanIno))
	if errors.Is(err, dcdb.ErrNotExist) {
		return orphan{}, fmt.Errorf("the orphan directory is missing: %w", ErrIO)
	}
	if err != nil {
		return orphan{}, err
	}
	_, in, err := db.Get(dcdb.KindDirent, orphanKey(ino))
	return orphan{db, ino, in}, err
}

// add puts an inode of this mode into the orphan directory.
func (o *orphan) add(mode uint32) {
	if !o.in {
		o.db.Edit().Size++
	}
	o.db.Put(dcdb.KindDirent, orphanKey(o.ino), dirent{ino: o.ino, mode: mode}.encode())
	o.in = true
}

// remove takes the inode out.
func (o *orphan) remove() {
	if !o.in {
		return
	}
	o.db.Edit().Size--
	o.db.Remove(dcdb.KindDirent, orphanKey(o.ino))
	o.in = false
}

// Forget says that nobody uses an inode any more, neither the kernel nor a
// handle. If it has no name it goes for good, with all that is in it; else
// nothing happens.
func (f *FS) Forget(ctx context.Context, v *snap.View, ino uint64) error {
	if v.Err() != nil || v.ReadOnly() || ino == snap.OrphanIno {
		return nil
	}
	a, err := f.Getattr(ctx, v, ino)
	if errors.Is(err, ErrStale) || err == nil && a.Nlink > 0 {
		return nil
	}
	if err != nil {
		return err
	}
	err = f.bury(ctx, v, ino)
	if errors.Is(err, ErrStale) {
		return nil // somebody else forgot it at the same time
	}
	return err
}

// bury deletes an inode if it has no name.
func (f *FS) bury(ctx context.Context, v *snap.View, ino uint64) error {
	return f.update(ctx, op{"forget", ino, ""}, v, func(tx *dcdb.Tx) error {
		place, err := planOrphan(tx, v, ino)
		if err != nil {
			return err
		}
		db, err := tx.DB(v.Key(ino))
		if err != nil {
			return err
		}
		// Looked at under the lock: linkat(2) may just have given it a name.
		if db.Attr().Nlink == 0 {
			place.remove()
			db.Delete()
		}
		return nil
	})
}

// CleanOrphans deletes every orphan of a live view: what was open when the
// last process that served it ended. It is called at the first use of the
// view, when nothing of it can be open.
func (f *FS) CleanOrphans(ctx context.Context, v *snap.View) error {
	if err := v.Err(); err != nil {
		return op{"clean orphans", snap.OrphanIno, ""}.wrap(err)
	}
	if v.ReadOnly() {
		return nil
	}
	for {
		inos, err := f.someOrphans(ctx, v)
		if err != nil || len(inos) == 0 {
			return err
		}
		for _, ino := range inos {
			if err := f.bury(ctx, v, ino); err != nil && !errors.Is(err, ErrStale) {
				return err
			}
			if err := f.strike(ctx, v, ino); err != nil {
				return err
			}
		}
	}
}

// someOrphans returns the first orphans of v, up to orphansPerStep.
func (f *FS) someOrphans(ctx context.Context, v *snap.View) ([]uint64, error) {
	var inos []uint64
	err := f.read(ctx, op{"list orphans", snap.OrphanIno, ""}, v, func(tx *dcdb.Tx) error {
		inos = nil
		db, err := tx.DB(v.Key(snap.OrphanIno))
		if err != nil {
			return err
		}
		return db.AscendKeys(dcdb.KindDirent, "", func(key string) bool {
			if len(key) == 8 {
				inos = append(inos, binary.BigEndian.Uint64([]byte(key)))
			}
			return len(inos) < orphansPerStep
		})
	})
	return inos, err
}

// strike takes an item that names no orphan (against invariant 5) out of the
// orphan directory: it would be met for ever.
func (f *FS) strike(ctx context.Context, v *snap.View, ino uint64) error {
	return f.update(ctx, op{"strike orphan", ino, ""}, v, func(tx *dcdb.Tx) error {
		place, err := planOrphan(tx, v, ino)
		if err != nil {
			return err
		}
		place.remove()
		return nil
	})
}
