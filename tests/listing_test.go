package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listLong does what "ls -l" does, and returns what it shows.
func listLong(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var b strings.Builder
	for _, e := range entries {
		var st syscall.Stat_t
		path := filepath.Join(dir, e.Name())
		must(t, syscall.Lstat(path, &st))
		acl := make([]byte, 1000)
		n, err := unix.Lgetxattr(path, "system.posix_acl_access", acl)
		if err != nil && err != unix.ENODATA {
			t.Fatalf("ACL of %s: %v", path, err)
		}
		fmt.Fprintf(&b, "%s %d %o %d %d %d %d.%09d %x\n", e.Name(), st.Ino, st.Mode, st.Nlink, st.Uid, st.Size, st.Mtim.Sec, st.Mtim.Nsec, acl[:max(n, 0)])
	}
	return b.String()
}

// TestListingAsksOnce: what the kernel was told of the inodes of a directory, ACLs
// among it, a listing does not make it forget. What has changed is seen.
func TestListingAsksOnce(t *testing.T) {
	onTransports(t, func(t *testing.T, transport string) {
		store, dir := newMount(t, "--debug", "-o", transport)
		const n = 50
		for i := range n {
			writeFile(t, filepath.Join(dir, fmt.Sprintf("file%02d", i)), "text")
		}
		must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
		asked := func() (n int) {
			log, err := os.ReadFile(filepath.Join(store, "dcfs.log"))
			must(t, err)
			for line := range strings.Lines(string(log)) {
				for _, op := range []string{": GETXATTR ", ": GETATTR ", ": LOOKUP ", ": STATX "} {
					if strings.Contains(line, op) && !strings.Contains(line, " n1 ") {
						n++
					}
				}
			}
			return n
		}
		list := func() string { return listLong(t, dir) }
		first := list()
		before := asked()
		if before < n {
			t.Fatalf("%d requests in the log, want one for the ACL of each file", before)
		}
		for range 3 {
			if got := list(); got != first {
				t.Fatalf("listed again:\n%swant:\n%s", got, first)
			}
		}
		if got := asked() - before; got != 0 {
			t.Errorf("%d requests about single files, when all was known", got)
		}

		// Every way to change what is listed.
		path := func(i int) string { return filepath.Join(dir, fmt.Sprintf("file%02d", i)) }
		f, err := os.OpenFile(path(0), os.O_RDWR, 0)
		must(t, err)
		for i, change := range []func() error{
			func() error { _, err := f.WriteAt([]byte("longer text"), 3); return err },
			func() error { return unix.Fallocate(int(f.Fd()), 0, 0, 9999) },
			func() error { return f.Truncate(1) },
			func() error { return os.Truncate(path(1), 2) },
			func() error { return os.WriteFile(path(2), []byte("anew"), 0) },
			func() error { return os.Chmod(path(3), 0o600) },
			func() error { return os.Link(path(4), path(n)) },
			func() error { return os.Remove(path(4)) },
			func() error { return os.Rename(path(5), path(6)) },
			func() error { return os.WriteFile(filepath.Join(dir, "sub", "file"), nil, 0o644) },
			func() error { return os.Mkdir(filepath.Join(dir, "sub", "dir"), 0o755) },
			func() error {
				acl := []byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x07\x00\x00\x00" +
					"\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff")
				return unix.Setxattr(path(7), "system.posix_acl_access", acl, 0)
			},
			func() error { return os.Chmod(path(7), 0o640) },
			func() error { return unix.Removexattr(path(7), "system.posix_acl_access") },
			func() error { return os.Chtimes(path(8), time.Unix(100, 0), time.Unix(200, 0)) },
			func() error {
				g, err := os.Open(path(2))
				if err != nil {
					return err
				}
				defer g.Close()
				_, err = unix.CopyFileRange(int(g.Fd()), nil, int(f.Fd()), nil, 4, 0)
				return err
			},
		} {
			old := list()
			must(t, change())
			got := list()
			if got == old {
				t.Errorf("change %d is not seen in the listing", i)
			}
			for range 2 {
				if again := list(); again != got {
					t.Errorf("after change %d listed\n%sand then\n%s", i, got, again)
				}
			}
		}
		last := list()
		must(t, os.Mkdir(filepath.Join(dir, ".snapshots", "s"), 0o755))
		if got := list(); got != last {
			t.Errorf("after a snapshot:\n%swant:\n%s", got, last)
		}
		must(t, f.Close())
		dcfs(t, "umount", dir)
		dcfs(t, "mount", store, dir)
		if got := list(); got != last {
			t.Errorf("after a remount:\n%swant:\n%s", got, last)
		}
	})
}
