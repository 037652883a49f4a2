package snap

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"dcfs/dcdb"
)

// Forks returns the forks that a live view's listing has, by name. It is nil for
// a snapshot.
func (v *Volume) Forks(w *View) (out []*View) {
	if w.snap != nil {
		return nil
	}
	type named struct {
		name string
		view *View
	}
	var all []named
	v.space.Locked(func() {
		for _, f := range v.places[w.fork.id] {
			if f.ready {
				all = append(all, named{f.name, f.view})
			}
		}
	})
	slices.SortFunc(all, func(a, b named) int { return strings.Compare(a.name, b.name) })
	for _, n := range all {
		out = append(out, n.view)
	}
	return out
}

// Fork returns the fork that w's listing has under a name; w may be a snapshot,
// which shows those of its fork. ErrNotExist if there is none.
func (v *Volume) Fork(w *View, name string) (out *View, err error) {
	err = ErrNotExist
	v.space.Locked(func() {
		if f := v.listed(w.fork, name); f != nil && f.ready {
			out, err = f.view, nil
		}
	})
	return out, err
}

// listed returns the live fork that in's listing has under a name, nil if none.
func (v *Volume) listed(in *fork, name string) *fork { return v.places[in.id][name] }

// CreateFork makes a writable clone of what a view shows, at once, whatever its
// size. It is listed in the view's fork. It returns when the fork is durable.
func (v *Volume) CreateFork(ctx context.Context, from *View, name string) (*View, error) {
	return v.CreateForkFor(ctx, from, name, 0)
}

// CreateForkFor is CreateFork of one that expires ttl from now; 0 is never.
func (v *Volume) CreateForkFor(ctx context.Context, from *View, name string, ttl time.Duration) (*View, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	var g *fork
	err := v.space.Meta(ctx, true, func(m *dcdb.Meta) error {
		g = nil
		if err := from.Err(); err != nil {
			return err
		}
		p, sn := from.fork, from.snap
		if v.listed(p, name) != nil {
			return ErrExist
		}
		expires, err := v.expiry(ttl)
		if err != nil {
			return err
		}
		number, err := v.takeView(m)
		if err != nil {
			return err
		}
		if sn != nil {
			g = v.forkLocked(m, p, sn.counter, name, number, expires)
			sn.pins++
			return nil
		}
		g = v.forkLocked(m, p, p.counter, name, number, expires)
		if sn, err = v.snapshotLocked(m, p, "", time.Time{}); err != nil {
			panic("snap: unnamed snapshot: " + err.Error()) // it needs nothing
		}
		sn.pins++
		return nil
	})
	if g == nil {
		return nil, fmt.Errorf("fork %q: %w", name, err)
	}
	show := func() { g.ready = true; g.left.Store(int64(g.reserved - g.next)); v.shown(g.view) }
	if err != nil {
		go v.settle(show)
		return nil, fmt.Errorf("fork %q: %w", name, err)
	}
	v.space.Exclusive(show)
	return g.view, nil
}

// forkLocked records a fork of (p, origin).
func (v *Volume) forkLocked(m *dcdb.Meta, p *fork, origin uint64, name string, number uint32, expires time.Time) *fork {
	g := &fork{
		id: v.nextFork, prefix: v.nextFork, parent: p, origin: origin, counter: origin + 1,
		first: p.next, next: p.next, reserved: p.next + inodeBlock,
		live: true, name: name, place: p.id, number: number, created: v.now().UTC(),
		doors: p.doors, names: map[string]*snapshot{},
	}
	v.nextFork++
	v.putVolume(m)
	g.view = &View{v: v, fork: g, number: number}
	g.changed()
	v.forks[g.id] = g
	v.places.put(g)
	p.touch(DoorForks, g.created)
	m.Put(key(keyFork, g.id), g.encode())
	v.setExpiry(m, g.view, expires)
	return g
}

// RenameFork gives a fork another name, or has another fork list it. ErrInvalid
// if that one is listed below it.
func (v *Volume) RenameFork(ctx context.Context, from *View, fromName string, to *View, toName string) error {
	if err := CheckName(toName); err != nil {
		return err
	}
	err := v.space.Meta(ctx, true, func(m *dcdb.Meta) error {
		for _, w := range [...]*View{from, to} {
			if err := v.changeable(w); err != nil {
				return err
			}
		}
		f := v.listed(from.fork, fromName)
		if f == nil || !f.ready {
			return ErrNotExist
		}
		switch other := v.listed(to.fork, toName); {
		case other == f:
			return nil
		case other != nil:
			return ErrExist
		}
		for up := to.fork; up != nil; up = v.forks[up.place] {
			if up == f {
				return ErrInvalid
			}
		}
		v.places.drop(f)
		f.name, f.place = toName, to.fork.id
		v.places.put(f)
		from.fork.touch(DoorForks, v.now())
		to.fork.touch(DoorForks, v.now())
		m.Put(key(keyFork, f.id), f.encode())
		return nil
	})
	if err != nil {
		return fmt.Errorf("rename fork %q: %w", fromName, err)
	}
	return nil
}

