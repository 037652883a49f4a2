package tests

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// dirent is an entry as getdents64(2) gives it.
type dirent struct {
	name string
	ino  uint64
	off  int64
}

// getdents lists an open directory from where it stands, with a buffer of
// so many bytes.
func getdents(t *testing.T, fd, bytes int) []dirent {
	t.Helper()
	var all []dirent
	for {
		some := getdentsOnce(t, fd, bytes)
		if len(some) == 0 {
			return all
		}
		all = append(all, some...)
	}
}

func getdentsOnce(t *testing.T, fd, bytes int) []dirent {
	t.Helper()
	buf := make([]byte, bytes)
	n, err := unix.Getdents(fd, buf)
	must(t, err)
	var some []dirent
	for b := buf[:n]; len(b) > 0; {
		reclen := binary.NativeEndian.Uint16(b[16:])
		name, _, _ := strings.Cut(string(b[19:reclen]), "\x00")
		some = append(some, dirent{name, binary.NativeEndian.Uint64(b), int64(binary.NativeEndian.Uint64(b[8:]))})
		b = b[reclen:]
	}
	return some
}

func TestUnlinkedFileLivesUntilItsLastUse(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		write(t, w.path("f"), "text")
		f, err := os.OpenFile(w.path("f"), os.O_RDWR, 0)
		must(t, err)
		must(t, os.Remove(w.path("f")))
		var st syscall.Stat_t
		must(t, syscall.Fstat(int(f.Fd()), &st))
		if st.Nlink != 0 || st.Size != 4 {
			t.Errorf("unlinked: %d links, %d bytes", st.Nlink, st.Size)
		}
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		_, err = f.WriteAt([]byte("more"), 4)
		must(t, err)
		buf := make([]byte, 8)
		if _, err := f.ReadAt(buf, 0); err != nil || string(buf) != "textmore" {
			t.Errorf("unlinked: read %q, %v", buf, err)
		}
		must(t, unix.Fchmod(int(f.Fd()), 0o600))
		must(t, unix.Ftruncate(int(f.Fd()), 2))
		must(t, f.Sync())
		must(t, f.Close())

		must(t, os.Mkdir(w.path("d"), 0o755))
		d, err := os.Open(w.path("d"))
		must(t, err)
		must(t, os.Remove(w.path("d")))
		must(t, syscall.Fstat(int(d.Fd()), &st))
		_, err = unix.Openat(int(d.Fd()), "x", unix.O_CREAT|unix.O_WRONLY, 0o644)
		fails(t, "create in a removed directory", err, syscall.ENOENT)
		d.Close()
		w.remount()
		w.call("check", "")
	})
}

func TestReplacedFileLivesUntilItsLastUse(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		write(t, w.path("old"), "old")
		write(t, w.path("new"), "new")
		f, err := os.Open(w.path("old"))
		must(t, err)
		defer f.Close()
		must(t, os.Rename(w.path("new"), w.path("old")))
		if b, err := io.ReadAll(f); err != nil || string(b) != "old" {
			t.Errorf("replaced: %q, %v", b, err)
		}
		wants(t, w.path("old"), "new")
	})
}

func TestTmpfile(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		fd, err := unix.Open(w.dir, unix.O_TMPFILE|unix.O_RDWR, 0o640)
		must(t, err)
		_, err = unix.Write(fd, []byte("tmp"))
		must(t, err)
		must(t, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, w.path("named"), unix.AT_SYMLINK_FOLLOW))
		must(t, unix.Close(fd))
		wants(t, w.path("named"), "tmp")
		if st := stat(t, w.path("named")); st.Nlink != 1 || st.Mode&0o777 != 0o640 {
			t.Errorf("named: %d links, mode %o", st.Nlink, st.Mode&0o777)
		}
		fd, err = unix.Open(w.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL, 0o640)
		must(t, err)
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, w.path("x"), unix.AT_SYMLINK_FOLLOW)
		fails(t, "linkat of O_TMPFILE|O_EXCL", err, syscall.ENOENT)
		must(t, unix.Close(fd))
		wantsList(t, w.dir, "named")
		w.remount()
		wants(t, w.path("named"), "tmp")
		w.call("check", "")
	})
}

func TestAttributesAreTheSameThroughEveryName(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		write(t, w.path("a"), "x")
		before := stat(t, w.path("a"))
		must(t, os.Link(w.path("a"), w.path("b")))
		a, b := stat(t, w.path("a")), stat(t, w.path("b"))
		if a != b || a.Nlink != 2 {
			t.Errorf("just after link: %+v and %+v", a, b)
		}
		if a.Ctim == before.Ctim {
			t.Error("link changed no ctime")
		}
		must(t, os.Chmod(w.path("b"), 0o600))
		write(t, w.path("b"), "longer")
		if a, b := stat(t, w.path("a")), stat(t, w.path("b")); a != b || a.Size != 6 || a.Mode&0o777 != 0o600 {
			t.Errorf("after chmod and write: %+v and %+v", a, b)
		}
		must(t, os.Remove(w.path("b")))
		if a := stat(t, w.path("a")); a.Nlink != 1 {
			t.Errorf("after unlink: %d links", a.Nlink)
		}
	})
}

