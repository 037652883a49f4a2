package fs

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"dcfs/dcdb"
	"dcfs/inode"
)

// blockBytes is st_blksize: what buffered output is written by. A larger one
// than the page saves requests.
const blockBytes = 64 << 10

const (
	permBits  = 07777
	statxMask = 0x07ff | statxBtime // STATX_BASIC_STATS and that
	// statxBtime is STATX_BTIME.
	statxBtime = 0x0800
)

// fillAttr makes the kernel's form of attributes.
func fillAttr(a *inode.Attr, stIno uint64, out *fuse.Attr) {
	out.Ino = stIno
	out.Size = a.Size
	out.Blocks = a.Alloc / 512
	out.Atime, out.Atimensec = uint64(a.Atime.Sec), a.Atime.Nsec
	out.Mtime, out.Mtimensec = uint64(a.Mtime.Sec), a.Mtime.Nsec
	out.Ctime, out.Ctimensec = uint64(a.Ctime.Sec), a.Ctime.Nsec
	out.Mode = a.Mode
	out.Nlink = a.Nlink
	out.Uid, out.Gid = a.UID, a.GID
	out.Rdev = a.Rdev
	out.Blksize = blockBytes
}

// attrTimeout is how long the kernel may keep attributes of a view. A program
// that runs as somebody else is looked at each time: a write by another user
// takes S_ISUID away, and the kernel notices that only here.
func (m *mount) attrTimeout(mode uint32) timeout {
	if mode&(syscall.S_ISUID|syscall.S_ISGID) != 0 && mode&syscall.S_IFMT == syscall.S_IFREG {
		return timeout{}
	}
	return m.attrTo
}

// fillAttrOut answers with the attributes of an inode.
func (m *mount) fillAttrOut(d *door, a *inode.Attr, out *fuse.AttrOut) {
	fillAttr(a, d.stIno(a.Ino), &out.Attr)
	to := m.attrTimeout(a.Mode)
	out.AttrValid, out.AttrValidNsec = to.sec, to.nsec
	m.nodes.told(nodeID(d.number, a.Ino), true)
}

// getattr returns the attributes of what is no virtual directory.
func (m *mount) getattr(p place) (inode.Attr, error) {
	return m.fs.Getattr(background, p.door.view, p.ino)
}

// GetAttr answers stat(2).
func (m *mount) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	p, st := m.at(in.NodeId)
	if st != fuse.OK {
		return st
	}
	if p.kind != inside {
		return m.virtualAttrOut(p, out)
	}
	a, err := m.fs.Getattr(m.asking(&in.InHeader), p.door.view, p.ino)
	if err != nil {
		return m.status(err)
	}
	m.fillAttrOut(p.door, &a, out)
	return fuse.OK
}

// Statx answers statx(2) where it asks for the time of birth.
func (m *mount) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	p, st := m.at(in.NodeId)
	if st != fuse.OK {
		return st
	}
	var a inode.Attr
	to := newTimeout(virtualTimeout)
	if p.kind != inside {
		var err error
		if a, err = m.virtualAttr(p); err != nil {
			return m.status(err)
		}
	} else {
		var err error
		if a, err = m.getattr(p); err != nil {
			return m.status(err)
		}
		to = m.attrTimeout(a.Mode)
	}
	out.AttrValid, out.AttrValidNsec = to.sec, to.nsec
	fillStatx(&a, p.stIno(), &out.Statx)
	return fuse.OK
}

func fillStatx(a *inode.Attr, stIno uint64, out *fuse.Statx) {
	out.Mask = statxMask
	out.Blksize = blockBytes
	out.Nlink = a.Nlink
	out.Uid, out.Gid = a.UID, a.GID
	out.Mode = uint16(a.Mode)
	out.Ino = stIno
	out.Size = a.Size
	out.Blocks = a.Alloc / 512
	out.Atime, out.Btime = statxTime(a.Atime), statxTime(a.Btime)
	out.Ctime, out.Mtime = statxTime(a.Ctime), statxTime(a.Mtime)
	// The kernel's new_decode_dev.
	out.RdevMajor = a.Rdev & 0xfff00 >> 8
	out.RdevMinor = a.Rdev&0xff | a.Rdev>>12&0xfff00
}

