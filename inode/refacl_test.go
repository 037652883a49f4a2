package inode

import (
	"encoding/binary"
	"syscall"
)

// refACL is the entries of an ACL: tag, permissions, id. What it can do is
// written after the kernel's fs/posix_acl.c, line by line.
type refACL [][3]uint32

const (
	refAccess  = "system.posix_acl_access"
	refDefault = "system.posix_acl_default"
)

func isRefACL(name string) bool { return name == refAccess || name == refDefault }

func parseRefACL(val string) (refACL, error) {
	b := []byte(val)
	switch {
	case len(b) == 0:
		return nil, nil
	case len(b) < 4:
		return nil, ErrInvalid
	case b[0] != 2 || b[1] != 0 || b[2] != 0 || b[3] != 0:
		return nil, ErrNotSupported
	case len(b)%8 != 4:
		return nil, ErrInvalid
	}
	var l refACL
	state, mask := uint32(1), false
	for i := 4; i < len(b); i += 8 {
		tag, perm, id := uint32(binary.LittleEndian.Uint16(b[i:])), uint32(binary.LittleEndian.Uint16(b[i+2:])), binary.LittleEndian.Uint32(b[i+4:])
		if perm > 7 {
			return nil, ErrInvalid
		}
		ok := false
		switch tag {
		case 1:
			ok, state = state == 1, 2
		case 2:
			ok, mask = state == 2 && id != 0xffffffff, true
		case 4:
			ok, state = state == 2, 8
		case 8:
			ok, mask = state == 8 && id != 0xffffffff, true
		case 16:
			ok, state = state == 8, 32
		case 32:
			ok, state = state == 32 || state == 8 && !mask, 0
		}
		if !ok {
			return nil, ErrInvalid
		}
		if tag != 2 && tag != 8 {
			id = 0xffffffff
		}
		l = append(l, [3]uint32{tag, perm, id})
	}
	if state != 0 && len(l) > 0 {
		return nil, ErrInvalid
	}
	return l, nil
}

func (l refACL) String() string {
	b := []byte{2, 0, 0, 0}
	for _, e := range l {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return string(b)
}

func (l refACL) extended() bool { return len(l) != 3 }

func (l refACL) hasMask() bool {
	for _, e := range l {
		if e[0] == 16 {
			return true
		}
	}
	return false
}

// masq changes list and mode together: what each class may do is what f makes
// of what the list and the mode say.
func (l refACL) masq(mode uint32, f func(entry, mode uint32) uint32) (refACL, uint32) {
	out := append(refACL(nil), l...)
	for i, e := range l {
		shift := map[uint32]uint32{1: 6, 16: 3, 32: 0}
		s, ok := shift[e[0]]
		if e[0] == 4 && !l.hasMask() {
			s, ok = 3, true
		}
		if ok {
			out[i][1] = f(e[1], mode>>s&7)
			mode = mode&^(7<<s) | out[i][1]<<s
		}
	}
	return out, mode
}

func (n *refNode) setACL(name string, l refACL) error {
	if n.typ() == syscall.S_IFLNK {
		return ErrNotSupported
	}
	if name == refDefault && !n.dir() && l != nil {
		return ErrAccess
	}
	if l != nil && name == refAccess {
		_, n.mode = l.masq(n.mode, func(entry, _ uint32) uint32 { return entry })
	}
	delete(n.xattrs, name)
	if l != nil && (name == refDefault || l.extended()) {
		n.xattrs[name] = l.String()
	}
	return nil
}

// chmodACL lets the access ACL follow the mode.
func (n *refNode) chmodACL() {
	if val, ok := n.xattrs[refAccess]; ok {
		l, _ := parseRefACL(val)
		l, _ = l.masq(n.mode, func(_, mode uint32) uint32 { return mode })
		n.xattrs[refAccess] = l.String()
	}
}

// inheritACL gives a new node of directory d its ACLs.
func (n *refNode) inheritACL(d *refNode, umask uint32) {
	val, ok := d.xattrs[refDefault]
	switch {
	case n.typ() == syscall.S_IFLNK:
	case !ok:
		n.mode &^= umask
	default:
		l, _ := parseRefACL(val)
		if n.dir() {
			n.xattrs[refDefault] = val
		}
		if l, n.mode = l.masq(n.mode, func(entry, mode uint32) uint32 { return entry & mode }); l.extended() {
			n.xattrs[refAccess] = l.String()
		}
	}
}