func TestDirectoryAttributesFollowItsEntries(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		must(t, os.Mkdir(w.path("d"), 0o755))
		must(t, os.Mkdir(w.path("e"), 0o755))
		last := stat(t, w.path("d"))
		step := func(what string, nlink uint64, err error) {
			t.Helper()
			must(t, err)
			time.Sleep(time.Millisecond)
			st := stat(t, w.path("d"))
			if st.Nlink != nlink || st.Mtim == last.Mtim || st.Ctim == last.Ctim {
				t.Errorf("%s: %d links, want %d; mtime %v after %v", what, st.Nlink, nlink, st.Mtim, last.Mtim)
			}
			last = st
		}
		step("create", 2, os.WriteFile(w.path("d", "f"), nil, 0o644))
		step("mkdir", 3, os.Mkdir(w.path("d", "s"), 0o755))
		step("symlink", 3, os.Symlink("x", w.path("d", "l")))
		step("link", 3, os.Link(w.path("d", "f"), w.path("d", "h")))
		step("mknod", 3, unix.Mknod(w.path("d", "p"), unix.S_IFIFO|0o644, 0))
		step("rename", 3, os.Rename(w.path("d", "f"), w.path("d", "g")))
		step("move out", 2, os.Rename(w.path("d", "s"), w.path("e", "s")))
		step("move in", 3, os.Rename(w.path("e", "s"), w.path("d", "s")))
		step("unlink", 3, os.Remove(w.path("d", "g")))
		step("rmdir", 2, os.Remove(w.path("d", "s")))
	})
}

func TestReaddirWhileTheDirectoryChanges(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		const n = 500
		dir := w.path("d")
		must(t, os.Mkdir(dir, 0o755))
		for i := range n {
			write(t, filepath.Join(dir, fmt.Sprintf("stay%04d", i)), "")
			write(t, filepath.Join(dir, fmt.Sprintf("go%04d", i)), "")
		}
		for _, bytes := range []int{300, 1 << 12, 1 << 15} {
			fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
			must(t, err)
			seen := make(map[string]int)
			for round := 0; ; round++ {
				some := getdentsOnce(t, fd, bytes)
				if len(some) == 0 {
					break
				}
				for _, e := range some {
					seen[e.name]++
				}
				// Take away, add and rename, and let others list.
				must(t, os.Remove(filepath.Join(dir, fmt.Sprintf("go%04d", round%n))))
				write(t, filepath.Join(dir, fmt.Sprintf("new%04d", round)), "")
				if round%7 == 0 {
					list(t, dir)
				}
				write(t, filepath.Join(dir, fmt.Sprintf("go%04d", round%n)), "")
			}
			unix.Close(fd)
			for i := range n {
				if name := fmt.Sprintf("stay%04d", i); seen[name] != 1 {
					t.Errorf("buffer of %d: %s seen %d times", bytes, name, seen[name])
				}
			}
			for name, times := range seen {
				if times != 1 {
					t.Errorf("buffer of %d: %s seen %d times", bytes, name, times)
				}
			}
		}
	})
}

// TestReaddirplusKeepsNoGhosts: a listing of the past of a directory must not
// bring names that are gone back into the kernel.
func TestReaddirplusKeepsNoGhosts(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		dir := w.path("d")
		must(t, os.Mkdir(dir, 0o755))
		const n = 400
		name := func(i int) string { return filepath.Join(dir, fmt.Sprintf("entry%04d", i)) }
		for i := range n {
			write(t, name(i), "")
		}
		f, err := os.Open(dir)
		must(t, err)
		defer f.Close()
		_, err = f.ReadDir(10)
		must(t, err)
		for i := n / 2; i < n; i++ {
			switch i % 3 {
			case 0:
				must(t, os.Remove(name(i)))
			case 1:
				must(t, os.Rename(name(i), name(i)+"x"))
			case 2:
				must(t, os.Remove(name(i)))
				must(t, os.Mkdir(name(i), 0o755))
			}
		}
		// Go's ReadDir looks each entry up, which makes the kernel use
		// READDIRPLUS.
		for {
			entries, err := f.ReadDir(50)
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			for _, e := range entries {
				e.Info()
			}
		}
		for i := n / 2; i < n; i++ {
			st, err := os.Lstat(name(i))
			switch i % 3 {
			case 0, 1:
				if !errors.Is(err, os.ErrNotExist) {
					t.Fatalf("%s is back: %v", name(i), err)
				}
			case 2:
				if err != nil || !st.IsDir() {
					t.Fatalf("%s: %v, %v, want a directory", name(i), st, err)
				}
			}
		}
	})
}

