package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRetentionTakesAndThinsSnapshots(t *testing.T) {
	store, dir := newMount(t)
	writeFile(t, filepath.Join(dir, "a"), "1")
	dcfsFails(t, "the fork has no policy", "retention", "apply", dir)
	if out := dcfs(t, "retention", "show", dir); !strings.Contains(out, "none") {
		t.Errorf("show: %q", out)
	}
	var auto string
	names := func() (autos []string) {
		for _, s := range listViews(t, "snapshot", dir) {
			if strings.HasPrefix(s.Name, "auto-") {
				autos = append(autos, s.Name)
			}
		}
		return autos
	}
	before := time.Now().UTC().Truncate(time.Second)
	dcfs(t, "retention", "set", "2y", dir) // one due a year: now
	eventually(t, "the first snapshot", func() bool { return len(names()) > 0 })
	auto = names()[0]
	if at, err := time.Parse("auto-2006-01-02T15:04:05Z", auto); err != nil || at.Before(before) || at.After(time.Now()) {
		t.Errorf("%s: %v", auto, err)
	}
	wantFile(t, filepath.Join(dir, ".snapshots", auto, "a"), "1")
	var show struct {
		Policy     string
		Snapshots  int
		Last, Next time.Time
	}
	if err := json.Unmarshal([]byte(dcfs(t, "retention", "show", "--json", dir)), &show); err != nil || show.Policy != "2y" || show.Snapshots != 1 || show.Last.IsZero() || !show.Next.After(time.Now()) {
		t.Errorf("show: %+v, %v", show, err)
	}

	// Older ones of this year, with what only they hold.
	older := []string{"auto-2020-01-01T00:00:00Z", "auto-2020-01-02T00:00:00Z", "auto-2020-01-03T00:00:00Z"}
	for _, name := range older {
		writeFile(t, filepath.Join(dir, "a"), strings.Repeat(name, 10_000))
		must(t, os.Mkdir(filepath.Join(dir, ".snapshots", name), 0o755))
	}
	writeFile(t, filepath.Join(dir, "a"), "2")
	dcfs(t, "snapshot", "hold", dir, older[1])
	want := append([]string{auto}, older[0])
	out := dcfs(t, "retention", "apply", "-n", dir)
	if got, ok := strings.CutSuffix(out, " bytes)\n"); !ok || !strings.HasPrefix(got, "would delete "+want[0]+"\nwould delete "+want[1]+"\nwould free ") {
		t.Errorf("apply -n:\n%s", out)
	}
	if got := names(); len(got) != 4 {
		t.Fatalf("apply -n leaves %q", got)
	}
	dcfs(t, "umount", dir) // it is in the store
	var r struct {
		Snapshots []string
		Bytes     uint64
	}
	if err := json.Unmarshal([]byte(dcfs(t, "retention", "apply", "--json", store)), &r); err != nil || !slices.Equal(r.Snapshots, want) || r.Bytes < 250_000 {
		t.Errorf("apply: %+v, %v", r, err)
	}
	dcfs(t, "mount", store, dir)
	if got := names(); !slices.Equal(got, older[1:]) {
		t.Errorf("apply leaves %q", got)
	}
	if out := dcfs(t, "retention", "apply", dir); out != "frees 0 B (0 bytes)\n" {
		t.Errorf("apply once more: %q", out)
	}
	dcfs(t, "retention", "set", "none", dir)
	dcfsFails(t, "has no policy", "retention", "apply", "-n", dir)
	dcfsFails(t, "a snapshot does not change", "retention", "set", "1h", filepath.Join(dir, ".snapshots", older[1]))
	if got := names(); len(got) != 2 {
		t.Errorf("none leaves %q", got)
	}
	dcfs(t, "umount", dir)
	dcfs(t, "check", store)
}

// What the README says of holds, expiry and retention is typed as it stands.
func TestKeepingOfTheReadme(t *testing.T) {
	needTool(t, "bash")
	_, dir := newMount(t)
	must(t, os.Mkdir(filepath.Join(dir, ".snapshots/monday"), 0o755))
	code := strings.NewReplacer("/mnt/x", dir, "bin/dcfs", dcfsBinary(t)).Replace(codeAfter(t, "## Keeping and letting go"))
	if got := shell(t, "set -e\n"+code); !strings.Contains(got, "would free 0 B") || !strings.Contains(got, "24h7d4w") {
		t.Errorf("it prints\n%s", got)
	}
	if s := listViews(t, "snapshot", dir); !slices.Equal(s[0].Holds, []string{"backup"}) {
		t.Errorf("snapshots: %+v", s)
	}
	if f := listViews(t, "fork", dir); len(f) != 1 || f[0].Expires != nil {
		t.Errorf("forks: %+v", f)
	}
}
