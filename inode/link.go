package inode

import (
	"context"
	"encoding/binary"
	"fmt"

	"dcfs/dcdb"
	"dcfs/snap"
)

// linkVersion is the value of an item of kind KindLink, whose key says all.
const linkVersion = 1

// place is where an entry is: what an inode remembers of each of its links.
type place struct {
	parent uint64
	name   string
}

func (e *entry) place() place { return place{e.dir, e.name} }

func (p place) key() string {
	return string(binary.BigEndian.AppendUint64(nil, p.parent)) + p.name
}

// placeOf reads the key of an item of kind KindLink.
func placeOf(key string) (place, error) {
	if len(key) <= 8 {
		return place{}, fmt.Errorf("bad link %q: %w", key, ErrIO)
	}
	return place{binary.BigEndian.Uint64([]byte(key[:8])), key[8:]}, nil
}

// isFirst reports whether p is the link that the attributes themselves name.
func isFirst(a *dcdb.Attr, p place) bool { return a.Parent == p.parent && a.Name == p.name }

// readLink loads the item of a further link, that it can be put or removed.
func readLink(db *dcdb.DB, p place) error {
	_, _, err := db.Get(dcdb.KindLink, p.key())
	return err
}

// putLink and removeLink change the items of an inode's further links.
func putLink(db *dcdb.DB, p place)    { db.Put(dcdb.KindLink, p.key(), []byte{linkVersion}) }
func removeLink(db *dcdb.DB, p place) { db.Remove(dcdb.KindLink, p.key()) }

// move is the change of one of an inode's links from a place to another.
type move struct {
	db       *dcdb.DB
	from, to place
	first    bool
}

func planMove(db *dcdb.DB, from, to place) (move, error) {
	m := move{db, from, to, isFirst(db.Attr(), from)}
	if m.first {
		return m, nil
	}
	if err := readLink(db, from); err != nil {
		return m, err
	}
	return m, readLink(db, to)
}

func (m *move) apply(now dcdb.Time) {
	a := m.db.Edit()
	a.Ctime = now
	if m.first {
		a.Parent, a.Name = m.to.parent, m.to.name
		return
	}
	removeLink(m.db, m.from)
	putLink(m.db, m.to)
}

// drop is the loss of one of an inode's links. A directory, and the last link
// of any inode, makes it an orphan.
type drop struct {
	db     *dcdb.DB
	at     place
	first  bool
	next   *place // becomes the first link; nil: none
	last   bool   // none is left
	orphan orphan // of the last link
}

// planDrop reads what is needed to take the link at p from inode ino.
func planDrop(tx *dcdb.Tx, v *snap.View, ino uint64, db *dcdb.DB, p place) (drop, error) {
	a := db.Attr()
	d := drop{db: db, at: p, first: isFirst(a, p), last: a.Nlink <= 1 || isDir(a.Mode)}
	var err error
	switch {
	case d.last:
		d.orphan, err = planOrphan(tx, v, ino)
	case d.first:
		d.next, err = firstFurtherLink(db)
	default:
		err = readLink(db, p)
	}
	return d, err
}

// firstFurtherLink returns one of the links that are items, nil if none is.
func firstFurtherLink(db *dcdb.DB) (*place, error) {
	var key string
	err := db.AscendKeys(dcdb.KindLink, "", func(k string) bool {
		key = k
		return false
	})
	if err != nil || key == "" {
		return nil, err
	}
	p, err := placeOf(key)
	if err != nil {
		return nil, err
	}
	return &p, readLink(db, p)
}

func (d *drop) apply(now dcdb.Time) {
	a := d.db.Edit()
	a.Ctime = now
	switch {
	case d.last:
		a.Nlink, a.Parent, a.Name = 0, 0, ""
		d.orphan.add(a.Mode)
	case d.next != nil:
		a.Nlink--
		a.Parent, a.Name = d.next.parent, d.next.name
		removeLink(d.db, *d.next)
	default:
		a.Nlink--
		removeLink(d.db, d.at)
	}
}

// Link gives inode ino a further name. An inode without any comes out of the
// orphan directory: that only an O_TMPFILE may, and not what was unlinked,
// the kernel sees to.
func (f *FS) Link(ctx context.Context, v *snap.View, ino, dir uint64, name string) (Attr, error) {
	o := op{"link", dir, name}
	if err := writable(v); err != nil {
		return Attr{}, o.wrap(err)
	}
	if err := checkNewName(name); err != nil {
		return Attr{}, o.wrap(err)
	}
	var linked Attr
	err := f.update(ctx, o, v, func(tx *dcdb.Tx) error {
		db, err := get(tx, v, ino)
		if err != nil {
			return err
		}
		e, err := readNewEntry(tx, v, dir, name)
		if err != nil {
			return err
		}
		add, err := planAdd(tx, v, ino, db, e.place())
		if err != nil {
			return err
		}
		now := tx.Now()
		add.apply(now)
		e.set(ino, db.Attr().Mode, now)
		linked = Attr{ino, *db.Attr()}
		return nil
	})
	return linked, err
}

// addition is one more link of an inode.
type addition struct {
	db     *dcdb.DB
	at     place
	orphan *orphan // the inode has had no link; nil: it has
}

func planAdd(tx *dcdb.Tx, v *snap.View, ino uint64, db *dcdb.DB, p place) (addition, error) {
	a := db.Attr()
	switch {
	case isDir(a.Mode):
		return addition{}, ErrPermission
	case a.Nlink >= MaxLinks:
		return addition{}, ErrTooManyLinks
	case a.Nlink == 0:
		o, err := planOrphan(tx, v, ino)
		return addition{db, p, &o}, err
	}
	return addition{db, p, nil}, readLink(db, p)
}

func (l *addition) apply(now dcdb.Time) {
	a := l.db.Edit()
	a.Ctime = now
	a.Nlink++
	if l.orphan == nil {
		putLink(l.db, l.at)
		return
	}
	a.Parent, a.Name = l.at.parent, l.at.name
	l.orphan.remove()
}