func TestDirectoryCookiesLast(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		for i := range 100 {
			write(t, w.path(fmt.Sprintf("f%03d", i)), "")
		}
		open := func() int {
			fd, err := unix.Open(w.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
			must(t, err)
			return fd
		}
		fd := open()
		all := getdents(t, fd, 1<<12)
		at := all[50]
		rest := func(fd int) []string {
			_, err := unix.Seek(fd, at.off, io.SeekStart)
			must(t, err)
			var names []string
			for _, e := range getdents(t, fd, 1<<12) {
				names = append(names, e.name)
			}
			return names
		}
		want := rest(fd)
		if len(want) != len(all)-51 || want[0] != all[51].name {
			t.Fatalf("after the cookie of %s: %q", at.name, want)
		}
		// Another handle, other changes, another mount.
		must(t, os.Remove(w.path("f001")))
		fd2 := open()
		if got := rest(fd2); !slices.Equal(got, want) {
			t.Errorf("in another handle: %q", got)
		}
		unix.Close(fd)
		unix.Close(fd2)
		w.remount()
		fd = open()
		if got := rest(fd); !slices.Equal(got, want) {
			t.Errorf("after a remount: %q", got)
		}
		unix.Close(fd)
	})
}

func TestFileHandles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED: needs root")
	}
	onEach(t, func(t *testing.T, w *world) {
		plant(t, w)
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		must(t, os.Mkdir(w.path(".forks", "f"), 0o755))
		write(t, w.path(".forks", "f", "a", "f"), "fork")
		write(t, w.path("a", "f"), "now")
		handles := make(map[string]unix.FileHandle)
		for _, p := range []string{"a/f", "a/b/g", "a/b/c", ".snapshots/s/a/f", "a/.snapshots/s/f", ".forks/f/a/f", "."} {
			h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, w.path(p), 0)
			must(t, err)
			handles[p] = h
		}
		open := func(p string) (string, error) {
			root, err := unix.Open(w.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
			must(t, err)
			defer unix.Close(root)
			fd, err := unix.OpenByHandleAt(root, handles[p], unix.O_RDONLY)
			if err != nil {
				return "", err
			}
			f := os.NewFile(uintptr(fd), p)
			defer f.Close()
			if st, _ := f.Stat(); st.IsDir() {
				target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
				return strings.TrimPrefix(target, w.dir), err
			}
			b, err := io.ReadAll(f)
			return string(b), err
		}
		contents := map[string]string{
			"a/f": "now", "a/b/g": "two", "a/b/c": "/a/b/c", ".snapshots/s/a/f": "one", ".forks/f/a/f": "fork", ".": "",
		}
		for p, want := range contents {
			if got, err := open(p); err != nil || got != want {
				t.Errorf("%s by handle: %q, %v; want %q", p, got, err, want)
			}
		}
		if got, err := open("a/.snapshots/s/f"); err != nil || got != "one" {
			t.Errorf("passing door by handle: %q, %v", got, err)
		}
		w.remount()
		for p, want := range contents {
			if got, err := open(p); err != nil || got != want {
				t.Errorf("after a remount: %s by handle: %q, %v; want %q", p, got, err, want)
			}
		}
		_, err := open("a/.snapshots/s/f")
		fails(t, "passing door by handle after a remount", err, syscall.ESTALE)
		// What is gone.
		must(t, os.Remove(w.path("a", "b", "g")))
		must(t, syscall.Rmdir(w.path(".snapshots", "s")))
		must(t, syscall.Rmdir(w.path(".forks", "f")))
		must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0))
		for _, p := range []string{"a/b/g", ".snapshots/s/a/f", ".forks/f/a/f"} {
			_, err := open(p)
			fails(t, p+" by handle, deleted", err, syscall.ESTALE)
		}
		// A new snapshot may have the number of the old one.
		must(t, os.Mkdir(w.path(".snapshots", "t"), 0o755))
		must(t, os.Mkdir(w.path(".forks", "t"), 0o755))
		for _, p := range []string{".snapshots/s/a/f", ".forks/f/a/f"} {
			_, err := open(p)
			fails(t, p+" by handle, deleted and others made", err, syscall.ESTALE)
		}
	})
}

