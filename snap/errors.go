package snap

import (
	"errors"

	"dcfs/dcdb"
)

// Sentinels; match them with errors.Is.
var (
	ErrExist       = errors.New("a snapshot or fork of this name exists")
	ErrNotExist    = errors.New("no snapshot or fork of this name")
	ErrName        = errors.New("a name is valid UTF-8 without control characters, '/', '@' and '%', and does not begin with '.' or '-'")
	ErrNameTooLong = errors.New("a name has at most 255 bytes")
	ErrNotEmpty    = errors.New("the fork still lists forks of its own")
	ErrInvalid     = errors.New("a fork can't be listed below itself")
	ErrBusy        = errors.New("in use")
	ErrReadOnly    = dcdb.ErrReadOnly
	ErrGone        = dcdb.ErrGone
)
