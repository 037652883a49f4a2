package fs

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"dcfs/inode"
	"dcfs/snap"
)

// dirTable is the open directories.
type dirTable struct {
	last atomic.Uint64 // handle number
	mu   sync.RWMutex
	open map[uint64]*dirHandle // guarded by mu
}

// dirHandle is one open directory.
type dirHandle struct {
	place place
	dir   *inode.Dir // kinds inside and standIn

	mu   sync.Mutex
	list []virtualEntry // guarded by mu; of a virtual directory, as of the last read from the start
}

// virtualEntry is an entry of a virtual directory.
type virtualEntry struct {
	name  string
	stIno uint64
}

func (t *dirTable) add(h *dirHandle) uint64 {
	n := t.last.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = make(map[uint64]*dirHandle)
	}
	t.open[n] = h
	return n
}

func (t *dirTable) get(n uint64) *dirHandle {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.open[n]
}

func (t *dirTable) remove(n uint64) *dirHandle {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.open[n]
	delete(t.open, n)
	return h
}

// closeAll closes what the kernel has not: after an abort it sends nothing.
func (t *dirTable) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n, h := range t.open {
		h.close()
		delete(t.open, n)
	}
}

func (h *dirHandle) close() {
	if h.dir != nil {
		h.dir.Close()
	}
}

// OpenDir opens a directory for listing.
func (m *mount) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	p, st := m.at(in.NodeId)
	if st != fuse.OK {
		return st
	}
	h := &dirHandle{place: p}
	if p.kind == standIn {
		v, err := m.forkOf(p)
		if err == nil {
			h.dir, err = m.fs.OpenDir(background, v, snap.RootIno)
		}
		if err != nil {
			return m.status(err)
		}
	} else if p.kind != inside {
		if err := p.door.view.Err(); err != nil {
			return m.status(err)
		}
	} else {
		var err error
		if h.dir, err = m.fs.OpenDir(m.asking(&in.InHeader), p.door.view, p.ino); err != nil {
			return m.status(err)
		}
		if p.door.view.ReadOnly() {
			// Not where entries change: a listing that goes on at an entry
			// which another one did not find any more would end there.
			out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
		}
	}
	out.Fh = m.dirs.add(h)
	return fuse.OK
}

// ReleaseDir closes one.
func (m *mount) ReleaseDir(in *fuse.ReleaseIn) {
	if h := m.dirs.remove(in.Fh); h != nil {
		h.close()
	}
}

// ReadDir lists names.
func (m *mount) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return m.readDir(in, func(h *dirHandle, e *inode.Dirent, stIno uint64) bool {
		return out.AddDirEntry(fuse.DirEntry{Mode: e.Mode, Name: e.Name, Ino: stIno, Off: e.Cookie})
	})
}

// ReadDirPlus lists names with what they lead to. The kernel counts a look-up
// for each entry that has a node, but not for "." and "..". With the attributes
// of an inode that it knows, the kernel would throw away the ACL that it has of
// it, and each "ls -l" ask for all of them. What is fresh has none here: of such
// an entry the kernel keeps what it has, and if that is not enough (it dropped
// the name, or a time-out is over) it asks.
func (m *mount) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return m.readDir(in, func(h *dirHandle, e *inode.Dirent, stIno uint64) bool {
		o := out.AddDirLookupEntry(fuse.DirEntry{Mode: e.Mode, Name: e.Name, Ino: stIno, Off: e.Cookie})
		if o == nil {
			return false
		}
		if h.place.kind != inside || e.Name == "." || e.Name == ".." {
			return true // plain
		}
		if m.keeps && m.nodes.fresh(nodeID(h.place.door.number, e.Ino)) {
			return true // plain
		}
		if a, ok := m.current(m.asking(&in.InHeader), h.place, e); ok {
			m.entry(h.place.door, &a, m.entryTo, o)
		}
		return true
	})
}

// current returns the attributes of the inode that an entry names, false if
// it does not do so any more: the handle lists the directory as it was, the
// kernel keeps what it is told as it is. It changes no entry of a directory
// while it has it listed.
func (m *mount) current(ctx context.Context, dir place, e *inode.Dirent) (inode.Attr, bool) {
	v := dir.door.view
	if v.ReadOnly() {
		a, err := m.fs.Getattr(ctx, v, e.Ino)
		return a, err == nil
	}
	a, err := m.fs.Lookup(ctx, v, dir.ino, e.Name)
	return a, err == nil && a.Ino == e.Ino
}

// readDir calls add for each entry from in.Offset on until it is full.
func (m *mount) readDir(in *fuse.ReadIn, add func(h *dirHandle, e *inode.Dirent, stIno uint64) bool) fuse.Status {
	h := m.dirs.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	if h.dir == nil {
		return m.readVirtual(h, in.Offset, add)
	}
	err := h.dir.Read(m.asking(&in.InHeader), in.Offset, func(e inode.Dirent) bool {
		if _, hide := m.hidden(h.place, e.Name); hide {
			// Made by a mount that had other names for these doors.
			return true
		}
		return add(h, &e, m.direntIno(h.place, &e))
	})
	return m.status(err)
}

// direntIno returns the st_ino of what an entry leads to.
func (m *mount) direntIno(dir place, e *inode.Dirent) uint64 {
	d := dir.door
	if dir.kind == standIn {
		if e.Name == ".." {
			return place{d, forks, d.root}.stIno()
		}
		return dir.ino<<inoBits | e.Ino
	}
	if e.Name != ".." || dir.ino != d.root || d == m.own {
		return d.stIno(e.Ino)
	}
	if above, st := m.at(d.parent.Load()); st == fuse.OK {
		return above.stIno()
	}
	return d.stIno(e.Ino)
}

// readVirtual is readDir for a virtual directory. A cookie is a position in
// the handle's list.
func (m *mount) readVirtual(h *dirHandle, cookie uint64, add func(h *dirHandle, e *inode.Dirent, stIno uint64) bool) fuse.Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	if cookie == 0 || h.list == nil {
		list, err := m.listVirtual(h.place)
		if err != nil {
			return m.status(err)
		}
		h.list = list
	}
	for ; cookie < uint64(len(h.list)); cookie++ {
		v := h.list[cookie]
		if !add(h, &inode.Dirent{Name: v.name, Mode: syscall.S_IFDIR, Cookie: cookie + 1}, v.stIno) {
			break
		}
	}
	return fuse.OK
}

// listVirtual lists a virtual directory.
func (m *mount) listVirtual(p place) ([]virtualEntry, error) {
	if err := p.door.view.Err(); err != nil {
		return nil, err
	}
	list := []virtualEntry{{".", p.stIno()}, {"..", place{p.door, inside, p.target()}.stIno()}}
	born := uint64(0)
	if p.kind == snapshots {
		a, err := m.fs.Getattr(background, p.door.view, p.ino)
		if err != nil {
			return nil, err
		}
		born = a.Born
	}
	for _, v := range m.listed(p) {
		if p.kind == snapshots && v.Counter() < born {
			continue // the directory did not exist then
		}
		list = append(list, virtualEntry{entryName(v), uint64(v.Number())<<inoBits | p.target()})
	}
	return list, nil
}

// FsyncDir makes durable what was done to a directory.
func (m *mount) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return m.fsync(in.NodeId) }

func (m *mount) fsync(node uint64) fuse.Status {
	p, st := m.at(node)
	if st != fuse.OK {
		return st
	}
	if p.kind != inside {
		return fuse.OK // what is done there is durable at once
	}
	return m.status(m.fs.Fsync(background, p.door.view, p.ino))
}
