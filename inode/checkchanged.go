package inode

import (
	"context"
	"encoding/binary"
	"syscall"

	"dcfs/dcdb"
	"dcfs/snap"
	"dcfs/spill"
)

// changed verifies what is different from the base. All that the invariants say
// is between an inode and an entry. If neither of the two is different, it is as
// in the base; so it is verified from the sides that are:
//
//   - each link that an inode has names it,
//   - each link that it has no more does not,
//   - each entry that a directory has names an inode that has the link,
//   - each entry that it has no more is no link of what it named.
func (c *checker) changed(ctx context.Context) error {
	inos := spill.New(8, c.o.Spill.Share(4))
	defer inos.Close()
	err := c.f.vol.Changed(ctx, c.o.Base, c.v, func(ino uint64) error {
		return inos.Add(binary.BigEndian.AppendUint64(c.row[:0], ino))
	})
	if err := c.unlisted(err); err != nil {
		return err
	}
	rows, err := inos.Sort()
	if err != nil {
		return err
	}
	last := uint64(0)
	for {
		row, err := rows.Next()
		if err != nil || row == nil {
			return err
		}
		ino := binary.BigEndian.Uint64(row)
		if ino == last {
			continue
		}
		last = ino
		if c.o.Progress != nil {
			c.o.Progress()
		}
		if err := c.dark(ino, c.change(ctx, ino)); err != nil {
			return op{"check", ino, ""}.wrap(err)
		}
	}
}

// change verifies one inode that may be different.
func (c *checker) change(ctx context.Context, ino uint64) error {
	old, err := c.freeze(ctx, c.o.Base, ino)
	if err != nil && !unreadable(err) {
		return err
	}
	if old != nil {
		defer old.Close()
	}
	now, err := c.freeze(ctx, c.v, ino)
	if err != nil {
		return err
	}
	if now != nil {
		defer now.Close()
		if err := c.changedInode(ctx, ino, now); err != nil {
			return err
		}
	}
	if old != nil && ino != snap.RootIno && ino != snap.OrphanIno {
		if now == nil {
			if orphan, err := c.isOrphan(ctx, ino); err != nil {
				return err
			} else if orphan {
				c.problem(ino, "an orphan that is missing")
			}
		}
		if err := c.lostLinks(ctx, ino, old); err != nil {
			return err
		}
	}
	return c.changedEntries(ctx, ino, old, now)
}

// changedInode verifies an inode by itself, and its links.
func (c *checker) changedInode(ctx context.Context, ino uint64, fz *dcdb.Frozen) error {
	x := finding{ino: ino}
	if err := c.read(ctx, fz, &x); err != nil || ino == snap.RootIno || ino == snap.OrphanIno {
		return err
	}
	orphan, err := c.isOrphan(ctx, ino)
	if err != nil {
		return err
	}
	switch {
	case orphan && (x.nlink != 0 || x.links != 0):
		c.problem(ino, "an orphan with %d links, of which it knows %d", x.nlink, x.links)
	case orphan && x.filled:
		c.problem(ino, "an orphaned directory with entries")
	case orphan:
	case x.links == 0:
		c.problem(ino, "no entry names it, and it is no orphan: a %s with link count %d", typeName(x.mode), x.nlink)
	case isDir(x.mode) && x.nlink == 0:
		c.problem(ino, "link count 0, but it knows of %d links", x.links) // (2)
	case isDir(x.mode) && x.links > 1:
		c.problem(ino, "a directory with a further name")
	case !isDir(x.mode) && x.nlink != x.links:
		c.problem(ino, "link count %d, but it knows of %d links", x.nlink, x.links) // (2)
	}
	return nil
}

func (c *checker) isOrphan(ctx context.Context, ino uint64) (in bool, err error) {
	err = c.f.space.View(ctx, func(tx *dcdb.Tx) error {
		o, err := planOrphan(tx, c.v, ino)
		in = o.in
		return err
	})
	return in, err
}

// lostLinks verifies that no entry names an inode where it had a link and has none
// now.
func (c *checker) lostLinks(ctx context.Context, ino uint64, old *dcdb.Frozen) error {
	return linksOf(ctx, old, func(p place, err error) error {
		if err != nil {
			return nil // told of the base
		}
		named, err := c.namedBy(ctx, p, ino)
		if err != nil || !named {
			return err
		}
		return c.knownTo(ctx, p, ino)
	})
}

