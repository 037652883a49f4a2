package snap

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// What a kept counter refers to, in bytes, follows from what an older one refers
// to: less what died in between, which the sums of the dead list tell, and with
// what is used since then, which stands in the heads that changed in between. So
// nothing is counted while something is written. It never changes either: once
// known, it is part of the snapshot's record.

// Bounds of what a list of sizes reads to learn what is not known yet.
const (
	listHeads   = 50_000    // heads, and references in them
	listEntries = 1_000_000 // entries of dead lists
)

// errUnknown: finding out takes more reading than is allowed.
var errUnknown = errors.New("not known")

// errMoved: what was read belongs together no more, since snapshots were deleted
// or forks merged meanwhile.
var errMoved = errors.New("snapshots changed while they were counted, try again")

// Sizes counts what snapshots and forks take, for one list of them.
type Sizes struct {
	v       *Volume
	all     bool
	heads   int  // that may still be read
	entries int  // likewise
	vain    bool // what a fork began with was more than may be read
	ledgers map[*fork]*ledger
}

// Sizes returns what counts sizes. What is not known and takes long to count is
// left unknown, unless all is wanted.
func (v *Volume) Sizes(all bool) *Sizes {
	c := &Sizes{v: v, all: all, heads: listHeads, entries: listEntries}
	if all {
		c.heads, c.entries = math.MaxInt, math.MaxInt
	}
	return c
}

// take allows n more heads and references to be read.
func (c *Sizes) take(n int) error {
	if c.heads -= n; c.heads < 0 {
		c.heads = -1
		return errUnknown
	}
	return nil
}

// ledger is what is known of the kept counters of a fork and of its live state,
// which is the last one: refer and known tell of each what it refers to.
type ledger struct {
	f      *fork
	live   bool        // there is a live state
	kept   []uint64    // ascending; the origin first
	snaps  []*snapshot // of kept[1:]
	refer  []uint64    // bytes
	known  []bool
	died   []uint64  // bytes that kept[i-1] has and kept[i] has not
	only   [][]spent // what only this one needs
	merges uint64
	lacks  uint64 // from this counter on what died in dropped trees is still to be counted
}

// spent is a span of a dead list and what it holds.
type spent struct {
	span
	sum
}

// ledger reads a fork's sums.
func (c *Sizes) ledger(ctx context.Context, f *fork) (*ledger, error) {
	if l := c.ledgers[f]; l != nil {
		return l, nil
	}
	v, l := c.v, &ledger{f: f}
	v.space.Locked(func() {
		l.merges, l.live = v.merges.Load(), f.live
		l.kept, l.refer, l.known = []uint64{f.origin}, []uint64{0}, []bool{f.parent == nil}
		if f.parent != nil {
			if sn := f.parent.at(f.origin); sn != nil {
				l.refer[0], l.known[0] = sn.refer, sn.counted
			}
		}
		l.snaps = slices.Clone(f.snaps)
		for _, sn := range l.snaps {
			l.kept, l.refer, l.known = append(l.kept, sn.counter), append(l.refer, sn.refer), append(l.known, sn.counted)
		}
	})
	if l.live {
		l.kept, l.refer, l.known = append(l.kept, dcdb.Live-1), append(l.refer, 0), append(l.known, false)
	}
	// What is counted is what the store has.
	if err := v.space.SyncAll(ctx); err != nil {
		return nil, err
	}
	if err := c.trees(ctx, l); err != nil {
		return nil, err
	}
	l.died, l.only = make([]uint64, len(l.kept)), make([][]spent, len(l.kept))
	err := v.sums(ctx, f, func(s span, n sum) {
		i, j := keptIn(l.kept, s)
		if i < j && j < len(l.kept) {
			l.died[j] += n.bytes
		}
		if i+1 == j {
			l.only[i] = append(l.only[i], spent{s, n})
		}
	})
	c.ledgers[f] = l
	return l, err
}

// keptIn returns which kept counters need a span: from i up to but not j.
func keptIn(kept []uint64, s span) (i, j int) {
	i, _ = slices.BinarySearch(kept, s.since)
	j, _ = slices.BinarySearch(kept, s.death)
	return i, j
}

