package snap

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
	"dcfs/spill"
)

// CheckOptions say how thorough a Check is.
type CheckOptions struct {
	Contents    bool                  // read file data too, and verify its checksums
	Progress    func(done, total int) // called now and then; nil: never
	Problem     func(line string)     // called for each of the report's Problems; may be nil
	MaxProblems int                   // that are told; a Check gives up then, a Repair does not; default 1000
	Spill       spill.Options         // the memory that is taken, about
}

// CheckReport is what a Check found.
type CheckReport struct {
	// Problems are one line each, with the number of the invariant that does
	// not hold in the package comment, of this package or (for what is inside
	// a head) of package dcdb; (0) is a record that makes no sense.
	Problems []string
	Whole    bool // all problems are such that Repair mends

	Forks     int
	Snapshots int // with a name
	Heads     int
	Saved     int // heads
	Objects   int
	Bytes     uint64 // of objects
}

// WaitIdle returns when nothing is left to commit, to trim, to reclaim or to erase.
// What is overwritten meanwhile it does not wait for: there may always be some of it.
// An error is why something can't be reclaimed.
func (v *Volume) WaitIdle(ctx context.Context) error {
	defer v.space.Hurry()()
	var freed uint64 // the group that freed the last of what is to be erased
	for {
		trimmed := v.space.Trimming() == 0 // what it dropped is in a group
		if err := v.space.SyncAll(ctx); err != nil {
			return err
		}
		done, left := v.reclaimed()
		if freed == 0 && trimmed && done {
			freed = v.st.LastGroup()
		}
		if freed != 0 && v.space.Erased(freed) {
			return cmp.Or(v.space.SyncAll(ctx), left) // the eraser's last words
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Check verifies all records and objects of the volume as they are committed:
// the invariants of this package and those of package dcdb. It sees one state:
// when a group is committed meanwhile it begins anew, and gives up with ErrBusy
// after a few times. Reclamation that is not finished is no problem. Its memory is
// bounded by the options, but for some words for each fork and snapshot; what does
// not fit goes to a temporary file.
func (v *Volume) Check(ctx context.Context, o CheckOptions) (CheckReport, error) {
	for range 5 {
		if err := v.space.SyncAll(ctx); err != nil {
			return CheckReport{}, fmt.Errorf("check: %w", err)
		}
		group := v.st.LastGroup()
		r, err := check(ctx, v.st, o)
		if v.st.LastGroup() == group {
			return r, err
		}
	}
	return CheckReport{}, fmt.Errorf("check: %w: the volume is being changed", ErrBusy)
}

// errEnough ends a check that has found too many problems.
var errEnough = errors.New("too many problems")

func check(ctx context.Context, st store.Store, o CheckOptions) (CheckReport, error) {
	c := newChecker(ctx, st, o)
	defer c.close()
	if err := c.run(); err != nil {
		return c.report, fmt.Errorf("check: %w", err)
	}
	return c.report, nil
}

// checker is one run of check.
type checker struct {
	ctx    context.Context
	st     store.Store
	o      CheckOptions
	last   uint64 // the last committed group
	report CheckReport

	nextFork    uint64
	nextView    uint32
	forks       map[uint64]*checkedFork
	numbers     map[uint32]string // view numbers, and what has them
	done, total int

	accounts *spill.Sorter
	fixes    *spill.Sorter // nil: nothing is to be mended
	row      []byte        // for account
	failed   error         // of accounts or fixes
}

func newChecker(ctx context.Context, st store.Store, o CheckOptions) *checker {
	if o.MaxProblems == 0 {
		o.MaxProblems = 1000
	}
	if o.Progress == nil {
		o.Progress = func(int, int) {}
	}
	if o.Problem == nil {
		o.Problem = func(string) {}
	}
	return &checker{
		ctx: ctx, st: st, o: o, last: st.LastGroup(), report: CheckReport{Whole: true},
		forks: map[uint64]*checkedFork{}, numbers: map[uint32]string{},
		accounts: spill.New(accountBytes, o.Spill.Share(2)),
	}
}

// repair has the checker gather fixes, for all problems that there are.
func (c *checker) repair() { c.fixes = spill.New(fixBytes, c.o.Spill.Share(8)) }

func (c *checker) close() {
	c.accounts.Close()
	if c.fixes != nil {
		c.fixes.Close()
	}
}

func (c *checker) run() error {
	for _, step := range [...]func() error{c.kinds, c.readRecords, c.forkRecords, c.walkForks, c.walkObjects, c.refers} {
		if err := step(); errors.Is(err, errEnough) {
			c.report.Whole = false
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// checkedFork is a fork as its records have it.
type checkedFork struct {
	*fork
	parentID uint64
	tasks    []task
	pins     map[uint64]int // by counter: forks that begin there
	bytes    map[uint64]int64
}

// problem notes that invariant number of the package comment does not hold.
func (c *checker) problem(number int, format string, args ...any) {
	c.note(fmt.Sprintf("(%d) %s", number, fmt.Sprintf(format, args...)))
}

// note notes a problem that can't be mended.
func (c *checker) note(line string) {
	c.report.Whole = false
	c.tell(line)
}

func (c *checker) tell(line string) {
	if len(c.report.Problems) < c.o.MaxProblems {
		c.report.Problems = append(c.report.Problems, line)
		c.o.Problem(line)
	}
}

// enough returns errEnough when no more problems are wanted, or why the check
// can't go on.
func (c *checker) enough() error {
	if c.failed != nil {
		return c.failed
	}
	if len(c.report.Problems) >= c.o.MaxProblems && c.fixes == nil {
		return errEnough
	}
	return c.ctx.Err()
}

func (c *checker) step() {
	c.done++
	if c.done%256 == 0 || c.done == c.total {
		c.o.Progress(c.done, max(c.done, c.total))
	}
}

// scan calls fn for all records of a prefix. What can't be read is a problem, and
// ends it: no one knows where the next record begins.
func (c *checker) scan(prefix []byte, fn func(k, val []byte) error) error {
	err := scan(c.ctx, c.st, prefix, func(k, val []byte) error {
		if err := c.enough(); err != nil {
			return err
		}
		if err := fn(k, val); err != nil {
			if !errors.Is(err, dcdb.ErrCorrupt) && !errors.Is(err, dcdb.ErrVersion) {
				return err
			}
			c.problem(0, "record %x: %v", k, err)
		}
		return nil
	})
	if errors.Is(err, store.ErrCorrupt) {
		c.problem(0, "records %q: %v", prefix[:1], err)
		return nil
	}
	return err
}

// kinds looks for records that nobody knows, and for those of forks that do not
// exist.
func (c *checker) kinds() error {
	for from := []byte{0}; from != nil; {
		recs, err := c.st.Scan(c.ctx, from, nil, 1)
		if errors.Is(err, store.ErrCorrupt) {
			c.problem(0, "records from %x on: %v", from, err)
			from = after(from[:1])
			continue
		}
		if err != nil || len(recs) == 0 {
			return err
		}
		k := recs[0].Key
		if !slices.Contains(kinds, k[0]) {
			c.problem(0, "record %x is of an unknown kind", k)
		}
		from = after(k[:1])
	}
	return nil
}

// strays looks for records of forks that do not exist.
func (c *checker) strays() error {
	prefixes := map[uint64]uint64{}
	for _, f := range c.forks {
		for _, p := range f.line(0).prefixes() {
			if other := prefixes[p]; other != 0 {
				c.problem(0, "forks %d and %d both have their heads at %d", other, f.id, p)
			}
			if prefixes[p] = f.id; p >= c.nextFork {
				c.problem(0, "fork %d: its heads are at %d, the next fork is to be %d", f.id, p, c.nextFork)
			}
		}
	}
	ofForks := []byte{keySnap, keyBulk, keyTask, keyHold, keyExpiry, keyPolicy} // the others are of places
	for _, kind := range append([]byte{keyHead, keySaved, keyIndex, keyDead, keySum, keyExcess}, ofForks...) {
		for from := []byte{kind}; len(from) > 0 && from[0] == kind; {
			recs, err := c.st.Scan(c.ctx, from, after([]byte{kind}), 1)
			if errors.Is(err, store.ErrCorrupt) {
				break // whoever scans it meets it
			}
			if err != nil {
				return err
			}
			if len(recs) == 0 {
				break
			}
			k := recs[0].Key
			if len(k) < 9 {
				c.problem(0, "record %x has a bad key", k)
				from = append(k, 0)
				continue
			}
			id := binary.BigEndian.Uint64(k[1:])
			ofFork := slices.Contains(ofForks, kind)
			if ofFork && c.forks[id] == nil || !ofFork && prefixes[id] == 0 {
				c.problem(0, "record %x is of fork %d, which does not exist", k, id)
			}
			from = after(k[:9])
		}
	}
	return nil
}

// readRecords reads all that is not of heads and dead lists.
func (c *checker) readRecords() error {
	for _, step := range [...]func() error{c.readVolume, c.readForks, c.strays, c.readSnapshots, c.readHolds, c.readExpiries, c.readPolicies, c.readTasks, c.readViews, c.readExtras, c.readFree, c.count} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) readVolume() error {
	val, err := c.st.Get(c.ctx, key(keyVolume))
	if err != nil && !errors.Is(err, store.ErrCorrupt) {
		return err
	}
	if err == nil {
		r := newReader(val[0])
		c.nextFork, c.nextView = r.num(), r.u32()
		err = r.end()
	}
	if err != nil {
		c.problem(0, "volume record: %v", err)
		c.nextFork, c.nextView = math.MaxUint64, maxView+1
	}
	return nil
}

func (c *checker) readForks() error {
	return c.scan(key(keyFork), func(k, val []byte) error {
		n, err := keyNums(k, 1)
		if err != nil {
			return err
		}
		f, parent, err := decodeFork(n[0], val)
		if err != nil {
			return err
		}
		c.forks[f.id] = &checkedFork{fork: f, parentID: parent, pins: map[uint64]int{}, bytes: map[uint64]int64{}}
		c.report.Forks++
		return nil
	})
}

func (c *checker) readSnapshots() error {
	return c.scan(key(keySnap), func(k, val []byte) error {
		n, err := keyNums(k, 2)
		if err != nil {
			return err
		}
		f := c.forks[n[0]]
		if f == nil {
			return nil // told by strays
		}
		sn, err := decodeSnapshot(f.fork, n[1], val)
		if err != nil {
			return err
		}
		f.snaps = append(f.snaps, sn)
		if sn.name != "" {
			c.report.Snapshots++
		}
		return nil
	})
}

func (c *checker) readHolds() error {
	return c.scan(key(keyHold), func(k, val []byte) error {
		n, err := keyNums(k, 2)
		if err != nil {
			return err
		}
		if _, err := decodeTags(val); err != nil {
			return err
		}
		if f := c.forks[n[0]]; f != nil && f.named(n[1]) == nil {
			c.problem(8, "a hold of counter %d of fork %d, which is no snapshot", n[1], n[0])
		}
		return nil
	})
}

func (c *checker) readExpiries() error {
	return c.scan(key(keyExpiry), func(k, val []byte) error {
		n, err := keyNums(k, 2)
		if err != nil {
			return err
		}
		if _, err := decodeExpiry(val); err != nil {
			return err
		}
		if f := c.forks[n[0]]; f != nil && !f.canExpire(n[1]) {
			c.problem(8, "an expiry of counter %d of fork %d, which is no snapshot, nor a live fork", n[1], n[0])
		}
		return nil
	})
}

func (c *checker) readPolicies() error {
	return c.scan(key(keyPolicy), func(k, val []byte) error {
		n, err := keyNums(k, 1)
		if err != nil {
			return err
		}
		if _, err := decodePolicy(val); err != nil {
			return err
		}
		if f := c.forks[n[0]]; f != nil && !f.live {
			c.problem(8, "a retention policy of fork %d, which has no live state", n[0])
		}
		return nil
	})
}

func (c *checker) readTasks() error {
	return c.scan(key(keyTask), func(k, val []byte) error {
		n, err := keyNums(k, 2)
		if err != nil {
			return err
		}
		r := newReader(val)
		t := task{seq: n[1], kind: r.num(), p: r.num(), n: r.num(), x: r.num()}
		if err := r.end(); err != nil {
			return err
		}
		if t.kind < taskSnapshot || t.kind > taskDrop {
			c.problem(0, "task %d of fork %d is of unknown kind %d", n[1], n[0], t.kind)
			return nil
		}
		if f := c.forks[n[0]]; f != nil {
			f.tasks = append(f.tasks, t)
		}
		return nil
	})
}

func (c *checker) readViews() error {
	return c.scan(key(keyViews), func(k, val []byte) error {
		n, err := keyNums(k, 1)
		if err != nil {
			return err
		}
		r := newReader(val)
		number := r.u32()
		if err := r.end(); err != nil {
			return err
		}
		c.number(number, fmt.Sprintf("place %d of the free ones", n[0]))
		return nil
	})
}

// number notes that a view number is in use.
func (c *checker) number(n uint32, who string) {
	if other := c.numbers[n]; other != "" {
		c.problem(0, "view number %d is that of %s and of %s", n, other, who)
	}
	if n >= c.nextView {
		c.problem(0, "view number %d of %s was never given out", n, who)
	}
	c.numbers[n] = who
}

func (c *checker) readExtras() error {
	return c.scan(key(keyExtra), func(k, val []byte) error {
		id, rest, err := dcdb.DecodeID(k[1:])
		if err != nil {
			return err
		}
		r := newReader(val)
		n := r.num()
		if err := r.end(); err != nil {
			return err
		}
		if len(rest) > 0 || n == 0 {
			c.problem(0, "record %x: no object, or none of its references", k)
		}
		c.account(account{id: id, what: objectExtra, counter: n})
		return c.failed
	})
}

func (c *checker) readFree() error {
	return c.scan(dcdb.FreePrefix(), func(k, val []byte) error {
		ids, err := dcdb.DecodeFree(val)
		if err != nil {
			return err
		}
		for _, id := range ids {
			c.account(account{id: id, what: objectFree})
		}
		return c.failed
	})
}

// count finds out how much is to be done.
func (c *checker) count() error {
	return c.scan(key(keyIndex), func(k, val []byte) error { c.total++; return nil })
}

// sorted returns the forks, parents before their children. Numbers do not tell:
// a fork that was merged with its parent has the parent's older forks below it.
func (c *checker) sorted() []*checkedFork {
	return slices.SortedFunc(maps.Values(c.forks), func(a, b *checkedFork) int {
		return cmp.Or(cmp.Compare(c.depth(a), c.depth(b)), cmp.Compare(a.id, b.id))
	})
}

// depth is how many forks there are from f up to the first, f included. It is
// more than there are at all for one that is its own ancestor.
func (c *checker) depth(f *checkedFork) int {
	n := 0
	for n <= len(c.forks) && f != nil {
		f = c.forks[f.parentID]
		n++
	}
	return n
}

// forkRecords verifies what forks and snapshots say of each other.
func (c *checker) forkRecords() error {
	if c.forks[mainFork] == nil {
		c.problem(0, "the record of the first fork is missing")
	}
	for _, f := range c.sorted() {
		c.descent(f)
	}
	names := map[place]uint64{}
	for _, f := range c.sorted() {
		c.naming(f, names)
		c.snapshots(f)
	}
	return c.enough()
}

// descent verifies where a fork begins.
func (c *checker) descent(f *checkedFork) {
	if f.id >= c.nextFork {
		c.problem(0, "fork %d: the next one is to be %d", f.id, c.nextFork)
	}
	if f.counter <= f.origin {
		c.problem(0, "fork %d: its counter %d is not above its origin %d", f.id, f.counter, f.origin)
	}
	if f.first < firstIno || f.reserved < f.first {
		c.problem(0, "fork %d: inode numbers from %d, reserved up to %d", f.id, f.first, f.reserved)
	}
	if f.id == mainFork {
		if f.parentID != 0 || f.origin != 0 || !f.live {
			c.problem(0, "the first fork has a parent %d, an origin %d, or is not live", f.parentID, f.origin)
		}
		return
	}
	p := c.forks[f.parentID]
	if p == nil || c.depth(f) > len(c.forks) {
		c.problem(0, "fork %d: its parent %d does not exist or descends from it", f.id, f.parentID)
		return
	}
	f.parent = p.fork
	p.pins[f.origin]++
	if p.at(f.origin) == nil {
		c.problem(0, "fork %d: its origin %d is not kept in fork %d", f.id, f.origin, p.id)
	}
	if f.first > p.reserved {
		c.problem(0, "fork %d: its own inode numbers begin at %d, but fork %d has reserved %d", f.id, f.first, p.id, p.reserved)
	}
}

// naming verifies where a fork is listed.
func (c *checker) naming(f *checkedFork, names map[place]uint64) {
	if !f.live {
		if f.name != "" || f.place != 0 || f.number != 0 {
			c.problem(0, "fork %d has no live state, but name %q, place %d and number %d", f.id, f.name, f.place, f.number)
		}
		if len(f.snaps) == 0 && len(f.tasks) == 0 {
			c.problem(0, "fork %d has no live state, keeps nothing, and is there", f.id)
		}
		return
	}
	if (f.number == 0) != (f.id == mainFork) {
		c.problem(0, "fork %d has view number %d", f.id, f.number)
	}
	c.number(f.number, fmt.Sprintf("fork %d", f.id))
	if f.id == mainFork {
		return
	}
	if err := CheckName(f.name); err != nil {
		c.problem(0, "fork %d: name %q: %v", f.id, f.name, err)
	}
	at := place{f.place, f.name}
	if other := names[at]; other != 0 {
		c.problem(0, "forks %d and %d are both called %q in fork %d", other, f.id, f.name, f.place)
	}
	names[at] = f.id
	up := f
	for range len(c.forks) {
		if up == nil || up.id == mainFork {
			break
		}
		if up = c.forks[up.place]; up == nil || !up.live {
			c.problem(0, "fork %d is listed in one that has no live state", f.id)
			return
		}
	}
	if up == nil || up.id != mainFork {
		c.problem(0, "fork %d is listed below itself", f.id)
	}
}

// snapshots verifies the kept counters of a fork.
func (c *checker) snapshots(f *checkedFork) {
	names := map[string]bool{}
	for _, sn := range f.snaps {
		who := fmt.Sprintf("snapshot %d of fork %d", sn.counter, f.id)
		if sn.counter <= f.origin || sn.counter >= f.counter {
			c.problem(0, "%s: not between the origin %d and the counter %d", who, f.origin, f.counter)
		}
		if sn.name == "" {
			if f.pins[sn.counter] == 0 || sn.number != 0 {
				c.problem(0, "%s has no name, %d forks begin there, and its view number is %d", who, f.pins[sn.counter], sn.number)
			}
			continue
		}
		if err := CheckName(sn.name); err != nil || names[sn.name] {
			c.problem(0, "%s: name %q: %v, or there is another one", who, sn.name, err)
		}
		names[sn.name] = true
		c.number(sn.number, who)
	}
}

// walkForks verifies heads and dead lists, one fork after the other.
func (c *checker) walkForks() error {
	for _, f := range c.sorted() {
		if err := c.walkFork(f); err != nil {
			return err
		}
	}
	return nil
}
