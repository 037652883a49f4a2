package fs

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"dcfs/dcdb/store"
	"dcfs/inode"
	"dcfs/snap"
)

// newTestMount returns a mount that no kernel knows, of a volume in memory.
func newTestMount(t *testing.T) *mount {
	t.Helper()
	st := store.NewMemory(store.Superblock{Version: store.FormatVersion, UUID: store.NewUUID()})
	vol, err := snap.Open(context.Background(), st, snap.Options{Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Log: t.Logf}
	o.setDefaults()
	m, err := newMount(inode.New(vol, inode.Options{}), vol.Main(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.end()
		if err := vol.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m
}

func snapshotOf(t *testing.T, m *mount, name string) *snap.View {
	t.Helper()
	v, err := m.vol.CreateSnapshot(context.Background(), m.own.view, name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func enter(t *testing.T, m *mount, v *snap.View, root, from uint64) *door {
	t.Helper()
	d, err := m.doors.enter(context.Background(), v, root, from)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDoorIsOpenWhileItsNodesAreKnown(t *testing.T) {
	m := newTestMount(t)
	s := snapshotOf(t, m, "s")
	from := virtualID(0, snapshots, 77)
	d := enter(t, m, s, 77, from)
	if d.number < passingDoor {
		t.Errorf("door of a directory: number %d", d.number)
	}
	node := nodeID(d.number, 77)
	m.know(d, node)
	m.know(d, nodeID(d.number, 78))
	m.doors.release(d)
	if again := enter(t, m, s, 77, from); again != d {
		t.Error("two doors for one way")
	} else {
		m.doors.release(again)
	}
	if other := enter(t, m, s, 77, virtualID(0, snapshots, 76)); other == d {
		t.Error("one door for two ways")
	} else {
		m.doors.release(other)
		if m.doors.get(other.number) != nil {
			t.Error("a door with nothing behind it stays open")
		}
	}
	m.know(d, node)
	m.Forget(node, 2)
	if m.doors.get(d.number) != d {
		t.Error("the door closed before the last node was forgotten")
	}
	m.Forget(nodeID(d.number, 78), 1)
	if m.doors.get(d.number) != nil {
		t.Error("the door is open, nothing is known behind it")
	}
	if _, st := m.at(node); st != estale {
		t.Errorf("a node behind a closed door: %v", st)
	}
}

func TestStableDoorHasTheViewsNumber(t *testing.T) {
	m := newTestMount(t)
	s := snapshotOf(t, m, "s")
	from := virtualID(0, snapshots, snap.RootIno)
	d := enter(t, m, s, snap.RootIno, from)
	if d.number != s.Number() || d.generation != viewGeneration(s) {
		t.Errorf("number %d, generation %d; want %d, %d", d.number, d.generation, s.Number(), viewGeneration(s))
	}
	m.doors.release(d)
	again, err := m.reopen(context.Background(), s.Number())
	if err != nil || again.view != s || again.parent.Load() != from {
		t.Errorf("reopened: %+v, %v", again, err)
	}
	m.doors.release(again)
	if _, err := m.reopen(context.Background(), 12345); !errors.Is(err, snap.ErrGone) {
		t.Errorf("a number that no view has: %v", err)
	}
}

// TestNumberOfADeletedViewIsNotMixedUp: when all numbers were given once, a
// view gets that of a deleted one, of which the kernel may still know nodes.
func TestNumberOfADeletedViewIsNotMixedUp(t *testing.T) {
	m := newTestMount(t)
	from := virtualID(0, snapshots, snap.RootIno)
	d := enter(t, m, snapshotOf(t, m, "old"), snap.RootIno, from)
	if err := m.vol.DeleteSnapshot(context.Background(), m.own.view, "old"); err != nil {
		t.Fatal(err)
	}
	s := snapshotOf(t, m, "new")
	m.doors.mu.Lock()
	delete(m.doors.byNumber, d.number)
	d.number = s.Number()
	m.doors.byNumber[d.number] = d
	m.doors.mu.Unlock()
	m.know(d, nodeID(d.number, snap.RootIno))
	m.doors.release(d)

	d2 := enter(t, m, s, snap.RootIno, from)
	defer m.doors.release(d2)
	if d2 == d || d2.number < passingDoor {
		t.Errorf("the new view's door has number %d, that of the old one is %d", d2.number, d.number)
	}
	if p, _ := m.at(nodeID(s.Number(), snap.RootIno)); p.door != d {
		t.Error("a node of the deleted view leads to the new one")
	}
	if _, err := m.reopen(context.Background(), s.Number()); err != nil {
		t.Errorf("file handle of the deleted view, whose door is open: %v", err)
	}
	m.doors.release(d)
	m.Forget(nodeID(d.number, snap.RootIno), 1)
	if _, err := m.reopen(context.Background(), s.Number()); !errors.Is(err, snap.ErrGone) {
		t.Errorf("file handle of a view that has a passing door: %v", err)
	}
}

func TestLiveViewHasOneMount(t *testing.T) {
	m := newTestMount(t)
	ctx := context.Background()
	f, err := m.vol.CreateFork(ctx, m.own.view, "f")
	if err != nil {
		t.Fatal(err)
	}
	d := enter(t, m, f, snap.RootIno, virtualID(0, forks, 0))
	if !Served(m.own.view) || server(f) != m {
		t.Error("a live view is served by nobody")
	}
	o := Options{Log: t.Logf}
	o.setDefaults()
	if _, err := newMount(m.fs, m.own.view, o); !errors.Is(err, snap.ErrBusy) {
		t.Errorf("second mount of a live view: %v", err)
	}
	m.doors.release(d)
	if server(f) != nil {
		t.Error("a fork that nobody looks at is in use")
	}
	alone, err := newMount(m.fs, f, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.doors.enter(ctx, f, snap.RootIno, virtualID(0, forks, 0)); !errors.Is(err, snap.ErrBusy) {
		t.Errorf("fork that is mounted alone: %v", err)
	}
	alone.end()
	m.doors.release(enter(t, m, f, snap.RootIno, virtualID(0, forks, 0)))
}

func TestOrphanGoesWithItsLastLookUp(t *testing.T) {
	m := newTestMount(t)
	v := m.own.view
	exists := func(ino uint64) bool {
		_, err := m.fs.Getattr(background, v, ino)
		return err == nil
	}
	create := func(name string) uint64 {
		a, err := m.fs.Mknod(background, v, snap.RootIno, name, inode.Cred{Root: true}, 0o644, 0)
		if err != nil {
			t.Fatal(err)
		}
		return a.Ino
	}
	unlink := func(name string) {
		ino, last, err := m.fs.Unlink(background, v, snap.RootIno, name)
		if err != nil || !last {
			t.Fatal(last, err)
		}
		m.orphaned(m.own, ino)
	}
	wait := func() {
		for range 1000 {
			m.orphans.mu.Lock()
			n := len(m.orphans.queue)
			m.orphans.mu.Unlock()
			if n == 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(10 * time.Millisecond)
	}
	known, unknown := create("known"), create("unknown")
	m.know(m.own, nodeID(0, known))
	m.know(m.own, nodeID(0, known))
	unlink("known")
	unlink("unknown")
	m.Forget(nodeID(0, known), 1)
	wait()
	if !exists(known) || exists(unknown) {
		t.Errorf("after unlink: known inode is there: %v, unknown: %v", exists(known), exists(unknown))
	}
	m.Forget(nodeID(0, known), 1)
	wait()
	if exists(known) {
		t.Error("an inode without a name and look-ups is there")
	}
}

// TestStandInIsFoundOnceByItsMaker: after that, and by anybody else, the link
// is.
func TestStandInIsFoundOnceByItsMaker(t *testing.T) {
	m := newTestMount(t)
	d := enter(t, m, snapshotOf(t, m, "s"), snap.RootIno, virtualID(0, snapshots, snap.RootIno))
	defer m.doors.release(d)
	dir := virtualID(d.number, forks, 0)
	by := func(pid uint32, node uint64) fuse.InHeader {
		return fuse.InHeader{NodeId: node, Caller: fuse.Caller{Pid: pid}}
	}
	mkdir := func(name string) uint64 {
		t.Helper()
		var out fuse.EntryOut
		if st := m.Mkdir(nil, &fuse.MkdirIn{InHeader: by(7, dir)}, name, &out); st != fuse.OK {
			t.Fatal(st)
		}
		if p, st := m.at(out.NodeId); st != fuse.OK || p.kind != standIn || out.Mode&syscall.S_IFMT != syscall.S_IFDIR || out.EntryValid != 0 {
			t.Fatalf("mkdir: %v, %v, mode %o", p.kind, st, out.Mode)
		}
		return out.NodeId
	}
	lookup := func(pid uint32, name string) (uint64, kind) {
		t.Helper()
		h := by(pid, dir)
		var out fuse.EntryOut
		if st := m.Lookup(nil, &h, name, &out); st != fuse.OK {
			t.Fatal(st)
		}
		p, st := m.at(out.NodeId)
		if st != fuse.OK || p.node() != out.NodeId || p.stIno() != out.Ino || out.EntryValid != 0 {
			t.Fatalf("look-up: %+v, %v", p, st)
		}
		return out.NodeId, p.kind
	}
	made := mkdir("a")
	if n, k := lookup(7, "a"); n != made || k != standIn {
		t.Errorf("first look-up of the maker: %v", k)
	}
	if _, k := lookup(7, "a"); k != link {
		t.Errorf("second look-up of the maker: %v", k)
	}
	mkdir("b")
	n, k := lookup(8, "b")
	if k != link {
		t.Errorf("first look-up of another process: %v", k)
	}
	if _, k := lookup(7, "b"); k != standIn {
		t.Errorf("first look-up of the maker, after another process: %v", k)
	}
	if _, k := lookup(7, "b"); k != link {
		t.Errorf("second look-up of the maker, after another process: %v", k)
	}
	// A file handle of the link.
	h := by(8, n)
	var out fuse.EntryOut
	if st := m.Lookup(nil, &h, ".", &out); st != fuse.OK || out.NodeId != n {
		t.Errorf("by file handle: %v, node %#x, want %#x", st, out.NodeId, n)
	}
	if target, st := m.Readlink(nil, &h); st != fuse.OK || string(target) != "../../../.forks/b" {
		t.Errorf("target %q, %v", target, st)
	}
	if st := m.Rmdir(nil, &fuse.InHeader{NodeId: dir}, "b"); st != fuse.ENOTDIR {
		t.Errorf("rmdir: %v", st)
	}
	root := fuse.InHeader{NodeId: virtualID(0, forks, 0)}
	if st := m.Rmdir(nil, &root, "b"); st != fuse.OK {
		t.Errorf("rmdir where it is listed: %v", st)
	}
	if _, st := m.Readlink(nil, &h); st != estale {
		t.Errorf("link to a deleted fork: %v", st)
	}
	if st := m.Lookup(nil, &h, ".", &out); st != estale {
		t.Errorf("file handle of that: %v", st)
	}
}

func TestSettlingTakesWhatIsAtRest(t *testing.T) {
	m := newTestMount(t)
	s := &m.settle
	s.changed(place{m.own, inside, 5})
	s.changed(place{m.own, inside, 6})
	s.mu.Lock()
	s.dirs[5] = time.Now().Add(-2 * settleTime)
	s.mu.Unlock()
	if due := s.due(); len(due) != 1 || due[0] != 5 {
		t.Errorf("due: %v, want 5", due)
	}
	s.end()
	s.changed(place{m.own, inside, 7})
	if len(s.dirs) != 1 {
		t.Errorf("after the end: %v", s.dirs)
	}
}

// The hot requests, without the kernel.
func BenchmarkRequests(b *testing.B) {
	st := store.NewMemory(store.Superblock{Version: store.FormatVersion, UUID: store.NewUUID()})
	vol, err := snap.Open(background, st, snap.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer vol.Close(background)
	o := Options{Log: b.Logf}
	o.setDefaults()
	m, err := newMount(inode.New(vol, inode.Options{}), vol.Main(), o)
	if err != nil {
		b.Fatal(err)
	}
	defer m.end()
	root := fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}
	var made fuse.CreateOut
	if st := m.Create(nil, &fuse.CreateIn{InHeader: root, Mode: syscall.S_IFREG | 0o644}, "f", &made); st != fuse.OK {
		b.Fatal(st)
	}
	file := fuse.InHeader{NodeId: made.NodeId}
	data := make([]byte, 4096)
	for name, request := range map[string]func() fuse.Status{
		"GetAttr": func() fuse.Status {
			return m.GetAttr(nil, &fuse.GetAttrIn{InHeader: file}, new(fuse.AttrOut))
		},
		"Lookup":        func() fuse.Status { return m.Lookup(nil, &root, "f", new(fuse.EntryOut)) },
		"LookupNothing": func() fuse.Status { return m.Lookup(nil, &root, "g", new(fuse.EntryOut)) },
		"Read": func() fuse.Status {
			_, st := m.Read(nil, &fuse.ReadIn{InHeader: file}, data)
			return st
		},
		"Write": func() fuse.Status {
			_, st := m.Write(nil, &fuse.WriteIn{InHeader: file}, data)
			return st
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				if st := request(); st != fuse.OK {
					b.Fatal(st)
				}
			}
		})
	}
}
