package tests

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// plant makes a small tree.
func plant(t *testing.T, w *world) {
	t.Helper()
	must(t, os.MkdirAll(w.path("a", "b", "c"), 0o755))
	write(t, w.path("a", "f"), "one")
	write(t, w.path("a", "b", "g"), "two")
	must(t, os.Symlink("f", w.path("a", "l")))
	must(t, os.Link(w.path("a", "f"), w.path("a", "hard")))
}

func TestSnapshotShowsWhatWas(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		plant(t, w)
		must(t, os.Mkdir(w.path(".snapshots", "s1"), 0o755))
		write(t, w.path("a", "f"), "changed")
		must(t, os.Remove(w.path("a", "b", "g")))
		must(t, os.Rename(w.path("a", "b"), w.path("b2")))
		write(t, w.path("new"), "new")
		must(t, os.Mkdir(w.path("a", ".snapshots", "s2"), 0o755))

		wantsList(t, w.path(".snapshots"), "s1", "s2")
		wantsList(t, w.path(".snapshots", "s1"), "a")
		wantsList(t, w.path(".snapshots", "s2"), "a", "b2", "new")
		for _, dir := range []string{w.path(".snapshots", "s1", "a"), w.path("a", ".snapshots", "s1")} {
			wants(t, filepath.Join(dir, "f"), "one")
			wants(t, filepath.Join(dir, "hard"), "one")
			wants(t, filepath.Join(dir, "l"), "one")
			wants(t, filepath.Join(dir, "b", "g"), "two")
			if st := stat(t, filepath.Join(dir, "f")); st.Nlink != 2 {
				t.Errorf("%s/f: %d links, want 2", dir, st.Nlink)
			}
		}
		// By inode, so that a rename does not hide the past.
		wants(t, w.path("b2", ".snapshots", "s1", "g"), "two")
		wants(t, w.path("a", "hard"), "changed")
		w.remount()
		wants(t, w.path(".snapshots", "s1", "a", "f"), "one")
		wants(t, w.path("b2", ".snapshots", "s1", "g"), "two")
		wants(t, w.path("a", "f"), "changed")
		w.call("check", "")
	})
}

func TestSnapshotListsWhereTheDirectoryWas(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		must(t, os.Mkdir(w.path(".snapshots", "s1"), 0o755))
		must(t, os.Mkdir(w.path("d"), 0o755))
		must(t, os.Mkdir(w.path(".snapshots", "s2"), 0o755))
		must(t, os.Mkdir(w.path("d", ".snapshots", "s3"), 0o755))
		wantsList(t, w.path(".snapshots"), "s1", "s2", "s3")
		wantsList(t, w.path("d", ".snapshots"), "s2", "s3")
		_, err := os.Stat(w.path("d", ".snapshots", "s1"))
		fails(t, "stat d/.snapshots/s1", err, syscall.ENOENT)
		must(t, os.Rename(w.path("d"), w.path("e")))
		wantsList(t, w.path("e", ".snapshots"), "s2", "s3")
		must(t, os.Remove(w.path("e")))
		must(t, os.Mkdir(w.path("e"), 0o755))
		wantsList(t, w.path("e", ".snapshots"))
	})
}

func TestVirtualNamesAreHidden(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		plant(t, w)
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		must(t, os.Mkdir(w.path(".forks", "f"), 0o755))
		for _, dir := range []string{w.dir, w.path("a"), w.path("a", "b", "c"), w.path(".snapshots", "s"), w.path(".forks", "f")} {
			for _, name := range list(t, dir) {
				if strings.HasPrefix(name, ".") {
					t.Errorf("%s lists %s", dir, name)
				}
			}
		}
		out := run(t, "find", w.dir)
		if strings.Contains(out, ".snapshots") || strings.Contains(out, ".forks") {
			t.Errorf("find goes into the past:\n%s", out)
		}
		// Found by name where they are, and only there.
		for path, there := range map[string]bool{
			"a/.snapshots": true, ".snapshots/s/.snapshots": false, ".snapshots/s/a/.snapshots": false,
			".forks": true, "a/.forks": false, ".snapshots/s/.forks": true, ".snapshots/s/a/.forks": false,
			".forks/f/.snapshots": true, ".forks/f/a/.snapshots": true, ".forks/f/.forks": true, ".forks/f/a/.forks": false,
			"a/.snapshots/s/.forks": false, "a/.snapshots/.snapshots": false, ".snapshots/.forks": false, ".forks/.forks": false,
		} {
			st, err := os.Lstat(w.path(path))
			if there && (err != nil || !st.IsDir()) {
				t.Errorf("%s: %v, want a directory", path, err)
			} else if !there && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %v, want ENOENT", path, err)
			}
		}
	})
}

func TestNothingElseByTheirNames(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		write(t, w.path("f"), "f")
		must(t, os.Mkdir(w.path("d"), 0o755))
		for _, name := range []string{".snapshots", ".forks"} {
			p := w.path(name)
			fails(t, "mkdir "+name, os.Mkdir(p, 0o755), syscall.EEXIST)
			fails(t, "symlink "+name, os.Symlink("x", p), syscall.EEXIST)
			fails(t, "link "+name, os.Link(w.path("f"), p), syscall.EEXIST)
			fails(t, "mknod "+name, syscall.Mknod(p, syscall.S_IFIFO|0o644, 0), syscall.EEXIST)
			_, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			fails(t, "create "+name, err, syscall.EEXIST)
			_, err = os.OpenFile(p, os.O_CREATE|os.O_WRONLY, 0o644)
			fails(t, "open "+name, err, syscall.EISDIR)
			fails(t, "rmdir "+name, syscall.Rmdir(p), syscall.EPERM)
			fails(t, "unlink "+name, syscall.Unlink(p), syscall.EISDIR)
			fails(t, "rename file to "+name, syscall.Rename(w.path("f"), p), syscall.EISDIR)
			fails(t, "rename directory to "+name, syscall.Rename(w.path("d"), p), syscall.EPERM)
			fails(t, "rename of "+name, syscall.Rename(p, w.path("x")), syscall.EPERM)
			fails(t, "exchange with "+name, unix.Renameat2(unix.AT_FDCWD, w.path("d"), unix.AT_FDCWD, p, unix.RENAME_EXCHANGE), syscall.EPERM)
		}
		// .forks is nothing special below the root.
		must(t, os.Mkdir(w.path("d", ".forks"), 0o755))
		write(t, w.path("d", ".forks", "x"), "x")
		wants(t, w.path("d", ".forks", "x"), "x")
	})
}

