// Package inode gives the DCDBs of a volume the meaning of a POSIX file
// system: attributes, directories, file data, links, extended attributes. It
// knows nothing of FUSE: package fs turns requests into the operations here,
// and any other program in the same process may call them as well.
//
// An inode is named by a view and its inode number; its DCDB is
// View.Key(number). Every operation is atomic: others see all of it or
// nothing, and so does a crash. Permission bits are not checked here, the
// kernel does that (default_permissions); all else is, because the kernel
// holds no lock on our state and two requests may race.
//
// # Format, version 1
//
// A DCDB's attributes are those of stat(2). What else an inode has are items
// of its DCDB. Integers in keys are big-endian, varints are those of
// encoding/binary, in their shortest form.
//
//	kind        | in                | key                            | value
//	KindDirent  | directory         | name, 1-255 B                  | dirent
//	KindDirent  | orphan directory  | inode 8B                       | dirent, cookie 0
//	KindLink    | all but directory | parent inode 8B | name 1-255 B | link version 1B
//	KindText    | symlink           | empty                          | target, 1-4095 B
//	KindXattr   | all               | name, 1-255 B                  | value, 0-65536 B
//
//	dirent      | version 1B | inode varint | file type 1B | cookie varint |
//
// The file type is the S_IFMT bits of the mode, shifted down by 12: DT_DIR
// and so on. A cookie belongs to its entry, not to a position: it is what
// telldir(3) answers after the entry, and it lives as long as the entry.
//
// # Invariants
//
// Each holds in every view at every commit, and Check verifies it.
//
//	(1) Every dirent names an inode that exists in its view, and has its type.
//	(2) An inode's link count is the number of entries that name it; a
//	    directory has at most one, and its link count is 2 and the number of
//	    its subdirectories.
//	(3) A directory's Size is the number of its entries.
//	(4) Parent and Name of an inode are its first link. Each further link is
//	    one item of kind KindLink. The root's Parent is the root; an orphan's
//	    Parent is 0 and its Name empty.
//	(5) The orphan directory holds exactly the inodes with link count 0.
//	    An orphaned directory is empty.
//	(6) Cookies of a directory are unique, at least 3 and below NextCookie
//	    (0 to 2 are the start, "." and "..").
//	(7) FlagCapability is set exactly in inodes that have the xattr
//	    security.capability.
//	(8) A symlink's Size is the length of its target; a regular file's Size
//	    is at most MaxFileBytes; all other inodes but directories have none.
//	(9) FlagAccessACL and FlagDefaultACL are set exactly in inodes that have
//	    the xattrs system.posix_acl_access and _default. Both are valid ACLs;
//	    the first says more than the mode and agrees with its bits, the second
//	    is a directory's. Symlinks have none.
//
// # How an operation is written
//
// The function that Space.Update runs may be run again from its start until
// its first change. So each operation here first reads (functions named read
// and plan, which return errors), then changes (functions without an error).
// Every key that is put or removed was read before, also in the orphan
// directory and in inodes that only lose a link. No operation changes more than
// five DCDBs, a rename that replaces something: package dcdb keeps room in a
// commit group for sixteen.
//
// Lock order: Dir.mu, then the volume's lock inside package dcdb. Nothing
// else is locked here.
package inode

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"

	"dcfs/dcdb"
	"dcfs/snap"
)

// Limits of the file system.
const (
	MaxName       = 255     // bytes of a name, without the final zero
	MaxLinks      = 1 << 31 // links of an inode
	MaxFileBytes  = 1 << 44 // 16 TiB
	MaxTarget     = 4095    // bytes of a symlink's target: PATH_MAX without the final zero
	MaxXattrBytes = 64 << 10
)

// Options are what a caller may choose.
type Options struct {
	// StrictAtime makes every read change the access time. Without it only
	// utimensat does: a grep -r after a snapshot must not save a head for
	// each file.
	StrictAtime bool
}

// FS is the operations on the inodes of a volume. All methods may be called
// concurrently.
type FS struct {
	vol    *snap.Volume // immutable
	space  *dcdb.Space  // immutable
	strict atomic.Bool  // see Options.StrictAtime
}

