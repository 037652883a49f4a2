package tests

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// asOnExt4 runs a test on dcfs and, where one can be mounted, on an ext4: what
// it asks for is Linux's rule then, and not ours.
func asOnExt4(t *testing.T, test func(t *testing.T, dir string)) {
	t.Run("dcfs", func(t *testing.T) {
		w := newWorld(t, "embedded")
		t.Run("mounted", func(t *testing.T) { test(t, w.dir) }) // ends before the next mount
		w.remount()
		w.call("check", "")
	})
	t.Run("ext4", func(t *testing.T) { test(t, needReference(t)) })
}

// openAt opens a file for the time of the test.
func openAt(t *testing.T, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		t.Fatalf("open %s, flags %#x: %v", path, flags, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func fstat(t *testing.T, fd int) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	return st
}

// proc is the path by which a process opens what it has open once more.
func proc(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// TestUnlinkedFileIsWholeStill: all that a descriptor can do it can do when
// the last name is gone, whichever way it went.
func TestUnlinkedFileIsWholeStill(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		for how, end := range map[string]func(path string) error{
			"unlink":      os.Remove,
			"rename over": func(p string) error { write(t, p+".new", "new"); return os.Rename(p+".new", p) },
			"unlink of the other link too": func(p string) error {
				return errors.Join(os.Link(p, p+".link"), os.Remove(p), os.Remove(p+".link"))
			},
		} {
			path := filepath.Join(dir, "f")
			write(t, path, "0123456789")
			fd := openAt(t, path, unix.O_RDWR)
			must(t, end(path))
			step := func(what string, err error) {
				t.Helper()
				if err != nil {
					t.Errorf("%s, then %s: %v", how, what, err)
				}
			}
			content := func(what, want string) {
				t.Helper()
				st := fstat(t, fd)
				buf := make([]byte, 1<<17)
				n, err := unix.Pread(fd, buf, 0)
				if err != nil || string(buf[:n]) != want || st.Size != int64(len(want)) || st.Nlink != 0 {
					t.Errorf("%s, then %s: read %d bytes %.20q, %v; size %d, %d links; want %.20q and no link", how, what, n, buf[:max(n, 0)], err, st.Size, st.Nlink, want)
				}
			}
			content("read", "0123456789")
			_, err := unix.Pwrite(fd, []byte("ab"), 4)
			step("write", err)
			content("write", "0123ab6789")
			step("truncate", unix.Ftruncate(fd, 5))
			content("truncate", "0123a")
			step("truncate to more", unix.Ftruncate(fd, 8))
			content("truncate to more", "0123a\x00\x00\x00")
			step("fallocate", unix.Fallocate(fd, 0, 0, 9))
			content("fallocate", "0123a\x00\x00\x00\x00")
			step("fsync", unix.Fsync(fd))
			step("fdatasync", unix.Fdatasync(fd))
			step("fchmod", unix.Fchmod(fd, 0o640))
			step("fsetxattr", unix.Fsetxattr(fd, "user.x", []byte("y"), 0))
			val := make([]byte, 4)
			if n, err := unix.Fgetxattr(fd, "user.x", val); err != nil || string(val[:n]) != "y" {
				t.Errorf("%s, then fgetxattr: %q, %v", how, val, err)
			}
			step("futimens", unix.UtimesNanoAt(unix.AT_FDCWD, proc(fd), []unix.Timespec{{Sec: 7}, {Sec: 8}}, 0))
			if st := fstat(t, fd); st.Mode&0o777 != 0o640 || st.Mtim.Sec != 8 {
				t.Errorf("%s: mode %o, mtime %d, want 640 and 8", how, st.Mode&0o777, st.Mtim.Sec)
			}
			if off, err := unix.Seek(fd, 0, unix.SEEK_HOLE); err != nil || off > 9 {
				t.Errorf("%s, then SEEK_HOLE: %d, %v", how, off, err)
			}
			m, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			step("mmap", err)
			m[0] = 'M'
			step("msync", unix.Msync(m, unix.MS_SYNC))
			step("munmap", unix.Munmap(m))
			content("mmap", "M123a\x00\x00\x00\x00")

			// Opened once more, it is the same file; linked it can't be any more.
			again := openAt(t, proc(fd), unix.O_RDWR|unix.O_APPEND)
			if a, b := fstat(t, again), fstat(t, fd); a.Ino != b.Ino || a.Nlink != 0 {
				t.Errorf("%s, then opened anew: inode %d with %d links, want %d", how, a.Ino, a.Nlink, b.Ino)
			}
			_, err = unix.Write(again, []byte("END"))
			step("append", err)
			content("append through another descriptor", "M123a\x00\x00\x00\x00END")
			fails(t, how+", then linkat", unix.Linkat(unix.AT_FDCWD, proc(fd), unix.AT_FDCWD, path+".back", unix.AT_SYMLINK_FOLLOW), syscall.ENOENT)
			step("open and truncate", openErr(proc(fd), unix.O_WRONLY|unix.O_TRUNC))
			content("opened with O_TRUNC", "")
			os.Remove(path)
		}
	})
}

