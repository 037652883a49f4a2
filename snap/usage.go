package snap

import (
	"context"
	"fmt"

	"dcfs/dcdb"
)

// SnapshotUsage is what a snapshot takes.
type SnapshotUsage struct {
	View    *View
	Used    uint64 // bytes that deleting it alone frees
	Written uint64 // bytes written since the snapshot before it, or since the fork began, that it shows
}

// keptCounters returns a fork's kept counters and its present one, as they are now.
func (v *Volume) keptCounters(f *fork) (kept []uint64, present uint64) {
	v.space.Locked(func() { kept, present = f.facts.kept, f.counter })
	return kept, present
}

// SnapshotUsages returns what the snapshots of a live view's fork take, by time.
// It reads the sums of the dead lists, and the heads that changed between
// snapshots: its cost grows with changes, not with the volume.
func (v *Volume) SnapshotUsages(ctx context.Context, w *View) ([]SnapshotUsage, error) {
	if err := v.space.SyncAll(ctx); err != nil {
		return nil, err // what is counted is what the store has
	}
	views := v.Snapshots(w)
	f := w.fork
	kept, present := v.keptCounters(f)
	used, err := v.used(ctx, f, kept, present)
	if err != nil {
		return nil, err
	}
	before := map[uint64]uint64{} // the kept counter below each
	for i := 1; i < len(kept); i++ {
		before[kept[i]] = kept[i-1]
	}
	var out []SnapshotUsage
	for _, s := range views {
		p, ok := before[s.snap.counter]
		if !ok {
			continue // it was deleted meanwhile
		}
		written, err := v.written(ctx, f, p, s.snap.counter)
		if err != nil {
			return nil, err
		}
		out = append(out, SnapshotUsage{View: s, Used: used[s.snap.counter], Written: written})
	}
	return out, nil
}

// used returns what deleting each kept counter alone would free: what died between
// its neighbours and was born after the lower one.
func (v *Volume) used(ctx context.Context, f *fork, kept []uint64, present uint64) (map[uint64]uint64, error) {
	used := map[uint64]uint64{}
	err := v.sums(ctx, f, func(s span, n sum) {
		if k, only := onlyKept(kept, s); only && s.death <= present {
			used[k] += n.bytes
		}
	})
	return used, err
}

// onlyKept returns the one kept counter that needs a span, if it is the only one.
func onlyKept(kept []uint64, s span) (uint64, bool) {
	i := 0
	for i < len(kept) && kept[i] < s.since {
		i++
	}
	if i == len(kept) || kept[i] >= s.death {
		return 0, false
	}
	return kept[i], i+1 == len(kept) || kept[i+1] >= s.death
}

// sums calls fn for the sums of a fork's dead list.
func (v *Volume) sums(ctx context.Context, f *fork, fn func(span, sum)) error {
	return scan(ctx, v.st, key(keySum, f.id), func(k, val []byte) error {
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

// written returns the bytes of what a fork's state at counter n uses since after
// p: of the heads that changed between them, what is newer.
func (v *Volume) written(ctx context.Context, f *fork, p, n uint64) (uint64, error) {
	var bytes uint64
	seen := map[uint64]bool{}
	from, to := key(keyIndex, f.id, p+1), key(keyIndex, f.id, n+1)
	for {
		recs, err := v.st.Scan(ctx, from, to, 1000)
		if err != nil {
			return 0, err
		}
		for _, r := range recs {
			k, err := keyNums(r.Key, 3)
			if err != nil {
				return 0, err
			}
			if seen[k[2]] {
				continue
			}
			seen[k[2]] = true
			size, err := v.headBytes(ctx, f, n, k[2], p+1)
			if err != nil {
				return 0, err
			}
			bytes += size
		}
		if len(recs) < 1000 {
			return bytes, nil
		}
		from = append(append([]byte(nil), recs[len(recs)-1].Key...), 0)
	}
}

// headBytes returns the bytes of an inode's state at counter n that are used since
// counter newer: its head, and objects.
func (v *Volume) headBytes(ctx context.Context, f *fork, n, ino, newer uint64) (uint64, error) {
	rec, err := resolve(ctx, v.st, f.id, n, ino)
	if err != nil || rec == nil {
		return 0, err
	}
	h, err := dcdb.DecodeHead(rec)
	if err != nil {
		return 0, fmt.Errorf("inode %d of fork %d: %w", ino, f.id, err)
	}
	bytes := uint64(len(rec))
	for from, done := uint64(0), h.Deleted; !done; {
		from, done, err = dcdb.Expand(ctx, v.st, h, false, newer, from, stepRefs, func(d dcdb.Dropped) { bytes += uint64(d.ID.Len) })
		if err != nil {
			return 0, fmt.Errorf("inode %d of fork %d: %w", ino, f.id, err)
		}
	}
	return bytes, nil
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
	var bytes uint64
	err := v.sums(ctx, f, func(s span, n sum) {
		if before.needed(s.since, s.death) && !after.needed(s.since, s.death) {
			bytes += n.bytes
		}
	})
	return bytes, err
}

// OwnBytes returns the bytes that only a live view's fork uses: what it has
// written since it began, as its live state and its snapshots show it. Main owns
// all it has.
func (v *Volume) OwnBytes(ctx context.Context, w *View) (uint64, error) {
	if err := v.space.SyncAll(ctx); err != nil {
		return 0, err
	}
	f := w.fork
	var origin uint64
	v.space.Locked(func() { origin = f.facts.kept[0] })
	live, err := v.written(ctx, f, origin, dcdb.Live-1)
	if err != nil {
		return 0, err
	}
	err = v.sums(ctx, f, func(s span, n sum) {
		if s.since > origin {
			live += n.bytes
		}
	})
	return live, err
}
