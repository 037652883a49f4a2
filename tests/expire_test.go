package tests

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// eventually fails the test if something does not come about in a long time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(commandTimeout); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%s: not after %v", what, commandTimeout)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestWhatHasExpiredGoesByItself(t *testing.T) {
	store, dir := newMount(t)
	writeFile(t, filepath.Join(dir, "a"), "1")
	s, f := filepath.Join(dir, ".snapshots/s"), filepath.Join(dir, ".forks/f")
	dcfs(t, "snapshot", "create", "--ttl", "1h", dir, "later")
	dcfs(t, "snapshot", "create", "--ttl", "1s", dir, "s")
	dcfs(t, "fork", "create", "--ttl", "1s", dir, "f")
	all := listViews(t, "snapshot", dir)
	if e := all[0].Expires; e == nil || e.Before(all[0].Created.Add(59*time.Minute)) || e.After(all[0].Created.Add(61*time.Minute)) {
		t.Errorf("list: %+v", all)
	}
	eventually(t, "both are gone", func() bool { return !exists(s) && !exists(f) })
	if out := dcfs(t, "snapshot", "list", dir); !strings.Contains(out, "EXPIRES") || strings.Contains(out, "s  ") {
		t.Errorf("list:\n%s", out)
	}
	dcfs(t, "snapshot", "expire", dir, "later", "--ttl", "none")
	if all := listViews(t, "snapshot", dir); len(all) != 1 || all[0].Expires != nil {
		t.Errorf("list: %+v", all)
	}

	dcfs(t, "umount", dir) // what expires in between goes after the next mount
	dcfs(t, "snapshot", "expire", "--ttl=1ms", store, "later")
	dcfs(t, "fork", "create", "--ttl=1ms", store, "f")
	if len(listViews(t, "snapshot", store)) != 1 || len(listViews(t, "fork", store)) != 1 {
		t.Error("a command that lists deletes")
	}
	dcfs(t, "mount", store, dir)
	eventually(t, "all is gone", func() bool { return !exists(filepath.Join(dir, ".snapshots/later")) && !exists(f) })
	dcfs(t, "umount", dir)
	dcfs(t, "check", store)
}

func TestHeldSnapshotExpiresWhenItIsReleased(t *testing.T) {
	_, dir := newMount(t)
	for _, name := range []string{"held", "gone"} {
		dcfs(t, "snapshot", "create", dir, name)
	}
	dcfs(t, "snapshot", "hold", dir, "held")
	dcfs(t, "snapshot", "expire", "--ttl", "1ms", dir, "held", "gone")
	eventually(t, "the other one is gone", func() bool { return !exists(filepath.Join(dir, ".snapshots/gone")) })
	if !exists(filepath.Join(dir, ".snapshots/held")) {
		t.Fatal("the held one is gone too")
	}
	dcfs(t, "snapshot", "release", dir, "held")
	eventually(t, "it is gone", func() bool { return !exists(filepath.Join(dir, ".snapshots/held")) })
}

// A fork in which somebody works is not taken from under them.
func TestForkInUseExpiresLater(t *testing.T) {
	store, dir := newMount(t)
	dcfs(t, "fork", "create", dir, "mounted")
	dcfs(t, "fork", "create", dir, "open")
	at := mountAt(t, store+"@mounted")
	writeFile(t, filepath.Join(at, "a"), "1")
	file, err := os.Create(filepath.Join(dir, ".forks/open/a"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	dcfs(t, "fork", "expire", "--ttl", "1ms", dir, "mounted", "open")
	log := func() string {
		b, err := os.ReadFile(filepath.Join(store, "dcfs.log"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return string(b)
	}
	eventually(t, "the log says why they stay", func() bool {
		return strings.Contains(log(), `fork "mounted" has expired and stays for now: it is mounted at `+at) &&
			strings.Contains(log(), `fork "open" has expired and stays for now: it is in use`)
	})
	wantFile(t, filepath.Join(at, "a"), "1")
	if _, err := file.WriteString("x"); err != nil {
		t.Error(err)
	}
	must(t, file.Close())
	dcfs(t, "umount", at) // has the clock look again, at the other one too
	eventually(t, "they are gone", func() bool { return len(listViews(t, "fork", dir)) == 0 })
	if n := strings.Count(log(), "stays for now"); n != 2 {
		t.Errorf("the log says %d times that something stays:\n%s", n, log())
	}
	if _, err := os.Stat(filepath.Join(dir, ".forks/open/a")); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("the fork's file: %v", err)
	}
}
