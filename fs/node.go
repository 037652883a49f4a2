package fs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"dcfs/snap"
)

const (
	inoBits    = 40
	inoMask    = 1<<inoBits - 1
	virtualBit = 1 << (inoBits - 1) // of a node id: a virtual directory
	standInBit = 1 << (inoBits - 2) // with it, in a snapshot: see forklink.go

	// passingDoor is the first number of a passing door.
	passingDoor = 1 << 23
	// maxDoor is the last one. The one after would make the node id that
	// go-fuse keeps for itself.
	maxDoor = 1<<24 - 2

	// virtualIno is set in the st_ino of a virtual directory.
	virtualIno = 1 << 63
)

// kind is what a node is.
type kind uint8

const (
	inside    kind = iota // an inode of a view
	snapshots             // the virtual directory .snapshots of a directory
	forks                 // the virtual directory .forks of a view's root
	link                  // a symbolic link to a fork, in the .forks of a snapshot
	standIn               // what mkdir made there, see forklink.go
)

func (k kind) String() string {
	return [...]string{"inode", "snapshots", "forks", "link", "stand-in"}[k]
}

// nodeID returns the node of inode ino behind a door.
func nodeID(door uint32, ino uint64) uint64 { return uint64(door)<<inoBits | ino }

// virtualID returns the node of a virtual directory: the .snapshots of
// directory dir, or the .forks of the root; or in a snapshot, which has no
// .snapshots, the link to the fork of number dir, or its stand-in.
func virtualID(door uint32, k kind, dir uint64) uint64 {
	switch k {
	case forks:
		dir = 0
	case standIn:
		dir |= standInBit
	}
	return nodeID(door, virtualBit|dir)
}

// splitNode is the reverse of both. dir is 0 for .forks. What is a link or a
// stand-in only placeOf can tell.
func splitNode(node uint64) (door uint32, k kind, ino uint64) {
	door, ino = uint32(node>>inoBits), node&inoMask
	switch {
	case ino&virtualBit == 0:
		return door, inside, ino
	case ino == virtualBit:
		return door, forks, 0
	}
	return door, snapshots, ino &^ virtualBit
}

// place is what a node id names: an inode of the view behind a door, or a
// virtual directory there.
type place struct {
	door *door
	kind kind
	ino  uint64 // kind snapshots: of the directory whose past it shows; link, standIn: the fork's number
}

// placeOf returns the place behind a door that the parts of a node id name.
func placeOf(d *door, k kind, ino uint64) place {
	if k != snapshots || !d.view.ReadOnly() {
		return place{d, k, ino}
	}
	if ino&standInBit != 0 {
		return place{d, standIn, ino &^ standInBit}
	}
	return place{d, link, ino}
}

func (p place) node() uint64 {
	if p.kind == inside {
		return nodeID(p.door.number, p.ino)
	}
	return virtualID(p.door.number, p.kind, p.ino)
}

// stIno returns the inode number that stat(2) tells of p.
func (p place) stIno() uint64 {
	switch p.kind {
	case snapshots, link:
		return virtualIno | p.door.stIno(p.ino)
	case forks:
		return virtualIno | p.door.stIno(0)
	case standIn:
		return p.ino<<inoBits | snap.RootIno // the fork's root's
	}
	return p.door.stIno(p.ino)
}

const (
	shardBits = 6
	orphanBit = 1 << 63 // of slot.count: the inode may have lost its last name
	freshBit  = 1 << 62 // the kernel was told attributes since something else moved them
	countMask = freshBit - 1
	minSlots  = 8
)

// nodeTable counts the kernel's look-ups of each node: how many times it was
// told the node and has not forgotten it yet. It holds no more than the
// kernel does, 16 bytes for each node at a load of at most 3/4, and shrinks
// again: a Go map would keep the room of its best days.
//
// A request for a node that is not in the table is answered all the same: the
// table only says when an inode without a name may go.
type nodeTable struct {
	shards [1 << shardBits]nodeShard
}

type nodeShard struct {
	mu    sync.Mutex
	slots []slot // guarded by mu; open addressing, the length a power of two
	used  int    // guarded by mu
}

// slot is one node; a zero node is a free slot.
type slot struct {
	node  uint64
	count uint64 // of look-ups, orphanBit and freshBit
}

func (t *nodeTable) shard(node uint64) (*nodeShard, uint64) {
	h := node * 0x9e3779b97f4a7c15
	return &t.shards[h>>(64-shardBits)], h
}

// add counts a look-up, whose answer has attributes, and reports whether the node
// was unknown.
func (t *nodeTable) add(node uint64) (first bool) {
	s, h := t.shard(node)
	s.mu.Lock()
	defer s.mu.Unlock()
	if 4*(s.used+1) > 3*len(s.slots) {
		s.resizeLocked(max(minSlots, 2*len(s.slots)))
	}
	i := s.findLocked(node, h)
	if first = s.slots[i].node == 0; first {
		s.slots[i].node = node
		s.used++
	}
	s.slots[i].count++
	s.slots[i].count |= freshBit
	return first
}

