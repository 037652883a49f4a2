package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInUse: another process has the store open.
var ErrInUse = errors.New("in use by another process")

// lockPoll is how often a waiting open looks again.
const lockPoll = 20 * time.Millisecond

// lock takes the store's lock, waiting up to wait for who has it. The lock
// ends with the file, at the latest with the process.
func lock(dir string, wait time.Duration) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			break
		}
		if wait <= 0 {
			defer f.Close()
			return nil, fmt.Errorf("%s is %w%s", dir, ErrInUse, owner(f))
		}
		time.Sleep(min(lockPoll, wait))
		wait -= lockPoll
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	// Only a hint for people, so no sync, and errors don't matter.
	f.Truncate(0)
	f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	return f, nil
}

// owner names the process that wrote its pid into the lock, if it did.
func owner(f *os.File) string {
	b := make([]byte, 20)
	n, _ := f.ReadAt(b, 0)
	if pid := strings.TrimSpace(string(b[:n])); pid != "" {
		return " (pid " + pid + ")"
	}
	return ""
}
