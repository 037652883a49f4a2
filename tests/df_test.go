package tests

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// df tells what is written, and what deleting gives back: of the store's disk,
// or of the size that was set.
func TestDfTellsWhatIsWrittenAndGivenBack(t *testing.T) {
	const size = 100 << 20
	const slack = 40 << 20 // records, the log allocated ahead; others write to the disk too
	_, dir := newMount(t, "-o", "size=600M")
	statfs := func() (st syscall.Statfs_t) {
		t.Helper()
		if err := syscall.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	free := func() int64 { st := statfs(); return int64(st.Bavail) * st.Bsize }
	first := statfs()
	if total := int64(first.Blocks) * first.Bsize; total != 600<<20 || first.Bfree < first.Bavail {
		t.Errorf("%d MiB in all, %d blocks free, %d for users; want 600 MiB", total>>20, first.Bfree, first.Bavail)
	}
	if first.Files == 0 || first.Ffree == 0 || first.Ffree > first.Files || first.Namelen != 255 {
		t.Errorf("%d inodes, %d free, names of %d bytes", first.Files, first.Ffree, first.Namelen)
	}
	before := free()
	if before < size {
		t.Fatalf("%d MiB free of an empty volume of 600 MiB", before>>20)
	}
	writeSynced(t, filepath.Join(dir, "file"), noise(1, size))
	written := free()
	if n := before - written; n < size || n > size+slack {
		t.Errorf("%d MiB less free after writing %d MiB", n>>20, size>>20)
	}
	dcfs(t, "snapshot", "create", dir, "s")
	if err := os.Remove(filepath.Join(dir, "file")); err != nil {
		t.Fatal(err)
	}
	dcfs(t, "gc", "--wait", dir)
	if n := free() - written; n > slack {
		t.Errorf("%d MiB came back though a snapshot keeps them", n>>20)
	}
	dcfs(t, "snapshot", "delete", dir, "s")
	dcfs(t, "gc", "--wait", dir)
	if n := before - free(); n > slack || n < -slack {
		t.Errorf("%d MiB less free than at first, after all was deleted", n>>20)
	}
	if st := statfs(); st.Blocks != first.Blocks || st.Files != first.Files {
		t.Errorf("%d blocks and %d inodes in all, had %d and %d", st.Blocks, st.Files, first.Blocks, first.Files)
	}
}

func writeSynced(t *testing.T, path string, data []byte) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// st_blocks, and so du, tells which 4 KiB blocks of a file have data.
func TestBlocksOfFiles(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		data := noise(2, 300<<10)
		name := func(n string) string { return w.path(n) }
		change := func(path string, fn func(f *os.File) error) {
			t.Helper()
			f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
			must(t, err)
			must(t, fn(f))
			must(t, f.Close())
		}
		at := func(off int64, b []byte) func(f *os.File) error {
			return func(f *os.File) error { _, err := f.WriteAt(b, off); return err }
		}
		for _, c := range []struct {
			what string
			path string
			kib  int64
			do   func(path string)
		}{
			{"empty", "empty", 0, func(p string) { change(p, func(f *os.File) error { return nil }) }},
			{"a few bytes", "inline", 4, func(p string) { change(p, at(0, data[:10])) }},
			{"4 KiB and a byte", "odd", 8, func(p string) { change(p, at(0, data[:4097])) }},
			{"whole blocks", "whole", 64, func(p string) { change(p, at(0, data[:64<<10])) }},
			{"several records", "large", 300, func(p string) { change(p, at(0, data)) }},
			{"nothing but a size", "sparse", 0, func(p string) { change(p, func(f *os.File) error { return f.Truncate(1 << 40) }) }},
			{"islands in a sparse file", "sparse", 12, func(p string) {
				change(p, at(1<<30, data[:4096]))
				change(p, at(5<<30+4095, data[:2])) // across two blocks
			}},
			{"overwritten in the middle", "large", 300, func(p string) { change(p, at(10_000, data[:100_000])) }},
			{"a hole punched", "large", 300 - 64, func(p string) {
				change(p, func(f *os.File) error {
					return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 64<<10, 64<<10)
				})
			}},
			{"truncated", "large", 52, func(p string) { must(t, os.Truncate(p, 50<<10)) }},
			{"truncated and grown", "large", 52, func(p string) { must(t, os.Truncate(p, 1<<20)) }},
			{"truncated to nothing", "whole", 0, func(p string) { must(t, os.Truncate(p, 0)) }},
			{"cloned", "clone", 52, func(p string) {
				in, err := os.Open(name("large"))
				must(t, err)
				defer in.Close()
				change(p, func(f *os.File) error {
					n, err := unix.CopyFileRange(int(in.Fd()), nil, int(f.Fd()), nil, 1<<20, 0)
					if err == nil && n != 1<<20 {
						err = io.ErrShortWrite
					}
					return err
				})
			}},
			{"a clone that changes", "clone", 56, func(p string) { change(p, at(200<<10, data[:100])) }},
			{"what it was cloned from", "large", 52, func(string) {}},
		} {
			c.do(name(c.path))
			for _, when := range []string{"at once", "when durable"} {
				if st := stat(t, name(c.path)); st.Blocks*512 != c.kib<<10 {
					t.Errorf("%s, %s: %d KiB in blocks, want %d", c.what, when, st.Blocks*512>>10, c.kib)
				}
				change(name(c.path), (*os.File).Sync)
			}
		}
		blocks := map[string]int64{}
		names := []string{"empty", "inline", "odd", "whole", "large", "sparse", "clone"}
		for _, n := range names {
			blocks[n] = stat(t, name(n)).Blocks
		}
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		must(t, os.Mkdir(w.path(".forks", "f"), 0o755))
		w.remount()
		for _, n := range names {
			for _, p := range []string{w.path(n), w.path(".snapshots", "s", n), w.path(".forks", "f", n)} {
				if st := stat(t, p); st.Blocks != blocks[n] {
					t.Errorf("%s: %d blocks after a remount, want %d", p, st.Blocks, blocks[n])
				}
			}
		}
		got, err := os.ReadFile(w.path("clone"))
		must(t, err)
		if !bytes.Equal(got[200<<10:200<<10+100], data[:100]) {
			t.Error("the clone lost its change")
		}
	})
}

// fallocate grows a file, and reserves nothing: no change could use it.
func TestFallocateTakesNoBlocks(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		f, err := os.Create(w.path("file"))
		must(t, err)
		defer f.Close()
		for _, mode := range []uint32{unix.FALLOC_FL_KEEP_SIZE, 0} {
			must(t, unix.Fallocate(int(f.Fd()), mode, 0, 1<<20))
			size := int64(1 << 20)
			if mode != 0 {
				size = 0
			}
			if st := stat(t, w.path("file")); st.Size != size || st.Blocks != 0 {
				t.Errorf("fallocate with mode %d: %d bytes, %d blocks; want %d and none", mode, st.Size, st.Blocks, size)
			}
		}
		_, err = f.WriteAt(make([]byte, 8192), 4096) // zeros are data
		must(t, err)
		if st := stat(t, w.path("file")); st.Blocks != 16 {
			t.Errorf("%d blocks of 8 KiB that were written, want 16", st.Blocks)
		}
		must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE, 4096, 4096))
		if st := stat(t, w.path("file")); st.Blocks != 8 {
			t.Errorf("%d blocks after half of it was zeroed, want 8", st.Blocks)
		}
	})
}