// forget takes n look-ups away. gone: it was the last one; orphan: the node
// had been marked.
func (t *nodeTable) forget(node, n uint64) (gone, orphan bool) {
	s, h := t.shard(node)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used == 0 {
		return false, false
	}
	i := s.findLocked(node, h)
	c := &s.slots[i]
	if c.node == 0 {
		return false, false
	}
	if left := c.count & countMask; left > n {
		c.count -= n
		return false, false
	}
	orphan = c.count&orphanBit != 0
	s.removeLocked(i)
	return true, orphan
}

// mark notes that the inode may have lost its last name. It reports false if
// the kernel does not know the node: then nobody will forget it.
func (t *nodeTable) mark(node uint64) bool {
	s, h := t.shard(node)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used == 0 {
		return false
	}
	i := s.findLocked(node, h)
	if s.slots[i].node == 0 {
		return false
	}
	s.slots[i].count |= orphanBit
	return true
}

// told notes that the kernel is told attributes of a node, or (fresh is false)
// that it does not keep all those that it has.
func (t *nodeTable) told(node uint64, fresh bool) {
	s, h := t.shard(node)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used == 0 {
		return
	}
	c := &s.slots[s.findLocked(node, h)]
	switch {
	case c.node == 0:
	case fresh:
		c.count |= freshBit
	default:
		c.count &^= freshBit
	}
}

// fresh reports whether the kernel knows a node and its attributes.
func (t *nodeTable) fresh(node uint64) bool {
	s, h := t.shard(node)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used > 0 && s.slots[s.findLocked(node, h)].count&freshBit != 0
}

// count returns the look-ups of a node.
func (t *nodeTable) count(node uint64) uint64 {
	s, h := t.shard(node)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used == 0 {
		return 0
	}
	return s.slots[s.findLocked(node, h)].count & countMask
}

// collect returns the nodes for which keep reports true, in no order.
func (t *nodeTable) collect(keep func(node uint64) bool) []uint64 {
	var found []uint64
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for _, c := range s.slots {
			if c.node != 0 && keep(c.node) {
				found = append(found, c.node)
			}
		}
		s.mu.Unlock()
	}
	return found
}

// home returns where a node of hash h is looked for first. The top bits chose
// the shard, so those below are used.
func (s *nodeShard) home(h uint64) uint64 {
	return (h >> 20) & uint64(len(s.slots)-1)
}

// findLocked returns the slot of a node, or the free one where it belongs.
// Precondition: slots is not empty and has a free one.
func (s *nodeShard) findLocked(node, h uint64) uint64 {
	i := s.home(h)
	for s.slots[i].node != 0 && s.slots[i].node != node {
		i = (i + 1) & uint64(len(s.slots)-1)
	}
	return i
}

// removeLocked empties slot i. Slots after it that had to give way to it move
// up, so that no search ends before them.
func (s *nodeShard) removeLocked(i uint64) {
	mask := uint64(len(s.slots) - 1)
	for j := (i + 1) & mask; s.slots[j].node != 0; j = (j + 1) & mask {
		home := s.home(s.slots[j].node * 0x9e3779b97f4a7c15)
		if (j-home)&mask >= (j-i)&mask {
			s.slots[i] = s.slots[j]
			i = j
		}
	}
	s.slots[i] = slot{}
	s.used--
	if len(s.slots) > minSlots && 8*s.used < len(s.slots) {
		s.resizeLocked(len(s.slots) / 2)
	}
}

func (s *nodeShard) resizeLocked(n int) {
	old := s.slots
	s.slots = make([]slot, n)
	for _, c := range old {
		if c.node != 0 {
			s.slots[s.findLocked(c.node, c.node*0x9e3779b97f4a7c15)] = c
		}
	}
}

// at returns the place that a node id names. A passing door that is closed,
// or a stable one that nobody has entered, has none: see reopen.
func (m *mount) at(node uint64) (place, fuse.Status) {
	number, k, ino := splitNode(node)
	if number == 0 {
		return placeOf(m.own, k, ino), fuse.OK
	}
	d := m.doors.get(number)
	if d == nil {
		return place{}, estale
	}
	return placeOf(d, k, ino), fuse.OK
}

// file is at for what must be an inode of a view. The kernel sends no such
// request to a virtual directory, but a file handle made by hand could.
func (m *mount) file(node uint64) (place, fuse.Status) {
	p, st := m.at(node)
	if st == fuse.OK && p.kind != inside {
		return p, fuse.EPERM
	}
	return p, st
}

// know counts that the kernel is told a node of door d.
func (m *mount) know(d *door, node uint64) {
	if m.nodes.add(node) {
		m.doors.hold(d)
	}
}

// Forget takes look-ups back. The kernel forgets an inode only when nothing
// of it is open: a RELEASE holds the inode until it is answered. So the last
// one to forget an inode without a name ends it.
func (m *mount) Forget(node, n uint64) {
	if node == fuse.FUSE_ROOT_ID {
		return
	}
	gone, orphan := m.nodes.forget(node, n)
	if !gone {
		return
	}
	p, st := m.at(node)
	if st != fuse.OK {
		return
	}
	if orphan && p.kind == inside {
		m.orphans.add(p.door.view, p.ino)
	}
	m.doors.release(p.door)
}

// orphaned notes that an inode lost its last name. If the kernel does not
// know it, it goes at once.
func (m *mount) orphaned(d *door, ino uint64) {
	if !m.nodes.mark(nodeID(d.number, ino)) {
		m.orphans.add(d.view, ino)
	}
}
