package tests

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

// actors are those whose system calls are compared. That there are groups, the
// owner's, another's and nobody's among them is what matters.
var actors = []cred{
	{uid: 0},
	{uid: 0, caps: "none"},
	{uid: 1000, gid: 1000, groups: []int{50}},
	{uid: 1001, gid: 1001, groups: []int{50, 60}},
	{uid: 1002, gid: 1000},
	{uid: 1003, gid: 1003, caps: "fsetid"},
}

func TestACLsOfSnapshotsAndForks(t *testing.T) {
	needTool(t, "setfacl", "getfacl")
	onEach(t, func(t *testing.T, w *world) {
		must(t, os.Mkdir(w.path("d"), 0o755))
		run(t, "setfacl", "-m", "u:1000:rwx,d:u:1001:rw", w.path("d"))
		write(t, w.path("d", "f"), "text")
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		must(t, os.Mkdir(w.path(".forks", "k"), 0o755))
		acls := func(dir string) string { return run(t, "getfacl", "-cnpR", dir) }
		want := acls(w.path("d"))
		if n := strings.Count(want, "user:1001:"); n != 2 {
			t.Fatalf("ACLs of the tree:\n%s", want)
		}
		run(t, "setfacl", "-b", w.path("d", "f"))
		run(t, "setfacl", "-Rb", w.path("d"))
		if got := acls(w.path("d")); strings.Contains(got, "100") {
			t.Errorf("removed, but:\n%s", got)
		}
		w.remount()
		for _, dir := range []string{w.path(".snapshots", "s", "d"), w.path(".forks", "k", "d")} {
			if got := acls(dir); got != want {
				t.Errorf("%s:\n%s, want\n%s", dir, got, want)
			}
		}
		val := (&pair{rand: rand.New(rand.NewPCG(1, 1))}).goodACL()
		past := w.path(".snapshots", "s", "d")
		fails(t, "set in a snapshot", unix.Setxattr(past, accessACL, val, 0), syscall.EROFS)
		fails(t, "remove in a snapshot", unix.Removexattr(past, defaultACL), syscall.EROFS)
		for _, dir := range []string{w.path(".snapshots"), w.path(".forks")} {
			_, err := unix.Getxattr(dir, accessACL, nil)
			fails(t, "get of "+dir, err, syscall.ENODATA)
			fails(t, "set of "+dir, unix.Setxattr(dir, accessACL, val, 0), syscall.EPERM)
		}
		must(t, unix.Setxattr(w.path(".forks", "k", "d"), accessACL, val, 0))
		w.call("check", "")
		w.call("check", "k")
	})
}

func TestNoACL(t *testing.T) {
	needTool(t, "setfacl", "getfacl")
	store, dir := newMount(t)
	writeFile(t, filepath.Join(dir, "f"), "text")
	run(t, "setfacl", "-m", "u:1000:rwx", filepath.Join(dir, "f"))
	want := run(t, "getfacl", "-cnp", filepath.Join(dir, "f"))
	dcfs(t, "umount", dir)
	dcfs(t, "mount", "-o", "noacl", store, dir)
	_, err := unix.Getxattr(filepath.Join(dir, "f"), accessACL, nil)
	fails(t, "get", err, syscall.EOPNOTSUPP)
	fails(t, "set", unix.Setxattr(filepath.Join(dir, "f"), accessACL, []byte{2, 0, 0, 0}, 0), syscall.EOPNOTSUPP)
	fails(t, "remove", unix.Removexattr(filepath.Join(dir, "f"), accessACL), syscall.EOPNOTSUPP)
	if n, err := unix.Listxattr(filepath.Join(dir, "f"), nil); n != 0 || err != nil {
		t.Errorf("list: %d bytes, %v", n, err)
	}
	dcfs(t, "umount", dir)
	dcfs(t, "mount", store, dir)
	if got := run(t, "getfacl", "-cnp", filepath.Join(dir, "f")); got != want {
		t.Errorf("after it:\n%s, want\n%s", got, want)
	}
}

