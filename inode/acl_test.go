package inode

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"dcfs/snap"
)

// aclOf makes an ACL of text like "u::rwx u:5:r-x g::r-- m::rwx o::---".
func aclOf(t testing.TB, text string) acl {
	t.Helper()
	var l acl
	tags := map[string]uint16{"u": aclUserObj, "g": aclGroupObj, "m": aclMask, "o": aclOther}
	for _, e := range strings.Fields(text) {
		part := strings.Split(e, ":")
		entry := aclEntry{tag: tags[part[0]], id: aclNoID}
		if part[1] != "" {
			id, err := strconv.ParseUint(part[1], 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			entry.tag, entry.id = entry.tag<<1, uint32(id)
		}
		for i, c := range "rwx" {
			if strings.ContainsRune(part[2], c) {
				entry.perm |= 4 >> i
			}
		}
		l = append(l, entry)
	}
	return l
}

func (l acl) String() string {
	var parts []string
	for _, e := range l {
		name := map[uint16]string{aclUserObj: "u:", aclUser: "u:", aclGroupObj: "g:", aclGroup: "g:", aclMask: "m:", aclOther: "o:"}[e.tag]
		if e.id != aclNoID {
			name += fmt.Sprint(e.id)
		}
		perm := []byte("rwx")
		for i := range perm {
			if e.perm&(4>>i) == 0 {
				perm[i] = '-'
			}
		}
		parts = append(parts, name+":"+string(perm))
	}
	return strings.Join(parts, " ")
}

func TestACLFormat(t *testing.T) {
	const text = "u::rwx u:1000:r-- g::r-x g:50:-w- m::rwx o::---"
	want := "02000000 0100 0700 ffffffff 0200 0400 e8030000 0400 0500 ffffffff 0800 0200 32000000 1000 0700 ffffffff 2000 0000 ffffffff"
	b := aclOf(t, text).encode()
	if got := fmt.Sprintf("%x", b); got != strings.ReplaceAll(want, " ", "") {
		t.Errorf("encode %s: got %s, want %s", text, got, want)
	}
	l, err := decodeACL(b)
	if err != nil || l.String() != text {
		t.Errorf("decode: got %v, %v; want %s", l, err, text)
	}
	if l, err := decodeACL([]byte{2, 0, 0, 0}); l != nil || err != nil {
		t.Errorf("a list without entries: got %v, %v", l, err)
	}
}

func TestBadACLsAreRefused(t *testing.T) {
	good := aclOf(t, "u::rwx u:5:r-- g::r-- m::r-- o::r--").encode()
	change := func(at int, b byte) []byte {
		bad := bytes.Clone(good)
		bad[at] = b
		return bad
	}
	for what, c := range map[string]struct {
		val  []byte
		want error
	}{
		"nothing":               {nil, ErrInvalid},
		"half a version":        {good[:3], ErrInvalid},
		"version 1":             {change(0, 1), ErrNotSupported},
		"half an entry":         {good[:len(good)-1], ErrInvalid},
		"unknown tag":           {change(4, 64), ErrInvalid},
		"two tags in one":       {change(4, 3), ErrInvalid},
		"unknown permission":    {change(6, 8), ErrInvalid},
		"nobody":                {append(append(bytes.Clone(good[:16]), 255, 255, 255, 255), good[20:]...), ErrInvalid},
		"no owner":              {aclOf(t, "u:5:rwx g::r-- m::r-- o::r--").encode(), ErrInvalid},
		"no group":              {aclOf(t, "u::rwx o::r--").encode(), ErrInvalid},
		"no others":             {aclOf(t, "u::rwx g::r--").encode(), ErrInvalid},
		"a user without mask":   {aclOf(t, "u::rwx u:5:r-- g::r-- o::r--").encode(), ErrInvalid},
		"a group without mask":  {aclOf(t, "u::rwx g::r-- g:5:r-- o::r--").encode(), ErrInvalid},
		"two owners":            {aclOf(t, "u::rwx u::rwx g::r-- o::r--").encode(), ErrInvalid},
		"two masks":             {aclOf(t, "u::rwx g::r-- m::r-- m::r-- o::r--").encode(), ErrInvalid},
		"group before the user": {aclOf(t, "u::rwx g::r-- u:5:r-- m::r-- o::r--").encode(), ErrInvalid},
		"more after the last":   {aclOf(t, "u::rwx g::r-- o::r-- g:5:r-- m::r--").encode(), ErrInvalid},
	} {
		if l, err := decodeACL(c.val); !isErr(err, c.want) {
			t.Errorf("%s: got %v, %v; want %v", what, l, err, c.want)
		}
	}
	for _, text := range []string{
		"u::rwx g::r-- o::r--", "u::rwx g::r-- m::r-- o::r--",
		"u::--- u:7:r-- u:5:r-- u:7:rwx g::r-- g:0:--- m::r-- o::r--", // neither sorted nor unique
	} {
		if l, err := decodeACL(aclOf(t, text).encode()); err != nil || l.String() != text {
			t.Errorf("%s: got %v, %v", text, l, err)
		}
	}
}

func TestACLsAndModes(t *testing.T) {
	for _, c := range []struct {
		list string
		mode uint32 // of chmod, and of what is created below list as a default ACL

		perm    uint32
		chmod   string
		child   string // "" for none
		inherit uint32
	}{
		{"u::rwx g::r-x o::r--", 0640, 0754, "u::rw- g::r-- o::---", "", 0640},
		{"u::rw- g::--- o::---", 0777, 0600, "u::rwx g::rwx o::rwx", "", 0600},
		{"u::rwx u:5:rwx g::r-x m::rwx o::r-x", 0666, 0775,
			"u::rw- u:5:rwx g::r-x m::rw- o::rw-", "u::rw- u:5:rwx g::r-x m::rw- o::r--", 0664},
		{"u::rwx g::r-x g:7:rwx m::-wx o::---", 06751, 0730,
			"u::rwx g::r-x g:7:rwx m::r-x o::--x", "u::rwx g::r-x g:7:rwx m::--x o::---", 06710},
		{"u::r-- g::r-- m::r-- o::r--", 0, 0444, "u::--- g::r-- m::--- o::---", "u::--- g::r-- m::--- o::---", 0},
	} {
		l := aclOf(t, c.list)
		if perm, minimal := l.perm(); perm != c.perm || minimal != (len(l) == 3) {
			t.Errorf("%s: mode %o, minimal %v; want %o", c.list, perm, minimal, c.perm)
		}
		if got := l.chmod(c.mode).String(); got != c.chmod {
			t.Errorf("%s, chmod %o: got %s, want %s", c.list, c.mode, got, c.chmod)
		}
		child, mode := l.inherit(c.mode)
		if got := child.String(); got != c.child || mode != c.inherit {
			t.Errorf("%s, create with %o: got %s and %o, want %s and %o", c.list, c.mode, got, mode, c.child, c.inherit)
		}
		if l.String() != c.list {
			t.Errorf("%s was changed to %s", c.list, l)
		}
	}
}

// FuzzACL: what decodes encodes to the same list, and what is made of it is
// valid too, as the naive reference says.
func FuzzACL(f *testing.F) {
	f.Add(aclOf(f, "u::rwx u:5:r-- g::r-- g:6:rwx m::r-- o::r--").encode(), uint32(0640))
	f.Add(aclOf(f, "u::rwx g::r-- o::r--").encode(), uint32(06777))
	f.Add([]byte{2, 0, 0, 0}, uint32(0))
	f.Fuzz(func(t *testing.T, val []byte, mode uint32) {
		mode &= 07777
		l, err := decodeACL(val)
		ref, refErr := parseRefACL(string(val))
		if len(val) == 0 {
			refErr = ErrInvalid
		}
		if !isErr(err, refErr) || l.String() != "" && string(l.encode()) != ref.String() {
			t.Fatalf("got %v, %v; want %x, %v", l, err, ref, refErr)
		}
		if err != nil || l == nil {
			return
		}
		again, err := decodeACL(l.encode())
		if err != nil || again.String() != l.String() {
			t.Fatalf("%v decodes again as %v, %v", l, again, err)
		}
		if perm, _ := l.chmod(mode).perm(); !l.chmod(mode).valid() || perm != mode&0777 {
			t.Fatalf("chmod %o of %v: %v", mode, l, l.chmod(mode))
		}
		child, perm := l.inherit(mode)
		if perm&^mode != 0 || mode&^0777 != perm&^0777 {
			t.Fatalf("create with %o below %v: mode %o", mode, l, perm)
		}
		if got, minimal := child.orMinimal(perm).perm(); child != nil && (!child.valid() || minimal) || got != perm&0777 {
			t.Fatalf("create with %o below %v: %v and mode %o", mode, l, child, perm)
		}
	})
}

// orMinimal returns l, or the ACL that a mode is if there is none.
func (l acl) orMinimal(mode uint32) acl {
	if l != nil {
		return l
	}
	return acl{
		{aclUserObj, uint16(mode >> 6 & 7), aclNoID}, {aclGroupObj, uint16(mode >> 3 & 7), aclNoID}, {aclOther, uint16(mode & 7), aclNoID},
	}
}

func TestACLRules(t *testing.T) {
	x := newFixture(t)
	d, f := x.mkdir("d"), x.create("f", "")
	l, err := x.fs.Symlink(bg, x.view, snap.RootIno, "l", root, "t")
	x.must(err)
	ext, min := aclOf(t, "u::rwx u:5:rwx g::r-x m::rwx o::---").encode(), aclOf(t, "u::r-x g::-w- o::--x").encode()
	for _, c := range []struct {
		what  string
		ino   uint64
		name  string
		val   []byte
		flags uint32
		want  error
		mode  uint32 // after it
	}{
		{"extended", f, accessXattr, ext, 0, nil, 0770},
		{"again, create", f, accessXattr, ext, XattrCreate, nil, 0770},
		{"minimal", f, accessXattr, min, 0, nil, 0521},
		{"replace what is not there", f, accessXattr, ext, XattrReplace, nil, 0770},
		{"removed by an empty value", f, accessXattr, nil, 0, nil, 0770},
		{"removed again, by an empty list", f, accessXattr, []byte{2, 0, 0, 0}, 0, nil, 0770},
		{"bad", f, accessXattr, ext[:20], 0, ErrInvalid, 0770},
		{"unknown version", f, accessXattr, []byte{1, 0, 0, 0}, 0, ErrNotSupported, 0770},
		{"too many entries", f, accessXattr, aclOf(t, "u::rwx"+strings.Repeat(" u:5:rwx", 509)+" g::r-x m::rwx o::---").encode(), 0, ErrTooBig, 0770},
		{"as many as go", f, accessXattr, aclOf(t, "u::rwx"+strings.Repeat(" u:5:rwx", 507)+" g::r-x m::r-- o::---").encode(), 0, nil, 0740},
		{"default of a file", f, defaultXattr, ext, 0, ErrAccess, 0740},
		{"no default of a file", f, defaultXattr, nil, 0, nil, 0740},
		{"default", d, defaultXattr, ext, 0, nil, 0755},
		{"a default may be minimal", d, defaultXattr, min, 0, nil, 0755},
		{"of a symlink", l.Ino, accessXattr, ext, 0, ErrNotSupported, 0777},
	} {
		x.want(c.what, x.fs.Setxattr(bg, x.view, c.ino, c.name, c.val, c.flags), c.want)
		a, err := x.fs.Getattr(bg, x.view, c.ino)
		x.must(err)
		if a.Mode&0777 != c.mode {
			t.Errorf("%s: mode %o, want %o", c.what, a.Mode&0777, c.mode)
		}
	}
	x.must(x.fs.Removexattr(bg, x.view, f, accessXattr))
	x.must(x.fs.Removexattr(bg, x.view, f, accessXattr)) // no error, as in Linux
	x.want("removexattr of a symlink", x.fs.Removexattr(bg, x.view, l.Ino, accessXattr), ErrNotSupported)
	x.check()
}

func TestACLTakesSetgidAwayWhereItMust(t *testing.T) {
	x := newFixture(t)
	f := x.create("f", "")
	ext := aclOf(t, "u::rwx u:5:rwx g::r-x m::rwx o::---").encode()
	for flags, want := range map[uint32]uint32{0: 06770, XattrKillSgid: 04770} {
		x.must(x.set("f", SetAttr{Mode: ptr(uint32(06755))}))
		x.must(x.fs.Setxattr(bg, x.view, f, accessXattr, ext, flags))
		if got := x.stat("f").Mode; got != syscall.S_IFREG|want {
			t.Errorf("flags %#x: mode %o, want %o", flags, got, want)
		}
	}
}

func TestDefaultACLsAreHandedDown(t *testing.T) {
	x := newFixture(t)
	d := x.mkdir("d")
	deflt := "u::rwx u:5:rwx g::r-x m::rwx o::r-x"
	x.must(x.fs.Setxattr(bg, x.view, d, defaultXattr, aclOf(t, deflt).encode(), 0))
	masked := Cred{Root: true, Umask: 077}
	made := map[string]Attr{}
	var err error
	made["file"], err = x.fs.Mknod(bg, x.view, d, "file", masked, 0666, 0)
	x.must(err)
	made["fifo"], err = x.fs.Mknod(bg, x.view, d, "fifo", masked, syscall.S_IFIFO|0600, 0)
	x.must(err)
	made["dir"], err = x.fs.Mkdir(bg, x.view, d, "dir", masked, 0777)
	x.must(err)
	made["link"], err = x.fs.Symlink(bg, x.view, d, "link", masked, "t")
	x.must(err)
	made["tmpfile"], err = x.fs.Tmpfile(bg, x.view, d, masked, 0640)
	x.must(err)
	made["outside"], err = x.fs.Mknod(bg, x.view, snap.RootIno, "outside", masked, 0666, 0)
	x.must(err)
	past, err := x.vol.CreateSnapshot(bg, x.view, "s")
	x.must(err)
	x.must(x.fs.Removexattr(bg, x.view, made["dir"].Ino, accessXattr))
	x.must(x.fs.Removexattr(bg, x.view, made["dir"].Ino, defaultXattr))
	for name, want := range map[string]struct {
		mode          uint32
		access, deflt string
	}{
		"file":    {0664, "u::rw- u:5:rwx g::r-x m::rw- o::r--", ""},
		"fifo":    {0600, "u::rw- u:5:rwx g::r-x m::--- o::---", ""},
		"dir":     {0775, "u::rwx u:5:rwx g::r-x m::rwx o::r-x", deflt},
		"link":    {0777, "", ""},
		"tmpfile": {0640, "u::rw- u:5:rwx g::r-x m::r-- o::---", ""},
		"outside": {0600, "", ""},
	} {
		a := made[name]
		if a.Mode&0777 != want.mode {
			t.Errorf("%s: mode %o, want %o", name, a.Mode&0777, want.mode)
		}
		for xattr, want := range map[string]string{accessXattr: want.access, defaultXattr: want.deflt} {
			val, err := x.fs.Getxattr(bg, past, a.Ino, xattr)
			if want == "" {
				x.want(name+" "+xattr, err, ErrNoData)
				continue
			}
			x.must(err)
			if l, err := decodeACL(val); err != nil || l.String() != want {
				t.Errorf("%s: %s is %v, %v; want %s", name, xattr, l, err, want)
			}
		}
	}
	_, err = x.fs.Getxattr(bg, x.view, made["dir"].Ino, defaultXattr)
	x.want("removed since the snapshot", err, ErrNoData)
	x.want("set in a snapshot", x.fs.Setxattr(bg, past, d, accessXattr, aclOf(t, deflt).encode(), 0), ErrReadOnly)
	x.want("removed in a snapshot", x.fs.Removexattr(bg, past, d, defaultXattr), ErrReadOnly)
	x.check()
}
