package tests

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// user is a program that works in a mount and is to be killed in the middle.
type user struct {
	*exec.Cmd
	says io.Reader
	errs bytes.Buffer
}

// startUser starts a program of Python.
func startUser(t *testing.T, script string, args ...string) *user {
	t.Helper()
	u := &user{Cmd: exec.Command("python3", append([]string{"-c", script}, args...)...)}
	var err error
	u.says, err = u.StdoutPipe()
	must(t, err)
	u.Stderr = &u.errs
	must(t, u.Start())
	t.Cleanup(func() { u.kill() })
	return u
}

// ready waits until it says that it is.
func (u *user) ready(t *testing.T) *user {
	t.Helper()
	if n, err := u.says.Read(make([]byte, 6)); err != nil || n == 0 {
		u.kill()
		t.Fatalf("a user does not begin: %v, %s", err, u.errs.String())
	}
	return u
}

// kill kills it and waits until the kernel has let go of it.
func (u *user) kill() {
	u.Process.Kill()
	u.Wait()
}

// TestKilledCallersDoNoHarm kills programs in the middle of a call: no lock stays,
// nothing is half done, and the server goes on as before.
func TestKilledCallersDoNoHarm(t *testing.T) {
	needTool(t, "python3")
	onTransports(t, func(t *testing.T, transport string) {
		store, dir := newMount(t, "-o", transport, "--cache=1M")
		path := func(name string) string { return filepath.Join(dir, name) }
		text := noise(7, 8<<20)
		must(t, os.WriteFile(path("source"), text, 0o644))
		writeFile(t, path("lock"), "")
		before := sampleOf(t, store)
		holder := startUser(t, `
import fcntl, sys, time
f = open(sys.argv[1], "r+"); fcntl.lockf(f, fcntl.LOCK_EX)
print("ready", flush=True); time.sleep(600)`, path("lock")).ready(t)
		const prelude = `
import fcntl, os, sys
src, dst = sys.argv[1:]
print("ready", flush=True)
`
		scripts := map[string]string{
			"read": `
f = os.open(src, os.O_RDONLY)
while True:
    os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED); os.pread(f, 8 << 20, 0)`,
			"fsync": `
f = os.open(dst, os.O_RDWR | os.O_CREAT)
while True:
    os.pwrite(f, b"x" * 100000, 0); os.fsync(f)`,
			"write": `
f = os.open(dst, os.O_RDWR | os.O_CREAT)
while True:
    os.pwrite(f, b"x" * (8 << 20), 0)`,
			"copy_file_range": `
f, g = os.open(src, os.O_RDONLY), os.open(dst, os.O_RDWR | os.O_CREAT)
while True:
    os.copy_file_range(f, g, 8 << 20, 0, 0)`,
			"names": `
while True:
    os.close(os.open(dst, os.O_RDWR | os.O_CREAT)); os.rename(dst, dst + ".new"); os.unlink(dst + ".new")`,
			"lock": `
f = os.open(os.path.dirname(src) + "/lock", os.O_RDWR)
fcntl.lockf(f, fcntl.LOCK_EX)`,
			"snapshots": `
while True:
    os.mkdir(os.path.dirname(src) + "/.snapshots/killed"); os.rmdir(os.path.dirname(src) + "/.snapshots/killed")`,
		}
		rounds := 1
		if long() {
			rounds = 100
		}
		for round := range rounds {
			var users []*user
			for name, script := range scripts {
				users = append(users, startUser(t, prelude+script, path("source"), path(name)))
			}
			for _, u := range users {
				u.ready(t)
			}
			time.Sleep(time.Duration(10+37*round%90) * time.Millisecond)
			for _, u := range users {
				u.kill()
				if s := u.errs.String(); s != "" {
					t.Errorf("a user failed by itself: %s", s)
				}
			}
			os.Remove(path(".snapshots/killed")) // if the last one had just made it
		}
		holder.kill()
		f, err := os.OpenFile(path("lock"), os.O_RDWR, 0)
		must(t, err)
		defer f.Close()
		if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
			t.Errorf("the lock that killed programs held and waited for: %v", err)
		}
		// A copy is of the beginning of the source, a write is of x.
		if got, err := os.ReadFile(path("copy_file_range")); err != nil || !bytes.Equal(got, text[:len(got)]) {
			t.Errorf("a copy that was killed has %d bytes, %v, other than the source's", len(got), err)
		}
		for _, name := range []string{"write", "fsync"} {
			if got, err := os.ReadFile(path(name)); err != nil || len(bytes.Trim(got, "x")) > 0 {
				t.Errorf("%s: %d bytes, %v, and not all x", name, len(got), err)
			}
		}
		f.Close()
		must(t, os.Mkdir(path(".snapshots/s"), 0o755))
		wantFile(t, path(".snapshots/s/source"), string(text))
		eventually(t, "the server has what it had before", func() bool {
			now := sampleOf(t, store)
			return now.fds <= before.fds+16 && now.goroutines <= before.goroutines+20
		})
		dcfs(t, "umount", dir)
	})
}

