package fs

import (
	"errors"
	"hash/fnv"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"dcfs/dcdb"
	"dcfs/inode"
	"dcfs/snap"
)

// The .forks of a snapshot that is reached through its fork's .snapshots shows
// forks that have a path of their own in this mount. It shows them as symbolic
// links there: a second path to their root would be a second dentry of one
// directory. mkdir(2) must be answered with a directory all the same. What it
// gets is a stand-in, a node of its own without anything in it that the next
// look-up no longer finds.

// links reports whether virtual directory p shows forks as symbolic links.
func (m *mount) links(p place) bool {
	return p.kind == forks && p.door.view.ReadOnly() && p.door != m.own
}

// linkTarget is where the link to fork v leads, from SNAPDIR/S/FORKDIR.
func (m *mount) linkTarget(v *snap.View) string {
	return "../../../" + m.opts.ForkDir + "/" + entryName(v)
}

// forkOf returns the fork that a link or a stand-in is for.
func (m *mount) forkOf(p place) (*snap.View, error) {
	if err := p.door.view.Err(); err != nil {
		return nil, err
	}
	for _, v := range m.vol.Forks(p.door.view.Live()) {
		if uint64(v.Number()) == p.ino {
			return v, nil
		}
	}
	return nil, snap.ErrGone
}

// linkAttr returns the attributes of a stand-in, which are those of the fork's
// root, or of a link. The link belongs to who owns the directory, so that
// where all may write there, too, everybody may follow it (protected_symlinks
// in proc(5)).
func (m *mount) linkAttr(p place) (inode.Attr, error) {
	v, err := m.forkOf(p)
	if err != nil {
		return inode.Attr{}, err
	}
	if p.kind == standIn {
		return m.fs.Getattr(background, v, snap.RootIno)
	}
	dir := p.door.view.Door(snap.DoorForks)
	t := timeOf(v.Created())
	return inode.Attr{Attr: dcdb.Attr{
		Mode: syscall.S_IFLNK | 0o777,
		UID:  dir.UID, GID: dir.GID,
		Nlink: 1,
		Size:  uint64(len(m.linkTarget(v))),
		Atime: t, Mtime: t, Ctime: t, Btime: t,
	}}, nil
}

// linkGeneration makes the link under another name another inode: the kernel
// keeps where it leads to.
func linkGeneration(v *snap.View) uint64 {
	h := fnv.New32a()
	h.Write([]byte(entryName(v)))
	return (uint64(h.Sum32()) ^ viewGeneration(v)) | 1
}

// linkEntry answers with a link or a stand-in for fork v.
func (m *mount) linkEntry(p place, v *snap.View, out *fuse.EntryOut) fuse.Status {
	a, err := m.linkAttr(p)
	if err != nil {
		return m.status(err)
	}
	node := p.node()
	m.know(p.door, node)
	out.NodeId, out.Generation = node, viewGeneration(v)
	if p.kind == link {
		out.Generation = linkGeneration(v)
	}
	fillAttr(&a, p.stIno(), &out.Attr)
	return fuse.OK
}

// linkPlace returns the link or stand-in for fork v in p.
func linkPlace(p place, k kind, v *snap.View) place { return place{p.door, k, uint64(v.Number())} }

// setStandIn is SetAttr for a stand-in: it changes the fork's root.
func (m *mount) setStandIn(p place, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	v, err := m.forkOf(p)
	if err != nil {
		return m.status(err)
	}
	if _, err := m.fs.Setattr(background, v, snap.RootIno, credOf(&in.InHeader), setAttrOf(in)); err != nil {
		return m.status(err)
	}
	rootChanged(v)
	return m.virtualAttrOut(p, out)
}

// rootChanged makes the kernel ask anew for the attributes of a fork's root.
func rootChanged(v *snap.View) {
	m := server(v)
	if m == nil {
		return
	}
	d := m.doors.live(v)
	if d == nil {
		return
	}
	if root := nodeID(d.number, snap.RootIno); d == m.own || m.nodes.count(root) > 0 {
		select {
		case <-m.forgetPages([]uint64{root}):
		case <-time.After(goneWait):
		}
	}
}

// standInTable is the stand-ins that the process which made them has not
// looked up again. It may do so once: mkdir -m and install -d open what they
// made, without following a link, and set owner and mode by the descriptor.
// (If another process looks up the name at that very moment, the kernel lets
// them share one look-up, and mkdir -m says that it can't change permissions;
// the fork is made by then.)
type standInTable struct {
	mu   sync.Mutex
	made map[uint64]standInMaker // guarded by mu; by node
}

type standInMaker struct {
	pid   uint32
	until time.Time
}

func (t *standInTable) add(node uint64, pid uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for n, s := range t.made {
		if now.After(s.until) {
			delete(t.made, n)
		}
	}
	if t.made == nil {
		t.made = make(map[uint64]standInMaker)
	}
	t.made[node] = standInMaker{pid, now.Add(freshTime)}
}

// take reports whether a look-up by process pid finds a stand-in, for which
// it is the last one.
func (t *standInTable) take(node uint64, pid uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.made[node]
	if !ok || pid == 0 || s.pid != pid {
		return false
	}
	delete(t.made, node)
	return time.Now().Before(s.until)
}

// lookupLink answers for fork v in the .forks of a snapshot.
func (m *mount) lookupLink(p place, v *snap.View, pid uint32, out *fuse.EntryOut) fuse.Status {
	if s := linkPlace(p, standIn, v); m.standIns.take(s.node(), pid) {
		return m.linkEntry(s, v, out)
	}
	return m.linkEntry(linkPlace(p, link, v), v, out)
}

// lookupStandIn answers for a name in a stand-in. At ESTALE the kernel walks
// the path anew, and finds the link; not so where mkdir(2) and the like look
// whether their name is free, but what they do then is ESTALE, too.
func (m *mount) lookupStandIn(p place, name string) fuse.Status {
	v, err := m.forkOf(p)
	if err != nil {
		return m.status(err)
	}
	_, err = m.fs.Lookup(background, v, snap.RootIno, name)
	if errors.Is(err, inode.ErrNotExist) {
		return fuse.ENOENT
	}
	return estale
}

// createLinked is the answer to the mkdir of fork v there.
func (m *mount) createLinked(p place, v *snap.View, pid uint32, out *fuse.EntryOut) fuse.Status {
	s := linkPlace(p, standIn, v)
	st := m.linkEntry(s, v, out)
	if st == fuse.OK {
		m.standIns.add(s.node(), pid)
	}
	return st
}
