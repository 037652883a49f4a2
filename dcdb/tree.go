package dcdb

import "slices"

// step is one page on the way from the root to a leaf, and the child taken.
type step struct {
	num  uint64
	page *page
	kid  int
}

// descend returns the way to the leaf that key belongs to, the leaf last. It is
// empty in an empty tree.
func (t *tree) descend(tx *Tx, key string) ([]step, error) {
	var way []step
	for num := uint64(0); ; {
		p, err := t.page(tx, num)
		if err != nil {
			return nil, err
		}
		if p == nil && len(way) == 0 {
			return nil, nil
		}
		if p == nil {
			return nil, corrupt("page %d is not in the mapping table", num)
		}
		s := step{num: num, page: p}
		if !p.inner {
			return append(way, s), nil
		}
		s.kid = p.child(key)
		way = append(way, s)
		num = p.kids[s.kid]
		if len(way) > 64 {
			return nil, corrupt("pages in a circle")
		}
	}
}

// page returns page num, nil if the table has none of that number.
func (t *tree) page(tx *Tx, num uint64) (*page, error) {
	r, err := t.lookup(tx, num)
	if r == nil || err != nil {
		return nil, err
	}
	return tx.page(r)
}

// get returns the item of key, nil if there is none.
func (t *tree) get(tx *Tx, key string) (*item, error) {
	way, err := t.descend(tx, key)
	if err != nil || way == nil {
		return nil, err
	}
	leaf := way[len(way)-1].page
	if i, ok := leaf.find(key); ok {
		return &leaf.items[i], nil
	}
	return nil, nil
}

// room brings into memory what a change of the tree may need to number new
// pages: up to roomPages of them.
func (t *tree) room(tx *Tx) error {
	if t.depth == 0 {
		return nil
	}
	for _, num := range [...]uint64{t.next, t.next + roomPages} {
		if _, err := t.lookup(tx, num); err != nil {
			return err
		}
	}
	return nil
}

// roomPages is how many pages one transaction may add to a tree: less than a
// table node has slots.
const roomPages = fan - 1

// put sets an item. Its key must have been looked up in this transaction.
func (t *tree) put(tx *Tx, it item) {
	if t.root == nil {
		t.next = 0
		t.add(tx, &page{gen: tx.s.gen, size: 8})
	}
	way, err := t.descend(tx, it.key)
	if err != nil {
		panic("dcdb: item put whose key was not looked up before: " + err.Error())
	}
	last := way[len(way)-1]
	leaf := t.own(tx, last.num)
	i, ok := leaf.find(it.key)
	if ok {
		tx.dropRefs(leaf.items[i].pieces, it.pieces)
		leaf.size += itemSize(&it) - itemSize(&leaf.items[i])
		leaf.items[i] = it
	} else {
		leaf.size += itemSize(&it)
		leaf.items = slices.Insert(leaf.items, i, it)
	}
	if leaf.size > pageBytes && len(leaf.items) > 1 {
		t.split(tx, way, i == len(leaf.items)-1)
	}
}

// split halves the last page of way, and those above it as they fill up. atEnd
// says that the page has grown at its end.
func (t *tree) split(tx *Tx, way []step, atEnd bool) {
	for d := len(way) - 1; ; d-- {
		num := way[d].num
		p := t.own(tx, num)
		if p.size <= pageBytes || p.inner && len(p.kids) < 4 || !p.inner && len(p.items) < 2 {
			return
		}
		right, sep := p.halve(atEnd)
		if num == 0 { // the root keeps its number: both halves move
			left := *p
			l, r := t.add(tx, &left), t.add(tx, right)
			p.inner, p.items = true, nil
			p.keys, p.kids = []string{sep}, []uint64{l, r}
			p.measure()
			return
		}
		r := t.add(tx, right)
		up := t.own(tx, way[d-1].num)
		up.keys = slices.Insert(up.keys, way[d-1].kid, sep)
		up.kids = slices.Insert(up.kids, way[d-1].kid+1, r)
		up.size += len(sep) + 5
	}
}

// halve moves the upper part of p into a new page and returns it with the key
// that separates them. A leaf that has grown at its end, as by files created in
// the order of their names, is left nearly full.
func (p *page) halve(atEnd bool) (*page, string) {
	want := p.size / 2
	q := &page{gen: p.gen, inner: p.inner}
	var sep string
	if p.inner {
		i, n := 1, 0
		for n = len(p.keys[0]) + 5; i < len(p.keys)-1 && n < want; i++ {
			n += len(p.keys[i]) + 5
		}
		sep = p.keys[i]
		q.keys, q.kids = slices.Clone(p.keys[i+1:]), slices.Clone(p.kids[i+1:])
		p.keys, p.kids = p.keys[:i:i], p.kids[:i+1:i+1]
	} else {
		i := 1
		for n := itemSize(&p.items[0]); i < len(p.items)-1 && n < want; i++ {
			n += itemSize(&p.items[i])
		}
		if atEnd {
			i = len(p.items) - 1
		}
		sep = p.items[i].key
		q.items = slices.Clone(p.items[i:])
		clear(p.items[i:])
		p.items = p.items[:i:i]
	}
	p.measure()
	q.measure()
	return q, sep
}

