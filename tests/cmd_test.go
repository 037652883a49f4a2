package tests

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMountIsThereWhenTheCommandReturns(t *testing.T) {
	store, dir := newMount(t)
	line := mountLine(t, dir)
	if f := strings.Fields(line); len(f) < 4 || f[0] != store || f[2] != "fuse.dcfs" || !strings.HasPrefix(f[3], "rw,nosuid,nodev") {
		t.Errorf("/proc/mounts says %q", line)
	}
	writeFile(t, filepath.Join(dir, "a"), "hello")
	wantFile(t, filepath.Join(dir, "a"), "hello")
}

func TestUmountReturnsWhenTheDataIsSafeAndTheStoreUnlocked(t *testing.T) {
	store, dir := newMount(t)
	for i := 0; i < 5; i++ {
		writeFile(t, filepath.Join(dir, fmt.Sprint(i)), strings.Repeat("x", i*10000))
		pid := statusOf(t, dir).PID
		dcfs(t, "umount", dir)
		if isMounted(t, dir) || !unlocked(t, store) {
			t.Fatalf("round %d: mounted %v, unlocked %v after umount", i, isMounted(t, dir), unlocked(t, store))
		}
		serverGone(t, pid)
		dcfs(t, "mount", store, dir)
		for j := 0; j <= i; j++ {
			wantFile(t, filepath.Join(dir, fmt.Sprint(j)), strings.Repeat("x", j*10000))
		}
	}
}

func TestMountWaitsForAStoreThatIsBeingLetGoOf(t *testing.T) {
	store, dir := newMount(t)
	for i := 0; i < 5; i++ {
		writeFile(t, filepath.Join(dir, fmt.Sprint(i)), strings.Repeat("y", 1<<20))
		// The plain way returns before the server has seen it.
		if os.Getuid() == 0 {
			shell(t, `umount -i "$1"`, dir)
		} else {
			shell(t, `fusermount3 -u "$1"`, dir)
		}
		dcfs(t, "mount", store, dir)
		wantFile(t, filepath.Join(dir, fmt.Sprint(i)), strings.Repeat("y", 1<<20))
	}
}

func TestOneProcessServesAStore(t *testing.T) {
	store, dir := newMount(t)
	dcfs(t, "snapshot", "create", dir, "s")
	dcfs(t, "fork", "create", dir, "f")
	others := []string{mountAt(t, store+"%s"), mountAt(t, store+"%s"), mountAt(t, store+"@f")}
	st := statusOf(t, store)
	if len(st.Mounts) != 4 || st.Snapshots != 1 || st.Forks != 1 {
		t.Fatalf("status: %+v, want 4 mounts, 1 snapshot, 1 fork", st)
	}
	for _, d := range others {
		if got := statusOf(t, d).PID; got != st.PID {
			t.Errorf("%s is served by %d, not %d", d, got, st.PID)
		}
	}
	dcfs(t, "umount", dir)
	for _, d := range others {
		dcfs(t, "umount", d)
	}
	serverGone(t, st.PID)
	if !unlocked(t, store) {
		t.Error("the store is locked though nothing is mounted")
	}
}

func TestSecondMountOfALiveForkNamesBindMounts(t *testing.T) {
	store, dir := newMount(t)
	other := mountPoint(t)
	dcfsFails(t, "mount --bind "+dir, "mount", store, other)
	if isMounted(t, other) {
		t.Error("it was mounted all the same")
	}
	dcfsFails(t, "is mounted already", "mount", store, dir)
}

func TestManyMountsAtOnceFindOneServer(t *testing.T) {
	store, dir := newMount(t)
	dcfs(t, "snapshot", "create", dir, "s")
	dcfs(t, "umount", dir)
	const n = 6
	dirs, done := make([]string, n), make(chan result, n)
	for i := range dirs {
		dirs[i] = mountPoint(t)
		go func() { done <- runCommand(t, nil, dcfsBinary(t), "mount", store+"%s", dirs[i]) }()
	}
	for range dirs {
		if r := <-done; r.code != 0 {
			t.Errorf("exit %d: %s", r.code, r.stderr)
		}
	}
	if st := statusOf(t, store); len(st.Mounts) != n {
		t.Errorf("%d mounts, want %d", len(st.Mounts), n)
	}
}

func TestSnapshotMountIsReadOnlyAndStays(t *testing.T) {
	store, dir := newMount(t)
	writeFile(t, filepath.Join(dir, "a"), "old")
	dcfs(t, "snapshot", "create", dir, "s")
	snap := mountAt(t, store+"%s")
	writeFile(t, filepath.Join(dir, "a"), "new")
	wantFile(t, filepath.Join(snap, "a"), "old")
	if err := os.WriteFile(filepath.Join(snap, "a"), nil, 0o644); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("writing to a snapshot: %v, want EROFS", err)
	}
}

