package inode

import (
	"fmt"

	"dcfs/dcdb"
	"dcfs/snap"
)

// entry is a name in a directory, read and so ready to be changed.
type entry struct {
	db   *dcdb.DB // of the directory
	dir  uint64
	name string
	dirent
	used bool // there is an entry of this name; else dirent is zero
}

// readEntry reads name in directory dir.
func readEntry(tx *dcdb.Tx, v *snap.View, dir uint64, name string) (entry, error) {
	db, err := getDir(tx, v, dir)
	if err != nil {
		return entry{}, err
	}
	return readEntryIn(db, dir, name)
}

// readEntryIn is readEntry in a directory whose DCDB the caller has.
func readEntryIn(db *dcdb.DB, dir uint64, name string) (entry, error) {
	e := entry{db: db, dir: dir, name: name}
	val, ok, err := db.Get(dcdb.KindDirent, name)
	if err != nil || !ok {
		return e, err
	}
	if e.dirent, err = decodeDirent(val); err != nil {
		return e, fmt.Errorf("directory %d, entry %q: %w", dir, name, err)
	}
	e.used = true
	return e, nil
}

// readOldEntry is readEntry for an entry that must be there.
func readOldEntry(tx *dcdb.Tx, v *snap.View, dir uint64, name string) (entry, error) {
	e, err := readEntry(tx, v, dir, name)
	if err == nil && !e.used {
		return e, ErrNotExist
	}
	return e, err
}

// readNewEntry is readEntry for an entry that must not be there yet, in a
// directory that may get one.
func readNewEntry(tx *dcdb.Tx, v *snap.View, dir uint64, name string) (entry, error) {
	db, err := getLiveDir(tx, v, dir)
	if err != nil {
		return entry{}, err
	}
	e, err := readEntryIn(db, dir, name)
	if err == nil && e.used {
		return e, ErrExist
	}
	return e, err
}

// set makes the entry name inode ino. What it named before keeps its link
// count: that is the caller's to change. A name that was in use keeps its
// cookie, for it keeps its place in the listing.
func (e *entry) set(ino uint64, mode uint32, now dcdb.Time) {
	a := e.db.Edit()
	if e.used {
		a.Nlink -= subdir(e.mode)
	} else {
		a.Size++
		e.cookie = max(a.NextCookie, firstCookie)
		a.NextCookie = e.cookie + 1
	}
	a.Nlink += subdir(mode)
	a.Mtime, a.Ctime = now, now
	e.ino, e.mode, e.used = ino, mode, true
	e.db.Put(dcdb.KindDirent, e.name, e.encode())
}

// clear takes the entry away.
func (e *entry) clear(now dcdb.Time) {
	a := e.db.Edit()
	a.Size--
	a.Nlink -= subdir(e.mode)
	a.Mtime, a.Ctime = now, now
	e.db.Remove(dcdb.KindDirent, e.name)
}

// subdir is what an entry of this mode adds to its directory's link count.
func subdir(mode uint32) uint32 {
	if isDir(mode) {
		return 1
	}
	return 0
}

// roomForSubdir returns ErrTooManyLinks if the directory can have no further
// subdirectory.
func (e *entry) roomForSubdir() error {
	if e.db.Attr().Nlink >= MaxLinks {
		return ErrTooManyLinks
	}
	return nil
}
