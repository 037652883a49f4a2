package snap

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// Kinds of tasks. The numbers are on disk.
const (
	taskSnapshot = 1 // entries with p < since <= n < death <= x go
	taskCut      = 2 // what is newer than p goes, in a fork without live state
	taskDrop     = 3 // the snapshots of a deleted fork go, then it is cut at p
)

// task is a reclaim that is to be done. It is recorded in the group that made it
// necessary, and taken out in the one that finishes it.
type task struct {
	f       *fork
	seq     uint64
	durable bool // with all that was done before it; changed by the reclaimer
	kind    uint64
	p, n, x uint64

	err error // why it is set aside; guarded by the Space's lock
}

func (t *task) key() []byte { return key(keyTask, t.f.id, t.seq) }

// addTask records a task. Space.mu is held.
func (v *Volume) addTask(m *dcdb.Meta, t *task) {
	t.seq = 1
	if n := len(v.tasks); n > 0 {
		t.seq += v.tasks[n-1].seq
	}
	v.tasks = append(v.tasks, t)
	t.f.tasks++
	m.Put(t.key(), encode(t.kind, t.p, t.n, t.x))
	v.wakeReclaimer()
}

func (v *Volume) loadTasks(ctx context.Context) error {
	defer func() { slices.SortFunc(v.tasks, func(a, b *task) int { return cmp.Compare(a.seq, b.seq) }) }()
	return scan(ctx, v.st, key(keyTask), func(k, val []byte) error {
		n, err := keyNums(k, 2)
		if err != nil {
			return err
		}
		r := newReader(val)
		t := &task{f: v.forks[n[0]], seq: n[1], kind: r.num(), p: r.num(), n: r.num(), x: r.num()}
		if err := r.end(); err != nil {
			return fmt.Errorf("task %d of fork %d: %w", n[1], n[0], err)
		}
		if t.f == nil || t.kind < taskSnapshot || t.kind > taskDrop {
			return fmt.Errorf("%w: task %d of fork %d", dcdb.ErrCorrupt, n[1], n[0])
		}
		t.f.tasks++
		v.tasks = append(v.tasks, t)
		return nil
	})
}

// bulk is a tree that was dropped as a whole.
type bulk struct {
	death   uint64
	next    uint64 // pages below are done
	cut     uint64 // if not zero: release what is newer than cut-1, leave the rest
	records bool   // only pieces of records were dropped with the pages
	head    []byte
}

func (k *bulk) encode() []byte {
	var records uint64
	if k.records {
		records = 1
	}
	return append(encode(k.death, k.next, k.cut, records), k.head...)
}

func decodeBulk(val []byte) (*bulk, error) {
	r := newReader(val)
	k := &bulk{death: r.num(), next: r.num(), cut: r.num(), records: r.bool()}
	k.head = r.b
	return k, r.err
}

// Bounds of one step of background work, so that it fits a group beside others.
const (
	stepRefs    = 1000
	stepHeads   = 200
	stepRecords = 2*stepRefs + 4*stepHeads
	stepBytes   = 256 << 10
)

func (v *Volume) wakeReclaimer() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// reclaimer does what is to be reclaimed, one step after the other: dropped
// trees first, then tasks in the order in which they arose.
func (v *Volume) reclaimer(ctx context.Context) {
	defer close(v.done)
	for ctx.Err() == nil {
		v.space.AwaitEraser()
		v.pressure.look(time.Now(), v.pending, v.space.SetLoad)
		did, err := v.reclaimStep(ctx)
		if err != nil {
			if ignorable(err) {
				return
			}
			if !v.trouble(err) {
				select {
				case <-time.After(retryPause):
				case <-ctx.Done():
				}
			}
			continue
		}
		v.stepErrors = dcdb.Repeated{}
		if did {
			continue
		}
		select {
		case <-v.wake:
		case <-ctx.Done():
		}
	}
}

