package dcdb

import (
	"context"

	"dcfs/dcdb/store"
)

// Expand calls fn for the object references of a tree whose head is h, which
// was dropped as a whole, one page after the other, until at least limit were
// told. It returns the page number to go on from, or done. References that are
// used since before the counter newer are left out; there are no newer ones
// below them. With records, the pieces of items that are no records are left out.
// Table nodes are told when they are done with. It reads the store and takes no lock: what it reads must
// be kept until it is done.
func Expand(ctx context.Context, st store.Store, h *Head, records bool, newer, from uint64, limit int, fn func(Dropped)) (next uint64, done bool, err error) {
	x := &expander{ctx: ctx, st: st, records: records, newer: newer, from: from, left: limit, fn: fn}
	if h.tree.root == nil || h.tree.inline() {
		if !h.Deleted && h.tree.root != nil && from == 0 {
			x.pieces(h.tree.root.slots[0].page)
		}
		return 0, true, nil
	}
	err = x.node(h.tree.root, h.tree.depth, 0)
	return x.next, !x.stopped, err
}

type expander struct {
	ctx     context.Context
	st      store.Store
	records bool
	newer   uint64
	from    uint64 // pages below are done
	left    int
	fn      func(Dropped)
	stopped bool
	next    uint64
}

// node goes through the pages under a table node whose first page has number
// base.
func (x *expander) node(t *tnode, level int, base uint64) error {
	for i, r := range t.slots {
		num := base + uint64(i)<<(level*fanBits)
		if r == nil || r.since < x.newer || num+1<<(level*fanBits) <= x.from {
			continue
		}
		if x.left <= 0 {
			x.stopped, x.next = true, num
			return nil
		}
		if level == 0 {
			if err := x.page(r); err != nil {
				return err
			}
			continue
		}
		body, err := x.read(want{id: r.id, kind: store.KindTable, leaf: level - 1})
		if err != nil {
			return err
		}
		if err := x.node(body.(*tnode), level-1, num); err != nil || x.stopped {
			return err
		}
		x.drop(Dropped{r.id, r.since})
	}
	return nil
}

func (x *expander) drop(d Dropped) {
	x.fn(d)
	x.left--
}

func (x *expander) page(r *ref) error {
	if r.objects {
		body, err := x.read(want{id: r.id, kind: store.KindPage})
		if err != nil {
			return err
		}
		x.pieces(body.(*page))
	}
	x.drop(Dropped{r.id, r.since})
	return nil
}

func (x *expander) pieces(p *page) {
	for i := range p.items {
		if x.records && ItemKind(p.items[i].key[0]) != KindRecord {
			continue
		}
		for j := range p.items[i].pieces {
			if pc := &p.items[i].pieces[j]; pc.c != nil && !pc.c.id.IsZero() && pc.since >= x.newer {
				x.drop(Dropped{pc.c.id, pc.since})
			}
		}
	}
}

func (x *expander) read(w want) (any, error) {
	s := Space{st: x.st}
	return s.readBody(x.ctx, w)
}