func TestOnlySnapshotsInSnapshots(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		plant(t, w)
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		must(t, os.Mkdir(w.path(".forks", "f"), 0o755))
		for _, dir := range []string{".snapshots", ".forks", "a/.snapshots"} {
			p := w.path(dir, "x")
			_, err := os.Create(p)
			fails(t, "create in "+dir, err, syscall.EPERM)
			fails(t, "symlink in "+dir, os.Symlink("y", p), syscall.EPERM)
			fails(t, "mknod in "+dir, syscall.Mknod(p, syscall.S_IFIFO|0o644, 0), syscall.EPERM)
			fails(t, "link in "+dir, os.Link(w.path("a", "f"), p), syscall.EPERM)
			fails(t, "rename into "+dir, os.Rename(w.path("a", "f"), p), syscall.EPERM)
			_, err = unix.Open(w.path(dir), unix.O_TMPFILE|unix.O_RDWR, 0o600)
			fails(t, "tmpfile in "+dir, err, syscall.EPERM)
			fails(t, "truncate "+dir, os.Truncate(w.path(dir), 0), syscall.EISDIR)
			fails(t, "setxattr "+dir, unix.Setxattr(w.path(dir), "user.x", nil, 0), syscall.EPERM)
			_, err = unix.Getxattr(w.path(dir), "user.x", nil)
			fails(t, "getxattr "+dir, err, syscall.ENODATA)
		}
		fails(t, "rename out of .snapshots", os.Rename(w.path(".snapshots", "s"), w.path("s")), syscall.EPERM)
		fails(t, "rename out of .forks", os.Rename(w.path(".forks", "f"), w.path("f")), syscall.EPERM)
		fails(t, "rename from .forks to .snapshots", os.Rename(w.path(".forks", "f"), w.path(".snapshots", "f")), syscall.EPERM)
		fails(t, "unlink of a snapshot", syscall.Unlink(w.path(".snapshots", "s")), syscall.EISDIR)
	})
}

func TestSnapshotNames(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		for _, dir := range []string{".snapshots", ".forks"} {
			for _, good := range []string{"a", "Ä ö", "x.y-z", "1", strings.Repeat("n", 255)} {
				must(t, os.Mkdir(w.path(dir, good), 0o755))
				fails(t, "again "+good, os.Mkdir(w.path(dir, good), 0o755), syscall.EEXIST)
			}
			for bad, want := range map[string]syscall.Errno{
				".x": syscall.EINVAL, "-x": syscall.EINVAL, "a@b": syscall.EINVAL, "a%b": syscall.EINVAL,
				"a\nb": syscall.EINVAL, "\xff": syscall.EINVAL, strings.Repeat("n", 256): syscall.ENAMETOOLONG,
			} {
				fails(t, fmt.Sprintf("mkdir %s/%q", dir, bad), os.Mkdir(w.path(dir, bad), 0o755), want)
				_, err := os.Stat(w.path(dir, bad))
				if want == syscall.EINVAL {
					want = syscall.ENOENT
				}
				fails(t, fmt.Sprintf("stat %s/%q", dir, bad), err, want)
			}
			fails(t, "rename to a bad name", os.Rename(w.path(dir, "a"), w.path(dir, "a@b")), syscall.EINVAL)
		}
	})
}

func TestSnapshotIsReadOnly(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		plant(t, w)
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		time.Sleep(2100 * time.Millisecond) // a chmod just after is accepted
		for _, dir := range []string{w.path(".snapshots", "s", "a"), w.path("a", ".snapshots", "s")} {
			f := filepath.Join(dir, "f")
			for _, flags := range []int{os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND} {
				_, err := os.OpenFile(f, flags, 0)
				fails(t, fmt.Sprintf("open %s %#x", f, flags), err, syscall.EROFS)
			}
			_, err := os.Create(filepath.Join(dir, "new"))
			fails(t, "create", err, syscall.EROFS)
			fails(t, "mkdir", os.Mkdir(filepath.Join(dir, "new"), 0o755), syscall.EROFS)
			fails(t, "symlink", os.Symlink("x", filepath.Join(dir, "new")), syscall.EROFS)
			fails(t, "unlink", syscall.Unlink(f), syscall.EROFS)
			fails(t, "rmdir", syscall.Rmdir(filepath.Join(dir, "b", "c")), syscall.EROFS)
			fails(t, "rename", os.Rename(f, filepath.Join(dir, "new")), syscall.EROFS)
			fails(t, "link", os.Link(f, filepath.Join(dir, "new")), syscall.EROFS)
			fails(t, "chmod", os.Chmod(f, 0o600), syscall.EROFS)
			fails(t, "chown", os.Chown(f, 1, 1), syscall.EROFS)
			fails(t, "utimes", os.Chtimes(f, time.Now(), time.Now()), syscall.EROFS)
			fails(t, "truncate", os.Truncate(f, 0), syscall.EROFS)
			fails(t, "setxattr", unix.Setxattr(f, "user.x", []byte("y"), 0), syscall.EROFS)
			_, err = unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
			fails(t, "tmpfile", err, syscall.EROFS)
			fails(t, "chmod of the directory", os.Chmod(dir, 0o700), syscall.EROFS)
		}
		// Across views.
		f := w.path(".snapshots", "s", "a", "f")
		fails(t, "rename to the present", os.Rename(f, w.path("x")), syscall.EXDEV)
		fails(t, "rename to the past", os.Rename(w.path("a", "f"), w.path(".snapshots", "s", "x")), syscall.EXDEV)
		fails(t, "link to the present", os.Link(f, w.path("x")), syscall.EXDEV)
		fails(t, "link to the past", os.Link(w.path("a", "f"), w.path(".snapshots", "s", "x")), syscall.EXDEV)

		fails(t, "chmod of the root", os.Chmod(w.path(".snapshots", "s"), 0o700), syscall.EROFS)
		must(t, os.Chmod(w.path(".snapshots", "s"), os.FileMode(stat(t, w.path(".snapshots", "s")).Mode&0o777)))
		if out, err := exec.Command("rm", "-rf", w.path(".snapshots", "s")).CombinedOutput(); err == nil || !bytes.Contains(out, []byte("Read-only file system")) {
			t.Errorf("rm -rf of a snapshot: %v\n%s", err, out)
		}
		wants(t, w.path(".snapshots", "s", "a", "b", "g"), "two")
	})
}

