package fs

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"dcfs/inode"
)

// background is the context of nearly all operations. They can't be
// interrupted, as those of any local file system: programs do not expect
// EINTR from rename(2) or fsync(2), a page fault answered with it is SIGBUS,
// and the runtime of Go alone interrupts its own system calls all day.
var background = context.Background()

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

// credOf returns on whose behalf a request is done. The kernel has checked
// permissions (default_permissions), so it has also taken S_ISGID from a
// chmod by somebody who does not belong to the group.
func credOf(h *fuse.InHeader) inode.Cred {
	return inode.Cred{UID: h.Uid, GID: h.Gid, Root: h.Uid == 0, Groups: anyGroup}
}

func anyGroup(uint32) bool { return true }

// creatorOf is credOf for a new file of this mode. Kernels before 6.0 leave
// it to us to see that nobody makes a program that runs as a group which is
// not his.
func creatorOf(h *fuse.InHeader, mode uint32) inode.Cred {
	c := credOf(h)
	if mode&syscall.S_ISGID != 0 {
		pid := h.Pid
		c.Groups = func(gid uint32) bool { return inGroup(pid, gid) }
	}
	return c
}

// inGroup reports whether a process, which waits for us, has a supplementary
// group.
func inGroup(pid, gid uint32) bool {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	defer f.Close()
	want := strconv.FormatUint(uint64(gid), 10)
	for s := bufio.NewScanner(f); s.Scan(); {
		groups, ok := strings.CutPrefix(s.Text(), "Groups:")
		if !ok {
			continue
		}
		for _, g := range strings.Fields(groups) {
			if g == want {
				return true
			}
		}
		return false
	}
	return false
}
