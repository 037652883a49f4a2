package inode

import (
	"strings"
	"testing"

	"dcfs/snap"
)

// TestNamesAreCheckedAsLinuxDoes: what each operation says of names that
// cannot be.
func TestNamesAreCheckedAsLinuxDoes(t *testing.T) {
	x := newFixture(t)
	x.mkdir("d")
	x.create("f", "")
	const dir = snap.RootIno
	ops := map[string]func(name string) error{
		"mknod":   func(n string) error { _, err := x.fs.Mknod(bg, x.view, dir, n, root, 0644, 0); return err },
		"mkdir":   func(n string) error { _, err := x.fs.Mkdir(bg, x.view, dir, n, root, 0755); return err },
		"symlink": func(n string) error { _, err := x.fs.Symlink(bg, x.view, dir, n, root, "t"); return err },
		"link":    func(n string) error { _, err := x.fs.Link(bg, x.view, x.ino("f"), dir, n); return err },
		"unlink":  func(n string) error { _, _, err := x.fs.Unlink(bg, x.view, dir, n); return err },
		"rmdir":   func(n string) error { _, err := x.fs.Rmdir(bg, x.view, dir, n); return err },
		"from":    func(n string) error { _, _, err := x.fs.Rename(bg, x.view, dir, n, dir, "z", 0); return err },
		"to":      func(n string) error { _, _, err := x.fs.Rename(bg, x.view, dir, "f", dir, n, 0); return err },
		"to new": func(n string) error {
			_, _, err := x.fs.Rename(bg, x.view, dir, "f", dir, n, RenameNoReplace)
			return err
		},
		"lookup": func(n string) error { _, err := x.fs.Lookup(bg, x.view, dir, n); return err },
	}
	dots := map[string][2]error{
		"mknod": {ErrExist, ErrExist}, "mkdir": {ErrExist, ErrExist}, "symlink": {ErrExist, ErrExist},
		"link": {ErrExist, ErrExist}, "unlink": {ErrIsDir, ErrIsDir}, "rmdir": {ErrInvalid, ErrNotEmpty},
		"from": {ErrBusy, ErrBusy}, "to": {ErrBusy, ErrBusy}, "to new": {ErrExist, ErrExist},
	}
	for what, do := range ops {
		x.want(what+" of no name", do(""), ErrNotExist)
		x.want(what+" of a name with /", do("a/b"), ErrInvalid)
		x.want(what+" of a name with a zero byte", do("a\x00b"), ErrInvalid)
		x.want(what+" of a long name", do(strings.Repeat("x", 256)), ErrNameTooLong)
		x.want(what+" of .", do("."), dots[what][0])
		x.want(what+" of ..", do(".."), dots[what][1])
	}
}

func TestAnyOtherByteMayStandInAName(t *testing.T) {
	x := newFixture(t)
	d := x.mkdir("d")
	for b := 1; b < 256; b++ {
		if name := string([]byte{byte(b)}); b != '/' && b != '.' {
			_, err := x.fs.Mknod(bg, x.view, d, name, root, 0644, 0)
			x.must(err)
		}
	}
	_, err := x.fs.Mknod(bg, x.view, d, strings.Repeat("\xff", 255), root, 0644, 0)
	x.must(err)
	if got := len(x.list(d)); got != 254 {
		t.Errorf("got %d names, want 254", got)
	}
	x.check()
}

func TestTheOrphanDirectoryIsNoOnesToNameByNumber(t *testing.T) {
	x := newFixture(t)
	_, err := x.fs.Getattr(bg, x.view, snap.OrphanIno)
	x.want("getattr", err, ErrStale)
	_, err = x.fs.OpenDir(bg, x.view, snap.OrphanIno)
	x.want("opendir", err, ErrStale)
	_, err = x.fs.Mkdir(bg, x.view, snap.OrphanIno, "d", root, 0755)
	x.want("mkdir", err, ErrStale)
	_, err = x.fs.Write(bg, x.view, snap.OrphanIno, root, []byte("x"), 0, WriteFlags{})
	x.want("write", err, ErrStale)
	_, err = x.fs.Read(bg, x.view, snap.OrphanIno, make([]byte, 1), 0)
	x.want("read", err, ErrStale)
	_, err = x.fs.Getattr(bg, x.view, 12345)
	x.want("getattr of an inode that never was", err, ErrStale)
}