func TestChmodJustAfterMkdirIsPartOfIt(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		must(t, os.Mkdir(w.path("d"), 0o755))
		run(t, "mkdir", "-m", "700", w.path(".snapshots", "s1"))
		run(t, "install", "-d", "-m", "700", "-o", "1", w.path(".snapshots", "s2"))
		run(t, "mkdir", "-m", "2755", w.path("d", ".snapshots", "s3"))
		if st := stat(t, w.path(".snapshots", "s1")); st.Mode&0o7777 != 0o755 {
			t.Errorf("mode of a snapshot's root: %o, want that of the root, 755", st.Mode&0o7777)
		}
		// A fork's root is the fork's to change.
		run(t, "mkdir", "-m", "700", w.path(".forks", "f"))
		if st := stat(t, w.path(".forks", "f")); st.Mode&0o7777 != 0o700 {
			t.Errorf("mode of a fork's root after mkdir -m 700: %o", st.Mode&0o7777)
		}
		if st := stat(t, w.dir); st.Mode&0o7777 != 0o755 {
			t.Errorf("mode of the root after mkdir -m 700 .forks/f: %o", st.Mode&0o7777)
		}
	})
}

func TestDeleteAndRenameOfSnapshots(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		plant(t, w)
		must(t, os.Mkdir(w.path("empty"), 0o755))
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		must(t, os.Mkdir(w.path(".snapshots", "s2"), 0o755))
		fails(t, "rmdir below the root", syscall.Rmdir(w.path("empty", ".snapshots", "s")), syscall.EPERM)
		fails(t, "rename below the root", syscall.Rename(w.path("a", ".snapshots", "s"), w.path("a", ".snapshots", "t")), syscall.EPERM)
		fails(t, "rename to the root's", syscall.Rename(w.path("a", ".snapshots", "s"), w.path(".snapshots", "t")), syscall.EPERM)
		exec.Command("rm", "-rf", w.path("empty", ".snapshots", "s")).Run()
		wantsList(t, w.path(".snapshots"), "s", "s2")

		must(t, os.Rename(w.path(".snapshots", "s"), w.path(".snapshots", "t")))
		wantsList(t, w.path(".snapshots"), "t", "s2")
		wantsList(t, w.path("a", ".snapshots"), "t", "s2")
		wants(t, w.path(".snapshots", "t", "a", "f"), "one")
		wants(t, w.path("a", ".snapshots", "t", "f"), "one")
		_, err := os.Stat(w.path(".snapshots", "s"))
		fails(t, "stat of the old name", err, syscall.ENOENT)
		_, err = os.Stat(w.path("a", ".snapshots", "s", "f"))
		fails(t, "stat of the old name", err, syscall.ENOENT)
		// mv knows that t2 is no directory to move into, and t is.
		run(t, "mv", "-T", w.path(".snapshots", "t"), w.path(".snapshots", "t2"))
		err = unix.Renameat2(unix.AT_FDCWD, w.path(".snapshots", "t2"), unix.AT_FDCWD, w.path(".snapshots", "s2"), 0)
		fails(t, "rename onto another", err, syscall.EEXIST)

		must(t, syscall.Rmdir(w.path(".snapshots", "t2")))
		wantsList(t, w.path(".snapshots"), "s2")
		fails(t, "rmdir again", syscall.Rmdir(w.path(".snapshots", "t2")), syscall.ENOENT)
		w.remount()
		wantsList(t, w.path(".snapshots"), "s2")
	})
}

func TestForks(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		plant(t, w)
		must(t, os.Mkdir(w.path(".forks", "f"), 0o755))
		write(t, w.path("a", "f"), "main")
		write(t, w.path(".forks", "f", "a", "f"), "fork")
		wants(t, w.path("a", "f"), "main")
		wants(t, w.path(".forks", "f", "a", "hard"), "fork")
		must(t, os.Remove(w.path(".forks", "f", "a", "b", "g")))
		wants(t, w.path("a", "b", "g"), "two")

		// Its snapshots are its own.
		must(t, os.Mkdir(w.path(".forks", "f", ".snapshots", "fs"), 0o755))
		wantsList(t, w.path(".forks", "f", ".snapshots"), "fs")
		wantsList(t, w.path(".snapshots"))
		write(t, w.path(".forks", "f", "a", "f"), "fork2")
		wants(t, w.path(".forks", "f", ".snapshots", "fs", "a", "f"), "fork")
		wants(t, w.path(".forks", "f", "a", ".snapshots", "fs", "f"), "fork")

		// A fork of the past: found there, listed in the present.
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		write(t, w.path("a", "f"), "later")
		must(t, os.Mkdir(w.path(".snapshots", "s", ".forks", "p"), 0o755))
		wants(t, w.path(".forks", "p", "a", "f"), "main")
		wants(t, w.path(".snapshots", "s", ".forks", "p", "a", "f"), "main")
		wantsList(t, w.path(".forks"), "f", "p")
		wantsList(t, w.path(".snapshots", "s", ".forks"))
		write(t, w.path(".snapshots", "s", ".forks", "p", "a", "f"), "p's")
		wants(t, w.path(".forks", "p", "a", "f"), "p's")

		// Forks of forks, renames and moves.
		must(t, os.Mkdir(w.path(".forks", "f", ".forks", "g"), 0o755))
		wants(t, w.path(".forks", "f", ".forks", "g", "a", "f"), "fork2")
		fails(t, "rmdir of a fork with forks", syscall.Rmdir(w.path(".forks", "f")), syscall.ENOTEMPTY)
		must(t, os.Rename(w.path(".forks", "f", ".forks", "g"), w.path(".forks", "g")))
		wantsList(t, w.path(".forks", "f", ".forks"))
		wants(t, w.path(".forks", "g", "a", "f"), "fork2")
		must(t, os.Rename(w.path(".forks", "g"), w.path(".forks", "h")))
		must(t, syscall.Rmdir(w.path(".forks", "f")))
		_, err := os.Stat(w.path(".forks", "f", "a"))
		fails(t, "stat in a deleted fork", err, syscall.ENOENT)
		wants(t, w.path(".forks", "h", "a", "f"), "fork2")
		must(t, syscall.Rmdir(w.path(".forks", "p")))
		_, err = os.Lstat(w.path(".snapshots", "s", ".forks", "p"))
		fails(t, "the link to a deleted fork", err, syscall.ENOENT)

		for _, x := range []string{"rename", "link"} {
			op := map[string]func(string, string) error{"rename": os.Rename, "link": os.Link}[x]
			fails(t, x+" into a fork", op(w.path("a", "f"), w.path(".forks", "h", "x")), syscall.EXDEV)
			fails(t, x+" out of a fork", op(w.path(".forks", "h", "a", "f"), w.path("x")), syscall.EXDEV)
		}
		w.remount()
		wantsList(t, w.path(".forks"), "h")
		wants(t, w.path(".forks", "h", "a", "f"), "fork2")
		wants(t, w.path("a", "f"), "later")
		w.call("check", "")
		w.call("check", "h")
	})
}

