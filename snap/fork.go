package snap

import (
	"context"
	"encoding/binary"
	"slices"
	"sync/atomic"
	"time"

	"dcfs/dcdb"
)

// Door is one of the two virtual directories through which views are reached.
type Door int

// The doors.
const (
	DoorSnapshots Door = iota
	DoorForks
	doors
)

// DoorAttr is who owns a door and what its mode is: who may write to it may
// create and delete what it lists.
type DoorAttr struct{ UID, GID, Mode uint32 }

// fork is a line of the volume's history. Its fields are guarded by the Space's
// lock; id and created never change, parent, origin and first only by a merge.
type fork struct {
	id       uint64
	prefix   uint64 // what the keys of its heads and dead lists begin with
	moving   uint64 // keys of this prefix are becoming such of prefix; 0: none
	parent   *fork  // nil: the first
	origin   uint64
	first    uint64 // inode numbers from here on are its own, not inherited
	counter  uint64
	next     uint64       // inode number
	reserved uint64       // inode numbers below may have been given out before a crash
	left     atomic.Int64 // numbers from next on that are durably reserved
	live     bool
	name     string
	place    uint64 // the fork whose listing has it; 0: none
	number   uint32
	created  time.Time
	expires  time.Time // zero: never
	policy   Policy    // for automatic snapshots
	doors    [doors]DoorAttr
	touched  [doors]time.Time // when what they list changed

	snaps []*snapshot // by counter; those without a name are origins of forks
	names map[string]*snapshot
	tasks int    // reclaims of it that wait
	ready bool   // durable
	facts *facts // replaced as a whole
	view  *View  // the live one
}

// facts are what the flusher must know of a fork. They never change.
type facts struct {
	fork   uint64
	prefix uint64
	moving uint64
	first  uint64
	parent bool
	kept   []uint64 // ascending; the fork's origin first
	tasks  bool     // reclaims are to be done: saved heads may exist that no kept counter needs
}

// snapshot is a kept counter of a fork.
type snapshot struct {
	fork    *fork
	counter uint64
	name    string // "": only an origin
	number  uint32
	created time.Time
	refer   uint64 // bytes that it refers to, if counted
	counted bool
	expires time.Time // zero: never
	tags    []string  // that hold it, ascending; replaced as a whole
	pins    int       // forks that begin here
	ready   bool      // durable
	view    *View
}

func (f *fork) encode() []byte {
	var parent uint64
	if f.parent != nil {
		parent = f.parent.id
	}
	var live uint64
	if f.live {
		live = 1
	}
	b := encode(parent, f.origin, f.first, f.counter, f.reserved, live, f.place, uint64(f.number), uint64(f.created.UnixNano()))
	for _, d := range f.doors {
		for _, n := range [...]uint32{d.UID, d.GID, d.Mode} {
			b = binary.AppendUvarint(b, uint64(n))
		}
	}
	b = appendStr(b, f.name)
	if f.prefix != f.id || f.moving != 0 {
		b[0] = forkMerged
		b = binary.AppendUvarint(binary.AppendUvarint(b, f.prefix), f.moving)
	}
	return b
}

// forkMerged is the version of the record of a fork that took a parent's place:
// it says where its heads and dead lists are.
const forkMerged = 2

// decodeFork reads a fork record. The parent is returned by its number.
func decodeFork(id uint64, val []byte) (f *fork, parent uint64, err error) {
	r := newReaderUpTo(val, forkMerged)
	f = &fork{id: id, prefix: id, ready: true, names: map[string]*snapshot{}}
	parent, f.origin, f.first, f.counter, f.reserved = r.num(), r.num(), r.num(), r.num(), r.num()
	f.next = f.reserved
	f.live = r.bool()
	f.place, f.number = r.num(), r.u32()
	f.created = time.Unix(0, int64(r.num())).UTC()
	for i := range f.doors {
		f.doors[i] = DoorAttr{r.u32(), r.u32(), r.u32()}
	}
	f.name = r.str()
	if r.err == nil && val[0] == forkMerged {
		f.prefix, f.moving = r.num(), r.num()
		if r.err == nil && (f.prefix == 0 || f.prefix == f.moving || f.prefix == id && f.moving == 0) {
			r.fail()
		}
	}
	return f, parent, r.end()
}

func (sn *snapshot) encode() []byte {
	b := appendStr(encode(uint64(sn.number), uint64(sn.created.UnixNano())), sn.name)
	if sn.counted {
		b[0] = snapshotCounted
		b = binary.AppendUvarint(b, sn.refer)
	}
	return b
}

// snapshotCounted is the version of the record of a snapshot which says how many
// bytes it refers to.
const snapshotCounted = 2

func decodeSnapshot(f *fork, counter uint64, val []byte) (*snapshot, error) {
	r := newReaderUpTo(val, snapshotCounted)
	sn := &snapshot{fork: f, counter: counter, number: r.u32(), ready: true}
	sn.created = time.Unix(0, int64(r.num())).UTC()
	sn.name = r.str()
	if r.err == nil && val[0] == snapshotCounted {
		sn.refer, sn.counted = r.num(), true
	}
	return sn, r.end()
}

// changed makes the fork's facts anew.
func (f *fork) changed() {
	kept := make([]uint64, 0, len(f.snaps)+1)
	kept = append(kept, f.origin)
	for _, sn := range f.snaps {
		kept = append(kept, sn.counter)
	}
	f.setKept(kept)
}

