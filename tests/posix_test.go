package tests

import (
	"os"
	"path/filepath"
	"sort"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// known are the cases of the suite that can't pass, and why.
var known = map[string]string{
	"FcntlFlockLocksFile": "wants two POSIX locks of one process to exclude each other, which they do not " +
		"on any file system whose locks are the kernel's; go-fuse's own run leaves it out as well",
}

// TestPosix runs the whole of go-fuse's suite.
func TestPosix(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		names := make([]string, 0, len(posixtest.All))
		for name := range posixtest.All {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			t.Run(name, func(t *testing.T) {
				if why := known[name]; why != "" {
					t.Skip(why)
				}
				dir := filepath.Join(w.dir, name)
				must(t, os.Mkdir(dir, 0o755))
				posixtest.All[name](t, dir)
			})
		}
		w.remount()
		w.call("check", "")
	})
}
