package snap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// Inode numbers that each fork has from the start.
const (
	RootIno   = 1 // the root directory
	OrphanIno = 2 // the directory of inodes that are in use and have no name
	firstIno  = 16
)

const mainFork = 1 // the number of the first fork

// Options of a Volume. A zero field means its default.
type Options struct {
	CacheBytes     int64         // of memory, see dcdb.Options
	DirtyBytes     int64         // likewise
	CommitInterval time.Duration // likewise
	SizeBytes      int64         // that the store may take; default: what its disk has
	Still          bool          // no background work: nothing is reclaimed or erased, for a look at a volume as it is
	Now            func() time.Time
	Log            func(format string, args ...any)

	atOnce int // heads to be moved, names to be dropped in a step; default: stepHeads
}

// Volume is everything in one store. All methods may be called concurrently.
type Volume struct {
	st    store.Store
	space *dcdb.Space
	size  uint64 // limit of the store's bytes; 0: none
	now   func() time.Time
	log   func(format string, args ...any)

	// Guarded by the Space's lock.
	forks     map[uint64]*fork
	places    places
	nextFork  uint64
	nextView  uint32
	views     viewNumbers
	tasks     []*task          // by number
	expiring  map[*View]bool   // those that have an expiry
	retaining map[*fork]bool   // those that have a policy
	stuck     map[uint64]stuck // forks by number

	merges atomic.Uint64 // counts merges that have begun
	mover  mover         // the reclaimer's
	atOnce int

	// The reclaimer's: where it is in sums, dead lists and indexes.
	sumAt, deadAt, indexAt queueCursor
	pressure               pressure
	stepErrors             dcdb.Repeated

	trees droppedTrees

	lists  lists // the flusher's
	extras bool  // there are objects with extra references

	still bool // immutable; no background work
	wake  chan struct{}
	clock chan struct{} // wakes the Clock
	stop  context.CancelFunc
	done  chan struct{}
}

