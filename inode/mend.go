package inode

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"dcfs/dcdb"
	"dcfs/snap"
)

// How a check mends. Only what is known for certain is changed, each inode in one
// commit group, so that a crash in between leaves less to be mended:
//
//   - A directory's size and link count are made what its entries say.
//   - An inode's link count, and the links that it knows of, are made what the
//     entries say that name it.
//   - An inode that nothing names gets a name in /lost+found. If its link count
//     says that it lost its last name, it becomes an orphan, which is erased
//     when the view is used next.
//   - The orphan directory forgets what does not exist or has a name.
//
// Names and link counts are left alone if something in the view can't be read:
// what names an inode may be there.

// lostFound is where inodes go that nothing names.
const lostFound = "lost+found"

// mend runs fn, if anything is to be mended, and says what it did.
func (c *checker) mend(ctx context.Context, ino uint64, did string, fn func(tx *dcdb.Tx) error) error {
	if c.o.Mended == nil || c.v.ReadOnly() {
		return nil
	}
	if err := c.f.space.Update(ctx, fn); err != nil {
		return fmt.Errorf("mend: %w", err)
	}
	c.o.Mended(fmt.Sprintf("%s: inode %d: %s", c.v.Name(), ino, did))
	return nil
}

func (c *checker) mendDirectory(ctx context.Context, ino, entries uint64, nlink uint32) error {
	did := fmt.Sprintf("size set to %d entries, link count to %d", entries, nlink)
	return c.mend(ctx, ino, did, func(tx *dcdb.Tx) error {
		db, err := tx.DB(c.v.Key(ino))
		if err != nil {
			return err
		}
		a := db.Edit()
		a.Size, a.Nlink = entries, nlink
		return nil
	})
}

func (c *checker) mendStrike(ctx context.Context, ino uint64) error {
	if c.blind {
		return nil
	}
	return c.mend(ctx, ino, "no orphan any more", func(tx *dcdb.Tx) error {
		o, err := planOrphan(tx, c.v, ino)
		if err != nil {
			return err
		}
		o.remove()
		return nil
	})
}

// mendNotOrphan takes an inode that has a name, or thinks so, out of the orphan
// directory.
func (c *checker) mendNotOrphan(ctx context.Context, n *naming) error {
	if c.blind {
		return nil
	}
	if err := c.mendStrike(ctx, n.ino); err != nil {
		return err
	}
	if n.names > 0 {
		return c.mendLinks(ctx, n)
	}
	return c.mendUnnamed(ctx, n)
}

// mendLinks makes what an inode says of its links what the entries say.
func (c *checker) mendLinks(ctx context.Context, n *naming) error {
	if c.o.Mended == nil || c.blind || n.wrongType || isDir(n.mode) && n.names != 1 || n.names >= maxMendNames {
		return nil
	}
	slices.Sort(n.dirs)
	n.dirs = slices.Compact(n.dirs)
	var at []place
	for _, dir := range n.dirs {
		names, err := c.namesIn(ctx, dir, n.ino)
		if err != nil {
			return err
		}
		for _, name := range names {
			at = append(at, place{dir, name})
		}
	}
	return c.mend(ctx, n.ino, fmt.Sprintf("links set to those of %d entries", len(at)), func(tx *dcdb.Tx) error {
		db, err := tx.DB(c.v.Key(n.ino))
		if err != nil {
			return err
		}
		set, err := planLinks(db, at, n.other)
		if err != nil {
			return err
		}
		set()
		return nil
	})
}

// planLinks reads what is needed to make places an inode's only links, and returns
// what does it. An inode without a link is an orphan; a directory that is none any
// more has link count dirLinks.
func planLinks(db *dcdb.DB, at []place, dirLinks uint64) (func(), error) {
	a := db.Attr()
	first := place{}
	if i := slices.Index(at, place{a.Parent, a.Name}); i >= 0 {
		first = at[i]
	} else if len(at) > 0 {
		first = at[0]
	}
	var stale []string
	old := map[string]bool{}
	err := db.AscendKeys(dcdb.KindLink, "", func(key string) bool {
		old[key] = true
		return true
	})
	if err != nil {
		return nil, err
	}
	var further []place
	for _, p := range at {
		if p != first && !old[p.key()] {
			further = append(further, p)
		}
		if p != first {
			delete(old, p.key())
		}
	}
	for key := range old {
		stale = append(stale, key)
	}
	for _, key := range stale {
		if _, _, err := db.Get(dcdb.KindLink, key); err != nil {
			return nil, err
		}
	}
	for _, p := range further {
		if err := readLink(db, p); err != nil {
			return nil, err
		}
	}
	return func() {
		a := db.Edit()
		a.Parent, a.Name = first.parent, first.name
		switch {
		case !isDir(a.Mode) || len(at) == 0:
			a.Nlink = uint32(len(at))
		case a.Nlink == 0:
			a.Nlink = uint32(dirLinks)
		}
		for _, key := range stale {
			db.Remove(dcdb.KindLink, key)
		}
		for _, p := range further {
			putLink(db, p)
		}
	}, nil
}

// mendUnnamed gives an inode that nothing names a place.
func (c *checker) mendUnnamed(ctx context.Context, n *naming) error {
	if c.o.Mended == nil || c.blind || c.v.ReadOnly() {
		return nil
	}
	if n.nlink == 0 && !n.filled {
		return c.mend(ctx, n.ino, "made an orphan, to be erased", func(tx *dcdb.Tx) error {
			db, err := tx.DB(c.v.Key(n.ino))
			if err != nil {
				return err
			}
			o, err := planOrphan(tx, c.v, n.ino)
			if err != nil {
				return err
			}
			set, err := planLinks(db, nil, 0)
			if err != nil {
				return err
			}
			set()
			o.add(n.mode)
			return nil
		})
	}
	dir, err := c.lostFound(ctx)
	if err != nil {
		return err
	}
	name, err := c.freeName(ctx, dir, n.ino)
	if err != nil {
		return err
	}
	return c.mend(ctx, n.ino, fmt.Sprintf("named /%s/%s", lostFound, name), func(tx *dcdb.Tx) error {
		db, err := tx.DB(c.v.Key(n.ino))
		if err != nil {
			return err
		}
		e, err := readNewEntry(tx, c.v, dir, name)
		if err != nil {
			return err
		}
		set, err := planLinks(db, []place{e.place()}, n.other)
		if err != nil {
			return err
		}
		set()
		e.set(n.ino, n.mode, tx.Now())
		return nil
	})
}

// lostFound returns the directory for what nothing names, made if need be.
func (c *checker) lostFound(ctx context.Context) (uint64, error) {
	a, err := c.f.Lookup(ctx, c.v, snap.RootIno, lostFound)
	if errors.Is(err, ErrNotExist) {
		a, err = c.f.Mkdir(ctx, c.v, snap.RootIno, lostFound, Cred{Root: true}, 0700)
	}
	if err == nil && !isDir(a.Mode) {
		err = fmt.Errorf("/%s is no directory: move it away", lostFound)
	}
	return a.Ino, err
}

// freeName returns a name for an inode that a directory does not have.
func (c *checker) freeName(ctx context.Context, dir, ino uint64) (string, error) {
	name := fmt.Sprintf("#%d", ino)
	for i := 1; ; i++ {
		_, err := c.f.Lookup(ctx, c.v, dir, name)
		if errors.Is(err, ErrNotExist) {
			return name, nil
		}
		if err != nil {
			return "", err
		}
		name = fmt.Sprintf("#%d.%d", ino, i)
	}
}