// TestPermissionsAreThoseOfLinux does random things as random users on a mount
// and on ext4, and compares what each call answers, and owners, modes, sizes
// and ACLs after it. DCFS_MODEL_SEED and DCFS_MODEL_STEPS change a run.
func TestPermissionsAreThoseOfLinux(t *testing.T) {
	ref := needReference(t)
	onEach(t, func(t *testing.T, w *world) {
		seed, steps := uint64(time.Now().UnixNano()), 1500
		if s := os.Getenv("DCFS_MODEL_SEED"); s != "" {
			seed, _ = strconv.ParseUint(s, 10, 64)
		}
		if s := os.Getenv("DCFS_MODEL_STEPS"); s != "" {
			steps, _ = strconv.Atoi(s)
		}
		t.Logf("DCFS_MODEL_SEED=%d", seed)
		openWay(t, w.dir)
		p := &pair{t: t, rand: rand.New(rand.NewPCG(seed, 0)), dirs: [2]string{w.path("pair"), filepath.Join(ref, w.kind)}}
		for _, c := range actors {
			p.actors = append(p.actors, newActor(t, c))
		}
		for _, dir := range p.dirs {
			must(t, os.Mkdir(dir, 0))
			must(t, unix.Chmod(dir, 0o777))
		}
		for i := range steps {
			if i%50 == 0 {
				p.open777()
			}
			p.step(i)
			if t.Failed() {
				return
			}
		}
		p.compareAll("at the end")
		w.remount()
		p.compareAll("at the end")
		w.call("check", "")
		t.Logf("%d of %d calls succeeded", p.good, steps)
		if !t.Failed() && p.good < steps/10 {
			t.Errorf("only %d of %d calls succeeded: nothing was tested", p.good, steps)
		}
	})
}

// pair is two directories to which the same is done.
type pair struct {
	t      *testing.T
	rand   *rand.Rand
	dirs   [2]string // dcfs, and what it is compared with
	actors []*actor
	names  []string // of what was there lately
	good   int      // calls that succeeded
}

// call is a system call on a path and what it answers. dir is that of the pair
// that the path is in.
type call struct {
	name string
	run  func(dir, path string) (string, error)
}

func pick[T any](p *pair, list ...T) T { return list[p.rand.IntN(len(list))] }

// path returns a name at most three deep, half of them in use.
func (p *pair) path() string {
	if len(p.names) > 0 && p.rand.IntN(2) == 0 {
		return pick(p, p.names...)
	}
	parts := make([]string, 1+p.rand.IntN(3))
	for i := range parts {
		parts[i] = pick(p, "a", "b", "c")
	}
	return filepath.Join(parts...)
}

func (p *pair) mode() uint32 {
	m := p.rand.Uint32() & 0o777
	if p.rand.IntN(2) == 0 {
		m |= 0o770
	}
	if p.rand.IntN(3) == 0 {
		m |= pick(p, uint32(unix.S_ISGID), unix.S_ISUID, unix.S_ISVTX, unix.S_ISUID|unix.S_ISGID)
	}
	return m
}

// acl returns an ACL, now and then one that is none.
func (p *pair) acl() []byte {
	b := p.goodACL()
	switch p.rand.IntN(20) {
	case 0:
		b[p.rand.IntN(len(b))] ^= 1 << p.rand.IntN(8)
	case 1:
		b = b[:p.rand.IntN(len(b))]
	case 2:
		at := 4 + 8*p.rand.IntN((len(b)-4)/8)
		b = slices.Delete(b, at, at+8)
	}
	return b
}

