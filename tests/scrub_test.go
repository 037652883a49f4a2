package tests

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestScrubFindsDamage scrubs a store that is mounted and one that is not, sound
// and damaged, and wants the exit codes of a check.
func TestScrubFindsDamage(t *testing.T) {
	store, dir := newMount(t)
	writeFile(t, filepath.Join(dir, "damaged"), strings.Repeat("find these words ", 1<<16))
	writeFile(t, filepath.Join(dir, "sound"), "sound")
	dcfs(t, "snapshot", "create", dir, "s")
	if err := os.Remove(filepath.Join(dir, "damaged")); err != nil {
		t.Fatal(err)
	}
	sound := func(target string) {
		t.Helper()
		if out := dcfs(t, "scrub", "--rate", "0", target); !strings.Contains(out, "nothing is damaged") {
			t.Errorf("scrub says %q", out)
		}
	}
	sound(dir)
	dcfs(t, "umount", dir)
	sound(store)
	flipByte(t, store, "find these words")
	damaged := func(target string) {
		t.Helper()
		r := runCommand(t, nil, dcfsBinary(t), "scrub", target)
		if r.code != 4 || !strings.Contains(r.stdout, "object ") || !strings.Contains(r.stderr, "is damaged: 1 problem") {
			t.Errorf("scrub: exit %d, %q, %q", r.code, r.stdout, r.stderr)
		}
		r = runCommand(t, nil, dcfsBinary(t), "scrub", "--json", target)
		var got struct {
			BytesRead, Found int64
			Problems         []string
		}
		if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || r.code != 4 || got.Found != 1 || len(got.Problems) != 1 || got.BytesRead < 1<<20 {
			t.Errorf("scrub --json: exit %d, %q, %v", r.code, r.stdout, err)
		}
	}
	damaged(store)
	dcfs(t, "mount", store, dir)
	damaged(dir)
	if r := runCommand(t, nil, dcfsBinary(t), "scrub", filepath.Join(t.TempDir(), "nothing")); r.code != 8 {
		t.Errorf("scrub of nothing: exit %d, %q", r.code, r.stderr)
	}
}

// TestScrubCanBeInterrupted: the server ends one whose client is gone, else it would
// not let go of the store.
func TestScrubCanBeInterrupted(t *testing.T) {
	store, dir := newMount(t)
	writeFile(t, filepath.Join(dir, "file"), strings.Repeat("some", 1<<16))
	cmd := exec.Command(dcfsBinary(t), "scrub", "--rate", "1", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "beside"), "it")
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("an interrupted scrub succeeded")
	}
	dcfs(t, "umount", dir)
	dcfs(t, "mount", store, dir)
	wantFile(t, filepath.Join(dir, "beside"), "it")
}