// takes reports whether the task removes the entries of a span.
func (t *task) takes(s span) bool {
	if t.kind == taskSnapshot {
		return t.p < s.since && s.since <= t.n && t.n < s.death && s.death <= t.x
	}
	return s.death > t.p
}

// Idle reports whether nothing is left to reclaim or to erase.
func (v *Volume) Idle(ctx context.Context) (bool, error) {
	if b, _ := v.waiting(); !b.Empty() {
		return false, nil
	}
	return v.trees.empty(), nil
}

func (v *Volume) reclaimStep(ctx context.Context) (bool, error) {
	// Who woke us may be a group that is still being written.
	if err := v.space.SyncClosed(ctx); err != nil {
		return false, err
	}
	if did, err := v.bulkStep(ctx); did || err != nil {
		return did, err
	}
	var t *task
	v.space.Locked(func() { t = v.nextTask() })
	if f := v.movingFork(); f != nil {
		return true, v.inMerge(f, v.moveStep(ctx, f))
	}
	if t == nil {
		return v.mergeStep(ctx)
	}
	if !t.durable {
		// What it speaks of may be in groups that are still to be committed.
		if err := v.space.SyncAll(ctx); err != nil {
			return false, err
		}
		v.space.Exclusive(func() { t.durable = true }) // others copy the task
		return true, nil
	}
	var err error
	switch t.kind {
	case taskDrop:
		err = v.dropStep(ctx, t)
	case taskSnapshot:
		err = v.snapshotStep(ctx, t)
	default:
		err = v.cutStep(ctx, t)
	}
	return true, v.inTask(t, err)
}

// finish ends a task in the group that m is of. Space.mu is held.
func (v *Volume) finish(m *dcdb.Meta, t *task) {
	m.Delete(t.key())
	if v.tasks[0] == t { // as a rule
		v.tasks = v.tasks[1:]
	} else {
		v.tasks = slices.DeleteFunc(v.tasks, func(o *task) bool { return o == t })
	}
	t.f.tasks--
	t.f.setKept(t.f.facts.kept)
	v.dissolve(m, t.f)
}

// bulkStep goes on with the first dropped tree, if there is one.
func (v *Volume) bulkStep(ctx context.Context) (bool, error) {
	rec, err := v.nextTree(ctx)
	if err != nil || rec == nil {
		return false, err
	}
	fork := binary.BigEndian.Uint64(rec.Key[1:])
	return true, v.inTree(fork, next(rec.Key), v.expandStep(ctx, fork, rec))
}

// expandStep expands a part of a dropped tree.
func (v *Volume) expandStep(ctx context.Context, fork uint64, rec *store.Record) error {
	k := rec.Key
	bk, err := decodeBulk(rec.Value)
	if err != nil {
		return fmt.Errorf("dropped tree %x: %w", k, err)
	}
	h, err := dcdb.DecodeHead(bk.head)
	if err != nil {
		return fmt.Errorf("dropped tree %x: %w", k, err)
	}
	var refs []dcdb.Dropped
	next, done, err := dcdb.Expand(ctx, v.st, h, bk.records, bk.cut, bk.next, stepRefs, func(d dcdb.Dropped) { refs = append(refs, d) })
	if err != nil {
		return fmt.Errorf("dropped tree %x: %w", k, err)
	}
	bk.next = next
	err = v.space.Work(ctx, fork, stepRecords, stepBytes+len(bk.head), func(ctx context.Context, b *dcdb.Builder) error {
		fa, _ := b.Facts(fork).(*facts)
		if fa == nil {
			return fmt.Errorf("%w: dropped tree of fork %d, which does not exist", dcdb.ErrCorrupt, fork)
		}
		for _, d := range refs {
			if err := v.dropBulk(ctx, b, fa, bk, d); err != nil {
				return err
			}
		}
		if done {
			b.Delete(k)
		} else {
			b.Put(k, bk.encode())
		}
		return nil
	})
	if done && err == nil {
		v.trees.finished()
	}
	return err
}

