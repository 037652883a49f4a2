package snap

import (
	"encoding/binary"

	"dcfs/dcdb/store"
)

// What an account says of an object. Those of one fork and since are in this
// order.
const (
	objectExists = 1 // in the store
	objectFree   = 2 // named by a record of freed ones
	objectExtra  = 3 // counter: extra references
	objectShown  = 4 // by a state of an inode; counter: the state's
	objectListed = 5 // on the dead list; counter: the death
	objectBulk   = 6 // by a tree that was dropped as a whole
)

// Flags of an account.
const (
	flagCounts    = 1 << 4 // is a reference by invariant (2)
	flagInherited = 1 << 5 // a fork shows what its parents refer to
	flagMustShow  = 1 << 6 // a state must show what is listed
	kindBits      = flagCounts - 1
)

// account is one thing that a check found about an object. It is a row of a
// spill.Sorter, which brings all about one object together: memory would not do
// for all objects of a volume.
type account struct {
	id          store.ID
	fork, since uint64 // 0: no reference
	what        byte
	counter     uint64
	flags       byte // the object's kind too, if it is known
}

const accountBytes = 8 + 3*4 + 2*8 + 1 + 8 + 1

func (a *account) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, a.id.Group)
	for _, n := range [...]uint32{a.id.Seg, a.id.Off, a.id.Len} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	b = binary.BigEndian.AppendUint64(b, a.fork)
	b = binary.BigEndian.AppendUint64(b, a.since)
	b = append(b, a.what)
	b = binary.BigEndian.AppendUint64(b, a.counter)
	return append(b, a.flags)
}

func decodeAccount(b []byte) account {
	u64, u32 := binary.BigEndian.Uint64, binary.BigEndian.Uint32
	return account{
		id:   store.ID{Group: u64(b), Seg: u32(b[8:]), Off: u32(b[12:]), Len: u32(b[16:])},
		fork: u64(b[20:]), since: u64(b[28:]), what: b[36], counter: u64(b[37:]), flags: b[45],
	}
}

// tally is all that was found about one object.
type tally struct {
	id        store.ID
	kind      store.Kind // 0: not known
	refs      uint64     // invariant (2)
	extra     uint64
	shown     bool // by a state, a dead list or a dropped tree, counted or not
	inherited bool // a fork shows what its parents refer to
	free      int  // times
	exists    bool

	fork, since uint64 // of the references that come at present
	oldest      uint64 // state that shows the object by one of them; 0: none
}

// account gathers what is found about an object until walkObjects.
func (c *checker) account(a account) {
	c.row = a.append(c.row[:0])
	if err := c.accounts.Add(c.row); err != nil && c.failed == nil {
		c.failed = err
	}
}

// add counts one account.
func (c *checker) add(t *tally, a *account) {
	switch a.what {
	case objectExists:
		t.exists = true
		return
	case objectFree:
		if t.free++; t.free > 1 {
			c.problem(2, "object %v was freed twice", a.id)
		}
		return
	case objectExtra:
		t.extra = a.counter
		return
	}
	if a.fork != t.fork || a.since != t.since {
		t.fork, t.since, t.oldest = a.fork, a.since, 0
	}
	t.shown = true
	t.inherited = t.inherited || a.flags&flagInherited != 0
	if a.flags&flagCounts != 0 {
		t.refs++
	}
	switch a.what {
	case objectShown:
		kind := store.Kind(a.flags & kindBits)
		if t.kind != 0 && t.kind != kind {
			c.problem(2, "object %v is referred to as kind %d and as kind %d", a.id, t.kind, kind)
		}
		t.kind = kind
		if t.oldest == 0 {
			t.oldest = a.counter
		}
	case objectListed:
		if a.flags&flagMustShow != 0 && (t.oldest == 0 || t.oldest >= a.counter) {
			c.problem(1, "fork %d, [%d, %d): object %v is on the dead list, and no state shows it", a.fork, a.since, a.counter, a.id)
		}
	}
}

// walkObjects compares the objects that there are with those that are referred to.
func (c *checker) walkObjects() error {
	if err := c.listObjects(); err != nil {
		return err
	}
	rows, err := c.accounts.Sort()
	if err != nil {
		return err
	}
	var t tally
	for {
		row, err := rows.Next()
		if err != nil {
			return err
		}
		var a account
		if row != nil {
			a = decodeAccount(row)
		}
		if a.id != t.id {
			if !t.id.IsZero() {
				if err := c.object(&t); err != nil {
					return err
				}
			}
			t = tally{id: a.id}
		}
		if row == nil {
			return c.enough()
		}
		c.add(&t, &a)
	}
}

// listObjects finds the objects that there are. Each call of List may look at all
// of the store: it is made for as many as memory bears.
func (c *checker) listObjects() error {
	limit := min(max(c.o.Spill.Share(4).Bytes/32, 1), 1<<19)
	for from := (store.ID{}); ; {
		ids, err := c.st.List(c.ctx, from, limit)
		if err != nil || len(ids) == 0 {
			return err
		}
		for _, id := range ids {
			if id.Group <= c.last { // else written ahead
				c.account(account{id: id, what: objectExists})
				c.report.Objects++
				c.report.Bytes += uint64(id.Len)
			}
		}
		if c.o.Contents {
			c.total += len(ids)
		}
		if err := c.enough(); err != nil {
			return err
		}
		from = ids[len(ids)-1]
	}
}

// object verifies what was found about one object.
func (c *checker) object(t *tally) error {
	c.references(t)
	if c.o.Contents {
		if err := c.contents(t); err != nil {
			return err
		}
		c.step()
	}
	return c.enough()
}

func (c *checker) references(t *tally) {
	want := 1 + t.extra
	switch {
	case t.free > 0 && (t.shown || t.extra > 0):
		c.problem(2, "object %v is free, but has %d references of %d", t.id, t.refs, want)
	case t.free > 0:
	case !t.exists && t.shown:
		c.problem(2, "object %v is referred to and does not exist", t.id)
	case t.refs == want:
	case t.refs > 0:
		c.mend(fix{kind: fixExtra, id: t.id, n: [2]uint64{t.refs - 1}, whole: t.refs < want}, 2, "object %v has %d references, want %d", t.id, t.refs, want)
	case t.shown:
		c.problem(2, "object %v has no reference that counts, want %d, and is shown", t.id, want)
	case t.exists:
		c.mend(fix{kind: fixLeak, id: t.id, whole: true}, 2, "object %v has 0 references, want %d", t.id, want)
	default:
		c.mend(fix{kind: fixExtra, id: t.id, whole: true}, 2, "object %v has 0 references, want %d, and does not exist", t.id, want)
	}
}

// contents reads a content. Pages and table nodes have been read before.
func (c *checker) contents(t *tally) error {
	if !t.exists || t.free > 0 || t.kind != store.KindContent {
		return nil
	}
	if err := c.st.Read(c.ctx, t.id, store.KindContent, 0, make([]byte, t.id.Len)); err != nil {
		if c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		c.problem(0, "content %v: %v", t.id, err)
	}
	return nil
}
