package snap

import (
	"context"
	"errors"
	"fmt"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// Bytes here are those of objects and heads. A content that is shared by clones
// counts once for each of its references, as st_blocks counts it, in what a view
// refers to and was written, and once at all in what deleting frees.

// SnapshotUsage is what a snapshot takes. What is not known is nil.
type SnapshotUsage struct {
	View    *View
	Refer   *uint64 // bytes that it shows
	Used    uint64  // bytes that deleting it alone frees
	Written *uint64 // bytes written since the snapshot before it, or since the fork began, that it shows
}

// Snapshots returns what the snapshots of a live view's fork take, by time.
func (c *Sizes) Snapshots(ctx context.Context, w *View) (out []SnapshotUsage, err error) {
	err = c.again(func() error {
		out, err = c.snapshots(ctx, w)
		return err
	})
	return out, err
}

func (c *Sizes) snapshots(ctx context.Context, w *View) ([]SnapshotUsage, error) {
	views := c.v.Snapshots(w)
	l, err := c.ledger(ctx, w.fork)
	if err != nil {
		return nil, err
	}
	if err := c.begin(ctx, l); err != nil {
		return nil, err
	}
	at, pinned := map[uint64]int{}, map[uint64]bool{}
	for i, sn := range l.snaps {
		at[sn.counter] = i + 1
		if err := c.learn(ctx, l, i+1); err != nil {
			return nil, err
		}
	}
	c.v.space.Locked(func() {
		for _, sn := range l.snaps {
			pinned[sn.counter] = sn.pins > 0
		}
	})
	out := make([]SnapshotUsage, 0, len(views))
	for _, s := range views {
		n := s.snap.counter
		i, ok := at[n]
		if !ok {
			continue // it was made meanwhile
		}
		u := SnapshotUsage{View: s}
		if l.known[i] {
			u.Refer = &l.refer[i]
			if l.known[i-1] {
				written := l.refer[i] + l.died[i] - min(l.refer[i]+l.died[i], l.refer[i-1])
				u.Written = &written
			}
		}
		if !pinned[n] {
			if u.Used, err = c.frees(ctx, l.f, l.only[i]); err != nil {
				return nil, err
			}
		}
		out = append(out, u)
	}
	return out, nil
}

// sums calls fn for the sums of a fork's dead list.
func (v *Volume) sums(ctx context.Context, f *fork, fn func(span, sum)) error {
	for {
		prefixes := v.prefixes(f)
		if len(prefixes) == 1 {
			return v.sumsAt(ctx, prefixes[0], fn)
		}
		// What moves from the first place to the second meanwhile would be
		// met twice. Nothing comes to the first.
		var all []spent
		left := 0
		for _, prefix := range prefixes {
			err := v.sumsAt(ctx, prefix, func(s span, n sum) {
				all = append(all, spent{s, n})
				if prefix == prefixes[0] {
					left++
				}
			})
			if err != nil {
				return err
			}
		}
		if err := v.sumsAt(ctx, prefixes[0], func(span, sum) { left-- }); err != nil {
			return err
		}
		if left == 0 {
			for _, s := range all {
				fn(s.span, s.sum)
			}
			return nil
		}
	}
}

// sumsAt is sums of one place.
func (v *Volume) sumsAt(ctx context.Context, prefix uint64, fn func(span, sum)) error {
	return scan(ctx, v.st, key(keySum, prefix), func(k, val []byte) error {
		n, err := keyNums(k, 3)
		if err != nil {
			return err
		}
		s, err := decodeSum(val)
		if err != nil {
			return fmt.Errorf("sum %x: %w", k, err)
		}
		fn(span{n[0], n[1], n[2]}, s)
		return nil
	})
}

// frees returns what comes back when the entries of a fork's spans go. Objects that clones
// share are looked for among the entries, if there are not too many.
func (c *Sizes) frees(ctx context.Context, f *fork, spans []spent) (uint64, error) {
	var bytes, count uint64
	for _, s := range spans {
		bytes += s.bytes
		count += s.count
	}
	ex, err := c.v.st.Scan(ctx, key(keyExtra), after(key(keyExtra)), 1)
	if err != nil || len(ex) == 0 || count > uint64(max(c.entries, 0)) {
		return bytes, err
	}
	c.entries -= int(count)
	found := shares{ctx: ctx, st: c.v.st, of: map[store.ID]share{}}
	for _, s := range spans {
		for _, prefix := range c.v.prefixes(f) {
			err := scan(ctx, c.v.st, span{prefix, s.death, s.since}.key(keyDead), func(k, val []byte) error {
				es, err := decodeEntries(val)
				if err != nil {
					return fmt.Errorf("dead list %x: %w", k, err)
				}
				return found.add(es)
			})
			if err != nil {
				return 0, err
			}
		}
	}
	return bytes - min(bytes, found.stay()), nil
}

// shares are the objects with extra references among entries of dead lists.
type shares struct {
	ctx context.Context
	st  store.Store
	of  map[store.ID]share
}

// share is how many references an object has besides its first, and how many of
// all were found.
type share struct{ extra, found uint64 }

func (s *shares) add(es []entry) error {
	var keys [][]byte
	var ids []store.ID
	for _, e := range es {
		if e.kind == entryRef {
			keys, ids = append(keys, extraKey(e.id)), append(ids, e.id)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	vals, err := s.st.Get(s.ctx, keys...)
	if err != nil {
		return err
	}
	for i, val := range vals {
		if val == nil {
			continue
		}
		r := newReader(val)
		o := share{extra: r.num(), found: s.of[ids[i]].found + 1}
		if err := r.end(); err != nil {
			return fmt.Errorf("extra references of %v: %w", ids[i], err)
		}
		s.of[ids[i]] = o
	}
	return nil
}

// stay returns how many bytes less than one object a reference become free.
func (s *shares) stay() (bytes uint64) {
	for id, o := range s.of {
		stay := o.found
		if o.found > o.extra {
			stay-- // the last reference goes
		}
		bytes += stay * uint64(id.Len)
	}
	return bytes
}

// WouldFree returns how many bytes deleting a set of snapshots of a live view's
// fork would free, all at once. ErrNotExist if it has not all of them, HeldError
// if one can't be deleted.
func (v *Volume) WouldFree(ctx context.Context, w *View, names []string) (uint64, error) {
	if err := v.space.SyncAll(ctx); err != nil {
		return 0, err
	}
	f := w.fork
	gone := map[uint64]bool{}
	var missing string
	var held error
	var kept, left []uint64
	v.space.Locked(func() {
		for _, name := range names {
			sn := f.names[name]
			if sn == nil {
				missing = name
				continue
			}
			if held == nil {
				held = v.held(sn)
			}
			gone[sn.counter] = sn.pins == 0
		}
		kept = f.facts.kept
	})
	if missing != "" {
		return 0, fmt.Errorf("snapshot %q: %w", missing, ErrNotExist)
	}
	if held != nil {
		return 0, held
	}
	for _, k := range kept {
		if !gone[k] {
			left = append(left, k)
		}
	}
	before, after := &facts{kept: kept}, &facts{kept: left}
	var spans []spent
	err := v.sums(ctx, f, func(s span, n sum) {
		if before.needed(s.since, s.death) && !after.needed(s.since, s.death) {
			spans = append(spans, spent{s, n})
		}
	})
	if err != nil {
		return 0, err
	}
	return v.Sizes(true).frees(ctx, f, spans)
}

// ForkUsage is what a fork takes. What is not known is nil.
type ForkUsage struct {
	Refer  *uint64 // bytes that its live state shows
	Shared *uint64 // of these, what it shares with what it was made from
	Own    *uint64 // bytes that it has written itself, as its live state and its snapshots show them
}

// Fork returns what a live view's fork takes. Main shares nothing.
func (c *Sizes) Fork(ctx context.Context, w *View) (u ForkUsage, err error) {
	err = c.again(func() error {
		u, err = c.fork(ctx, w)
		return err
	})
	return u, err
}

func (c *Sizes) fork(ctx context.Context, w *View) (u ForkUsage, err error) {
	l, err := c.ledger(ctx, w.fork)
	if err != nil || !l.live || l.lacks != dcdb.Live {
		return u, err
	}
	var dropped, kept uint64 // of what it had inherited, and of what it keeps itself
	err = c.v.sums(ctx, l.f, func(s span, n sum) {
		if s.since <= l.kept[0] {
			dropped += n.bytes
		} else if i, j := keptIn(l.kept, s); i < j {
			kept += n.bytes
		}
	})
	if err != nil {
		return u, err
	}
	live := len(l.kept) - 1
	if !l.known[0] {
		// What it has written itself can be known all the same.
		own, err := c.written(ctx, l.f, l.kept[0], l.kept[live])
		if err != nil && !errors.Is(err, errUnknown) {
			return u, err
		}
		if err == nil {
			own += kept
			u.Own = &own
		}
		if err := c.begin(ctx, l); err != nil || !l.known[0] {
			return u, err
		}
	}
	shared := l.refer[0] - min(l.refer[0], dropped)
	u.Shared = &shared
	if err := c.learn(ctx, l, live); err != nil || !l.known[live] {
		return u, err
	}
	own := l.refer[live] - min(l.refer[live], shared) + kept
	u.Refer, u.Own = &l.refer[live], &own
	return u, nil
}