// TestRemovedDirectoryIsADirectoryStill: what stands in it, or has it open,
// sees an empty directory without a link, in which nothing can be made.
func TestRemovedDirectoryIsADirectoryStill(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		for how, end := range map[string]func(path string) error{
			"rmdir":       os.Remove,
			"rename over": func(p string) error { return errors.Join(os.Mkdir(p+".new", 0o755), unix.Rename(p+".new", p)) },
		} {
			path := filepath.Join(dir, "d")
			must(t, os.Mkdir(path, 0o755))
			write(t, filepath.Join(dir, "f"), "")
			fd := openAt(t, path, unix.O_RDONLY|unix.O_DIRECTORY)
			must(t, end(path))
			if st := fstat(t, fd); st.Nlink != 0 || st.Mode&unix.S_IFMT != unix.S_IFDIR {
				t.Errorf("%s: %d links, mode %o", how, st.Nlink, st.Mode)
			}
			_, err := unix.Getdents(fd, make([]byte, 1<<12))
			fails(t, how+", then list", err, syscall.ENOENT)
			_, err = unix.Openat(fd, "x", unix.O_CREAT|unix.O_WRONLY, 0o644)
			fails(t, how+", then create", err, syscall.ENOENT)
			_, err = unix.Openat(fd, ".", unix.O_TMPFILE|unix.O_RDWR, 0o644)
			if !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.EPERM) { // EPERM is ext4's
				t.Errorf("%s, then O_TMPFILE: %v", how, err)
			}
			_, err = unix.Openat(fd, "x", unix.O_RDONLY, 0)
			fails(t, how+", then open", err, syscall.ENOENT)
			fails(t, how+", then mkdir", unix.Mkdirat(fd, "x", 0o755), syscall.ENOENT)
			fails(t, how+", then mknod", unix.Mknodat(fd, "x", unix.S_IFIFO|0o644, 0), syscall.ENOENT)
			fails(t, how+", then symlink", unix.Symlinkat("y", fd, "x"), syscall.ENOENT)
			fails(t, how+", then link", unix.Linkat(unix.AT_FDCWD, filepath.Join(dir, "f"), fd, "x", 0), syscall.ENOENT)
			fails(t, how+", then rename into", unix.Renameat(unix.AT_FDCWD, filepath.Join(dir, "f"), fd, "x"), syscall.ENOENT)
			fails(t, how+", then rename out of", unix.Renameat(fd, "x", unix.AT_FDCWD, filepath.Join(dir, "g")), syscall.ENOENT)
			fails(t, how+", then unlink", unix.Unlinkat(fd, "x", 0), syscall.ENOENT)
			must(t, unix.Fchmod(fd, 0o700))
			must(t, unix.Fsetxattr(fd, "user.x", []byte("y"), 0))
			must(t, unix.Fsync(fd))
			if st := fstat(t, fd); st.Mode&0o777 != 0o700 || st.Nlink != 0 {
				t.Errorf("%s, then fchmod: mode %o, %d links", how, st.Mode, st.Nlink)
			}
			var up, top unix.Stat_t
			must(t, unix.Fstatat(fd, "..", &up, 0))
			must(t, unix.Stat(dir, &top))
			if up.Ino != top.Ino {
				t.Errorf("%s: .. is inode %d, want %d", how, up.Ino, top.Ino)
			}
			must(t, os.RemoveAll(path))
		}
	})
}