// Open opens the volume in a store, and makes a new one if the store is empty.
// The store is the volume's to use until Close, and the caller's to close then.
func Open(ctx context.Context, st store.Store, o Options) (*Volume, error) {
	v := &Volume{st: st, size: uint64(max(o.SizeBytes, 0)), now: o.Now, log: o.Log, forks: map[uint64]*fork{}, places: places{}, atOnce: o.atOnce, wake: make(chan struct{}, 1), done: make(chan struct{}),
		expiring: map[*View]bool{}, retaining: map[*fork]bool{}, stuck: map[uint64]stuck{}, clock: make(chan struct{}, 1)}
	if v.now == nil {
		v.now = time.Now
	}
	if v.log == nil {
		v.log = func(string, ...any) {}
	}
	if v.atOnce == 0 {
		v.atOnce = stepHeads
	}
	fresh := st.LastGroup() == 0
	var excess []dcdb.Key
	if !fresh {
		err := v.load(ctx)
		if err == nil {
			excess, err = v.loadExcess(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("open volume: %w", err)
		}
	}
	v.space = dcdb.NewSpace(st, (*rules)(v), dcdb.Options{
		CacheBytes: o.CacheBytes, DirtyBytes: o.DirtyBytes, Interval: o.CommitInterval, Still: o.Still, Free: v.free, Now: v.now, Log: v.log,
	})
	if fresh {
		if err := v.format(ctx); err != nil {
			v.space.Close(ctx)
			return nil, fmt.Errorf("make volume: %w", err)
		}
	}
	bg, cancel := context.WithCancel(context.Background())
	v.stop, v.still = cancel, o.Still
	if v.still {
		close(v.done)
		return v, nil
	}
	if err := v.eraseEarlier(ctx); err != nil {
		cancel()
		v.space.Close(ctx)
		return nil, fmt.Errorf("open volume: %w", err)
	}
	v.space.Trim(excess)
	go v.reclaimer(bg)
	return v, nil
}

// eraseEarlier hands over what earlier runs had freed.
func (v *Volume) eraseEarlier(ctx context.Context) error {
	return scan(ctx, v.st, dcdb.FreePrefix(), func(k, val []byte) error {
		ids, err := dcdb.DecodeFree(val)
		if err == nil {
			v.space.Erase(ids, [][]byte{k})
		}
		return err
	})
}

// format makes the first fork, with its root and its directory of orphans.
func (v *Volume) format(ctx context.Context) error {
	f := &fork{
		id: mainFork, prefix: mainFork, counter: 1, first: firstIno, next: firstIno, reserved: firstIno + inodeBlock,
		live: true, ready: true, name: "main", created: v.now().UTC(), names: map[string]*snapshot{},
	}
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	for d := range f.doors {
		f.doors[d] = DoorAttr{uid, gid, 0o755}
	}
	v.nextFork, v.nextView = mainFork+1, 1
	f.changed()
	f.view = &View{v: v, fork: f}
	err := v.space.Update(ctx, func(tx *dcdb.Tx) error {
		v.forks[f.id] = f
		m := v.space.MetaLocked()
		m.Put(key(keyFork, f.id), f.encode())
		v.putVolume(m)
		now := tx.Now()
		for _, ino := range [...]uint64{RootIno, OrphanIno} {
			a := dcdb.Attr{
				Mode: syscall.S_IFDIR | 0o755, UID: uid, GID: gid, Nlink: 2, NextCookie: 3,
				Atime: now, Mtime: now, Ctime: now, Btime: now, Parent: ino,
			}
			if ino == OrphanIno {
				a.Mode = syscall.S_IFDIR
			}
			tx.Create(f.view.Key(ino), a)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return v.space.SyncAll(ctx)
}

func (v *Volume) putVolume(m *dcdb.Meta) {
	m.Put(key(keyVolume), encode(v.nextFork, uint64(v.nextView)))
}

// load reads forks, snapshots and work to be done.
func (v *Volume) load(ctx context.Context) error {
	val, err := v.st.Get(ctx, key(keyVolume))
	if err != nil {
		return err
	}
	if val[0] == nil {
		return fmt.Errorf("%w: the store has no volume record", dcdb.ErrCorrupt)
	}
	r := newReader(val[0])
	v.nextFork, v.nextView = r.num(), r.u32()
	if err := r.end(); err != nil {
		return fmt.Errorf("volume record: %w", err)
	}
	parents := map[*fork]uint64{}
	err = scan(ctx, v.st, key(keyFork), func(k, val []byte) error {
		n, err := keyNums(k, 1)
		if err != nil {
			return err
		}
		f, parent, err := decodeFork(n[0], val)
		if err != nil {
			return fmt.Errorf("fork %d: %w", n[0], err)
		}
		f.view = &View{v: v, fork: f, number: f.number}
		f.view.gone.Store(!f.live)
		v.forks[f.id] = f
		if f.place != 0 {
			v.places.put(f)
		}
		parents[f] = parent
		return nil
	})
	if err != nil {
		return err
	}
	if v.forks[mainFork] == nil {
		return fmt.Errorf("%w: the record of the first fork is missing", dcdb.ErrCorrupt)
	}
	if err := v.loadSnapshots(ctx); err != nil {
		return err
	}
	for _, load := range [...]func(context.Context) error{v.loadTags, v.loadExpiries, v.loadPolicies} {
		if err := load(ctx); err != nil {
			return err
		}
	}
	for f, parent := range parents {
		if parent == 0 {
			continue
		}
		if f.parent = v.forks[parent]; f.parent == nil {
			return fmt.Errorf("%w: the record of fork %d, parent of %d, is missing", dcdb.ErrCorrupt, parent, f.id)
		}
		sn := f.parent.at(f.origin)
		if sn == nil {
			return fmt.Errorf("%w: the origin of fork %d is missing", dcdb.ErrCorrupt, f.id)
		}
		sn.pins++
	}
	if err := v.loadTasks(ctx); err != nil {
		return err
	}
	for _, f := range v.forks {
		f.changed()
	}
	v.touchListed()
	ex, err := v.st.Scan(ctx, key(keyExtra), after(key(keyExtra)), 1)
	if err != nil {
		return err
	}
	v.extras = len(ex) > 0
	if err := v.views.load(ctx, v.st); err != nil {
		return err
	}
	if err := v.trees.load(ctx, v.st); err != nil {
		return err
	}
	return nil
}

func (v *Volume) loadSnapshots(ctx context.Context) error {
	return scan(ctx, v.st, key(keySnap), func(k, val []byte) error {
		n, err := keyNums(k, 2)
		if err != nil {
			return err
		}
		f := v.forks[n[0]]
		if f == nil {
			return fmt.Errorf("%w: snapshot %d of fork %d, which does not exist", dcdb.ErrCorrupt, n[1], n[0])
		}
		sn, err := decodeSnapshot(f, n[1], val)
		if err != nil {
			return fmt.Errorf("snapshot %d of fork %d: %w", n[1], n[0], err)
		}
		sn.view = &View{v: v, fork: f, snap: sn, number: sn.number}
		sn.view.gone.Store(sn.name == "" || !f.live)
		f.snaps = append(f.snaps, sn) // keys are in order of counters
		if sn.name != "" {
			f.names[sn.name] = sn
		}
		return nil
	})
}

// scan calls fn for all records whose keys begin with prefix.
func scan(ctx context.Context, st store.Store, prefix []byte, fn func(k, val []byte) error) error {
	return scanRange(ctx, st, prefix, after(prefix), fn)
}

// scanRange calls fn for all records from a key up to another one.
func scanRange(ctx context.Context, st store.Store, from, to []byte, fn func(k, val []byte) error) error {
	for {
		recs, err := st.Scan(ctx, from, to, 1000)
		if err != nil {
			return err
		}
		for _, r := range recs {
			if err := fn(r.Key, r.Value); err != nil {
				return err
			}
		}
		if len(recs) < 1000 {
			return nil
		}
		from = next(recs[len(recs)-1].Key)
	}
}

// Close commits what is open and ends the volume's background work. What is
// unfinished of that goes on after the next Open.
func (v *Volume) Close(ctx context.Context) error {
	v.stop()
	<-v.done
	if !v.still {
		v.returnInodes(ctx)
	}
	return v.space.Close(ctx)
}

// returnInodes gives inode numbers back that were reserved and not given out.
// Where it can't, they are lost.
func (v *Volume) returnInodes(ctx context.Context) {
	err := v.space.Meta(ctx, false, func(m *dcdb.Meta) error {
		for _, f := range v.forks {
			if f.next < f.reserved && f.live {
				f.reserved = f.next
				m.Put(key(keyFork, f.id), f.encode())
			}
		}
		return nil
	})
	if err != nil && !ignorable(err) {
		v.log("close: %v", err)
	}
}

// Space returns the DCDBs of the volume.
func (v *Volume) Space() *dcdb.Space { return v.space }

// Store returns the volume's store.
func (v *Volume) Store() store.Store { return v.st }

// Usage returns the space of the volume's store, or what is left of the limit
// that was set for it.
func (v *Volume) Usage(ctx context.Context) (store.Usage, error) {
	u, err := v.st.Usage(ctx)
	if v.size > 0 {
		u.TotalBytes = v.size
		u.FreeBytes = min(u.FreeBytes, v.size-min(v.size, u.UsedBytes))
	}
	return u, err
}

// free is what dcdb asks for before it takes more.
func (v *Volume) free(ctx context.Context) (uint64, error) {
	u, err := v.Usage(ctx)
	return u.FreeBytes, err
}

// Main returns the live view of the first fork.
func (v *Volume) Main() (w *View) {
	v.space.Locked(func() { w = v.forks[mainFork].view })
	return w
}

// rules is the Volume as package dcdb sees it.
type rules Volume

func (r *rules) Alive(fork, at uint64) error {
	f := r.forks[fork]
	if f == nil {
		return ErrGone
	}
	if at == dcdb.Live {
		return f.view.Err()
	}
	if sn := f.at(at); sn != nil {
		return sn.view.Err()
	}
	return ErrGone
}

func (r *rules) Counter(fork uint64) uint64 { return r.forks[fork].counter }

func (r *rules) Freeze(fork uint64) any {
	if f := r.forks[fork]; f != nil {
		return f.facts
	}
	return (*facts)(nil)
}

// Load resolves a view's inode: the newest state with a counter up to the
// view's in its fork, or else in the fork's parent up to its origin.
func (r *rules) Load(ctx context.Context, k dcdb.Key) ([]byte, error) {
	for {
		merges := r.merges.Load()
		rec, err := r.load(ctx, k)
		if err != nil || r.merges.Load() == merges {
			if rec == nil && err == nil {
				err = dcdb.ErrNotExist
			}
			return rec, err
		}
	}
}

// line is a fork among those in which an inode is looked for, up to counter n.
type line struct{ prefix, moving, n uint64 }

func (f *fork) line(n uint64) line { return line{f.prefix, f.moving, n} }

// prefixes returns where the line's heads and dead lists are. A record is in one of
// them; one that is not in the first any more is in the second.
func (l line) prefixes() []uint64 {
	if l.moving != 0 {
		return []uint64{l.moving, l.prefix}
	}
	return []uint64{l.prefix}
}

// lines returns where the inodes of a view are looked for, in this order.
func (v *Volume) lines(k dcdb.Key) (lines []line) {
	v.space.Locked(func() {
		n := k.At
		for f := v.forks[k.Fork]; f != nil; n, f = min(n, f.origin), f.parent {
			lines = append(lines, f.line(n))
		}
	})
	return lines
}

func (r *rules) load(ctx context.Context, k dcdb.Key) ([]byte, error) {
	for _, l := range (*Volume)(r).lines(k) {
		rec, err := l.resolve(ctx, r.st, k.Ino)
		if err != nil || rec != nil {
			return rec, err
		}
	}
	return nil, nil
}

// resolve returns the newest head of an inode in one fork with a counter <= n,
// nil if there is none. While heads move, any of them may be at either place: one
// that is not at the first any more is at the second.
func (l line) resolve(ctx context.Context, st store.Store, ino uint64) ([]byte, error) {
	if l.moving == 0 {
		return resolve(ctx, st, l.prefix, l.n, ino)
	}
	a, err := resolve(ctx, st, l.moving, l.n, ino)
	if err != nil {
		return nil, err
	}
	b, err := resolve(ctx, st, l.prefix, l.n, ino)
	if err != nil || a == nil {
		return b, err
	}
	if b == nil {
		return a, nil
	}
	changedA, _, err := dcdb.HeadInfo(a)
	if err != nil {
		return nil, err
	}
	changedB, _, err := dcdb.HeadInfo(b)
	if changedA > changedB {
		b = a
	}
	return b, err
}

// resolveOwn is resolve for a fork without its parents.
func (v *Volume) resolveOwn(ctx context.Context, f *fork, n, ino uint64) ([]byte, error) {
	var l line
	v.space.Locked(func() { l = f.line(n) })
	return l.resolve(ctx, v.st, ino)
}

// prefixes is line.prefixes of a fork.
func (v *Volume) prefixes(f *fork) (out []uint64) {
	v.space.Locked(func() { out = f.line(0).prefixes() })
	return out
}

// resolve returns the newest head of an inode below one prefix with a counter <=
// n, nil if there is none. A head that is saved meanwhile is found: the live one
// is looked at first, and both change in one batch.
func resolve(ctx context.Context, st store.Store, prefix, n, ino uint64) ([]byte, error) {
	vals, err := st.Get(ctx, key(keyHead, prefix, ino))
	if err != nil {
		return nil, err
	}
	if rec := vals[0]; rec != nil {
		c, _, err := dcdb.HeadInfo(rec)
		if err != nil || c <= n {
			return rec, err
		}
	}
	if n == dcdb.Live {
		return nil, nil
	}
	recs, err := st.Scan(ctx, key(keySaved, prefix, ino, ^n), after(key(keySaved, prefix, ino)), 1)
	if err != nil || len(recs) == 0 {
		return nil, err
	}
	return recs[0].Value, nil
}

// ignorable reports whether background work may give up on an error without a
// word: it goes on after the next Open.
func ignorable(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, dcdb.ErrClosed) || errors.Is(err, dcdb.ErrFailed)
}
