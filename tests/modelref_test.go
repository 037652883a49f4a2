package tests

import (
	"maps"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// This file is what a mount must show, as simple as it can be written: trees
// in memory, copied whole for a snapshot or a fork. The model test runs it
// beside the real thing.

const refBlock = 4096

// refNode is an inode.
type refNode struct {
	id     int // the same in every view that shows the inode
	mode   uint32
	nlink  uint64
	size   int64
	blocks map[int64]*[refBlock]byte // never changed in place; what is missing is zeros
	target string
	kids   map[string]*refNode
	up     *refNode // of a directory
	xattrs map[string]string

	mtime *unix.Timespec // as it was set; nil: a clock's
	times string         // as stat showed them since the last change; "": not seen yet
	maps  int            // shared mappings that may change it at any time
	tmp   bool           // O_TMPFILE, not linked yet: link(2) may
}

func (n *refNode) typ() uint32 { return n.mode & syscall.S_IFMT }
func (n *refNode) dir() bool   { return n.typ() == syscall.S_IFDIR }
func (n *refNode) reg() bool   { return n.typ() == syscall.S_IFREG }

func (n *refNode) hasXattrs() bool { return len(n.xattrs) > 0 }

// shown is st_size: what a directory has entries is its size.
func (n *refNode) shown() int64 {
	switch {
	case n.dir():
		return int64(len(n.kids))
	case n.reg():
		return n.size
	}
	return int64(len(n.target))
}

// changed says that times which were seen or set hold no more.
func (n *refNode) changed() { n.times, n.mtime = "", nil }

// names returns a directory's entries in a fixed order.
func (n *refNode) names() []string { return slices.Sorted(maps.Keys(n.kids)) }

// below reports whether n is top or lies in it.
func (n *refNode) below(top *refNode) bool {
	for ; n != nil; n = n.up {
		if n == top {
			return true
		}
	}
	return false
}

func (n *refNode) lookup(name string) (*refNode, syscall.Errno) {
	switch c := n.kids[name]; {
	case n.nlink == 0:
		return nil, syscall.ENOENT
	case len(name) > 255:
		return nil, syscall.ENAMETOOLONG
	case c == nil:
		return nil, syscall.ENOENT
	default:
		return c, 0
	}
}

// free says why name cannot be made in n, 0 if it can.
func (n *refNode) free(name string) syscall.Errno {
	_, err := n.lookup(name)
	switch {
	case err == 0:
		return syscall.EEXIST
	case n.nlink > 0 && err == syscall.ENOENT:
		return 0
	}
	return err
}

func (n *refNode) attach(name string, c *refNode) {
	n.kids[name] = c
	n.changed()
	c.times = ""
	if c.dir() {
		n.nlink++
		c.up = n
	}
}

// detach takes an entry away, for rename: the inode keeps its links.
func (n *refNode) detach(name string) *refNode {
	c := n.kids[name]
	delete(n.kids, name)
	n.changed()
	c.times = ""
	if c.dir() {
		n.nlink--
	}
	return c
}

func (n *refNode) remove(name string) {
	c := n.detach(name)
	c.nlink--
	if c.dir() {
		c.nlink, c.up = 0, nil
	}
}

func (n *refNode) read(off int64, length int) []byte {
	if off >= n.size {
		return nil
	}
	p := make([]byte, min(int64(length), n.size-off))
	for i := 0; i < len(p); {
		at := int((off + int64(i)) % refBlock)
		k := min(len(p)-i, refBlock-at)
		if b := n.blocks[(off+int64(i))/refBlock]; b != nil {
			copy(p[i:i+k], b[at:])
		}
		i += k
	}
	return p
}

func (n *refNode) put(block int64, at int, p []byte) {
	b := new([refBlock]byte)
	if old := n.blocks[block]; old != nil {
		*b = *old
	}
	copy(b[at:], p)
	n.blocks[block] = b
}

func (n *refNode) write(off int64, p []byte) {
	n.changed()
	for len(p) > 0 {
		at := int(off % refBlock)
		k := min(len(p), refBlock-at)
		n.put(off/refBlock, at, p[:k])
		p, off = p[k:], off+int64(k)
	}
	n.size = max(n.size, off)
}

// zero makes [off, end) zeros.
func (n *refNode) zero(off, end int64) {
	for b := range n.blocks {
		from, to := max(off, b*refBlock), min(end, (b+1)*refBlock)
		switch {
		case to-from == refBlock:
			delete(n.blocks, b)
		case from < to:
			n.put(b, int(from-b*refBlock), make([]byte, to-from))
		}
	}
}

func (n *refNode) truncate(size int64) {
	n.changed()
	if size < n.size {
		n.zero(size, (n.size/refBlock+1)*refBlock)
	}
	n.size = size
}

func (n *refNode) fallocate(mode uint32, off, length int64) {
	n.changed()
	if mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 {
		n.zero(off, off+length)
	}
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
		n.size = max(n.size, off+length)
	}
}

