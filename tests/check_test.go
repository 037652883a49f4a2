package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"dcfs/dcdb"
	dcdbstore "dcfs/dcdb/store"
	"dcfs/dcdb/store/embedded"
	"dcfs/snap"
)

// harmStore does to a store that nobody serves what only a mistake can do: an
// object that nobody refers to, a wrong link count, a file without its entry.
func harmStore(t *testing.T, dir string, counted, unnamed uint64, name string) {
	t.Helper()
	ctx := context.Background()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	st, err := embedded.Open(dir, embedded.Options{Log: t.Logf})
	must(err)
	vol, err := snap.Open(ctx, st, snap.Options{Log: t.Logf})
	must(err)
	m := vol.Main()
	must(vol.Space().Update(ctx, func(tx *dcdb.Tx) error {
		root, err := tx.DB(m.Key(snap.RootIno))
		if err != nil {
			return err
		}
		if _, _, err := root.Get(dcdb.KindDirent, name); err != nil {
			return err
		}
		file, err := tx.DB(m.Key(counted))
		if err != nil {
			return err
		}
		file.Edit().Nlink = 5
		root.Edit().Size--
		root.Remove(dcdb.KindDirent, name)
		return nil
	}))
	must(vol.Close(ctx))
	must(st.Close())
	st, err = embedded.Open(dir, embedded.Options{Log: t.Logf})
	must(err)
	group := st.FirstGroup()
	_, err = st.Put(ctx, group, dcdbstore.KindContent, [][]byte{make([]byte, 1<<20)})
	must(err)
	must(st.Commit(ctx, &dcdbstore.Batch{Group: group, Fence: st.Fence(), Deletes: [][]byte{[]byte("nothing")}}))
	must(st.Close())
}

// TestCheckRepairs wants the exit codes of fsck(8), and what was lost found.
func TestCheckRepairs(t *testing.T) {
	store, dir := newMount(t)
	writeFile(t, filepath.Join(dir, "counted"), "counted")
	writeFile(t, filepath.Join(dir, "unnamed"), strings.Repeat("unnamed", 20000))
	counted, unnamed := inoOf(t, filepath.Join(dir, "counted")), inoOf(t, filepath.Join(dir, "unnamed"))
	dcfsFails(t, "is mounted", "check", "--repair", store)
	dcfs(t, "umount", dir)
	if out := dcfs(t, "check", "--repair", store); !strings.Contains(out, "is consistent") {
		t.Errorf("repair of a sound store says %q", out)
	}
	harmStore(t, store, counted, unnamed, "unnamed")

	r := runCommand(t, nil, dcfsBinary(t), "check", store)
	if r.code != 4 || strings.Count(r.stdout, "\n") < 3 || !strings.Contains(r.stderr, "--repair") {
		t.Errorf("check: exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	r = runCommand(t, nil, dcfsBinary(t), "check", "--json", store)
	var report struct {
		Found    int
		Problems []string
	}
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || r.code != 4 || report.Found < 3 || len(report.Problems) != report.Found {
		t.Errorf("check --json: exit %d, %v\n%s", r.code, err, r.stdout)
	}
	r = runCommand(t, nil, dcfsBinary(t), "check", "--repair", store)
	for _, want := range []string{"freed", "links set to those of 1 entries", fmt.Sprintf("named /lost+found/#%d", unnamed)} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("the repair does not say %q", want)
		}
	}
	if r.code != 1 || !strings.Contains(r.stderr, "was repaired") {
		t.Errorf("repair: exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	dcfs(t, "check", "--data", store)
	if left, err := filepath.Glob(filepath.Join(store, "*.tmp")); err != nil || len(left) > 0 {
		t.Errorf("files are left: %q, %v", left, err)
	}
	dcfs(t, "mount", store, dir)
	wantFile(t, filepath.Join(dir, "counted"), "counted")
	wantFile(t, filepath.Join(dir, "lost+found", fmt.Sprintf("#%d", unnamed)), strings.Repeat("unnamed", 20000))
	if fi, err := os.Stat(filepath.Join(dir, "lost+found")); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("lost+found: %v, %v, want mode 0700", fi, err)
	}
	dcfs(t, "umount", dir)
	dcfs(t, "check", store)
}

// TestCheckThatCantBeMade has a code of its own.
func TestCheckThatCantBeMade(t *testing.T) {
	r := runCommand(t, nil, dcfsBinary(t), "check", filepath.Join(t.TempDir(), "none"))
	if r.code != 8 || !strings.Contains(r.stderr, "no volume at") {
		t.Errorf("check of nothing: exit %d, %q", r.code, r.stderr)
	}
}

func inoOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}
