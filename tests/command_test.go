package tests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// This file is the harness of the tests of the command: it builds dcfs and
// runs it as a shell would.

// commandTimeout is how long any one command may take.
const commandTimeout = 3 * time.Minute

var buildDcfs = sync.OnceValues(func() (string, error) { return buildCommand(raceEnabled) })

// dcfsBinary returns the path of the command, built with the race detector if
// the tests are.
func dcfsBinary(t *testing.T) string {
	t.Helper()
	bin, err := buildDcfs()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// buildCommand builds dcfs into a place of its own, which it leaves behind
// for the next run: the directory of one test goes with that test.
func buildCommand(race bool) (string, error) {
	// The go command keeps the results of tests, and forgets them when a file
	// changed that a test looked at: it must look at the command's sources.
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".go") {
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("dcfs-tests-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	name, flags := "dcfs", []string{"build"}
	if race {
		name, flags = "dcfs-race", append(flags, "-race")
	}
	// Another run may be using the file: it is replaced, not written over.
	tmp := filepath.Join(dir, fmt.Sprintf("%s.%d", name, os.Getpid()))
	out, err := exec.Command("go", append(flags, "-o", tmp, "dcfs/cmd/dcfs")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building dcfs: %v\n%s", err, out)
	}
	bin := filepath.Join(dir, name)
	return bin, os.Rename(tmp, bin)
}

// needTool skips a test where a program is missing.
func needTool(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			t.Skipf("SKIPPED: %s is not installed (scripts/test installs it)", n)
		}
	}
}

// needRoot skips a test that must be root.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root")
	}
}

// ordinaryUser is whom tests run commands as that root must not.
const ordinaryUser = 65534

// A result is what a command did.
type result struct {
	stdout, stderr string
	code           int
}

// runCommand runs a command; edit may change it before.
func runCommand(t *testing.T, edit func(*exec.Cmd), name string, args ...string) result {
	t.Helper()
	cmd := exec.Command(name, args...)
	var out, errb bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errb
	cmd.WaitDelay = 10 * time.Second
	// The race detector would let each process sleep a second before it ends.
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	if edit != nil {
		edit(cmd)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	stop := time.AfterFunc(commandTimeout, func() { cmd.Process.Kill() })
	defer stop.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %s: %v (a process that it left behind holds its output?)", name, strings.Join(args, " "), err)
	}
	return result{out.String(), errb.String(), cmd.ProcessState.ExitCode()}
}

// dcfs runs the command, which must succeed, and returns what it printed.
func dcfs(t *testing.T, args ...string) string {
	t.Helper()
	r := runCommand(t, nil, dcfsBinary(t), args...)
	if r.code != 0 {
		t.Fatalf("dcfs %s: exit %d\n%s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r.stdout
}

// dcfsFails runs the command, which must fail with one line on stderr that
// contains want.
func dcfsFails(t *testing.T, want string, args ...string) {
	t.Helper()
	r := runCommand(t, nil, dcfsBinary(t), args...)
	if r.code == 0 {
		t.Errorf("dcfs %s: exit 0, want an error with %q", strings.Join(args, " "), want)
	} else if !strings.Contains(r.stderr, want) || strings.Count(r.stderr, "\n") != 1 || r.stdout != "" {
		t.Errorf("dcfs %s: got %q on stderr, %q on stdout, want one line with %q", strings.Join(args, " "), r.stderr, r.stdout, want)
	}
}

// shell runs a script, which must succeed, and returns what it printed.
func shell(t *testing.T, script string, args ...string) string {
	t.Helper()
	r := runCommand(t, nil, "bash", append([]string{"-euo", "pipefail", "-c", script, "bash"}, args...)...)
	if r.code != 0 {
		t.Fatalf("exit %d from script:\n%s\narguments %q\n%s%s", r.code, script, args, r.stdout, r.stderr)
	}
	return r.stdout
}

// newMount mounts a new volume and returns its store and its mount point.
func newMount(t *testing.T, flags ...string) (store, dir string) {
	t.Helper()
	needFUSE(t)
	store = newStore(t)
	return store, mountAt(t, store, flags...)
}

// newStore returns the place of a store. At the end of the test it waits for
// the store's last server, whose directory must not vanish under it, looks into the
// log that the servers left, and checks the volume.
func newStore(t *testing.T) string {
	t.Helper()
	store := newHarmedStore(t)
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(store, "lock")); err != nil || t.Failed() || !ended(t, store) {
			return
		}
		if r := runCommand(t, nil, dcfsBinary(t), "check", "-q", store); r.code != 0 {
			t.Errorf("check after the test: exit status %d\n%s%s", r.code, r.stdout, r.stderr)
		}
	})
	return store
}

