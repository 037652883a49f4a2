package tests

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dcfs/fs"
)

// TestTheOtherTransport runs a handful of tests over the loop of our own.
func TestTheOtherTransport(t *testing.T) {
	if os.Getenv(transportEnv) != "" {
		t.Skip("it is that of all tests")
	}
	t.Setenv(transportEnv, fs.Wire)
	for _, c := range []struct {
		name string
		test func(t *testing.T)
	}{
		{"UnlinkedFileLivesUntilItsLastUse", TestUnlinkedFileLivesUntilItsLastUse},
		{"MmapIsInTheSnapshot", TestMmapIsInTheSnapshot},
		{"CopyFileRange", TestCopyFileRange},
		{"DirectIO", TestDirectIO},
		{"Forks", TestForks},
		{"DeletedViewIsGoneAtOnce", TestDeletedViewIsGoneAtOnce},
		{"DeadMountIsCleared", TestDeadMountIsCleared},
	} {
		t.Run(c.name, c.test)
	}
	t.Run("Command", func(t *testing.T) {
		_, dir := newMount(t, "-o", "transport="+fs.Wire)
		writeFile(t, filepath.Join(dir, "a"), "text")
		wantFile(t, filepath.Join(dir, "a"), "text")
		r := runCommand(t, nil, dcfsBinary(t), "mount", "-o", "transport=pigeon", newStore(t), mountPoint(t))
		if r.code == 0 || !strings.Contains(r.stderr, "transport=pigeon") {
			t.Errorf("transport=pigeon: exit %d, %q", r.code, r.stderr)
		}
	})
}

// onTransports runs a test over each transport.
func onTransports(t *testing.T, test func(t *testing.T, transport string)) {
	for _, name := range []string{"gofuse", fs.Wire} {
		t.Run(name, func(t *testing.T) { test(t, "transport="+name) })
	}
}

// load has threads work in a mount, fsync and snapshots among it, until it is
// gone, or what is below it shows.
func load(dir string, dev uint64) *sync.WaitGroup {
	var wg sync.WaitGroup
	for k := range 4 {
		wg.Go(func() {
			name := filepath.Join(dir, fmt.Sprint("load", k))
			for i := 0; ; i++ {
				f, err := os.Create(name)
				if err != nil {
					return
				}
				var st syscall.Stat_t
				if syscall.Fstat(int(f.Fd()), &st) != nil || st.Dev != dev {
					f.Close()
					return
				}
				_, err = f.Write(make([]byte, 1<<uint(10+i%11)))
				if err == nil && i%4 == 0 {
					err = f.Sync()
				}
				f.Close()
				if err != nil {
					return
				}
				snapshot := filepath.Join(dir, ".snapshots", fmt.Sprint("s", k))
				if os.Mkdir(snapshot, 0o755) == nil {
					os.Remove(snapshot)
				}
			}
		})
	}
	return &wg
}

