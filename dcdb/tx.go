package dcdb

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"dcfs/dcdb/store"
)

// Tx is one run of a function that Space.View or Space.Update was given. It is
// good only while that function runs.
type Tx struct {
	s        *Space
	ctx      context.Context
	update   bool
	changed  bool // something was changed: no miss may follow
	peeking  bool // a miss is an answer, nothing to load
	fetching bool // epoch is entered: what is missed may be loaded
	epoch    uint64

	want   []want           // what this run missed
	absent []Key            // nodes that there are none of
	loaded map[store.ID]any // what was loaded for it, pages, nodes and blocks
	edited []*node          // what this run changed
	drops  []uint64         // sinces of the references that it dropped
	shares int              // references that it made to objects of others
	dbs    []*DB
}

// want is something that a transaction missed.
type want struct {
	key  Key // of a node, if id is zero
	id   store.ID
	kind store.Kind
	leaf int // level of a table node
}

// View runs fn, which reads. fn sees one state of all DCDBs. It may be run
// several times, and must return an error of this package's methods at once.
func (s *Space) View(ctx context.Context, fn func(tx *Tx) error) error {
	s.pace.begin()
	tx := &Tx{s: s, ctx: ctx}
	defer tx.end()
	for {
		s.mu.RLock()
		tx.reset()
		err := fn(tx)
		s.mu.RUnlock()
		if again, err := tx.again(err); !again {
			return err
		}
	}
}

// again does what fn must be run again for, if anything, after a run of it that
// returned err.
func (tx *Tx) again(err error) (bool, error) {
	if len(tx.want) > 0 {
		err = tx.load()
		return err == nil, err
	}
	if f := (*first)(nil); err != nil && errors.As(err, &f) {
		err = f.do()
		return err == nil, err
	}
	return false, err
}

// Update runs fn, which may change DCDBs: all that it changes is in one commit
// group. fn may be run several times: it does all its reads first, one Get for
// each key that it will Put or Remove among them, and returns an error of this
// package's methods at once. After its first change it can't fail. fn runs with
// Space.mu held and must not wait for anything.
func (s *Space) Update(ctx context.Context, fn func(tx *Tx) error) error {
	s.pace.begin()
	return s.runUpdate(ctx, fn)
}

// runUpdate is Update for what nobody waits for.
func (s *Space) runUpdate(ctx context.Context, fn func(tx *Tx) error) error {
	tx := &Tx{s: s, ctx: ctx, update: true}
	defer tx.end()
	for {
		if err := s.join(ctx, 0, 0, true); err != nil {
			return err
		}
		tx.reset()
		err := fn(tx)
		if tx.changed && (err != nil || len(tx.want) > 0) {
			s.mu.Unlock()
			panic(fmt.Sprintf("dcdb: an update failed after its first change: %v", err))
		}
		s.finish(tx)
		s.mu.Unlock()
		if again, err := tx.again(err); !again {
			return err
		}
	}
}

func (tx *Tx) reset() {
	tx.want = tx.want[:0]
	tx.dbs = tx.dbs[:0]
	tx.edited = tx.edited[:0]
	tx.drops, tx.shares = tx.drops[:0], 0
}

// dropRefs notes the references that pieces made way for new ones with, those
// that need records when the group is written.
func (tx *Tx) dropRefs(old, pieces []piece) {
	for i := range old {
		c := old[i].c
		if c == nil || c.group == tx.s.open.num && c.id.IsZero() {
			continue
		}
		if !slices.ContainsFunc(pieces, func(pc piece) bool { return pc.c == c }) {
			tx.drops = append(tx.drops, old[i].since)
		}
	}
}

// dropRef notes that a page or table node made way for another.
func (tx *Tx) dropRef(r *ref) {
	switch {
	case r == nil:
	case r.page == nil && r.node == nil:
		tx.drops = append(tx.drops, r.since)
	case r.page != nil && r.page.gen != tx.s.gen, r.node != nil && r.node.gen != tx.s.gen:
		// It is being written: its since is not known yet, and 0 is nobody's.
		tx.drops = append(tx.drops, 0)
	}
}

// end leaves the epoch.
func (tx *Tx) end() {
	if tx.fetching {
		tx.s.epochs.leave(tx.epoch)
	}
}

// enter keeps what a reader of the store may come across from being erased. IDs
// that were seen before count for nothing: they are read anew.
func (tx *Tx) enter() {
	tx.epoch = tx.s.openGroup.Load()
	tx.s.epochs.enter(tx.epoch)
	tx.fetching = true
	tx.loaded = map[store.ID]any{}
}

// load brings what the last run missed into memory. The first time it only
// enters the epoch.
func (tx *Tx) load() error {
	if err := tx.ctx.Err(); err != nil {
		return err
	}
	if !tx.fetching {
		tx.enter()
		return nil
	}
	waits(tx.ctx)
	for _, w := range tx.want {
		if err := tx.fetch(w); err != nil {
			return err
		}
	}
	if tx.s.cache.full() {
		tx.s.mu.Lock()
		tx.s.cache.trim()
		tx.s.mu.Unlock()
	}
	return nil
}

