package fs

import (
	"bytes"

	"github.com/hanwen/go-fuse/v2/fuse"

	"dcfs/inode"
)

// reply puts a value into the caller's buffer. An empty one asks for the
// length only.
func reply(value, dest []byte) (uint32, fuse.Status) {
	if len(dest) > 0 && len(dest) < len(value) {
		return 0, fuse.ERANGE
	}
	copy(dest, value)
	return uint32(len(value)), fuse.OK
}

// closed reports whether an xattr is not to be had in this mount.
func (m *mount) closed(name string) bool { return m.opts.NoACL && inode.IsACL(name) }

// GetXAttr reads an extended attribute.
func (m *mount) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	p, st := m.at(h.NodeId)
	if st != fuse.OK {
		return 0, st
	}
	switch {
	case m.closed(name):
		return 0, enotsup
	case p.kind != inside:
		return 0, fuse.ENODATA
	}
	value, err := m.fs.Getxattr(m.asking(h), p.door.view, p.ino, name)
	if err != nil {
		return 0, m.status(err)
	}
	return reply(value, dest)
}

// ListXAttr lists the names of the extended attributes.
func (m *mount) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	p, st := m.at(h.NodeId)
	if st != fuse.OK || p.kind != inside {
		return 0, st
	}
	names, err := m.fs.Listxattr(m.asking(h), p.door.view, p.ino)
	if err != nil {
		return 0, m.status(err)
	}
	if m.opts.NoACL {
		names = withoutACLs(names)
	}
	return reply(names, dest)
}

// withoutACLs takes the names of ACLs from a list.
func withoutACLs(names []byte) []byte {
	var left []byte
	for name := range bytes.SplitAfterSeq(names, []byte{0}) {
		if !inode.IsACL(string(bytes.TrimSuffix(name, []byte{0}))) {
			left = append(left, name...)
		}
	}
	return left
}

// SetXAttr sets an extended attribute.
func (m *mount) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	p, st := m.file(in.NodeId)
	if st != fuse.OK {
		return st
	}
	if m.closed(name) {
		return enotsup
	}
	flags := in.Flags & (inode.XattrCreate | inode.XattrReplace)
	if flags != in.Flags {
		return fuse.EINVAL
	}
	if in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0 {
		flags |= inode.XattrKillSgid
	}
	m.nodes.told(in.NodeId, false) // ctime
	return m.status(m.fs.Setxattr(m.asking(&in.InHeader), p.door.view, p.ino, name, value, flags))
}

// RemoveXAttr removes one.
func (m *mount) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	p, st := m.file(h.NodeId)
	if st != fuse.OK {
		return st
	}
	if m.closed(name) {
		return enotsup
	}
	m.nodes.told(h.NodeId, false)
	return m.status(m.fs.Removexattr(m.asking(h), p.door.view, p.ino, name))
}
