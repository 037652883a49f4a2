package tests

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// smallDisk makes a file system of so many MiB: a tmpfs, or an ext4 in a file.
func smallDisk(t *testing.T, kind string, mib int) string {
	t.Helper()
	needRoot(t)
	disk := t.TempDir()
	if kind == "tmpfs" {
		if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
			t.Skipf("SKIPPED: mounting a small file system: %v", err)
		}
	} else {
		needTool(t, "mkfs.ext4", "mount")
		image := filepath.Join(t.TempDir(), "image")
		must(t, os.WriteFile(image, nil, 0o600))
		must(t, os.Truncate(image, int64(mib)<<20))
		run(t, "mkfs.ext4", "-q", image)
		if out, err := exec.Command("mount", "-o", "loop", image, disk).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED: mounting a loop device: %v: %s", err, out)
		}
	}
	t.Cleanup(func() { syscall.Unmount(disk, syscall.MNT_DETACH) })
	return disk
}

// fillUp takes all of a disk but leave bytes, as somebody else does who writes as
// fast as a disk can, and returns what gives it back. What the store gives up
// meanwhile it does not take.
func fillUp(t *testing.T, disk, name string, leave int64) (free func()) {
	t.Helper()
	var st syscall.Statfs_t
	must(t, syscall.Statfs(disk, &st))
	f, err := os.Create(filepath.Join(disk, name))
	must(t, err)
	defer f.Close()
	const step = 8 << 20
	for at, end := int64(0), int64(st.Bavail)*st.Bsize-leave; at < end; {
		n := min(step, end-at)
		if end-at > 16*step {
			n = end - at - 16*step // nobody minds
		}
		if err := unix.Fallocate(int(f.Fd()), 0, at, n); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("filling the disk: %v", err)
			}
			break // the store has taken the rest meanwhile
		}
		at += n
		time.Sleep(10 * time.Millisecond)
	}
	return func() { must(t, os.Remove(f.Name())) }
}

// fullRun is a store on a small disk, and writers.
type fullRun struct {
	*crashRound
	t                *testing.T
	disk, store, mnt string
	rng              *rand.Rand
}

func newFullRun(t *testing.T, kind string) *fullRun {
	needFUSE(t)
	disk := smallDisk(t, kind, 400)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	f := &fullRun{t: t, disk: disk, store: filepath.Join(disk, "store"), rng: rand.New(rand.NewPCG(seed, 0))}
	f.mnt = mountAt(t, f.store)
	f.crashRound = &crashRound{dir: f.mnt, full: true}
	for i := range 4 {
		must(t, os.Mkdir(filepath.Join(f.mnt, fmt.Sprint("w", i)), 0o755))
		f.writers = append(f.writers, &crashWriter{num: i, rng: rand.New(rand.NewPCG(seed, uint64(i+1))), ops: []crashOp{{names: map[string]*crashFile{}}}})
	}
	f.durable()
	return f
}

// durable waits until a change is: within the time that a command may take.
func (f *fullRun) durable() {
	f.t.Helper()
	var last error
	eventually(f.t, "a change becomes durable", func() bool {
		name := filepath.Join(f.mnt, "probe")
		h, err := os.Create(name)
		if err == nil {
			if _, err = h.Write([]byte("probe")); err == nil {
				err = h.Sync()
			}
			h.Close()
		}
		if err == nil {
			err = os.Remove(name)
		}
		if last = err; err != nil && !errors.Is(err, syscall.ENOSPC) {
			f.t.Fatalf("after space came back: %v", err)
		}
		return last == nil
	})
}

// same wants exactly what the writers did, and snapshots as they were taken.
func (f *fullRun) same(what string) {
	f.t.Helper()
	now := f.clock.Add(1)
	f.verify(f.t, what, f.mnt, now, now)
	for _, v := range f.views {
		f.verify(f.t, what+", "+v.path, filepath.Join(f.mnt, v.path), v.asked, v.done)
	}
}