func TestWorkingDirectoryThatIsRemoved(t *testing.T) {
	needRoot(t) // for an actor
	asOnExt4(t, func(t *testing.T, dir string) {
		must(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
		write(t, filepath.Join(dir, "a/f"), "text")
		a := newActor(t, cred{})
		a.do(func() {
			must(t, unix.Chdir(filepath.Join(dir, "a/b")))
			must(t, unix.Rmdir(filepath.Join(dir, "a/b")))
			_, err := unix.Getcwd(make([]byte, 4096))
			fails(t, "getcwd", err, syscall.ENOENT)
			var st unix.Stat_t
			must(t, unix.Stat(".", &st))
			if st.Nlink != 0 {
				t.Errorf("the working directory has %d links", st.Nlink)
			}
			fails(t, "mkdir", unix.Mkdir("x", 0o755), syscall.ENOENT)
			fails(t, "rmdir .", unix.Rmdir("."), syscall.EINVAL)
			fails(t, "open", openErr("x", unix.O_RDONLY), syscall.ENOENT)
			must(t, openErr("../f", unix.O_RDONLY))
			must(t, unix.Chdir("."))
			must(t, unix.Mkdir(filepath.Join(dir, "a/b"), 0o755)) // another directory
			fails(t, "create", openErr("x", unix.O_CREAT|unix.O_WRONLY), syscall.ENOENT)
			must(t, unix.Chdir(".."))
			must(t, openErr("f", unix.O_RDONLY))
			must(t, unix.Chdir("/"))
		})
	})
}

func TestTmpfileToTheLetter(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		fails(t, "O_TMPFILE to read only", openErr(dir, unix.O_TMPFILE|unix.O_RDONLY), syscall.EINVAL)
		write(t, filepath.Join(dir, "f"), "")
		fails(t, "O_TMPFILE in a file", openErr(filepath.Join(dir, "f"), unix.O_TMPFILE|unix.O_RDWR), syscall.ENOTDIR)
		fails(t, "O_TMPFILE in nothing", openErr(filepath.Join(dir, "no"), unix.O_TMPFILE|unix.O_RDWR), syscall.ENOENT)
		fd := openAt(t, dir, unix.O_TMPFILE|unix.O_RDWR)
		if st := fstat(t, fd); st.Nlink != 0 || st.Size != 0 || st.Mode != unix.S_IFREG|0o644 {
			t.Errorf("new: %d links, %d bytes, mode %o", st.Nlink, st.Size, st.Mode)
		}
		_, err := unix.Write(fd, []byte("text"))
		must(t, err)
		must(t, unix.Fsync(fd))
		must(t, unix.Fsetxattr(fd, "user.x", []byte("y"), 0))
		link := func(name string) error {
			return unix.Linkat(unix.AT_FDCWD, proc(fd), unix.AT_FDCWD, filepath.Join(dir, name), unix.AT_SYMLINK_FOLLOW)
		}
		fails(t, "linkat onto a name in use", link("f"), syscall.EEXIST)
		must(t, link("one"))
		must(t, link("two"))
		if st := fstat(t, fd); st.Nlink != 2 {
			t.Errorf("linked twice: %d links", st.Nlink)
		}
		must(t, os.Remove(filepath.Join(dir, "one")))
		must(t, os.Remove(filepath.Join(dir, "two")))
		if st := fstat(t, fd); st.Nlink != 0 || st.Size != 4 {
			t.Errorf("unlinked again: %d links, %d bytes", st.Nlink, st.Size)
		}
		if os.Getuid() == 0 {
			other := openAt(t, dir, unix.O_TMPFILE|unix.O_RDWR)
			must(t, unix.Linkat(other, "", unix.AT_FDCWD, filepath.Join(dir, "empty"), unix.AT_EMPTY_PATH))
			wants(t, filepath.Join(dir, "empty"), "")
		}
	})
}

