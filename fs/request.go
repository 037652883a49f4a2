package fs

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"dcfs/inode"
)

// background is the context of nearly all operations. They can't be
// interrupted, as those of any local file system: programs do not expect
// EINTR from rename(2) or fsync(2), a page fault answered with it is SIGBUS,
// and the runtime of Go alone interrupts its own system calls all day.
var background = context.Background()

// asking is the context of the operation that request h asks for: background,
// but that the transport hears when the operation is about to wait.
func (m *mount) asking(h *fuse.InHeader) context.Context {
	if w, ok := m.kernel.(*wire); ok {
		return &asked{w, h.Unique}
	}
	return background
}

// asked is a request of a wire, as a dcdb.Waiter.
type asked struct {
	w      *wire
	unique uint64
}

// Deadline implements context.Context: there is none.
func (a *asked) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements context.Context: it is not interrupted.
func (a *asked) Done() <-chan struct{} { return nil }

// Err implements context.Context.
func (a *asked) Err() error { return nil }

// Value implements context.Context: there are none.
func (a *asked) Value(any) any { return nil }

// Waits implements dcdb.Waiter.
func (a *asked) Waits() { a.w.waits(a.unique) }

// interruptible is the context of a request that may be interrupted. A
// channel is a pointer, so making one allocates nothing.
type interruptible <-chan struct{}

// Deadline implements context.Context: there is none.
func (c interruptible) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements context.Context.
func (c interruptible) Done() <-chan struct{} { return c }

// Value implements context.Context: there are none.
func (c interruptible) Value(any) any { return nil }

// Err implements context.Context.
func (c interruptible) Err() error {
	select {
	case <-c:
		return context.Canceled
	default:
		return nil
	}
}

// credOf returns on whose behalf a request is done.
func credOf(h *fuse.InHeader) inode.Cred {
	c := inode.Cred{UID: h.Uid, GID: h.Gid, Root: h.Uid == 0}
	pid := h.Pid
	c.Groups = func(gid uint32) bool { return readCaller(pid).in(gid) }
	return c
}

// chmodBy is credOf for a chmod: the kernel, which has checked permissions
// (default_permissions), has also taken S_ISGID from the mode if it must.
func chmodBy(h *fuse.InHeader) inode.Cred {
	c := credOf(h)
	c.Groups = func(uint32) bool { return true }
	return c
}

// creatorOf is credOf for what makes a file. Kernels before 6.0 leave it to us
// to see that nobody makes a program that runs as a group which is not his.
func creatorOf(h *fuse.InHeader, umask uint32) inode.Cred {
	c := credOf(h)
	c.Umask = umask
	return c
}

// mayKeepSuid reports whether who changes data of p keeps S_ISUID and S_ISGID.
// It is for the requests that have no flag to say so.
func (m *mount) mayKeepSuid(p place, h *fuse.InHeader) (bool, error) {
	if p.door.view.ReadOnly() {
		return true, nil
	}
	a, err := m.getattr(p)
	if err != nil || a.Mode&(syscall.S_ISUID|syscall.S_ISGID) == 0 {
		return true, err
	}
	if c := readCaller(h.Pid); c.known {
		return c.fsetid, nil
	}
	return h.Uid == 0, nil
}

// caller is what only /proc tells of the process that waits for us: it is
// looked for where S_ISUID or S_ISGID is at stake, which is rare.
type caller struct {
	known  bool // false if it lives in a namespace that we do not see
	groups []string
	fsetid bool // has CAP_FSETID
}

// in reports whether the process has a supplementary group, or may act as if.
func (c caller) in(gid uint32) bool {
	return c.fsetid || slices.Contains(c.groups, strconv.FormatUint(uint64(gid), 10))
}

func readCaller(pid uint32) (c caller) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return c
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "Groups":
			c.groups = strings.Fields(value)
		case "CapEff":
			caps, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			c.known, c.fsetid = err == nil, caps&(1<<unix.CAP_FSETID) != 0
		}
	}
	return c
}
