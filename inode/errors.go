package inode

import (
	"errors"
	"fmt"

	"dcfs/dcdb"
)

// One error for each errno that an operation can mean; match them with
// errors.Is. An error that matches none of them is a bug or a bad store.
var (
	ErrNotExist     = errors.New("no such file or directory")         // ENOENT
	ErrExist        = errors.New("file exists")                       // EEXIST
	ErrNotDir       = errors.New("not a directory")                   // ENOTDIR
	ErrIsDir        = errors.New("is a directory")                    // EISDIR
	ErrNotEmpty     = errors.New("directory not empty")               // ENOTEMPTY
	ErrNameTooLong  = errors.New("name too long")                     // ENAMETOOLONG
	ErrInvalid      = errors.New("invalid argument")                  // EINVAL
	ErrXDev         = errors.New("in another volume or view")         // EXDEV
	ErrTooManyLinks = errors.New("too many links")                    // EMLINK
	ErrPermission   = errors.New("operation not permitted")           // EPERM
	ErrAccess       = errors.New("permission denied")                 // EACCES
	ErrReadOnly     = errors.New("a snapshot cannot be changed")      // EROFS
	ErrStale        = errors.New("inode or view is gone")             // ESTALE
	ErrNoData       = errors.New("no such extended attribute")        // ENODATA
	ErrRange        = errors.New("name or result of bad length")      // ERANGE
	ErrTooBig       = errors.New("extended attribute too large")      // E2BIG
	ErrFileTooBig   = errors.New("file too large")                    // EFBIG
	ErrNoSpace      = errors.New("no space left")                     // ENOSPC
	ErrNotSupported = errors.New("operation not supported")           // EOPNOTSUPP
	ErrNXIO         = errors.New("no data or hole beyond the offset") // ENXIO
	ErrBusy         = errors.New("in use")                            // EBUSY
	ErrIO           = errors.New("input/output error")                // EIO
	ErrNoDevice     = errors.New("not a regular file")                // ENODEV
	ErrSeek         = errors.New("illegal seek")                      // ESPIPE
)

// op is what an error is about: an operation, and what it was done to.
type op struct {
	name string
	ino  uint64
	arg  string // name of an entry or xattr; may be empty
}

// wrap says in an error from below, or in one of ours, what failed.
func (o op) wrap(err error) error {
	if err == nil {
		return nil
	}
	return &opError{o, translate(err)}
}

// opError is built on every failed look-up, so its text is made only when
// somebody reads it.
type opError struct {
	op
	err error
}

func (e *opError) Error() string {
	if e.arg == "" {
		return fmt.Sprintf("%s %d: %v", e.name, e.ino, e.err)
	}
	return fmt.Sprintf("%s %d/%q: %v", e.name, e.ino, e.arg, e.err)
}

func (e *opError) Unwrap() error { return e.err }

// below says what the errors of lower layers mean here.
var below = []struct{ from, to error }{
	{dcdb.ErrNotExist, ErrStale},
	{dcdb.ErrGone, ErrStale},
	{dcdb.ErrReadOnly, ErrReadOnly},
	{dcdb.ErrFull, ErrNoSpace},
	{dcdb.ErrCorrupt, ErrIO},
	{dcdb.ErrVersion, ErrIO},
	{dcdb.ErrFailed, ErrIO},
	{dcdb.ErrIO, ErrIO},
}

// translate returns err with the sentinel that it means. Errors of this
// package and unknown ones stay as they are: what fs does not know is EIO,
// and logged.
func translate(err error) error {
	for _, b := range below {
		if errors.Is(err, b.from) {
			return fmt.Errorf("%w: %w", b.to, err)
		}
	}
	return err
}
