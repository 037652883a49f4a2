package fs

import (
	"errors"
	"path"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"dcfs/dcdb"
	"dcfs/inode"
	"dcfs/snap"
)

// freshTime is how long after its mkdir a snapshot takes a chmod for part of
// it.
const freshTime = 2 * time.Second

// hidden reports whether name in p leads to a virtual directory.
func (m *mount) hidden(p place, name string) (kind, bool) {
	if p.kind != inside || name == "" {
		return inside, false
	}
	switch name {
	case m.opts.SnapDir:
		// Not in a snapshot: there would be no end.
		return snapshots, !p.door.view.ReadOnly()
	case m.opts.ForkDir:
		return forks, p.door.isRoot(p.ino)
	}
	return inside, false
}

// virtualAttr returns the attributes of what is no inode of a view.
func (m *mount) virtualAttr(p place) (inode.Attr, error) {
	if p.kind == link || p.kind == standIn {
		return m.linkAttr(p)
	}
	v := p.door.view
	if err := v.Err(); err != nil {
		return inode.Attr{}, err
	}
	d := v.Door(p.kind.door())
	t := timeOf(v.Listed(p.kind.door()))
	return inode.Attr{Attr: dcdb.Attr{
		Mode: syscall.S_IFDIR | d.Mode&permBits,
		UID:  d.UID, GID: d.GID,
		// 1 is "unknown", as in btrfs: find(1) takes 2 for "no directory in
		// here".
		Nlink: 1,
		Atime: t, Mtime: t, Ctime: t, Btime: timeOf(v.Created()),
	}}, nil
}

func timeOf(t time.Time) dcdb.Time { return dcdb.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())} }

func (m *mount) virtualAttrOut(p place, out *fuse.AttrOut) fuse.Status {
	a, err := m.virtualAttr(p)
	if err != nil {
		return m.status(err)
	}
	fillAttr(&a, p.stIno(), &out.Attr)
	to := newTimeout(virtualTimeout)
	out.AttrValid, out.AttrValidNsec = to.sec, to.nsec
	return fuse.OK
}

// setVirtual is SetAttr for a virtual directory: owner and mode say who may
// create and delete snapshots or forks, and belong to the fork.
func (m *mount) setVirtual(p place, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	switch p.kind {
	case link:
		return fuse.EPERM
	case standIn:
		return m.setStandIn(p, in, out)
	}
	if in.Valid&(fuse.FATTR_SIZE|fuse.FATTR_ATIME|fuse.FATTR_MTIME) != 0 {
		return fuse.EPERM
	}
	which := p.kind.door()
	a := p.door.view.Door(which)
	now := a
	if mode, ok := in.GetMode(); ok {
		a.Mode = mode
	}
	if uid, ok := in.GetUID(); ok {
		a.UID = uid
	}
	if gid, ok := in.GetGID(); ok {
		a.GID = gid
	}
	if a != now {
		if err := p.door.view.SetDoor(background, which, a); err != nil {
			return m.status(err)
		}
	}
	return m.virtualAttrOut(p, out)
}

// door returns package snap's name for a kind of virtual directory.
func (k kind) door() snap.Door {
	if k == forks {
		return snap.DoorForks
	}
	return snap.DoorSnapshots
}

// virtualEntry answers with virtual directory p.
func (m *mount) virtualEntry(p place, out *fuse.EntryOut) fuse.Status {
	a, err := m.virtualAttr(p)
	if err != nil {
		return m.status(err)
	}
	node := p.node()
	m.know(p.door, node)
	out.NodeId, out.Generation = node, p.door.generation
	// The name is there as long as the view.
	out.EntryValid, out.EntryValidNsec = m.entryTo.sec, m.entryTo.nsec
	to := newTimeout(virtualTimeout)
	out.AttrValid, out.AttrValidNsec = to.sec, to.nsec
	fillAttr(&a, p.stIno(), &out.Attr)
	return fuse.OK
}

// listed returns the views that virtual directory p lists, and those of snapshots
// that lack the directory. A snapshot's .forks lists none.
func (m *mount) listed(p place) []*snap.View {
	switch {
	case p.door.view.ReadOnly():
		return nil
	case p.kind == forks:
		return m.vol.Forks(p.door.view)
	}
	return m.vol.Snapshots(p.door.view)
}

// find returns the view of a name in virtual directory p.
func (m *mount) find(p place, name string) (*snap.View, error) {
	if p.kind == forks {
		return m.vol.Fork(p.door.view, name)
	}
	return m.vol.Snapshot(p.door.view, name)
}

// target returns the directory that a view shows as an entry of p: its root,
// or in D/.snapshots what D was then.
func (p place) target() uint64 {
	if p.kind == forks {
		return snap.RootIno
	}
	return p.ino
}

// shown returns the attributes of that directory. inode.ErrNotExist: it did
// not exist then.
func (m *mount) shown(p place, v *snap.View) (inode.Attr, error) {
	a, err := m.fs.Getattr(background, v, p.target())
	if errors.Is(err, inode.ErrStale) && v.Err() == nil {
		return a, inode.ErrNotExist
	}
	if err == nil && (a.Mode&syscall.S_IFMT != syscall.S_IFDIR || a.Nlink == 0) {
		return a, inode.ErrNotExist
	}
	return a, err
}

