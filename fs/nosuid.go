package fs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"dcfs/inode"
)

const (
	// fmodeExec is a flag of open(2) inside the kernel: the file is opened to be
	// executed. FUSE sends it to us.
	fmodeExec = 0x20

	// fileCaps is the xattr that gives a program capabilities.
	fileCaps = "security.capability"
)

// mayExecute refuses to run a program of a snapshot that would give its user
// rights of another: it may be one that was mended or taken away since, and
// whoever lived in that time keeps it in .snapshots. A mount that is nosuid, as
// all are unless root asked for suid, runs it without these rights. A part of a
// mount can't be nosuid, so in the others it is not run at all. A snapshot that
// is mounted by itself was asked for with its options.
func (m *mount) mayExecute(p place, in *fuse.OpenIn) fuse.Status {
	if in.Flags&fmodeExec == 0 || p.door == m.own || !p.door.view.ReadOnly() {
		return fuse.OK
	}
	gives, err := m.givesRights(p)
	if err != nil || !gives || m.nosuidFor(in.Pid) {
		return m.status(err)
	}
	return fuse.EACCES
}

// givesRights reports whether a program runs with rights that are not its
// user's.
func (m *mount) givesRights(p place) (bool, error) {
	a, err := m.getattr(p)
	if err != nil {
		return false, err
	}
	// S_ISGID of what the group can't execute is no right.
	if a.Mode&syscall.S_ISUID != 0 || a.Mode&(syscall.S_ISGID|syscall.S_IXGRP) == syscall.S_ISGID|syscall.S_IXGRP {
		return true, nil
	}
	caps, err := m.fs.Getxattr(background, p.door.view, p.ino, fileCaps)
	if errors.Is(err, inode.ErrNoData) {
		return false, nil
	}
	return len(caps) > 0, err
}

// nosuidFor reports whether this mount is nosuid wherever a process may have it.
// By which way it came is not known here, and root may change that at any time
// (remount, mount --bind). If its namespace has no such mount, it came by
// overlayfs, say, and the kernel goes by that. Of a process that can't be looked
// at, the answer is no.
func (m *mount) nosuidFor(pid uint32) bool {
	info, err := mountsOf(pid)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(info)) {
		mount, super, _ := strings.Cut(line, " - ")
		f := strings.Fields(mount) // 36 35 0:57 /root /mountpoint options ...
		if len(f) < 6 || !strings.HasPrefix(super, "fuse."+fsType+" ") || m.opts.Dev != "" && m.opts.Dev != f[2] {
			continue
		}
		if !slices.Contains(strings.Split(f[5], ","), "nosuid") {
			return false
		}
	}
	return true
}

// mountsOf returns the list of mounts in a process's namespace, all of them:
// chroot(2) hides some from the process's own list, so that of this process is
// taken if they share the namespace.
func mountsOf(pid uint32) ([]byte, error) {
	proc := fmt.Sprintf("/proc/%d/", pid)
	theirs, err := os.Readlink(proc + "ns/mnt")
	if err != nil {
		return nil, err
	}
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	if theirs == ours {
		return os.ReadFile("/proc/self/mountinfo")
	}
	if root, err := os.Readlink(proc + "root"); err != nil || root != "/" {
		return nil, fmt.Errorf("process %d has its root at %q: %w", pid, root, errors.ErrUnsupported)
	}
	return os.ReadFile(proc + "mountinfo")
}
