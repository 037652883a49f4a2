package inode

import (
	"strings"
	"syscall"
	"testing"

	"dcfs/snap"
)

func TestCreatedInodesHaveWhatWasAskedFor(t *testing.T) {
	x := newFixture(t)
	for _, c := range []struct {
		name       string
		mode, rdev uint32
		want       uint32
		wantRdev   uint32
		err        error
	}{
		{"plain", 0640, 7, syscall.S_IFREG | 0640, 0, nil},
		{"reg", syscall.S_IFREG | 04711, 7, syscall.S_IFREG | 04711, 0, nil},
		{"fifo", syscall.S_IFIFO | 0600, 7, syscall.S_IFIFO | 0600, 0, nil},
		{"sock", syscall.S_IFSOCK | 0777, 7, syscall.S_IFSOCK | 0777, 0, nil},
		{"chr", syscall.S_IFCHR | 0666, 0x103, syscall.S_IFCHR | 0666, 0x103, nil},
		{"blk", syscall.S_IFBLK | 0660, 0x800, syscall.S_IFBLK | 0660, 0x800, nil},
		{"dir", syscall.S_IFDIR | 0755, 0, 0, 0, ErrPermission},
		{"lnk", syscall.S_IFLNK | 0755, 0, 0, 0, ErrInvalid},
		{"none", 0170000 | 0755, 0, 0, 0, ErrInvalid},
	} {
		now := x.clock.tick()
		a, err := x.fs.Mknod(bg, x.view, snap.RootIno, c.name, user, c.mode, c.rdev)
		x.want("mknod "+c.name, err, c.err)
		if err != nil {
			continue
		}
		if a.Mode != c.want || a.Rdev != c.wantRdev || a.UID != 1000 || a.GID != 1000 || a.Nlink != 1 || a.Size != 0 {
			t.Errorf("mknod %s: got %+v", c.name, a)
		}
		if a.Atime != now || a.Mtime != now || a.Ctime != now || a.Btime != now {
			t.Errorf("mknod %s: times %v %v %v %v, want %v", c.name, a.Atime, a.Mtime, a.Ctime, a.Btime, now)
		}
		if got := x.stat(c.name); got != a {
			t.Errorf("lookup %s: got %+v, want %+v", c.name, got, a)
		}
		_, err = x.fs.Mknod(bg, x.view, snap.RootIno, c.name, root, c.mode, c.rdev)
		x.want("mknod again", err, ErrExist)
	}
	x.check()
}

func TestNothingIsCreatedInWhatIsNoDirectory(t *testing.T) {
	x := newFixture(t)
	f := x.create("f", "")
	_, err := x.fs.Mknod(bg, x.view, f, "a", root, 0644, 0)
	x.want("mknod", err, ErrNotDir)
	_, err = x.fs.Lookup(bg, x.view, f, "a")
	x.want("lookup", err, ErrNotDir)
	_, err = x.fs.Tmpfile(bg, x.view, f, root, 0644)
	x.want("tmpfile", err, ErrNotDir)
	_, err = x.fs.OpenDir(bg, x.view, f)
	x.want("opendir", err, ErrNotDir)
}

func TestNothingIsCreatedInARemovedDirectory(t *testing.T) {
	x := newFixture(t)
	d := x.mkdir("d")
	f := x.create("f", "")
	x.must(x.rmdir("d"))
	_, err := x.fs.Mknod(bg, x.view, d, "a", root, 0644, 0)
	x.want("mknod", err, ErrNotExist)
	_, err = x.fs.Mkdir(bg, x.view, d, "a", root, 0755)
	x.want("mkdir", err, ErrNotExist)
	_, err = x.fs.Link(bg, x.view, f, d, "a")
	x.want("link", err, ErrNotExist)
	_, err = x.fs.Tmpfile(bg, x.view, d, root, 0644)
	x.want("tmpfile", err, ErrNotExist)
	_, _, err = x.fs.Rename(bg, x.view, snap.RootIno, "f", d, "a", 0)
	x.want("rename", err, ErrNotExist)
	_, err = x.fs.Lookup(bg, x.view, d, "..")
	x.want("lookup of ..", err, ErrNotExist)
	a, err := x.fs.Lookup(bg, x.view, d, ".")
	x.must(err)
	if a.Nlink != 0 || a.Size != 0 {
		t.Errorf("removed directory: %+v", a)
	}
	x.check()
}

