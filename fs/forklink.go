package fs

import (
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
// gets is a stand-in, a node of its own that no look-up finds.

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

// makerTable is who made a fork by way of a snapshot, and has not looked it up
// again: mkdir -m, mkdir -p and install -d open what they made, or change into
// it, without following a link, and find the fork's root. That is two
// look-ups: at the first one the kernel sees that it is not the stand-in. (If
// another process looks up the name at that very moment, the kernel lets them
// share one look-up, and they find the link; the fork is made by then.)
type makerTable struct {
	mu   sync.Mutex
	made map[*snap.View]maker // guarded by mu
}

type maker struct {
	pid     uint32
	lookups int // to come
	until   time.Time
}

func (t *makerTable) add(v *snap.View, pid uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for v, s := range t.made {
		if now.After(s.until) {
			delete(t.made, v)
		}
	}
	if t.made == nil {
		t.made = make(map[*snap.View]maker)
	}
	t.made[v] = maker{pid, 2, now.Add(freshTime)}
}

// take reports whether a look-up by process pid finds the root of fork v.
func (t *makerTable) take(v *snap.View, pid uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.made[v]
	if !ok || pid == 0 || s.pid != pid {
		return false
	}
	if s.lookups--; s.lookups == 0 {
		delete(t.made, v)
	} else {
		t.made[v] = s
	}
	return time.Now().Before(s.until)
}

// lookupLink answers for fork v in p, the .forks of a snapshot.
func (m *mount) lookupLink(p place, v *snap.View, pid uint32, out *fuse.EntryOut) fuse.Status {
	if !m.makers.take(v, pid) {
		return m.linkEntry(linkPlace(p, link, v), v, out)
	}
	d := m.doors.live(p.door.view.Live())
	if d == nil { // the kernel knows the snapshot by way of it
		return estale
	}
	_, st := m.enterEntry(place{d, forks, d.root}, v, out)
	// A name that the kernel remembers here would be in the way of a rename
	// where the fork is listed.
	go m.kernel.EntryNotify(p.node(), entryName(v))
	return st
}

// createLinked is the answer to the mkdir of fork v in p.
func (m *mount) createLinked(p place, v *snap.View, pid uint32, out *fuse.EntryOut) fuse.Status {
	st := m.linkEntry(linkPlace(p, standIn, v), v, out)
	if st == fuse.OK {
		m.makers.add(v, pid)
	}
	return st
}
