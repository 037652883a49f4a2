package dcdb

import (
	"context"
	"fmt"

	"dcfs/dcdb/store"
)

// putBytes is about how much is handed to the store in one Put.
const putBytes = 4 << 20

// flush is the writing of one closed group. Its methods run on the flusher and
// take Space.mu for moments only.
type flush struct {
	s   *Space
	g   *group
	ctx context.Context
	b   *Builder

	deltas []delta
}

// delta is how one DCDB's tree differs from the committed one.
type delta struct {
	e      *entry
	pages  []pair
	nodes  [maxDepth][]*ref // new table nodes, by level
	tables []*ref           // dropped table nodes
	bulk   bool

	dropped []Dropped  // references that are gone
	shared  []store.ID // objects of earlier groups that are referred to once more
}

// pair is a page number's old and new reference, nil for none.
type pair struct{ old, new *ref }

func (s *Space) flush(ctx context.Context, g *group) error {
	s.settle(g)
	s.erase.holdUp(eraseMostBytes, eraseHoldUp)
	f := &flush{s: s, g: g, ctx: ctx, b: &Builder{Group: g.num, st: s.st, forks: g.forks, muts: map[string][]byte{}}}
	for _, step := range [...]func() error{f.compare, f.putContents, f.putPages, f.putNodes, f.count, f.change} {
		if err := step(); err != nil {
			return err
		}
	}
	keys := f.b.putFree()
	if err := s.st.Commit(ctx, f.b.batch(s.st.Fence())); err != nil {
		return err
	}
	if err := s.st.Barrier(ctx); err != nil {
		return fmt.Errorf("%w: %w", errBarrier, err)
	}
	f.publish()
	if len(f.b.free) > 0 {
		s.erase.add(freed{group: g.num, ids: f.b.free, keys: keys})
	}
	close(g.done)
	return nil
}

// compare finds what each entry changed.
func (f *flush) compare() error {
	f.deltas = make([]delta, 0, len(f.g.entries))
	for _, e := range f.g.entries {
		d := delta{e: e}
		var old, cur tree
		if c := e.n.committed; c != nil {
			old = c.tree
		}
		d.bulk = (e.state.Deleted || e.state.rebuilt) && old.root != nil && !old.inline()
		if d.bulk {
			old = tree{}
		}
		if !e.state.Deleted {
			cur = e.state.tree
		}
		if err := f.compareTrees(&d, old, cur); err != nil {
			return fmt.Errorf("%v: %w", e.n.key, err)
		}
		f.deltas = append(f.deltas, d)
	}
	return nil
}

func (f *flush) compareTrees(d *delta, old, cur tree) error {
	depth := max(old.depth, cur.depth)
	virtual := map[*ref]bool{}
	raise := func(t tree) *tnode {
		n := t.root
		for i := t.depth; n != nil && i < depth; i++ {
			r := &ref{node: n}
			virtual[r] = true
			n = &tnode{slots: []*ref{r}}
		}
		return n
	}
	return f.compareNodes(d, raise(old), raise(cur), depth, virtual)
}

func (f *flush) compareNodes(d *delta, old, cur *tnode, level int, virtual map[*ref]bool) error {
	if old == nil {
		old = &tnode{}
	}
	if cur == nil {
		cur = &tnode{}
	}
	for i := range max(len(old.slots), len(cur.slots)) {
		o, c := old.slot(i), cur.slot(i)
		if o == c || o != nil && c != nil && c.page == nil && c.node == nil && o.id == c.id {
			continue
		}
		if level == 0 {
			d.pages = append(d.pages, pair{o, c})
			continue
		}
		on, err := f.node(o, level-1)
		if err != nil {
			return err
		}
		cn, err := f.node(c, level-1)
		if err != nil {
			return err
		}
		if err := f.compareNodes(d, on, cn, level-1, virtual); err != nil {
			return err
		}
		if o != nil && !virtual[o] {
			d.tables = append(d.tables, o)
		}
		if c != nil && !virtual[c] {
			d.nodes[level-1] = append(d.nodes[level-1], c)
		}
	}
	return nil
}

// node and page return what a reference leads to, from memory or the store.
func (f *flush) node(r *ref, level int) (*tnode, error) {
	if r == nil || r.node != nil {
		return nodeOf(r), nil
	}
	body, err := f.body(want{id: r.id, kind: store.KindTable, leaf: level})
	if err != nil {
		return nil, err
	}
	return body.(*tnode), nil
}

func nodeOf(r *ref) *tnode {
	if r == nil {
		return nil
	}
	return r.node
}

func (f *flush) page(r *ref) (*page, error) {
	if r.page != nil {
		return r.page, nil
	}
	body, err := f.body(want{id: r.id, kind: store.KindPage})
	if err != nil {
		return nil, err
	}
	return body.(*page), nil
}

