package snap

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// forkWalk is the check of one fork's heads and dead list.
//
// An object's references are counted once per line of succession: a reference
// is its fork's own if it is used since after the fork's origin; it counts where
// it is in the newest state of its inode, or else on the dead list, or in a tree
// that was dropped as a whole and is still to be expanded. A fork that is being
// cut at p has as newest state, for what is used since p or before, the newest
// one up to p; what died later has not died then.
type forkWalk struct {
	c      *checker
	f      *checkedFork
	kept   []uint64
	newest uint64   // the newest kept counter
	cuts   []uint64 // where the fork is still to be cut, ascending

	heads     map[stateKey]uint64 // deaths of saved heads, by the list
	inherited map[uint64]uint64   // inherited heads on the list: since
	listed    map[dcdb.Dropped][]listedRef
	excess    map[[2]uint64]bool // places and inodes with a record that says so
}

type stateKey struct{ ino, counter uint64 }

// listedRef is an entry of a reference.
type listedRef struct {
	death uint64
	shown bool // by a state
}

// state is a head of an inode, the live one or a saved one.
type state struct {
	head    *dcdb.Head
	saved   bool
	newest  bool   // up to no limit
	upTo    uint64 // the newest one up to all cuts from its own counter to this; 0: to none
	counter uint64
}

func (c *checker) walkFork(f *checkedFork) error {
	w := &forkWalk{
		c: c, f: f, kept: []uint64{f.origin}, newest: f.origin,
		heads: map[stateKey]uint64{}, inherited: map[uint64]uint64{}, listed: map[dcdb.Dropped][]listedRef{},
	}
	for _, sn := range f.snaps {
		w.kept = append(w.kept, sn.counter)
		w.newest = max(w.newest, sn.counter)
	}
	for _, t := range f.tasks {
		if t.kind != taskSnapshot {
			w.cuts = append(w.cuts, t.p)
		}
	}
	slices.Sort(w.cuts)
	for _, step := range [...]func() error{w.deadList, w.bulks, w.readExcess, w.inodes, w.index, w.leftOver, w.views} {
		if err := step(); err != nil {
			return err
		}
	}
	return c.enough()
}

// cut returns where what is used since a counter is still to be cut.
func (w *forkWalk) cut(since uint64) uint64 {
	for _, p := range w.cuts {
		if since <= p {
			return p
		}
	}
	return math.MaxUint64
}

// keeps reports whether a kept counter needs something.
func (w *forkWalk) keeps(since, death uint64) bool {
	return slices.ContainsFunc(w.kept, func(k uint64) bool { return since <= k && k < death })
}

// needed reports whether something is needed, or is still to be reclaimed.
func (w *forkWalk) needed(since, death uint64) bool {
	if w.keeps(since, death) {
		return true
	}
	for _, t := range w.f.tasks {
		if t.takes(span{w.f.prefix, death, since}) {
			return true
		}
	}
	return false
}