// TestMvDoesNotFallBackToCopying: mv(1) that hears EXDEV makes, copies and
// deletes, and in virtual directories these are something else.
func TestMvDoesNotFallBackToCopying(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		plant(t, w)
		must(t, os.MkdirAll(w.path("e"), 0o755))
		must(t, os.MkdirAll(w.path("p", "q"), 0o755))
		write(t, w.path("p", "q", "r"), "r")
		must(t, os.Mkdir(w.path(".snapshots", "s1"), 0o755))
		must(t, os.Mkdir(w.path(".snapshots", "pre"), 0o755))
		must(t, os.Mkdir(w.path(".forks", "k"), 0o755))
		must(t, os.Mkdir(w.path(".snapshots", "s1", ".forks", "z"), 0o755))
		must(t, os.Mkdir(w.path(".forks", "k", ".snapshots", "ks"), 0o755))
		for _, c := range [][2]string{
			{"e", ".snapshots/"}, {"e", ".forks/"}, {"e", "a/.snapshots/"}, {"p", ".forks/"}, {"p", ".snapshots/p"},
			{"a/f", ".snapshots/"}, {"a/l", ".forks/"}, {"e", ".snapshots/s1/.forks/"},
			{".snapshots/pre", ".forks/pp"}, {".forks/k", ".snapshots/"}, {".forks/k", "."}, {".forks/k", "p/"},
			{".snapshots/s1", "p/"}, {".snapshots/s1", "s1"}, {"p/.snapshots/s1", "p/x"}, {"p/.snapshots/s1", "e/.snapshots/x"},
			{".snapshots/s1", ".forks/k/.snapshots/"}, {".forks/k/.snapshots/ks", ".snapshots/"}, {".forks/k/.snapshots/ks", "."},
			{".snapshots/s1/.forks/z", "."}, {".snapshots/s1/.forks/z", ".snapshots/s1/.forks/m"}, {".snapshots/s1/.forks/z", ".forks/k/.forks/"},
			{".forks/k", ".snapshots/s1/.forks/m"},
		} {
			cmd := exec.Command("mv", c[0], c[1])
			cmd.Dir = w.dir
			if out, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("Operation not permitted")) {
				t.Errorf("mv %s %s: %v, want EPERM\n%s", c[0], c[1], err, out)
			}
			wantsList(t, w.dir, "a", "e", "p")
			wantsList(t, w.path("e"))
			wantsList(t, w.path("p"), "q")
			wantsList(t, w.path(".snapshots"), "s1", "pre")
			wantsList(t, w.path(".forks"), "k", "z")
			wantsList(t, w.path(".forks", "k", ".snapshots"), "ks")
			wantsList(t, w.path(".forks", "k", ".forks"))
			if t.Failed() {
				return
			}
		}
		for _, dir := range []string{"", ".snapshots/s1", ".snapshots/pre", ".forks/k", ".forks/z", ".forks/k/.snapshots/ks"} {
			wants(t, w.path(dir, "p", "q", "r"), "r")
			wants(t, w.path(dir, "a", "hard"), "one")
		}
		// What is in a snapshot is real: a copy is what is wanted.
		run(t, "cp", "-a", w.path(".snapshots", "s1", "p"), w.path("p2"))
		fails(t, "rename out of a fork", os.Rename(w.path(".forks", "k", "p"), w.path("p3")), syscall.EXDEV)
	})
}