func (v *Volume) dropBulk(ctx context.Context, b *dcdb.Builder, fa *facts, bk *bulk, d dcdb.Dropped) error {
	if bk.cut != 0 {
		return v.release(ctx, b, d.ID)
	}
	return v.drop(ctx, b, fa, bk.death, d)
}

// dead is a record of a dead list, decoded.
type dead struct {
	key     []byte
	span    span
	entries []entry
}

// deadRecords reads the records of a span, up to about stepRefs entries.
func (v *Volume) deadRecords(ctx context.Context, s span) ([]dead, bool, error) {
	var out []dead
	n := 0
	prefix := s.key(keyDead)
	recs, err := v.deadAt.scan(ctx, v.st, prefix, after(prefix), 64)
	if err != nil {
		return nil, false, err
	}
	for _, r := range recs {
		if n >= stepRefs || len(out) >= stepHeads/8 {
			return out, true, nil
		}
		es, err := decodeEntries(r.Value)
		if err != nil {
			return nil, false, fmt.Errorf("dead list %x: %w", r.Key, err)
		}
		out = append(out, dead{r.Key, s, es})
		n += len(es)
	}
	return out, len(recs) == 64, nil
}

// nextSpan returns the first span of a fork with from <= death < to that match
// accepts, nil if there is none.
func (v *Volume) nextSpan(ctx context.Context, f *fork, from, to uint64, match func(span) bool) (*span, error) {
	front, end := key(keySum, f.prefix, from), key(keySum, f.prefix, to)
	at := v.sumAt.begin(front)
	for limit := 8; ; limit = 256 {
		recs, err := v.st.Scan(ctx, at, end, limit)
		if err != nil {
			return nil, err
		}
		for _, r := range recs {
			n, err := keyNums(r.Key, 3)
			if err != nil {
				return nil, err
			}
			if s := (span{n[0], n[1], n[2]}); match(s) {
				v.sumAt.at = r.Key
				return &s, nil
			}
		}
		switch {
		case len(recs) == limit:
			at = next(recs[limit-1].Key)
		case v.sumAt.at == nil:
			return nil, nil
		default: // once more, from the front
			v.sumAt = queueCursor{from: front}
			at = front
		}
	}
}

// snapshotStep removes what only a deleted snapshot needed.
func (v *Volume) snapshotStep(ctx context.Context, t *task) error {
	all := func(span) bool { return true }
	did, err := v.removeSpans(ctx, t.f, t.n+1, t.x+1, t.takes, all)
	if did || err != nil {
		return err
	}
	return v.space.Meta(ctx, true, func(m *dcdb.Meta) error {
		v.finish(m, t)
		return nil
	})
}

// removeSpans removes entries of a fork's spans with from <= death < to that
// match accepts, as many as fit a step: to remove those of each span by
// themselves would be a group to wait for each time. Where free says so, heads
// are erased and references released; else the entries are only struck out. It
// reports whether there was any.
func (v *Volume) removeSpans(ctx context.Context, f *fork, from, to uint64, match, free func(span) bool) (bool, error) {
	var recs []dead
	taken := make(map[span]bool)
	for entries, more := 0, true; more && entries < stepRefs/2; {
		s, err := v.nextSpan(ctx, f, from, to, func(s span) bool { return !taken[s] && match(s) })
		if err != nil {
			return false, err
		}
		if s == nil {
			break
		}
		some, rest, err := v.deadRecords(ctx, *s)
		if err != nil {
			return false, err
		}
		if len(some) == 0 {
			return false, fmt.Errorf("%w: the sum of fork %d (%d, %d] counts what is not there", dcdb.ErrCorrupt, f.id, s.since, s.death)
		}
		more = !rest // the next span when this one is read to its end
		for _, r := range some {
			entries += len(r.entries)
		}
		if len(recs) > 0 && (entries > stepRefs || len(recs)+len(some) > stepHeads/8) {
			break
		}
		taken[*s] = true
		recs = append(recs, some...)
	}
	if len(recs) == 0 {
		return false, nil
	}
	heads := countHeads(recs)
	return true, v.space.Work(ctx, f.id, stepRecords+8*heads, stepBytes+256*heads, func(ctx context.Context, b *dcdb.Builder) error {
		for _, r := range recs {
			if err := v.removeRecord(ctx, b, f, r, free(r.span)); err != nil {
				return err
			}
		}
		return nil
	})
}