func (tx *Tx) fetch(w want) error {
	if w.id.IsZero() {
		err := tx.s.loadNode(tx.ctx, w.key)
		if errors.Is(err, ErrNotExist) { // that is for the next run to say
			tx.absent = append(tx.absent, w.key)
			return nil
		}
		return err
	}
	if w.kind == store.KindContent {
		b, err := tx.s.readContent(tx.ctx, w.id)
		tx.loaded[w.id] = b
		return err
	}
	body, err := tx.s.readBody(tx.ctx, w)
	if err == nil {
		tx.loaded[w.id] = body
		tx.s.cache.add(w.id, body)
	}
	return err
}

// readBody reads a page or table node from the store.
func (s *Space) readBody(ctx context.Context, w want) (any, error) {
	b := make([]byte, w.id.Len)
	if err := s.st.Read(ctx, w.id, w.kind, 0, b); err != nil {
		return nil, readErr(w.id, err)
	}
	d := &decoder{b: b}
	var body any
	if w.kind == store.KindPage {
		body = decodePage(d)
	} else {
		body = decodeNode(d, w.leaf)
	}
	if err := d.end(); err != nil {
		return nil, fmt.Errorf("object %v: %w", w.id, err)
	}
	return body, nil
}

func (s *Space) readContent(ctx context.Context, id store.ID) ([]byte, error) {
	b := make([]byte, id.Len)
	if err := s.st.Read(ctx, id, store.KindContent, 0, b); err != nil {
		return nil, readErr(id, err)
	}
	return b, nil
}

// readErr is the error for an object that is referenced and can't be read: that
// it does not exist is a loss, not an answer.
func readErr(id store.ID, err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: object %v is missing from the store", ErrIO, id)
	}
	return fmt.Errorf("object %v: %w", id, err)
}

// miss notes what is missing.
func (tx *Tx) miss(w want) error {
	if !tx.peeking {
		tx.want = append(tx.want, w)
	}
	return errMiss
}

func (tx *Tx) cached(w want) (any, error) {
	if body := tx.s.cache.get(w.id); body != nil {
		return body, nil
	}
	if body := tx.loaded[w.id]; body != nil {
		return body, nil
	}
	return nil, tx.miss(w)
}

// page returns the page that r refers to.
func (tx *Tx) page(r *ref) (*page, error) {
	if r.page != nil {
		return r.page, nil
	}
	body, err := tx.cached(want{id: r.id, kind: store.KindPage})
	if err != nil {
		return nil, err
	}
	return body.(*page), nil
}

// node returns the table node of a level that r refers to.
func (tx *Tx) node(r *ref, level int) (*tnode, error) {
	if r.node != nil {
		return r.node, nil
	}
	body, err := tx.cached(want{id: r.id, kind: store.KindTable, leaf: level})
	if err != nil {
		return nil, err
	}
	return body.(*tnode), nil
}

func (tx *Tx) mustPage(r *ref) *page {
	p, err := tx.page(r)
	if err != nil {
		panic("dcdb: page changed that was not read before: " + err.Error())
	}
	return p
}

func (tx *Tx) mustNode(r *ref, level int) *tnode {
	n, err := tx.node(r, level)
	if err != nil {
		panic("dcdb: table node changed that was not read before: " + err.Error())
	}
	return n
}

// Now is the time of the transaction's changes.
func (tx *Tx) Now() Time {
	t := tx.s.o.Now()
	return Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

// DB returns the DCDB of a key: ErrNotExist if the view has none, ErrGone if
// there is no such view any more.
func (tx *Tx) DB(k Key) (*DB, error) {
	for _, db := range tx.dbs {
		if db.n.key == k {
			return db, nil
		}
	}
	if err := tx.s.rules.Alive(k.Fork, k.At); err != nil {
		return nil, err
	}
	n := tx.s.nodes[k]
	if n == nil && slices.Contains(tx.absent, k) {
		return nil, fmt.Errorf("%v: %w", k, ErrNotExist)
	}
	if n == nil {
		return nil, tx.miss(want{key: k})
	}
	n.used.Store(true)
	if n.cur.Deleted {
		return nil, fmt.Errorf("%v: %w", k, ErrNotExist)
	}
	db := &DB{tx: tx, n: n}
	tx.dbs = append(tx.dbs, db)
	return db, nil
}

// Create makes a new DCDB of attributes a. Its key must be of a live view, its
// number must never have been used there.
func (tx *Tx) Create(k Key, a Attr) *DB {
	a.Alloc = 0
	a.Born = tx.s.rules.Counter(k.Fork)
	n := &node{key: k}
	n.cur = &state{Head: Head{Attr: a}}
	tx.s.insert(n)
	db := &DB{tx: tx, n: n}
	tx.dbs = append(tx.dbs, db)
	db.Edit()
	return db
}
