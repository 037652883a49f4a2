package snap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// Kinds of fixes, in the order in which they are made.
const (
	fixIndex   = 1 // a head gets its index record
	fixNoIndex = 2 // an index record without head goes
	fixSum     = 3 // n: what a dead list holds for a span
	fixExtra   = 4 // n: an object's extra references
	fixLeak    = 5 // an object is freed
)

// fix is how a problem is mended. It says all that is to be done by itself, so
// that fixes may be made in any number of groups, and again.
type fix struct {
	whole bool // only in a volume of which all could be read, see Repair
	kind  byte
	key   [3]uint64 // of an index record or a sum: fork and more
	id    store.ID
	n     [2]uint64
}

const fixBytes = 1 + 1 + 3*8 + 8 + 3*4 + 2*8

func (x *fix) append(b []byte) []byte {
	b = append(b, 0, x.kind)
	if x.whole {
		b[len(b)-2] = 1
	}
	for _, n := range x.key {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = binary.BigEndian.AppendUint64(b, x.id.Group)
	for _, n := range [...]uint32{x.id.Seg, x.id.Off, x.id.Len} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	for _, n := range x.n {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func decodeFix(b []byte) fix {
	u64, u32 := binary.BigEndian.Uint64, binary.BigEndian.Uint32
	return fix{
		whole: b[0] == 1, kind: b[1],
		key: [3]uint64{u64(b[2:]), u64(b[10:]), u64(b[18:])},
		id:  store.ID{Group: u64(b[26:]), Seg: u32(b[34:]), Off: u32(b[38:]), Len: u32(b[42:])},
		n:   [2]uint64{u64(b[46:]), u64(b[54:])},
	}
}

// String says what the fix does, when it is done.
func (x *fix) String() string {
	switch x.kind {
	case fixIndex:
		return fmt.Sprintf("inode %d of fork %d at %d: index record made", x.key[2], x.key[0], x.key[1])
	case fixNoIndex:
		return fmt.Sprintf("inode %d of fork %d at %d: index record removed", x.key[2], x.key[0], x.key[1])
	case fixSum:
		return fmt.Sprintf("fork %d, [%d, %d): sum set to %d entries of %d bytes", x.key[0], x.key[2], x.key[1], x.n[0], x.n[1])
	case fixExtra:
		return fmt.Sprintf("object %v: set to %d references", x.id, 1+x.n[0])
	default:
		return fmt.Sprintf("object %v: freed", x.id)
	}
}

// make makes the fix part of a group.
func (x *fix) make(b *dcdb.Builder) {
	set := func(k []byte, nums ...uint64) {
		if nums[0] == 0 {
			b.Delete(k)
		} else {
			b.Put(k, encode(nums...))
		}
	}
	switch x.kind {
	case fixIndex:
		b.Put(key(keyIndex, x.key[:]...), []byte{})
	case fixNoIndex:
		b.Delete(key(keyIndex, x.key[:]...))
	case fixSum:
		set(key(keySum, x.key[:]...), x.n[:]...)
	case fixExtra:
		set(extraKey(x.id), x.n[0])
	case fixLeak:
		b.Delete(extraKey(x.id))
		b.Free(x.id)
	}
}

// mend notes a problem that x mends.
func (c *checker) mend(x fix, number int, format string, args ...any) {
	c.tell(fmt.Sprintf("(%d) %s", number, fmt.Sprintf(format, args...)))
	if c.fixes == nil {
		return
	}
	if err := c.fixes.Add(x.append(nil)); err != nil && c.failed == nil {
		c.failed = err
	}
}

// Repair is Check, and then mends what can be mended without a doubt: index
// records and sums of dead lists are made to agree with the heads and lists that
// there are, the counts of objects with the references to them, and objects that
// nothing refers to are freed. mended is called for each of these when it is
// durable. The volume must have been opened with Options.Still, so that nobody
// else changes it; a crash in the middle leaves less to be mended. What is freed
// may be erased only after the next Open.
//
// The rule: who frees, or takes a count down or a record away, must have seen all
// references. So if the check found anything else that is wrong, be it a record
// that can't be read, a missing object or two records that contradict each other,
// only index records are made and counts are raised: the worst that these can do
// is to keep something that nobody needs.
func (v *Volume) Repair(ctx context.Context, o CheckOptions, mended func(line string)) (CheckReport, error) {
	if !v.still {
		return CheckReport{}, errors.New("repair: the volume is in use")
	}
	if err := v.space.SyncAll(ctx); err != nil {
		return CheckReport{}, fmt.Errorf("repair: %w", err)
	}
	c := newChecker(ctx, v.st, o)
	defer c.close()
	c.repair()
	if err := c.run(); err != nil {
		return c.report, fmt.Errorf("check: %w", err)
	}
	if err := v.makeFixes(ctx, c, mended); err != nil {
		return c.report, fmt.Errorf("repair: %w", err)
	}
	return c.report, nil
}

// fixesPerGroup is how many fixes are made at once; a test has fewer.
var fixesPerGroup = 500

func (v *Volume) makeFixes(ctx context.Context, c *checker, mended func(line string)) error {
	rows, err := c.fixes.Sort()
	if err != nil {
		return err
	}
	for {
		var some []fix
		for len(some) < fixesPerGroup {
			row, err := rows.Next()
			if err != nil {
				return err
			}
			if row == nil {
				break
			}
			if x := decodeFix(row); c.report.Whole || !x.whole {
				some = append(some, x)
			}
		}
		if len(some) == 0 {
			return v.space.SyncAll(ctx)
		}
		err := v.space.Work(ctx, mainFork, 2*len(some), 100*len(some), func(ctx context.Context, b *dcdb.Builder) error {
			for i := range some {
				some[i].make(b)
				v.extras = v.extras || some[i].kind == fixExtra
			}
			return nil
		})
		if err != nil {
			return err
		}
		for i := range some {
			mended(some[i].String())
		}
	}
}