// ended waits until nobody serves a store, and reports whether that is so.
func ended(t *testing.T, store string) bool {
	for range 200 {
		if unlocked(t, store) {
			return true
		}
		time.Sleep(50 * time.Millisecond)
	}
	return false
}

// newHarmedStore is newStore for a test after which the volume need not be sound.
func newHarmedStore(t *testing.T) string {
	t.Helper()
	store := filepath.Join(t.TempDir(), "store")
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(store, "lock")); err == nil {
			ended(t, store)
		}
		log, err := os.ReadFile(filepath.Join(store, "dcfs.log"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		for _, bad := range []string{"DATA RACE", "panic:", "fatal error:"} {
			if strings.Contains(string(log), bad) {
				t.Errorf("the server's log:\n%s", log)
				return
			}
		}
		if len(log) > 0 {
			t.Logf("the server's log:\n%s", log)
		}
	})
	return store
}

// mountAt mounts what source names at a new mount point, for the time of the
// test.
func mountAt(t *testing.T, source string, flags ...string) string {
	t.Helper()
	dir := mountPoint(t)
	if transport := os.Getenv(transportEnv); transport != "" {
		flags = append([]string{"-o", "transport=" + transport}, flags...)
	}
	dcfs(t, append(append([]string{"mount"}, flags...), source, dir)...)
	return dir
}

// mountPoint returns a new directory from which whatever is mounted there is
// taken away at the end of the test.
func mountPoint(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for i := 0; i < 3 && isMounted(t, dir); i++ {
			if r := runCommand(t, nil, dcfsBinary(t), "umount", "--lazy", dir); r.code != 0 {
				t.Logf("umount --lazy: exit %d, %s", r.code, r.stderr)
			}
		}
	})
	return dir
}

// isMounted reports whether dir is a mount point, without asking what is
// mounted.
func isMounted(t *testing.T, dir string) bool {
	t.Helper()
	return mountLine(t, dir) != ""
}

// mountLine returns the last line of /proc/mounts about dir.
func mountLine(t *testing.T, dir string) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	found := ""
	for _, l := range strings.Split(string(mounts), "\n") {
		if f := strings.Fields(l); len(f) > 1 && f[1] == dir {
			found = l
		}
	}
	return found
}

// storeStatus is the part of "dcfs status --json" that tests look at.
type storeStatus struct {
	Served     bool
	Sealed     bool
	PID        int
	Goroutines int
	Mounts     []struct {
		View, Mountpoint, Source string
		ReadOnly                 bool
	}
	UsedBytes        uint64
	Backlog          struct{ Tasks, Merges, Objects, Bytes int64 }
	Snapshots, Forks int
	Counters         map[string]int64
}

func statusOf(t *testing.T, target string) storeStatus {
	t.Helper()
	var st storeStatus
	if err := json.Unmarshal([]byte(dcfs(t, "status", "--json", target)), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// serverGone waits until the process pid is gone: zombies of this process
// count as gone.
func serverGone(t *testing.T, pid int) {
	t.Helper()
	for i := 0; i < 200; i++ {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("the server (pid %d) is still there after 10 seconds", pid)
}

// unlocked reports whether nobody holds the lock of a store.
func unlocked(t *testing.T, store string) bool {
	t.Helper()
	f, err := os.Open(filepath.Join(store, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// wantFile checks what is in a file.
func wantFile(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s: got %.40q, %v, want %.40q", path, got, err, want)
	}
}

// asUser makes a command run as the ordinary user.
func asUser(cmd *exec.Cmd) {
	cmd.Env = append(cmd.Env, "HOME=/nonexistent")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinaryUser, Gid: ordinaryUser}}
}

// userDir returns a new directory of the ordinary user, which they can reach.
func userDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dcfs-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, ordinaryUser, ordinaryUser); err != nil {
		t.Fatal(err)
	}
	return dir
}

// rssBytes returns the resident memory of a process and the most that it has
// been.
func rssBytes(t *testing.T, pid int) (now, high int64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range strings.Split(string(status), "\n") {
		f := strings.Fields(l)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			now = kib << 10
		case "VmHWM:":
			high = kib << 10
		}
	}
	return now, high
}
