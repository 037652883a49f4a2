package fs

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"dcfs/snap"
)

// door is a way into a view.
type door struct {
	number     uint32
	generation uint64     // of the nodes behind it
	view       *snap.View // immutable
	root       uint64     // inode of the directory that it opens on
	base       uint64     // what the st_ino of the inodes behind it begin with
	key        doorKey

	// parent is the node of the virtual directory that ".." of the root leads
	// to; 0 for the mount's own view, which has none.
	parent atomic.Uint64
	// fresh is until when a chmod of a snapshot's root is that of its mkdir.
	fresh atomic.Pointer[time.Time]

	first sync.Once // see doorTable.enter
	refs  int       // guarded by doorTable.mu: nodes known behind it, and holds
}

// doorKey is what a door is known by before it has a number: a view, and for
// a passing door the virtual directory that it opens from.
type doorKey struct {
	view *snap.View
	from uint64 // 0 for a stable door
}

func (d *door) stIno(ino uint64) uint64 { return d.base | ino }

// isRoot reports whether ino is the root of a view: there is .forks.
func (d *door) isRoot(ino uint64) bool { return ino == snap.RootIno && d.root == snap.RootIno }

// generationOf returns what goes with a node id. The kernel wants 0 for the
// root of the mount.
func (d *door) generationOf(node uint64) uint64 {
	if node == nodeID(0, snap.RootIno) {
		return 0
	}
	return d.generation
}

// viewGeneration tells the views apart that get the same number one after the
// other: a file handle of the first must not open an inode of the second. It
// is the same after a remount. The kernel keeps 32 bits.
func viewGeneration(v *snap.View) uint64 {
	h := uint64(v.Created().UnixNano()) * 0x9e3779b97f4a7c15
	return h>>32 | 1
}

// doorTable is the open doors of a mount but its own.
type doorTable struct {
	m *mount // immutable

	mu       sync.RWMutex
	byNumber map[uint32]*door  // guarded by mu
	byKey    map[doorKey]*door // guarded by mu
	passing  uint32            // guarded by mu; the last number given to a passing door
	opened   uint64            // guarded by mu; passing doors ever opened
}

func newDoorTable(m *mount) *doorTable {
	return &doorTable{
		m:        m,
		byNumber: make(map[uint32]*door),
		byKey:    make(map[doorKey]*door),
		passing:  passingDoor - 1,
		// File handles of an earlier mount name doors that are gone.
		opened: uint64(time.Now().UnixNano()),
	}
}

func (t *doorTable) get(number uint32) *door {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byNumber[number]
}

// enter returns the door to view v that opens on directory root, from the
// virtual directory whose node is from; it opens the door if it is closed.
// The caller releases it when the kernel has been told a node behind it.
func (t *doorTable) enter(ctx context.Context, v *snap.View, root, from uint64) (*door, error) {
	d, err := t.open(v, root, from)
	if err != nil {
		return nil, err
	}
	d.first.Do(func() {
		if v.ReadOnly() {
			return
		}
		if err := t.m.fs.CleanOrphans(ctx, v); err != nil && v.Err() == nil {
			t.m.log("%q: what was open when it was last in use: %v", v.Name(), err)
		}
	})
	return d, nil
}

func (t *doorTable) open(v *snap.View, root, from uint64) (*door, error) {
	number := v.Number()
	t.mu.Lock()
	defer t.mu.Unlock()
	key := doorKey{view: v}
	if root != snap.RootIno {
		key.from = from
	}
	if d := t.byKey[key]; d != nil {
		d.refs++
		d.parent.Store(from)
		return d, nil
	}
	d := &door{view: v, root: root, base: uint64(number) << inoBits, key: key, refs: 1}
	d.parent.Store(from)
	if !t.numberLocked(d, number) {
		return nil, errNoDoor
	}
	if err := claim(v, t.m); err != nil {
		return nil, err
	}
	t.byNumber[d.number], t.byKey[key] = d, d
	return d, nil
}

// numberLocked gives d its number and generation. A stable door whose number
// is still that of a deleted view, of which the kernel knows nodes, becomes a
// passing one. Precondition: t.mu is held.
func (t *doorTable) numberLocked(d *door, view uint32) bool {
	if d.key.from == 0 && view > 0 && view < passingDoor && t.byNumber[view] == nil {
		d.number, d.generation = view, viewGeneration(d.view)
		return true
	}
	for range maxDoor - passingDoor + 1 {
		t.passing++
		if t.passing > maxDoor {
			t.passing = passingDoor
		}
		if t.byNumber[t.passing] == nil {
			t.opened++
			d.number, d.generation = t.passing, t.opened&(1<<32-1)|1
			return true
		}
	}
	return false
}

