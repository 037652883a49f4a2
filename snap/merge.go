package snap

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// mergeForks is from how many forks and kept counters on a fork is not merged:
// the records of all of them change in one batch.
const mergeForks = 10_000

// merging is the joining of a fork without live state, of which one fork is
// left that descends from its newest kept counter, with that fork: rule 6 of
// DESIGN section 4. What p kept, its dead lists and heads become g's at once.
// g's records are then those with p's prefix and those with its own, until the
// fewer of them have moved to the others.
type merging struct{ p, g *fork }

// mergeStep merges one fork, if there is one to merge, and reports whether it
// did. Neither of the two has anything left to reclaim.
func (v *Volume) mergeStep(ctx context.Context) (bool, error) {
	var m *merging
	v.space.Locked(func() {
		for _, g := range v.forks {
			if m = v.mergeable(g); m != nil {
				break
			}
		}
	})
	if m == nil {
		return false, nil
	}
	return true, v.inMerge(m.g, v.merge(ctx, m))
}

// mergeable returns the merging of g with its parent, nil if they stay apart.
// Space.mu is held.
func (v *Volume) mergeable(g *fork) *merging {
	p := g.parent
	if p == nil || p.live || p.tasks > 0 || g.tasks > 0 || p.moving != 0 || g.moving != 0 || !g.ready || len(p.snaps) == 0 {
		return nil
	}
	if sn := p.snaps[len(p.snaps)-1]; sn.counter != g.origin || sn.pins != 1 || sn.name != "" {
		return nil
	}
	if v.stuck[p.id].err != nil || v.stuck[g.id].err != nil {
		return nil
	}
	if len(p.snaps) > mergeForks || v.children(p) > mergeForks {
		return nil
	}
	return &merging{p: p, g: g}
}

// children returns how many forks descend from f directly.
func (v *Volume) children(f *fork) (n int) {
	for _, sn := range f.snaps {
		n += sn.pins
	}
	return n
}

// merge joins the two. What moves then is for moveStep.
func (v *Volume) merge(ctx context.Context, m *merging) error {
	fewer, err := v.fewer(ctx, m.p.prefix, m.g.prefix)
	if err != nil {
		return err
	}
	n := 0
	v.space.Locked(func() { n = 2*len(m.p.snaps) + v.children(m.p) })
	return v.space.LargeMeta(ctx, true, n+16, 200*n, func(meta *dcdb.Meta) error {
		if again := v.mergeable(m.g); again != nil && again.p == m.p {
			v.join(meta, m, fewer)
		}
		return nil
	})
}

// fewer returns which of two prefixes has the fewer heads and records of dead
// lists. It reads no more than twice as many as there are then.
func (v *Volume) fewer(ctx context.Context, a, b uint64) (uint64, error) {
	left := [2]*counting{v.counting(a), v.counting(b)}
	for {
		for i, prefix := range [...]uint64{a, b} {
			if done, err := left[i].step(ctx); err != nil || done {
				return prefix, err
			}
		}
	}
}

// counting is a walk along the records of a prefix.
type counting struct {
	v      *Volume
	ranges [][]byte // prefixes of keys
	from   []byte
}

func (v *Volume) counting(prefix uint64) *counting {
	return &counting{v: v, ranges: [][]byte{key(keyIndex, prefix), key(keyDead, prefix)}}
}

// step goes on, and reports whether it is through.
func (c *counting) step(ctx context.Context) (done bool, err error) {
	from := c.ranges[0]
	if c.from != nil {
		from = c.from
	}
	recs, err := c.v.st.Scan(ctx, from, after(c.ranges[0]), c.v.atOnce)
	if err != nil {
		return false, err
	}
	if len(recs) == c.v.atOnce {
		c.from = next(recs[len(recs)-1].Key)
		return false, nil
	}
	c.ranges, c.from = c.ranges[1:], nil
	return len(c.ranges) == 0, nil
}

// join makes p's line g's in memory, and in the records of forks and snapshots.
// Space.mu is held.
func (v *Volume) join(meta *dcdb.Meta, m *merging, fewer uint64) {
	p, g := m.p, m.g
	last := p.snaps[len(p.snaps)-1]
	for _, sn := range p.snaps {
		meta.Delete(key(keySnap, p.id, sn.counter))
		sn.fork = g
		sn.view = &View{v: v, fork: g, snap: sn}
		sn.view.gone.Store(true)
		meta.Put(key(keySnap, g.id, sn.counter), sn.encode())
	}
	for _, f := range v.forks {
		if f.parent == p && f != g {
			f.parent = g
			meta.Put(key(keyFork, f.id), f.encode())
		}
	}
	last.pins = 0
	v.merges.Add(1)
	g.snaps = append(slices.Clone(p.snaps), g.snaps...)
	g.prefix, g.moving = p.prefix, g.prefix
	if fewer == p.prefix {
		g.prefix, g.moving = g.moving, g.prefix
	}
	g.parent, g.origin, g.first = p.parent, p.origin, p.first
	delete(v.forks, p.id)
	meta.Delete(key(keyFork, p.id))
	meta.Put(key(keyFork, g.id), g.encode())
	g.changed()
	v.unkeep(meta, last)
}

