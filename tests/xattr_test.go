package tests

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestXattrRules is what setxattr(2) and its like say.
func TestXattrRules(t *testing.T) {
	needRoot(t)
	onEach(t, func(t *testing.T, w *world) {
		openWay(t, w.dir)
		write(t, w.path("f"), "")
		must(t, os.Mkdir(w.path("d"), 0o755))
		must(t, os.Symlink("f", w.path("l")))
		must(t, unix.Mknod(w.path("p"), unix.S_IFIFO|0o644, 0))
		must(t, unix.Mknod(w.path("c"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))))
		long := "user." + strings.Repeat("n", 250)
		for _, c := range []struct {
			path, name string
			bytes      int
			flags      int
			want       error
		}{
			{"f", "user.a", 3, 0, nil},
			{"f", "user.a", 4, unix.XATTR_CREATE, syscall.EEXIST},
			{"f", "user.a", 5, unix.XATTR_REPLACE, nil},
			{"f", "user.b", 5, unix.XATTR_REPLACE, syscall.ENODATA},
			{"f", "user.b", 0, unix.XATTR_CREATE, nil},
			{"f", "user.b", 0, unix.XATTR_CREATE | unix.XATTR_REPLACE, syscall.EEXIST},
			{"f", "user.c", 0, unix.XATTR_CREATE | unix.XATTR_REPLACE, syscall.ENODATA},
			{"f", "user.c", 0, 4, syscall.EINVAL},
			{"f", "user.big", 64 << 10, 0, nil},
			{"f", "user.big", 64<<10 + 1, 0, syscall.E2BIG},
			{"f", "", 1, 0, syscall.ERANGE},
			{"f", "user.", 1, 0, syscall.EINVAL},
			{"f", "user", 1, 0, syscall.EOPNOTSUPP},
			{"f", "trusted.", 1, 0, syscall.EINVAL},
			{"f", "other.a", 1, 0, syscall.EOPNOTSUPP},
			{"f", "system.a", 1, 0, syscall.EOPNOTSUPP},
			{"f", long, 1, 0, nil},
			{"f", long + "n", 1, 0, syscall.ERANGE},
			{"f", "user.\xff\x01/=", 1, 0, nil},
			{"d", "user.a", 1, 0, nil},
			{"l", "user.a", 1, 0, syscall.EPERM},
			{"p", "user.a", 1, 0, syscall.EPERM},
			{"c", "user.a", 1, 0, syscall.EPERM},
			{"l", "trusted.a", 1, 0, nil},
			{"p", "trusted.a", 1, 0, nil},
			{"c", "security.a", 1, 0, nil},
		} {
			path, val := w.path(c.path), bytes.Repeat([]byte("v"), c.bytes)
			what := fmt.Sprintf("setxattr %s %.20q %d bytes, %d", c.path, c.name, c.bytes, c.flags)
			err := unix.Lsetxattr(path, c.name, val, c.flags)
			if c.want != nil {
				fails(t, what, err, c.want.(syscall.Errno))
				continue
			}
			buf := make([]byte, 64<<10)
			n, getErr := unix.Lgetxattr(path, c.name, buf)
			size, sizeErr := unix.Lgetxattr(path, c.name, nil)
			if err != nil || getErr != nil || sizeErr != nil || size != c.bytes || !bytes.Equal(buf[:n], val) {
				t.Errorf("%s: %v; get: %d bytes, %v; size: %d, %v", what, err, n, getErr, size, sizeErr)
			}
		}
		for _, c := range []struct {
			path, name string
			buf        int
			want       syscall.Errno
		}{
			{"f", "user.a", 4, syscall.ERANGE},
			{"f", "user.no", 4, syscall.ENODATA},
			{"l", "user.a", 4, syscall.ENODATA},
			{"f", "other.a", 4, syscall.EOPNOTSUPP},
			{"f", "", 4, syscall.ERANGE},
			{"f", long + "n", 4, syscall.ERANGE},
			{"no", "user.a", 4, syscall.ENOENT},
		} {
			_, err := unix.Lgetxattr(w.path(c.path), c.name, make([]byte, c.buf))
			fails(t, fmt.Sprintf("getxattr %s %.20q", c.path, c.name), err, c.want)
		}
		fails(t, "removexattr", unix.Removexattr(w.path("f"), "user.no"), syscall.ENODATA)
		fails(t, "removexattr of a FIFO", unix.Removexattr(w.path("p"), "user.no"), syscall.EPERM)
		fails(t, "removexattr, unknown space", unix.Removexattr(w.path("f"), "other.no"), syscall.EOPNOTSUPP)

		// trusted. is for CAP_SYS_ADMIN, user. for who may read and write.
		must(t, unix.Setxattr(w.path("f"), "trusted.t", []byte("t"), 0))
		other := newActor(t, cred{uid: 1000, gid: 1000})
		other.do(func() {
			_, err := unix.Getxattr(w.path("f"), "trusted.t", nil)
			fails(t, "trusted. by a user", err, syscall.ENODATA)
			fails(t, "set trusted. by a user", unix.Setxattr(w.path("f"), "trusted.t", nil, 0), syscall.EPERM)
			fails(t, "set user. by who may not write", unix.Setxattr(w.path("f"), "user.a", nil, 0), syscall.EACCES)
			fails(t, "set security. by a user", unix.Setxattr(w.path("f"), "security.a", nil, 0), syscall.EPERM)
			if n, err := unix.Getxattr(w.path("f"), "user.a", nil); n != 5 || err != nil {
				t.Errorf("user. by who may read: %d, %v", n, err)
			}
			buf := make([]byte, 1<<10)
			n, err := unix.Listxattr(w.path("f"), buf)
			if list := string(buf[:max(n, 0)]); err != nil || !strings.Contains(list, "user.a\x00") {
				t.Errorf("list by a user: %q, %v", list, err)
			}
		})
		w.remount()
		w.call("check", "")
	})
}