func statxTime(t dcdb.Time) fuse.SxTime { return fuse.SxTime{Sec: uint64(t.Sec), Nsec: t.Nsec} }

// SetAttr answers chmod(2), chown(2), truncate(2), utimensat(2).
func (m *mount) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	p, st := m.at(in.NodeId)
	if st != fuse.OK {
		return st
	}
	if p.kind != inside {
		return m.setVirtual(p, in, out)
	}
	if p.door.view.ReadOnly() {
		return m.setFresh(p, in, out)
	}
	s, cred := setAttrOf(in), credOf(&in.InHeader)
	if s.Mode != nil {
		cred = chmodBy(&in.InHeader)
	}
	a, err := m.fs.Setattr(m.asking(&in.InHeader), p.door.view, p.ino, cred, s)
	if err != nil {
		return m.status(err)
	}
	m.fillAttrOut(p.door, &a, out)
	return fuse.OK
}

func setAttrOf(in *fuse.SetAttrIn) (s inode.SetAttr) {
	if mode, ok := in.GetMode(); ok {
		s.Mode = &mode
	}
	if uid, ok := in.GetUID(); ok {
		s.UID = &uid
	}
	if gid, ok := in.GetGID(); ok {
		s.GID = &gid
	}
	if size, ok := in.GetSize(); ok {
		s.Size = &size
	}
	s.AtimeNow = in.Valid&fuse.FATTR_ATIME_NOW != 0
	if in.Valid&fuse.FATTR_ATIME != 0 && !s.AtimeNow {
		s.Atime = &dcdb.Time{Sec: int64(in.Atime), Nsec: in.Atimensec}
	}
	s.MtimeNow = in.Valid&fuse.FATTR_MTIME_NOW != 0
	if in.Valid&fuse.FATTR_MTIME != 0 && !s.MtimeNow {
		s.Mtime = &dcdb.Time{Sec: int64(in.Mtime), Nsec: in.Mtimensec}
	}
	if in.Valid&fuse.FATTR_CTIME != 0 {
		s.Ctime = &dcdb.Time{Sec: int64(in.Ctime), Nsec: in.Ctimensec}
	}
	s.KillSuidGid = in.Valid&fuse.FATTR_KILL_SUIDGID != 0
	return s
}

// setFresh accepts, without doing anything, a chmod, chown or utimensat of a
// snapshot's root that only repeats what is so, or that comes just after its
// mkdir: as in "mkdir -m" and "install -d". All else in a snapshot is EROFS.
func (m *mount) setFresh(p place, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if err := p.door.view.Err(); err != nil {
		return m.status(err)
	}
	if p.ino != p.door.root || p.door == m.own || in.Valid&fuse.FATTR_SIZE != 0 {
		return fuse.EROFS
	}
	a, err := m.getattr(p)
	if err != nil {
		return m.status(err)
	}
	until := p.door.fresh.Load()
	if (until == nil || time.Now().After(*until)) && !changesNothing(in, &a) {
		return fuse.EROFS
	}
	m.fillAttrOut(p.door, &a, out)
	return fuse.OK
}

// changesNothing reports whether attributes a already are what is asked for.
func changesNothing(in *fuse.SetAttrIn, a *inode.Attr) bool {
	if mode, ok := in.GetMode(); ok && mode != a.Mode&permBits {
		return false
	}
	if uid, ok := in.GetUID(); ok && uid != a.UID {
		return false
	}
	if gid, ok := in.GetGID(); ok && gid != a.GID {
		return false
	}
	return in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) == 0
}

// StatFs answers statfs(2).
func (m *mount) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	v := m.own.view
	if p, st := m.at(in.NodeId); st == fuse.OK {
		v = p.door.view
	}
	s, err := m.fs.Statfs(background, v)
	if err != nil {
		return m.status(err)
	}
	out.Bsize, out.Frsize = s.BlockSize, s.BlockSize
	out.Blocks, out.Bfree, out.Bavail = s.Blocks, s.Free, s.Avail
	out.Files, out.Ffree = s.Files, s.FilesFree
	out.NameLen = s.NameLen
	return fuse.OK
}

// Access is not sent to us: with default_permissions the kernel knows. ENOSYS
// says that it need not ask again.
func (m *mount) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }
