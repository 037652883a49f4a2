package fs

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"dcfs/dcdb"
	"dcfs/inode"
	"dcfs/snap"
)

func TestErrorsBecomeErrnos(t *testing.T) {
	for _, c := range []struct {
		err   error
		want  syscall.Errno
		known bool
	}{
		{nil, 0, true},
		{inode.ErrNotExist, syscall.ENOENT, true},
		{fmt.Errorf("rename 5/%q: %w", "x", inode.ErrNotEmpty), syscall.ENOTEMPTY, true},
		{fmt.Errorf("%w: %w", inode.ErrStale, dcdb.ErrNotExist), syscall.ESTALE, true},
		{fmt.Errorf("%w: %w", inode.ErrNoSpace, dcdb.ErrFull), syscall.ENOSPC, true},
		{snap.ErrName, syscall.EINVAL, true},
		{snap.ErrNameTooLong, syscall.ENAMETOOLONG, true},
		{snap.ErrGone, syscall.ESTALE, true},
		{snap.ErrBusy, syscall.EBUSY, true},
		{fmt.Errorf("delete snapshot: %w", &snap.HeldError{Snapshot: "s"}), syscall.EBUSY, true},
		{dcdb.ErrReadOnly, syscall.EROFS, true},
		{context.Canceled, syscall.EINTR, true},
		{inode.ErrIO, syscall.EIO, false},
		{dcdb.ErrCorrupt, syscall.EIO, false},
		{errors.New("no one knows"), syscall.EIO, false},
	} {
		if got, known := errnoOf(c.err); got != c.want || known != c.known {
			t.Errorf("%v: %v, known %v; want %v, %v", c.err, got, known, c.want, c.known)
		}
	}
}

func TestInterruptibleContextEnds(t *testing.T) {
	c := make(chan struct{})
	ctx := interruptible(c)
	if err := ctx.Err(); err != nil {
		t.Errorf("before: %v", err)
	}
	if n := testing.AllocsPerRun(100, func() {
		var any context.Context = interruptible(c)
		_ = any.Err()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	close(c)
	<-ctx.Done()
	if err := ctx.Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("after: %v", err)
	}
}
