package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// codeAfter returns the indented lines of README.md after a line that contains
// mark, up to the next text.
func codeAfter(t *testing.T, mark string) string {
	t.Helper()
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), mark)
	if !ok {
		t.Fatalf("README.md does not say %q", mark)
	}
	var code []string
	for _, line := range strings.Split(rest, "\n")[1:] {
		if c, ok := strings.CutPrefix(line, "    "); ok {
			code = append(code, c)
		} else if line != "" && len(code) > 0 {
			break
		} else {
			code = append(code, "")
		}
	}
	return strings.Join(code, "\n")
}

// The tour is typed as it stands, and shows what its comments say.
func TestTourOfTheReadme(t *testing.T) {
	needTool(t, "bash", "diff")
	_, dir := newMount(t)
	tour := codeAfter(t, "After `scripts/quickstart /mnt/x`:")
	tour = strings.ReplaceAll(tour, "/mnt/x", dir)
	// diff says by its status that there are differences.
	tour = regexp.MustCompile(`(?m)^diff .*$`).ReplaceAllString(tour, `$0 && { echo no differences; exit 1; }`)
	tour = regexp.MustCompile(`(?m)^(diff [^#]*?)\s+#.*?( && .*)$`).ReplaceAllString(tour, `$1$2`)
	got := shell(t, "set -e\n"+tour)
	for _, want := range []string{"one\nmonday\n", "< one\n---\n> two\n", "one\nhotfix\ntry\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the tour prints\n%s\nwant %q in it", got, want)
		}
	}
	for _, d := range []string{".forks", ".snapshots"} {
		left, err := os.ReadDir(filepath.Join(dir, d))
		if err != nil || len(left) > 0 {
			t.Errorf("the tour leaves %v in %s, %v", left, d, err)
		}
	}
}