// lookupVirtual answers for a name in a virtual directory.
func (m *mount) lookupVirtual(p place, name string, pid uint32, out *fuse.EntryOut) fuse.Status {
	if err := p.door.view.Err(); err != nil {
		return m.status(err)
	}
	if p.kind == link || p.kind == standIn {
		return m.lookupStandIn(p, name)
	}
	err := snap.CheckName(name)
	if errors.Is(err, snap.ErrName) {
		return fuse.ENOENT // so that mkdir(2) comes to hear what is wrong with it
	}
	if err != nil {
		return m.status(err)
	}
	v, err := m.find(p, name)
	if err != nil {
		return m.status(err)
	}
	if m.links(p) {
		return m.lookupLink(p, v, pid, out)
	}
	_, st := m.enterEntry(p, v, out)
	return st
}

// enterEntry answers with the directory that view v shows as an entry of p.
func (m *mount) enterEntry(p place, v *snap.View, out *fuse.EntryOut) (*door, fuse.Status) {
	a, err := m.shown(p, v)
	if err != nil {
		return nil, m.status(err)
	}
	d, err := m.doors.enter(background, v, p.target(), p.node())
	if err != nil {
		return nil, m.status(err)
	}
	defer m.doors.release(d)
	m.entry(d, &a, timeout{}, out)
	return d, fuse.OK
}

// createSnapshot is mkdir in .snapshots: of the whole fork, wherever the
// directory is.
func (m *mount) createSnapshot(p place, name string, out *fuse.EntryOut) fuse.Status {
	if err := snap.CheckName(name); err != nil {
		return m.status(err)
	}
	Flush(p.door.view)
	v, err := m.vol.CreateSnapshot(background, p.door.view, name)
	if err != nil {
		return m.status(err)
	}
	d, st := m.enterEntry(p, v, out)
	if st == fuse.OK {
		until := time.Now().Add(freshTime)
		d.fresh.Store(&until)
	}
	return st
}

// createFork is mkdir in .forks: of the view whose root it is in.
func (m *mount) createFork(p place, name string, pid uint32, out *fuse.EntryOut) fuse.Status {
	if err := snap.CheckName(name); err != nil {
		return m.status(err)
	}
	if !p.door.view.ReadOnly() {
		Flush(p.door.view)
	}
	v, err := m.vol.CreateFork(background, p.door.view, name)
	if err != nil {
		return m.status(err)
	}
	if m.links(p) {
		return m.createLinked(p, v, pid, out)
	}
	_, st := m.enterEntry(p, v, out)
	return st
}

// deleteSnapshot is rmdir in .snapshots. Below the root's it is refused: rm
// -r of what was an empty directory then would delete the fork's snapshot.
func (m *mount) deleteSnapshot(p place, name string) fuse.Status {
	if !p.door.isRoot(p.ino) {
		return fuse.EPERM
	}
	if err := m.vol.DeleteSnapshot(background, p.door.view, name); err != nil {
		return m.status(err)
	}
	Gone()
	return fuse.OK
}

// deleteFork is rmdir in .forks.
func (m *mount) deleteFork(p place, name string) fuse.Status {
	switch {
	case m.links(p):
		return fuse.ENOTDIR // as the kernel answers once it has seen the link
	case p.door.view.ReadOnly():
		return fuse.EROFS
	}
	if err := m.vol.DeleteFork(background, p.door.view, name); err != nil {
		return m.status(err)
	}
	Gone()
	return fuse.OK
}

// renameVirtual is rename where one side is a virtual directory. What it can't
// do is never EXDEV: mv(1) would go on with mkdir, copy and delete, which here
// mean something else.
func (m *mount) renameVirtual(from place, name string, to place, newname string, flags uint32) fuse.Status {
	switch {
	case from.kind != to.kind:
		return fuse.EPERM
	case flags&^inode.RenameNoReplace != 0:
		return fuse.EINVAL
	case from.kind == forks:
		return m.renameFork(from, name, to, newname)
	case from.door != to.door || !from.door.isRoot(from.ino) || !to.door.isRoot(to.ino):
		return fuse.EPERM
	}
	return m.status(m.vol.RenameSnapshot(background, from.door.view, name, newname))
}

// renameFork also moves a fork to another listing. What it descends from
// stays.
func (m *mount) renameFork(from place, name string, to place, newname string) fuse.Status {
	switch {
	case m.links(from) || m.links(to):
		return fuse.EPERM
	case from.door.view.ReadOnly() || to.door.view.ReadOnly():
		return fuse.EROFS
	}
	v, err := m.find(from, name)
	if err == nil {
		err = m.vol.RenameFork(background, from.door.view, name, to.door.view, newname)
	}
	if err != nil {
		return m.status(err)
	}
	if d := m.doors.live(v); d != nil {
		d.parent.Store(to.node())
	}
	return fuse.OK
}

// entryName returns the name of a view where it is listed: the last part of
// its path.
func entryName(v *snap.View) string { return path.Base(v.Name()) }
