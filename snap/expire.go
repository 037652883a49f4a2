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

// A snapshot or fork that was given a time to live expires: it is deleted by the
// Clock of whoever serves the volume. The record has the moment, not the time to
// live, so a clock that is set forward lets it expire early, and one that is set
// back late; what must stay is to be held.

// maxTTL is the longest time to live: moments are counted in nanoseconds.
const maxTTL = 100 * 366 * 24 * time.Hour

var (
	// ErrDuration: a time to live that makes no sense.
	ErrDuration = errors.New("a duration is like 90m, 12h, 2d or 1w2d, and at most 100 years")
	// ErrNotDue: what was to expire has been given more time.
	ErrNotDue = errors.New("it has not expired")
)

// ParseDuration reads a duration as package time does, with d for days of 24
// hours and w for weeks besides.
func ParseDuration(s string) (time.Duration, error) {
	var sum time.Duration
	if s == "" {
		return 0, fmt.Errorf("%q: %w", s, ErrDuration)
	}
	for rest := s; rest != ""; {
		n := len(rest) - len(strings.TrimLeft(rest, "0123456789."))
		u := strings.IndexAny(rest[n:], "0123456789.")
		if u < 0 {
			u = len(rest) - n
		}
		num, unit := rest[:n], rest[n:n+u]
		rest = rest[n+u:]
		times := time.Duration(1)
		switch unit {
		case "d":
			times, unit = 24, "h"
		case "w":
			times, unit = 7*24, "h"
		}
		d, err := time.ParseDuration(num + unit)
		if err != nil || unit == "" && s != "0" || d < 0 || d > maxTTL/times || sum > maxTTL-d*times {
			return 0, fmt.Errorf("%q: %w", s, ErrDuration)
		}
		sum += d * times
	}
	return sum, nil
}

// expiry returns the moment ttl from now, none for no time to live.
func (v *Volume) expiry(ttl time.Duration) (time.Time, error) {
	switch {
	case ttl < 0 || ttl > maxTTL:
		return time.Time{}, ErrDuration
	case ttl == 0:
		return time.Time{}, nil
	}
	return v.now().UTC().Round(0).Add(ttl), nil // of the clock on the wall
}

// expires is where the moment is kept at which a view expires.
func (w *View) expires() *time.Time {
	if w.snap != nil {
		return &w.snap.expires
	}
	return &w.fork.expires
}

// expiryKey returns the key of that. No snapshot has counter 0.
func (w *View) expiryKey() []byte {
	if w.snap != nil {
		return key(keyExpiry, w.fork.id, w.snap.counter)
	}
	return key(keyExpiry, w.fork.id, 0)
}

func encodeExpiry(t time.Time) []byte { return encode(uint64(t.UnixNano())) }

func decodeExpiry(val []byte) (time.Time, error) {
	r := newReader(val)
	t := time.Unix(0, int64(r.num())).UTC()
	return t, r.end()
}

// setExpiry records when a view expires, or that it does not. Space.mu is held.
func (v *Volume) setExpiry(m *dcdb.Meta, w *View, t time.Time) {
	old := w.expires()
	switch {
	case !t.IsZero():
		m.Put(w.expiryKey(), encodeExpiry(t))
		v.expiring[w] = true
	case old.IsZero():
		return
	default:
		m.Delete(w.expiryKey())
		delete(v.expiring, w)
	}
	*old = t
	v.wakeClock()
}

// shown tells the Clock of a view that has just become one that may expire.
func (v *Volume) shown(w *View) {
	if !w.expires().IsZero() {
		v.wakeClock()
	}
}

// SetSnapshotTTL has a snapshot expire ttl from now; 0 is never. It returns when
// that is durable.
func (v *Volume) SetSnapshotTTL(ctx context.Context, w *View, name string, ttl time.Duration) error {
	return v.setTTL(ctx, ttl, "snapshot", name, func() (*View, error) {
		sn, err := v.namedLocked(w, name)
		if err != nil {
			return nil, err
		}
		return sn.view, nil
	})
}

// SetForkTTL has a fork that w's listing has expire ttl from now; 0 is never. It
// returns when that is durable.
func (v *Volume) SetForkTTL(ctx context.Context, w *View, name string, ttl time.Duration) error {
	return v.setTTL(ctx, ttl, "fork", name, func() (*View, error) {
		if err := v.changeable(w); err != nil {
			return nil, err
		}
		f := v.listed(w.fork, name)
		if f == nil || !f.ready {
			return nil, ErrNotExist
		}
		return f.view, nil
	})
}