func TestMountEndsUnderLoadHoweverItEnds(t *testing.T) {
	for how, end := range map[string]func(t *testing.T, dir string, dev uint64, pid int) error{
		"abort": func(t *testing.T, dir string, dev uint64, pid int) error {
			err := os.WriteFile(fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", unix.Minor(dev)), []byte("1"), 0)
			if os.IsNotExist(err) {
				t.Skip("SKIPPED, NOT TESTED: no /sys/fs/fuse/connections here")
			}
			return err
		},
		"umount --lazy": func(t *testing.T, dir string, dev uint64, pid int) error {
			return syscall.Unmount(dir, syscall.MNT_DETACH)
		},
		"SIGTERM": func(t *testing.T, dir string, dev uint64, pid int) error {
			return syscall.Kill(pid, syscall.SIGTERM)
		},
	} {
		t.Run(how, func(t *testing.T) {
			if os.Geteuid() != 0 {
				t.Skip("SKIPPED, NOT TESTED: not root")
			}
			onTransports(t, func(t *testing.T, transport string) {
				store, dir := newMount(t, "-o", transport)
				writeFile(t, filepath.Join(dir, "kept"), "text")
				var st syscall.Stat_t
				must(t, syscall.Stat(dir, &st))
				pid := statusOf(t, dir).PID
				threads := load(dir, st.Dev)
				time.Sleep(300 * time.Millisecond)
				must(t, end(t, dir, st.Dev, pid))
				threads.Wait()
				syscall.Unmount(dir, syscall.MNT_DETACH) // what an abort leaves
				serverGone(t, pid)
				for k := range 4 { // made below the mount, if it was detached
					os.Remove(filepath.Join(dir, fmt.Sprint("load", k)))
				}
				dcfs(t, "mount", "-o", transport, store, dir)
				wantFile(t, filepath.Join(dir, "kept"), "text")
			})
		})
	}
}

// TestUsersThatStopOrDieHoldUpNobody: programs are suspended and killed in the
// middle of what they ask for.
func TestUsersThatStopOrDieHoldUpNobody(t *testing.T) {
	onTransports(t, func(t *testing.T, transport string) {
		_, dir := newMount(t, "-o", transport)
		const script = `i=0; while :; do i=$((i+1)); dd if=/dev/zero of="$0.$((i%5))" bs=100k count=3 conv=fsync 2>/dev/null; cat "$0".* >/dev/null; done`
		var users []*exec.Cmd
		for k := range 6 {
			cmd := exec.Command("sh", "-c", script, filepath.Join(dir, fmt.Sprint("user", k)))
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			must(t, cmd.Start())
			t.Cleanup(func() {
				syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
				cmd.Wait()
			})
			users = append(users, cmd)
		}
		for i := range 20 {
			time.Sleep(20 * time.Millisecond)
			must(t, syscall.Kill(-users[i%3].Process.Pid, syscall.SIGSTOP))
			writeFile(t, filepath.Join(dir, "mine"), fmt.Sprint(i))
			wantFile(t, filepath.Join(dir, "mine"), fmt.Sprint(i))
			must(t, syscall.Kill(-users[i%3].Process.Pid, syscall.SIGCONT))
			if i%5 == 4 {
				must(t, syscall.Kill(-users[2+i/5].Process.Pid, syscall.SIGKILL))
			}
		}
		must(t, os.Mkdir(filepath.Join(dir, ".snapshots", "s"), 0o755))
		wantFile(t, filepath.Join(dir, ".snapshots", "s", "mine"), "19")
	})
}

// TestSnapshotsOfMappedFilesUnderLoad: a snapshot waits until the kernel has
// written back what was changed by mmap, which needs a reader, while others do
// so too and the readers are busy.
func TestSnapshotsOfMappedFilesUnderLoad(t *testing.T) {
	onTransports(t, func(t *testing.T, transport string) {
		_, dir := newMount(t, "-o", transport)
		const n, size = 8, 1 << 20
		var wg sync.WaitGroup
		for k := range n {
			wg.Go(func() {
				path := filepath.Join(dir, fmt.Sprint("mapped", k))
				f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
				if err != nil {
					t.Error(err)
					return
				}
				defer f.Close()
				if err := f.Truncate(size); err != nil {
					t.Error(err)
					return
				}
				m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
				if err != nil {
					t.Error(err)
					return
				}
				defer unix.Munmap(m)
				for i := range 5 {
					text := fmt.Sprintf("%d %d", k, i)
					for off := 0; off < size; off += 4096 {
						copy(m[off:], text)
					}
					name := fmt.Sprintf("s%d-%d", k, i)
					if err := os.Mkdir(filepath.Join(dir, ".snapshots", name), 0o755); err != nil {
						t.Error(err)
						return
					}
					got, err := readAt(filepath.Join(dir, ".snapshots", name, filepath.Base(path)), size-4096, len(text))
					if err != nil || got != text {
						t.Errorf("%s shows %q (%v), want %q", name, got, err, text)
					}
				}
			})
		}
		wg.Wait()
	})
}

func readAt(path string, off int64, n int) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, n)
	_, err = io.ReadFull(io.NewSectionReader(f, off, int64(n)), b)
	return string(b), err
}
