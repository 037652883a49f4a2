package fs

import (
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"dcfs/inode"
	"dcfs/snap"
)

// entry answers with an inode that the kernel may keep under a name for time
// to, and counts that.
func (m *mount) entry(d *door, a *inode.Attr, to timeout, out *fuse.EntryOut) {
	node := nodeID(d.number, a.Ino)
	m.know(d, node)
	out.NodeId, out.Generation = node, d.generationOf(node)
	out.EntryValid, out.EntryValidNsec = to.sec, to.nsec
	at := m.attrTimeout(a.Mode)
	out.AttrValid, out.AttrValidNsec = at.sec, at.nsec
	fillAttr(a, d.stIno(a.Ino), &out.Attr)
}

// Lookup answers what a name in a directory leads to.
func (m *mount) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if name == "." || name == ".." {
		return m.lookupDots(h.NodeId, name, out)
	}
	p, st := m.at(h.NodeId)
	if st != fuse.OK {
		return st
	}
	if p.kind != inside {
		return m.lookupVirtual(p, name, h.Pid, out)
	}
	if k, ok := m.hidden(p, name); ok {
		return m.virtualEntry(place{p.door, k, p.ino}, out)
	}
	a, err := m.fs.Lookup(m.asking(h), p.door.view, p.ino, name)
	if errors.Is(err, inode.ErrNotExist) {
		// Node 0 is "no such name", to be kept as long as a name.
		out.EntryValid, out.EntryValidNsec = m.entryTo.sec, m.entryTo.nsec
		return fuse.OK
	}
	if err != nil {
		return m.status(err)
	}
	m.entry(p.door, &a, m.entryTo, out)
	return fuse.OK
}

// lookupDots answers for "." and "..", which the kernel asks for only where a
// file handle is opened (CAP_EXPORT_SUPPORT): the node may be any that it or
// an earlier mount ever saw.
func (m *mount) lookupDots(node uint64, name string, out *fuse.EntryOut) fuse.Status {
	p, err := m.revive(node)
	if err != nil {
		return m.status(err)
	}
	defer m.doors.release(p.door)
	if name == "." {
		return m.entryOf(p, out)
	}
	switch {
	case p.kind == link || p.kind == standIn:
		return m.virtualEntry(place{p.door, forks, p.door.root}, out)
	case p.kind != inside:
		return m.entryOf(place{p.door, inside, p.ino}, out)
	case p.ino == p.door.root:
		return m.entryAbove(p.door, out)
	}
	a, err := m.fs.Lookup(background, p.door.view, p.ino, "..")
	if err != nil {
		return m.status(err)
	}
	m.entry(p.door, &a, m.entryTo, out)
	return fuse.OK
}

// revive is at for a node of a file handle. The caller releases the door.
func (m *mount) revive(node uint64) (place, error) {
	number, k, ino := splitNode(node)
	if d := m.doors.holdNumber(number); d != nil {
		return m.revived(d, k, ino)
	}
	d, err := m.reopen(background, number)
	if err != nil {
		return place{}, err
	}
	return m.revived(d, k, ino)
}

// revived checks that what a file handle names can be there at all.
func (m *mount) revived(d *door, k kind, ino uint64) (place, error) {
	p := placeOf(d, k, ino)
	switch p.kind {
	case link, standIn:
		if _, err := m.forkOf(p); err != nil {
			m.doors.release(d)
			return place{}, snap.ErrGone
		}
		return p, nil
	case forks:
		p.ino = d.root
	}
	_, open := m.hidden(place{d, inside, p.ino}, m.nameOf(k))
	if err := d.view.Err(); err != nil || k != inside && !open {
		m.doors.release(d)
		return place{}, snap.ErrGone
	}
	return p, nil
}

// nameOf returns the name of a kind of virtual directory.
func (m *mount) nameOf(k kind) string {
	switch k {
	case snapshots:
		return m.opts.SnapDir
	case forks:
		return m.opts.ForkDir
	}
	return ""
}

