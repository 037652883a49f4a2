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

// Each promise names tests, and those that it names are there.
func TestPromisesNameTheirTests(t *testing.T) {
	b, err := os.ReadFile("../README.md")
	must(t, err)
	_, section, _ := strings.Cut(string(b), "\n## What dcfs promises\n")
	section, _, _ = strings.Cut(section, "\n## ")
	dirs := map[string]string{
		"dcdb": "../dcdb", "dcdb/store": "../dcdb/store", "embedded": "../dcdb/store/embedded", "sealed": "../dcdb/store/sealed", "snap": "../snap",
		"inode": "../inode", "fs": "../fs", "cmd/dcfs": "../cmd/dcfs", "tests": ".",
	}
	promises := 0
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(line, "| \n"), " | ")
		if len(cells) != 2 || cells[0] == "promise" || cells[0] == "---" {
			continue
		}
		promises++
		named := 0
		var packages []string // "`a` and `b` TestX": both have it
		last := ""
		for _, word := range regexp.MustCompile("`[^`]+`|(?:Test|Fuzz)\\w+\\*?").FindAllString(cells[1], -1) {
			if name, quoted := strings.CutPrefix(word, "`"); quoted {
				if dir, ok := dirs[strings.TrimSuffix(name, "`")]; ok {
					if last == "test" {
						packages = nil
					}
					packages, last = append(packages, dir), "package"
				}
				continue
			}
			last = "test"
			for _, dir := range packages {
				if !hasTest(t, dir, word) {
					t.Errorf("%s: there is no %s in %s", cells[0], word, dir)
				}
				named++
			}
		}
		if named == 0 {
			t.Errorf("%s: no test holds it", cells[0])
		}
	}
	if promises < 20 {
		t.Errorf("%d promises found", promises)
	}
}

// hasTest reports whether a directory has a test of a name, or with * at its end,
// one that begins so.
func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	must(t, err)
	def := regexp.MustCompile(`(?m)^func ` + strings.Replace(name, "*", `\w*`, 1) + `\(`)
	for _, f := range files {
		b, err := os.ReadFile(f)
		must(t, err)
		if def.Match(b) {
			return true
		}
	}
	return false
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
