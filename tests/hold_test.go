package tests

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// listedView is an entry of "dcfs snapshot list --json", or of forks.
type listedView struct {
	Name    string
	Created time.Time
	Expires *time.Time
	Holds   []string
}

// listViews returns what "dcfs KIND list" shows.
func listViews(t *testing.T, kind, target string) (all []listedView) {
	t.Helper()
	if err := json.Unmarshal([]byte(dcfs(t, kind, "list", "--names", "--json", target)), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// wantErrno fails the test unless err is want.
func wantErrno(t *testing.T, what string, err error, want syscall.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestHeldSnapshotStays(t *testing.T) {
	store, dir := newMount(t)
	writeFile(t, filepath.Join(dir, "a"), "1")
	for _, name := range []string{"monday", "tuesday"} {
		dcfs(t, "snapshot", "create", dir, name)
	}
	monday := filepath.Join(dir, ".snapshots/monday")
	dcfs(t, "snapshot", "hold", dir, "monday", "tuesday")
	dcfs(t, "snapshot", "hold", "--tag", "backup", dir, "monday")
	dcfsFails(t, "that tag holds it already", "snapshot", "hold", "--tag=backup", dir, "monday")
	dcfsFails(t, "there is none of this name", "snapshot", "hold", dir, "sunday")
	dcfsFails(t, "a name is UTF-8", "snapshot", "hold", "--tag", "a/b", dir, "monday")
	dcfsFails(t, "that tag does not hold it", "snapshot", "release", "--tag", "x", dir, "monday")
	if got := listViews(t, "snapshot", dir); len(got) != 2 || !slices.Equal(got[0].Holds, []string{"backup", "keep"}) || !slices.Equal(got[1].Holds, []string{"keep"}) {
		t.Errorf("list: %+v", got)
	}
	if out := dcfs(t, "snapshot", "list", dir); !strings.Contains(out, "HOLDS") || !strings.Contains(out, "backup,keep") {
		t.Errorf("list:\n%s", out)
	}

	wantErrno(t, "rmdir", syscall.Rmdir(monday), syscall.EBUSY)
	dcfsFails(t, "snapshot monday of fork main is held (backup, keep)", "snapshot", "delete", dir, "monday")
	dcfsFails(t, "is held", "snapshot", "delete", "-n", dir, "monday")
	must(t, os.Rename(monday, filepath.Join(dir, ".snapshots/kept")))
	wantFile(t, filepath.Join(dir, ".snapshots/kept/a"), "1")

	dcfs(t, "umount", dir) // and in a store that nobody serves
	dcfsFails(t, "is held", "snapshot", "delete", store, "kept")
	dcfs(t, "snapshot", "release", store, "kept", "tuesday")
	dcfs(t, "snapshot", "delete", store, "tuesday")
	dcfs(t, "check", store)
	dcfs(t, "mount", store, dir)
	wantErrno(t, "rmdir of what one tag still holds", syscall.Rmdir(filepath.Join(dir, ".snapshots/kept")), syscall.EBUSY)
	dcfs(t, "snapshot", "release", "--tag", "backup", dir, "kept")
	must(t, syscall.Rmdir(filepath.Join(dir, ".snapshots/kept")))
}

func TestForkWithAHeldSnapshotStays(t *testing.T) {
	_, dir := newMount(t)
	try := filepath.Join(dir, ".forks/try")
	must(t, os.Mkdir(try, 0o755))
	must(t, os.Mkdir(filepath.Join(try, ".forks/again"), 0o755))
	writeFile(t, filepath.Join(try, "a"), "1")
	must(t, os.Mkdir(filepath.Join(try, ".snapshots/s"), 0o755))
	dcfs(t, "snapshot", "hold", try, "s")
	dcfsFails(t, "snapshot s of fork try is held (keep)", "fork", "delete", "--recursive", dir, "try")
	if got := listViews(t, "fork", dir); len(got) != 2 {
		t.Errorf("forks: %+v", got)
	}
	must(t, syscall.Rmdir(filepath.Join(try, ".forks/again")))
	wantErrno(t, "rmdir", syscall.Rmdir(try), syscall.EBUSY)
	dcfsFails(t, "is held", "fork", "delete", dir, "try")
	wantFile(t, filepath.Join(try, ".snapshots/s/a"), "1")
	dcfs(t, "snapshot", "release", try, "s")
	must(t, syscall.Rmdir(try))
}