// TestManyXattrs: a list of more than 64 KiB can't be had in Linux, but each
// of its names works.
func TestManyXattrs(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		write(t, w.path("f"), "")
		name := func(i int) string { return fmt.Sprintf("user.%04d", i) + strings.Repeat("n", 55) }
		const fit, all = (64 << 10) / 65, 1100
		for i := range all {
			must(t, unix.Setxattr(w.path("f"), name(i), []byte(name(i)), unix.XATTR_CREATE))
			if i != fit-1 && i != fit {
				continue
			}
			n, err := unix.Listxattr(w.path("f"), make([]byte, 64<<10))
			if i == fit-1 && (n != fit*65 || err != nil) {
				t.Errorf("list of %d names: %d bytes, %v", i+1, n, err)
			}
			if i == fit {
				fails(t, "list of more than 64 KiB", err, syscall.E2BIG)
			}
		}
		_, err := unix.Listxattr(w.path("f"), make([]byte, 10))
		fails(t, "list into ten bytes", err, syscall.ERANGE)
		w.remount()
		for i := range all {
			buf := make([]byte, 100)
			n, err := unix.Getxattr(w.path("f"), name(i), buf)
			if err != nil || string(buf[:n]) != name(i) {
				t.Fatalf("%s: %q, %v", name(i), buf[:max(n, 0)], err)
			}
			if i >= 10 {
				must(t, unix.Removexattr(w.path("f"), name(i)))
			}
		}
		if n, err := unix.Listxattr(w.path("f"), make([]byte, 64<<10)); n != 650 || err != nil {
			t.Errorf("list of ten names: %d bytes, %v", n, err)
		}
		w.call("check", "")
	})
}

// TestCapabilitiesGoAsOnExt4: what takes security.capability from a file, and
// what does not.
func TestCapabilitiesGoAsOnExt4(t *testing.T) {
	needTool(t, "setcap", "getcap")
	ref := needReference(t)
	onEach(t, func(t *testing.T, w *world) {
		openWay(t, w.dir)
		who := map[string]*actor{"root": newActor(t, cred{}), "another": newActor(t, cred{uid: 1000, gid: 1000})}
		lost := 0
		for _, c := range []struct {
			what string
			do   func(path string) error
		}{
			{"write", func(p string) error { return os.WriteFile(p, []byte("x"), 0) }},
			{"append", func(p string) error { return withFile(p, os.O_WRONLY|os.O_APPEND, writeByte) }},
			{"open", func(p string) error { return withFile(p, os.O_RDWR, func(*os.File) error { return nil }) }},
			{"open, truncate", func(p string) error {
				return withFile(p, os.O_WRONLY|os.O_TRUNC, func(*os.File) error { return nil })
			}},
			{"truncate", func(p string) error { return os.Truncate(p, 2) }},
			{"truncate to its size", func(p string) error { return os.Truncate(p, 4) }},
			{"fallocate", func(p string) error {
				return withFile(p, os.O_RDWR, func(f *os.File) error { return unix.Fallocate(int(f.Fd()), 0, 0, 10) })
			}},
			{"copy", func(p string) error {
				return withFile(p, os.O_RDWR, func(f *os.File) error {
					off := int64(2)
					_, err := unix.CopyFileRange(int(f.Fd()), new(int64), int(f.Fd()), &off, 1, 0)
					return err
				})
			}},
			{"chmod", func(p string) error { return unix.Chmod(p, 0o777) }},
			{"chown", func(p string) error { return unix.Chown(p, 0, 0) }},
			{"chown to another", func(p string) error { return unix.Chown(p, 1, -1) }},
			{"times", func(p string) error { return unix.UtimesNano(p, make([]unix.Timespec, 2)) }},
			{"rename", func(p string) error { return os.Rename(p, p+"2") }},
			{"link", func(p string) error { return os.Link(p, p+"2") }},
			{"set another", func(p string) error { return unix.Setxattr(p, "user.a", nil, 0) }},
		} {
			for name, a := range who {
				var got [2]string
				for side, dir := range []string{w.path(), ref} {
					dir = filepath.Join(dir, w.kind+name)
					must(t, os.RemoveAll(dir))
					must(t, os.Mkdir(dir, 0o755))
					must(t, unix.Chmod(dir, 0o777))
					p := filepath.Join(dir, "f")
					write(t, p, "text")
					must(t, unix.Chmod(p, 0o777))
					run(t, "setcap", "cap_net_raw+ep", p)
					a.do(func() { got[side] = fmt.Sprint(c.do(p) == nil, ": ") })
					for _, p := range []string{p, p + "2"} {
						if _, err := os.Lstat(p); err == nil {
							out := run(t, "getcap", p)
							got[side] += strings.TrimPrefix(strings.TrimSpace(out), p)
							if out == "" {
								lost++
							}
						}
					}
				}
				if got[0] != got[1] {
					t.Errorf("%s by %s: got %q, on ext4 %q", c.what, name, got[0], got[1])
				}
			}
		}
		if lost < 20 {
			t.Errorf("lost in %d cases only: nothing was tested", lost)
		}
		w.call("check", "")
	})
}

