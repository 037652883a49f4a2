package snap

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
	"dcfs/spill"
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

	deaths *spill.Sorter // of heads that are on the dead list
	dying  *deaths       // ... in the order of the heads

	heads, saved *cursor
	states       []*state           // of the present inode, while the fork's heads move
	excess       map[[2]uint64]bool // places and inodes with a record that says so
}

// state is a head of an inode, the live one or a saved one.
type state struct {
	head    *dcdb.Head
	prefix  uint64 // where it lies
	saved   bool
	newest  bool   // up to no limit
	upTo    uint64 // the newest one up to all cuts from its own counter to this; 0: to none
	counter uint64
	listed  bool // on the dead list
	death   uint64
}

func (c *checker) walkFork(f *checkedFork) error {
	w := &forkWalk{
		c: c, f: f, kept: []uint64{f.origin}, newest: f.origin,
		deaths: spill.New(deathBytes, c.o.Spill.Share(4)),
	}
	defer w.deaths.Close()
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
	for _, step := range [...]func() error{w.deadList, w.bulks, w.readExcess, w.inodes, w.index, w.views} {
		if err := step(); err != nil {
			return err
		}
	}
	return c.enough()
}

// All that the walk reads of its fork's records it reads by cursor, scan and get.
// Keys begin with the kind and the place, which tell nothing new.

func (w *forkWalk) cursor(kind byte) *cursor {
	u := &cursor{}
	for _, prefix := range w.f.line(0).prefixes() {
		u.parts = append(u.parts, w.c.part(key(kind, prefix)))
	}
	return u
}

func (w *forkWalk) scan(kind byte, fn func(k, val []byte) error) error {
	for _, prefix := range w.f.line(0).prefixes() {
		if err := w.c.scan(key(kind, prefix), fn); err != nil {
			return err
		}
	}
	return nil
}

// get returns the value of a record, nil if there is none or it can't be read.
func (w *forkWalk) get(kind byte, nums ...uint64) ([]byte, error) {
	for _, prefix := range w.f.line(0).prefixes() {
		if val, err := w.getAt(kind, prefix, nums...); err != nil || val != nil {
			return val, err
		}
	}
	return nil, nil
}

