package inode

import (
	"syscall"
	"testing"

	"dcfs/snap"
)

func ptr[T any](v T) *T { return &v }

// TestSetidBitsGoWhenOthersCouldUseThem: what chmod, chown, write and
// truncate leave of S_ISUID and S_ISGID.
func TestSetidBitsGoWhenOthersCouldUseThem(t *testing.T) {
	stranger := Cred{UID: 5, GID: 5}
	write := func(w WriteFlags) func(*fixture, uint64) error {
		return func(x *fixture, ino uint64) error {
			_, err := x.fs.Write(bg, x.view, ino, user, []byte("x"), 0, w)
			return err
		}
	}
	set := func(c Cred, s SetAttr) func(*fixture, uint64) error {
		return func(x *fixture, ino uint64) error {
			_, err := x.fs.Setattr(bg, x.view, ino, c, s)
			return err
		}
	}
	for _, c := range []struct {
		name     string
		old, new uint32
		do       func(*fixture, uint64) error
	}{
		{"write", 06755, 06755, write(WriteFlags{})},
		{"write that kills", 06755, 0755, write(WriteFlags{KillSuidGid: true})},
		{"write that kills, no program of a group", 06745, 02745, write(WriteFlags{KillSuidGid: true})},
		{"append that kills", 04755, 0755, write(WriteFlags{KillSuidGid: true, Append: true})},
		{"truncate", 06755, 06755, set(user, SetAttr{Size: ptr(uint64(0))})},
		{"truncate that kills", 06755, 0755, set(user, SetAttr{Size: ptr(uint64(0)), KillSuidGid: true})},
		{"truncate that kills, by no member", 06745, 0745, set(stranger, SetAttr{Size: ptr(uint64(0)), KillSuidGid: true})},
		{"chown by no member", 06745, 0745, set(stranger, SetAttr{UID: ptr(uint32(5))})},
		{"chown by root, whose groups do not matter", 06745, 02745, set(root, SetAttr{UID: ptr(uint32(5))})},
		{"chown", 06755, 0755, set(root, SetAttr{UID: ptr(uint32(7))})},
		{"chown by a user", 06755, 0755, set(user, SetAttr{UID: ptr(uint32(1000))})},
		{"chgrp", 06745, 02745, set(user, SetAttr{GID: ptr(uint32(44))})},
		{"chown with a mode", 06755, 04711, set(root, SetAttr{UID: ptr(uint32(7)), Mode: ptr(uint32(04711))})},
		{"chmod", 0, 06755, set(root, SetAttr{Mode: ptr(uint32(06755))})},
		{"chmod by a member", 0, 02755, set(user, SetAttr{Mode: ptr(uint32(02755))})},
		{"chmod by no member", 0, 04755, set(stranger, SetAttr{Mode: ptr(uint32(06755))})},
		{"chmod and chgrp by a member of the new group", 0, 02755, set(stranger, SetAttr{GID: ptr(uint32(5)), Mode: ptr(uint32(02755))})},
		{"type bits in chmod", 0, 0644, set(root, SetAttr{Mode: ptr(uint32(syscall.S_IFDIR | 0644))})},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newFixture(t)
			a, err := x.fs.Mknod(bg, x.view, snap.RootIno, "f", user, c.old, 0)
			x.must(err)
			x.must(c.do(x, a.Ino))
			if got := x.stat("f").Mode; got != syscall.S_IFREG|c.new {
				t.Errorf("mode %o became %o, want %o", c.old, got&07777, c.new)
			}
		})
	}
}

func TestDirectoriesKeepTheirSetidBitsWhenTheyChangeOwner(t *testing.T) {
	x := newFixture(t)
	x.mkdir("d")
	x.must(x.set("d", SetAttr{Mode: ptr(uint32(06775))}))
	x.must(x.set("d", SetAttr{UID: ptr(uint32(5)), GID: ptr(uint32(6)), KillSuidGid: true}))
	if a := x.stat("d"); a.Mode != syscall.S_IFDIR|06775 || a.UID != 5 || a.GID != 6 {
		t.Errorf("got mode %o, owner %d:%d", a.Mode, a.UID, a.GID)
	}
}

func TestCapabilitiesDoNotOutliveAChange(t *testing.T) {
	for name, do := range map[string]func(x *fixture, ino uint64) error{
		"write": func(x *fixture, ino uint64) error { x.write(ino, "x", 0); return nil },
		"truncate": func(x *fixture, ino uint64) error {
			return x.set("f", SetAttr{Size: ptr(uint64(1))})
		},
		"chown": func(x *fixture, ino uint64) error { return x.set("f", SetAttr{GID: ptr(uint32(1))}) },
		"punch": func(x *fixture, ino uint64) error {
			return x.fs.Fallocate(bg, x.view, ino, 0, 4, FallocPunchHole|FallocKeepSize)
		},
		"removexattr": func(x *fixture, ino uint64) error {
			return x.fs.Removexattr(bg, x.view, ino, capabilityXattr)
		},
	} {
		x := newFixture(t)
		f := x.create("f", "data")
		x.must(x.fs.Setxattr(bg, x.view, f, capabilityXattr, []byte("caps"), 0))
		x.check()
		x.must(x.set("f", SetAttr{Mode: ptr(uint32(0755))}))
		_, err := x.fs.Getxattr(bg, x.view, f, capabilityXattr)
		x.want("getxattr after chmod", err, nil)
		x.must(do(x, f))
		_, err = x.fs.Getxattr(bg, x.view, f, capabilityXattr)
		x.want("getxattr after "+name, err, ErrNoData)
		x.check()
	}
}

func TestSetattrRefusesWhatATypeCannotHave(t *testing.T) {
	x := newFixture(t)
	x.mkdir("d")
	_, err := x.fs.Symlink(bg, x.view, snap.RootIno, "l", root, "t")
	x.must(err)
	_, err = x.fs.Mknod(bg, x.view, snap.RootIno, "p", root, syscall.S_IFIFO|0600, 0)
	x.must(err)
	x.create("f", "data")
	size := func(n uint64) SetAttr { return SetAttr{Size: &n} }
	x.want("truncate of a directory", x.set("d", size(0)), ErrIsDir)
	x.want("truncate of a symlink", x.set("l", size(0)), ErrInvalid)
	x.want("truncate of a FIFO", x.set("p", size(0)), ErrInvalid)
	x.want("chmod of a symlink", x.set("l", SetAttr{Mode: new(uint32)}), ErrNotSupported)
	x.want("chown of a symlink", x.set("l", SetAttr{UID: new(uint32)}), nil)
	x.want("truncate to too much", x.set("f", size(MaxFileBytes+1)), ErrFileTooBig)
	x.want("truncate to the most", x.set("f", size(MaxFileBytes)), nil)
	if a := x.stat("f"); a.Size != MaxFileBytes {
		t.Errorf("size %d", a.Size)
	}
	x.must(x.set("f", size(2)))
	if got := x.content(x.ino("f")); got != "da" {
		t.Errorf("got %q", got)
	}
	x.check()
}

func TestAKernelThatKeepsTimesMaySetCtime(t *testing.T) {
	x := newFixture(t)
	x.create("f", "")
	old := x.stat("f").Ctime
	x.clock.tick()
	x.must(x.set("f", SetAttr{Ctime: &old, Mtime: &old}))
	if a := x.stat("f"); a.Ctime != old || a.Mtime != old {
		t.Errorf("got %v, %v, want %v", a.Ctime, a.Mtime, old)
	}
}