func (f *flush) body(w want) (any, error) {
	if body := f.s.cache.get(w.id); body != nil {
		return body, nil
	}
	return f.s.readBody(f.ctx, w)
}

// putContents stores the contents of the group that are not yet, but small ones,
// which go into their pages.
func (f *flush) putContents() error {
	var cs []*content
	bytes := 0
	put := func() error {
		err := f.putSome(cs)
		cs, bytes = cs[:0], 0
		return err
	}
	for i := range f.deltas {
		for _, p := range f.deltas[i].pages {
			if p.new == nil {
				continue
			}
			p.new.page.objects(func(pc *piece) {
				c := pc.c
				if c.group == f.g.num && !c.used {
					c.used = true
					if c.id.IsZero() && len(c.data) > MaxInlineValue {
						cs = append(cs, c)
						bytes += len(c.data)
					}
				}
			})
			if bytes >= putBytes {
				if err := put(); err != nil {
					return err
				}
			}
		}
	}
	return put()
}

func (f *flush) putSome(cs []*content) error {
	if len(cs) == 0 {
		return nil
	}
	parts := make([][]byte, len(cs))
	for i, c := range cs {
		parts[i] = c.data
	}
	ids, err := f.s.st.Put(f.ctx, f.g.num, store.KindContent, parts)
	if err != nil {
		for _, c := range cs {
			c.used = false // for the next attempt
		}
		return fmt.Errorf("write contents: %w", err)
	}
	f.s.mu.Lock()
	for i, c := range cs {
		c.id = ids[i]
	}
	f.s.mu.Unlock()
	return nil
}

// putPages stores the changed pages, but those that go into their heads.
func (f *flush) putPages() error {
	p := putter{f: f, kind: store.KindPage}
	for i := range f.deltas {
		d := &f.deltas[i]
		for _, pr := range d.pages {
			r := pr.new
			if r == nil || !r.id.IsZero() {
				continue
			}
			r.objects = false
			r.page.objects(func(pc *piece) { r.objects = r.objects || !pc.c.id.IsZero() })
			b := appendPage(nil, r.page)
			if len(b) <= maxInlinePage && d.e.state.tree.inline() {
				continue
			}
			if err := p.add(r, d.e.state.Changed, b); err != nil {
				return err
			}
		}
	}
	return p.put()
}

// putNodes stores the changed nodes of mapping tables, the lowest level first,
// since the ones above name them.
func (f *flush) putNodes() error {
	for level := range maxDepth {
		p := putter{f: f, kind: store.KindTable}
		for i := range f.deltas {
			d := &f.deltas[i]
			for _, r := range d.nodes[level] {
				if !r.id.IsZero() {
					continue
				}
				if err := p.add(r, d.e.state.Changed, appendNode(nil, r.node, level)); err != nil {
					return err
				}
			}
		}
		if err := p.put(); err != nil {
			return err
		}
	}
	return nil
}

// putter stores objects for references, many at a time.
type putter struct {
	f     *flush
	kind  store.Kind
	refs  []*ref
	since []uint64
	parts [][]byte
	bytes int
}

func (p *putter) add(r *ref, since uint64, b []byte) error {
	p.refs, p.since, p.parts = append(p.refs, r), append(p.since, since), append(p.parts, b)
	if p.bytes += len(b); p.bytes < putBytes {
		return nil
	}
	return p.put()
}

func (p *putter) put() error {
	if len(p.refs) == 0 {
		return nil
	}
	ids, err := p.f.s.st.Put(p.f.ctx, p.f.g.num, p.kind, p.parts)
	if err != nil {
		return fmt.Errorf("write pages: %w", err)
	}
	for i, r := range p.refs {
		r.id, r.since = ids[i], p.since[i]
	}
	*p = putter{f: p.f, kind: p.kind}
	return nil
}

// count finds the references that each entry dropped, and has the rules record
// those that share objects.
func (f *flush) count() error {
	for i := range f.deltas {
		d := &f.deltas[i]
		if err := f.countRefs(d); err != nil {
			return fmt.Errorf("%v: %w", d.e.n.key, err)
		}
		for _, id := range d.shared {
			if err := f.s.rules.Share(f.ctx, f.b, id); err != nil {
				return fmt.Errorf("%v: %w", d.e.n.key, err)
			}
		}
	}
	return nil
}