func (v *Volume) setTTL(ctx context.Context, ttl time.Duration, what, name string, find func() (*View, error)) error {
	err := v.space.Meta(ctx, true, func(m *dcdb.Meta) error {
		w, err := find()
		if err != nil {
			return err
		}
		t, err := v.expiry(ttl)
		if err != nil {
			return err
		}
		v.setExpiry(m, w, t)
		return nil
	})
	if err != nil {
		return fmt.Errorf("expiry of %s %q: %w", what, name, err)
	}
	return nil
}

// Expires returns when a view expires, the zero time if it does not.
func (w *View) Expires() (t time.Time) {
	w.v.space.Locked(func() { t = *w.expires() })
	return t
}

// expired returns the views whose time has come, snapshots first and forks before
// those that list them, and the next moment at which one comes, if there is one.
func (v *Volume) expired() (out []*View, next time.Time) {
	now := v.now()
	depth := map[*View]int{}
	v.space.Locked(func() {
		for w := range v.expiring {
			switch t := *w.expires(); {
			case w.Err() != nil || !w.ready():
			case t.After(now):
				if next.IsZero() || t.Before(next) {
					next = t
				}
			default:
				out = append(out, w)
				if w.snap == nil {
					depth[w] = v.depth(w.fork)
				}
			}
		}
	})
	slices.SortFunc(out, func(a, b *View) int {
		if a.IsSnapshot() != b.IsSnapshot() {
			if a.IsSnapshot() {
				return -1
			}
			return 1
		}
		return depth[b] - depth[a]
	})
	return out, next
}

// ready reports whether a view is durable. Space.mu is held.
func (w *View) ready() bool {
	if w.snap != nil {
		return w.snap.ready
	}
	return w.fork.ready
}

// depth is how many forks a fork is listed below. Space.mu is held.
func (v *Volume) depth(f *fork) int {
	n := 0
	for f = v.forks[f.place]; f != nil; f = v.forks[f.place] {
		n++
	}
	return n
}

// mayExpire returns why a view is not to be deleted now, if so. Space.mu is held.
func (v *Volume) mayExpire(w *View) error {
	if err := w.Err(); err != nil {
		return err
	}
	if t := *w.expires(); t.IsZero() || t.After(v.now()) {
		return ErrNotDue
	}
	if w.snap != nil {
		return v.held(w.snap)
	}
	if len(v.below(w.fork)) > 1 {
		return ErrNotEmpty
	}
	return v.holding([]*fork{w.fork})
}

// expire deletes a view if its time has come and nothing keeps it.
func (v *Volume) expire(ctx context.Context, w *View) error {
	n := 1
	if w.snap == nil {
		v.space.Locked(func() { n += len(w.fork.snaps) })
	}
	return v.space.LargeMeta(ctx, true, dropRecords*n, dropBytes*n, func(m *dcdb.Meta) error {
		if err := v.mayExpire(w); err != nil {
			return err
		}
		if w.snap != nil {
			v.dropName(m, w.snap)
		} else {
			v.dropFork(m, w.fork)
		}
		return nil
	})
}

func (v *Volume) loadExpiries(ctx context.Context) error {
	return scan(ctx, v.st, key(keyExpiry), func(k, val []byte) error {
		n, err := keyNums(k, 2)
		if err != nil {
			return err
		}
		f := v.forks[n[0]]
		if !f.canExpire(n[1]) {
			return fmt.Errorf("%w: expiry of counter %d of fork %d, which does not exist", dcdb.ErrCorrupt, n[1], n[0])
		}
		w := f.view
		if n[1] > 0 {
			w = f.at(n[1]).view
		}
		t, err := decodeExpiry(val)
		if err != nil {
			return fmt.Errorf("expiry of counter %d of fork %d: %w", n[1], n[0], err)
		}
		*w.expires() = t
		if !w.gone.Load() { // else it goes with its fork
			v.expiring[w] = true
		}
		return nil
	})
}

// canExpire reports whether there may be a record of an expiry: of a snapshot, or
// with counter 0 of the fork. f may be nil.
func (f *fork) canExpire(counter uint64) bool {
	if counter > 0 {
		return f.named(counter) != nil
	}
	return f != nil && f.live && f.id != mainFork
}