// deadList verifies the entries by themselves, and the sums.
func (w *forkWalk) deadList() error {
	c, f := w.c, w.f
	sums := map[span]sum{}
	err := w.scan(keyDead, func(k, val []byte) error {
		if len(k) != 1+8*4+4 {
			c.problem(0, "record %x has a bad key", k)
			return nil
		}
		s := span{f.prefix, binary.BigEndian.Uint64(k[9:]), binary.BigEndian.Uint64(k[17:])}
		es, err := decodeEntries(val)
		if err != nil {
			return err
		}
		for i := range es {
			if err := w.entry(s, &es[i]); err != nil {
				return err
			}
			sums[s] = sum{sums[s].count + 1, sums[s].bytes + es[i].size}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for s, n := range sums {
		w.diedBytes(s.since, s.death, int64(n.bytes))
		who := fmt.Sprintf("dead list of fork %d, [%d, %d)", f.id, s.since, s.death)
		if s.since >= s.death || s.death > f.counter {
			c.problem(1, "%s is no span of a fork whose counter is %d", who, f.counter)
		}
		if !w.needed(s.since, s.death) {
			c.problem(1, "%s is needed by no kept counter", who)
		}
		if !f.live && len(w.cuts) == 0 && s.death > w.newest {
			c.problem(3, "%s: the fork has no live state, and ended at %d", who, w.newest)
		}
	}
	said := map[span]sum{}
	err = w.scan(keySum, func(k, val []byte) error {
		n, err := keyNums(k, 3)
		if err != nil {
			return err
		}
		add, err := decodeSum(val)
		if err != nil {
			return err
		}
		s := span{f.prefix, n[1], n[2]}
		said[s] = sum{said[s].count + add.count, said[s].bytes + add.bytes}
		return nil
	})
	for s, n := range said {
		if n != sums[s] {
			c.problem(7, "fork %d, [%d, %d): the sum says %d entries of %d bytes, the dead list has %d of %d", f.id, s.since, s.death, n.count, n.bytes, sums[s].count, sums[s].bytes)
		}
		delete(sums, s)
	}
	for s, n := range sums {
		c.problem(7, "fork %d, [%d, %d): %d entries without a sum", f.id, s.since, s.death, n.count)
	}
	return err
}

// prefixes returns where the fork's records are, as Volume.prefixes.
func (f *checkedFork) prefixes() []uint64 {
	if f.moving != 0 {
		return []uint64{f.moving, f.prefix}
	}
	return []uint64{f.prefix}
}

// scan calls fn for the fork's records of a kind.
func (w *forkWalk) scan(kind byte, fn func(k, val []byte) error) error {
	for _, prefix := range w.f.prefixes() {
		if err := w.c.scan(key(kind, prefix), fn); err != nil {
			return err
		}
	}
	return nil
}

// get returns the record of a kind and numbers, nil if there is none.
func (w *forkWalk) get(kind byte, nums ...uint64) ([]byte, error) {
	for _, prefix := range w.f.prefixes() {
		vals, err := w.c.st.Get(w.c.ctx, append(key(kind, prefix), key(0, nums...)[1:]...))
		if err != nil || vals[0] != nil {
			return vals[0], err
		}
	}
	return nil, nil
}

// entry notes what an entry says. It sets the size of a saved head's.
func (w *forkWalk) entry(s span, e *entry) error {
	c, f := w.c, w.f
	switch e.kind {
	case entryRef:
		ref := dcdb.Dropped{ID: e.id, Since: s.since}
		w.listed[ref] = append(w.listed[ref], listedRef{death: s.death})
		o := c.object(e.id)
		if s.since <= f.origin {
			o.inherited = true
		} else if s.death <= w.cut(s.since) {
			o.refs++
		}
	case entryHead:
		w.listedHead(s, e)
		val, err := w.get(keySaved, e.ino, ^s.since)
		if err != nil {
			return err
		}
		e.size = uint64(len(val))
	case entryInherited, entryUnsized:
		if s.since > f.origin {
			w.listedHead(s, e) // since the fork was merged with its parent
			return nil
		}
		if _, twice := w.inherited[e.ino]; twice {
			c.problem(1, "inode %d of fork %d is on the dead list as inherited twice", e.ino, f.id)
		}
		w.inherited[e.ino] = s.since
	}
	return nil
}

// listedHead notes that a saved head is on the dead list.
func (w *forkWalk) listedHead(s span, e *entry) {
	k := stateKey{e.ino, s.since}
	if _, twice := w.heads[k]; twice {
		w.c.problem(1, "inode %d of fork %d at %d is on the dead list twice", e.ino, w.f.id, s.since)
	}
	w.heads[k] = s.death
}

// bulks counts the references of trees that were dropped as a whole.
func (w *forkWalk) bulks() error {
	c, f := w.c, w.f
	return c.scan(key(keyBulk, f.id), func(k, val []byte) error {
		if len(k) != 1+8+8+4 {
			c.problem(0, "record %x has a bad key", k)
			return nil
		}
		bk, err := decodeBulk(val)
		if err != nil {
			return err
		}
		h, err := dcdb.DecodeHead(bk.head)
		if err != nil {
			return err
		}
		if h.Deleted || !h.Large() || bk.death > f.counter || h.Changed > bk.death {
			c.problem(0, "dropped tree %x of a head of %d, dead at %d, makes no sense", k, h.Changed, bk.death)
		}
		_, _, err = dcdb.Expand(c.ctx, c.st, h, bk.records, bk.cut, bk.next, math.MaxInt, func(d dcdb.Dropped) {
			o := c.object(d.ID)
			if bk.cut == 0 {
				w.diedBytes(d.Since, bk.death, int64(d.ID.Len))
			}
			if d.Since <= f.origin {
				o.inherited = true
			} else if bk.cut != 0 || bk.death <= w.cut(d.Since) {
				o.refs++
			}
		})
		if err != nil && c.ctx.Err() == nil {
			c.problem(2, "dropped tree %x: %v", k, err)
			err = nil
		}
		return err
	})
}

// readExcess reads which files are to be trimmed.
func (w *forkWalk) readExcess() error {
	w.excess = map[[2]uint64]bool{}
	return w.scan(keyExcess, func(k, _ []byte) error {
		n, err := keyNums(k, 2)
		if err == nil {
			w.excess[[2]uint64(n)] = true
		}
		return err
	})
}

func (w *forkWalk) checkExcess(prefix, ino uint64, h *dcdb.Head) {
	at := [2]uint64{prefix, ino}
	if h.Excess() != w.excess[at] {
		w.c.problem(9, "inode %d of fork %d: that it has records beyond its end is %v, and recorded is %v", ino, w.f.id, h.Excess(), w.excess[at])
	}
	delete(w.excess, at)
}

// cursor goes through records of a prefix in order.
type cursor struct {
	c    *checker
	from []byte
	to   []byte
	recs []store.Record
	end  bool
}

func (c *checker) cursor(prefix []byte) *cursor {
	return &cursor{c: c, from: prefix, to: after(prefix)}
}

// peek returns the record that next goes beyond, nil at the end.
func (u *cursor) peek() (*store.Record, error) {
	if len(u.recs) == 0 && !u.end {
		var err error
		u.recs, err = u.c.st.Scan(u.c.ctx, u.from, u.to, 500)
		if errors.Is(err, store.ErrCorrupt) {
			u.c.problem(0, "records from %x on: %v", u.from, err)
			u.recs, err = nil, nil
		}
		if err != nil {
			return nil, err
		}
		if u.end = len(u.recs) == 0; !u.end {
			u.from = append(slices.Clone(u.recs[len(u.recs)-1].Key), 0)
		}
	}
	if len(u.recs) == 0 {
		return nil, nil
	}
	return &u.recs[0], nil
}

func (u *cursor) next() { u.recs = u.recs[1:] }

// ino returns the inode number of the record that peek shows.
func (u *cursor) ino() (uint64, error) {
	for {
		r, err := u.peek()
		if r == nil || err != nil {
			return math.MaxUint64, err
		}
		if len(r.Key) >= 17 {
			return binary.BigEndian.Uint64(r.Key[9:]), nil
		}
		u.c.problem(0, "record %x has a bad key", r.Key)
		u.next()
	}
}

// inodes verifies all states of each inode.
func (w *forkWalk) inodes() error {
	var all []*cursor
	for _, prefix := range w.f.prefixes() {
		all = append(all, w.c.cursor(key(keyHead, prefix)), w.c.cursor(key(keySaved, prefix)))
	}
	for {
		ino := uint64(math.MaxUint64)
		for _, u := range all {
			n, err := u.ino()
			if err != nil {
				return err
			}
			ino = min(ino, n)
		}
		if ino == math.MaxUint64 {
			return nil
		}
		var states []state
		for _, u := range all {
			var err error
			if states, err = w.collect(states, u, ino); err != nil {
				return err
			}
		}
		if w.f.moving != 0 {
			slices.SortStableFunc(states, func(a, b state) int { return cmp.Compare(b.counter, a.counter) })
			for i := 1; i < len(states); i++ {
				states[i].saved = true // it will be
			}
		}
		if err := w.inode(ino, states); err != nil {
			return err
		}
		if err := w.c.enough(); err != nil {
			return err
		}
	}
}

// collect adds u's states of an inode.
func (w *forkWalk) collect(states []state, u *cursor, ino uint64) ([]state, error) {
	c := w.c
	for {
		at, err := u.ino()
		if err != nil || at != ino {
			return states, err
		}
		r, err := u.peek()
		if err != nil {
			return states, err
		}
		u.next()
		c.step()
		saved := r.Key[0] == keySaved
		if want := map[bool]int{false: 17, true: 25}[saved]; len(r.Key) != want {
			c.problem(0, "record %x has a bad key", r.Key)
			continue
		}
		if saved {
			c.report.Saved++
		} else {
			c.report.Heads++
		}
		h, err := dcdb.DecodeHead(r.Value)
		if err != nil {
			c.problem(0, "head %x: %v", r.Key, err)
			if changed, _, infoErr := dcdb.HeadInfo(r.Value); infoErr == nil {
				delete(w.heads, stateKey{ino, changed})
			}
			continue
		}
		if !saved {
			w.checkExcess(binary.BigEndian.Uint64(r.Key[1:]), ino, h)
		}
		s := state{head: h, saved: saved, counter: h.Changed}
		if n := len(r.Key); saved && ^binary.BigEndian.Uint64(r.Key[n-8:]) != h.Changed {
			c.problem(0, "%s is saved as one of %d", w.who(ino, &s), ^binary.BigEndian.Uint64(r.Key[n-8:]))
		}
		states = append(states, s)
	}
}

func (w *forkWalk) who(ino uint64, s *state) string {
	return fmt.Sprintf("inode %d of fork %d at %d", ino, w.f.id, s.counter)
}

// inode verifies the states of an inode, the newest first.
func (w *forkWalk) inode(ino uint64, states []state) error {
	if len(states) == 0 {
		return nil
	}
	limit := uint64(math.MaxUint64) // the counter of the state before
	for i := range states {
		s := &states[i]
		s.newest = i == 0
		for _, p := range w.cuts {
			if s.counter <= p && p < limit {
				s.upTo = p
			}
		}
		if s.counter >= limit {
			w.c.problem(0, "%s is not older than the one after it, of %d", w.who(ino, s), limit)
		}
		if err := w.state(ino, s, limit, len(states)); err != nil {
			return err
		}
		limit = s.counter
	}
	return w.inheritance(ino)
}

// state verifies one state of an inode; the one after it is of counter limit.
func (w *forkWalk) state(ino uint64, s *state, limit uint64, states int) error {
	c, f, who := w.c, w.f, w.who(ino, s)
	own := f.parentID == 0 || ino >= f.first
	if s.counter <= f.origin || s.counter > f.counter {
		c.problem(0, "%s: not after the origin %d and up to the counter %d", who, f.origin, f.counter)
	}
	if ino == 0 || ino >= f.reserved {
		c.problem(0, "%s: inode numbers are reserved up to %d", who, f.reserved)
	}
	if own != (s.head.Born > f.origin) {
		c.problem(0, "%s was born at %d, the fork at %d, and its own inodes begin at %d", who, s.head.Born, f.origin, f.first)
	}
	if s.head.Deleted && (s.saved || own && states == 1) {
		c.problem(5, "%s is deleted, and saved, or there is no other state of an inode that was not inherited", who)
	}
	if !f.live && len(w.cuts) == 0 && s.counter > w.newest {
		c.problem(4, "%s: the fork has no live state, and ended at %d", who, w.newest)
	}
	if s.saved && s.newest {
		c.problem(8, "%s is saved, and there is no newer one", who)
	}
	if s.saved {
		w.savedHead(ino, s, limit)
	}
	idx, err := w.get(keyIndex, s.counter, ino)
	if err != nil {
		return err
	}
	if idx == nil {
		c.problem(6, "%s has no index record", who)
	}
	if !s.newest && s.upTo == 0 && !w.keeps(s.counter, limit) {
		return nil // it waits to be erased, what it refers to may be gone
	}
	w.aliveBytes(s, s.counter, headBytes(s.head))
	report := func(p string) { c.note(fmt.Sprintf("%s: %s", who, p)) }
	return dcdb.CheckHead(c.ctx, c.st, s.head, report, func(r dcdb.Ref) { w.reference(who, s, r) })
}

// savedHead verifies that a saved head is on the dead list, or has not died since
// its fork ended before.
func (w *forkWalk) savedHead(ino uint64, s *state, limit uint64) {
	k := stateKey{ino, s.counter}
	death, ok := w.heads[k]
	delete(w.heads, k)
	lasts := s.upTo != 0 || !w.f.live && s.newest
	if !ok && !lasts {
		w.c.problem(1, "%s is saved and not on the dead list", w.who(ino, s))
	}
	if ok && death > limit {
		w.c.problem(1, "%s: dead at %d by the list, but the next state is of %d", w.who(ino, s), death, limit)
	}
}

// reference counts a reference that a state shows.
func (w *forkWalk) reference(who string, s *state, r dcdb.Ref) {
	o := w.c.object(r.ID)
	if o.kind != 0 && o.kind != r.Kind {
		w.c.problem(2, "%s refers to object %v as kind %d, others as %d", who, r.ID, r.Kind, o.kind)
	}
	o.kind = r.Kind
	w.aliveBytes(s, r.Since, int(r.ID.Len))
	switch p := w.cut(r.Since); {
	case r.Since <= w.f.origin:
		o.inherited = true
	case p == math.MaxUint64 && s.newest, p != math.MaxUint64 && w.newestUpTo(s, p):
		o.refs++
	}
	entries := w.listed[dcdb.Dropped{ID: r.ID, Since: r.Since}]
	for i := range entries {
		if s.counter < entries[i].death {
			entries[i].shown = true
		}
	}
}

// newestUpTo reports whether s is its inode's newest state up to a cut.
func (w *forkWalk) newestUpTo(s *state, cut uint64) bool { return s.counter <= cut && cut <= s.upTo }

// inheritance verifies that the head which an inode's first own state took the
// place of is on the dead list.
func (w *forkWalk) inheritance(ino uint64) error {
	f := w.f
	since, ok := w.inherited[ino]
	delete(w.inherited, ino)
	if f.parent == nil || ino >= f.first {
		if ok {
			w.c.problem(1, "inode %d of fork %d is on the dead list as inherited, which it is not", ino, f.id)
		}
		return nil
	}
	h, err := w.resolve(f.parent, f.origin, ino)
	if err != nil {
		return err
	}
	switch {
	case ok && (h == nil || h.deleted || h.changed != since):
		w.c.problem(1, "inode %d of fork %d is on the dead list as inherited since %d, but that is not what it inherited", ino, f.id, since)
	case !ok && f.live && h != nil && !h.deleted:
		w.c.problem(1, "inode %d of fork %d: the head it had inherited, of %d, is not on the dead list", ino, f.id, h.changed)
	}
	return nil
}

type resolved struct {
	changed uint64
	deleted bool
}

// resolve finds the state of an inode that counter n of f shows, nil if none.
func (w *forkWalk) resolve(f *fork, n, ino uint64) (*resolved, error) {
	for ; f != nil; n, f = f.origin, f.parent {
		rec, err := f.line(n).resolve(w.c.ctx, w.c.st, ino)
		if errors.Is(err, store.ErrCorrupt) {
			return nil, nil // told where it lies
		}
		if err != nil {
			return nil, err
		}
		if rec != nil {
			changed, deleted, err := dcdb.HeadInfo(rec)
			if err != nil {
				return nil, nil
			}
			return &resolved{changed, deleted}, nil
		}
	}
	return nil, nil
}

// index verifies that each index record has its head.
func (w *forkWalk) index() error {
	c, f := w.c, w.f
	return w.scan(keyIndex, func(k, val []byte) error {
		n, err := keyNums(k, 3)
		if err != nil {
			return err
		}
		vals, err := c.st.Get(c.ctx, key(keyHead, n[0], n[2]), key(keySaved, n[0], n[2], ^n[1]))
		if err != nil {
			return err
		}
		if vals[1] != nil {
			return nil
		}
		if vals[0] != nil {
			if changed, _, err := dcdb.HeadInfo(vals[0]); err == nil && changed == n[1] {
				return nil
			}
		}
		c.problem(6, "inode %d of fork %d at %d: an index record without its head", n[2], f.id, n[1])
		return nil
	})
}

// leftOver tells the entries of the dead list that nothing was found for.
func (w *forkWalk) leftOver() error {
	c, f := w.c, w.f
	for k := range w.heads {
		c.problem(1, "inode %d of fork %d at %d is on the dead list and not saved", k.ino, f.id, k.counter)
	}
	for at := range w.excess {
		c.problem(9, "inode %d of fork %d is recorded to have records beyond its end, and has no head", at[1], f.id)
	}
	for ino := range w.inherited {
		c.problem(1, "inode %d of fork %d is on the dead list as inherited, and has no state of its own", ino, f.id)
	}
	if len(f.tasks) > 0 {
		return nil // heads may have gone before what they show
	}
	for ref, entries := range w.listed {
		for _, e := range entries {
			if !e.shown && ref.Since > f.origin {
				c.problem(1, "fork %d, [%d, %d): object %v is on the dead list, and no state shows it", f.id, ref.Since, e.death, ref.ID)
			}
		}
	}
	return nil
}

// views verifies that each view has a root.
func (w *forkWalk) views() error {
	f := w.f
	at := []uint64{}
	for _, sn := range f.snaps {
		at = append(at, sn.counter)
	}
	if f.live {
		at = append(at, dcdb.Live)
	}
	for _, n := range at {
		for _, ino := range [...]uint64{RootIno, OrphanIno} {
			h, err := w.resolve(f.fork, n, ino)
			if err != nil {
				return err
			}
			if h == nil || h.deleted {
				w.c.problem(0, "%v does not exist", dcdb.Key{Fork: f.id, At: n, Ino: ino})
			}
		}
	}
	return nil
}