func countHeads(recs []dead) int {
	n := 0
	for _, r := range recs {
		for _, e := range r.entries {
			if e.kind != entryRef {
				n++
			}
		}
	}
	return n
}

func (v *Volume) removeRecord(ctx context.Context, b *dcdb.Builder, f *fork, r dead, free bool) error {
	b.Delete(r.key)
	var bytes int64
	for _, e := range r.entries {
		if e.kind == entryHead {
			rec, err := b.Get(ctx, key(keySaved, r.span.prefix, e.ino, ^r.span.since))
			if err != nil {
				return err
			}
			e.size = uint64(len(rec))
		}
		bytes += int64(e.size)
		if !free {
			continue
		}
		var err error
		switch e.kind {
		case entryRef:
			err = v.release(ctx, b, e.id)
		case entryHead, entryInherited, entryUnsized: // what was inherited is the fork's own since a merge
			err = v.eraseSaved(ctx, b, f, e.ino, r.span.since)
		}
		if err != nil {
			return err
		}
	}
	v.lists.of(b).count(r.span, -int64(len(r.entries)), -bytes)
	return nil
}

// eraseSaved erases a saved head, and the inode's live head if that only says
// that it is deleted and no older state is left that it must hide.
func (v *Volume) eraseSaved(ctx context.Context, b *dcdb.Builder, f *fork, ino, counter uint64) error {
	b.Delete(key(keySaved, f.prefix, ino, ^counter))
	b.Delete(key(keyIndex, f.prefix, counter, ino))
	fa, _ := b.Facts(f.id).(*facts)
	if fa == nil || fa.parent && ino < fa.first {
		return nil
	}
	k := key(keyHead, f.prefix, ino)
	rec, err := b.Get(ctx, k)
	if err != nil || rec == nil {
		return err
	}
	changed, deleted, err := dcdb.HeadInfo(rec)
	if err != nil || !deleted {
		return err
	}
	older, err := v.savedIn(ctx, b, fa, ino)
	if err != nil || older {
		return err
	}
	b.Delete(k)
	b.Delete(key(keyIndex, f.prefix, changed, ino))
	return nil
}

// cutStep goes on cutting a fork without live state at a kept counter: rule 5 of
// DESIGN section 4. First its dead list beyond the counter, then its heads.
func (v *Volume) cutStep(ctx context.Context, t *task) error {
	all := func(span) bool { return true }
	did, err := v.removeSpans(ctx, t.f, t.p+1, math.MaxUint64, all, func(s span) bool { return s.since > t.p })
	if did || err != nil {
		return err
	}
	from, to := key(keyIndex, t.f.prefix, t.p+1), after(key(keyIndex, t.f.prefix))
	recs, err := v.indexAt.scan(ctx, v.st, from, to, stepHeads)
	if err != nil {
		return err
	}
	if len(recs) > 0 {
		return v.cutHeads(ctx, t, recs)
	}
	return v.space.Meta(ctx, true, func(m *dcdb.Meta) error {
		v.finish(m, t)
		return nil
	})
}

// cutHeads erases live heads that are newer than the cut, and releases what they
// refer to since. Large trees are released later.
func (v *Volume) cutHeads(ctx context.Context, t *task, index []store.Record) error {
	return v.space.Work(ctx, t.f.id, 6*len(index)+stepRecords, 512*len(index)+stepBytes, func(ctx context.Context, b *dcdb.Builder) error {
		bytes, refs := stepBytes, stepRefs
		for _, r := range index {
			n, err := keyNums(r.Key, 3)
			if err != nil {
				return err
			}
			size, released, err := v.cutHead(ctx, b, t, n[1], n[2])
			if err != nil {
				return err
			}
			bytes, refs = bytes-size, refs-released
			if bytes < 0 || refs < 0 {
				break // the next step goes on here
			}
		}
		return nil
	})
}