// TestFileHandlesFollowRenames: a handle is of the inode, whatever its path is
// and whether the kernel knows it; it ends with the inode, not with a name.
func TestFileHandlesFollowRenames(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED: needs root")
	}
	onEach(t, func(t *testing.T, w *world) {
		must(t, os.MkdirAll(w.path("a", "b", "c"), 0o755))
		must(t, os.Mkdir(w.path("x"), 0o755))
		write(t, w.path("a", "b", "f"), "text")
		write(t, w.path("a", "b", "open"), "open")
		handle := func(names ...string) unix.FileHandle {
			h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, w.path(names...), 0)
			must(t, err)
			return h
		}
		dir, sub, file, used := handle("a", "b"), handle("a", "b", "c"), handle("a", "b", "f"), handle("a", "b", "open")
		open := func(h unix.FileHandle) (*os.File, error) {
			root, err := unix.Open(w.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
			must(t, err)
			defer unix.Close(root)
			fd, err := unix.OpenByHandleAt(root, h, unix.O_RDONLY)
			return os.NewFile(uintptr(fd), "by handle"), err
		}
		where := func(h unix.FileHandle) string {
			f, err := open(h)
			must(t, err)
			defer f.Close()
			path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
			must(t, err)
			up, err := filepath.EvalSymlinks(fmt.Sprintf("/proc/self/fd/%d/..", f.Fd()))
			must(t, err)
			if want := filepath.Dir(path); up != want {
				t.Errorf("%s/.. is %s", path, up)
			}
			return strings.TrimPrefix(path, w.dir)
		}
		text := func(h unix.FileHandle) string {
			f, err := open(h)
			if err != nil {
				return err.Error()
			}
			defer f.Close()
			b, err := io.ReadAll(f)
			must(t, err)
			return string(b)
		}
		must(t, os.Rename(w.path("a", "b"), w.path("x", "y")))
		must(t, os.Rename(w.path("x", "y", "f"), w.path("g")))
		for _, forget := range []func(){
			func() {},
			func() { must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0)) },
			w.remount,
		} {
			forget()
			if got := where(sub); got != "/x/y/c" {
				t.Errorf("a directory in one that was renamed: %q", got)
			}
			if got := where(dir); got != "/x/y" {
				t.Errorf("a renamed directory: %q", got)
			}
			if got := text(file); got != "text" {
				t.Errorf("a renamed file: %q", got)
			}
		}
		must(t, os.Link(w.path("g"), w.path("h")))
		must(t, os.Remove(w.path("g")))
		if got := text(file); got != "text" {
			t.Errorf("a file with another name: %q", got)
		}
		f, err := os.Open(w.path("x", "y", "open"))
		must(t, err)
		must(t, os.Remove(w.path("x", "y", "open")))
		if got := text(used); got != "open" {
			t.Errorf("a file without a name, in use: %q", got)
		}
		must(t, f.Close())
		must(t, os.Remove(w.path("h")))
		must(t, os.Remove(w.path("x", "y", "c")))
		for what, h := range map[string]unix.FileHandle{"file": file, "file that was in use": used, "directory": sub} {
			// The kernel keeps an inode until its RELEASE is answered, and close(2) does not wait for that.
			eventually(t, "a deleted "+what+" is stale", func() bool {
				must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0))
				f, err := open(h)
				if err == nil {
					must(t, f.Close())
					return false
				}
				fails(t, "a deleted "+what, err, syscall.ESTALE)
				return true
			})
		}
		w.remount()
		for what, h := range map[string]unix.FileHandle{"file": file, "file that was in use": used, "directory": sub} {
			_, err := open(h)
			fails(t, "after a remount, a deleted "+what, err, syscall.ESTALE)
		}
		w.call("check", "")
	})
}

func TestMmapIsInTheSnapshot(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		const size = 64 << 10
		f, err := os.Create(w.path("f"))
		must(t, err)
		defer f.Close()
		must(t, f.Truncate(size))
		m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		must(t, err)
		defer unix.Munmap(m)
		for i := range 5 {
			for at := 0; at < size; at += 4096 {
				m[at] = byte('a' + i)
			}
			name := fmt.Sprint("s", i)
			must(t, os.Mkdir(w.path(".snapshots", name), 0o755))
			must(t, os.Mkdir(w.path(".forks", name), 0o755))
			for at := 0; at < size; at += 4096 {
				m[at] = 'z'
			}
			for _, p := range []string{w.path(".snapshots", name, "f"), w.path(".forks", name, "f")} {
				b, err := os.ReadFile(p)
				must(t, err)
				for at := 0; at < size; at += 4096 {
					if b[at] != byte('a'+i) {
						t.Fatalf("%s at %d: %q, want %q", p, at, b[at], rune('a'+i))
					}
				}
			}
		}
		// What nobody has open any more is in it, too.
		g, err := os.Create(w.path("g"))
		must(t, err)
		must(t, g.Truncate(4096))
		mg, err := unix.Mmap(int(g.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		must(t, err)
		must(t, g.Close())
		mg[7] = 'g'
		must(t, unix.Munmap(mg))
		must(t, os.Mkdir(w.path(".snapshots", "g"), 0o755))
		if b := read(t, w.path(".snapshots", "g", "g")); b[7] != 'g' {
			t.Errorf("written by mmap, closed: %q, want g", b[7])
		}
		// Private changes stay private.
		p, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		must(t, err)
		defer unix.Munmap(p)
		p[0] = 'p'
		must(t, unix.Msync(m, unix.MS_SYNC))
		if b := read(t, w.path("f")); b[0] != 'z' {
			t.Errorf("after msync: %q, want z", b[0])
		}
	})
}

