package inode

import (
	"context"
	"errors"
	"math"

	"dcfs/dcdb"
	"dcfs/snap"
)

// WriteFlags are the ways of writing that differ from pwrite(2).
type WriteFlags struct {
	Append      bool // at the end of the file, wherever that is (O_APPEND)
	KillSuidGid bool // see SetAttr
	Sync        bool // durable before Write returns (O_SYNC, O_DSYNC)
}

// errCut: a write reaches beyond MaxFileBytes and must be cut there.
var errCut = errors.New("write reaches beyond the largest file")

// Read fills p with the file's bytes from off on. It returns less at the end
// of the file, 0 beyond it.
func (f *FS) Read(ctx context.Context, v *snap.View, ino uint64, p []byte, off uint64) (int, error) {
	o := op{"read", ino, ""}
	if _, err := f.regular(ctx, o, v, ino); err != nil {
		return 0, err
	}
	n, err := f.space.Read(ctx, v.Key(ino), p, off)
	if err != nil {
		return 0, o.wrap(err)
	}
	if n == 0 {
		return 0, nil
	}
	return n, f.touchAtime(ctx, v, ino)
}

// regular returns the time and an error unless ino is a regular file.
func (f *FS) regular(ctx context.Context, o op, v *snap.View, ino uint64) (now dcdb.Time, err error) {
	err = f.read(ctx, o, v, func(tx *dcdb.Tx) error {
		db, err := get(tx, v, ino)
		if err != nil {
			return err
		}
		now = tx.Now()
		return regular(db.Attr().Mode)
	})
	return now, err
}

// Write writes p at off. It writes less, at least a byte, where p reaches
// beyond MaxFileBytes. Of cred only the groups matter: the kernel says by
// flags what a caller may not keep.
func (f *FS) Write(ctx context.Context, v *snap.View, ino uint64, cred Cred, p []byte, off uint64, flags WriteFlags) (int, error) {
	o := op{"write", ino, ""}
	if err := writable(v); err != nil {
		return 0, o.wrap(err)
	}
	if len(p) == 0 {
		_, err := f.regular(ctx, o, v, ino)
		return 0, err
	}
	if ino == snap.OrphanIno { // as get says
		return 0, o.wrap(ErrStale)
	}
	w := write{flags: flags, cred: cred, start: off}
	n, err := w.run(ctx, f.space, v.Key(ino), p)
	if n == 0 && err != nil {
		return 0, o.wrap(err)
	}
	// A write that got part of the way is a short one: the next meets the
	// error.
	if flags.Sync {
		return n, o.wrap(f.space.Sync(ctx, v.Key(ino)))
	}
	return n, nil
}

// write is one Write while it waits for the lock.
type write struct {
	flags WriteFlags
	cred  Cred
	start uint64 // where it begins; of an append as of the last try
}

func (w *write) run(ctx context.Context, space *dcdb.Space, k dcdb.Key, p []byte) (int, error) {
	for {
		touch := func(db *dcdb.DB) error { return w.touch(db, uint64(len(p))) }
		n, err := space.Write(ctx, k, p, w.place, touch)
		if !errors.Is(err, errCut) {
			return n, err
		}
		p = p[:MaxFileBytes-w.start]
	}
}

// place returns where the write begins. It is asked once for a write that is
// done in several steps.
func (w *write) place(db *dcdb.DB) uint64 {
	if w.flags.Append {
		w.start = db.Attr().Size
	}
	return w.start
}

// touch refuses or cuts what is too long, and makes the changes that come
// with new data.
func (w *write) touch(db *dcdb.DB, n uint64) error {
	if err := regular(db.Attr().Mode); err != nil {
		return err
	}
	if w.start >= MaxFileBytes {
		return ErrFileTooBig
	}
	if n > MaxFileBytes-w.start {
		return errCut
	}
	caps, err := planCapability(db, true)
	if err != nil {
		return err
	}
	caps.apply()
	modified(db.Edit(), w.cred, w.flags.KillSuidGid, db.Now())
	return nil
}

// modified makes the changes of attributes that come with new data.
func modified(a *dcdb.Attr, cred Cred, killSuidGid bool, now dcdb.Time) {
	if killSuidGid {
		a.Mode = withoutSuid(a, cred, true)
	}
	a.Mtime, a.Ctime = now, now
}

// end returns off + n, or ErrFileTooBig if that is no file.
func end(off, n uint64) (uint64, error) {
	if off > math.MaxUint64-n || off+n > MaxFileBytes {
		return 0, ErrFileTooBig
	}
	return off + n, nil
}

// Fsync returns when everything that was done to an inode is durable. What
// a read-only view shows is so already.
func (f *FS) Fsync(ctx context.Context, v *snap.View, ino uint64) error {
	o := op{"fsync", ino, ""}
	if err := v.Err(); err != nil {
		return o.wrap(err)
	}
	if v.ReadOnly() {
		return nil
	}
	return o.wrap(f.space.Sync(ctx, v.Key(ino)))
}

// SyncAll returns when everything that was done to any view is durable.
func (f *FS) SyncAll(ctx context.Context) error {
	return op{"sync", 0, ""}.wrap(f.space.SyncAll(ctx))
}