// TestForkOfASnapshotIsALink: by the path of the snapshot it was made of.
func TestForkOfASnapshotIsALink(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		plant(t, w)
		sh := func(script string) string {
			t.Helper()
			cmd := exec.Command("sh", "-ec", script)
			cmd.Dir = w.dir
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v\n%s", script, err, out)
			}
			return strings.TrimSpace(string(out))
		}
		sh("mkdir .snapshots/s .forks/f; mkdir .snapshots/s/.forks/w; mv .forks/w .forks/f/.forks/")
		wantsList(t, w.path(".forks", "f", ".forks"), "w")
		wants(t, w.path(".forks", "f", ".forks", "w", "a", "f"), "one")
		_, err := os.Lstat(w.path(".snapshots", "s", ".forks", "w"))
		fails(t, "a fork that was moved away", err, syscall.ENOENT)

		// In one process, the first look-up is that of what mkdir made.
		c := w.path(".snapshots", "s", ".forks", "c")
		must(t, os.Mkdir(c, 0o755))
		write(t, filepath.Join(c, "new"), "new")
		wants(t, w.path(".forks", "c", "new"), "new")
		wantsLink := func(path, target string) syscall.Stat_t {
			t.Helper()
			st := stat(t, path)
			if got, err := os.Readlink(path); err != nil || got != target || st.Mode != syscall.S_IFLNK|0o777 || st.Size != int64(len(target)) {
				t.Errorf("%s: mode %o, size %d, to %q, %v; want a link to %s", path, st.Mode, st.Size, got, err, target)
			}
			return st
		}
		ino := wantsLink(c, "../../../.forks/c").Ino
		if real := stat(t, w.path(".forks", "c")).Ino; real == ino {
			t.Errorf("the link has the fork's inode number")
		}
		for _, name := range []string{"d", "e", "f", "g", "h", "i"} {
			c := w.path(".snapshots", "s", ".forks", name+"1")
			must(t, os.Mkdir(c, 0o755))
			var err error
			switch name {
			case "d":
				wantsList(t, c, "a")
			case "e":
				err = os.Mkdir(filepath.Join(c, "sub"), 0o755)
			case "g":
				err = os.MkdirAll(filepath.Join(c, "a", "b", "new", "er"), 0o755)
			case "h":
				_, err = os.Stat(filepath.Join(c, "a", "b", "g"))
			case "i":
				err = os.Symlink("x", filepath.Join(c, "y"))
			case "f":
				err = os.Rename(filepath.Join(c, "a"), filepath.Join(c, "b"))
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			must(t, syscall.Rmdir(w.path(".forks", name+"1")))
		}

		// cd through it, and stay.
		if got := sh("cd .snapshots/s/.forks/c; stat ../c/a >/dev/null; stat $OLDPWD/.forks/c/a >/dev/null; mkdir here; cp a/f here/f; pwd -P; ls ../../.snapshots/s/.forks/c/here"); got != w.path(".forks", "c")+"\nf" {
			t.Errorf("cd: %s", got)
		}
		if got := sh("cat .snapshots/s/.forks/c/here/f; cp .snapshots/s/.forks/c/a/f new; cat new; echo x > .snapshots/s/.forks/c/a/f; cat .forks/c/a/f"); got != "oneonex" {
			t.Errorf("cat and cp: %s", got)
		}
		// mkdir and rmdir there.
		fails(t, "mkdir of one that is there", os.Mkdir(c, 0o755), syscall.EEXIST)
		fails(t, "rmdir of the link", syscall.Rmdir(c), syscall.ENOTDIR)
		fails(t, "unlink of the link", syscall.Unlink(c), syscall.EPERM)
		fails(t, "rename of the link", os.Rename(c, c+"2"), syscall.EPERM)
		r := w.path(".snapshots", "s", ".forks", "r")
		must(t, os.Mkdir(r, 0o755))
		fails(t, "rmdir just after mkdir", syscall.Rmdir(r), syscall.ENOTDIR)
		sh("rmdir .forks/r")
		sh("mkdir -m 700 .snapshots/s/.forks/m; mkdir -m 2750 .snapshots/s/.forks/n")
		for name, mode := range map[string]uint32{"m": 0o700, "n": 0o2750} {
			if st := stat(t, w.path(".forks", name)); st.Mode&0o7777 != mode {
				t.Errorf("mode of a fork's root after mkdir -m: %o, want %o", st.Mode&0o7777, mode)
			}
		}
		sh("mkdir -p .snapshots/s/.forks/m .snapshots/s/.forks/p; ls .snapshots/s/.forks/p/a >/dev/null")
		if os.Geteuid() == 0 {
			sh("install -d -m 711 -o 1 .snapshots/s/.forks/i")
			if st := stat(t, w.path(".forks", "i")); st.Mode&0o7777 != 0o711 || st.Uid != 1 {
				t.Errorf("fork's root after install -d: mode %o, owner %d", st.Mode&0o7777, st.Uid)
			}
			fails(t, "chown of the link", os.Lchown(w.path(".snapshots", "s", ".forks", "i"), 2, 2), syscall.EPERM)
			must(t, os.Chown(w.path(".snapshots", "s", ".forks", "i"), 3, 3))
			if st := stat(t, w.path(".forks", "i")); st.Uid != 3 {
				t.Errorf("owner after a chown by the link: %d", st.Uid)
			}
			// Also where the kernel is wary of links: protected_symlinks.
			openWay(t, w.dir)
			must(t, unix.Chmod(w.path(".forks"), 0o1777))
			must(t, as(1000, "cat", w.path(".snapshots", "s", ".forks", "i", "a", "f")))
			must(t, as(1000, "mkdir", w.path(".snapshots", "s", ".forks", "j")))
			must(t, unix.Chmod(w.path(".forks"), 0o755))
		}
		// A name that another fork takes leads there, also from the cache.
		sh("mv .forks/c .forks/c1; mv .forks/m .forks/c")
		wantsLink(c, "../../../.forks/c")
		wantsLink(w.path(".snapshots", "s", ".forks", "c1"), "../../../.forks/c1")
		wants(t, w.path(".snapshots", "s", ".forks", "c1", "here", "f"), "one")
		if _, err := os.Stat(filepath.Join(c, "here")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the link leads to the fork that had its name: %v", err)
		}
		sh("mv .forks/c1 .forks/c2")
		wantsLink(w.path(".snapshots", "s", ".forks", "c2"), "../../../.forks/c2")

		// The snapshot of a fork.
		sh("mkdir .forks/f/.snapshots/x; mkdir .forks/f/.snapshots/x/.forks/y; cat .forks/f/.snapshots/x/.forks/y/a/f")
		wantsLink(w.path(".forks", "f", ".snapshots", "x", ".forks", "y"), "../../../.forks/y")
		wantsList(t, w.path(".forks", "f", ".forks"), "w", "y")

		w.remount()
		if got := wantsLink(w.path(".snapshots", "s", ".forks", "c2"), "../../../.forks/c2").Ino; got != ino {
			t.Errorf("inode number of a link after a remount: %#x, before %#x", got, ino)
		}
		wants(t, w.path(".snapshots", "s", ".forks", "c2", "here", "f"), "one")

		// A snapshot that is mounted alone shows directories.
		second := w.dir + "2"
		must(t, os.Mkdir(second, 0o755))
		defer syscall.Unmount(second, syscall.MNT_DETACH)
		w.call("mount", second, "%s")
		wants(t, filepath.Join(second, ".forks", "p", "a", "f"), "one")
		if st := stat(t, filepath.Join(second, ".forks", "p")); st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			t.Errorf("fork in a snapshot that is mounted alone: mode %o", st.Mode)
		}
		fails(t, "rmdir there", syscall.Rmdir(filepath.Join(second, ".forks", "p")), syscall.EROFS)
		w.call("unmount", second)
		w.call("check", "")
	})
}

// TestForksOfASnapshotComeAndGoUnderReaders: who makes forks by that path is
// not disturbed by those who look there.
func TestForksOfASnapshotComeAndGoUnderReaders(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		plant(t, w)
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 2 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					for _, below := range []string{"", "a/b/g"} {
						_, err := os.Stat(w.path(".snapshots", "s", ".forks", fmt.Sprint(i%3), below))
						if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESTALE) {
							t.Error(err)
							return
						}
					}
				}
			}()
		}
		for i := range 60 {
			name := fmt.Sprint(i % 3)
			if i%2 == 0 {
				run(t, "mkdir", w.path(".snapshots", "s", ".forks", name))
			} else {
				must(t, os.Mkdir(w.path(".snapshots", "s", ".forks", name), 0o755))
			}
			write(t, w.path(".snapshots", "s", ".forks", name, "a", "new"), "new")
			wants(t, w.path(".snapshots", "s", ".forks", name, "a", "b", "g"), "two")
			must(t, syscall.Rmdir(w.path(".forks", name)))
		}
		close(stop)
		wg.Wait()
	})
}

