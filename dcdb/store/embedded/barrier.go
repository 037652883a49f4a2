package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"
)

// wal makes every write to Badger, one at a time, and knows in which of its
// log files (*.mem) something may not be durable yet. Badger begins a new one
// when a memtable is full; it syncs none of them unasked.
type wal struct {
	db            *badger.DB // immutable
	dir           string     // immutable
	memTableBytes int64      // immutable
	rotated       func()     // immutable; called when a new log file was begun, with mu held

	syncMu sync.Mutex // one sync at a time

	mu     sync.Mutex
	active int    // guarded by mu; number of the log file being written
	filled int64  // guarded by mu; estimate of its memtable's size
	writes uint64 // guarded by mu; counts them
	oldest int    // guarded by mu; the first log file not durable, 0: all are
	named  int    // guarded by mu; the last log file whose name is durable
}

const (
	memSuffix = ".mem"
	// entryOverhead is what an entry takes in a memtable beside key and value:
	// a skip list node, 29 bytes on the average and steadily so over many,
	// 8 of the key's timestamp and 3 before the value. In the log it is less.
	entryOverhead = 40
	// rotationSlackBytes is how far the estimate may be off, beside a 64th.
	rotationSlackBytes = 64 << 10
)

// newWAL follows the log of a database that was just opened: Badger has begun
// a new, empty log file. What a killed process left in earlier ones may not be
// durable.
func newWAL(db *badger.DB, dir string, memTableBytes int64) (*wal, error) {
	w := &wal{db: db, dir: dir, memTableBytes: memTableBytes, oldest: math.MaxInt}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if base, ok := strings.CutSuffix(e.Name(), memSuffix); ok {
			n, err := strconv.Atoi(base)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", e.Name(), err)
			}
			w.active = max(w.active, n)
			w.oldest = min(w.oldest, n)
		}
	}
	if w.active == 0 {
		return nil, fmt.Errorf("%s holds no log file", dir)
	}
	w.allocate()
	return w, nil
}

func (w *wal) path(n int) string { return filepath.Join(w.dir, fmt.Sprintf("%05d%s", n, memSuffix)) }

// current returns the number of the log file being written.
func (w *wal) current() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.active
}

// allocate takes the space for the active log file now: Badger writes to it
// through mmap, where a full disk kills the process. Without fallocate the
// checks before every write must do.
func (w *wal) allocate() {
	f, err := os.OpenFile(w.path(w.active), os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, int64(logBytes(uint64(w.memTableBytes))))
}

// write commits txn, which holds entries with so many bytes of keys and
// values. With ordered, it can't become durable before anything that was
// written before it, whatever the kernel writes back first.
func (w *wal) write(txn *badger.Txn, bytes, entries int64, ordered bool) error {
	for {
		w.mu.Lock()
		if !ordered || w.inOrderLocked() {
			defer w.mu.Unlock()
			return w.commitLocked(txn, bytes+entries*entryOverhead)
		}
		w.mu.Unlock()
		if err := w.sync(); err != nil {
			return err
		}
	}
}

// inOrderLocked reports that what is not durable lies in the log file that the
// next write goes to as well.
func (w *wal) inOrderLocked() bool {
	return w.oldest == 0 || w.oldest == w.active && !w.mayRotateLocked()
}

// mayRotateLocked reports that the next write may begin a new log file.
func (w *wal) mayRotateLocked() bool {
	return w.filled+w.filled/64+rotationSlackBytes >= w.memTableBytes
}

func (w *wal) commitLocked(txn *badger.Txn, size int64) error {
	err := txn.Commit()
	// Even a failed write may have begun a file.
	if _, statErr := os.Lstat(w.path(w.active + 1)); statErr == nil {
		w.active++
		w.filled = 0
		w.allocate()
		w.rotated()
	}
	w.filled += size
	w.writes++
	if w.oldest == 0 {
		w.oldest = w.active
	}
	return err
}

// sync makes everything durable that was written before the call.
func (w *wal) sync() error {
	w.syncMu.Lock()
	defer w.syncMu.Unlock()
	w.mu.Lock()
	oldest, active, writes, named := w.oldest, w.active, w.writes, w.named
	w.mu.Unlock()
	if oldest == 0 {
		return nil
	}
	for n := oldest; n <= active; n++ {
		if err := syncLog(w.path(n)); err != nil {
			return err
		}
	}
	if named < active {
		if err := syncDir(w.dir); err != nil {
			return fmt.Errorf("sync records: %w", err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.named = active
	if w.writes == writes {
		w.oldest = 0
	} else {
		w.oldest = active
	}
	return nil
}

// syncLog syncs a log file. One that is gone was flushed to a table, which
// Badger syncs before it removes the log.
func syncLog(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sync records: %w", err)
	}
	defer f.Close()
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", filepath.Base(path), err)
	}
	return nil
}