// TestPathDescriptors: O_PATH opens a place in the tree, not the file.
func TestPathDescriptors(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		path := filepath.Join(dir, "f")
		write(t, path, "text")
		must(t, os.Symlink("f", filepath.Join(dir, "l")))
		fd := openAt(t, path, unix.O_PATH)
		_, err := unix.Read(fd, make([]byte, 1))
		fails(t, "read", err, syscall.EBADF)
		_, err = unix.Write(fd, []byte("x"))
		fails(t, "write", err, syscall.EBADF)
		fails(t, "fchmod", unix.Fchmod(fd, 0o600), syscall.EBADF)
		fails(t, "ftruncate", unix.Ftruncate(fd, 0), syscall.EBADF)
		fails(t, "fsync", unix.Fsync(fd), syscall.EBADF)
		_, err = unix.Fgetxattr(fd, "user.x", nil)
		fails(t, "fgetxattr", err, syscall.EBADF)
		_, err = unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
		fails(t, "mmap", err, syscall.EBADF)
		if st := fstat(t, fd); st.Size != 4 || st.Nlink != 1 {
			t.Errorf("fstat: %d bytes, %d links", st.Size, st.Nlink)
		}
		must(t, os.Rename(path, path+"2"))
		full := openAt(t, proc(fd), unix.O_RDWR)
		_, err = unix.Write(full, []byte("TEXT"))
		must(t, err)
		wants(t, path+"2", "TEXT")
		must(t, os.Remove(path+"2"))
		if st := fstat(t, fd); st.Nlink != 0 {
			t.Errorf("fstat of what was removed: %d links", st.Nlink)
		}
		must(t, openErr(proc(fd), unix.O_RDONLY))

		l := openAt(t, filepath.Join(dir, "l"), unix.O_PATH|unix.O_NOFOLLOW)
		buf := make([]byte, 10)
		n, err := unix.Readlinkat(l, "", buf)
		if err != nil || string(buf[:n]) != "f" {
			t.Errorf("readlinkat of a symlink's descriptor: %q, %v", buf[:max(n, 0)], err)
		}
		d := openAt(t, dir, unix.O_PATH|unix.O_DIRECTORY)
		must(t, unix.Mkdirat(d, "sub", 0o755))
		_, err = unix.Getdents(d, make([]byte, 4096))
		fails(t, "list", err, syscall.EBADF)
		must(t, unix.Fstatat(d, "sub", new(unix.Stat_t), 0))
		fails(t, "O_PATH|O_DIRECTORY of a symlink", openErr(filepath.Join(dir, "l"), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW), syscall.ENOTDIR)
	})
}

// TestDescriptorsAreOfTheFileTheyOpened, whatever becomes of its name.
func TestDescriptorsAreOfTheFileTheyOpened(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		write(t, a, "A")
		write(t, b, "B")
		fa, fb := openAt(t, a, unix.O_RDWR|unix.O_APPEND), openAt(t, b, unix.O_RDWR|unix.O_APPEND)
		must(t, unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE))
		for fd, text := range map[int]string{fa: "1", fb: "2"} {
			_, err := unix.Write(fd, []byte(text))
			must(t, err)
		}
		wants(t, a, "B2")
		wants(t, b, "A1")
		must(t, os.Rename(a, b)) // the file of fa loses its name
		_, err := unix.Write(fa, []byte("x"))
		must(t, err)
		wants(t, b, "B2")
		if st := fstat(t, fa); st.Nlink != 0 || st.Size != 3 {
			t.Errorf("replaced: %d links, %d bytes", st.Nlink, st.Size)
		}
		if st := fstat(t, fb); st.Nlink != 1 {
			t.Errorf("replacing: %d links", st.Nlink)
		}
		// dup'ed descriptors share their offset, others do not.
		dup, err := unix.Dup(fb)
		must(t, err)
		defer unix.Close(dup)
		_, err = unix.Seek(fb, 1, io.SeekStart)
		must(t, err)
		if off, err := unix.Seek(dup, 0, io.SeekCurrent); off != 1 || err != nil {
			t.Errorf("offset of a dup: %d, %v", off, err)
		}
	})
}