func (f *fullRun) log() string {
	b, err := os.ReadFile(filepath.Join(f.store, "dcfs.log"))
	must(f.t, err)
	return string(b)
}

// TestDiskFilledByOthers fills the disk at random moments, and frees it again, while
// writers write, delete, take snapshots and fork. What is refused has changed
// nothing, deleting goes on, space that comes back is used at once, and nothing is
// lost. DCFS_FULL_ROUNDS is how often (of CI: 4; of the long form: 50).
func TestDiskFilledByOthers(t *testing.T) {
	const times = 3 // of one store: its snapshots fill it too
	for n, left := 0, envInt("DCFS_FULL_ROUNDS", 4); left > 0; n, left = n+1, left-times {
		kind := []string{"tmpfs", "ext4"}[n%2]
		t.Run(fmt.Sprint(kind, n), func(t *testing.T) {
			f := newFullRun(t, kind)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("the log says\n%.4000s", f.log())
				}
			})
			f.work(t, 0, f.rng, func() {
				for range min(times, left) {
					f.fillAndFree()
				}
			})
			f.same("mounted")
			dcfs(t, "umount", f.mnt)
			dcfs(t, "mount", f.store, f.mnt)
			f.same("mounted again")
			dcfs(t, "umount", f.mnt)
			dcfs(t, "check", "--data", f.store)
			ops, refused := 0, 0
			for _, w := range f.writers {
				ops, refused = ops+len(w.ops), refused+w.refused
			}
			t.Logf("%d operations, %d refused, %d snapshots and forks; the log says %d times that the reserve is released", ops, refused, len(f.views), strings.Count(f.log(), "its reserve of"))
		})
	}
}

// fillAndFree has others fill the disk for a moment.
func (f *fullRun) fillAndFree() {
	t, victim := f.t, filepath.Join(f.mnt, "victim")
	must(t, os.WriteFile(victim, make([]byte, 1<<20), 0o600))
	time.Sleep(time.Duration(f.rng.IntN(200)) * time.Millisecond)
	free := fillUp(t, f.disk, "others", int64(f.rng.IntN(8<<20)))
	time.Sleep(time.Duration(f.rng.IntN(1500)) * time.Millisecond)
	if f.rng.IntN(2) == 0 {
		if err := os.Remove(victim); err != nil {
			t.Errorf("unlink on a full disk: %v", err)
		}
		dcfs(t, "gc", f.mnt)
	}
	free()
	f.durable()
}

// TestDiskFilledForGood leaves nothing, not even what the reserve was: whether the
// server ends or not, the log says why nothing more is written, and when there is
// space all is there that was acknowledged.
func TestDiskFilledForGood(t *testing.T) {
	f := newFullRun(t, "tmpfs")
	pid := statusOf(t, f.mnt).PID
	var others []func()
	f.work(t, 0, f.rng, func() {
		time.Sleep(200 * time.Millisecond)
		for i := range 10 { // the reserve too, and what is freed meanwhile
			others = append(others, fillUp(t, f.disk, fmt.Sprint("others", i), 0))
			time.Sleep(200 * time.Millisecond)
		}
	})
	if log := f.log(); !strings.Contains(log, "the disk is full") {
		t.Errorf("the log does not say that the disk is full:\n%s", log)
	}
	alive := syscall.Kill(pid, 0) == nil
	for _, free := range others {
		free()
	}
	if alive {
		f.durable()
		f.same("mounted")
		dcfs(t, "umount", f.mnt)
	} else {
		runCommand(t, nil, dcfsBinary(t), "umount", f.mnt)
	}
	dcfs(t, "mount", f.store, f.mnt)
	f.verify(t, "mounted again", f.mnt, f.acked, f.clock.Add(1))
	for _, v := range f.views {
		f.verify(t, v.path, filepath.Join(f.mnt, v.path), v.asked, v.done)
	}
	dcfs(t, "umount", f.mnt)
	dcfs(t, "check", "--data", f.store)
	t.Logf("the server outlived it: %v", alive)
}