func TestSparseFiles(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		f, err := os.Create(w.path("f"))
		must(t, err)
		defer f.Close()
		fd := int(f.Fd())
		must(t, f.Truncate(1<<20))
		_, err = f.WriteAt(make([]byte, 4096), 256<<10)
		must(t, err)
		for _, c := range []struct {
			off    int64
			whence int
			want   int64
			err    error
		}{
			{0, unix.SEEK_DATA, 256 << 10, nil},
			{0, unix.SEEK_HOLE, 0, nil},
			{256 << 10, unix.SEEK_HOLE, 260 << 10, nil},
			{257 << 10, unix.SEEK_DATA, 257 << 10, nil},
			{300 << 10, unix.SEEK_DATA, 0, syscall.ENXIO},
			{1 << 20, unix.SEEK_HOLE, 0, syscall.ENXIO},
		} {
			got, err := unix.Seek(fd, c.off, c.whence)
			if !errors.Is(err, c.err) || err == nil && got != c.want {
				t.Errorf("seek %d, %d: got %d, %v; want %d, %v", c.off, c.whence, got, err, c.want, c.err)
			}
		}
		alloc := stat(t, w.path("f")).Blocks
		must(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 256<<10, 4096))
		if st := stat(t, w.path("f")); st.Blocks >= alloc || st.Size != 1<<20 {
			t.Errorf("after a hole: %d blocks of %d, size %d", st.Blocks, alloc, st.Size)
		}
		_, err = f.WriteAt([]byte("abcdefgh"), 0)
		must(t, err)
		must(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 2, 3))
		must(t, unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 1<<20, 1<<20))
		if st := stat(t, w.path("f")); st.Size != 1<<20 {
			t.Errorf("after keep size: %d", st.Size)
		}
		must(t, unix.Fallocate(fd, 0, 1<<20, 1<<20))
		if st := stat(t, w.path("f")); st.Size != 2<<20 {
			t.Errorf("after fallocate: size %d", st.Size)
		}
		b := make([]byte, 8)
		_, err = f.ReadAt(b, 0)
		must(t, err)
		if string(b) != "ab\x00\x00\x00fgh" {
			t.Errorf("after zero range: %q", b)
		}
		fails(t, "collapse range", unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096), syscall.EOPNOTSUPP)
		_, err = unix.Seek(fd, 0, unix.SEEK_DATA)
		must(t, err) // one that is not supported does not stop the others
	})
}

func TestCopyFileRange(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		data := strings.Repeat("0123456789abcdef", 20000)
		write(t, w.path("src"), data)
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		write(t, w.path("src"), "new")
		in, err := os.Open(w.path(".snapshots", "s", "src"))
		must(t, err)
		defer in.Close()
		out, err := os.Create(w.path("dst"))
		must(t, err)
		defer out.Close()
		_, err = out.Write([]byte("head"))
		must(t, err)
		before := stat(t, w.path("dst"))
		n := 0
		for n < len(data) {
			m, err := unix.CopyFileRange(int(in.Fd()), nil, int(out.Fd()), nil, len(data), 0)
			must(t, err)
			if m == 0 {
				break
			}
			n += m
		}
		if n != len(data) {
			t.Fatalf("copied %d of %d", n, len(data))
		}
		wants(t, w.path("dst"), "head"+data)
		if st := stat(t, w.path("dst")); st.Size != int64(len(data)+4) || st.Mtim == before.Mtim {
			t.Errorf("after the copy: size %d, mtime %v, before %v", st.Size, st.Mtim, before.Mtim)
		}
	})
}

func TestWritesTakeSetuidAway(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED: needs root")
	}
	onEach(t, func(t *testing.T, w *world) {
		openWay(t, w.dir)
		p := w.path("f")
		for what, op := range map[string]string{
			"write":     `echo x >> "$1"`,
			"truncate":  `truncate -s 1 "$1"`,
			"open":      `: > "$1"`,
			"fallocate": `fallocate -l 100 "$1"`,
			"overwrite": `dd if=/dev/zero of="$1" bs=1 count=1 conv=notrunc 2>/dev/null`,
		} {
			write(t, p, "text")
			must(t, os.Chown(p, 1000, 1000))
			must(t, unix.Chmod(p, 0o6777))
			runAs(t, 1001, "sh", "-c", op, "sh", p)
			if st := stat(t, p); st.Mode&0o7777 != 0o777 {
				t.Errorf("%s by another: mode %o, want 777", what, st.Mode&0o7777)
			}
			must(t, unix.Chmod(p, 0o6777))
			run(t, "sh", "-c", op, "sh", p)
			if st := stat(t, p); st.Mode&0o7777 != 0o6777 {
				t.Errorf("%s by root: mode %o, want 6777", what, st.Mode&0o7777)
			}
		}
		must(t, unix.Chmod(p, 0o6777))
		must(t, os.Chown(p, 1001, -1))
		if st := stat(t, p); st.Mode&0o7777 != 0o777 {
			t.Errorf("chown: mode %o, want 777", st.Mode&0o7777)
		}
	})
}

func TestUmaskAndGroups(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED: needs root")
	}
	onEach(t, func(t *testing.T, w *world) {
		openWay(t, w.dir)
		must(t, os.Mkdir(w.path("d"), 0o777))
		must(t, os.Chown(w.path("d"), 0, 50))
		must(t, unix.Chmod(w.path("d"), 0o2777))
		runAs(t, 1000, "sh", "-c", `cd "$1" && umask 027 && : > f && mkdir s && mkfifo p && ln -s x l`, "sh", w.path("d"))
		for name, want := range map[string]uint32{"f": 0o640, "s": 0o2750, "p": 0o640, "l": 0o777} {
			if st := stat(t, w.path("d", name)); st.Mode&0o7777 != want || st.Uid != 1000 || st.Gid != 50 {
				t.Errorf("%s: mode %o of %d:%d, want %o of 1000:50", name, st.Mode&0o7777, st.Uid, st.Gid, want)
			}
		}
		run(t, "chgrp", "1000", w.path("d", "f"))
		runAs(t, 1000, "chmod", "2755", w.path("d", "f"))
		if st := stat(t, w.path("d", "f")); st.Mode&0o7777 != 0o2755 {
			t.Errorf("chmod by a member of the group: %o, want 2755", st.Mode&0o7777)
		}
		run(t, "chgrp", "50", w.path("d", "f"))
		runAs(t, 1000, "chmod", "2755", w.path("d", "f"))
		if st := stat(t, w.path("d", "f")); st.Mode&0o7777 != 0o755 {
			t.Errorf("chmod by no member of the group: %o, want 755", st.Mode&0o7777)
		}
	})
}