// remove takes an item out. Its key must have been looked up in this
// transaction.
func (t *tree) remove(tx *Tx, key string) {
	way, err := t.descend(tx, key)
	if err != nil {
		panic("dcdb: item removed whose key was not looked up before: " + err.Error())
	}
	if way == nil {
		return
	}
	d := len(way) - 1
	i, ok := way[d].page.find(key)
	if !ok {
		return
	}
	leaf := t.own(tx, way[d].num)
	tx.dropRefs(leaf.items[i].pieces, nil)
	leaf.size -= itemSize(&leaf.items[i])
	leaf.items = slices.Delete(leaf.items, i, i+1)
	if d == 0 {
		if len(leaf.items) == 0 {
			*t = tree{}
		}
		return
	}
	kid := way[d-1].kid
	if len(leaf.items) == 0 {
		t.unlink(tx, way[:d], way[d].num, max(kid-1, 0))
	} else if leaf.size < pageBytes/4 {
		if sep := t.mergeLeaf(tx, way[d-1], leaf); sep >= 0 {
			t.unlink(tx, way[:d], way[d].num, sep)
		}
	}
}

// mergeLeaf moves the items of a thin leaf, the child of up that way has taken,
// into a neighbour that is in memory and has room. It returns the key of up that
// parted them, -1 if nothing was moved.
func (t *tree) mergeLeaf(tx *Tx, up step, leaf *page) int {
	for _, kid := range [...]int{up.kid - 1, up.kid + 1} {
		if kid < 0 || kid >= len(up.page.kids) {
			continue
		}
		num := up.page.kids[kid]
		q := t.peek(tx, num)
		if q == nil || q.inner || q.size+leaf.size > pageBytes*3/4 {
			continue
		}
		q = t.own(tx, num)
		if kid < up.kid {
			q.items = append(q.items, leaf.items...)
		} else {
			q.items = append(slices.Clone(leaf.items), q.items...)
		}
		q.measure()
		return min(kid, up.kid)
	}
	return -1
}

// peek returns page num if it is in memory, else nil.
func (t *tree) peek(tx *Tx, num uint64) *page {
	old := tx.peeking
	tx.peeking = true
	defer func() { tx.peeking = old }()
	p, err := t.page(tx, num)
	if err != nil {
		return nil
	}
	return p
}

// unlink takes page num, the child that the last step of way has taken, out of
// the tree. Key sep of that step's page goes with it.
func (t *tree) unlink(tx *Tx, way []step, num uint64, sep int) {
	t.set(tx, num, nil)
	last := way[len(way)-1]
	p := t.own(tx, last.num)
	p.kids = slices.Delete(p.kids, last.kid, last.kid+1)
	if len(p.keys) > 0 {
		p.size -= len(p.keys[sep]) + 5
		p.keys = slices.Delete(p.keys, sep, sep+1)
	}
	switch {
	case len(p.kids) > 0:
		t.collapse(tx)
	case last.num == 0:
		*t = tree{}
	default:
		way = way[:len(way)-1]
		t.unlink(tx, way, last.num, max(way[len(way)-1].kid-1, 0))
	}
}

// collapse lets the root take the place of its only child, if that is in memory.
func (t *tree) collapse(tx *Tx) {
	for {
		root := t.own(tx, 0)
		if !root.inner || len(root.kids) != 1 {
			return
		}
		num := root.kids[0]
		kid := t.peek(tx, num)
		if kid == nil {
			return
		}
		kid = kid.clone(tx.s.gen)
		t.set(tx, num, nil)
		*root = *kid
		if !root.inner {
			*t = tree{next: 1, root: &tnode{gen: tx.s.gen, slots: []*ref{{page: root}}}}
			return
		}
	}
}

// ascend calls fn for each item with a key >= from, in order, until it returns
// false.
func (t *tree) ascend(tx *Tx, from string, fn func(it *item) bool) error {
	way, err := t.descend(tx, from)
	if err != nil || way == nil {
		return err
	}
	leaf := way[len(way)-1].page
	i, _ := leaf.find(from)
	for {
		for ; i < len(leaf.items); i++ {
			if !fn(&leaf.items[i]) {
				return nil
			}
		}
		if leaf, way, err = t.nextLeaf(tx, way); leaf == nil || err != nil {
			return err
		}
		i = 0
	}
}

// nextLeaf returns the leaf after the one that way leads to, and the way there.
func (t *tree) nextLeaf(tx *Tx, way []step) (*page, []step, error) {
	way = way[:len(way)-1]
	for len(way) > 0 && way[len(way)-1].kid == len(way[len(way)-1].page.kids)-1 {
		way = way[:len(way)-1]
	}
	if len(way) == 0 {
		return nil, nil, nil
	}
	way[len(way)-1].kid++
	for {
		last := way[len(way)-1]
		num := last.page.kids[last.kid]
		p, err := t.page(tx, num)
		if err != nil {
			return nil, nil, err
		}
		if p == nil {
			return nil, nil, corrupt("page %d is not in the mapping table", num)
		}
		way = append(way, step{num: num, page: p})
		if !p.inner {
			return p, way, nil
		}
	}
}