func TestTenForksDeep(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		dir := w.dir
		for i := range 10 {
			write(t, filepath.Join(dir, fmt.Sprint(i)), fmt.Sprint(i))
			must(t, os.Mkdir(filepath.Join(dir, ".snapshots", "s"), 0o755))
			write(t, filepath.Join(dir, fmt.Sprint(i)), "after")
			must(t, os.Mkdir(filepath.Join(dir, ".snapshots", "s", ".forks", "f"), 0o755))
			dir = filepath.Join(dir, ".forks", "f")
		}
		for i := range 10 {
			wants(t, filepath.Join(dir, fmt.Sprint(i)), fmt.Sprint(i))
		}
		write(t, filepath.Join(dir, "0"), "deep")
		wants(t, w.path("0"), "after")
	})
}

func TestDeletedViewIsGoneAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		plant(t, w)
		for _, c := range []struct{ name, view, inside string }{
			{"snapshot", ".snapshots/s", ".snapshots/s/a"},
			{"snapshot by its directory", ".snapshots/s", "a/.snapshots/s"},
			{"fork", ".forks/f", ".forks/f/a"},
			{"snapshot of a fork", ".forks/f", ".forks/f/a/.snapshots/fs"},
		} {
			must(t, os.Mkdir(w.path(c.view), 0o755))
			if c.name == "snapshot of a fork" {
				must(t, os.Mkdir(w.path(c.view, ".snapshots", "fs"), 0o755))
			}
			dir, err := os.Open(w.path(c.inside))
			must(t, err)
			f, err := os.Open(w.path(c.inside, "f"))
			must(t, err)
			buf := make([]byte, 3)
			_, err = f.ReadAt(buf, 0)
			must(t, err)
			must(t, syscall.Rmdir(w.path(c.view)))

			var st syscall.Stat_t
			fails(t, c.name+": fstat of a directory", syscall.Fstat(int(dir.Fd()), &st), syscall.ESTALE)
			fails(t, c.name+": fstat of a file", syscall.Fstat(int(f.Fd()), &st), syscall.ESTALE)
			_, err = f.ReadAt(buf, 0)
			fails(t, c.name+": read", err, syscall.ESTALE)
			_, err = dir.Readdirnames(-1)
			fails(t, c.name+": readdir", err, syscall.ESTALE)
			_, err = unix.Openat(int(dir.Fd()), "f", unix.O_RDONLY, 0)
			fails(t, c.name+": openat", err, syscall.ESTALE)
			_, err = os.Stat(w.path(c.inside, "f"))
			fails(t, c.name+": stat", err, syscall.ENOENT)
			// A new one by the same name is another one.
			must(t, os.Mkdir(w.path(c.view), 0o755))
			fails(t, c.name+": fstat, new one there", syscall.Fstat(int(f.Fd()), &st), syscall.ESTALE)
			if c.name != "snapshot of a fork" {
				wants(t, w.path(c.inside, "f"), "one")
			}
			must(t, syscall.Rmdir(w.path(c.view)))
			dir.Close()
			f.Close()
		}
	})
}

func TestGoneForOtherMountsToo(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		plant(t, w)
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		must(t, os.Mkdir(w.path(".forks", "f"), 0o755))
		must(t, os.Mkdir(w.path(".forks", "g"), 0o755))
		second := w.dir + "2"
		must(t, os.Mkdir(second, 0o755))
		defer syscall.Unmount(second, syscall.MNT_DETACH)

		// A snapshot can be mounted any number of times, and alone it shows
		// plain numbers.
		w.call("mount", second, "%s")
		wants(t, filepath.Join(second, "a", "f"), "one")
		if st := stat(t, filepath.Join(second, "a", "f")); st.Ino != stat(t, w.path("a", "f")).Ino {
			t.Errorf("inode number in a snapshot mounted alone: %d", st.Ino)
		}
		_, err := os.Create(filepath.Join(second, "x"))
		fails(t, "create in a snapshot mounted alone", err, syscall.EROFS)
		must(t, syscall.Rmdir(w.path(".snapshots", "s")))
		var st syscall.Stat_t
		fails(t, "stat in the other mount", syscall.Lstat(filepath.Join(second, "a", "f"), &st), syscall.ESTALE)
		w.call("unmount", second)

		// A fork is served by one mount at a time; that it was seen before in
		// another one is no hindrance.
		wants(t, w.path(".forks", "f", "a", "f"), "one")
		w.call("mount", second, "f")
		write(t, filepath.Join(second, "a", "f"), "alone")
		_, err = os.Stat(w.path(".forks", "f"))
		fails(t, "fork in use elsewhere", err, syscall.EBUSY)
		wantsList(t, w.path(".forks"), "f", "g")
		if _, err := os.Stat(filepath.Join(second, ".forks")); err != nil {
			t.Error(err)
		}
		w.call("unmount", second)
		wants(t, w.path(".forks", "f", "a", "f"), "alone")
		open, err := os.Open(w.path(".forks", "g", "a", "f"))
		must(t, err)
		if err := w.try("mount", second, "g"); err == nil {
			t.Error("a fork with an open file was mounted a second time")
		}
		open.Close()
		w.call("mount", second, "g")
		w.call("unmount", second)

		// By another way than this mount.
		open, err = os.Open(w.path(".forks", "g", "a", "f"))
		must(t, err)
		defer open.Close()
		w.call("delete-fork", "g")
		fails(t, "fstat after a command", syscall.Fstat(int(open.Fd()), &st), syscall.ESTALE)
		_, err = os.Stat(w.path(".forks", "g"))
		fails(t, "stat after a command", err, syscall.ENOENT)
	})
}

