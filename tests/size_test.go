package tests

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A volume of a set size says so, is full when it is, and has room again when
// something was deleted.
func TestSizeIsTheLimitOfAVolume(t *testing.T) {
	_, dir := newMount(t, "-o", "size=256M")
	statfs := func() (total, free int64) {
		t.Helper()
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize
	}
	total, free := statfs()
	if total != 256<<20 || free < 64<<20 || free >= total {
		t.Fatalf("statfs says %d MiB, %d MiB free", total>>20, free>>20)
	}

	name := filepath.Join(dir, "file")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = byte(i * 31 >> 8)
	}
	written := int64(0)
	for err == nil && written < total {
		if _, err = f.Write(buf); err == nil {
			written += int64(len(buf))
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("after %d MiB: %v, want ENOSPC", written>>20, err)
	}
	if err := f.Sync(); err != nil {
		t.Errorf("fsync of what was taken: %v", err)
	}
	f.Close()
	if written < free-(32<<20) || written > free+(32<<20) {
		t.Errorf("%d MiB could be written, %d MiB were free", written>>20, free>>20)
	}
	if err := os.WriteFile(filepath.Join(dir, "another"), buf, 0o644); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("another file in a full volume: %v, want ENOSPC", err)
	}
	if st, err := os.Stat(name); err != nil || st.Size() != written {
		t.Errorf("the file has %v bytes, %v; want %d", st.Size(), err, written)
	}

	if err := os.Remove(name); err != nil {
		t.Fatalf("unlink in a full volume: %v", err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		err := os.WriteFile(filepath.Join(dir, "another"), buf, 0o644)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the space of a deleted file does not come back: %v", err)
		}
	}
}

func TestSizeMustBeSensible(t *testing.T) {
	r := runCommand(t, nil, dcfsBinary(t), "mount", "-o", "size=1M", newStore(t), t.TempDir())
	if r.code == 0 || !strings.Contains(r.stderr, "too small: at least") {
		t.Errorf("size=1M: exit %d, %q", r.code, r.stderr)
	}
}