// moveKinds are the records that move, in this order: a head before the saved
// ones.
var moveKinds = [...]byte{keyHead, keySaved, keyDead, keySum}

// movingFork returns a fork whose records are at two places, nil if there is
// none.
func (v *Volume) movingFork() (found *fork) {
	v.space.Locked(func() {
		for _, f := range v.forks {
			if v.moves(f) {
				found = f
				return
			}
		}
	})
	return found
}

// mover is how far the moving of a fork's records has got.
type mover struct {
	f    *fork
	kind int // of moveKinds
	from []byte
}

// moveStep moves some of a fork's records, and ends the moving when there are
// none left. Changes put nothing where records are moved away from.
func (v *Volume) moveStep(ctx context.Context, f *fork) error {
	m := &v.mover
	if m.f != f {
		*m = mover{f: f, from: key(moveKinds[0], f.moving)}
	}
	for m.kind < len(moveKinds) {
		recs, err := v.st.Scan(ctx, m.from, after(key(moveKinds[m.kind], f.moving)), v.atOnce)
		if err != nil {
			return err
		}
		if len(recs) > 0 {
			recs = upTo(recs, stepBytes)
			if err := v.moveRecords(ctx, f, recs); err != nil {
				return err
			}
			m.from = next(recs[len(recs)-1].Key)
			return nil
		}
		if m.kind++; m.kind < len(moveKinds) {
			m.from = key(moveKinds[m.kind], f.moving)
		}
	}
	*m = mover{}
	err := v.space.Meta(ctx, true, func(meta *dcdb.Meta) error {
		f.moving = 0
		f.changed()
		meta.Put(key(keyFork, f.id), f.encode())
		return nil
	})
	if err != nil {
		return err
	}
	files, err := v.excessOf(ctx, f)
	v.space.Trim(files)
	return err
}

// upTo returns the first of some records, as many as have a number of bytes, and
// at least one.
func upTo(recs []store.Record, bytes int) []store.Record {
	for i, r := range recs {
		if bytes -= len(r.Key) + len(r.Value); bytes < 0 {
			return recs[:max(i, 1)]
		}
	}
	return recs
}

func (v *Volume) moveRecords(ctx context.Context, f *fork, recs []store.Record) error {
	size := 0
	for _, r := range recs {
		size += 2*len(r.Value) + 200
	}
	src, dst := f.moving, f.prefix
	// A head that is in the way is one of an inode more than is moved.
	return v.space.Work(ctx, f.id, 6*len(recs), size+stepBytes, func(ctx context.Context, b *dcdb.Builder) error {
		for _, r := range recs {
			var err error
			switch r.Key[0] {
			case keyHead, keySaved:
				err = v.moveHead(ctx, b, src, dst, r.Key)
			case keyDead:
				b.Delete(r.Key)
				b.Put(append(key(keyDead, dst), r.Key[9:]...), r.Value)
			case keySum:
				err = v.moveSum(b, dst, r)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// moveSum adds a sum to what there is. Both places can have a sum of one span: of
// what has died at the present counter.
func (v *Volume) moveSum(b *dcdb.Builder, dst uint64, r store.Record) error {
	s, err := decodeSum(r.Value)
	if err != nil {
		return fmt.Errorf("sum %x: %w", r.Key, err)
	}
	n, err := keyNums(r.Key, 3)
	if err != nil {
		return err
	}
	l := v.lists.of(b)
	l.count(span{n[0], n[1], n[2]}, -int64(s.count), -int64(s.bytes))
	l.count(span{dst, n[1], n[2]}, int64(s.count), int64(s.bytes))
	return nil
}

// moveHead moves the head that a key is of, if there still is one, with its index
// record. The newest state of an inode is its live head, older ones are saved: a
// fork that has changed an inode has on its dead list what it had inherited.
func (v *Volume) moveHead(ctx context.Context, b *dcdb.Builder, src, dst uint64, k []byte) error {
	rec, err := b.Get(ctx, k)
	if err != nil || rec == nil {
		return err
	}
	ino := binary.BigEndian.Uint64(k[9:])
	changed, _, err := dcdb.HeadInfo(rec)
	if err != nil {
		return fmt.Errorf("head %x: %w", k, err)
	}
	b.Delete(k)
	b.Delete(key(keyIndex, src, changed, ino))
	b.Put(key(keyIndex, dst, changed, ino), []byte{})
	l := v.lists.of(b)
	if k[0] == keySaved {
		l.save(b, dst, ino, changed, rec)
		return nil
	}
	head := key(keyHead, dst, ino)
	there, err := b.Get(ctx, head)
	if err != nil {
		return err
	}
	if dcdb.HeadExcess(rec) {
		b.Delete(key(keyExcess, src, ino))
	}
	if there != nil {
		c, _, err := dcdb.HeadInfo(there)
		if err != nil {
			return fmt.Errorf("head %x: %w", head, err)
		}
		if c > changed {
			l.save(b, dst, ino, changed, rec)
			return nil
		}
		l.save(b, dst, ino, c, there)
	}
	b.Put(head, rec)
	putExcess(b, dst, ino, dcdb.HeadExcess(rec), dcdb.HeadExcess(there))
	return nil
}