func (p *pair) goodACL() []byte {
	ids := []uint32{0, 1000, 1001, 1002, 1003, 50, 60}
	b := binary.LittleEndian.AppendUint32(nil, 2)
	add := func(tag uint16, id uint32) {
		perm := uint16(p.rand.IntN(8))
		if p.rand.IntN(3) == 0 {
			perm = 7
		}
		b = binary.LittleEndian.AppendUint16(b, tag)
		b = binary.LittleEndian.AppendUint16(b, perm)
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	users, groups := p.rand.IntN(3), p.rand.IntN(3)
	add(1, 1<<32-1)
	for range users {
		add(2, pick(p, ids...))
	}
	add(4, 1<<32-1)
	for range groups {
		add(8, pick(p, ids...))
	}
	if users+groups > 0 || p.rand.IntN(2) == 0 {
		add(16, 1<<32-1)
	}
	add(32, 1<<32-1)
	return b
}

func (p *pair) call() call {
	switch p.rand.IntN(22) {
	case 0, 1, 2:
		flags := pick(p, unix.O_EXCL, 0, unix.O_TRUNC) | pick(p, unix.O_WRONLY, unix.O_RDWR, unix.O_RDONLY)
		return p.open("create", unix.O_CREAT|flags, p.mode())
	case 3, 4, 5:
		mode := p.mode()
		return plainCall("mkdir %o", func(path string) error { return unix.Mkdir(path, mode) }, mode)
	case 6:
		mode := p.mode() | pick(p, uint32(unix.S_IFIFO), unix.S_IFREG, unix.S_IFSOCK)
		return plainCall("mknod %o", func(path string) error { return unix.Mknod(path, mode, 0) }, mode)
	case 7:
		return plainCall("symlink", func(path string) error { return unix.Symlink("a", path) })
	case 8:
		mode := p.mode()
		return plainCall("tmpfile %o", func(path string) error { return tmpfile(path, mode) }, mode)
	case 9:
		return pick(p, plainCall("unlink", unix.Unlink), plainCall("rmdir", unix.Rmdir))
	case 10:
		return p.two()
	case 11, 12:
		mode := p.mode()
		return plainCall("chmod %o", func(path string) error { return unix.Chmod(path, mode) }, mode)
	case 13:
		uid, gid := pick(p, -1, 0, 1000, 1001), pick(p, -1, 0, 50, 60, 1000)
		if uid == gid { // chown(-1, -1), say: FUSE does not tell us who may
			gid = 50
		}
		return plainCall("chown %d:%d", func(path string) error { return unix.Lchown(path, uid, gid) }, uid, gid)
	case 14, 15, 16:
		name, val, flags := pick(p, accessACL, accessACL, defaultACL), p.acl(), pick(p, 0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE)
		return plainCall("setxattr %s %x", func(path string) error { return unix.Lsetxattr(path, name, val, flags) }, name, val)
	case 17:
		name := pick(p, accessACL, defaultACL)
		return plainCall("removexattr %s", func(path string) error { return unix.Lremovexattr(path, name) }, name)
	case 18:
		return p.open("write", pick(p, unix.O_WRONLY, unix.O_RDWR, unix.O_WRONLY|unix.O_TRUNC, unix.O_APPEND|unix.O_WRONLY), 0)
	case 19:
		n := p.rand.Int64N(100)
		return plainCall("truncate %d", func(path string) error { return unix.Truncate(path, n) }, n)
	case 20:
		return p.utimens()
	}
	return call{"access", access}
}

func plainCall(format string, fn func(path string) error, args ...any) call {
	return call{fmt.Sprintf(format, args...), func(_, path string) (string, error) { return "", fn(path) }}
}

// open opens a file and changes what is in it, if it may.
func (p *pair) open(name string, flags int, mode uint32) call {
	change := pick(p, "write", "fallocate", "ftruncate")
	return plainCall("%s %x %o, %s", func(path string) error {
		fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, mode)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if flags&unix.O_ACCMODE == unix.O_RDONLY || name == "create" && mode&1 == 0 {
			return nil
		}
		switch change {
		case "fallocate":
			return unix.Fallocate(fd, 0, 3, 20)
		case "ftruncate":
			return unix.Ftruncate(fd, 7)
		}
		_, err = unix.Write(fd, []byte("text"))
		return err
	}, name, flags, mode, change)
}

// two is a call on two paths.
func (p *pair) two() call {
	other := p.path()
	return pick(p,
		call{"rename to " + other, func(dir, path string) (string, error) {
			return "", unix.Rename(path, filepath.Join(dir, other))
		}},
		call{"link to " + other, func(dir, path string) (string, error) {
			return "", unix.Link(path, filepath.Join(dir, other))
		}})
}

// utimens is utimensat(2): what is asked for decides who may.
func (p *pair) utimens() call {
	nsec := func() int64 { return pick(p, 5, int64(unix.UTIME_NOW), int64(unix.UTIME_OMIT)) }
	ts := []unix.Timespec{{Sec: p.rand.Int64N(1 << 33), Nsec: nsec()}, {Sec: -p.rand.Int64N(1 << 31), Nsec: nsec()}}
	return call{fmt.Sprintf("utimensat %v", ts), func(_, path string) (string, error) {
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return "", err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return "", err
		}
		set := ""
		for i, got := range []unix.Timespec{st.Atim, st.Mtim} {
			if ts[i].Nsec == 5 {
				set += fmt.Sprint(got)
			}
		}
		return set, nil
	}}
}