func TestAppendsDoNotOverwriteEachOther(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		const writers, lines = 4, 200
		var wg sync.WaitGroup
		for i := range writers {
			wg.Add(1)
			go func() {
				defer wg.Done()
				f, err := os.OpenFile(w.path("log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
				if err != nil {
					t.Error(err)
					return
				}
				defer f.Close()
				for j := range lines {
					if _, err := fmt.Fprintf(f, "%d %d %s\n", i, j, strings.Repeat("x", j)); err != nil {
						t.Error(err)
					}
				}
			}()
		}
		wg.Wait()
		next := make([]int, writers)
		got := strings.Split(strings.TrimSpace(read(t, w.path("log"))), "\n")
		for _, line := range got {
			var i, j int
			var x string
			if _, err := fmt.Sscanf(line+"|", "%d %d %s", &i, &j, &x); err != nil || next[i] != j || len(x) != j+1 {
				t.Fatalf("line %q, of writer %d line %d expected", line, i, next[i])
			}
			next[i]++
		}
		if len(got) != writers*lines {
			t.Errorf("%d lines, want %d", len(got), writers*lines)
		}
	})
}

func TestXattrs(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		write(t, w.path("f"), "")
		p := w.path("f")
		big := strings.Repeat("v", 64<<10)
		must(t, unix.Setxattr(p, "user.big", []byte(big), unix.XATTR_CREATE))
		fails(t, "create again", unix.Setxattr(p, "user.big", nil, unix.XATTR_CREATE), syscall.EEXIST)
		fails(t, "replace what is not there", unix.Setxattr(p, "user.no", nil, unix.XATTR_REPLACE), syscall.ENODATA)
		must(t, unix.Setxattr(p, "user.empty", nil, 0))
		n, err := unix.Getxattr(p, "user.big", nil)
		if err != nil || n != len(big) {
			t.Errorf("size of user.big: %d, %v", n, err)
		}
		_, err = unix.Getxattr(p, "user.big", make([]byte, 10))
		fails(t, "buffer too small", err, syscall.ERANGE)
		if n, err := unix.Getxattr(p, "user.empty", make([]byte, 10)); n != 0 || err != nil {
			t.Errorf("user.empty: %d, %v", n, err)
		}
		buf := make([]byte, 100)
		n, err = unix.Listxattr(p, buf)
		if got := string(buf[:max(n, 0)]); err != nil || got != "user.big\x00user.empty\x00" {
			t.Errorf("list: %q, %v", got, err)
		}
		_, err = unix.Listxattr(p, buf[:3])
		fails(t, "list into a buffer too small", err, syscall.ERANGE)
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		must(t, unix.Removexattr(p, "user.big"))
		_, err = unix.Getxattr(p, "user.big", nil)
		fails(t, "removed", err, syscall.ENODATA)
		if n, err := unix.Getxattr(w.path(".snapshots", "s", "f"), "user.big", nil); n != len(big) || err != nil {
			t.Errorf("in the snapshot: %d, %v", n, err)
		}
		if os.Geteuid() == 0 {
			must(t, unix.Setxattr(p, "trusted.x", []byte("y"), 0))
		}
	})
}

func TestLocksAreTheKernels(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		write(t, w.path("f"), "")
		a, err := os.OpenFile(w.path("f"), os.O_RDWR, 0)
		must(t, err)
		defer a.Close()
		b, err := os.OpenFile(w.path("f"), os.O_RDWR, 0)
		must(t, err)
		must(t, unix.Flock(int(a.Fd()), unix.LOCK_EX))
		fails(t, "flock held by another", unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB), syscall.EWOULDBLOCK)
		must(t, unix.Flock(int(a.Fd()), unix.LOCK_UN))
		must(t, unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB))
		must(t, b.Close()) // which lets go of it
		must(t, unix.Flock(int(a.Fd()), unix.LOCK_EX|unix.LOCK_NB))

		lk := unix.Flock_t{Type: unix.F_WRLCK, Start: 0, Len: 10}
		must(t, unix.FcntlFlock(a.Fd(), unix.F_OFD_SETLK, &lk))
		c, err := os.OpenFile(w.path("f"), os.O_RDWR, 0)
		must(t, err)
		defer c.Close()
		fails(t, "range held by another", unix.FcntlFlock(c.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 5, Len: 1}), syscall.EAGAIN)
		must(t, unix.FcntlFlock(c.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 1}))
	})
}