// DeleteFork takes a fork away, with its snapshots. ErrNotEmpty while it lists
// forks of its own, HeldError while one of the snapshots is held; forks that
// descend from it but are listed elsewhere never notice. It is gone for everyone at once, and durably on return; its space
// comes back in the background.
func (v *Volume) DeleteFork(ctx context.Context, w *View, name string) error {
	return v.deleteFork(ctx, w, name, false)
}

// DeleteForks is DeleteFork with all forks that are listed below it, at once.
func (v *Volume) DeleteForks(ctx context.Context, w *View, name string) error {
	return v.deleteFork(ctx, w, name, true)
}

// below returns the forks that are listed below f, the lowest first, and f.
func (v *Volume) below(f *fork) (out []*fork) {
	for _, g := range v.places[f.id] {
		out = append(out, v.below(g)...)
	}
	return append(out, f)
}

// What deleting a snapshot or a fork changes at most: its record, a view number, a
// task, its expiry and policy.
const (
	dropRecords = 5
	dropBytes   = 400
)

func (v *Volume) deleteFork(ctx context.Context, w *View, name string, recursive bool) error {
	n := 0
	v.space.Locked(func() {
		if f := v.listed(w.fork, name); f != nil {
			n = len(v.below(f))
		}
	})
	err := v.space.LargeMeta(ctx, true, dropRecords*n, dropBytes*n, func(m *dcdb.Meta) error {
		if err := v.changeable(w); err != nil {
			return err
		}
		f := v.listed(w.fork, name)
		if f == nil || !f.ready {
			return ErrNotExist
		}
		all := v.below(f)
		if len(all) > 1 && !recursive {
			return ErrNotEmpty
		}
		if err := v.holding(all); err != nil {
			return err
		}
		for _, g := range all {
			v.dropFork(m, g)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete fork %q: %w", name, err)
	}
	return nil
}

// dropFork takes a fork's live state and names. What other forks begin at is
// kept, the rest is to be reclaimed.
func (v *Volume) dropFork(m *dcdb.Meta, f *fork) {
	v.places.drop(f)
	if in := v.forks[f.place]; in != nil {
		in.touch(DoorForks, v.now())
	}
	v.setExpiry(m, f.view, time.Time{})
	v.setPolicy(m, f, Policy{})
	v.wakeClock() // the fork that listed it may have waited
	v.giveView(m, f.number)
	f.live, f.name, f.place, f.number = false, "", 0, 0
	f.view.gone.Store(true)
	newest := f.origin
	for _, sn := range f.snaps {
		sn.view.gone.Store(true)
		delete(v.expiring, sn.view)
		if sn.pins > 0 {
			newest = sn.counter
		}
	}
	v.addTask(m, &task{f: f, kind: taskDrop, p: newest})
	f.changed()
	m.Put(key(keyFork, f.id), f.encode())
}

// dropStep takes some of a deleted fork's snapshots away, those above p first. In
// the end what is newer than the newest origin of a fork is cut off as a whole.
// None is held: then the fork could not have been deleted.
func (v *Volume) dropStep(ctx context.Context, t *task) error {
	return v.space.LargeMeta(ctx, true, dropRecords*v.atOnce, dropBytes*v.atOnce, func(m *dcdb.Meta) error {
		f := t.f
		left := v.atOnce
		for n := len(f.snaps); left > 0 && n > 0 && f.snaps[n-1].counter > t.p; n, left = n-1, left-1 {
			sn := f.snaps[n-1]
			v.setExpiry(m, sn.view, time.Time{})
			v.giveView(m, sn.number)
			delete(f.names, sn.name)
			m.Delete(key(keySnap, f.id, sn.counter))
			f.snaps = f.snaps[: n-1 : n-1]
		}
		f.changed()
		for _, sn := range slices.Clone(f.snaps) {
			if left == 0 {
				return nil
			}
			if sn.name != "" {
				v.dropName(m, sn)
				left--
			}
		}
		newest := f.origin // which need not be p any more: its forks may have gone
		if n := len(f.snaps); n > 0 {
			newest = f.snaps[n-1].counter
		}
		v.addTask(m, &task{f: f, kind: taskCut, p: newest})
		v.finish(m, t)
		return nil
	})
}

// SetDoor sets owner and mode of one of the fork's doors. It returns when that
// is durable.
func (w *View) SetDoor(ctx context.Context, d Door, a DoorAttr) error {
	return w.v.space.Meta(ctx, true, func(m *dcdb.Meta) error {
		if err := w.v.changeable(w); err != nil {
			return err
		}
		w.fork.doors[d] = a
		m.Put(key(keyFork, w.fork.id), w.fork.encode())
		return nil
	})
}
