package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cred is as whom system calls are made.
type cred struct {
	uid, gid int
	groups   []int
	caps     string // "": those that the uid has; else "none", or "fsetid" alone
}

func (c cred) String() string { return fmt.Sprintf("%d:%d%v%s", c.uid, c.gid, c.groups, c.caps) }

// actor makes system calls as somebody, in a thread of its own, which has its
// own umask and working directory too.
type actor struct {
	cred
	calls chan func()
	done  chan struct{}
}

// newActor starts one. It needs root.
func newActor(t *testing.T, c cred) *actor {
	t.Helper()
	a := &actor{c, make(chan func()), make(chan struct{})}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with it
		err := become(c)
		ready <- err
		if err != nil {
			return
		}
		for call := range a.calls {
			call()
			a.done <- struct{}{}
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("become %v: %v", c, err)
	}
	t.Cleanup(func() { close(a.calls) })
	return a
}

// do runs fn as the actor. fn must not start anything that runs elsewhere.
func (a *actor) do(fn func()) {
	a.calls <- fn
	<-a.done
}

// become makes this thread, and no other, act as c.
func become(c cred) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	groups := make([]uint32, len(c.groups)+1)
	for i, g := range c.groups {
		groups[i] = uint32(g)
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(c.groups)), uintptr(unsafe.Pointer(&groups[0])), 0); e != 0 {
		return fmt.Errorf("setgroups: %w", e)
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return err
	}
	gid, uid := uintptr(c.gid), uintptr(c.uid)
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); e != 0 {
		return fmt.Errorf("setresgid: %w", e)
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 {
		return fmt.Errorf("setresuid: %w", e)
	}
	return setCaps(c)
}

// setCaps sets the capabilities of this thread.
func setCaps(c cred) error {
	if c.uid == 0 && c.caps == "" {
		return nil
	}
	var set [2]unix.CapUserData
	if c.caps == "fsetid" {
		set[0].Effective = 1 << unix.CAP_FSETID
		set[0].Permitted = set[0].Effective
	}
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return unix.Capset(&h, &set[0])
}

// needReference mounts an ext4, to which dcfs is compared: system calls and
// their results must be the same. It returns its path, open to all.
func needReference(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED: needs root")
	}
	dir, image := filepath.Join(t.TempDir(), "ext4"), filepath.Join(t.TempDir(), "image")
	must(t, os.Mkdir(dir, 0o755))
	openWay(t, dir)
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 64<<20))
	for _, cmd := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop,acl,user_xattr", image, dir}} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED, NOT TESTED: no ext4 to compare with: %s: %v: %s", cmd[0], err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}