// headAt returns the head that an index record is of, and its key. It is the live
// one, or a saved one that an earlier cut has made the newest.
func (v *Volume) headAt(ctx context.Context, b *dcdb.Builder, f *fork, ino, changed uint64) (k, rec []byte, err error) {
	k = key(keyHead, f.prefix, ino)
	if rec, err = b.Get(ctx, k); err != nil {
		return nil, nil, err
	}
	if rec != nil {
		c, _, err := dcdb.HeadInfo(rec)
		if err != nil || c == changed {
			return k, rec, err
		}
	}
	k = key(keySaved, f.prefix, ino, ^changed)
	if rec, err = b.Get(ctx, k); err == nil && rec == nil {
		err = fmt.Errorf("%w: index of inode %d of fork %d at %d without its head", dcdb.ErrCorrupt, ino, f.id, changed)
	}
	return k, rec, err
}

// cutHead erases one head. It returns the bytes that it added to the group, and
// how many references it released.
func (v *Volume) cutHead(ctx context.Context, b *dcdb.Builder, t *task, changed, ino uint64) (bytes, released int, err error) {
	f := t.f
	k, rec, err := v.headAt(ctx, b, f, ino, changed)
	if err != nil {
		return 0, 0, err
	}
	h, err := dcdb.DecodeHead(rec)
	if err != nil {
		return 0, 0, fmt.Errorf("inode %d of fork %d: %w", ino, f.id, err)
	}
	b.Delete(k)
	b.Delete(key(keyIndex, f.prefix, changed, ino))
	if h.Excess() && k[0] == keyHead {
		b.Delete(key(keyExcess, f.prefix, ino))
	}
	if t.p > f.origin {
		if err := v.promote(ctx, b, f, ino); err != nil {
			return 0, 0, err
		}
	}
	if h.Deleted {
		return 0, 0, nil
	}
	if h.Large() {
		v.addTree(b, f.id, &bulk{death: h.Changed, cut: t.p + 1, head: rec})
		return len(rec), 0, nil
	}
	var refs []dcdb.Dropped
	_, _, err = dcdb.Expand(ctx, v.st, h, false, t.p+1, 0, stepRefs, func(d dcdb.Dropped) { refs = append(refs, d) })
	for _, d := range refs {
		if err == nil {
			err = v.release(ctx, b, d.ID)
		}
	}
	return 0, len(refs), err
}

// promote makes the newest saved head of an inode the head, after the one there
// was has been cut off.
func (v *Volume) promote(ctx context.Context, b *dcdb.Builder, f *fork, ino uint64) error {
	prefix := key(keySaved, f.prefix, ino)
	recs, err := v.st.Scan(ctx, prefix, after(prefix), 1)
	if err != nil || len(recs) == 0 {
		return err
	}
	b.Delete(recs[0].Key)
	b.Put(key(keyHead, f.prefix, ino), recs[0].Value)
	putExcess(b, f.prefix, ino, dcdb.HeadExcess(recs[0].Value), false)
	return nil
}

// dissolve ends a fork that has no live state and keeps nothing. Space.mu is
// held.
func (v *Volume) dissolve(m *dcdb.Meta, f *fork) {
	if f.live || len(f.snaps) > 0 || f.tasks > 0 {
		return
	}
	delete(v.forks, f.id)
	m.Delete(key(keyFork, f.id))
	if f.parent == nil {
		return
	}
	sn := f.parent.at(f.origin)
	if sn.pins--; sn.pins == 0 && sn.name == "" {
		v.unkeep(m, sn)
	}
}
