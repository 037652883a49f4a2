package dcdb

import (
	"encoding/binary"
	"slices"

	"dcfs/dcdb/store"
)

// The mapping table is a radix tree over page numbers of fixed fan-out. Its
// root stands in the head; the nodes below are objects, which carry their
// since as pages do.
const (
	fanBits  = 7
	fan      = 1 << fanBits
	maxDepth = 8
)

// ref is a slot's reference to a page (on level 0) or to a node of the mapping
// table. It is shared by all versions of the table that have it, and never
// changed but by the flusher when what it refers to has been written.
//
// A page or node that is not nil is in memory for as long as it is not in the
// store, or inline in its head; else the cache may have it.
type ref struct {
	page *page    // guarded by Space.mu
	node *tnode   // guarded by Space.mu
	id   store.ID // the flusher's until page and node are nil
	// since is the counter since which this slot uses the object.
	since   uint64
	objects bool // items of the page have object pieces
}

// tnode is a node of a mapping table. One of an earlier gen than the Space's is
// immutable.
type tnode struct {
	gen   uint64
	slots []*ref // by number; nil: none; none at the end
}

func (t *tnode) slot(i int) *ref {
	if i >= len(t.slots) {
		return nil
	}
	return t.slots[i]
}

func (t *tnode) set(i int, r *ref) {
	for len(t.slots) <= i {
		t.slots = append(t.slots, nil)
	}
	t.slots[i] = r
	for len(t.slots) > 0 && t.slots[len(t.slots)-1] == nil {
		t.slots = t.slots[:len(t.slots)-1]
	}
}

func (t *tnode) clone(gen uint64) *tnode {
	return &tnode{gen: gen, slots: slices.Clone(t.slots)}
}

// count is the number of slots in use.
func (t *tnode) count() int {
	n := 0
	for _, r := range t.slots {
		if r != nil {
			n++
		}
	}
	return n
}

// appendNode appends t's encoding; level 0 has references to pages.
func appendNode(b []byte, t *tnode, level int) []byte {
	b = binary.AppendUvarint(b, uint64(t.count()))
	for i, r := range t.slots {
		if r == nil {
			continue
		}
		b = binary.AppendUvarint(b, uint64(i))
		b = r.id.Append(b)
		since := r.since
		if level == 0 {
			since <<= 1
			if r.objects {
				since |= 1
			}
		}
		b = binary.AppendUvarint(b, since)
	}
	return b
}

func decodeNode(d *decoder, level int) *tnode {
	t := &tnode{}
	n := d.max(fan, "slots")
	for range n {
		i := int(d.max(fan-1, "slot"))
		r := &ref{id: d.id(), since: d.uvarint()}
		if level == 0 {
			r.objects = r.since&1 != 0
			r.since >>= 1
		}
		if i < len(t.slots) {
			d.fail("slots out of order")
		}
		if d.err != nil {
			break
		}
		t.set(i, r)
	}
	return t
}

// tree is a DCDB's tree in one version: the mapping table and what it leads
// to. The zero tree is empty.
type tree struct {
	next  uint64 // the lowest page number never used
	depth int    // levels of table nodes below the root
	root  *tnode // nil: an empty tree
}

// inline reports whether the tree's only page stands in its head. It is the
// flusher's to ask, when it has written the pages that are too large for that.
func (t *tree) inline() bool {
	return t.depth == 0 && t.root != nil && len(t.root.slots) == 1 && t.root.slots[0].id.IsZero()
}

// index returns the slot on a level that leads to page num.
func index(num uint64, level int) int { return int(num >> (level * fanBits) & (fan - 1)) }

// nodes finds the table node that a reference leads to: a Tx in memory, the flusher
// in the store too.
type nodes interface {
	node(r *ref, level int) (*tnode, error)
}

// lookup returns the reference to page num. It is nil if there is none.
func (t *tree) lookup(in nodes, num uint64) (*ref, error) {
	if t.root == nil || num>>((t.depth+1)*fanBits) != 0 {
		return nil, nil
	}
	n := t.root
	for level := t.depth; ; level-- {
		r := n.slot(index(num, level))
		if r == nil || level == 0 {
			return r, nil
		}
		var err error
		if n, err = in.node(r, level-1); err != nil {
			return nil, err
		}
	}
}

// set makes r the reference to page num; nil takes it out. The nodes on the way
// must be in memory: a lookup of num in the same transaction, or of the page
// that num was split from, has brought them there.
func (t *tree) set(tx *Tx, num uint64, r *ref) {
	if t.root == nil {
		t.root = &tnode{gen: tx.s.gen}
	} else if t.root.gen != tx.s.gen {
		t.root = t.root.clone(tx.s.gen)
	}
	for num>>((t.depth+1)*fanBits) != 0 { // one level more above
		up := &tnode{gen: tx.s.gen}
		up.set(0, &ref{node: t.root})
		t.root, t.depth = up, t.depth+1
	}
	setBelow(tx, t.root, t.depth, num, r)
}

func setBelow(tx *Tx, n *tnode, level int, num uint64, r *ref) {
	i := index(num, level)
	if level == 0 {
		tx.dropRef(n.slot(i))
		n.set(i, r)
		return
	}
	var kid *tnode
	if old := n.slot(i); old == nil {
		kid = &tnode{gen: tx.s.gen}
	} else {
		kid = tx.mustNode(old, level-1)
		if kid.gen != tx.s.gen || old.node == nil {
			tx.dropRef(old)
			kid = kid.clone(tx.s.gen)
		}
	}
	setBelow(tx, kid, level-1, num, r)
	if len(kid.slots) == 0 {
		n.set(i, nil)
	} else if old := n.slot(i); old == nil || old.node != kid {
		n.set(i, &ref{node: kid})
	}
}

// own returns page num for changing: itself if it is of this gen already, else
// a copy that takes its place.
func (t *tree) own(tx *Tx, num uint64) *page {
	r, err := t.lookup(tx, num)
	if err != nil || r == nil {
		panic("dcdb: page changed that was not looked up before")
	}
	p := tx.mustPage(r)
	if p.gen == tx.s.gen && r.page == p {
		return p
	}
	p = p.clone(tx.s.gen)
	t.set(tx, num, &ref{page: p})
	return p
}

// add gives p, which must be of this gen, the next page number.
func (t *tree) add(tx *Tx, p *page) uint64 {
	num := t.next
	t.next++
	t.set(tx, num, &ref{page: p})
	return num
}
