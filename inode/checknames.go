package inode

import (
	"context"
	"syscall"

	"dcfs/dcdb"
	"dcfs/snap"
)

// maxMendNames is how many entries an inode may have whose links are mended.
const maxMendNames = 1 << 16

// naming is all that was found about an inode and its names.
type naming struct {
	finding   // of the inode itself, if it exists
	exists    bool
	names     uint32
	orphan    bool
	wrongType bool
	told      uint64   // the directory whose entries were last told of
	dirs      []uint64 // of entries that name it, if they are to be mended
}

// names verifies what inodes and entries say of each other.
func (c *checker) names(ctx context.Context) error {
	rows, err := c.rows.Sort()
	if err != nil {
		return err
	}
	var n naming
	for {
		row, err := rows.Next()
		if err != nil {
			return err
		}
		var x finding
		if row != nil {
			x = decodeFinding(row)
		}
		if n.ino != 0 && (row == nil || x.ino != n.ino) {
			if err := c.naming(ctx, &n); err != nil {
				return op{"check", n.ino, ""}.wrap(err)
			}
			n = naming{dirs: n.dirs[:0]}
		}
		if row == nil {
			return nil
		}
		if err := c.add(ctx, &n, x); err != nil {
			return op{"check", x.ino, ""}.wrap(err)
		}
	}
}

// add counts one finding, and verifies invariant (1).
func (c *checker) add(ctx context.Context, n *naming, x finding) error {
	n.ino = x.ino
	switch x.what {
	case foundInode:
		n.finding, n.exists = x, true
	case foundOrphan:
		n.orphan = true
	case foundEntry:
		n.names++
		if c.o.Mended != nil && len(n.dirs) < maxMendNames {
			n.dirs = append(n.dirs, x.other)
		}
		hidden := x.ino == snap.RootIno || x.ino == snap.OrphanIno
		switch {
		case n.told == x.other:
		case !n.exists && c.blind && !hidden:
			n.told = x.other // it may be one that could not be listed
			if _, ok, err := c.attr(ctx, x.ino); ok || err != nil {
				return c.dark(x.ino, err)
			}
			return c.entryProblem(ctx, x, "names inode %d, which is missing or has no name", x.ino)
		case !n.exists || hidden:
			n.told = x.other
			return c.entryProblem(ctx, x, "names inode %d, which is missing or has no name", x.ino)
		case n.dark:
		case x.mode != n.mode:
			n.wrongType, n.told = true, x.other
			return c.entryProblem(ctx, x, "has type %o, its inode %d mode %o", x.mode, x.ino, n.mode)
		case isDir(n.mode) && n.names > 1:
			n.told = x.other
			return c.entryProblem(ctx, x, "is a further name of directory %d", x.ino) // (2)
		}
	}
	return nil
}

// entryProblem finds the entries that a finding is about, by what they name.
func (c *checker) entryProblem(ctx context.Context, x finding, format string, args ...any) error {
	names, err := c.namesIn(ctx, x.other, x.ino)
	if err != nil {
		return c.dark(x.other, err)
	}
	for _, name := range names {
		c.problem(x.other, "entry %q "+format, append([]any{name}, args...)...)
	}
	return nil
}

// namesIn returns the names by which a directory names an inode.
func (c *checker) namesIn(ctx context.Context, dir, ino uint64) (names []string, err error) {
	fz, err := c.freeze(ctx, c.v, dir)
	if fz == nil || err != nil {
		return nil, err
	}
	defer fz.Close()
	err = fz.Ascend(ctx, dcdb.KindDirent, "", func(name string, val []byte) bool {
		if d, err := decodeDirent(val); err == nil && d.ino == ino {
			names = append(names, name)
		}
		return len(names) < maxMendNames
	})
	return names, err
}

// naming verifies invariants (2), (4) and (5) of one inode.
func (c *checker) naming(ctx context.Context, n *naming) error {
	switch {
	case n.ino == snap.RootIno || n.ino == snap.OrphanIno:
		return nil
	case !n.exists && n.orphan && c.blind:
		return nil
	case !n.exists && n.orphan:
		c.problem(n.ino, "an orphan that is missing")
		return c.mendStrike(ctx, n.ino)
	case !n.exists || n.dark:
		return nil
	case n.orphan && (n.nlink != 0 || n.links != 0 || n.names != 0):
		c.problem(n.ino, "an orphan with %d links, of which it knows %d, and %d names", n.nlink, n.links, n.names)
		return c.mendNotOrphan(ctx, n)
	case n.orphan && n.filled:
		c.problem(n.ino, "an orphaned directory with entries") // (5)
		return c.mendNotOrphan(ctx, n)
	case n.orphan:
		return nil
	case n.names == 0 && c.blind:
		return nil // what names it may be what can't be read
	case n.names == 0:
		c.problem(n.ino, "no entry names it, and it is no orphan: a %s with link count %d", typeName(n.mode), n.nlink)
		return c.mendUnnamed(ctx, n)
	}
	told := n.wrong
	if !isDir(n.mode) && n.nlink != n.names && (!c.blind || n.nlink < n.names) {
		c.problem(n.ino, "link count %d, but %d names", n.nlink, n.names) // (2)
		told = true
	}
	if isDir(n.mode) && n.nlink == 0 {
		c.problem(n.ino, "link count 0, but %d names", n.names) // (2)
		told = true
	}
	if n.links != n.names && (!c.blind || n.links < n.names) {
		c.problem(n.ino, "it knows of %d links, but has %d names", n.links, n.names)
		told = true
	}
	if !told {
		return nil
	}
	return c.mendLinks(ctx, n)
}

func typeName(mode uint32) string {
	switch mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		return "directory"
	case syscall.S_IFREG:
		return "file"
	case syscall.S_IFLNK:
		return "symbolic link"
	}
	return "special file"
}