// getAt is get for one place.
func (w *forkWalk) getAt(kind byte, prefix uint64, nums ...uint64) ([]byte, error) {
	val, err := w.c.st.Get(w.c.ctx, append(key(kind, prefix), key(kind, nums...)[1:]...))
	if errors.Is(err, store.ErrCorrupt) {
		w.c.report.Whole = false // a scan tells
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return val[0], nil
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

// deadList verifies the entries by themselves, and the sums. Both kinds of records
// are in the order of their spans.
func (w *forkWalk) deadList() error {
	dead, sums := w.cursor(keyDead), w.cursor(keySum)
	for {
		s, more, err := w.span(dead, 1+8*4+4)
		if err != nil {
			return err
		}
		t, moreSums, err := w.span(sums, 1+8*3)
		if err != nil {
			return err
		}
		if !more && !moreSums {
			return w.c.enough()
		}
		if !more || moreSums && (t.death < s.death || t.death == s.death && t.since < s.since) {
			s = t
		}
		n, err := w.entries(dead, s)
		if err != nil {
			return err
		}
		if err := w.sum(sums, s, n); err != nil {
			return err
		}
		if err := w.c.enough(); err != nil {
			return err
		}
	}
}

// span returns the span of the record that u shows, false at the end.
func (w *forkWalk) span(u *cursor, keyBytes int) (span, bool, error) {
	for {
		r, err := u.peek()
		if r == nil || err != nil {
			return span{}, false, err
		}
		if len(r.Key) == keyBytes {
			return span{w.f.prefix, binary.BigEndian.Uint64(r.Key[9:]), binary.BigEndian.Uint64(r.Key[17:])}, true, nil
		}
		w.c.problem(0, "record %x has a bad key", r.Key)
		u.next()
	}
}

// entries goes through the entries of a span.
func (w *forkWalk) entries(u *cursor, s span) (sum, error) {
	c, f := w.c, w.f
	var n sum
	for {
		at, more, err := w.span(u, 1+8*4+4)
		if err != nil {
			return n, err
		}
		if !more || at != s {
			break
		}
		r, _ := u.peek()
		u.next()
		es, err := decodeEntries(r.Value)
		if err != nil {
			c.problem(0, "record %x: %v", r.Key, err)
			continue
		}
		for i := range es {
			if err := w.entry(s, &es[i]); err != nil {
				return n, err
			}
			n = sum{n.count + 1, n.bytes + es[i].size}
		}
	}
	if n.count == 0 {
		return n, nil
	}
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
	return n, nil
}

// sum verifies what the sums say of a span of which the dead list has n.
func (w *forkWalk) sum(u *cursor, s span, n sum) error {
	var said sum
	records := 0
	for {
		at, more, err := w.span(u, 1+8*3)
		if err != nil {
			return err
		}
		if !more || at != s {
			break
		}
		r, _ := u.peek()
		u.next()
		one, err := decodeSum(r.Value)
		if err != nil {
			w.c.problem(0, "record %x: %v", r.Key, err)
			return nil
		}
		said = sum{said.count + one.count, said.bytes + one.bytes}
		records++
	}
	f := w.f.id
	x := fix{kind: fixSum, key: [3]uint64{s.prefix, s.death, s.since}, n: [2]uint64{n.count, n.bytes}, whole: true}
	switch {
	case said == n:
	case w.f.moving != 0: // one record would not mend two
		w.c.problem(7, "fork %d, [%d, %d): the sums say %d entries of %d bytes, the dead lists have %d of %d", f, s.since, s.death, said.count, said.bytes, n.count, n.bytes)
	case records == 0:
		w.c.mend(x, 7, "fork %d, [%d, %d): %d entries without a sum", f, s.since, s.death, n.count)
	default:
		w.c.mend(x, 7, "fork %d, [%d, %d): the sum says %d entries of %d bytes, the dead list has %d of %d", f, s.since, s.death, said.count, said.bytes, n.count, n.bytes)
	}
	return nil
}

// entry notes what an entry says. It sets the size of a saved head's.
func (w *forkWalk) entry(s span, e *entry) error {
	c, f := w.c, w.f
	switch e.kind {
	case entryRef:
		a := account{id: e.id, fork: f.id, since: s.since, what: objectListed, counter: s.death}
		if s.since <= f.origin {
			a.flags |= flagInherited
		} else {
			if s.death <= w.cut(s.since) {
				a.flags |= flagCounts
			}
			if len(f.tasks) == 0 { // else heads may have gone before what they show
				a.flags |= flagMustShow
			}
		}
		c.account(a)
		return c.failed
	case entryHead:
		val, err := w.get(keySaved, e.ino, ^s.since)
		if err != nil {
			return err
		}
		e.size = uint64(len(val))
	}
	// What was inherited is the fork's own, and saved, since it was merged with
	// its parent.
	d := death{ino: e.ino, inherited: e.kind != entryHead && s.since <= f.origin, since: s.since, death: s.death}
	return w.deaths.Add(d.append(nil))
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
			if bk.cut == 0 {
				w.diedBytes(d.Since, bk.death, int64(d.ID.Len))
			}
			a := account{id: d.ID, fork: f.id, since: d.Since, what: objectBulk}
			if d.Since <= f.origin {
				a.flags |= flagInherited
			} else if bk.cut != 0 || bk.death <= w.cut(d.Since) {
				a.flags |= flagCounts
			}
			c.account(a)
		})
		if c.failed != nil {
			return c.failed
		}
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

func (w *forkWalk) checkExcess(ino uint64, s *state) {
	at := [2]uint64{s.prefix, ino}
	if s.head.Excess() != w.excess[at] {
		w.c.problem(9, "inode %d of fork %d: that it has records beyond its end is %v, and recorded is %v", ino, w.f.id, s.head.Excess(), w.excess[at])
	}
	delete(w.excess, at)
}

// cursor goes through a fork's records of a kind in the order of their keys, which
// is that of what comes after the place.
type cursor struct {
	parts []*part
	at    *part // of the record that peek showed
}

// peek returns the record that next goes beyond, nil at the end.
func (u *cursor) peek() (*store.Record, error) {
	var first *store.Record
	for _, p := range u.parts {
		r, err := p.peek()
		if err != nil {
			return nil, err
		}
		if r != nil && (first == nil || bytes.Compare(r.Key[9:], first.Key[9:]) < 0) {
			first, u.at = r, p
		}
	}
	return first, nil
}

func (u *cursor) next() { u.at.recs = u.at.recs[1:] }

// problem notes a problem that the cursor met.
func (u *cursor) problem(format string, args ...any) { u.parts[0].c.problem(0, format, args...) }

// part goes through records of a prefix in order.
type part struct {
	c    *checker
	from []byte
	to   []byte
	recs []store.Record
	end  bool
}

func (c *checker) part(prefix []byte) *part {
	return &part{c: c, from: prefix, to: after(prefix)}
}

// peek returns the first record that is left, nil at the end.
func (u *part) peek() (*store.Record, error) {
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
			u.from = next(u.recs[len(u.recs)-1].Key)
		}
	}
	if len(u.recs) == 0 {
		return nil, nil
	}
	return &u.recs[0], nil
}

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
		u.problem("record %x has a bad key", r.Key)
		u.next()
	}
}