// New returns the operations on volume v.
func New(v *snap.Volume, o Options) *FS {
	f := &FS{vol: v, space: v.Space()}
	f.SetStrictAtime(o.StrictAtime)
	return f
}

// StrictAtime reports whether reads change the access time.
func (f *FS) StrictAtime() bool { return f.strict.Load() }

// SetStrictAtime changes Options.StrictAtime, for reads to come.
func (f *FS) SetStrictAtime(on bool) { f.strict.Store(on) }

// Attr is an inode's number and attributes.
type Attr struct {
	Ino uint64
	dcdb.Attr
}

// Cred is on whose behalf an operation is done.
type Cred struct {
	UID, GID uint32
	Groups   func(gid uint32) bool // reports supplementary groups; may be nil
	Root     bool                  // has the capabilities of a super-user (CAP_FSETID)
	Umask    uint32                // taken from the mode of what is created
}

// in reports whether c belongs to group gid or may act as if.
func (c Cred) in(gid uint32) bool {
	return c.Root || c.GID == gid || c.Groups != nil && c.Groups(gid)
}

// read runs fn on view v without changing anything.
func (f *FS) read(ctx context.Context, o op, v *snap.View, fn func(tx *dcdb.Tx) error) error {
	if err := v.Err(); err != nil {
		return o.wrap(err)
	}
	return o.wrap(f.space.View(ctx, fn))
}

// update runs fn, which may change view v.
func (f *FS) update(ctx context.Context, o op, v *snap.View, fn func(tx *dcdb.Tx) error) error {
	if err := writable(v); err != nil {
		return o.wrap(err)
	}
	return o.wrap(f.space.Update(ctx, fn))
}

// writable returns ErrStale or ErrReadOnly if v cannot be changed.
func writable(v *snap.View) error {
	if err := v.Err(); err != nil {
		return err
	}
	if v.ReadOnly() {
		return ErrReadOnly
	}
	return nil
}

// get returns the DCDB of an inode that a caller named by number. The orphan
// directory has no name and is no one's to ask for.
func get(tx *dcdb.Tx, v *snap.View, ino uint64) (*dcdb.DB, error) {
	if ino == snap.OrphanIno {
		return nil, ErrStale
	}
	return tx.DB(v.Key(ino))
}

// getDir is get for what must be a directory.
func getDir(tx *dcdb.Tx, v *snap.View, ino uint64) (*dcdb.DB, error) {
	db, err := get(tx, v, ino)
	if err != nil {
		return nil, err
	}
	if !isDir(db.Attr().Mode) {
		return nil, ErrNotDir
	}
	return db, nil
}

// getLiveDir is getDir for a directory that gets a new entry: one that was
// removed, though somebody still works in it, can't.
func getLiveDir(tx *dcdb.Tx, v *snap.View, ino uint64) (*dcdb.DB, error) {
	db, err := getDir(tx, v, ino)
	if err == nil && db.Attr().Nlink == 0 {
		return nil, ErrNotExist
	}
	return db, err
}

// getChild returns the DCDB of an inode that an entry names: that it is not
// there is damage (invariant 1).
func getChild(tx *dcdb.Tx, v *snap.View, ino uint64) (*dcdb.DB, error) {
	db, err := tx.DB(v.Key(ino))
	if errors.Is(err, dcdb.ErrNotExist) {
		return nil, fmt.Errorf("an entry names inode %d, which is missing: %w", ino, ErrIO)
	}
	return db, err
}

// ignoreMissing returns err unless it says that there is no such DCDB.
func ignoreMissing(err error) error {
	if errors.Is(err, dcdb.ErrNotExist) {
		return nil
	}
	return err
}

func isDir(mode uint32) bool { return mode&syscall.S_IFMT == syscall.S_IFDIR }
func isReg(mode uint32) bool { return mode&syscall.S_IFMT == syscall.S_IFREG }

// regular returns the error of an operation on file data for any other type.
func regular(mode uint32) error {
	switch {
	case isReg(mode):
		return nil
	case isDir(mode):
		return ErrIsDir
	}
	return ErrInvalid
}