// knownTo verifies that an inode that the entry at p names is there and knows it.
func (c *checker) knownTo(ctx context.Context, p place, ino uint64) error {
	_, ok, err := c.attr(ctx, ino)
	if err != nil {
		return c.dark(ino, err)
	}
	if !ok || ino == snap.RootIno || ino == snap.OrphanIno {
		c.problem(p.parent, "entry %q names inode %d, which is missing or has no name", p.name, ino) // (1)
		return nil
	}
	has, err := c.hasLink(ctx, ino, p)
	if err != nil {
		return c.dark(ino, err)
	}
	if !has {
		c.problem(p.parent, "entry %q names inode %d, which does not know of this link", p.name, ino) // (4)
	}
	return nil
}

func (c *checker) hasLink(ctx context.Context, ino uint64, p place) (has bool, err error) {
	err = c.f.space.View(ctx, func(tx *dcdb.Tx) error {
		db, err := tx.DB(c.v.Key(ino))
		if err != nil {
			return err
		}
		has = isFirst(db.Attr(), p)
		if !has {
			_, has, err = db.Get(dcdb.KindLink, p.key())
		}
		return err
	})
	return has, ignoreMissing(err)
}

// changedEntries verifies the entries that only one of two versions of a directory
// has.
func (c *checker) changedEntries(ctx context.Context, dir uint64, old, now *dcdb.Frozen) error {
	was, is := entriesOf(ctx, directory(old)), entriesOf(ctx, directory(now))
	for {
		a, err := was.peek()
		if unreadable(err) {
			was.end, was.some, a = true, nil, nil // all of now's count as new
		} else if err != nil {
			return err
		}
		b, err := is.peek()
		if err != nil {
			return err
		}
		if a == nil && b == nil {
			return nil
		}
		if b == nil || a != nil && a.name < b.name {
			was.next()
			b = nil
		} else if a == nil || b.name < a.name {
			is.next()
			a = nil
		} else {
			was.next()
			is.next()
			if a.ino == b.ino && a.mode == b.mode {
				continue
			}
		}
		if err := c.changedEntry(ctx, dir, a, b); err != nil {
			return err
		}
	}
}

// directory returns fz if that is one, else nil.
func directory(fz *dcdb.Frozen) *dcdb.Frozen {
	if fz == nil || !isDir(fz.Attr().Mode) {
		return nil
	}
	return fz
}

// changedEntry verifies an entry that was old and is now; nil: none.
func (c *checker) changedEntry(ctx context.Context, dir uint64, old, now *namedDirent) error {
	if dir == snap.OrphanIno {
		return c.changedOrphan(ctx, old, now)
	}
	if now != nil && now.err == nil {
		p := place{dir, now.name}
		if err := c.knownTo(ctx, p, now.ino); err != nil {
			return err
		}
		if a, ok, err := c.attr(ctx, now.ino); err == nil && ok && a.Mode&syscall.S_IFMT != now.mode {
			c.problem(dir, "entry %q has type %o, its inode %d mode %o", now.name, now.mode, now.ino, a.Mode) // (1)
		} else if err != nil {
			return c.dark(now.ino, err)
		}
	}
	if old == nil || old.err != nil || now != nil && now.ino == old.ino {
		return nil
	}
	has, err := c.hasLink(ctx, old.ino, place{dir, old.name})
	if err != nil {
		return c.dark(old.ino, err)
	}
	if has {
		c.problem(old.ino, "its link %d/%q does not name it", dir, old.name)
	}
	return nil
}

// changedOrphan verifies invariant (5) for an inode that became an orphan, or is
// none any more.
func (c *checker) changedOrphan(ctx context.Context, old, now *namedDirent) error {
	e := now
	if e == nil {
		e = old
	}
	if e.err != nil {
		return nil
	}
	a, ok, err := c.attr(ctx, e.ino)
	switch {
	case err != nil:
		return c.dark(e.ino, err)
	case now != nil && !ok:
		c.problem(e.ino, "an orphan that is missing")
	case now != nil && a.Nlink != 0:
		c.problem(e.ino, "an orphan with %d links", a.Nlink)
	case now == nil && ok && a.Nlink == 0:
		c.problem(e.ino, "no entry names it, and it is no orphan: a %s with link count 0", typeName(a.Mode))
	}
	return nil
}
