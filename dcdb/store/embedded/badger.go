package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"dcfs/dcdb/store"
)

// badgerValueLogBytes is the size of value log files, which stay empty; the
// least that Badger takes.
const badgerValueLogBytes = 1 << 20

// badgerOptions are Badger's options for a store opened with o.
//
// Compression is off, for with it every block read needs an anonymous copy,
// and a flipped bit spoils a block instead of a byte. Verification of blocks
// is off because Badger takes a block that fails it for one without the key,
// and compaction then drops the rest of the table.
func badgerOptions(dir string, o Options, l *badgerLog) badger.Options {
	b := badger.DefaultOptions(dir)
	b.MemTableSize = o.MemTableBytes
	b.NumMemtables = 1
	b.ValueThreshold = o.badgerBatchBytes()
	if b.ValueThreshold > 1<<20 {
		b.ValueThreshold = 1 << 20
	}
	b.ValueLogFileSize = badgerValueLogBytes
	b.SyncWrites = false // Barrier does it
	b.NumVersionsToKeep = 1
	b.DetectConflicts = false // one committer
	b.MetricsEnabled = false
	b.Compression = options.None
	b.BlockCacheSize = 0
	b.IndexCacheSize = 0
	b.ChecksumVerificationMode = options.NoVerification
	b.NumCompactors = 2
	b.Logger = l
	return b
}

// openBadger opens the database, and turns what it panics or spells out over
// several lines into one line.
func openBadger(dir string, o Options, l *badgerLog) (db *badger.DB, err error) {
	defer recovered("open "+dir, &err)
	if err := removeEmptyLogs(dir); err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	db, err = badger.Open(badgerOptions(dir, o, l))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, openError(err))
	}
	if line := l.firstError.Load(); line != nil {
		// It opens without a table that it can't read.
		db.Close()
		return nil, fmt.Errorf("open %s: %w: %s", dir, store.ErrCorrupt, *line)
	}
	return db, nil
}

// openError makes one line of what Badger says of a database that it does not open.
// What is no error of a system call is about what stands in its files.
func openError(err error) error {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return errors.New(firstLine(err.Error()))
	}
	if errors.Is(err, badger.ErrEncryptionKeyMismatch) { // there is no key
		return fmt.Errorf("%s: %w", badger.KeyRegistryFileName, store.ErrCorrupt)
	}
	return fmt.Errorf("%w: %s", store.ErrCorrupt, firstLine(err.Error()))
}

// removeEmptyLogs removes logs without a byte. Badger makes a new log in two
// steps, and does not open when it finds one that was killed between them. There
// was nothing in it; should it have been emptied by something else, the witness
// tells.
func removeEmptyLogs(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it is about to be made
	}
	if err != nil {
		return err
	}
	removed := false
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), memSuffix) {
			continue
		}
		if info, err := e.Info(); err != nil || info.Size() > 0 {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
		removed = true
	}
	if removed {
		return syncDir(dir)
	}
	return nil
}

// recovered makes a panic of the running function ErrCorrupt: Badger trusts
// the bytes of its tables.
func recovered(op string, err *error) {
	switch p := recover().(type) {
	case nil:
	case runtime.Error:
		*err = fmt.Errorf("%s: %w: %s", op, store.ErrCorrupt, firstLine(p.Error()))
	default:
		*err = fmt.Errorf("%s: %w: %s", op, store.ErrCorrupt, firstLine(fmt.Sprint(p)))
	}
}

const lineBytes = 200

// firstLine is the first line of a text, cut to a bearable length: Badger adds
// hex dumps and stack traces.
func firstLine(text string) string {
	text, _, _ = strings.Cut(strings.TrimSpace(text), "\n")
	if len(text) > lineBytes {
		text = text[:lineBytes] + "..."
	}
	return text
}

// badgerLog is Badger's logger: only warnings and errors get out, a line each.
type badgerLog struct {
	log        func(string, ...any)
	firstError atomic.Pointer[string]
	step       atomic.Pointer[func()] // called before each step of Flatten, see flatten
}

// Errorf implements badger.Logger.
func (l *badgerLog) Errorf(format string, args ...any) {
	line := firstLine(fmt.Sprintf(format, args...))
	l.firstError.CompareAndSwap(nil, &line)
	l.log("records: %s", line)
}

// Warningf implements badger.Logger.
func (l *badgerLog) Warningf(format string, args ...any) {
	l.log("records: %s", firstLine(fmt.Sprintf(format, args...)))
}

// Infof implements badger.Logger.
func (l *badgerLog) Infof(format string, _ ...any) {
	if step := l.step.Load(); step != nil && isFlattenStep(format) {
		(*step)()
	}
}

// Debugf implements badger.Logger.
func (l *badgerLog) Debugf(string, ...any) {}