// change has the rules record what the group changed.
func (f *flush) change() error {
	for i := range f.deltas {
		d := &f.deltas[i]
		n, st := d.e.n, d.e.state
		if n.committed == nil && st.Deleted {
			continue
		}
		c := Change{
			Key: n.key, Changed: st.Changed, Born: st.Born,
			Dropped: d.dropped, Bulk: d.bulk, Records: d.bulk && !st.Deleted,
		}
		if n.committed != nil {
			c.Old = &n.committed.Head
		}
		if !st.Deleted {
			c.Record = encodeHead(&st.Head)
		}
		if err := f.s.rules.Change(f.ctx, f.b, f.g.forks[n.key.Fork], &c); err != nil {
			return fmt.Errorf("%v: %w", n.key, err)
		}
	}
	for _, w := range f.g.works {
		if w.err != nil {
			continue
		}
		if err := w.do(f.ctx, f.b); err != nil {
			return &workError{w, err}
		}
	}
	for k, v := range f.g.meta {
		f.b.muts[k] = v
	}
	for _, c := range f.g.stored {
		if !c.used {
			f.b.Free(c.id)
		}
	}
	return f.s.rules.Finish(f.ctx, f.b)
}

// countRefs finds the references that a DCDB has no more, and those that it has
// besides. Pieces may have moved from page to page: they are counted over all of
// them.
func (f *flush) countRefs(d *delta) error {
	for _, r := range d.tables {
		d.dropped = append(d.dropped, Dropped{r.id, r.since})
	}
	count := map[Dropped]int{}
	add := func(it *item, n int) {
		for j := range it.pieces {
			if pc := &it.pieces[j]; pc.c != nil && !pc.c.id.IsZero() {
				count[Dropped{pc.c.id, pc.since}] += n
			}
		}
	}
	if d.bulk && !d.e.state.Deleted {
		// Of a tree that was emptied, the items that are no records were
		// carried over, and may have changed since then.
		old := d.e.n.committed.tree
		if err := f.others(&old, 0, 0, func(it *item) { add(it, 1) }); err != nil {
			return err
		}
	}
	for _, p := range d.pages {
		if o := p.old; o != nil {
			if !o.id.IsZero() {
				d.dropped = append(d.dropped, Dropped{o.id, o.since})
			}
			if o.objects || o.page != nil {
				body, err := f.page(o)
				if err != nil {
					return err
				}
				for i := range body.items {
					add(&body.items[i], 1)
				}
			}
		}
		if p.new == nil || !p.new.objects {
			continue
		}
		for i := range p.new.page.items {
			add(&p.new.page.items[i], -1)
		}
	}
	for r, n := range count {
		for range n {
			d.dropped = append(d.dropped, r)
		}
		for ; n < 0 && r.ID.Group < f.g.num; n++ {
			d.shared = append(d.shared, r.ID)
		}
	}
	return nil
}

// others calls fn for the items of a committed tree that are no records, of page
// num and below.
func (f *flush) others(t *tree, num uint64, depth int, fn func(it *item)) error {
	r, err := t.lookup(f, num)
	if err != nil {
		return err
	}
	if r == nil || depth > 64 {
		return corrupt("page %d is not in the mapping table, or pages are in a circle", num)
	}
	p, err := f.page(r)
	if err != nil {
		return err
	}
	for i := range p.items {
		if ItemKind(p.items[i].key[0]) != KindRecord {
			fn(&p.items[i])
		}
	}
	for i, kid := range p.kids {
		if i > 0 && p.keys[i-1] >= string(KindRecord) && i < len(p.keys) && p.keys[i] <= string(KindRecord+1) {
			continue // nothing but records
		}
		if err := f.others(t, kid, depth+1, fn); err != nil {
			return err
		}
	}
	return nil
}

// publish makes what was written the committed state: memory that the store can
// bring back is the cache's from now on.
func (f *flush) publish() {
	s, g := f.s, f.g
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range f.deltas {
		d := &f.deltas[i]
		n := d.e.n
		n.pending--
		if n.entry == d.e {
			// It has the whole group behind it, and n may lie here untouched for
			// as long as there is room for it.
			n.entry = nil
		}
		n.committed = d.e.state
		if d.e.state.Deleted {
			n.committed = nil
		}
		for _, p := range d.pages {
			if p.new == nil {
				continue
			}
			p.new.page.objects(func(pc *piece) {
				if !pc.c.id.IsZero() {
					pc.c.data = nil
				}
			})
			if !p.new.id.IsZero() {
				s.cache.add(p.new.id, p.new.page)
				p.new.page = nil
			}
		}
		for _, refs := range d.nodes {
			for _, r := range refs {
				s.cache.add(r.id, r.node)
				r.node = nil
			}
		}
		if w := n.cur.weight(); s.nodes[n.key] == n {
			s.bytes += w - n.bytes
			n.bytes = w
		}
	}
	s.dirty -= g.data
	s.queue = s.queue[1:]
	s.full = nil
	s.cache.trim()
	s.wakeLocked()
}