// TestOpenToTheLetter: flags of open(2) and what they meet.
func TestOpenToTheLetter(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		p := func(name string) string { return dir + "/" + name } // keeps a slash at the end
		write(t, p("f"), "text")
		must(t, os.Mkdir(p("d"), 0o755))
		must(t, os.Symlink("f", p("l")))
		must(t, os.Symlink("nowhere", p("dangling")))
		must(t, os.Symlink("loop", p("loop")))
		must(t, unix.Mknod(p("fifo"), unix.S_IFIFO|0o644, 0))
		must(t, unix.Mknod(p("sock"), unix.S_IFSOCK|0o644, 0))
		for _, c := range []struct {
			name  string
			flags int
			want  error
		}{
			{"d", unix.O_WRONLY, syscall.EISDIR},
			{"d", unix.O_RDWR, syscall.EISDIR},
			{"d", unix.O_RDONLY | unix.O_CREAT, syscall.EISDIR},
			{"d", unix.O_RDONLY | unix.O_TRUNC, syscall.EISDIR},
			{"d", unix.O_CREAT | unix.O_EXCL, syscall.EEXIST},
			{"f", unix.O_RDONLY | unix.O_DIRECTORY, syscall.ENOTDIR},
			{"f/", unix.O_RDONLY, syscall.ENOTDIR},
			{"f/x", unix.O_RDONLY, syscall.ENOTDIR},
			{"new/", unix.O_CREAT | unix.O_WRONLY, syscall.EISDIR},
			{"no/x", unix.O_CREAT | unix.O_WRONLY, syscall.ENOENT},
			{"f", unix.O_CREAT | unix.O_EXCL, syscall.EEXIST},
			{"l", unix.O_CREAT | unix.O_EXCL, syscall.EEXIST},
			{"l", unix.O_RDONLY | unix.O_NOFOLLOW, syscall.ELOOP},
			{"l", unix.O_RDONLY, nil},
			{"dangling", unix.O_RDONLY, syscall.ENOENT},
			{"dangling", unix.O_CREAT | unix.O_EXCL, syscall.EEXIST},
			{"loop", unix.O_RDONLY, syscall.ELOOP},
			{"fifo", unix.O_WRONLY | unix.O_NONBLOCK, syscall.ENXIO},
			{"fifo", unix.O_RDONLY | unix.O_NONBLOCK, nil},
			{"sock", unix.O_RDONLY, syscall.ENXIO},
			{"dangling", unix.O_CREAT | unix.O_WRONLY, nil}, // makes nowhere
			{"nowhere", unix.O_RDONLY, nil},
			{"f", unix.O_RDONLY | unix.O_TRUNC, nil}, // truncates, on Linux
		} {
			if err := openErr(p(c.name), c.flags); !errors.Is(err, c.want) {
				t.Errorf("open %s, flags %#o: %v, want %v", c.name, c.flags, err, c.want)
			}
		}
		wants(t, p("f"), "")

		fd := openAt(t, p("d"), unix.O_RDONLY)
		_, err := unix.Read(fd, make([]byte, 10))
		fails(t, "read of a directory", err, syscall.EISDIR)
		_, err = unix.Pread(fd, make([]byte, 10), 0)
		fails(t, "pread of a directory", err, syscall.EISDIR)
		_, err = unix.Write(fd, []byte("x"))
		fails(t, "write to a directory", err, syscall.EBADF)
		fails(t, "ftruncate of a directory", unix.Ftruncate(fd, 0), syscall.EINVAL)
		fails(t, "truncate of a directory", unix.Truncate(p("d"), 0), syscall.EISDIR)
		_, err = unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
		fails(t, "mmap of a directory", err, syscall.ENODEV)
		fd = openAt(t, p("f"), unix.O_RDONLY)
		_, err = unix.Getdents(fd, make([]byte, 4096))
		fails(t, "list a file", err, syscall.ENOTDIR)
		fails(t, "truncate of a fifo", unix.Truncate(p("fifo"), 0), syscall.EINVAL)
	})
}