// trees finds the counter at which the first of the trees died that are still to
// be taken apart. If all is wanted it waits for these.
func (c *Sizes) trees(ctx context.Context, l *ledger) error {
	for {
		l.lacks = dcdb.Live
		err := scan(ctx, c.v.st, key(keyBulk, l.f.id), func(k, val []byte) error {
			bk, err := decodeBulk(val)
			if err != nil {
				return fmt.Errorf("dropped tree %x: %w", k, err)
			}
			if bk.cut == 0 {
				l.lacks = min(l.lacks, bk.death)
			}
			return nil
		})
		if err != nil || l.lacks == dcdb.Live || !c.all || c.v.still {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := c.v.space.SyncAll(ctx); err != nil {
			return err
		}
	}
}

// begin learns what the fork began with. It tries only once to read more for that
// than it may, and leaves as much for what the forks themselves have.
func (c *Sizes) begin(ctx context.Context, l *ledger) error {
	if l.known[0] || c.vain {
		return nil
	}
	heads := c.heads
	defer func() {
		if c.vain = !l.known[0]; c.vain {
			c.heads = heads
		}
	}()
	var parent *fork
	c.v.space.Locked(func() { parent = l.f.parent })
	if parent == nil {
		return errMoved
	}
	p, err := c.ledger(ctx, parent)
	if err != nil {
		return err
	}
	i, ok := slices.BinarySearch(p.kept, l.kept[0])
	if !ok {
		return errMoved
	}
	if err := c.learn(ctx, p, i); err != nil {
		return err
	}
	l.refer[0], l.known[0] = p.refer[i], p.known[i]
	return nil
}

// learn finds out what kept counter number to refers to, if it can, and those
// between it and the next older one that is known.
func (c *Sizes) learn(ctx context.Context, l *ledger, to int) error {
	from := to
	for from > 0 && !l.known[from] {
		from--
	}
	if from == 0 {
		if err := c.begin(ctx, l); err != nil {
			return err
		}
	}
	for i := from + 1; i <= to; i++ {
		if !l.known[i-1] || l.kept[i] >= l.lacks {
			return c.record(ctx, l, from, i-1)
		}
		written, err := c.written(ctx, l.f, l.kept[i-1], l.kept[i])
		if errors.Is(err, errUnknown) {
			return c.record(ctx, l, from, i-1)
		}
		if err != nil {
			return err
		}
		l.refer[i], l.known[i] = l.refer[i-1]-min(l.refer[i-1], l.died[i])+written, true
	}
	return c.record(ctx, l, from, to)
}

// record remembers what was learned of kept counters after number from up to
// number to. It is errMoved if one of them went meanwhile.
func (c *Sizes) record(ctx context.Context, l *ledger, from, to int) error {
	v, moved := c.v, false
	var news []*snapshot
	v.space.Exclusive(func() {
		for i := from; i <= to && !moved; i++ {
			n := l.kept[i]
			moved = v.merges.Load() != l.merges || i == 0 && n != l.f.origin || i > 0 && i <= len(l.snaps) && l.f.at(n) == nil
		}
		for i := from + 1; i <= min(to, len(l.snaps)) && !moved; i++ {
			l.snaps[i-1].refer, l.snaps[i-1].counted = l.refer[i], true
			news = append(news, l.snaps[i-1])
		}
	})
	if moved {
		return errMoved
	}
	if v.still {
		return nil
	}
	for part := range slices.Chunk(news, 500) {
		// It saves time later: a store that is full can do without.
		err := v.space.LargeMeta(ctx, false, len(part), 320*len(part), func(m *dcdb.Meta) error {
			for _, sn := range part {
				if sn.fork.at(sn.counter) == sn {
					m.Put(key(keySnap, sn.fork.id, sn.counter), sn.encode())
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, store.ErrFull) {
			return err
		}
	}
	return nil
}

// again runs count until it was not disturbed, or a few times.
func (c *Sizes) again(count func() error) error {
	var err error
	for range 5 {
		if c.ledgers == nil || err != nil {
			c.ledgers, c.vain = map[*fork]*ledger{}, false
		}
		if err = count(); !errors.Is(err, errMoved) {
			return err
		}
	}
	return err
}

// written returns the bytes of what a fork's state at counter n uses since after
// p: of the heads that changed between them, what is newer.
func (c *Sizes) written(ctx context.Context, f *fork, p, n uint64) (uint64, error) {
	if err := c.take(0); err != nil {
		return 0, err
	}
	var bytes uint64
	seen := map[uint64]bool{}
	for _, prefix := range c.v.prefixes(f) {
		err := scanRange(ctx, c.v.st, key(keyIndex, prefix, p+1), key(keyIndex, prefix, n+1), func(key, _ []byte) error {
			k, err := keyNums(key, 3)
			if err != nil || seen[k[2]] {
				return err
			}
			seen[k[2]] = true
			size, err := c.headBytes(ctx, f, n, k[2], p+1)
			bytes += size
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return bytes, nil
}

// headBytes returns the bytes of an inode's state at counter n that are used since
// counter newer: its head, and objects.
func (c *Sizes) headBytes(ctx context.Context, f *fork, n, ino, newer uint64) (uint64, error) {
	if err := c.take(1); err != nil {
		return 0, err
	}
	rec, err := c.v.resolveOwn(ctx, f, n, ino)
	if err != nil || rec == nil {
		return 0, err
	}
	h, err := dcdb.DecodeHead(rec)
	if err != nil {
		return 0, fmt.Errorf("inode %d of fork %d: %w", ino, f.id, err)
	}
	if h.Deleted {
		return 0, nil
	}
	bytes := uint64(len(rec))
	for from, done := uint64(0), false; !done; {
		refs := 0
		from, done, err = dcdb.Expand(ctx, c.v.st, h, false, newer, from, stepRefs, func(d dcdb.Dropped) {
			bytes += uint64(d.ID.Len)
			refs++
		})
		if err != nil {
			return 0, fmt.Errorf("inode %d of fork %d: %w", ino, f.id, err)
		}
		if err := c.take(refs); err != nil {
			return 0, err
		}
	}
	return bytes, nil
}