// inodes verifies all states of each inode.
func (w *forkWalk) inodes() error {
	rows, err := w.deaths.Sort()
	if err != nil {
		return err
	}
	if w.dying, err = newDeaths(rows); err != nil {
		return err
	}
	w.heads, w.saved = w.cursor(keyHead), w.cursor(keySaved)
	for {
		ino := w.dying.head.ino
		for _, u := range [...]*cursor{w.heads, w.saved} {
			n, err := u.ino()
			if err != nil {
				return err
			}
			ino = min(ino, n)
		}
		if ino == math.MaxUint64 {
			break
		}
		if err := w.inode(ino); err != nil {
			return err
		}
		if err := w.c.enough(); err != nil {
			return err
		}
	}
	for at := range w.excess {
		w.c.problem(9, "inode %d of fork %d is recorded to have records beyond its end, and has no head", at[1], w.f.id)
	}
	return nil
}

// nextState returns the next state of an inode, the newest first, nil after the
// last.
func (w *forkWalk) nextState(ino uint64) (*state, error) {
	if w.f.moving == 0 {
		s, err := w.readState(ino)
		if s == nil || err != nil || !s.saved {
			return s, err
		}
		return s, w.savedAt(ino, s.counter, s)
	}
	// Of two places: each has a newest one.
	first := w.states == nil
	for first {
		s, err := w.readState(ino)
		if err != nil {
			return nil, err
		}
		if s == nil {
			break
		}
		w.states = append(w.states, s)
	}
	if first {
		slices.SortStableFunc(w.states, func(a, b *state) int { return cmp.Compare(b.counter, a.counter) })
	}
	if len(w.states) == 0 {
		w.states = nil
		return nil, nil
	}
	s := w.states[0]
	if w.states = w.states[1:]; first {
		return s, nil
	}
	s.saved = true // it will be
	return s, w.savedAt(ino, s.counter, s)
}

// readState returns the next state of an inode as they lie, nil after the last.
func (w *forkWalk) readState(ino uint64) (*state, error) {
	for _, u := range [...]*cursor{w.heads, w.saved} {
		for {
			at, err := u.ino()
			if err != nil {
				return nil, err
			}
			if at != ino {
				break
			}
			r, err := u.peek()
			if err != nil {
				return nil, err
			}
			u.next()
			w.c.step()
			if s := w.decode(ino, r, u == w.saved); s != nil {
				return s, nil
			}
		}
	}
	return nil, nil
}

