// Command bench measures dcfs as its users meet it: the command, real mounts,
// the embedded store.
//
//	scripts/bench                      everything
//	scripts/bench --only growth        what the expression matches
//	scripts/bench --rounds 20 --json   more rounds, and JSON for programs
//
// Each workload is a function that returns rows of figures; a figure that was
// measured several times is its median, with the least and the most.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// config is what the command line asks for.
type config struct {
	rounds int
	files  []int
	pieces int // contents of a snapshot that is reclaimed
	many   int
	dir    string // for stores and mount points
	dcfs   string // the command
}

// A workload measures one thing.
type workload struct {
	name string
	what string
	run  func(*config) (*table, error)
}

var workloads = []workload{
	{"growth", "what a snapshot, a fork and the first change after a snapshot cost, by the size of the volume", growth},
	{"quiet", "create+write 4 KiB+close while snapshots of as many contents as 10 GiB are reclaimed", quiet},
	{"many", "what the next snapshot, fork and lookup cost on a volume with many snapshots and forks", many},
	{"peers", "dcfs with its own transport and with go-fuse's, go-fuse's loopback, and the disk, in turns", peers},
}

func main() {
	only := flag.String("only", "", "run the workloads whose name this regular expression matches")
	rounds := flag.Int("rounds", 15, "how often each figure is measured")
	asJSON := flag.Bool("json", false, "print JSON")
	files := flag.String("files", "1000,100000", "sizes of volumes, in files")
	pieces := flag.Int("contents", 80_000, "contents of the snapshots that quiet reclaims")
	manyViews := flag.Int("many", 1000, "how many snapshots and forks the workload of that name makes")
	dir := flag.String("dir", "", "where stores and mounts are made (default a directory in $TMPDIR)")
	flag.Parse()
	c := &config{rounds: *rounds, dir: *dir, pieces: *pieces}
	for _, f := range strings.Split(*files, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 {
			fail(fmt.Errorf("--files: %q is no number of files", f))
		}
		c.files = append(c.files, n)
	}
	if c.many = *manyViews; c.many < 2 {
		fail(fmt.Errorf("--many: %d is not many", c.many))
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		fail(err)
	}
	fail(c.run(match, *asJSON))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// run runs the workloads in a directory of their own.
func (c *config) run(match *regexp.Regexp, asJSON bool) error {
	dir, err := os.MkdirTemp(c.dir, "dcfs-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c.dir, c.dcfs = dir, filepath.Join(dir, "dcfs")
	if out, err := exec.Command("go", "build", "-o", c.dcfs, "dcfs/cmd/dcfs").CombinedOutput(); err != nil {
		return fmt.Errorf("building dcfs: %v\n%s", err, out)
	}
	var tables []*table
	for _, w := range workloads {
		if !match.MatchString(w.name) {
			continue
		}
		t, err := w.run(c)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		t.Name, t.What = w.name, w.what
		tables = append(tables, t)
		if !asJSON {
			t.print()
		}
	}
	if !asJSON {
		return nil
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(map[string]any{
		"time": time.Now().UTC(), "go": runtime.Version(), "cpus": runtime.NumCPU(), "kernel": kernel(), "tables": tables,
	})
}

func kernel() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b))
}