func TestInodeNumbersTellViewsApart(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		plant(t, w)
		must(t, os.Mkdir(w.path(".snapshots", "s1"), 0o755))
		must(t, os.Mkdir(w.path(".snapshots", "s2"), 0o755))
		must(t, os.Mkdir(w.path(".forks", "f"), 0o755))
		seen := make(map[uint64]string)
		for _, p := range []string{
			"a/f", ".snapshots/s1/a/f", ".snapshots/s2/a/f", ".forks/f/a/f", ".", "a",
			".snapshots", "a/.snapshots", ".forks", ".forks/f", ".forks/f/.snapshots", ".forks/f/.forks", ".snapshots/s1", ".snapshots/s1/.forks",
		} {
			ino := stat(t, w.path(p)).Ino
			if seen[ino] != "" {
				t.Errorf("%s and %s have one inode number, %#x", p, seen[ino], ino)
			}
			seen[ino] = p
		}
		if a, b := stat(t, w.path(".snapshots", "s1", "a", "f")), stat(t, w.path("a", ".snapshots", "s1", "f")); a.Ino != b.Ino {
			t.Errorf("one file by two ways: %#x and %#x", a.Ino, b.Ino)
		}
		// What readdir says is what stat says.
		for _, dir := range []string{"", "a", ".snapshots", ".forks", "a/.snapshots", ".snapshots/s1", ".forks/f", "a/.snapshots/s1"} {
			entries := direntInos(t, w.path(dir))
			for name, ino := range entries {
				if got := stat(t, w.path(dir, name)).Ino; name != "." && name != ".." && got != ino {
					t.Errorf("%s/%s: readdir says %#x, stat %#x", dir, name, ino, got)
				}
			}
			if got := stat(t, w.path(dir)).Ino; entries["."] != got {
				t.Errorf("%s/.: readdir says %#x, stat %#x", dir, entries["."], got)
			}
			if got := stat(t, w.path(dir)+"/..").Ino; dir != "" && entries[".."] != got {
				t.Errorf("%s/..: readdir says %#x, stat %#x", dir, entries[".."], got)
			}
		}
		before := stat(t, w.path(".snapshots", "s1", "a", "f")).Ino
		w.remount()
		if after := stat(t, w.path(".snapshots", "s1", "a", "f")).Ino; after != before {
			t.Errorf("inode number in a snapshot after a remount: %#x, before %#x", after, before)
		}
	})
}

// direntInos returns the inode numbers that getdents64(2) tells.
func direntInos(t *testing.T, dir string) map[string]uint64 {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(fd)
	inos := make(map[string]uint64)
	for _, e := range getdents(t, fd, 1<<16) {
		inos[e.name] = e.ino
	}
	return inos
}

func TestToolsTellThePastFromThePresent(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		plant(t, w)
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		snapshot := w.path(".snapshots", "s", "a")
		run(t, "diff", "-r", snapshot, w.path("a"))
		write(t, w.path("a", "f"), "six") // as long as before
		if out, err := exec.Command("diff", "-r", snapshot, w.path("a")).CombinedOutput(); err == nil {
			t.Errorf("diff sees no difference\n%s", out)
		}
		if err := exec.Command("cmp", filepath.Join(snapshot, "f"), w.path("a", "f")).Run(); err == nil {
			t.Error("cmp sees no difference")
		}
		tar := filepath.Join(t.TempDir(), "tar")
		run(t, "tar", "-cf", tar, "-C", w.dir, "a/f", ".snapshots/s/a/f")
		if out := run(t, "tar", "-tvf", tar); strings.Contains(out, "link to") {
			t.Errorf("tar takes the past for a link to the present\n%s", out)
		}
		run(t, "cp", filepath.Join(snapshot, "f"), w.path("a", "f"))
		wants(t, w.path("a", "f"), "one")
		run(t, "cp", "-a", snapshot, w.path("copy"))
		run(t, "diff", "-r", snapshot, w.path("copy"))
		if out := run(t, "find", snapshot, w.path("a"), "-type", "f"); strings.Count(out, "\n") != 6 {
			t.Errorf("find:\n%s", out)
		}
		run(t, "rm", "-rf", w.path("a"))
		wants(t, filepath.Join(snapshot, "f"), "one")
		wantsList(t, w.dir, "copy")
	})
}

func TestWhoMayTakeSnapshots(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED: needs root")
	}
	onEach(t, func(t *testing.T, w *world) {
		openWay(t, w.dir)
		must(t, os.Mkdir(w.path("d"), 0o777))
		must(t, os.Chmod(w.path("d"), 0o777))
		for _, dir := range []string{".snapshots", ".forks"} {
			if st := stat(t, w.path(dir)); st.Mode != syscall.S_IFDIR|0o755 || st.Uid != 0 {
				t.Errorf("%s: mode %o, owner %d", dir, st.Mode, st.Uid)
			}
			if as(1000, "mkdir", w.path(dir, "x")) == nil {
				t.Errorf("anybody may mkdir in %s", dir)
			}
			if as(1000, "chmod", "777", w.path(dir)) == nil {
				t.Errorf("anybody may chmod %s", dir)
			}
			must(t, os.Chown(w.path(dir), 1000, 1000))
			must(t, as(1000, "mkdir", w.path(dir, "x")))
			must(t, as(1000, "rmdir", w.path(dir, "x")))
			must(t, as(1000, "chmod", "700", w.path(dir)))
			if as(1001, "ls", w.path(dir)) == nil {
				t.Errorf("anybody may list %s of mode 700", dir)
			}
			must(t, os.Chown(w.path(dir), 0, 0))
			must(t, unix.Chmod(w.path(dir), 0o1775))
		}
		if as(1000, "mkdir", w.path("d", ".snapshots", "x")) == nil {
			t.Error("who may write in a directory may take snapshots of the fork")
		}
		w.remount()
		openWay(t, w.dir)
		for _, dir := range []string{".snapshots", ".forks", "d/.snapshots"} {
			if st := stat(t, w.path(dir)); st.Mode != syscall.S_IFDIR|0o1775 {
				t.Errorf("%s: mode %o after a remount, want 1775", dir, st.Mode&0o7777)
			}
		}
	})
}

// openWay lets every user reach a directory that only root could.
func openWay(t *testing.T, dir string) {
	t.Helper()
	for p := filepath.Dir(dir); p != "/" && p != os.TempDir(); p = filepath.Dir(p) {
		must(t, os.Chmod(p, 0o755))
	}
}

// statsUnderRenames looks at each part of a path below several directories
// all the time, while x/d is renamed to y/d and back.
func statsUnderRenames(t *testing.T, w *world, below string, dirs ...string) {
	t.Helper()
	stop := time.Now().Add(2 * time.Second)
	var stats, renames atomic.Int64
	var wg sync.WaitGroup
	for _, p := range dirs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var st syscall.Stat_t
			paths := []string{p}
			for _, part := range strings.Split(below, "/") {
				paths = append(paths, filepath.Join(paths[len(paths)-1], part))
			}
			for time.Now().Before(stop) && !t.Failed() {
				for _, q := range paths {
					if err := syscall.Stat(q, &st); err != nil {
						t.Errorf("stat %s, after %d: %v", q, stats.Load(), err)
						return
					}
					stats.Add(1)
				}
			}
		}()
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		from, to := w.path("x", "d"), w.path("y", "d")
		for time.Now().Before(stop) && !t.Failed() {
			if err := os.Rename(from, to); err != nil {
				t.Error(err)
				return
			}
			from, to = to, from
			renames.Add(1)
		}
	}()
	wg.Wait()
	t.Logf("%d stats, %d renames", stats.Load(), renames.Load())
}

