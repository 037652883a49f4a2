package dcdb

import (
	"errors"
	"fmt"

	"dcfs/dcdb/store"
)

// Sentinels; match them with errors.Is.
var (
	// ErrNotExist: the view has no DCDB of this number.
	ErrNotExist = errors.New("no such inode")
	// ErrGone: the view itself is gone, its fork or snapshot was deleted.
	ErrGone = errors.New("the snapshot or fork was deleted")
	// ErrReadOnly: a change of a view that is not live.
	ErrReadOnly = errors.New("read-only view")
	// ErrFull: no space in the store.
	ErrFull = store.ErrFull
	// ErrCorrupt: bytes in the store that are not what was written.
	ErrCorrupt = store.ErrCorrupt
	// ErrIO: something that must be in the store could not be read.
	ErrIO = errors.New("I/O error")
	// ErrVersion: a record of a version that this program does not know.
	ErrVersion = errors.New("unknown version")
	// ErrFailed: a commit group could not be written. What was not durable
	// before is lost, and the volume takes no more changes until it is
	// opened again.
	ErrFailed = errors.New("the volume can no longer commit")
	// ErrClosed: the space was closed.
	ErrClosed = errors.New("volume closed")

	// errBarrier: the batch is applied and may not be durable. Whatever the
	// reason is, it can't be tried again.
	errBarrier = errors.New("barrier")
	// errMiss: something that is needed is not in memory. It never leaves
	// the package: Space.View and Update load it and run the function again.
	errMiss = errors.New("not in memory")
)

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}
