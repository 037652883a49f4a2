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

// The store's disk is full, by our own writes and then by others': nothing that
// was acknowledged is lost, deleting works, and then there is room again.
func TestFullDiskIsRecoveredFromByDeleting(t *testing.T) {
	needRoot(t)
	needFUSE(t)
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=300m"); err != nil {
		t.Skipf("SKIPPED: mounting a small file system: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(disk, syscall.MNT_DETACH) })
	store, dir := filepath.Join(disk, "store"), t.TempDir()
	dcfs(t, "mount", store, dir)
	mounted := true
	t.Cleanup(func() {
		if mounted {
			runCommand(t, nil, dcfsBinary(t), "umount", "-l", dir)
		}
	})
	fill := func(name string) (mib int) {
		t.Helper()
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		buf := make([]byte, 1<<20)
		for i := range buf {
			buf[i] = byte(i * 7 >> 5)
		}
		for mib < 1000 {
			if _, err = f.Write(buf); err != nil {
				break
			}
			mib++
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%s: %v after %d MiB, want ENOSPC", name, err, mib)
		}
		return mib
	}
	fsyncDir := func() {
		t.Helper()
		d, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if err := d.Sync(); err != nil {
			t.Fatalf("fsync in a full volume: %v", err)
		}
	}
	writeFile(t, filepath.Join(dir, "kept"), strings.Repeat("kept ", 1000))
	for round := range 3 {
		if n := fill("fill"); n < 50 {
			t.Errorf("round %d: full after %d MiB", round, n)
		}
		fsyncDir() // what was taken can be kept
		var others string
		if round == 1 {
			others = filepath.Join(disk, "others")
			err := error(syscall.ENOSPC)
			for try := 0; try < 20 && errors.Is(err, syscall.ENOSPC); try++ {
				os.Remove(others) // the store has taken some of it meanwhile
				var st syscall.Statfs_t
				if err := syscall.Statfs(disk, &st); err != nil {
					t.Fatal(err)
				}
				err = os.WriteFile(others, make([]byte, max(0, int64(st.Bavail)*st.Bsize-2<<20)), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Remove(filepath.Join(dir, "fill")); err != nil {
			t.Fatalf("unlink in a full volume: %v", err)
		}
		fsyncDir()
		if others != "" {
			os.Remove(others)
		}
		var err error
		for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			if err = os.WriteFile(filepath.Join(dir, "again"), make([]byte, 20<<20), 0o644); err == nil {
				break
			}
		}
		if err != nil {
			t.Fatalf("round %d: no room again: %v", round, err)
		}
		wantFile(t, filepath.Join(dir, "kept"), strings.Repeat("kept ", 1000))
	}
	dcfs(t, "umount", dir)
	mounted = false
	dcfs(t, "check", store)
}