// TestSuspendedServerGoesOn stops the server for a while, as a machine that
// sleeps does: who waits for it goes on afterwards, and nothing is lost.
func TestSuspendedServerGoesOn(t *testing.T) {
	store, dir := newMount(t)
	pid := statusOf(t, dir).PID
	const writers = 4
	type end struct {
		w, acked int
		err      error
	}
	ends, stop := make(chan end, writers), make(chan struct{})
	for w := range writers {
		go func() {
			e := end{w: w}
			defer func() { ends <- e }()
			f, err := os.Create(filepath.Join(dir, fmt.Sprint("w", w)))
			for n := 1; err == nil; n++ {
				select {
				case <-stop:
					e.err = f.Close()
					return
				default:
				}
				if _, err = fmt.Fprintf(f, "%08d\n", n); err == nil {
					err = f.Sync()
				}
				if err == nil {
					e.acked = n
				}
			}
			e.err = err
		}()
	}
	for range 3 {
		time.Sleep(100 * time.Millisecond)
		must(t, syscall.Kill(pid, syscall.SIGSTOP))
		time.Sleep(500 * time.Millisecond)
		must(t, syscall.Kill(pid, syscall.SIGCONT))
	}
	// A command that finds it asleep waits, too.
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	waits := make(chan result, 1)
	go func() { waits <- runCommand(t, nil, dcfsBinary(t), "snapshot", "create", dir, "s") }()
	time.Sleep(300 * time.Millisecond)
	must(t, syscall.Kill(pid, syscall.SIGCONT))
	if r := <-waits; r.code != 0 {
		t.Errorf("snapshot of a server that slept: exit %d, %s", r.code, r.stderr)
	}
	close(stop)
	want := make(map[int]int)
	for range writers {
		e := <-ends
		if e.err != nil {
			t.Errorf("writer %d: %v", e.w, e.err)
		}
		want[e.w] = e.acked
	}
	// Even one that is asleep can be killed, and loses nothing.
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	serverGone(t, pid)
	dcfs(t, "mount", store, dir)
	for w, acked := range want {
		got, err := os.ReadFile(filepath.Join(dir, fmt.Sprint("w", w)))
		if err != nil || len(got) != 9*acked {
			t.Errorf("writer %d: %d bytes, %v, want %d", w, len(got), err, 9*acked)
		}
	}
}

