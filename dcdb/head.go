package dcdb

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Live is the At of a Key that means the fork's live state.
const Live = math.MaxUint64

// Key names a DCDB as one view shows it.
type Key struct {
	Fork uint64
	At   uint64 // Live, or the counter of a read-only view
	Ino  uint64
}

func (k Key) String() string {
	if k.At == Live {
		return fmt.Sprintf("inode %d of fork %d", k.Ino, k.Fork)
	}
	return fmt.Sprintf("inode %d of fork %d at %d", k.Ino, k.Fork, k.At)
}

// Time is a time in UTC, in seconds since 1970 and nanoseconds, of any year.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Before reports whether t is earlier than u.
func (t Time) Before(u Time) bool {
	return t.Sec < u.Sec || t.Sec == u.Sec && t.Nsec < u.Nsec
}

// Attr is what a head tells of its inode, apart from the tree. What the
// fields mean is package inode's to say; Size of a file, Alloc and Born are
// kept by this package.
type Attr struct {
	Mode                       uint32 // file type and permission bits, as stat(2) has them
	UID, GID                   uint32
	Nlink                      uint32
	Rdev                       uint32
	Size                       uint64 // bytes
	Alloc                      uint64 // bytes of file data that take space
	Atime, Mtime, Ctime, Btime Time
	Parent                     uint64 // directory of the first link
	Name                       string // of the first link
	NextCookie                 uint64 // of the next entry of a directory
	Flags                      uint32 // reserved
	Born                       uint64 // counter at which the inode was created
}

// Head is a head record, decoded.
type Head struct {
	Attr
	Changed uint64 // counter of the last change
	Deleted bool
	excess  bool
	tree    tree
}

const headVersion = 1

const (
	headDeleted = 1 << iota
	headInline
	headTable
	headExcess
)

// encodeHead returns h's record. The pages of an inline tree must have no
// unsaved content above MaxInlineValue; the nodes below the root must be
// stored.
func encodeHead(h *Head) []byte {
	b := make([]byte, 2, 160)
	b[0] = headVersion
	b = binary.AppendUvarint(b, h.Changed)
	b = binary.AppendUvarint(b, h.Born)
	if h.Deleted {
		b[1] = headDeleted
		return b
	}
	for _, v := range [...]uint64{
		uint64(h.Mode), uint64(h.UID), uint64(h.GID), uint64(h.Nlink), uint64(h.Rdev), h.Size, h.Alloc,
	} {
		b = binary.AppendUvarint(b, v)
	}
	for _, t := range [...]Time{h.Atime, h.Mtime, h.Ctime, h.Btime} {
		b = appendTime(b, t)
	}
	b = binary.AppendUvarint(b, h.Parent)
	b = appendBytes(b, h.Name)
	b = binary.AppendUvarint(b, h.NextCookie)
	b = binary.AppendUvarint(b, uint64(h.Flags))
	if h.excess {
		b[1] |= headExcess
	}
	switch {
	case h.tree.root == nil:
	case h.tree.inline():
		b[1] |= headInline
		b = appendPage(b, h.tree.root.slots[0].page)
	default:
		b[1] |= headTable
		b = binary.AppendUvarint(b, h.tree.next)
		b = binary.AppendUvarint(b, uint64(h.tree.depth))
		b = appendNode(b, h.tree.root, h.tree.depth)
	}
	return b
}

// DecodeHead reads a head record. It fails with ErrVersion or ErrCorrupt.
func DecodeHead(b []byte) (*Head, error) {
	d := &decoder{b: b}
	if v := d.byte(); d.err == nil && v != headVersion {
		return nil, fmt.Errorf("%w: head of version %d, this program knows %d", ErrVersion, v, headVersion)
	}
	flags := d.byte()
	h := &Head{Changed: d.uvarint()}
	h.Born = d.uvarint()
	if flags == headDeleted {
		h.Deleted = true
		return h, d.end()
	}
	h.Mode, h.UID, h.GID = d.u32("mode"), d.u32("uid"), d.u32("gid")
	h.Nlink, h.Rdev = d.u32("nlink"), d.u32("rdev")
	h.Size, h.Alloc = d.uvarint(), d.uvarint()
	for _, t := range [...]*Time{&h.Atime, &h.Mtime, &h.Ctime, &h.Btime} {
		*t = d.time()
	}
	h.Parent = d.uvarint()
	h.Name = string(d.bytes())
	h.NextCookie = d.uvarint()
	h.Flags = d.u32("flags")
	h.excess = flags&headExcess != 0
	switch flags &^ headExcess {
	case 0:
	case headInline:
		h.tree = tree{next: 1, root: &tnode{slots: []*ref{{page: decodePage(d)}}}}
	case headTable:
		h.tree.next = d.uvarint()
		h.tree.depth = int(d.max(maxDepth, "depth"))
		h.tree.root = decodeNode(d, h.tree.depth)
	default:
		d.fail("unknown flags")
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return h, nil
}

// Large reports whether the tree has pages besides the head.
func (h *Head) Large() bool { return h.tree.root != nil && !h.tree.inline() }

// Excess reports whether the file has records beyond its end that are still to be
// dropped.
func (h *Head) Excess() bool { return h.excess }

// HeadExcess is Excess for a head record.
func HeadExcess(b []byte) bool { return len(b) > 1 && b[1]&headExcess != 0 }

// EncodeHead returns the record of a head that the store has already.
func EncodeHead(h *Head) []byte { return encodeHead(h) }

// HeadInfo reads what the rules want to know of a head record without decoding
// the rest.
func HeadInfo(b []byte) (changed uint64, deleted bool, err error) {
	d := &decoder{b: b}
	if v := d.byte(); d.err == nil && v != headVersion {
		return 0, false, fmt.Errorf("%w: head of version %d, this program knows %d", ErrVersion, v, headVersion)
	}
	flags := d.byte()
	return d.uvarint(), flags&headDeleted != 0, d.err
}
