package tests

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// Lists tell what deleting would free, and a dry run what a set would.
func TestListsShowSizes(t *testing.T) {
	_, dir := newMount(t)
	const size = 1 << 20
	file := filepath.Join(dir, "file")
	list := func(verb string) []map[string]any {
		t.Helper()
		var out []map[string]any
		if err := json.Unmarshal([]byte(dcfs(t, verb, "list", "--json", dir)), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	near := func(what string, got any, want float64) {
		t.Helper()
		if n, ok := got.(float64); !ok || n < want || n > want+64<<10 {
			t.Errorf("%s: %v bytes, want about %v", what, got, want)
		}
	}
	writeFile(t, file, strings.Repeat("a", size))
	dcfs(t, "snapshot", "create", dir, "one")
	writeFile(t, file, strings.Repeat("b", size))
	dcfs(t, "snapshot", "create", dir, "two")
	writeFile(t, file, strings.Repeat("c", size))
	dcfs(t, "fork", "create", dir, "try")
	writeFile(t, filepath.Join(dir, ".forks/try/file"), strings.Repeat("d", 2*size))

	s := list("snapshot")
	near("shown by one", s[0]["refer"], size)
	near("shown by two", s[1]["refer"], size)
	near("used by one", s[0]["used"], size)
	near("written before two", s[1]["written"], size)
	near("written before one", s[0]["written"], size)
	near("used by two", s[1]["used"], size)
	near("own bytes of the fork", list("fork")[0]["own"], 2*size)
	near("shown by the fork", list("fork")[0]["refer"], 2*size)
	near("shared by the fork", list("fork")[0]["shared"], 0)
	if out := dcfs(t, "fork", "list", "--count", dir); !strings.Contains(out, "SHARED") {
		t.Errorf("forks with all sizes: %q", out)
	}
	if out := dcfs(t, "snapshot", "delete", "-n", dir, "one", "two"); !strings.HasPrefix(out, "would free 2.") && !strings.HasPrefix(out, "would free 2 ") {
		t.Errorf("a dry run says %q", out)
	}
	if n := len(list("snapshot")); n != 2 {
		t.Errorf("%d snapshots after a dry run, want 2", n)
	}
	if out := dcfs(t, "snapshot", "list", "--names", dir); strings.Contains(out, "USED") || !strings.Contains(out, "one") {
		t.Errorf("names alone: %q", out)
	}
	dcfsFails(t, "none", "snapshot", "delete", "-n", dir, "none")
}
