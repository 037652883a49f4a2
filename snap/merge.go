package snap

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// mergeHeads is how many heads and records of dead lists a fork may have to be
// merged: they move in one batch.
const mergeHeads = 2000

// merging is the joining of a fork without live state, of which one fork is
// left that descends from its newest kept counter, with that fork: rule 6 of
// DESIGN section 4. What p kept, its dead lists and heads become g's.
type merging struct {
	p, g  *fork
	heads []store.Record // of p: live ones, then saved ones, those of an inode newest first
	dead  []store.Record
	sums  []store.Record
}

// mergeStep merges one fork, if there is one to merge, and reports whether it
// did. Neither of the two has anything left to reclaim.
func (v *Volume) mergeStep(ctx context.Context) (bool, error) {
	var all []*merging
	v.space.Locked(func() {
		for _, g := range v.forks {
			if m := mergeable(g); m != nil && !v.tooLarge[m.p.id] {
				all = append(all, m)
			}
		}
	})
	for _, m := range all {
		fits, err := m.read(ctx, v.st)
		if err != nil {
			return false, err
		}
		if !fits {
			v.space.Exclusive(func() { v.tooLarge[m.p.id] = true })
			continue
		}
		return true, v.merge(ctx, m)
	}
	return false, nil
}

// mergeable returns the merging of g with its parent, nil if they stay apart.
// Space.mu is held.
func mergeable(g *fork) *merging {
	p := g.parent
	if p == nil || p.live || p.tasks > 0 || g.tasks > 0 || !g.ready || len(p.snaps) == 0 {
		return nil
	}
	if sn := p.snaps[len(p.snaps)-1]; sn.counter != g.origin || sn.pins != 1 || sn.name != "" {
		return nil
	}
	return &merging{p: p, g: g}
}

// read gathers the records that are to move, and reports whether they are few.
// Nothing changes them any more.
func (m *merging) read(ctx context.Context, st store.Store) (bool, error) {
	for _, part := range []struct {
		kind byte
		into *[]store.Record
	}{{keyHead, &m.heads}, {keySaved, &m.heads}, {keyDead, &m.dead}, {keySum, &m.sums}} {
		prefix := key(part.kind, m.p.id)
		recs, err := st.Scan(ctx, prefix, after(prefix), mergeHeads+1)
		if err != nil {
			return false, err
		}
		*part.into = append(*part.into, recs...)
	}
	size := 0
	for _, r := range slices.Concat(m.heads, m.dead, m.sums) {
		size += len(r.Key) + len(r.Value)
	}
	return len(m.heads)+len(m.dead)+len(m.sums) <= mergeHeads && size <= st.Limits().BatchBytes/4, nil
}

// merge joins the two, in memory and, in the same group, in the store. Until
// that is committed look-ups find p's heads where they were.
func (v *Volume) merge(ctx context.Context, m *merging) error {
	n := len(m.heads) + len(m.dead) + len(m.sums)
	started := false
	w := func(ctx context.Context, b *dcdb.Builder) error { return m.move(ctx, v, b) }
	err := v.space.WorkFirst(ctx, m.g.id, 8*n+len(m.p.snaps)*4, stepBytes+4*v.st.Limits().BatchBytes/16, w, func(meta *dcdb.Meta) bool {
		again := mergeable(m.g)
		if started = again != nil && again.p == m.p; started {
			v.join(meta, m)
		}
		return started
	})
	if err != nil || !started {
		return err
	}
	v.space.Exclusive(func() { m.g.absorbed = nil })
	return nil
}

// join makes p's line g's in memory, and in the records of forks and snapshots.
// Space.mu is held.
func (v *Volume) join(meta *dcdb.Meta, m *merging) {
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
	g.absorbed = p
	g.parent, g.origin, g.first = p.parent, p.origin, p.first
	delete(v.forks, p.id)
	meta.Delete(key(keyFork, p.id))
	meta.Put(key(keyFork, g.id), g.encode())
	g.changed()
	v.unkeep(meta, last)
}

// move gives p's records to g. It runs before the group's changes.
func (m *merging) move(ctx context.Context, v *Volume, b *dcdb.Builder) error {
	p, g := m.p.id, m.g.id
	newest := map[uint64]bool{} // whether g has a newer state of an inode than those to come
	for _, r := range m.heads {
		if err := m.moveHead(ctx, v, b, r, newest); err != nil {
			return err
		}
	}
	for _, r := range m.dead {
		b.Delete(r.Key)
		b.Put(append(key(keyDead, g), r.Key[9:]...), r.Value)
	}
	for _, r := range m.sums {
		s, err := decodeSum(r.Value)
		if err != nil {
			return fmt.Errorf("sum %x: %w", r.Key, err)
		}
		nums, err := keyNums(r.Key, 3)
		if err != nil {
			return err
		}
		v.lists.of(b).count(span{p, nums[1], nums[2]}, -int64(s.count), -int64(s.bytes))
		v.lists.of(b).count(span{g, nums[1], nums[2]}, int64(s.count), int64(s.bytes))
	}
	return nil
}

// moveHead moves a head. The newest state of an inode becomes g's live one,
// unless g has changed the inode since: then it is a saved one, and g's dead list
// has it already, as what it had inherited.
func (m *merging) moveHead(ctx context.Context, v *Volume, b *dcdb.Builder, r store.Record, newest map[uint64]bool) error {
	p, g := m.p.id, m.g.id
	ino := binary.BigEndian.Uint64(r.Key[9:])
	changed, _, err := dcdb.HeadInfo(r.Value)
	if err != nil {
		return fmt.Errorf("head %x: %w", r.Key, err)
	}
	if _, ok := newest[ino]; !ok {
		own, err := v.hasOwn(ctx, b, g, ino)
		if err != nil {
			return err
		}
		newest[ino] = own
	}
	b.Delete(r.Key)
	b.Delete(key(keyIndex, p, changed, ino))
	b.Put(key(keyIndex, g, changed, ino), []byte{})
	if newest[ino] {
		b.Put(key(keySaved, g, ino, ^changed), r.Value)
		return nil
	}
	b.Put(key(keyHead, g, ino), r.Value)
	newest[ino] = true
	return nil
}

// hasOwn reports whether a fork has a state of an inode that it did not inherit.
func (v *Volume) hasOwn(ctx context.Context, b *dcdb.Builder, fork, ino uint64) (bool, error) {
	rec, err := b.Get(ctx, key(keyHead, fork, ino))
	if err != nil || rec != nil {
		return rec != nil, err
	}
	return v.savedIn(ctx, b, fork, ino)
}