func TestDirectIO(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		fd, err := unix.Open(w.path("f"), unix.O_RDWR|unix.O_CREAT|unix.O_DIRECT, 0o644)
		must(t, err)
		defer unix.Close(fd)
		buf, err := unix.Mmap(-1, 0, 1<<21, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		must(t, err)
		for i := range buf {
			buf[i] = byte(i / 4096)
		}
		n, err := unix.Pwrite(fd, buf, 0)
		if err != nil || n != len(buf) {
			t.Fatalf("write: %d, %v", n, err)
		}
		if got := read(t, w.path("f")); got != string(buf) {
			t.Error("what was written directly is not what is read")
		}
		back := make([]byte, len(buf))
		copy(buf, back)
		n, err = unix.Pread(fd, buf, 0)
		if err != nil || n != len(buf) || buf[4096] != 1 {
			t.Errorf("read: %d, %v, %d", n, err, buf[4096])
		}
	})
}

func TestIoctlIsNoTerminal(t *testing.T) {
	w := newWorld(t, "memory")
	write(t, w.path("f"), "")
	f, err := os.Open(w.path("f"))
	must(t, err)
	defer f.Close()
	_, err = unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	fails(t, "FS_IOC_GETFLAGS", err, syscall.ENOTTY)
}

func TestStatfsAndBirthTime(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		var s unix.Statfs_t
		must(t, unix.Statfs(w.dir, &s))
		if s.Blocks == 0 || s.Bfree == 0 || s.Namelen != 255 || s.Files == 0 {
			t.Errorf("statfs: %+v", s)
		}
		start := time.Now().Add(-time.Second)
		write(t, w.path("f"), "")
		var x unix.Statx_t
		must(t, unix.Statx(unix.AT_FDCWD, w.path("f"), 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &x))
		if x.Mask&unix.STATX_BTIME == 0 || x.Btime.Sec < start.Unix() || x.Btime.Sec > time.Now().Unix() {
			t.Errorf("birth time: %v, mask %#x", x.Btime, x.Mask)
		}
		for _, p := range []string{".snapshots", ".forks"} {
			must(t, unix.Statx(unix.AT_FDCWD, w.path(p), 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &x))
		}
	})
}

func TestSpecialFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED: needs root")
	}
	onEach(t, func(t *testing.T, w *world) {
		dev := unix.Mkdev(0x123, 0x45678)
		must(t, unix.Mknod(w.path("c"), unix.S_IFCHR|0o600, int(dev)))
		must(t, unix.Mknod(w.path("b"), unix.S_IFBLK|0o600, int(unix.Mkdev(8, 1))))
		must(t, unix.Mknod(w.path("p"), unix.S_IFIFO|0o600, 0))
		must(t, unix.Mknod(w.path("s"), unix.S_IFSOCK|0o600, 0))
		w.remount()
		if st := stat(t, w.path("c")); st.Rdev != dev || st.Mode != unix.S_IFCHR|0o600 {
			t.Errorf("character device %#x, mode %o", st.Rdev, st.Mode)
		}
		if st := stat(t, w.path("b")); st.Rdev != unix.Mkdev(8, 1) {
			t.Errorf("block device %#x", st.Rdev)
		}
		var x unix.Statx_t
		must(t, unix.Statx(unix.AT_FDCWD, w.path("c"), 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &x))
		if x.Rdev_major != 0x123 || x.Rdev_minor != 0x45678 {
			t.Errorf("statx: device %#x:%#x", x.Rdev_major, x.Rdev_minor)
		}
		go os.WriteFile(w.path("p"), []byte("through"), 0)
		wants(t, w.path("p"), "through")
	})
}

func TestDeadMountIsCleared(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED: needs root")
	}
	w := newWorld(t, "embedded")
	write(t, w.path("f"), "text")
	f, err := os.Open(w.path("f"))
	must(t, err)
	must(t, f.Sync())
	f.Close()
	w.cmd.Process.Kill()
	w.cmd.Wait()
	fails(t, "statfs of a dead mount", syscall.Statfs(w.dir, new(syscall.Statfs_t)), syscall.ENOTCONN)
	w.start()
	w.call("mount", w.dir, "")
	wants(t, w.path("f"), "text")
}

// TestFileAgainstAModel does random things to one file, in all the ways that
// a file can be changed, and compares it with bytes in memory; snapshots of it
// are compared at the end.
func TestFileAgainstAModel(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		seed := rand.Uint64()
		if s := os.Getenv("DCFS_TEST_SEED"); s != "" {
			fmt.Sscan(s, &seed)
		}
		t.Logf("DCFS_TEST_SEED=%d", seed)
		m := &fileModel{t: t, w: w, rng: rand.New(rand.NewPCG(seed, 1)), past: make(map[string][]byte)}
		m.open(os.O_CREATE)
		for i := range 1500 {
			m.step(i)
			if t.Failed() {
				t.Fatalf("after step %d", i)
			}
		}
		m.f.Close()
		compare := func() {
			m.check("the file", w.path("f"), m.want)
			for name, want := range m.past {
				m.check("snapshot "+name, w.path(".snapshots", name, "f"), want)
			}
		}
		compare()
		w.remount()
		compare()
		w.call("check", "")
	})
}

