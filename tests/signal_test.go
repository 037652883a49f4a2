package tests

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSignalsInterruptNothing: whatever signals come, no call on a file answers
// EINTR, and none is done by half, as on any local file system.
func TestSignalsInterruptNothing(t *testing.T) {
	_, dir := newMount(t, "--cache=1M")
	path := func(name string) string { return filepath.Join(dir, name) }
	// SIGURG is what the runtime sends its own threads: to the process, as often
	// as it can be sent, it meets one that waits in a call.
	var stop atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for !stop.Load() {
			unix.Kill(os.Getpid(), unix.SIGURG)
		}
	}()
	defer func() { stop.Store(true); <-ended }()

	text := noise(1, 1<<20)
	back := make([]byte, len(text))
	fd, g := -1, -1
	all := func(n int, err error) error { return whole(n, len(text), err) }
	calls := []struct {
		name string
		do   func() error
	}{
		{"open", func() (err error) {
			fd, err = unix.Open(path("f"), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o644)
			return
		}},
		{"open with O_DIRECT", func() (err error) {
			g, err = unix.Open(path("g"), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC|unix.O_DIRECT, 0o644)
			return
		}},
		{"write", func() error { return all(unix.Pwrite(fd, text, 0)) }},
		{"fsync", func() error { return unix.Fsync(fd) }},
		{"fadvise", func() error { return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) }},
		{"read", func() error { return all(unix.Pread(fd, back, 0)) }},
		{"copy_file_range", func() error {
			for off := int64(0); off < int64(len(text)); { // it may be short, it makes progress
				out := off + 1
				if n, err := unix.CopyFileRange(fd, &off, g, &out, len(text), 0); err != nil || n == 0 {
					return whole(n, 1, err)
				}
			}
			return nil
		}},
		{"read of the copy", func() error { return all(unix.Pread(g, back, 1)) }},
		{"fallocate", func() error { return unix.Fallocate(g, unix.FALLOC_FL_ZERO_RANGE, 5, 70_000) }},
		{"ftruncate", func() error { return unix.Ftruncate(g, 0) }},
		{"mkdir", func() error { return unix.Mkdir(path("d"), 0o755) }},
		{"rename", func() error { return unix.Rename(path("g"), path("d/g")) }},
		{"link", func() error { return unix.Link(path("f"), path("d/f")) }},
		{"symlink", func() error { return unix.Symlink("f", path("d/s")) }},
		{"setxattr", func() error { return unix.Setxattr(path("f"), "user.x", text[:100], 0) }},
		{"chmod", func() error { return unix.Chmod(path("f"), 0o600) }},
		{"stat", func() error { return unix.Lstat(path("d/f"), new(unix.Stat_t)) }},
		{"statfs", func() error { return unix.Statfs(dir, new(unix.Statfs_t)) }},
		{"snapshot", func() error { return unix.Mkdir(path(".snapshots/s"), 0o755) }},
		{"fork", func() error { return unix.Mkdir(path(".forks/f"), 0o755) }},
		{"deleting the fork", func() error { return unix.Rmdir(path(".forks/f")) }},
		{"deleting the snapshot", func() error { return unix.Rmdir(path(".snapshots/s")) }},
		{"unlink", func() error {
			for _, name := range []string{"d/g", "d/f", "d/s", "f"} {
				if err := unix.Unlink(path(name)); err != nil {
					return err
				}
			}
			return nil
		}},
		{"rmdir", func() error { return unix.Rmdir(path("d")) }},
		{"close", func() error { return errors.Join(unix.Close(fd), unix.Close(g)) }},
	}
	rounds := 12
	if long() {
		rounds = 1000
	}
	for i := range rounds {
		for _, c := range calls {
			clear(back)
			if err := c.do(); err != nil {
				t.Fatalf("round %d: %s: %v", i, c.name, err)
			}
			if (c.name == "read" || c.name == "read of the copy") && !bytes.Equal(back, text) {
				t.Fatalf("round %d: %s: %s", i, c.name, difference(back, text))
			}
		}
	}
}