// TestTwoPathsToOneFork: one of them is a link.
func TestTwoPathsToOneFork(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		must(t, os.MkdirAll(w.path("a", "sub"), 0o755))
		write(t, w.path("a", "sub", "f"), "f")
		must(t, os.MkdirAll(w.path("x", "d"), 0o755))
		must(t, os.MkdirAll(w.path("y"), 0o755))
		must(t, os.Mkdir(w.path(".snapshots", "S"), 0o755))
		must(t, os.Mkdir(w.path(".snapshots", "S", ".forks", "c"), 0o755))
		real := w.path(".forks", "c", "a")
		d, err := os.Open(w.path(".snapshots", "S", ".forks", "c", "a"))
		must(t, err)
		defer d.Close()
		statsUnderRenames(t, w, "sub/f", real, w.path(".snapshots", "S", ".forks", "c", "a"))
		if got, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", d.Fd())); got != real {
			t.Errorf("an open directory moved to %s", got)
		}
	})
}

// TestTwoPathsToOneDirectory: Linux has one path for each directory inode.
func TestTwoPathsToOneDirectory(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		must(t, os.MkdirAll(w.path("a", "sub"), 0o755))
		write(t, w.path("a", "sub", "f"), "f")
		must(t, os.MkdirAll(w.path("x"), 0o755))
		must(t, os.MkdirAll(w.path("y"), 0o755))
		must(t, os.Mkdir(w.path("x", "d"), 0o755))
		must(t, os.Mkdir(w.path(".snapshots", "S"), 0o755))
		statsUnderRenames(t, w, "sub/f", w.path(".snapshots", "S", "a"), w.path("a", ".snapshots", "S"))
		// A working directory stays where it is.
		d1, err := os.Open(w.path("a", ".snapshots", "S", "sub"))
		must(t, err)
		defer d1.Close()
		stat(t, w.path(".snapshots", "S", "a", "sub"))
		if got, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", d1.Fd())); got != w.path("a", ".snapshots", "S", "sub") {
			t.Errorf("an open directory moved to %s", got)
		}
	})
}

func TestPastOfADirectoryThatGoes(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		must(t, os.Mkdir(w.path("d"), 0o755))
		write(t, w.path("d", "f"), "f")
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		past, err := os.Open(w.path("d", ".snapshots", "s"))
		must(t, err)
		defer past.Close()
		must(t, os.Rename(w.path("d"), w.path("e")))
		wants(t, w.path("e", ".snapshots", "s", "f"), "f")
		run(t, "rm", "-r", w.path("e"))
		fd, err := unix.Openat(int(past.Fd()), "f", unix.O_RDONLY, 0)
		if err != nil {
			t.Fatalf("open in the past of a directory that is gone: %v", err)
		}
		unix.Close(fd)
		wantsList(t, w.path(".snapshots", "s"), "d")
		wantsList(t, w.dir)
	})
}

func TestOtherNamesForTheDoors(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		plant(t, w)
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		w.call("unmount", w.dir)
		w.call("mount", w.dir, "", ".history", "none")
		wants(t, w.path("a", ".history", "s", "f"), "one")
		for _, name := range []string{".snapshots", ".forks"} {
			_, err := os.Stat(w.path(name))
			fails(t, "stat "+name, err, syscall.ENOENT)
			must(t, os.Mkdir(w.path(name), 0o755))
		}
		write(t, w.path(".forks", "x"), "x")
		w.call("unmount", w.dir)
		w.call("mount", w.dir, "")
		// What has the names now is out of sight, and not lost.
		wantsList(t, w.dir, "a")
		wantsList(t, w.path(".snapshots"), "s")
		w.call("unmount", w.dir)
		w.call("mount", w.dir, "", "none", "none")
		wants(t, w.path(".forks", "x"), "x")
		wantsList(t, w.dir, ".forks", ".snapshots", "a")
	})
}

func TestViewsComeAndGoUnderReaders(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		plant(t, w)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for _, dir := range []string{".snapshots", "a/.snapshots", ".forks"} {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for {
					select {
					case <-stop:
						return
					default:
						readViews(t, w.path(dir))
					}
				}
			}()
		}
		for i := range 100 {
			for _, dir := range []string{".snapshots", ".forks"} {
				p := w.path(dir, fmt.Sprint(i%3))
				must(t, os.Mkdir(p, 0o755))
				wants(t, filepath.Join(p, "a", "b", "g"), "two")
				if dir == ".forks" {
					write(t, filepath.Join(p, "a", "f"), "fork")
				}
			}
			write(t, w.path("a", "f"), fmt.Sprint(i))
			if i >= 2 {
				must(t, syscall.Rmdir(w.path(".snapshots", fmt.Sprint((i-2)%3))))
				must(t, syscall.Rmdir(w.path(".forks", fmt.Sprint((i-2)%3))))
			}
		}
		close(stop)
		wg.Wait()
	})
}

// readViews reads a file in each view that a virtual directory lists. That a
// view is gone in between is no error, anything else is.
func readViews(t *testing.T, dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Errorf("list %s: %v", dir, err)
		return
	}
	for _, e := range entries {
		for _, f := range []string{"f", "a/f"} {
			_, err := os.ReadFile(filepath.Join(dir, e.Name(), f))
			if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESTALE) {
				t.Errorf("read in %s: %v", filepath.Join(dir, e.Name()), err)
				return
			}
		}
	}
}

// Like any directory, a virtual one tells when what it lists changed.
func TestListingsTellWhenTheyChanged(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		for _, dir := range []string{".snapshots", ".forks"} {
			at := func() time.Time { st := stat(t, w.path(dir)); return time.Unix(st.Mtim.Unix()) }
			last := at()
			for _, c := range []struct {
				what   string
				change func() error
			}{
				{"mkdir", func() error { return os.Mkdir(w.path(dir, "a"), 0o755) }},
				{"rename", func() error { return os.Rename(w.path(dir, "a"), w.path(dir, "b")) }},
				{"rmdir", func() error { return os.Remove(w.path(dir, "b")) }},
			} {
				must(t, c.change())
				now := at()
				if !now.After(last) {
					t.Errorf("%s: %s leaves its time at %v", dir, c.what, now)
				}
				last = now
			}
			must(t, os.Mkdir(w.path(dir, "kept"), 0o755))
			last = at()
			w.remount()
			if now := at(); !now.Equal(last) {
				t.Errorf("%s: changed at %v after a remount, want %v", dir, now, last)
			}
		}
	})
}