// entryOf answers with p itself.
func (m *mount) entryOf(p place, out *fuse.EntryOut) fuse.Status {
	switch p.kind {
	case link, standIn:
		v, err := m.forkOf(p)
		if err != nil {
			return m.status(err)
		}
		return m.linkEntry(p, v, out)
	case snapshots, forks:
		return m.virtualEntry(p, out)
	}
	a, err := m.getattr(p)
	if err != nil {
		return m.status(err)
	}
	if a.Nlink == 0 {
		// The kernel has just let go of it, or it would not ask.
		return estale
	}
	m.entry(p.door, &a, m.entryTo, out)
	return fuse.OK
}

// entryAbove answers with what ".." of a door's root leads to.
func (m *mount) entryAbove(d *door, out *fuse.EntryOut) fuse.Status {
	if d == m.own {
		return m.entryOf(place{d, inside, d.root}, out)
	}
	p, err := m.revive(d.parent.Load())
	if err != nil {
		return m.status(err)
	}
	defer m.doors.release(p.door)
	return m.entryOf(p, out)
}

// created answers with a new inode, or a new name of one.
func (m *mount) created(dir place, a *inode.Attr, err error, out *fuse.EntryOut) fuse.Status {
	if err != nil {
		return m.status(err)
	}
	m.entry(dir.door, a, m.entryTo, out)
	m.settle.changed(dir)
	return fuse.OK
}

// parent is at for the directory of a name that shall come into being or go.
func (m *mount) parent(node uint64, name string) (place, fuse.Status) {
	p, st := m.at(node)
	if st != fuse.OK {
		return p, st
	}
	if p.kind == link || p.kind == standIn {
		return p, estale // see lookupStandIn
	}
	if _, reserved := m.hidden(p, name); reserved {
		return p, fuse.EPERM
	}
	return p, fuse.OK
}

// Mknod creates a file that is no directory.
func (m *mount) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	p, st := m.parent(in.NodeId, name)
	if st != fuse.OK {
		return st
	}
	if p.kind != inside {
		return fuse.EPERM
	}
	cred := creatorOf(&in.InHeader, in.Umask)
	a, err := m.fs.Mknod(m.asking(&in.InHeader), p.door.view, p.ino, name, cred, in.Mode, in.Rdev)
	return m.created(p, &a, err, out)
}

// Mkdir creates a directory; in a virtual one, a snapshot or fork.
func (m *mount) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	p, st := m.parent(in.NodeId, name)
	if st != fuse.OK {
		return st
	}
	switch p.kind {
	case snapshots:
		return m.createSnapshot(p, name, out)
	case forks:
		return m.createFork(p, name, in.Pid, out)
	}
	a, err := m.fs.Mkdir(m.asking(&in.InHeader), p.door.view, p.ino, name, creatorOf(&in.InHeader, in.Umask), in.Mode)
	return m.created(p, &a, err, out)
}

// Symlink creates a symbolic link.
func (m *mount) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	p, st := m.parent(h.NodeId, name)
	if st != fuse.OK {
		return st
	}
	if p.kind != inside {
		return fuse.EPERM
	}
	a, err := m.fs.Symlink(m.asking(h), p.door.view, p.ino, name, credOf(h), target)
	return m.created(p, &a, err, out)
}

// Link gives an inode a further name.
func (m *mount) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	p, st := m.parent(in.NodeId, name)
	if st != fuse.OK {
		return st
	}
	old, st := m.file(in.Oldnodeid)
	if st != fuse.OK {
		return st
	}
	switch {
	case p.kind != inside:
		return fuse.EPERM
	case old.door.view != p.door.view:
		return fuse.EXDEV
	}
	a, err := m.fs.Link(m.asking(&in.InHeader), p.door.view, old.ino, p.ino, name)
	return m.created(p, &a, err, out)
}