// copyFrom does not make blocks of what is a hole in s.
func (n *refNode) copyFrom(s *refNode, from, to, length int64) {
	n.changed()
	type piece struct {
		at int64
		p  []byte
	}
	var pieces []piece // read before anything is written: s may be n
	for b := range s.blocks {
		if x, y := max(from, b*refBlock), min(from+length, (b+1)*refBlock); x < y {
			pieces = append(pieces, piece{x - from + to, s.read(x, int(y-x))})
		}
	}
	n.zero(to, to+length)
	for _, x := range pieces {
		n.write(x.at, x.p)
	}
	n.size = max(n.size, to+length)
}

// clone copies what can be reached from n; memo keeps links to one inode
// links to one inode.
func (n *refNode) clone(up *refNode, memo map[*refNode]*refNode) *refNode {
	if c := memo[n]; c != nil {
		return c
	}
	c := *n
	memo[n] = &c
	c.up, c.blocks, c.xattrs = up, maps.Clone(n.blocks), maps.Clone(n.xattrs)
	if n.maps > 0 {
		c.times, c.mtime = "", nil
	}
	c.maps = 0
	if n.dir() {
		c.kids = make(map[string]*refNode, len(n.kids))
		for name, k := range n.kids {
			c.kids[name] = k.clone(&c, memo)
		}
	}
	return &c
}

// refView is a live view, or a snapshot.
type refView struct {
	name   string
	line   *refLine
	root   *refNode
	ro     bool
	gone   bool           // deleted: what is open there is stale
	number int64          // view part of st_ino; -1: not seen yet
	seen   map[int]string // of a snapshot: what stat said of each inode, for it must not change
}

// refLine is a fork: its live view, its snapshots and the forks that it lists.
type refLine struct {
	name  string
	up    *refLine // whose listing it is in
	live  *refView
	snaps []*refView // by time
	forks []*refLine
}

// newLine returns the fork that is made of the tree at root.
func newLine(name string, up *refLine, root *refNode) *refLine {
	l := &refLine{name: name, up: up}
	l.live = &refView{line: l, number: -1, root: root.clone(nil, make(map[*refNode]*refNode))}
	return l
}

// all returns l and every fork below it.
func (l *refLine) all() []*refLine {
	lines := []*refLine{l}
	for _, f := range l.forks {
		lines = append(lines, f.all()...)
	}
	return lines
}

func (l *refLine) views() []*refView { return append([]*refView{l.live}, l.snaps...) }

func (l *refLine) snapshot(name string) *refView {
	for _, s := range l.snaps {
		if s.name == name {
			return s
		}
	}
	return nil
}

func (l *refLine) fork(name string) *refLine {
	for _, f := range l.forks {
		if f.name == name {
			return f
		}
	}
	return nil
}

// path returns where in the mount on dir the view is.
func (v *refView) path(dir string) string {
	if v.ro {
		return filepath.Join(v.line.path(dir), ".snapshots", v.name)
	}
	return v.line.path(dir)
}

func (l *refLine) path(dir string) string {
	if l.up == nil {
		return dir
	}
	return filepath.Join(l.up.path(dir), ".forks", l.name)
}

// dirs returns the directories of a view, the root first, and their paths
// below it.
func (v *refView) dirs() (nodes []*refNode, paths []string) {
	nodes, paths = []*refNode{v.root}, []string{""}
	for i := 0; i < len(nodes); i++ {
		for _, name := range nodes[i].names() {
			if c := nodes[i].kids[name]; c.dir() {
				nodes, paths = append(nodes, c), append(paths, filepath.Join(paths[i], name))
			}
		}
	}
	return nodes, paths
}