// TestNoXattr: with -o noxattr the kernel asks for no attributes, and a file that is
// changed loses its capabilities all the same.
func TestNoXattr(t *testing.T) {
	needTool(t, "setcap", "getcap", "setfacl", "getfacl")
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED: not root")
	}
	onTransports(t, func(t *testing.T, transport string) {
		store, dir := newMount(t, "-o", transport)
		path := func(name string) string { return filepath.Join(dir, name) }
		names := []string{"kept", "written", "appended", "truncated", "owned", "allocated"}
		for _, name := range names {
			writeFile(t, path(name), "text")
			run(t, "setcap", "cap_net_raw+ep", path(name))
			must(t, unix.Setxattr(path(name), "user.a", []byte("b"), 0))
		}
		writeFile(t, path("acl"), "text")
		run(t, "setfacl", "-m", "u:1000:rwx", path("acl"))
		acl := run(t, "getfacl", "-cnp", path("acl"))
		dcfs(t, "umount", dir)

		dcfs(t, "mount", "--debug", "-o", "noxattr,"+transport, store, dir)
		_, err := unix.Getxattr(path("kept"), "user.a", nil)
		fails(t, "get", err, syscall.EOPNOTSUPP)
		_, err = unix.Listxattr(path("kept"), nil)
		fails(t, "list", err, syscall.EOPNOTSUPP)
		fails(t, "set", unix.Setxattr(path("kept"), "user.c", []byte("b"), 0), syscall.EOPNOTSUPP)
		fails(t, "remove", unix.Removexattr(path("kept"), "user.a"), syscall.EOPNOTSUPP)
		requests := func() int {
			log, err := os.ReadFile(filepath.Join(store, "dcfs.log"))
			must(t, err)
			return strings.Count(string(log), ": GETXATTR ")
		}
		before := requests()
		if before == 0 {
			t.Fatal("no request is in the log")
		}
		must(t, withFile(path("written"), os.O_WRONLY, writeByte))
		must(t, withFile(path("appended"), os.O_WRONLY|os.O_APPEND, writeByte))
		must(t, os.Truncate(path("truncated"), 2))
		must(t, os.Chown(path("owned"), 1, 1))
		must(t, withFile(path("allocated"), os.O_WRONLY, func(f *os.File) error { return unix.Fallocate(int(f.Fd()), 0, 0, 100) }))
		for i := range 20 {
			name := path(fmt.Sprint("new", i))
			writeFile(t, name, "text")
			must(t, os.Chown(name, 1, 1))
		}
		if got := requests() - before; got != 0 {
			t.Errorf("%d requests for attributes", got)
		}
		dcfs(t, "umount", dir)

		dcfs(t, "mount", "-o", transport, store, dir)
		for i, name := range names {
			if got := run(t, "getcap", path(name)); (got != "") != (i == 0) {
				t.Errorf("%s has capabilities %q", name, got)
			}
			b := make([]byte, 10)
			if n, err := unix.Getxattr(path(name), "user.a", b); err != nil || string(b[:n]) != "b" {
				t.Errorf("%s: user.a is %q (%v)", name, b[:max(n, 0)], err)
			}
		}
		if got := run(t, "getfacl", "-cnp", path("acl")); got != acl {
			t.Errorf("after it:\n%s, want\n%s", got, acl)
		}
	})
}

func writeByte(f *os.File) error {
	_, err := f.Write([]byte("x"))
	return err
}

func withFile(path string, flags int, do func(f *os.File) error) error {
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return do(f)
}