func TestSetgidDirectoriesHandDownTheirGroup(t *testing.T) {
	x := newFixture(t)
	d := x.mkdir("d")
	mode, gid := uint32(02755), uint32(44)
	_, err := x.fs.Setattr(bg, x.view, d, root, SetAttr{Mode: &mode, GID: &gid})
	x.must(err)
	stranger := Cred{UID: 5, GID: 5}
	for _, c := range []struct {
		cred       Cred
		mode, want uint32
	}{
		{user, 0644, 0644},
		{user, 02755, 02755},     // a member of 44
		{stranger, 02755, 0755},  // not: no program for another's group
		{stranger, 02745, 02745}, // no program
		{root, 02755, 02755},
	} {
		a, err := x.fs.Mknod(bg, x.view, d, "f", c.cred, c.mode, 0)
		x.must(err)
		if a.GID != 44 || a.UID != c.cred.UID || a.Mode&07777 != c.want {
			t.Errorf("mknod %o by %d: got group %d, mode %o, want 44, %o", c.mode, c.cred.UID, a.GID, a.Mode&07777, c.want)
		}
		x.must(x.unlink("d/f"))
	}
	a, err := x.fs.Mkdir(bg, x.view, d, "s", stranger, 0700)
	x.must(err)
	if a.GID != 44 || a.Mode != syscall.S_IFDIR|02700 {
		t.Errorf("mkdir: got group %d, mode %o", a.GID, a.Mode)
	}
	a, err = x.fs.Symlink(bg, x.view, d, "l", stranger, "t")
	x.must(err)
	if a.GID != 44 || a.Mode != syscall.S_IFLNK|0777 {
		t.Errorf("symlink: got group %d, mode %o", a.GID, a.Mode)
	}
	x.check()
}

func TestMkdirTakesNoSetidBitsFromItsCaller(t *testing.T) {
	x := newFixture(t)
	a, err := x.fs.Mkdir(bg, x.view, snap.RootIno, "d", root, 07777)
	x.must(err)
	if a.Mode != syscall.S_IFDIR|01777 {
		t.Errorf("got mode %o, want 41777", a.Mode)
	}
}

func TestSymlinksLeadWhereTheyWereToldTo(t *testing.T) {
	x := newFixture(t)
	for _, n := range []int{1, 59, 60, 4095} {
		text := strings.Repeat("x", n)
		a, err := x.fs.Symlink(bg, x.view, snap.RootIno, "l", root, text)
		x.must(err)
		got, err := x.fs.Readlink(bg, x.view, a.Ino)
		x.must(err)
		if got != text || a.Size != uint64(n) {
			t.Errorf("target of %d bytes: got %d, size %d", n, len(got), a.Size)
		}
		x.must(x.unlink("l"))
	}
	_, err := x.fs.Symlink(bg, x.view, snap.RootIno, "l", root, strings.Repeat("x", 4096))
	x.want("target of 4096 bytes", err, ErrNameTooLong)
	_, err = x.fs.Symlink(bg, x.view, snap.RootIno, "l", root, "")
	x.want("no target", err, ErrNotExist)
	_, err = x.fs.Readlink(bg, x.view, x.create("f", ""))
	x.want("readlink of a file", err, ErrInvalid)
}

func TestDirectoriesCountTheirSubdirectories(t *testing.T) {
	x := newFixture(t)
	x.mkdir("d")
	x.mkdir("d/a")
	x.mkdir("d/b")
	x.create("d/f", "")
	if a := x.stat("d"); a.Nlink != 4 || a.Size != 3 {
		t.Errorf("got link count %d, size %d, want 4, 3", a.Nlink, a.Size)
	}
	x.mkdir("e")
	x.must(x.rename("d/a", "e/a", 0))
	x.must(x.rmdir("d/b"))
	if d, e := x.stat("d"), x.stat("e"); d.Nlink != 2 || d.Size != 1 || e.Nlink != 3 || e.Size != 1 {
		t.Errorf("got link counts %d, %d, sizes %d, %d", d.Nlink, e.Nlink, d.Size, e.Size)
	}
	if a := x.stat("e/a/.."); a.Ino != x.ino("e") {
		t.Errorf("got parent %d", a.Ino)
	}
	if a := x.stat(".."); a.Ino != snap.RootIno {
		t.Errorf("got parent of the root %d", a.Ino)
	}
	x.check()
}
