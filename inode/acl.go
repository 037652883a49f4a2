package inode

import (
	"encoding/binary"
	"syscall"
)

// What follows is POSIX.1e ACLs as Linux has them (acl(5), fs/posix_acl.c of
// the kernel), without a word of where they are kept: see aclxattr.go.

// MaxACLBytes is the length of the longest ACL: a page, for the kernel reads
// one with a buffer of that size and would deny everything if it were longer.
const MaxACLBytes = 4096

// Tags of entries.
const (
	aclUserObj  = 0x01 // the owner
	aclUser     = 0x02 // the user id
	aclGroupObj = 0x04 // the owning group
	aclGroup    = 0x08 // the group id
	aclMask     = 0x10 // bounds aclUser, aclGroupObj and aclGroup
	aclOther    = 0x20
)

const (
	aclVersion     = 2
	aclHeaderBytes = 4
	aclEntryBytes  = 8
	// aclNoID is the id of an entry that needs none, and of nobody.
	aclNoID = 1<<32 - 1
)

// rwx are the permissions of one entry.
const rwx = 7

// acl is a valid list: in the order of the tags as above, each tag that is no
// user or group at most once, aclMask if there is a user or group, the other
// three always. nil is none.
type acl []aclEntry

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// decodeACL reads the value of an ACL's xattr, as setxattr(2) has it:
//
//	| version 4B | entries: | tag 2B | permissions 2B | id 4B | |
//
// in little-endian. A list without entries is none. What Linux refuses is
// refused: ids need be neither sorted nor unique.
func decodeACL(b []byte) (acl, error) {
	if len(b) < aclHeaderBytes {
		return nil, ErrInvalid
	}
	if binary.LittleEndian.Uint32(b) != aclVersion {
		return nil, ErrNotSupported
	}
	b = b[aclHeaderBytes:]
	if len(b)%aclEntryBytes != 0 {
		return nil, ErrInvalid
	}
	var list acl
	for ; len(b) > 0; b = b[aclEntryBytes:] {
		e := aclEntry{
			binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:]),
		}
		if e.tag != aclUser && e.tag != aclGroup {
			e.id = aclNoID
		}
		list = append(list, e)
	}
	if list != nil && !list.valid() {
		return nil, ErrInvalid
	}
	return list, nil
}

// encode is the one form of l that decodeACL reads.
func (l acl) encode() []byte {
	b := make([]byte, 0, aclHeaderBytes+aclEntryBytes*len(l))
	b = binary.LittleEndian.AppendUint32(b, aclVersion)
	for _, e := range l {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// valid is the kernel's posix_acl_valid.
func (l acl) valid() bool {
	last, named, seen := uint16(0), false, uint16(0)
	for _, e := range l {
		if e.perm&^rwx != 0 || e.tag < last {
			return false
		}
		last = e.tag
		switch e.tag {
		case aclUser, aclGroup:
			if e.id == aclNoID {
				return false
			}
			named = true
		case aclUserObj, aclGroupObj, aclMask, aclOther:
			if seen&e.tag != 0 {
				return false
			}
			seen |= e.tag
		default:
			return false
		}
	}
	const must = aclUserObj | aclGroupObj | aclOther
	return seen&must == must && (seen&aclMask != 0 || !named)
}

// find returns the entry of a tag that there is at most one of, nil if there
// is none.
func (l acl) find(tag uint16) *aclEntry {
	for i := range l {
		if l[i].tag == tag {
			return &l[i]
		}
	}
	return nil
}

// class returns the entry that the group bits of a mode are: the mask, if
// there is one.
func (l acl) class() *aclEntry {
	if mask := l.find(aclMask); mask != nil {
		return mask
	}
	return l.find(aclGroupObj)
}

// perm returns the permission bits of the mode that goes with l. minimal
// reports that they say all that l does.
func (l acl) perm() (perm uint32, minimal bool) {
	perm = uint32(l.find(aclUserObj).perm)<<6 | uint32(l.class().perm)<<3 | uint32(l.find(aclOther).perm)
	return perm, len(l) == 3
}

// chmod returns the list after chmod(2).
func (l acl) chmod(mode uint32) acl {
	l = append(acl(nil), l...)
	l.find(aclUserObj).perm = uint16(mode >> 6 & rwx)
	l.class().perm = uint16(mode >> 3 & rwx)
	l.find(aclOther).perm = uint16(mode & rwx)
	return l
}

// inherit returns the ACL of a new inode in a directory whose default ACL is
// l, and its mode, given that with which it is created: each may do what both
// allow. The umask counts for nothing then.
func (l acl) inherit(mode uint32) (acl, uint32) {
	perm, _ := l.perm()
	mode &^= ^perm & 0777
	if l = l.chmod(mode); len(l) == 3 {
		return nil, mode
	}
	return l, mode
}

// isLink reports whether mode is that of a symlink: those have no ACLs, nor
// do they heed the umask.
func isLink(mode uint32) bool { return mode&syscall.S_IFMT == syscall.S_IFLNK }