// tmpfile makes a file without a name in a directory, and gives it one.
func tmpfile(dir string, mode uint32) error {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, mode)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, filepath.Join(dir, "x"), unix.AT_SYMLINK_FOLLOW)
}

// access tells which of read, write and execute access(2) allows, with the
// effective ids too, and what open(2) and a listing allow.
func access(_, path string) (string, error) {
	s := ""
	for mode := uint32(0); mode < 8; mode++ {
		s += fmt.Sprint(errnoOf(unix.Faccessat(unix.AT_FDCWD, path, mode, 0)),
			errnoOf(unix.Faccessat(unix.AT_FDCWD, path, mode, unix.AT_EACCESS)), ",")
	}
	for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDONLY | unix.O_DIRECTORY} {
		fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		s += fmt.Sprint(errnoOf(err), ";")
	}
	return s, unix.Faccessat(unix.AT_FDCWD, path, 0, 0)
}

func errnoOf(err error) int {
	if e, ok := err.(syscall.Errno); ok {
		return int(e)
	}
	return 0
}

func (p *pair) step(i int) {
	c, a, path := p.call(), pick(p, p.actors...), p.path()
	umask := pick(p, 0, 0o22, 0o27, 0o77, 0o777)
	what := fmt.Sprintf("step %d: %v, umask %o, %s %s", i, a, umask, path, c.name)
	var got [2]string
	for side, dir := range p.dirs {
		a.do(func() {
			syscall.Umask(umask)
			answer, err := c.run(dir, filepath.Join(dir, path))
			got[side] = fmt.Sprintf("%v %s", err, answer)
			if err == nil && side == 0 {
				p.good++
			}
		})
	}
	if got[0] != got[1] {
		p.t.Errorf("%s: got %s, %s answers %s", what, got[0], p.dirs[1], got[1])
	}
	for _, q := range []string{path, filepath.Dir(path), filepath.Join(path, "x")} {
		p.compare(what, q)
	}
	if i%20 == 0 {
		p.compareAll(what)
	}
	if p.t.Failed() {
		p.t.Logf("before it: %s", p.state(p.dirs[1], path))
	}
}

// open777 opens what is in the directories to all: else it closes by and by.
func (p *pair) open777() {
	for _, dir := range p.dirs {
		for _, name := range []string{"a", "b", "c"} {
			path := filepath.Join(dir, name)
			if st, err := os.Lstat(path); err == nil && st.IsDir() {
				must(p.t, unix.Removexattr(path, accessACL))
				must(p.t, unix.Chmod(path, 0o777))
			}
		}
	}
}

// compareAll compares all that is in the two directories.
func (p *pair) compareAll(what string) {
	var names [2][]string
	for side, dir := range p.dirs {
		must(p.t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			names[side] = append(names[side], strings.TrimPrefix(path, dir))
			return err
		}))
	}
	if !slices.Equal(names[0], names[1]) {
		p.t.Errorf("%s: got %q, want %q", what, names[0], names[1])
	}
	p.names = names[1][1:]
	for _, name := range names[1] {
		p.compare(what, name)
	}
}

func (p *pair) compare(what, path string) {
	got, want := p.state(p.dirs[0], path), p.state(p.dirs[1], path)
	if got != want {
		p.t.Errorf("%s: %s is\n%s, want\n%s", what, path, got, want)
	}
}

// state is what must be equal of a file.
func (p *pair) state(dir, path string) string {
	path = filepath.Join(dir, path)
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err.Error()
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		st.Nlink, st.Size = 0, 0
	}
	s := fmt.Sprintf("%o %d:%d %d links %d bytes", st.Mode, st.Uid, st.Gid, st.Nlink, st.Size)
	buf := make([]byte, 4096)
	for _, name := range []string{accessACL, defaultACL} {
		n, err := unix.Lgetxattr(path, name, buf)
		s += fmt.Sprintf(" %x %v", buf[:max(n, 0)], err)
	}
	n, err := unix.Llistxattr(path, buf)
	names := strings.Split(string(buf[:max(n, 0)]), "\x00")
	names = slices.DeleteFunc(names, func(s string) bool { return s == "security.selinux" })
	slices.Sort(names)
	return fmt.Sprint(s, names, err)
}