// hold keeps d open. It must be open.
func (t *doorTable) hold(d *door) {
	if d == t.m.own {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	d.refs++
}

// holdNumber is get and hold in one; nil if no such door is open.
func (t *doorTable) holdNumber(number uint32) *door {
	if number == 0 {
		return t.m.own
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.byNumber[number]
	if d != nil {
		d.refs++
	}
	return d
}

// release is the end of a hold. The last one closes the door.
func (t *doorTable) release(d *door) {
	if d == t.m.own {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if d.refs--; d.refs > 0 {
		return
	}
	delete(t.byNumber, d.number)
	delete(t.byKey, d.key)
	unclaim(d.view, t.m)
}

// all returns the open doors.
func (t *doorTable) all() []*door {
	t.mu.RLock()
	defer t.mu.RUnlock()
	ds := make([]*door, 0, len(t.byNumber))
	for _, d := range t.byNumber {
		ds = append(ds, d)
	}
	return ds
}

// live returns the door to a live view in this mount, nil if it is closed.
func (t *doorTable) live(v *snap.View) *door {
	if v == t.m.own.view {
		return t.m.own
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byKey[doorKey{view: v}]
}

// reopen enters a stable door by its number alone, for a file handle that is
// older than this mount. Only views below the mount's own are found. The
// caller releases the door.
func (m *mount) reopen(ctx context.Context, number uint32) (*door, error) {
	if number >= passingDoor {
		return nil, snap.ErrGone
	}
	if d := m.doors.holdNumber(number); d != nil {
		return d, nil
	}
	v, from := m.search(m.own.view, 0, number)
	if v == nil {
		return nil, snap.ErrGone
	}
	d, err := m.doors.enter(ctx, v, snap.RootIno, from)
	if err == nil && d.number != number {
		m.doors.release(d)
		return nil, snap.ErrGone
	}
	return d, err
}

// search looks for the view of a number among the snapshots and forks of v,
// whose door is doorNumber. It returns the virtual directory that lists it,
// too.
func (m *mount) search(v *snap.View, doorNumber, number uint32) (found *snap.View, from uint64) {
	if v.ReadOnly() {
		return nil, 0
	}
	for _, s := range m.vol.Snapshots(v) {
		if s.Number() == number {
			return s, virtualID(doorNumber, snapshots, snap.RootIno)
		}
	}
	for _, f := range m.vol.Forks(v) {
		if f.Number() == number {
			return f, virtualID(doorNumber, forks, 0)
		}
		if found, from := m.search(f, f.Number(), number); found != nil {
			return found, from
		}
	}
	return nil, 0
}

// process is what the mounts of this process share: a live view is served by
// one of them, and a view that is deleted in one is gone in all.
var process = struct {
	mu     sync.Mutex
	mounts map[*mount]bool       // guarded by mu
	live   map[*snap.View]*mount // guarded by mu; who serves a live view
}{mounts: make(map[*mount]bool), live: make(map[*snap.View]*mount)}

// claim makes m the mount that serves v, if v is live.
func claim(v *snap.View, m *mount) error {
	if v.ReadOnly() {
		return nil
	}
	process.mu.Lock()
	defer process.mu.Unlock()
	if o := process.live[v]; o != nil && o != m {
		return fmt.Errorf("fork %q is in use in another mount: %w", v.Name(), snap.ErrBusy)
	}
	process.live[v] = m
	return nil
}

func unclaim(v *snap.View, m *mount) {
	process.mu.Lock()
	defer process.mu.Unlock()
	if process.live[v] == m {
		delete(process.live, v)
	}
}

// server returns the mount that serves a live view, nil if none does.
func server(v *snap.View) *mount {
	process.mu.Lock()
	defer process.mu.Unlock()
	return process.live[v]
}

// allMounts returns the mounts of this process.
func allMounts() []*mount {
	process.mu.Lock()
	defer process.mu.Unlock()
	ms := make([]*mount, 0, len(process.mounts))
	for m := range process.mounts {
		ms = append(ms, m)
	}
	return ms
}