// TestDeadMountsAreRecoveredFromInUse: programs have files open and their working
// directory in the mounts of a server that was killed, and there is more than
// one, and a bind mount.
func TestDeadMountsAreRecoveredFromInUse(t *testing.T) {
	needRoot(t)
	store, dir := newMount(t)
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	writeFile(t, filepath.Join(dir, "sub/a"), "synced")
	dcfs(t, "snapshot", "create", dir, "s")
	dcfs(t, "fork", "create", dir, "f")
	fork, past, bind := mountAt(t, store+"@f"), mountAt(t, store+"%s"), mountPoint(t)
	must(t, unix.Mount(filepath.Join(dir, "sub"), bind, "", unix.MS_BIND, ""))
	f, err := os.Open(filepath.Join(dir, "sub/a"))
	must(t, err)
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(m)
	var sleepers []*exec.Cmd
	for _, d := range []string{dir, fork, past, bind} {
		cmd := exec.Command("sleep", "600")
		cmd.Dir = d
		must(t, cmd.Start())
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		sleepers = append(sleepers, cmd)
	}
	pid := statusOf(t, store).PID
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	serverGone(t, pid)
	for _, d := range []string{dir, fork, past, bind} {
		if _, err := os.ReadDir(d); err == nil {
			t.Errorf("%s answers though its server is dead", d)
		}
		dcfsFails(t, "is gone", "snapshot", "list", d)
	}
	if _, err := f.ReadAt(make([]byte, 1), 1<<20); err == nil {
		t.Error("an open file answers though its server is dead")
	}

	dcfs(t, "mount", store, dir)       // in its own place
	dcfs(t, "mount", store+"@f", past) // in the place of another one
	dcfs(t, "umount", fork)
	dcfs(t, "umount", bind)
	for d, want := range map[string]bool{dir: true, past: true, fork: false, bind: false} {
		if isMounted(t, d) != want {
			t.Errorf("%s is mounted: %v, want %v", d, !want, want)
		}
	}
	wantFile(t, filepath.Join(dir, "sub/a"), "synced")
	wantFile(t, filepath.Join(past, "sub/a"), "synced")
	for _, cmd := range sleepers { // they live, and can be ended
		must(t, cmd.Process.Kill())
	}
}

// TestBusyUmountNamesWhateverUsesTheMount: each way of use is named, with the
// program's name, and --lazy detaches from all of them.
func TestBusyUmountNamesWhateverUsesTheMount(t *testing.T) {
	needTool(t, "python3", "sleep")
	sleep, err := exec.LookPath("sleep")
	must(t, err)
	store, dir := newMount(t)
	run(t, "cp", sleep, filepath.Join(dir, "program"))
	writeFile(t, filepath.Join(dir, "mapped"), strings.Repeat("x", 5000))
	pid := statusOf(t, dir).PID
	for how, start := range map[string]func() int{
		"working directory": func() int {
			cmd := exec.Command("sleep", "600")
			cmd.Dir = dir
			must(t, cmd.Start())
			t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
			return cmd.Process.Pid
		},
		"program": func() int {
			cmd := exec.Command(filepath.Join(dir, "program"), "600")
			must(t, cmd.Start())
			t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
			return cmd.Process.Pid
		},
		"mapped file": func() int {
			return startUser(t, `
import ctypes, os, sys, time
f = os.open(sys.argv[1], os.O_RDONLY)
ctypes.CDLL(None).mmap(None, 4096, 1, 1, f, 0); os.close(f) # PROT_READ, MAP_SHARED
print("ready", flush=True); time.sleep(600)`, filepath.Join(dir, "mapped")).ready(t).Process.Pid
		},
	} {
		user := start()
		dcfsFails(t, fmt.Sprintf("pid %d, %s", user, how), "umount", dir)
		if !isMounted(t, dir) {
			t.Fatalf("it was unmounted though a %s is used", how)
		}
		must(t, syscall.Kill(user, syscall.SIGKILL))
		eventually(t, "the kernel lets go", func() bool {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", user))
			return err != nil || strings.Contains(string(b), ") Z ")
		})
	}
	cmd := exec.Command("sleep", "600")
	cmd.Dir = dir
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	writeFile(t, filepath.Join(dir, "last"), "written before")
	r := runCommand(t, nil, dcfsBinary(t), "umount", "--lazy", dir)
	if r.code != 0 || !strings.Contains(r.stderr, "programs still use it") || isMounted(t, dir) {
		t.Errorf("umount --lazy: exit %d, %q", r.code, r.stderr)
	}
	must(t, syscall.Kill(pid, syscall.SIGKILL)) // what was written is durable all the same
	serverGone(t, pid)
	dcfs(t, "mount", store, dir)
	wantFile(t, filepath.Join(dir, "last"), "written before")
}