func TestBusyUmountNamesWhatUsesTheMount(t *testing.T) {
	_, dir := newMount(t)
	writeFile(t, filepath.Join(dir, "a"), "x")
	f, err := os.Open(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dcfsFails(t, fmt.Sprintf("(pid %d, open file %s)", os.Getpid(), f.Name()), "umount", dir)
	if !isMounted(t, dir) {
		t.Fatal("it was unmounted all the same")
	}
	f.Close()
	dcfs(t, "umount", dir)
}

func TestLazyUmountKeepsItsPromises(t *testing.T) {
	store, dir := newMount(t)
	f, err := os.Create(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteString("before ")
	pid := statusOf(t, dir).PID
	dcfs(t, "umount", "--lazy", dir)
	if isMounted(t, dir) {
		t.Error("still mounted")
	}
	if _, err := f.WriteString("after"); err != nil {
		t.Errorf("the open file is dead: %v", err)
	}
	f.Close()
	serverGone(t, pid)
	dcfs(t, "mount", store, dir)
	wantFile(t, filepath.Join(dir, "a"), "before after")
}

func TestBindMountOutlivesTheMount(t *testing.T) {
	needRoot(t)
	store, dir := newMount(t)
	bind := mountPoint(t)
	writeFile(t, filepath.Join(dir, "a"), "x")
	shell(t, `mount --bind "$1" "$2"`, dir, bind)
	dcfs(t, "umount", dir)
	wantFile(t, filepath.Join(bind, "a"), "x")
	pid := statusOf(t, bind).PID
	dcfs(t, "umount", bind)
	serverGone(t, pid)
	if !unlocked(t, store) {
		t.Error("the store is still locked")
	}
}

func TestSignalsFlushAndUnmount(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		store, dir := newMount(t, "--commit=5m")
		writeFile(t, filepath.Join(dir, "a"), "not synced")
		pid := statusOf(t, dir).PID
		if err := syscall.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
		serverGone(t, pid)
		if isMounted(t, dir) {
			t.Fatalf("%v: still mounted", sig)
		}
		dcfs(t, "mount", store, dir)
		wantFile(t, filepath.Join(dir, "a"), "not synced")
	}
}

func TestSignalEndsTheServerOfABusyMountToo(t *testing.T) {
	store, dir := newMount(t, "--commit=5m")
	f, err := os.Create(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteString("written")
	pid := statusOf(t, dir).PID
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	serverGone(t, pid)
	if isMounted(t, dir) {
		t.Error("still mounted")
	}
	if _, err := f.WriteString("more"); err == nil {
		t.Error("a write succeeds though nobody serves it")
	}
	dcfs(t, "mount", store, dir)
	wantFile(t, filepath.Join(dir, "a"), "written")
}

// TestSignalUnderLoadLosesNothingAcknowledged: writers append numbers to their
// own files and note which of them fsync has acknowledged.
func TestSignalUnderLoadLosesNothingAcknowledged(t *testing.T) {
	store, dir := newMount(t)
	pid := statusOf(t, dir).PID
	const writers = 4
	acked := make(chan [2]int, writers)
	for w := range writers {
		go func() {
			last := 0
			defer func() { acked <- [2]int{w, last} }()
			f, err := os.Create(filepath.Join(dir, fmt.Sprint("w", w)))
			if err != nil {
				return
			}
			defer f.Close()
			for n := 1; ; n++ {
				if _, err := fmt.Fprintf(f, "%08d\n", n); err != nil {
					return
				}
				os.WriteFile(filepath.Join(dir, fmt.Sprintf("noise%d.%d", w, n%50)), make([]byte, 20000), 0o644)
				if n%5 != 0 {
					continue
				}
				if err := f.Sync(); err != nil {
					return
				}
				last = n
			}
		}()
	}
	time.Sleep(time.Second)
	begun := time.Now()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	serverGone(t, pid)
	t.Logf("the server ended after %v", time.Since(begun).Round(time.Millisecond))
	want := map[int]int{}
	for range writers {
		a := <-acked
		want[a[0]] = a[1]
	}
	dcfs(t, "check", store)
	dcfs(t, "mount", store, dir)
	for w, last := range want {
		got, err := os.ReadFile(filepath.Join(dir, fmt.Sprint("w", w)))
		if err != nil || len(got) < last*9 {
			t.Errorf("writer %d: %d bytes, %v, though %d were acknowledged", w, len(got), err, last*9)
		}
		for n := 1; n <= len(got)/9; n++ {
			if line := string(got[(n-1)*9 : n*9]); line != fmt.Sprintf("%08d\n", n) {
				t.Fatalf("writer %d: line %d is %q", w, n, line)
			}
		}
		t.Logf("writer %d: %d acknowledged, %d found", w, last, len(got)/9)
	}
}

func TestKilledServerIsRecoveredFrom(t *testing.T) {
	store, dir := newMount(t)
	f, err := os.Create(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("synced")
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	kill := func() {
		pid := statusOf(t, dir).PID
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		serverGone(t, pid)
		dcfsFails(t, "is gone", "snapshot", "list", dir)
	}

	kill()
	dcfs(t, "mount", store, dir) // clears the dead mount
	wantFile(t, filepath.Join(dir, "a"), "synced")

	kill()
	dcfs(t, "umount", dir)
	if isMounted(t, dir) {
		t.Error("the dead mount is still there after umount")
	}
	dcfs(t, "mount", store, dir)
	wantFile(t, filepath.Join(dir, "a"), "synced")
}

func TestSnapshotsAreManagedThroughAnyTarget(t *testing.T) {
	store, dir := newMount(t)
	writeFile(t, filepath.Join(dir, "a"), "1")
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	names := func(target string) string {
		var list []struct{ Name string }
		if err := json.Unmarshal([]byte(dcfs(t, "snapshot", "list", "--json", target)), &list); err != nil {
			t.Fatal(err)
		}
		var s []string
		for _, l := range list {
			s = append(s, l.Name)
		}
		return strings.Join(s, " ")
	}
	dcfs(t, "snapshot", "create", dir, "one")
	dcfs(t, "snapshot", "create", filepath.Join(dir, "sub"), "two")
	dcfs(t, "snapshot", "create", store, "three")
	if got := names(dir); got != "one two three" {
		t.Errorf("list: %q", got)
	}
	wantFile(t, filepath.Join(dir, ".snapshots/one/a"), "1")
	dcfs(t, "snapshot", "rename", dir, "two", "zwei")
	dcfs(t, "snapshot", "delete", store, "one", "three")
	if got := names(store); got != "zwei" {
		t.Errorf("list: %q, want zwei", got)
	}
	dcfsFails(t, "the name is taken", "snapshot", "create", dir, "zwei")
	dcfsFails(t, "there is none of this name", "snapshot", "delete", dir, "none")
	dcfsFails(t, "a name is UTF-8", "snapshot", "create", dir, "a@b")
	dcfsFails(t, "at most 255 bytes", "snapshot", "create", dir, strings.Repeat("x", 256))

	dcfs(t, "umount", dir) // and on a store that nobody serves
	dcfs(t, "snapshot", "create", store, "cold")
	if got := names(store); got != "zwei cold" {
		t.Errorf("list of the unmounted store: %q", got)
	}
	if out := dcfs(t, "snapshot", "list", store); !strings.HasPrefix(out, "NAME") || strings.Count(out, "\n") != 3 {
		t.Errorf("table: %q", out)
	}
	dcfs(t, "mount", store, dir)
	wantFile(t, filepath.Join(dir, ".snapshots/cold/a"), "1")
}

func TestForksAreManagedThroughAnyTarget(t *testing.T) {
	store, dir := newMount(t)
	writeFile(t, filepath.Join(dir, "a"), "main")
	names := func(target string) string {
		var list []struct{ Name string }
		if err := json.Unmarshal([]byte(dcfs(t, "fork", "list", "--json", target)), &list); err != nil {
			t.Fatal(err)
		}
		var s []string
		for _, l := range list {
			s = append(s, l.Name)
		}
		return strings.Join(s, " ")
	}
	dcfs(t, "fork", "create", dir, "try")
	writeFile(t, filepath.Join(dir, ".forks/try/a"), "try")
	dcfs(t, "fork", "create", filepath.Join(dir, ".forks/try"), "again")
	dcfs(t, "snapshot", "create", filepath.Join(dir, ".forks/try"), "s")
	dcfs(t, "fork", "create", filepath.Join(dir, ".forks/try/.snapshots/s"), "past")
	if got := names(dir); got != "try try/again try/past" && got != "try try/past try/again" {
		t.Errorf("list: %q", got)
	}
	wantFile(t, filepath.Join(dir, "a"), "main")
	wantFile(t, filepath.Join(dir, ".forks/try/.forks/past/a"), "try")
	dcfsFails(t, "it lists forks of its own", "fork", "delete", dir, "try")
	dcfs(t, "fork", "rename", dir, "try/again", "out")
	dcfs(t, "fork", "delete", dir, "try/past", "try")
	if got := names(store); got != "out" {
		t.Errorf("list: %q, want out", got)
	}
	dcfs(t, "umount", dir)
	dcfs(t, "fork", "create", store+"@out", "cold")
	sub := mountAt(t, store+"@out/cold")
	wantFile(t, filepath.Join(sub, "a"), "try")
	dcfsFails(t, `no fork "nope"`, "mount", store+"@nope", dir)
	dcfsFails(t, `no snapshot "nope"`, "mount", store+"%nope", dir)
}

func TestWhatIsAskedThroughAMountStaysInIt(t *testing.T) {
	store, dir := newMount(t)
	dcfs(t, "fork", "create", dir, "f")
	dcfs(t, "snapshot", "create", dir, "s")
	fork := mountAt(t, store+"@f")
	if out := dcfs(t, "snapshot", "list", fork); strings.Contains(out, "s\n") || strings.Count(out, "\n") != 1 {
		t.Errorf("the fork lists its origin's snapshots: %q", out)
	}
	dcfsFails(t, "there is none of this name", "fork", "delete", fork, "f")
	snap := mountAt(t, store+"%s")
	dcfsFails(t, "a snapshot", "snapshot", "create", snap, "x")
}

func TestFsNameHidesTheStoreFromOthersOnly(t *testing.T) {
	_, dir := newMount(t, "-o", "fsname=my volume,snapdir=.snap")
	if l := mountLine(t, dir); !strings.HasPrefix(l, `my\040volume `) {
		t.Errorf("/proc/mounts says %q", l)
	}
	dcfs(t, "snapshot", "create", dir, "s")
	if _, err := os.Stat(filepath.Join(dir, ".snap/s")); err != nil {
		t.Error(err)
	}
	pid := statusOf(t, dir).PID
	dcfs(t, "umount", dir)
	serverGone(t, pid)
}

func TestReadOnlyMountAndRemount(t *testing.T) {
	needRoot(t)
	store, dir := newMount(t)
	writeFile(t, filepath.Join(dir, "a"), "x")
	dcfs(t, "mount", "-o", "remount,ro", dir)
	if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o644); err == nil {
		t.Error("written to after remount,ro")
	}
	dcfs(t, "mount", "-o", "remount,rw,noexec", dir)
	writeFile(t, filepath.Join(dir, "a"), "y")
	if l := mountLine(t, dir); !strings.Contains(l, "rw,nosuid,nodev,noexec") {
		t.Errorf("/proc/mounts says %q", l)
	}
	dcfs(t, "umount", dir)
	dcfs(t, "mount", "-o", "ro", store, dir)
	if err := os.WriteFile(filepath.Join(dir, "b"), nil, 0o644); err == nil {
		t.Error("written to a mount with -o ro")
	}
	wantFile(t, filepath.Join(dir, "a"), "y")
}

func TestForegroundServesUntilItIsUnmounted(t *testing.T) {
	needFUSE(t)
	dir, store := mountPoint(t), newStore(t)
	start := func(source, dir string) (*exec.Cmd, chan error) {
		cmd := exec.Command(dcfsBinary(t), "mount", "-f", source, dir)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for i := 0; !isMounted(t, dir); i++ {
			if i == 400 {
				t.Fatal("not mounted after 20 seconds")
			}
			time.Sleep(50 * time.Millisecond)
		}
		return cmd, ended
	}
	wantEnd := func(what string, ended chan error) {
		t.Helper()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: it does not end", what)
		}
	}
	_, ended := start(store, dir)
	writeFile(t, filepath.Join(dir, "a"), "x")
	dcfs(t, "snapshot", "create", dir, "s")
	// A second one has a server already, and waits all the same.
	snap := mountPoint(t)
	second, secondEnded := start(store+"%s", snap)
	second.Process.Signal(syscall.SIGTERM)
	wantEnd("SIGTERM to the second", secondEnded)
	if isMounted(t, snap) || !isMounted(t, dir) {
		t.Errorf("mounted: snapshot %v, volume %v", isMounted(t, snap), isMounted(t, dir))
	}
	dcfs(t, "umount", dir)
	wantEnd("umount", ended)

	first, ended := start(store, dir)
	wantFile(t, filepath.Join(dir, "a"), "x")
	first.Process.Signal(syscall.SIGINT)
	wantEnd("SIGINT", ended)
}

func TestServerKeepsNothingOfItsCallers(t *testing.T) {
	store := newStore(t)
	needFUSE(t)
	dir := mountPoint(t)
	// A pipe that the server kept would keep cat waiting for its end.
	shell(t, `cd "$3"; { "$4" mount "$1" "$2" 7>&1; } | cat`, store, dir, filepath.Dir(dir), dcfsBinary(t))
	pid := statusOf(t, store).PID
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || cwd != "/" {
		t.Errorf("working directory %q, %v", cwd, err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(stat)[strings.LastIndex(string(stat), ")")+1:])
	if session := f[3]; session != fmt.Sprint(pid) {
		t.Errorf("session %s, not its own", session)
	}
}

func TestLogGoesWhereItIsWanted(t *testing.T) {
	needFUSE(t)
	log := filepath.Join(t.TempDir(), "log")
	_, dir := newMount(t, "--verbose", "--log="+log)
	if b, err := os.ReadFile(log); err != nil || !strings.Contains(string(b), "mounted ") {
		t.Errorf("log: %q, %v", b, err)
	}
	_ = dir
	store, _ := newMount(t)
	if b, err := os.ReadFile(filepath.Join(store, "dcfs.log")); err != nil || len(b) != 0 {
		t.Errorf("the store's log: %q, %v, want it empty", b, err)
	}
}

// TestCheckNamesDamage: one flipped byte in a file's data is an error of what
// reads it, and of check, and of nothing else.
func TestCheckNamesDamage(t *testing.T) {
	store, dir := newMount(t)
	data := strings.Repeat("find these words ", 1<<16)
	writeFile(t, filepath.Join(dir, "damaged"), data)
	writeFile(t, filepath.Join(dir, "sound"), "sound")
	dcfsFails(t, "is mounted", "check", store)
	dcfs(t, "umount", dir)
	if out := dcfs(t, "check", "--data", store); !strings.Contains(out, "is consistent") {
		t.Errorf("check says %q", out)
	}
	flipByte(t, store, "find these words")
	r := runCommand(t, nil, dcfsBinary(t), "check", "--data", store)
	if r.code != 4 || r.stdout == "" || !strings.Contains(r.stderr, "is not consistent: ") {
		t.Errorf("check of a damaged store: exit %d, %q, %q", r.code, r.stdout, r.stderr)
	}
	dcfs(t, "mount", store, dir)
	if got, err := os.ReadFile(filepath.Join(dir, "damaged")); !errors.Is(err, syscall.EIO) {
		t.Errorf("reading it: %d bytes, %v, want EIO", len(got), err)
	}
	wantFile(t, filepath.Join(dir, "sound"), "sound")
}

// flipByte changes the first byte of the first place in a store's segments
// that holds text.
func flipByte(t *testing.T, store, text string) {
	t.Helper()
	segs, err := filepath.Glob(filepath.Join(store, "segments/*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, seg := range segs {
		b, err := os.ReadFile(seg)
		if err != nil {
			t.Fatal(err)
		}
		if i := bytes.Index(b, []byte(text)); i >= 0 {
			b[i] ^= 1
			if err := os.WriteFile(seg, b, 0); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no segment of %s holds %q", store, text)
}

func TestErrorsAreOneLineThatSaysWhatToDo(t *testing.T) {
	needFUSE(t)
	dir, tmp := mountPoint(t), t.TempDir()
	writeFile(t, filepath.Join(tmp, "file"), "")
	if err := os.Mkdir(filepath.Join(tmp, "other"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(tmp, "other", "data"), "x")
	for _, c := range []struct {
		want string
		args []string
	}{
		{"no such file or directory", []string{"mount", tmp + "/st", tmp + "/nowhere"}},
		{"is not a directory", []string{"mount", tmp + "/st", tmp + "/file"}},
		{"the store", []string{"mount", dir + "/st", dir}},
		{"--log=- needs -f", []string{"mount", "--log=-", tmp + "/st", dir}},
		{"is not a mount of dcfs", []string{"umount", dir}},
		{"no volume at", []string{"snapshot", "list", tmp + "/st"}},
		{"no volume at", []string{"check", tmp + "/st"}},
		{"store " + tmp + "/other", []string{"mount", tmp + "/other", dir}},
		{"store " + tmp + "/file", []string{"mount", tmp + "/file", dir}},
	} {
		r := runCommand(t, nil, dcfsBinary(t), c.args...)
		first, rest, _ := strings.Cut(r.stderr, "\n")
		if r.code == 0 || !strings.Contains(first, c.want) || (rest != "" && !strings.Contains(rest, "--help")) {
			t.Errorf("dcfs %s: exit %d, %q, want an error with %q", strings.Join(c.args, " "), r.code, r.stderr, c.want)
		}
	}
	wantFile(t, filepath.Join(tmp, "other", "data"), "x")
	for _, c := range [][]string{{}, {"nope"}, {"snapshot"}, {"mount"}, {"mount", "a"}, {"mount", "a", "b", "c"}, {"mount", "-o", "nope", "a", "b"}, {"fork", "create", "a"}, {"version", "x"}, {"umount", "--nope", "a"}, {"snapshot", "expire", "a", "b"}, {"fork", "create", "--ttl=5", "a", "b"}, {"retention", "set", "6m", "a"}, {"retention", "set", "1h"}} {
		if r := runCommand(t, nil, dcfsBinary(t), c...); r.code != 2 || !strings.Contains(r.stderr, "--help") {
			t.Errorf("dcfs %q: exit %d, %q, want 2 and a way to help", c, r.code, r.stderr)
		}
	}
}

func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	list := dcfs(t, "help")
	n := 0
	for _, l := range strings.Split(list, "\n") {
		if !strings.HasPrefix(l, "  ") {
			continue
		}
		n++
		name := strings.Fields(strings.SplitN(strings.TrimSpace(l), "  ", 2)[0])
		out := dcfs(t, append(name, "--help")...)
		if !strings.HasPrefix(out, "Usage: dcfs "+strings.Join(name, " ")) || (name[0] != "version" && !strings.Contains(out, "Example:\n  dcfs "+strings.Join(name, " "))) {
			t.Errorf("help of %q:\n%s", name, out)
		}
		if got := dcfs(t, append([]string{"help"}, name...)...); got != out {
			t.Errorf("dcfs help %q differs from --help", name)
		}
	}
	if n < 12 {
		t.Errorf("%d commands are listed:\n%s", n, list)
	}
	var v map[string]string
	if err := json.Unmarshal([]byte(dcfs(t, "version", "--json")), &v); err != nil || v["version"] == "" {
		t.Errorf("version --json: %v, %v", v, err)
	}
}

func TestControlSocketBearsWhateverIsSent(t *testing.T) {
	store, dir := newMount(t)
	path := filepath.Join(store, "control")
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("socket: %v, %v, want mode 0600", fi, err)
	}
	ask := func(line string) string {
		c := dialControl(t, store)
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, line)
		c.CloseWrite()
		reply, _ := bufio.NewReader(c).ReadString('\n')
		return reply
	}
	for line, want := range map[string]string{
		"hello\n":                                                            `"code":"invalid"`,
		`{"v":2,"op":"status"}` + "\n":                                       `"code":"version"`,
		`{"v":1,"op":"nope"}` + "\n":                                         `"code":"invalid"`,
		`{"v":1,"op":"mount"}` + "\n":                                        `"code":"invalid"`,
		`{"v":1,"op":"watch","dev":"9:9"}` + "\n":                            `"code":"not-found"`,
		`{"v":1,"op":"snapshot.create","name":"../x"}` + "\n":                `"code":"invalid"`,
		`{"v":1,"op":"fork.create","fork":"a/../b","name":"x"}` + "\n":       `"code":"not-found"`,
		`{"v":1,"op":"snapshot.list","dev":"9:9","path":"../../"}` + "\n":    `"code":"not-found"`,
		`{"v":1,"op":"mount","mountpoint":"/x","options":{}}` + "\nnonsense": `"code":"busy"`,
		"{\"v\":1,\"op\":\"snapshot.create\",\"name\":\"a\xff\"}\n":          `not UTF-8`,
		strings.Repeat("x", 1<<20):                                           "",
		`{"v":1,"op":"status"}`:                                              "",
		`{"v":1,"op":"status"}` + "\n":                                       `"ok":true`,
	} {
		if got := ask(line); !strings.Contains(got, want) || (want == "" && got != "") {
			t.Errorf("sent %.60q: got %q, want %q", line, got, want)
		}
	}
	dcfsFails(t, "a name is UTF-8", "snapshot", "create", dir, "a\xff")
	dcfsFails(t, "a name is UTF-8", "snapshot", "hold", "--tag", "a\xff", dir, "s")
	writeFile(t, filepath.Join(dir, "a"), "alive")
}

// TestControlSocketBearsCrowds: of those who connect and say nothing, or send what
// makes no sense, none takes the server's descriptors, nor hinders others for
// good.
func TestControlSocketBearsCrowds(t *testing.T) {
	store, dir := newMount(t)
	before := sampleOf(t, store)
	pid := statusOf(t, store).PID
	fds := func() int {
		all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		must(t, err)
		return len(all)
	}
	const crowd = 600 // the server listens to 256 at a time
	var conns []*net.UnixConn
	for i := range crowd {
		c := dialControl(t, store)
		conns = append(conns, c)
		if i%2 == 0 {
			io.WriteString(c, `{"v":1,"op":"snap`)
		}
		if n := fds(); n > before.fds+300 {
			t.Fatalf("%d descriptors after %d connections, %d before", n, i+1, before.fds)
		}
	}
	writeFile(t, filepath.Join(dir, "a"), "alive")
	if err := os.Mkdir(filepath.Join(dir, ".snapshots/s"), 0o755); err != nil {
		t.Error(err)
	}
	for _, c := range conns {
		c.Close()
	}
	dcfs(t, "snapshot", "list", dir)

	// Descriptors that nobody asked for, garbage, and requests that are bent.
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var spare []int
	for range 50 {
		spare = append(spare, int(os.Stdin.Fd()))
	}
	lines := []string{
		`{"v":1,"op":"snapshot.create","name":"n","ttl":1}`, `{"v":1,"op":"snapshot.rename","name":"n","to":"m"}`,
		`{"v":1,"op":"snapshot.frees","names":["n","m"],"count":true}`, `{"v":1,"op":"fork.create","path":".forks/a","name":"f","dev":"0:1"}`,
		`{"v":1,"op":"fork.delete","name":"a/b/c","recursive":true}`, `{"v":1,"op":"retention.set","policy":"24h7d4w","dryRun":true}`,
		`{"v":1,"op":"snapshot.hold","name":"n","tag":"t"}`, `{"v":1,"op":"mount","fork":"f","mountpoint":"/x","options":{"snapDir":"/"}}`,
		`{"v":1,"op":"watch","dev":"0:1"}`, `{"v":1,"op":"sync"}`, `{"v":1,"op":"fork.list","fork":"","snapshot":"s","sizes":true}`,
	}
	for i := range 400 {
		c := dialControl(t, store)
		c.SetDeadline(time.Now().Add(time.Minute))
		b := []byte(lines[rng.IntN(len(lines))])
		for range rng.IntN(4) {
			switch at := rng.IntN(len(b)); rng.IntN(4) {
			case 0:
				b[at] = byte(rng.Uint32())
			case 1:
				b = slices.Concat(b[:at], bytes.Repeat(b[at:], 1+rng.IntN(3)))
			case 2:
				b = slices.Concat(b[:at], []byte(strings.Repeat("[", rng.IntN(20_000))), b[at:])
			case 3:
				b = slices.Concat(b[:at], []byte(strings.Repeat("../", rng.IntN(2000))), b[at:])
			}
		}
		if i%10 == 0 {
			c.WriteMsgUnix(b, unix.UnixRights(spare...), nil)
		} else {
			c.Write(b)
		}
		if rng.IntN(2) == 0 {
			io.WriteString(c, "\n")
			c.CloseWrite()
			io.Copy(io.Discard, c)
		}
		c.Close()
	}
	writeFile(t, filepath.Join(dir, "a"), "still alive")
	eventually(t, "the server lets go of all connections", func() bool {
		now := sampleOf(t, store)
		return now.fds <= before.fds+16 && now.goroutines <= before.goroutines+20
	})
}

// dialControl connects to a store's server by hand. A test's directory may be too
// long for a socket's address.
func dialControl(t *testing.T, store string) *net.UnixConn {
	t.Helper()
	fd, err := unix.Open(store, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/control", fd), Net: "unix"})
	must(t, err)
	return c
}

func TestControlSocketIsItsOwnersAlone(t *testing.T) {
	needRoot(t)
	store, dir := newMount(t, "-o", "allow_other")
	// Whoever could reach the socket would still be refused by the server.
	for _, d := range []string{store, filepath.Dir(store), filepath.Dir(filepath.Dir(store)), dir, filepath.Dir(dir), filepath.Dir(filepath.Dir(dir))} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(store, "control"), 0o666); err != nil {
		t.Fatal(err)
	}
	r := runCommand(t, asUser, dcfsBinary(t), "snapshot", "create", store, "x")
	if r.code == 0 || !strings.Contains(r.stderr, "may not manage") {
		t.Errorf("exit %d, %q, want a refusal", r.code, r.stderr)
	}
	if err := os.Chmod(filepath.Join(store, "control"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = runCommand(t, asUser, dcfsBinary(t), "snapshot", "create", dir, "x")
	if r.code == 0 || !strings.Contains(r.stderr, "only they and root") {
		t.Errorf("exit %d, %q, want a refusal", r.code, r.stderr)
	}
}

func TestOrdinaryUserMounts(t *testing.T) {
	needFUSE(t)
	needRoot(t)
	needTool(t, "fusermount3")
	if openToAll := "DCFS_TEST_DEV_FUSE"; !userMayOpenFuse(t) && os.Getenv(openToAll) == "" {
		// udev makes /dev/fuse everyone's; a container may not. A mount
		// namespace of our own has one that is.
		needTool(t, "unshare")
		r := runCommand(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, openToAll+"=1") }, "unshare", "-m", "--propagation", "slave", "bash", "-euc", `
mount -t tmpfs none "$2"; mknod -m 666 "$2/fuse" c 10 229; chmod 666 "$2/fuse"; mount --bind "$2/fuse" /dev/fuse
"$1" -test.run "^$3\$" -test.v`, "bash", os.Args[0], t.TempDir(), t.Name())
		if r.code != 0 || strings.Contains(r.stdout, "SKIP") {
			t.Errorf("in a mount namespace: exit %d\n%s%s", r.code, r.stdout, r.stderr)
		}
		return
	}
	home := userDir(t)
	user := func(args ...string) result { return runCommand(t, asUser, dcfsBinary(t), args...) }
	must := func(args ...string) string {
		t.Helper()
		r := user(args...)
		if r.code != 0 {
			t.Fatalf("dcfs %s as an ordinary user: exit %d, %s", strings.Join(args, " "), r.code, r.stderr)
		}
		return r.stdout
	}
	store, dir, snap := filepath.Join(home, "store"), filepath.Join(home, "mnt"), filepath.Join(home, "snap")
	for _, d := range []string{dir, snap} {
		if r := runCommand(t, asUser, "mkdir", d); r.code != 0 {
			t.Fatal(r.stderr)
		}
	}
	t.Cleanup(func() { user("umount", "--lazy", dir); user("umount", "--lazy", snap) })
	must("mount", store, dir)
	if l := mountLine(t, dir); !strings.Contains(l, "fuse.dcfs") || !strings.Contains(l, "nosuid,nodev") || !strings.Contains(l, fmt.Sprintf("user_id=%d", ordinaryUser)) {
		t.Errorf("/proc/mounts says %q", l)
	}
	if r := runCommand(t, asUser, "sh", "-ec", `cd "$0"; echo hi >a; mkdir .snapshots/s; test "$(cat .snapshots/s/a)" = hi; test "$(stat -c %u:%g a)" = 65534:65534`, dir); r.code != 0 {
		t.Errorf("working in the mount: %s", r.stderr)
	}
	must("snapshot", "list", dir)
	must("mount", store+"%s", snap)
	if _, err := os.Stat(filepath.Join(dir, "a")); err == nil {
		t.Error("root may look into the mount of a user who did not allow others")
	}
	for want, args := range map[string][]string{
		"only root":   {"mount", "-o", "suid", store, dir},
		"allow_other": {"mount", "-o", "allow_other", filepath.Join(home, "store2"), snap},
	} {
		if r := user(args...); r.code == 0 && want == "only root" {
			t.Errorf("dcfs %s succeeds", strings.Join(args, " "))
		}
	}
	must("umount", snap)
	must("umount", dir)
	if !unlocked(t, store) {
		t.Error("the store is still locked")
	}
	must("mount", store, dir)
	if r := runCommand(t, asUser, "cat", filepath.Join(dir, "a")); r.stdout != "hi\n" {
		t.Errorf("after a remount: %q, %s", r.stdout, r.stderr)
	}
	must("umount", dir)
}

// userMayOpenFuse reports whether /dev/fuse is open to everyone.
func userMayOpenFuse(t *testing.T) bool {
	fi, err := os.Stat("/dev/fuse")
	if err != nil {
		t.Fatal(err)
	}
	return fi.Mode().Perm()&0o6 == 0o6
}

// inNamespace runs a script in a mount namespace of its own, in which
// mount(8) finds dcfs as its helper.
func inNamespace(t *testing.T, script string, args ...string) string {
	t.Helper()
	needRoot(t)
	needTool(t, "unshare")
	const prepare = `
mount -t tmpfs none $HELPERS
helpers=$HELPERS
mkdir $helpers/up $helpers/work
if ! mount -t overlay none -o lowerdir=/usr/sbin,upperdir=$helpers/up,workdir=$helpers/work /usr/sbin; then echo NO-OVERLAY; exit 0; fi
ln -s $DCFS /usr/sbin/mount.fuse.dcfs
ln -s $DCFS /usr/sbin/umount.fuse.dcfs
ln -s $DCFS /usr/sbin/umount.fuse # what umount(8) of root knows
`
	r := runCommand(t, func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "DCFS="+dcfsBinary(t), "HELPERS="+t.TempDir()) },
		"unshare", append([]string{"-m", "--propagation", "slave", "bash", "-euo", "pipefail", "-c", prepare + script, "bash"}, args...)...)
	if strings.HasPrefix(r.stdout, "NO-OVERLAY") {
		t.Skip("SKIPPED: no overlayfs to put the mount helper into /sbin with")
	}
	if r.code != 0 {
		t.Fatalf("exit %d from script:\n%s\n%s%s", r.code, script, r.stdout, r.stderr)
	}
	return r.stdout
}

func TestMountAndUmountOfUtilLinux(t *testing.T) {
	needFUSE(t)
	dir, store := mountPoint(t), newStore(t)
	out := inNamespace(t, `
store=$1 dir=$2 fstab=$helpers/fstab
mount -t fuse.dcfs $store $dir -o allow_other,snapdir=.s
grep " $dir " /proc/mounts
echo hi >$dir/a
mkdir $dir/.s/one
umount $dir
flock -n $store/lock true         # plain umount has waited
echo "$store%one $dir fuse.dcfs ro,noauto,nofail,user,x-systemd.automount 0 0" >$fstab
mount -T $fstab $dir
grep " $dir " /proc/mounts
cat $dir/a
umount $dir
mount -t fuse.dcfs $store $dir
mount -o remount,ro $dir
! touch $dir/b 2>/dev/null
mount -o remount,rw $dir
touch $dir/b
atime() { touch -a -d @1000 $dir/a; cat $dir/a >$helpers/a; stat -c %X $dir/a; }
mount -o remount,strictatime $dir # of which the kernel tells the server nothing
[ "$(atime)" != 1000 ]
mount -o remount,relatime $dir
[ "$(atime)" = 1000 ]
umount -l $dir
mount -t fuse.dcfs $store $dir -o allow_suid,allow_dev
grep " $dir " /proc/mounts
umount $dir
! mount -t fuse.dcfs $store $dir -o nonsense 2>/dev/null
mount -t fuse.dcfs $store $dir -s -o nonsense
umount $dir
`, store, dir)
	for _, want := range []string{
		store + " " + dir + " fuse.dcfs rw,nosuid,nodev,relatime,user_id=0,group_id=0,default_permissions,allow_other",
		store + "%one " + dir + " fuse.dcfs ro,nosuid,nodev,noexec",
		store + " " + dir + " fuse.dcfs rw,relatime,",
		"\nhi\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if isMounted(t, dir) || !unlocked(t, store) {
		t.Errorf("left behind: mounted %v, unlocked %v", isMounted(t, dir), unlocked(t, store))
	}
}

func TestMountHappensInTheNamespaceOfWhoAsks(t *testing.T) {
	store, dir := newMount(t)
	writeFile(t, filepath.Join(dir, "a"), "x")
	dcfs(t, "snapshot", "create", dir, "s")
	other := mountPoint(t)
	inNamespace(t, `
$DCFS mount $1%s $2
grep -q x $2/a
! grep -q " $2 " /proc/1/mounts
$DCFS snapshot list $1 | grep -q s
$DCFS umount $2
! grep -q " $2 " /proc/mounts
$DCFS mount $1%s $2      # ends with the namespace
`, store, other)
	if isMounted(t, other) {
		t.Error("the mount shows in the server's namespace")
	}
	for i := 0; len(statusOf(t, store).Mounts) != 1; i++ {
		if i == 100 {
			t.Fatalf("status after the namespace has ended: %+v", statusOf(t, store))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestMissingDevFuseIsExplained(t *testing.T) {
	needRoot(t)
	needTool(t, "unshare")
	dir, store := mountPoint(t), newStore(t)
	r := runCommand(t, nil, "unshare", "-m", "--propagation", "slave", "bash", "-euc", `
d=$(mktemp -d); trap 'umount /dev; umount $d/null; umount $d; rmdir $d' EXIT
mount -t tmpfs none $d; touch $d/null; mount --bind /dev/null $d/null; mount --rbind $d /dev
"$1" mount "$2" "$3"`, "bash", dcfsBinary(t), store, dir)
	if r.code == 0 || !strings.Contains(r.stderr, "modprobe fuse") {
		t.Errorf("exit %d, %q, want a hint", r.code, r.stderr)
	}
	if _, err := os.Stat(store); err == nil {
		t.Error("a volume was made though it can't be mounted")
	}
}

// A look at a store that nobody serves leaves it as it is: what is to be
// reclaimed waits.
func TestCheckAndStatusChangeNothing(t *testing.T) {
	store, dir := newMount(t)
	for round := range 2 {
		for i := range 1000 {
			writeFile(t, filepath.Join(dir, fmt.Sprint(i)), strings.Repeat(fmt.Sprint(round), 5000))
		}
		dcfs(t, "snapshot", "create", dir, fmt.Sprint("s", round))
	}
	dcfs(t, "umount", dir)
	dcfs(t, "snapshot", "delete", store, "s0") // and ends before all is reclaimed
	backlog := func() string {
		var st struct{ Backlog map[string]int64 }
		if err := json.Unmarshal([]byte(dcfs(t, "status", "--json", store)), &st); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(st.Backlog)
	}
	want := backlog()
	if !strings.Contains(want, "tasks:1") {
		t.Fatalf("backlog %s, want a task", want)
	}
	for range 3 {
		if out := dcfs(t, "check", store); !strings.Contains(out, "is consistent") {
			t.Errorf("check says %q", out)
		}
		if got := backlog(); got != want {
			t.Errorf("backlog %s, was %s", got, want)
		}
	}
	dcfs(t, "gc", "--wait", store)
	dcfs(t, "check", store)
	if got := backlog(); got == want {
		t.Errorf("backlog %s after gc --wait", got)
	}
}

func TestMountOfADeletedSnapshotIsUnmounted(t *testing.T) {
	store, dir := newMount(t)
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	for _, c := range []struct {
		del, umount []string
	}{
		{[]string{"rmdir", filepath.Join(dir, ".snapshots/s")}, []string{"umount"}},
		{[]string{dcfsBinary(t), "snapshot", "delete", dir, "s"}, []string{"umount", "--lazy"}},
	} {
		dcfs(t, "snapshot", "create", dir, "s")
		snap := mountAt(t, store+"%s")
		if r := runCommand(t, nil, c.del[0], c.del[1:]...); r.code != 0 {
			t.Fatalf("%v: exit %d, %s", c.del, r.code, r.stderr)
		}
		if _, err := os.Stat(filepath.Join(snap, "sub")); !errors.Is(err, syscall.ESTALE) {
			t.Errorf("in the mount: %v, want ESTALE", err)
		}
		dcfsFails(t, "was deleted: unmount it", "mount", store+"@f", snap)
		dcfsFails(t, "was deleted: unmount it", "snapshot", "list", snap)
		dcfsFails(t, "was deleted: unmount it", "snapshot", "list", filepath.Join(snap, "sub"))
		dcfs(t, append(c.umount, snap)...)
		if isMounted(t, snap) || len(statusOf(t, store).Mounts) != 1 {
			t.Errorf("%v: mounted %v, status %+v", c.umount, isMounted(t, snap), statusOf(t, store))
		}
	}
	dcfs(t, "snapshot", "create", dir, "s")
	snap := mountAt(t, store+"%s")
	dcfs(t, "snapshot", "delete", dir, "s")
	pid := statusOf(t, dir).PID
	dcfs(t, "umount", dir)
	dcfs(t, "umount", snap)
	serverGone(t, pid)
	if !unlocked(t, store) {
		t.Error("the store is still locked")
	}
	dcfs(t, "check", store)
}

func TestForkThatIsMountedIsNotDeleted(t *testing.T) {
	store, dir := newMount(t)
	dcfs(t, "fork", "create", dir, "f")
	dcfs(t, "fork", "create", store+"@f", "g")
	g := mountAt(t, store+"@f/g")
	writeFile(t, filepath.Join(g, "a"), "x")
	dcfsFails(t, "is mounted at "+g, "fork", "delete", dir, "f/g")
	dcfsFails(t, "is mounted at "+g, "fork", "delete", "-r", store, "f")
	if err := syscall.Rmdir(filepath.Join(dir, ".forks/f/.forks/g")); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("rmdir: %v, want EBUSY", err)
	}
	wantFile(t, filepath.Join(g, "a"), "x")
	dcfs(t, "umount", g)
	dcfs(t, "fork", "delete", "-r", dir, "f")
	dcfsFails(t, "no fork", "mount", store+"@f/g", g)
}

// A store that vanishes under its server takes it along, and nobody is told
// that data is safe.
func TestServerEndsWhenItsStoreIsGone(t *testing.T) {
	for _, c := range []struct{ name, take string }{
		{"deleted", `rm -rf "$1"`},
		{"emptied", `rm -rf "$1"/*`},
		{"moved", `mv "$1" "$1.away"`},
	} {
		for _, end := range []string{"umount", "SIGTERM"} {
			t.Run(c.name+" "+end, func(t *testing.T) {
				t.Parallel()
				store, dir := newMount(t)
				for i := range 100 {
					writeFile(t, filepath.Join(dir, fmt.Sprint(i)), strings.Repeat("x", 5000))
				}
				pid := statusOf(t, dir).PID
				shell(t, c.take, store)
				if end == "umount" {
					dcfsFails(t, "can't wait until its data is safe", "umount", dir)
				} else {
					must(t, syscall.Kill(pid, syscall.SIGTERM))
				}
				for i := 0; i < 40; i++ { // 20 s, and the 10 of serverGone
					if syscall.Kill(pid, 0) != nil {
						break
					}
					time.Sleep(500 * time.Millisecond)
				}
				serverGone(t, pid)
				if isMounted(t, dir) {
					t.Error("still mounted")
				}
			})
		}
	}
}

func TestStoreOnAReadOnlyFileSystemIsExplained(t *testing.T) {
	needRoot(t)
	store, dir := newMount(t)
	dcfs(t, "umount", dir)
	ro := mountPoint(t)
	shell(t, `mount --bind "$1" "$2"; mount -o remount,bind,ro "$2"`, store, ro)
	defer shell(t, `umount "$1"`, ro)
	dcfsFails(t, "the store's file system is read-only; dcfs needs to write its lock even for -o ro", "mount", "-o", "ro", ro, dir)
	dcfsFails(t, "the store's file system is read-only", "check", ro)
}

func TestViewOfNoVolumeMakesNone(t *testing.T) {
	needFUSE(t)
	dir, store := mountPoint(t), newStore(t)
	for _, view := range []string{"@nope", "%nope", "@nope%nope"} {
		dcfsFails(t, "no volume at "+store, "mount", store+view, dir)
		dcfsFails(t, "no volume at "+store, "mount", "-f", store+view, dir)
	}
	if _, err := os.Lstat(store); err == nil {
		t.Error("a volume was made")
	}
}

func TestMountPointsAreNoStores(t *testing.T) {
	_, dir := newMount(t)
	dcfs(t, "snapshot", "create", dir, "s")
	dcfsFails(t, "use the path "+dir+"/.snapshots/s", "fork", "create", dir+"%s", "g")
	dcfsFails(t, "use the path "+dir+"/.forks/a/.forks/b/.snapshots/s", "snapshot", "list", dir+"@a/b%s")
	dcfsFails(t, "use the path "+dir+"/.snapshots/s", "mount", dir+"%s", mountPoint(t))
}

func TestNoMemoryIsRefused(t *testing.T) {
	for _, flag := range []string{"--cache=0", "--dirty=0", "-ocache=0", "-odirty=0"} {
		r := runCommand(t, nil, dcfsBinary(t), "mount", flag, "a", "b")
		if r.code != 2 || !strings.Contains(r.stderr, "leave it out for the default") {
			t.Errorf("%s: exit %d, %q", flag, r.code, r.stderr)
		}
	}
}

// A busy mount's end is no alarm: what was acknowledged is safe.
func TestSignalWithABusyWriterLogsNoAlarm(t *testing.T) {
	store, dir := newMount(t)
	pid := statusOf(t, dir).PID
	done := make(chan bool)
	go func() {
		defer close(done)
		f, err := os.Create(filepath.Join(dir, "a"))
		for err == nil {
			_, err = f.Write(make([]byte, 100000))
			os.WriteFile(filepath.Join(dir, "b"), []byte("x"), 0o644)
			os.Remove(filepath.Join(dir, "b"))
		}
		f.Close()
	}()
	time.Sleep(300 * time.Millisecond)
	must(t, syscall.Kill(pid, syscall.SIGTERM))
	serverGone(t, pid)
	<-done
	log, err := os.ReadFile(filepath.Join(store, "dcfs.log"))
	if err != nil || strings.Contains(string(log), "closed") {
		t.Errorf("log: %q, %v", log, err)
	}
	dcfs(t, "check", store)
}
