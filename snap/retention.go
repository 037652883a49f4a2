package snap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"dcfs/dcdb"
)

// A fork with a policy gets automatic snapshots: one in each of the policy's
// shortest periods in which the volume is served and the fork was changed since
// the last one. After each the policy thins them out. Their name tells: what has
// another name is never deleted by a policy, and what is held neither.

const (
	autoPrefix = "auto-"
	autoTime   = "2006-01-02T15:04:05Z" // UTC
)

// autoSlack: an automatic snapshot that seems to be of the future, by less than
// this, is as good as one of now. The clock was set back a little.
const autoSlack = time.Hour

// thinStep is how many snapshots are deleted at once.
const thinStep = 200

// ErrNoPolicy: what only a fork with a policy has.
var ErrNoPolicy = errors.New("the fork has no retention policy")

// IsAuto reports whether name is that of an automatic snapshot.
func IsAuto(name string) bool {
	stamp, ok := strings.CutPrefix(name, autoPrefix)
	t, err := time.Parse(autoTime, stamp)
	return ok && err == nil && t.Format(autoTime) == stamp
}

// autos returns a fork's automatic snapshots, the one that was taken last first,
// durable or not. Space.mu is held.
func (f *fork) autos() (out []*snapshot) {
	for _, sn := range slices.Backward(f.snaps) {
		if IsAuto(sn.name) {
			out = append(out, sn)
		}
	}
	return out
}

// thinned returns the automatic snapshots that the fork's policy does not keep,
// the oldest first, and how many stay. Space.mu is held.
func (f *fork) thinned() (gone []*snapshot, kept int) {
	all := f.autos()
	times := make([]time.Time, len(all))
	for i, sn := range all {
		times[i] = sn.created
	}
	keep := f.policy.Keep(times)
	for i, sn := range slices.Backward(all) {
		if !keep[i] && sn.ready && len(sn.tags) == 0 {
			gone = append(gone, sn)
		}
	}
	return gone, len(all) - len(gone)
}

// SetPolicy has a live view's fork keep automatic snapshots; the zero Policy ends
// that, and leaves those that there are. It returns when that is durable.
func (v *Volume) SetPolicy(ctx context.Context, w *View, p Policy) error {
	err := v.space.Meta(ctx, true, func(m *dcdb.Meta) error {
		if err := v.changeable(w); err != nil {
			return err
		}
		v.setPolicy(m, w.fork, p)
		return nil
	})
	if err != nil {
		return fmt.Errorf("retention: %w", err)
	}
	return nil
}

func (v *Volume) setPolicy(m *dcdb.Meta, f *fork, p Policy) {
	switch {
	case !p.None():
		m.Put(key(keyPolicy, f.id), p.encode())
		v.retaining[f] = true
	case f.policy.None():
		return
	default:
		m.Delete(key(keyPolicy, f.id))
		delete(v.retaining, f)
	}
	f.policy = p
	v.wakeClock()
}

func (v *Volume) loadPolicies(ctx context.Context) error {
	return scan(ctx, v.st, key(keyPolicy), func(k, val []byte) error {
		n, err := keyNums(k, 1)
		if err != nil {
			return err
		}
		f := v.forks[n[0]]
		if f == nil || !f.live {
			return fmt.Errorf("%w: retention of fork %d, which does not exist", dcdb.ErrCorrupt, n[0])
		}
		if f.policy, err = decodePolicy(val); err != nil {
			return fmt.Errorf("retention of fork %d: %w", n[0], err)
		}
		v.retaining[f] = true
		return nil
	})
}

// Retention is what a fork's policy has brought about.
type Retention struct {
	Policy Policy
	Autos  int       // automatic snapshots
	Last   time.Time // of them; zero: there is none
	Next   time.Time // when one is due, if it is served then and was changed; zero: never
}

// Retention returns a live view's retention.
func (v *Volume) Retention(w *View) (r Retention, err error) {
	now := v.now()
	v.space.Locked(func() {
		if err = v.changeable(w); err != nil {
			return
		}
		r.Policy = w.fork.policy
		all := w.fork.autos()
		if r.Autos = len(all); r.Autos > 0 {
			r.Last = all[0].created
		}
		if !r.Policy.None() {
			r.Next = r.Policy.slot(now).end()
		}
	})
	return r, err
}

