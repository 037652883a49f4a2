package fs

import (
	"bytes"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"dcfs/inode"
)

// maxCopyBytes is the most that one copy_file_range(2) copies: the answer has
// 32 bits for it, and the kernel holds the file's lock meanwhile.
const maxCopyBytes = 1 << 30

// A handle of a file has no state here: the node says all. Its number is 1 if
// it may write.
const (
	readHandle  = 0
	writeHandle = 1
)

// writes reports whether open(2) with these flags changes the file or lets it
// be changed.
func writes(flags uint32) bool {
	return flags&syscall.O_ACCMODE != syscall.O_RDONLY || flags&syscall.O_TRUNC != 0
}

// opened answers with a handle of node.
func (m *mount) opened(node uint64, flags uint32, out *fuse.OpenOut) {
	// Each page that the kernel has is as the file is: only it writes there.
	// But of what it reads from its cache we don't hear.
	// And it need not tell us of close(2): nothing waits for that, locks are
	// its own.
	out.OpenFlags = fuse.FOPEN_NOFLUSH
	if !m.fs.StrictAtime() {
		out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	}
	out.Fh = readHandle
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		out.Fh = writeHandle
		m.writers.add(node)
	}
}

// Open opens a file.
func (m *mount) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	p, st := m.file(in.NodeId)
	if st != fuse.OK {
		return st
	}
	if err := p.door.view.Err(); err != nil {
		return m.status(err)
	}
	if writes(in.Flags) && p.door.view.ReadOnly() {
		return fuse.EROFS
	}
	if st := m.mayExecute(p, in); st != fuse.OK {
		return st
	}
	if in.Flags&syscall.O_TRUNC != 0 {
		m.nodes.told(in.NodeId, false)
		_, err := m.fs.Setattr(m.asking(&in.InHeader), p.door.view, p.ino, credOf(&in.InHeader),
			inode.SetAttr{Size: new(uint64), KillSuidGid: in.Mode&fuse.OPEN_KILL_SUIDGID != 0})
		if err != nil {
			return m.status(err)
		}
	}
	m.opened(in.NodeId, in.Flags, out)
	return fuse.OK
}

// Create creates a file and opens it.
func (m *mount) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	p, st := m.parent(in.NodeId, name)
	if st != fuse.OK {
		return st
	}
	if p.kind != inside {
		return fuse.EPERM
	}
	a, err := m.create(p, in, name)
	if st := m.created(p, &a, err, &out.EntryOut); st != fuse.OK {
		return st
	}
	m.opened(out.NodeId, in.Flags, &out.OpenOut)
	return fuse.OK
}

// Tmpfile creates a file without a name and opens it (O_TMPFILE).
func (m *mount) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	p, st := m.file(in.NodeId)
	if st != fuse.OK {
		return st
	}
	a, err := m.fs.Tmpfile(background, p.door.view, p.ino, creatorOf(&in.InHeader, in.Umask), in.Mode)
	if err != nil {
		return m.status(err)
	}
	m.entry(p.door, &a, m.entryTo, &out.EntryOut)
	m.orphaned(p.door, a.Ino)
	m.opened(out.NodeId, in.Flags, &out.OpenOut)
	return fuse.OK
}

// Release closes a handle.
func (m *mount) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if in.Fh == writeHandle {
		m.writers.remove(in.NodeId)
	}
}

// Flush is asked for by no handle of ours; all the same it is no error.
func (m *mount) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

// Read reads from a file.
func (m *mount) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	p, st := m.file(in.NodeId)
	if st != fuse.OK {
		return nil, st
	}
	m.nodes.told(in.NodeId, false) // atime
	n, err := m.fs.Read(m.asking(&in.InHeader), p.door.view, p.ino, buf, in.Offset)
	if err != nil {
		return nil, m.status(err)
	}
	return inPlace(buf[:n]), fuse.OK
}

// inPlace is what was read, where go-fuse wants it: no transport copies it.
type inPlace []byte

// Bytes implements fuse.ReadResult.
func (r inPlace) Bytes([]byte) ([]byte, fuse.Status) { return r, fuse.OK }

// Size implements fuse.ReadResult.
func (r inPlace) Size() int { return len(r) }

// Done implements fuse.ReadResult.
func (r inPlace) Done() {}

// Readv is asked for by fuse.ProtocolServer. dst is where r is already.
func (r inPlace) Readv(dst [][]byte) (int, fuse.Status) {
	if len(r) > 0 && (len(dst) != 1 || &dst[0][0] != &r[0]) {
		return 0, fuse.EIO
	}
	return len(r), fuse.OK
}

// Write writes to a file. Where O_APPEND puts the data the kernel has found
// out already, under its lock of the inode, and that is the offset at which
// its own pages have them.
func (m *mount) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	p, st := m.file(in.NodeId)
	if st != fuse.OK {
		return 0, st
	}
	m.nodes.told(in.NodeId, false)
	n, err := m.fs.Write(m.asking(&in.InHeader), p.door.view, p.ino, credOf(&in.InHeader), data, in.Offset, inode.WriteFlags{
		KillSuidGid: in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0,
		Sync:        in.Flags&(syscall.O_SYNC|syscall.O_DSYNC) != 0,
	})
	return uint32(n), m.status(err)
}

// Writev is Write for data in pieces.
func (m *mount) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if len(data) == 1 {
		return m.Write(cancel, in, data[0])
	}
	return m.Write(cancel, in, bytes.Join(data, nil))
}

// Fsync makes durable what was done to a file.
func (m *mount) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return m.fsync(in.NodeId) }

// Fallocate answers fallocate(2).
func (m *mount) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	p, st := m.file(in.NodeId)
	if st != fuse.OK {
		return st
	}
	if err := m.killSuidGid(p, &in.InHeader); err != nil {
		return m.status(err)
	}
	m.nodes.told(in.NodeId, false)
	return m.status(m.fs.Fallocate(m.asking(&in.InHeader), p.door.view, p.ino, in.Offset, in.Length, in.Mode))
}

// killSuidGid takes from a file what a change by an ordinary user takes.
func (m *mount) killSuidGid(p place, h *fuse.InHeader) error {
	if keep, err := m.mayKeepSuid(p, h); keep || err != nil {
		return err
	}
	_, err := m.fs.Setattr(background, p.door.view, p.ino, credOf(h), inode.SetAttr{KillSuidGid: true})
	return err
}

// Lseek answers SEEK_DATA and SEEK_HOLE.
func (m *mount) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	p, st := m.file(in.NodeId)
	if st != fuse.OK {
		return st
	}
	at, err := m.fs.Seek(m.asking(&in.InHeader), p.door.view, p.ino, in.Offset, in.Whence)
	out.Offset = at
	return m.status(err)
}

// CopyFileRange answers copy_file_range(2). It takes as long as the copy, so
// it can be interrupted: then it says how far it came.
func (m *mount) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	from, st := m.file(in.NodeId)
	if st != fuse.OK {
		return 0, st
	}
	to, st := m.file(in.NodeIdOut)
	if st != fuse.OK {
		return 0, st
	}
	cred := credOf(&in.InHeader)
	keep, err := m.mayKeepSuid(to, &in.InHeader)
	if err != nil {
		return 0, m.status(err)
	}
	cred.Root = keep
	m.nodes.told(in.NodeIdOut, false)
	n, err := m.fs.CopyRange(interruptible(cancel), from.door.view, from.ino, in.OffIn,
		to.door.view, to.ino, in.OffOut, min(in.Len, maxCopyBytes), cred)
	return uint32(n), m.status(err)
}

// Ioctl knows none.
func (m *mount) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return enotty
}
