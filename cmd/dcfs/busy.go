package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// usersNamed is how many of the processes that use a mount an error names.
const usersNamed = 3

// usersOf tells which processes use what lies at or below dir, as far as this
// user may see. It reads links of /proc only, which asks no file system.
func usersOf(dir string) string {
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return ""
	}
	var users []string
	for _, p := range procs {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil || pid == os.Getpid() {
			continue
		}
		if how := howUsed(p, dir); how != "" {
			name, _ := os.ReadFile(p + "/comm")
			users = append(users, fmt.Sprintf("%s (pid %d, %s)", strings.TrimSpace(string(name)), pid, how))
		}
	}
	if len(users) == 0 {
		return ""
	}
	more := ""
	if n := len(users) - usersNamed; n > 0 {
		users, more = users[:usersNamed], fmt.Sprintf(" and %d more", n)
	}
	return " by " + strings.Join(users, ", ") + more
}

// howUsed tells how the process with directory p in /proc uses dir, "" if it
// does not.
func howUsed(p, dir string) string {
	for _, l := range []struct{ link, how string }{
		{"cwd", "working directory"}, {"root", "root directory"}, {"exe", "program"},
	} {
		if at, err := os.Readlink(filepath.Join(p, l.link)); err == nil && within(at, dir) {
			return l.how
		}
	}
	fds, err := os.ReadDir(p + "/fd")
	if err != nil {
		return ""
	}
	for _, fd := range fds {
		if at, err := os.Readlink(filepath.Join(p, "fd", fd.Name())); err == nil && within(at, dir) {
			return "open file " + strings.TrimSuffix(at, " (deleted)")
		}
	}
	if maps, err := os.ReadFile(p + "/maps"); err == nil && strings.Contains(string(maps), " "+strings.TrimSuffix(dir, "/")+"/") {
		return "mapped file"
	}
	return ""
}