// fileModel is a file and what must be in it.
type fileModel struct {
	t    *testing.T
	w    *world
	rng  *rand.Rand
	f    *os.File
	want []byte
	past map[string][]byte // of snapshots
}

const modelBytes = 600 << 10

func (m *fileModel) open(flags int) {
	if m.rng.IntN(4) == 0 {
		flags |= unix.O_SYNC
	}
	f, err := os.OpenFile(m.w.path("f"), flags|os.O_RDWR, 0o644)
	must(m.t, err)
	m.f = f
}

// stretch returns a place, often one that begins or ends on a block.
func (m *fileModel) stretch(limit int) (off, n int) {
	off, n = m.rng.IntN(limit+1), 1+m.rng.IntN(1<<uint(m.rng.IntN(18)))
	if m.rng.IntN(3) == 0 {
		off &^= 4095
	}
	if m.rng.IntN(3) == 0 {
		n = (n + 4095) &^ 4095
	}
	return off, n
}

func (m *fileModel) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.rng.Uint32())
	}
	return b
}

// grow makes want at least n bytes long.
func (m *fileModel) grow(n int) {
	if n > len(m.want) {
		m.want = append(m.want, make([]byte, n-len(m.want))...)
	}
}

func (m *fileModel) step(i int) {
	fd := int(m.f.Fd())
	switch m.rng.IntN(13) {
	case 0, 1, 2:
		off, n := m.stretch(modelBytes)
		b := m.bytes(n)
		_, err := m.f.WriteAt(b, int64(off))
		must(m.t, err)
		m.grow(off + n)
		copy(m.want[off:], b)
	case 3, 4:
		m.checkSome()
	case 5:
		n, _ := m.stretch(modelBytes)
		must(m.t, m.f.Truncate(int64(n)))
		m.grow(n)
		m.want = m.want[:n:n]
	case 6:
		m.byMmap()
	case 7, 8:
		off, n := m.stretch(modelBytes)
		mode := []uint32{unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE, 0, unix.FALLOC_FL_KEEP_SIZE}[m.rng.IntN(4)]
		must(m.t, unix.Fallocate(fd, mode, int64(off), int64(n)))
		if mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
			m.grow(off + n)
		}
		if mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 && off < len(m.want) {
			clear(m.want[off:min(off+n, len(m.want))])
		}
	case 9:
		m.byCopy()
	case 10:
		must(m.t, m.f.Close())
		m.open(0)
	case 11:
		if m.rng.IntN(10) > 0 {
			break
		}
		name := fmt.Sprint("s", i)
		must(m.t, os.Mkdir(m.w.path(".snapshots", name), 0o755))
		m.past[name] = slices.Clone(m.want)
	case 12:
		if st, err := m.f.Stat(); err != nil || st.Size() != int64(len(m.want)) {
			m.t.Errorf("size %v, %v; want %d", st.Size(), err, len(m.want))
		}
	}
}

func (m *fileModel) byMmap() {
	if len(m.want) == 0 {
		return
	}
	b, err := unix.Mmap(int(m.f.Fd()), 0, len(m.want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(m.t, err)
	off := m.rng.IntN(len(m.want))
	n := copy(b[off:], m.bytes(1+m.rng.IntN(20000)))
	copy(m.want[off:], b[off:off+n])
	must(m.t, unix.Munmap(b))
}

func (m *fileModel) byCopy() {
	from, n := m.stretch(len(m.want))
	to := m.rng.IntN(modelBytes)
	n = min(n, len(m.want)-from)
	if n <= 0 || from < to+n && to < from+n {
		return // nothing, or onto itself
	}
	for done := 0; done < n; {
		off, out := int64(from+done), int64(to+done)
		c, err := unix.CopyFileRange(int(m.f.Fd()), &off, int(m.f.Fd()), &out, n-done, 0)
		must(m.t, err)
		if c == 0 {
			m.t.Fatalf("copied %d of %d", done, n)
		}
		done += c
	}
	m.grow(to + n)
	copy(m.want[to:to+n], m.want[from:from+n])
}

// checkSome compares a stretch, also through O_DIRECT.
func (m *fileModel) checkSome() {
	off, n := m.stretch(modelBytes)
	b := make([]byte, n)
	f := m.f
	if m.rng.IntN(4) == 0 {
		d, err := os.OpenFile(m.w.path("f"), os.O_RDONLY|unix.O_DIRECT, 0)
		must(m.t, err)
		defer d.Close()
		f = d
	}
	got, err := f.ReadAt(b, int64(off))
	if err != nil && err != io.EOF {
		m.t.Fatal(err)
	}
	want := m.want[min(off, len(m.want)):min(off+n, len(m.want))]
	if !bytes.Equal(b[:got], want) {
		m.t.Errorf("read at %d, %d: %s", off, n, difference(b[:got], want))
	}
}

func (m *fileModel) check(what, path string, want []byte) {
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		m.t.Errorf("%s: %v, %s", what, err, difference(got, want))
	}
}

// difference says where two things differ first.
func difference(got, want []byte) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("byte %d is %#x, want %#x", i, got[i], want[i])
		}
	}
	return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
}
