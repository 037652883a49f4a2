package snap

import (
	"context"
	"fmt"
	"slices"
	"time"

	"dcfs/dcdb"
)

// Snapshots returns the snapshots of the fork that a live view is of, by time.
// It is nil for a snapshot.
func (v *Volume) Snapshots(w *View) (out []*View) {
	if w.snap != nil {
		return nil
	}
	v.space.Locked(func() {
		for _, sn := range w.fork.snaps {
			if sn.name != "" && sn.ready {
				out = append(out, sn.view)
			}
		}
	})
	slices.SortStableFunc(out, func(a, b *View) int { return a.snap.created.Compare(b.snap.created) })
	return out
}

// Snapshot returns the snapshot of a name, ErrNotExist if w's fork has none. A
// snapshot view has no snapshots.
func (v *Volume) Snapshot(w *View, name string) (out *View, err error) {
	err = ErrNotExist
	v.space.Locked(func() {
		if w.snap != nil {
			return
		}
		if sn := w.fork.names[name]; sn != nil && sn.ready {
			out, err = sn.view, nil
		}
	})
	return out, err
}

// CreateSnapshot names the state of w's fork as it is now, with all that had
// returned before the call. It returns when the snapshot is durable.
func (v *Volume) CreateSnapshot(ctx context.Context, w *View, name string) (*View, error) {
	return v.CreateSnapshotFor(ctx, w, name, 0)
}

// CreateSnapshotFor is CreateSnapshot of one that expires ttl from now; 0 is never.
func (v *Volume) CreateSnapshotFor(ctx context.Context, w *View, name string, ttl time.Duration) (*View, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	var sn *snapshot
	err := v.space.Meta(ctx, true, func(m *dcdb.Meta) error {
		sn = nil
		if err := v.changeable(w); err != nil {
			return err
		}
		if w.fork.names[name] != nil {
			return ErrExist
		}
		expires, err := v.expiry(ttl)
		if err != nil {
			return err
		}
		sn, err = v.snapshotLocked(m, w.fork, name, expires)
		return err
	})
	if sn == nil {
		return nil, fmt.Errorf("snapshot %q: %w", name, err)
	}
	show := func() { sn.ready = true; v.shown(sn.view) }
	if err != nil {
		go v.settle(show)
		return nil, fmt.Errorf("snapshot %q: %w", name, err)
	}
	v.space.Exclusive(show)
	return sn.view, nil
}

// settle shows a snapshot or fork that was not durable when its maker gave up
// waiting, as soon as it is.
func (v *Volume) settle(show func()) {
	for {
		err := v.space.SyncAll(context.Background())
		if err == nil {
			v.space.Exclusive(show)
			return
		}
		if ignorable(err) {
			return
		}
		time.Sleep(time.Second)
	}
}

// changeable returns why nothing can be made in w, if so.
func (v *Volume) changeable(w *View) error {
	if err := w.Err(); err != nil {
		return err
	}
	if w.snap != nil {
		return ErrReadOnly
	}
	return nil
}

// snapshotLocked ends the open group and makes the present counter of f a kept
// one, with a name or as an origin only.
func (v *Volume) snapshotLocked(m *dcdb.Meta, f *fork, name string, expires time.Time) (*snapshot, error) {
	sn := &snapshot{fork: f, counter: f.counter, name: name, created: v.now().UTC()}
	if name != "" {
		var err error
		if sn.number, err = v.takeView(m); err != nil {
			return nil, err
		}
	}
	sn.view = &View{v: v, fork: f, snap: sn, number: sn.number}
	sn.view.gone.Store(name == "")
	m.Put(key(keySnap, f.id, sn.counter), sn.encode())
	v.setExpiry(m, sn.view, expires)
	f.counter++
	m.Put(key(keyFork, f.id), f.encode())
	m.CloseGroup()
	f.counter--
	f.keep(sn)
	return sn, nil
}

// RenameSnapshot gives a snapshot another name. ErrExist if it is taken.
func (v *Volume) RenameSnapshot(ctx context.Context, w *View, from, to string) error {
	if err := CheckName(to); err != nil {
		return err
	}
	err := v.space.Meta(ctx, true, func(m *dcdb.Meta) error {
		sn, err := v.namedLocked(w, from)
		if err != nil || from == to {
			return err
		}
		if w.fork.names[to] != nil {
			return ErrExist
		}
		delete(w.fork.names, from)
		sn.name = to
		w.fork.names[to] = sn
		w.fork.touch(DoorSnapshots, v.now())
		m.Put(key(keySnap, w.fork.id, sn.counter), sn.encode())
		return nil
	})
	if err != nil {
		return fmt.Errorf("rename snapshot %q: %w", from, err)
	}
	return nil
}

func (v *Volume) namedLocked(w *View, name string) (*snapshot, error) {
	if err := v.changeable(w); err != nil {
		return nil, err
	}
	if sn := w.fork.names[name]; sn != nil && sn.ready {
		return sn, nil
	}
	return nil, ErrNotExist
}

// DeleteSnapshot takes a snapshot away, unless it is held: HeldError. It is gone for everyone at once, and
// durably on return; its space comes back in the background.
func (v *Volume) DeleteSnapshot(ctx context.Context, w *View, name string) error {
	err := v.space.Meta(ctx, true, func(m *dcdb.Meta) error {
		sn, err := v.namedLocked(w, name)
		if err != nil {
			return err
		}
		if err := v.held(sn); err != nil {
			return err
		}
		v.dropName(m, sn)
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete snapshot %q: %w", name, err)
	}
	return nil
}

// dropName takes a snapshot's name. What is no origin either is kept no more.
func (v *Volume) dropName(m *dcdb.Meta, sn *snapshot) {
	f := sn.fork
	v.setExpiry(m, sn.view, time.Time{})
	v.giveView(m, sn.number)
	delete(f.names, sn.name)
	f.touch(DoorSnapshots, v.now())
	sn.name, sn.number = "", 0
	sn.view.gone.Store(true)
	if sn.pins > 0 {
		m.Put(key(keySnap, f.id, sn.counter), sn.encode())
		return
	}
	v.unkeep(m, sn)
}

// unkeep takes a counter that has neither name nor forks out of the kept ones,
// and records what is to be reclaimed: rule 4 of DESIGN section 4, or 5 where
// there is no later state.
func (v *Volume) unkeep(m *dcdb.Meta, sn *snapshot) {
	f := sn.fork
	i, _ := f.find(sn.counter)
	p := f.origin
	if i > 0 {
		p = f.snaps[i-1].counter
	}
	last := i == len(f.snaps)-1
	x := f.counter
	if !last {
		x = f.snaps[i+1].counter
	}
	f.snaps = slices.Delete(f.snaps, i, i+1)
	m.Delete(key(keySnap, f.id, sn.counter))
	if !last || f.live {
		v.addTask(m, &task{f: f, kind: taskSnapshot, p: p, n: sn.counter, x: x})
	} else {
		v.addTask(m, &task{f: f, kind: taskCut, p: p})
	}
	f.changed()
}
