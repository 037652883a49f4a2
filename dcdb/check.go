package dcdb

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"math/bits"
	"slices"

	"dcfs/dcdb/store"
)

// Ref is one reference of a head's tree to an object.
type Ref struct {
	ID    store.ID
	Kind  store.Kind
	Since uint64
}

// CheckHead walks all of a head's tree. It calls report for each breach of the
// package comment's invariants, with the number that it has there, and for each
// object that can't be read, and fn for each reference. Contents are not read. It
// takes no lock: what it reads must be kept until it is done. It keeps some bits of
// memory for each page. The error is that of ctx.
func CheckHead(ctx context.Context, st store.Store, h *Head, report func(problem string), fn func(Ref)) error {
	if h.Deleted {
		return nil
	}
	c := &treeCheck{ctx: ctx, st: st, h: h, report: report, fn: fn, pages: pageSet{}, nodes: map[store.ID]*tnode{}}
	if h.Changed < h.Born {
		c.problem("(3) changed at %d, before it was born at %d", h.Changed, h.Born)
	}
	if h.tree.root != nil {
		c.node(h.tree.root, h.tree.depth, 0, h.Changed)
		c.page(0, "", "", 0)
	}
	if c.blind {
		return ctx.Err() // who knows what lies below
	}
	for num := range c.pages.all() {
		c.problem("(2) page %d is in the mapping table and not reached from page 0", num)
	}
	if c.alloc != h.Alloc {
		c.problem("(5) %d bytes allocated by its head, %d by its pieces", h.Alloc, c.alloc)
	}
	return ctx.Err()
}

type treeCheck struct {
	ctx    context.Context
	st     store.Store
	h      *Head
	report func(string)
	fn     func(Ref)
	pages  pageSet // in the table and not reached yet
	nodes  map[store.ID]*tnode
	alloc  uint64
	blind  bool // something can't be read
}

// pageSet is a set of page numbers: 64 of them in a word, by number.
type pageSet map[uint64]uint64

func (s pageSet) add(num uint64) { s[num/64] |= 1 << (num % 64) }

// remove takes a number out and reports whether it was there.
func (s pageSet) remove(num uint64) bool {
	word, bit := s[num/64], uint64(1)<<(num%64)
	if s[num/64] = word &^ bit; s[num/64] == 0 {
		delete(s, num/64)
	}
	return word&bit != 0
}

func (s pageSet) all() iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for _, at := range slices.Sorted(maps.Keys(s)) {
			for word := s[at]; word != 0; word &= word - 1 {
				if !yield(at*64 + uint64(bits.TrailingZeros64(word))) {
					return
				}
			}
		}
	}
}

// checkNodes is how many table nodes a check keeps for the next look-up.
const checkNodes = 256

// lookup finds the reference to a page by the table, nil if that has none or
// can't be read: then node has said so.
func (c *treeCheck) lookup(num uint64) *ref {
	t, depth := c.h.tree.root, c.h.tree.depth
	if num>>((depth+1)*fanBits) != 0 {
		return nil
	}
	for level := depth; ; level-- {
		r := t.slot(index(num, level))
		if r == nil || level == 0 {
			return r
		}
		if t = c.nodes[r.id]; t == nil {
			s := Space{st: c.st}
			body, err := s.readBody(c.ctx, want{id: r.id, kind: store.KindTable, leaf: level - 1})
			if err != nil {
				return nil
			}
			if len(c.nodes) >= checkNodes {
				clear(c.nodes)
			}
			t = body.(*tnode)
			c.nodes[r.id] = t
		}
	}
}

func (c *treeCheck) problem(format string, args ...any) { c.report(fmt.Sprintf(format, args...)) }

// maxCheckDepth is how deep pages may lie below each other: more is a circle.
const maxCheckDepth = 64