func (f *fork) setKept(kept []uint64) {
	f.facts = &facts{fork: f.id, prefix: f.prefix, moving: f.moving, first: f.first, parent: f.parent != nil, kept: kept, tasks: f.tasks > 0}
}

// keep adds the present counter to the kept ones and raises it. The kept
// counters of older facts are a prefix of the new ones, in the same memory.
func (f *fork) keep(sn *snapshot) {
	f.snaps = append(f.snaps, sn)
	if sn.name != "" {
		f.names[sn.name] = sn
		f.touch(DoorSnapshots, sn.created)
	}
	f.counter++
	f.setKept(append(f.facts.kept, sn.counter))
}

// needed reports whether a kept counter k has since <= k < death.
func (fa *facts) needed(since, death uint64) bool {
	i, _ := slices.BinarySearch(fa.kept, since)
	return i < len(fa.kept) && fa.kept[i] < death
}

// at returns the kept counter n of f.
func (f *fork) at(n uint64) *snapshot {
	if i, ok := f.find(n); ok {
		return f.snaps[i]
	}
	return nil
}

func (f *fork) find(n uint64) (int, bool) {
	return slices.BinarySearchFunc(f.snaps, n, func(s *snapshot, n uint64) int {
		switch {
		case s.counter < n:
			return -1
		case s.counter > n:
			return 1
		}
		return 0
	})
}

// View is what one directory tree shows: a fork's live state, or one of its
// snapshots. There is one *View for each as long as it exists. All methods may
// be called concurrently.
type View struct {
	v    *Volume
	fork *fork
	snap *snapshot // nil: live
	gone atomic.Bool

	number uint32 // immutable
}

// Volume returns the volume.
func (w *View) Volume() *Volume { return w.v }

// Key returns the key of an inode in this view.
func (w *View) Key(ino uint64) dcdb.Key {
	at := uint64(dcdb.Live)
	if w.snap != nil {
		at = w.snap.counter
	}
	return dcdb.Key{Fork: w.fork.id, At: at, Ino: ino}
}

// IsSnapshot reports whether w is a snapshot.
func (w *View) IsSnapshot() bool { return w.snap != nil }

// ReadOnly reports whether nothing in w can be changed.
func (w *View) ReadOnly() bool { return w.snap != nil }

// Counter is the counter of a snapshot: an inode is in it that was born at this
// counter or below, and not deleted. It is dcdb.Live for a live view.
func (w *View) Counter() uint64 { return w.Key(0).At }

// Err returns ErrGone once the view was deleted.
func (w *View) Err() error {
	if w.gone.Load() {
		return ErrGone
	}
	return nil
}

// Number is the view number, which no other view of the volume has; another may
// get it when this one is deleted. Main's is 0.
func (w *View) Number() uint32 { return w.number }

// Created is when the fork or snapshot was made.
func (w *View) Created() time.Time {
	if w.snap != nil {
		return w.snap.created
	}
	return w.fork.created
}

// Name returns a snapshot's name, or a fork's with those it is listed below, as
// in "try/again". Main's is "main".
func (w *View) Name() (name string) {
	w.v.space.Locked(func() {
		if w.snap != nil {
			name = w.snap.name
			return
		}
		name = w.v.pathName(w.fork)
	})
	return name
}

// pathName returns a fork's name with those it is listed below. Space.mu is held.
func (v *Volume) pathName(f *fork) string {
	name := f.name
	for f = v.forks[f.place]; f != nil && f.id != mainFork; f = v.forks[f.place] {
		name = f.name + "/" + name
	}
	return name
}

// Live returns the live view of the fork that w is of. It may be gone.
func (w *View) Live() *View { return w.fork.view }

// NewIno returns an inode number that the view's line has never given out. It
// must be called inside Space.Update. A number for which ReserveInos was not
// called before may be given out again after a crash that takes the inode away.
func (w *View) NewIno() uint64 {
	f := w.fork
	if f.next >= f.reserved {
		f.reserved = f.next + inodeBlock
		w.v.space.MetaLocked().Put(key(keyFork, f.id), f.encode())
	}
	f.next++
	f.left.Add(-1)
	return f.next - 1
}

// inodeBlock is how many inode numbers are reserved at once, and lost at most
// when the program is killed. ReserveInos leaves a quarter of it: more than can
// ask for a number between its look and theirs.
const inodeBlock = 1 << 16

// ReserveInos makes sure that the numbers that NewIno gives out next are durably
// reserved. It waits for a commit once in a while, and the first time after a
// mount.
func (w *View) ReserveInos(ctx context.Context) error {
	f := w.fork
	if f.left.Load() > inodeBlock/4 {
		return nil
	}
	var reserved uint64
	err := w.v.space.Meta(ctx, true, func(m *dcdb.Meta) error {
		if err := w.v.changeable(w); err != nil {
			return err
		}
		f.reserved = max(f.reserved, f.next+inodeBlock)
		reserved = f.reserved
		m.Put(key(keyFork, f.id), f.encode())
		return nil
	})
	if err != nil {
		return err
	}
	w.v.space.Exclusive(func() { f.left.Store(int64(reserved - f.next)) })
	return nil
}

// Door returns owner and mode of one of the fork's doors.
func (w *View) Door(d Door) (a DoorAttr) {
	w.v.space.Locked(func() { a = w.fork.doors[d] })
	return a
}
