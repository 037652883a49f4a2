package embedded

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// residentBytes is how much of the process's mapped files may be in memory before
// Badger's tables are paged out. Badger maps them, reads and compacts them through
// the maps, and never lets go: of a busy store hundreds of MiB count as the
// process's memory. They are in the files all the time.
const residentBytes = 64 << 20

// residentCheck is how often that is looked at: a compaction maps some hundred
// MiB a second.
const residentCheck = 200 * time.Millisecond

// trimResident pages the store's tables out if they take too much memory. The
// advice takes nothing away (madvise(2), MADV_PAGEOUT): should a map have changed
// meanwhile, what lies there now is not harmed.
func trimResident(records string) {
	if n, err := rssFile(); err != nil || n < residentBytes {
		return
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if from, to, ok := mappedTable(sc.Text(), records); ok {
			unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_PAGEOUT) // advice
		}
	}
}

// mappedTable reads a line of /proc/self/maps, and reports whether it is of a
// table in a directory.
func mappedTable(line, dir string) (from, to uintptr, ok bool) {
	path := line[strings.IndexByte(line, '/')+1:]
	if len(path) == len(line) || filepath.Dir("/"+path) != dir || !strings.HasSuffix(path, ".sst") {
		return 0, 0, false
	}
	if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil || from >= to {
		return 0, 0, false
	}
	return from, to, true
}

// rssFile returns the bytes of mapped files that count as the process's memory.
func rssFile() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, "RssFile:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no RssFile in /proc/self/status")
}