// Readlink returns where a symbolic link leads.
func (m *mount) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	p, st := m.at(h.NodeId)
	if st != fuse.OK {
		return nil, st
	}
	switch p.kind {
	case inside:
	case link:
		v, err := m.forkOf(p)
		if err != nil {
			return nil, m.status(err)
		}
		return []byte(m.linkTarget(v)), fuse.OK
	default:
		return nil, fuse.EINVAL
	}
	target, err := m.fs.Readlink(m.asking(h), p.door.view, p.ino)
	return []byte(target), m.status(err)
}

// Unlink takes a name from what is no directory.
func (m *mount) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	p, st := m.parent(h.NodeId, name)
	if st != fuse.OK {
		return st
	}
	if p.kind != inside {
		return fuse.EPERM
	}
	ino, last, err := m.fs.Unlink(m.asking(h), p.door.view, p.ino, name)
	if err != nil {
		return m.status(err)
	}
	if last {
		m.orphaned(p.door, ino)
	}
	m.settle.changed(p)
	return fuse.OK
}

// Rmdir removes an empty directory; from a virtual one, a snapshot or fork
// with all that is in it.
func (m *mount) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	p, st := m.parent(h.NodeId, name)
	if st != fuse.OK {
		return st
	}
	switch p.kind {
	case snapshots:
		return m.deleteSnapshot(p, name)
	case forks:
		return m.deleteFork(p, name)
	}
	ino, err := m.fs.Rmdir(m.asking(h), p.door.view, p.ino, name)
	if err != nil {
		return m.status(err)
	}
	m.orphaned(p.door, ino)
	m.settle.changed(p)
	return fuse.OK
}

// Rename moves an entry, and can exchange two, or leave a whiteout.
func (m *mount) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, newname string) fuse.Status {
	from, st := m.parent(in.NodeId, name)
	if st != fuse.OK {
		return st
	}
	to, st := m.parent(in.Newdir, newname)
	if st != fuse.OK {
		return st
	}
	if from.kind != inside || to.kind != inside {
		return m.renameVirtual(from, name, to, newname, in.Flags)
	}
	if from.door.view != to.door.view {
		return fuse.EXDEV
	}
	replaced, last, err := m.rename(in, from, name, to, newname)
	if err != nil {
		return m.status(err)
	}
	if last {
		m.orphaned(from.door, replaced)
	}
	m.settle.changed(from)
	if to.ino != from.ino {
		m.settle.changed(to)
	}
	return fuse.OK
}

func (m *mount) rename(in *fuse.RenameIn, from place, name string, to place, newname string) (replaced uint64, last bool, err error) {
	if flags := in.Flags &^ unix.RENAME_WHITEOUT; flags != in.Flags {
		return m.fs.RenameWhiteout(m.asking(&in.InHeader), from.door.view, from.ino, name, to.ino, newname, flags, credOf(&in.InHeader))
	}
	return m.fs.Rename(m.asking(&in.InHeader), from.door.view, from.ino, name, to.ino, newname, in.Flags)
}

// create makes a regular file for open(2), or takes the one that somebody
// made just before.
func (m *mount) create(p place, in *fuse.CreateIn, name string) (inode.Attr, error) {
	cred := creatorOf(&in.InHeader, in.Umask)
	ctx := m.asking(&in.InHeader)
	a, err := m.fs.Mknod(ctx, p.door.view, p.ino, name, cred, in.Mode, 0)
	if !errors.Is(err, inode.ErrExist) || in.Flags&syscall.O_EXCL != 0 {
		return a, err
	}
	if a, err = m.fs.Lookup(ctx, p.door.view, p.ino, name); err != nil || in.Flags&syscall.O_TRUNC == 0 {
		return a, err
	}
	return m.fs.Setattr(ctx, p.door.view, a.Ino, cred,
		inode.SetAttr{Size: new(uint64), KillSuidGid: in.OpenFlags&fuse.OPEN_KILL_SUIDGID != 0})
}