// decode makes a state of its record, nil if that makes no sense.
func (w *forkWalk) decode(ino uint64, r *store.Record, saved bool) *state {
	c := w.c
	if want := map[bool]int{false: 17, true: 25}[saved]; len(r.Key) != want {
		c.problem(0, "record %x has a bad key", r.Key)
		return nil
	}
	s := &state{saved: saved, prefix: binary.BigEndian.Uint64(r.Key[1:])}
	if saved {
		c.report.Saved++
	} else {
		c.report.Heads++
	}
	var err error
	if s.head, err = dcdb.DecodeHead(r.Value); err != nil {
		c.problem(0, "head %x: %v", r.Key, err)
		return nil
	}
	s.counter = s.head.Changed
	if !saved {
		w.checkExcess(ino, s)
	}
	if saved && ^binary.BigEndian.Uint64(r.Key[17:]) != s.counter {
		c.problem(0, "%s is saved as one of %d", w.who(ino, s), ^binary.BigEndian.Uint64(r.Key[17:]))
	}
	return s
}

// savedAt finds the entry of a saved head on the dead list. What comes before it
// there is not saved.
func (w *forkWalk) savedAt(ino, counter uint64, s *state) error {
	for d := w.dying.head; d.ino == ino && d.since >= counter; d = w.dying.head {
		switch {
		case d.since > counter:
			w.notSaved(&d)
		case s.listed:
			w.c.problem(1, "inode %d of fork %d at %d is on the dead list twice", ino, w.f.id, counter)
		default:
			s.listed, s.death = true, d.death
		}
		if err := w.dying.next(); err != nil {
			return err
		}
	}
	return nil
}

func (w *forkWalk) notSaved(d *death) {
	w.c.problem(1, "inode %d of fork %d at %d is on the dead list and not saved", d.ino, w.f.id, d.since)
}

func (w *forkWalk) who(ino uint64, s *state) string {
	return fmt.Sprintf("inode %d of fork %d at %d", ino, w.f.id, s.counter)
}

// inode verifies the states of an inode, the newest first.
func (w *forkWalk) inode(ino uint64) error {
	inherited, err := w.dying.inherited(ino)
	if err != nil {
		return err
	}
	if len(inherited) > 1 {
		w.c.problem(1, "inode %d of fork %d is on the dead list as inherited twice", ino, w.f.id)
	}
	s, err := w.nextState(ino)
	if err != nil {
		return err
	}
	limit := uint64(math.MaxUint64) // the counter of the state before
	if s != nil {
		w.place(s, limit)
		s.newest = true
		if err := w.inheritance(ino, inherited); err != nil {
			return err
		}
	} else if len(inherited) > 0 {
		w.c.problem(1, "inode %d of fork %d is on the dead list as inherited, and has no state of its own", ino, w.f.id)
	}
	for s != nil {
		older, err := w.nextState(ino)
		if err != nil {
			return err
		}
		if older != nil {
			w.place(older, s.counter)
		}
		if s.counter >= limit {
			w.c.problem(0, "%s is not older than the one after it, of %d", w.who(ino, s), limit)
		}
		if err := w.state(ino, s, limit, older); err != nil {
			return err
		}
		limit, s = s.counter, older
	}
	for d := w.dying.head; d.ino == ino; d = w.dying.head {
		w.notSaved(&d)
		if err := w.dying.next(); err != nil {
			return err
		}
	}
	return nil
}

// place finds up to which cut a state is the newest; the one after it is of
// counter limit.
func (w *forkWalk) place(s *state, limit uint64) {
	for _, p := range w.cuts {
		if s.counter <= p && p < limit {
			s.upTo = p
		}
	}
}

// whole reports whether all that a state refers to must be there. If not, it
// waits to be erased.
func (w *forkWalk) whole(s *state, limit uint64) bool {
	return s.newest || s.upTo != 0 || w.keeps(s.counter, limit)
}

