package inode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
)

// direntVersion is the first byte of a dirent. Version 1 is the first.
const direntVersion = 1

// firstCookie is the lowest cookie of an entry, see invariant 6.
const firstCookie = 3

// Cookies of the positions that every directory has.
const (
	cookieStart  = 0
	cookieDot    = 1 // after "."
	cookieDotDot = 2 // after ".."
)

var errDirent = errors.New("bad dirent")

// dirent is what a directory keeps under a name.
type dirent struct {
	ino    uint64
	mode   uint32 // S_IFMT bits only
	cookie uint64
}

// encode returns d as stored, see the package comment.
func (d dirent) encode() []byte {
	b := make([]byte, 0, 2+2*binary.MaxVarintLen64)
	b = append(b, direntVersion)
	b = binary.AppendUvarint(b, d.ino)
	b = append(b, byte(d.mode&syscall.S_IFMT>>12))
	return binary.AppendUvarint(b, d.cookie)
}

// decodeDirent accepts exactly what encode makes, so that there is one form
// of each entry.
func decodeDirent(b []byte) (dirent, error) {
	if len(b) == 0 || b[0] != direntVersion {
		return dirent{}, badDirent(b, "version")
	}
	ino, rest, ok := takeUvarint(b[1:])
	if !ok || ino == 0 {
		return dirent{}, badDirent(b, "inode number")
	}
	if len(rest) == 0 || !knownType(rest[0]) {
		return dirent{}, badDirent(b, "file type")
	}
	d := dirent{ino: ino, mode: uint32(rest[0]) << 12}
	if d.cookie, rest, ok = takeUvarint(rest[1:]); !ok || len(rest) != 0 {
		return dirent{}, badDirent(b, "cookie")
	}
	return d, nil
}

func badDirent(b []byte, part string) error {
	return fmt.Errorf("%w % x: %s: %w", errDirent, b, part, ErrIO)
}

// knownType reports whether t is a file type of stat(2), shifted down.
func knownType(t byte) bool {
	switch uint32(t) << 12 {
	case syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFLNK, syscall.S_IFIFO,
		syscall.S_IFSOCK, syscall.S_IFCHR, syscall.S_IFBLK:
		return true
	}
	return false
}

// takeUvarint takes a varint off b and refuses longer forms than the shortest.
func takeUvarint(b []byte) (x uint64, rest []byte, ok bool) {
	x, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0, nil, false
	}
	return x, b[n:], true
}