// node gathers the pages below a table node whose first page has number base. No
// reference below may be used since later than newest.
func (c *treeCheck) node(t *tnode, level int, base, newest uint64) {
	for i, r := range t.slots {
		if r == nil || c.ctx.Err() != nil {
			continue
		}
		num := base + uint64(i)<<(level*fanBits)
		if level == 0 {
			if num >= c.h.tree.next && r.page == nil {
				c.problem("(2) page %d is in the mapping table, but only %d were numbered", num, c.h.tree.next)
			}
			if r.page == nil {
				c.since(fmt.Sprintf("page %d", num), r.since, newest)
				c.fn(Ref{r.id, store.KindPage, r.since})
			}
			c.pages.add(num)
			continue
		}
		c.since("table node "+r.id.String(), r.since, newest)
		c.fn(Ref{r.id, store.KindTable, r.since})
		if body := c.read(want{id: r.id, kind: store.KindTable, leaf: level - 1}); body != nil {
			c.node(body.(*tnode), level-1, num, r.since)
		}
	}
}

func (c *treeCheck) since(what string, since, newest uint64) {
	if since > newest || since < c.h.Born {
		c.problem("(3) %s is used since %d, not in [%d, %d]", what, since, c.h.Born, newest)
	}
}

// read returns a page or table node, nil if that can't be had.
func (c *treeCheck) read(w want) any {
	s := Space{st: c.st}
	body, err := s.readBody(c.ctx, w)
	if err != nil {
		c.blind = true
		if c.ctx.Err() == nil {
			c.problem("%v", err)
		}
		return nil
	}
	return body
}

// page verifies page num, whose keys must be in [lo, hi), and those below it. An
// empty hi is no bound.
func (c *treeCheck) page(num uint64, lo, hi string, depth int) {
	var r *ref
	if c.pages.remove(num) && depth <= maxCheckDepth {
		r = c.lookup(num)
	}
	if c.ctx.Err() != nil {
		return
	}
	if r == nil {
		c.problem("(2) page %d is reached twice, or not in the mapping table", num)
		return
	}
	p, newest := r.page, c.h.Changed
	if p == nil {
		body := c.read(want{id: r.id, kind: store.KindPage})
		if body == nil {
			return
		}
		p, newest = body.(*page), r.since
		objects := false
		p.objects(func(pc *piece) { objects = objects || !pc.c.id.IsZero() })
		if objects != r.objects {
			c.problem("(2) page %d: its reference says %t of object pieces", num, r.objects)
		}
	}
	if !p.inner {
		for i := range p.items {
			if k := p.items[i].key; k < lo || hi != "" && k >= hi {
				c.problem("(1) page %d: key %q is not in [%q, %q)", num, k, lo, hi)
			}
			c.item(num, &p.items[i], newest)
		}
		return
	}
	for i, k := range p.keys {
		if k < lo || hi != "" && k >= hi {
			c.problem("(1) page %d: separator %q is not in [%q, %q)", num, k, lo, hi)
		}
		c.page(p.kids[i], lo, k, depth+1)
		lo = k
	}
	c.page(p.kids[len(p.keys)], lo, hi, depth+1)
}

func (c *treeCheck) item(num uint64, it *item, newest uint64) {
	kind := ItemKind(it.key[0])
	for i := range it.pieces {
		pc := &it.pieces[i]
		c.since(fmt.Sprintf("page %d: a piece of %q", num, it.key), pc.since, newest)
		if pc.c != nil && !pc.c.id.IsZero() {
			c.fn(Ref{pc.c.id, store.KindContent, pc.since})
		}
	}
	switch kind {
	case KindRecord:
		c.record(num, it)
	case KindDirent, KindLink, KindText, KindXattr:
		if n := len(it.pieces); n > 1 || n == 1 && (len(it.val) > 0 || it.pieces[0].c == nil || it.pieces[0].at != 0) {
			c.problem("(4) page %d: the value of %q is not one piece", num, it.key)
		}
	default:
		c.problem("(1) page %d: key %q of unknown kind", num, it.key)
	}
}

func (c *treeCheck) record(num uint64, it *item) {
	if len(it.key) != 9 || len(it.val) > 0 || len(it.pieces) == 0 {
		c.problem("(4) page %d: %q is no record", num, it.key)
		return
	}
	c.alloc += allocBytes(it.pieces)
	if c.h.excess {
		return
	}
	base := binary.BigEndian.Uint64([]byte(it.key[1:])) * RecordBytes
	for i := range it.pieces {
		if pc := &it.pieces[i]; pc.c != nil && base+uint64(pc.at+pc.n) > c.h.Size {
			c.problem("(6) record %d has data up to %d, but the size is %d", base/RecordBytes, base+uint64(pc.at+pc.n), c.h.Size)
		}
	}
}