// state verifies one state of an inode; the one after it is of counter limit. The
// one before it is older, nil if there is none.
func (w *forkWalk) state(ino uint64, s *state, limit uint64, older *state) error {
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
	if s.head.Deleted && (s.saved || own && s.newest && older == nil) {
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
		c.mend(fix{kind: fixIndex, key: [3]uint64{s.prefix, s.counter, ino}}, 6, "%s has no index record", who)
	}
	if !w.whole(s, limit) {
		return nil
	}
	// What was in use at the counter of the older state is in that one, too.
	known := uint64(0)
	if older != nil && !older.head.Deleted && older.counter < s.counter && w.whole(older, s.counter) {
		known = older.counter
	}
	w.aliveBytes(s, s.counter, headBytes(s.head))
	report := func(p string) { c.note(fmt.Sprintf("%s: %s", who, p)) }
	err = dcdb.CheckHead(c.ctx, c.st, s.head, report, func(r dcdb.Ref) { w.reference(s, r, known) })
	if err == nil {
		err = c.failed
	}
	return err
}

// savedHead verifies that a saved head is on the dead list, or has not died since
// its fork ended before.
func (w *forkWalk) savedHead(ino uint64, s *state, limit uint64) {
	lasts := s.upTo != 0 || !w.f.live && s.newest
	if !s.listed && !lasts {
		w.c.problem(1, "%s is saved and not on the dead list", w.who(ino, s))
	}
	if s.listed && s.death > limit {
		w.c.problem(1, "%s: dead at %d by the list, but the next state is of %d", w.who(ino, s), s.death, limit)
	}
}

// reference notes a reference that a state shows. One that counts for nothing
// and was in use at the counter known is told of by an older state.
func (w *forkWalk) reference(s *state, r dcdb.Ref, known uint64) {
	a := account{id: r.ID, fork: w.f.id, since: r.Since, what: objectShown, counter: s.counter, flags: byte(r.Kind)}
	switch p := w.cut(r.Since); {
	case r.Since <= w.f.origin:
		a.flags |= flagInherited
	case p == math.MaxUint64 && s.newest, p != math.MaxUint64 && w.newestUpTo(s, p):
		a.flags |= flagCounts
	}
	w.aliveBytes(s, r.Since, int(r.ID.Len))
	if a.flags&flagCounts != 0 || r.Since > known {
		w.c.account(a)
	}
}

// newestUpTo reports whether s is its inode's newest state up to a cut.
func (w *forkWalk) newestUpTo(s *state, cut uint64) bool { return s.counter <= cut && cut <= s.upTo }

// inheritance verifies that the head which an inode's first own state took the
// place of is on the dead list.
func (w *forkWalk) inheritance(ino uint64, since []uint64) error {
	f, ok := w.f, len(since) > 0
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
	case ok && (h == nil || h.deleted || h.changed != since[0]):
		w.c.problem(1, "inode %d of fork %d is on the dead list as inherited since %d, but that is not what it inherited", ino, f.id, since[0])
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
		if errors.Is(err, store.ErrCorrupt) || errors.Is(err, dcdb.ErrVersion) {
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
	return w.scan(keyIndex, func(k, val []byte) error {
		n, err := keyNums(k, 3)
		if err != nil {
			return err
		}
		counter, ino := n[1], n[2]
		if rec, err := w.getAt(keyHead, n[0], ino); err != nil {
			return err
		} else if rec != nil {
			if changed, _, err := dcdb.HeadInfo(rec); err == nil && changed == counter {
				return nil
			}
		}
		if rec, err := w.getAt(keySaved, n[0], ino, ^counter); err != nil || rec != nil {
			return err
		}
		w.c.mend(fix{kind: fixNoIndex, key: [3]uint64{n[0], counter, ino}, whole: true}, 6, "inode %d of fork %d at %d: an index record without its head", ino, w.f.id, counter)
		return nil
	})
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
