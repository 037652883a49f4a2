package snap

import (
	"context"
	"fmt"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// Change records what a group does to one DCDB: rules 2 and 3 of DESIGN
// section 4. The flusher calls it.
func (r *rules) Change(ctx context.Context, b *dcdb.Builder, what any, c *dcdb.Change) error {
	fa, ok := what.(*facts)
	if !ok || fa == nil {
		// The fork went with everything in it. What the group wrote for it
		// is found by nobody; reclaiming the fork takes it away.
		return fmt.Errorf("%w: change of a fork that does not exist", dcdb.ErrCorrupt)
	}
	v := (*Volume)(r)
	l := v.lists.of(b)
	f, ino, at := fa.prefix, c.Key.Ino, c.Changed
	if fa.moving != 0 && c.Old != nil {
		if err := v.moveHead(ctx, b, fa.moving, f, key(keyHead, fa.moving, ino)); err != nil {
			return err
		}
	}
	saved := false
	switch {
	case c.Old == nil:
		b.Put(key(keyIndex, f, at, ino), []byte{})
	case c.Old.Changed <= fa.kept[0]: // up to the origin: inherited
		l.add(f, at, c.Old.Changed, entry{kind: entryInherited, ino: ino, size: uint64(len(dcdb.EncodeHead(c.Old)))})
		b.Put(key(keyIndex, f, at, ino), []byte{})
	case c.Old.Changed < at && fa.needed(c.Old.Changed, at):
		old, err := b.Get(ctx, key(keyHead, f, ino))
		if err != nil {
			return err
		}
		l.save(b, f, ino, c.Old.Changed, old)
		l.add(f, at, c.Old.Changed, entry{kind: entryHead, ino: ino, size: uint64(len(old))})
		b.Put(key(keyIndex, f, at, ino), []byte{})
		saved = true
	case c.Old.Changed < at:
		b.Delete(key(keyIndex, f, c.Old.Changed, ino))
		b.Put(key(keyIndex, f, at, ino), []byte{})
	}
	if c.Record != nil {
		b.Put(key(keyHead, f, ino), c.Record)
	} else if err := v.putDeleted(ctx, b, fa, c, saved); err != nil {
		return err
	}
	putExcess(b, f, ino, dcdb.HeadExcess(c.Record), c.Old != nil && c.Old.Excess())
	for _, d := range c.Dropped {
		if err := v.drop(ctx, b, fa, at, d); err != nil {
			return err
		}
	}
	if c.Bulk {
		v.addTree(b, fa.fork, &bulk{death: at, records: c.Records, head: dcdb.EncodeHead(c.Old)})
	}
	return nil
}

// putDeleted records that an inode is deleted: with a head that says so while
// older states of it could be seen instead, else by none.
func (v *Volume) putDeleted(ctx context.Context, b *dcdb.Builder, fa *facts, c *dcdb.Change, saved bool) error {
	f, ino := fa.prefix, c.Key.Ino
	inherited := fa.parent && ino < fa.first
	if !saved && !inherited {
		older, err := v.hasSaved(ctx, b, fa, ino, c.Born)
		if err != nil {
			return err
		}
		if !older {
			b.Delete(key(keyHead, f, ino))
			b.Delete(key(keyIndex, f, c.Changed, ino))
			return nil
		}
	}
	b.Put(key(keyHead, f, ino), dcdb.EncodeHead(&dcdb.Head{Changed: c.Changed, Attr: dcdb.Attr{Born: c.Born}, Deleted: true}))
	return nil
}

// hasSaved reports whether there is a saved head of an inode in a fork that was
// born at counter born, as b leaves it.
func (v *Volume) hasSaved(ctx context.Context, b *dcdb.Builder, fa *facts, ino, born uint64) (bool, error) {
	if kept := fa.kept[len(fa.kept)-1]; kept < born && !fa.tasks {
		return false, nil // it was never in a snapshot
	}
	return v.savedIn(ctx, b, fa, ino)
}

// savedIn looks for saved heads of a fork's inode in the store and in what b
// changes.
func (v *Volume) savedIn(ctx context.Context, b *dcdb.Builder, fa *facts, ino uint64) (bool, error) {
	if fa.moving != 0 {
		if some, err := v.savedBelow(ctx, b, fa.moving, ino); some || err != nil {
			return some, err
		}
	}
	return v.savedBelow(ctx, b, fa.prefix, ino)
}

func (v *Volume) savedBelow(ctx context.Context, b *dcdb.Builder, in, ino uint64) (bool, error) {
	prefix := key(keySaved, in, ino)
	for _, k := range v.lists.of(b).saved[forkInode{in, ino}] {
		if val, ok := b.Changed(k); ok && val != nil {
			return true, nil
		}
	}
	from := prefix
	for {
		recs, err := b.Store().Scan(ctx, from, after(prefix), 16)
		if err != nil {
			return false, err
		}
		for _, rec := range recs {
			if val, ok := b.Changed(string(rec.Key)); !ok || val != nil {
				return true, nil
			}
		}
		if len(recs) < 16 {
			return false, nil
		}
		from = next(recs[len(recs)-1].Key)
	}
}

// drop records that a fork's live state lost a reference at counter at: what a
// kept counter needs goes on the dead list, the rest is released.
func (v *Volume) drop(ctx context.Context, b *dcdb.Builder, fa *facts, at uint64, d dcdb.Dropped) error {
	if fa.needed(d.Since, at) {
		v.lists.of(b).add(fa.prefix, at, d.Since, entry{kind: entryRef, id: d.ID, size: uint64(d.ID.Len)})
		return nil
	}
	return v.release(ctx, b, d.ID)
}

// Share counts one reference to an object more.
func (r *rules) Share(ctx context.Context, b *dcdb.Builder, id store.ID) error {
	n, err := extraRefs(ctx, b, id)
	if err != nil {
		return err
	}
	r.extras = true
	b.Put(extraKey(id), encode(n+1))
	return nil
}

func extraKey(id store.ID) []byte { return id.Append(key(keyExtra)) }

// extraRefs returns how many references an object has besides its first.
func extraRefs(ctx context.Context, b *dcdb.Builder, id store.ID) (uint64, error) {
	val, err := b.Get(ctx, extraKey(id))
	if err != nil || val == nil {
		return 0, err
	}
	r := newReader(val)
	n := r.num()
	if err := r.end(); err != nil {
		return 0, fmt.Errorf("extra references of %v: %w", id, err)
	}
	return n, nil
}

// release gives one reference to an object up. The object is free when it was
// the last one.
func (v *Volume) release(ctx context.Context, b *dcdb.Builder, id store.ID) error {
	if v.extras {
		n, err := extraRefs(ctx, b, id)
		if err != nil {
			return err
		}
		switch {
		case n > 1:
			b.Put(extraKey(id), encode(n-1))
			return nil
		case n == 1:
			b.Delete(extraKey(id))
			return nil
		}
	}
	b.Free(id)
	return nil
}

// Finish writes the dead lists' new entries and sums.
func (r *rules) Finish(ctx context.Context, b *dcdb.Builder) error {
	v := (*Volume)(r)
	l := v.lists.of(b)
	if l.wake {
		v.wakeReclaimer()
	}
	return l.write(ctx, b)
}