// Thin deletes the automatic snapshots that the policy of a live view's fork does
// not keep, and returns their names, the oldest first.
func (v *Volume) Thin(ctx context.Context, w *View) (names []string, err error) {
	for more := true; more && err == nil; {
		err = v.space.LargeMeta(ctx, true, dropRecords*thinStep, dropBytes*thinStep, func(m *dcdb.Meta) error {
			gone, err := v.thinnedOf(w)
			more = len(gone) > thinStep
			for _, sn := range gone[:min(len(gone), thinStep)] {
				names = append(names, sn.name)
				v.dropName(m, sn)
			}
			return err
		})
	}
	if err != nil {
		return names, fmt.Errorf("retention: %w", err)
	}
	return names, nil
}

// WouldThin returns what Thin would delete, and how many bytes that frees.
func (v *Volume) WouldThin(ctx context.Context, w *View) (names []string, bytes uint64, err error) {
	v.space.Locked(func() {
		var gone []*snapshot
		gone, err = v.thinnedOf(w)
		for _, sn := range gone {
			names = append(names, sn.name)
		}
	})
	if err == nil {
		bytes, err = v.WouldFree(ctx, w, names)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("retention: %w", err)
	}
	return names, bytes, nil
}

// thinnedOf is thinned of a live view's fork. Space.mu is held.
func (v *Volume) thinnedOf(w *View) ([]*snapshot, error) {
	if err := v.changeable(w); err != nil {
		return nil, err
	}
	if w.fork.policy.None() {
		return nil, ErrNoPolicy
	}
	gone, _ := w.fork.thinned()
	return gone, nil
}

// dueForks returns the live views of which an automatic snapshot is due, and when
// the next one is. seen has the slots in which that was seen to.
func (v *Volume) dueForks(seen map[*View]slot) (due []*View, next time.Time) {
	now := v.now()
	v.space.Locked(func() {
		for f := range v.retaining {
			if !f.ready || f.view.Err() != nil {
				continue
			}
			s := f.policy.slot(now)
			if end := s.end(); next.IsZero() || end.Before(next) {
				next = end
			}
			if last, ok := seen[f.view]; (!ok || last != s) && f.due(now) {
				due = append(due, f.view)
			}
		}
	})
	return due, next
}

// due reports whether there is no automatic snapshot of the slot that now is in.
// Space.mu is held.
func (f *fork) due(now time.Time) bool {
	all := f.autos()
	if len(all) == 0 {
		return true
	}
	last := all[0].created
	ahead := last.Sub(now.Round(0)) // by the clock on the wall
	return f.policy.slot(last) != f.policy.slot(now) && (ahead <= 0 || ahead >= autoSlack)
}

// autoSnapshot takes an automatic snapshot of a live view's fork, unless nothing
// has changed since the last one.
func (v *Volume) autoSnapshot(ctx context.Context, w *View) (made bool, err error) {
	var last *snapshot
	v.space.Locked(func() {
		if all := w.fork.autos(); len(all) > 0 {
			last = all[0]
		}
	})
	if last != nil {
		changed, err := v.changedSince(ctx, w.fork, last.counter)
		if err != nil || !changed {
			return false, err
		}
	}
	_, err = v.CreateSnapshot(ctx, w, autoPrefix+v.now().UTC().Format(autoTime))
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, ErrExist):
		return false, nil // of this very second
	}
	if inner := errors.Unwrap(err); inner != nil {
		err = inner // the name around it is another each time
	}
	return false, err
}

// changedSince reports whether a fork has heads that were changed after counter n.
func (v *Volume) changedSince(ctx context.Context, f *fork, n uint64) (bool, error) {
	if err := v.space.SyncAll(ctx); err != nil {
		return false, err
	}
	for {
		merges := v.merges.Load()
		for _, prefix := range v.prefixes(f) {
			recs, err := v.st.Scan(ctx, key(keyIndex, prefix, n+1), after(key(keyIndex, prefix)), 1)
			if err != nil || len(recs) > 0 {
				return len(recs) > 0, err
			}
		}
		if v.merges.Load() == merges {
			return false, nil
		}
	}
}
