package fs

import (
	"context"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
	"dcfs/inode"
	"dcfs/snap"
)

// errNoDoor: a mount has more than eight million directories of the past
// open.
var errNoDoor = errors.New("too many snapshots of too many directories are in use")

const (
	estale  = fuse.Status(syscall.ESTALE)
	enotsup = fuse.Status(syscall.EOPNOTSUPP)
	// enotty is what a file system says to an ioctl that it does not know.
	enotty = fuse.Status(syscall.ENOTTY)
)

// errnos says what the errors of the layers below are to a system call. The
// first match counts: an error of package inode may wrap another one.
var errnos = []struct {
	err   error
	errno syscall.Errno
}{
	{inode.ErrNotExist, syscall.ENOENT},
	{inode.ErrExist, syscall.EEXIST},
	{inode.ErrNoData, syscall.ENODATA},
	{inode.ErrNotDir, syscall.ENOTDIR},
	{inode.ErrIsDir, syscall.EISDIR},
	{inode.ErrNotEmpty, syscall.ENOTEMPTY},
	{inode.ErrNameTooLong, syscall.ENAMETOOLONG},
	{inode.ErrInvalid, syscall.EINVAL},
	{inode.ErrXDev, syscall.EXDEV},
	{inode.ErrTooManyLinks, syscall.EMLINK},
	{inode.ErrPermission, syscall.EPERM},
	{inode.ErrAccess, syscall.EACCES},
	{inode.ErrReadOnly, syscall.EROFS},
	{inode.ErrStale, syscall.ESTALE},
	{inode.ErrRange, syscall.ERANGE},
	{inode.ErrTooBig, syscall.E2BIG},
	{inode.ErrFileTooBig, syscall.EFBIG},
	{inode.ErrNoSpace, syscall.ENOSPC},
	{inode.ErrNotSupported, syscall.EOPNOTSUPP},
	{inode.ErrNXIO, syscall.ENXIO},
	{inode.ErrBusy, syscall.EBUSY},
	{inode.ErrNoDevice, syscall.ENODEV},
	{inode.ErrSeek, syscall.ESPIPE},

	{snap.ErrNotExist, syscall.ENOENT},
	{snap.ErrExist, syscall.EEXIST},
	{snap.ErrName, syscall.EINVAL},
	{snap.ErrNameTooLong, syscall.ENAMETOOLONG},
	{snap.ErrNotEmpty, syscall.ENOTEMPTY},
	{snap.ErrReadOnly, syscall.EROFS},
	{snap.ErrGone, syscall.ESTALE},
	{snap.ErrBusy, syscall.EBUSY},
	{snap.ErrHeld, syscall.EBUSY},

	{dcdb.ErrNotExist, syscall.ESTALE},
	{dcdb.ErrReadOnly, syscall.EROFS},
	{dcdb.ErrFull, syscall.ENOSPC},
	{store.ErrFull, syscall.ENOSPC},

	{errNoDoor, syscall.ENFILE},
	{context.Canceled, syscall.EINTR},
}

// errnoOf returns the errno that err means, EIO if it means none. known is
// false then: a bug or a bad store, never the user's mistake.
func errnoOf(err error) (errno syscall.Errno, known bool) {
	if err == nil {
		return 0, true
	}
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			return e.errno, true
		}
	}
	return syscall.EIO, false
}

// status is errnoOf for an answer to the kernel. Every EIO is logged.
func (m *mount) status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	errno, known := errnoOf(err)
	if !known {
		m.log("input/output error: %v", err)
	}
	return fuse.Status(errno)
}
