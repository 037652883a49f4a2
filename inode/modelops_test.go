package inode

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"dcfs/dcdb"
	"dcfs/snap"
)

// modelOps are the operations of the model test, each with how often it comes.
func modelOps(c modelConfig) []modelOp {
	ops := []modelOp{
		{30, func(m *model) { v := m.pick(); m.mknodIn(v, m.dir(v.ref)) }},
		{12, (*model).mkdir},
		{6, (*model).symlink},
		{12, (*model).link},
		{18, (*model).unlink},
		{6, (*model).rmdir},
		{25, (*model).rename},
		{3, (*model).tmpfile},
		{12, (*model).forget},
		{12, (*model).lookup},
		{5, (*model).getattr},
		{20, (*model).setattr},
		{45, (*model).write},
		{25, (*model).read},
		{15, (*model).truncate},
		{12, (*model).fallocate},
		{8, (*model).seek},
		{12, (*model).copyRange},
		{14, (*model).setxattr},
		{4, (*model).getxattr},
		{5, (*model).removexattr},
		{3, (*model).listxattr},
		{3, (*model).readlink},
		{6, (*model).openDir},
		{25, (*model).readDir},
		{2, (*model).fsync},
		{1, (*model).sync},
		{4, (*model).createSnapshot},
		{3, (*model).deleteSnapshot},
		{1, (*model).renameSnapshot},
		{3, (*model).createFork},
		{2, (*model).deleteFork},
		{1, (*model).renameFork},
		{1, (*model).remountOp},
	}
	if c.crash > 0 {
		sum := 0
		for _, o := range ops {
			sum += o.weight
		}
		ops = append(ops, modelOp{max(1, sum/c.crash), (*model).crash})
	}
	return ops
}

func (m *model) mkdir() {
	v := m.pick()
	dir, name, cred, mode := m.dir(v.ref), m.name(), m.cred(), m.mode()
	m.note("%s mkdir %d %.20q %o", v.view.Name(), dir, name, mode)
	a, err := m.fs.Mkdir(bg, v.view, dir, name, cred, mode)
	if m.refused(v, err) {
		return
	}
	want, wantErr := v.ref.mkdir(a.Ino, dir, name, cred, mode)
	m.newIno(v, a, err)
	same(m, plain(a), want, err, wantErr)
}

func (m *model) symlink() {
	v := m.pick()
	dir, name, cred := m.dir(v.ref), m.name(), m.cred()
	text := strings.Repeat("t/", 1+m.rng.IntN(20))
	if m.one(8) {
		text = strings.Repeat("x", []int{0, 4094, 4095, 4096}[m.rng.IntN(4)])
	}
	m.note("%s symlink %d %.20q %.10q/%d", v.view.Name(), dir, name, text, len(text))
	a, err := m.fs.Symlink(bg, v.view, dir, name, cred, text)
	if m.refused(v, err) {
		return
	}
	want, wantErr := v.ref.symlink(a.Ino, dir, name, cred, text)
	m.newIno(v, a, err)
	same(m, plain(a), want, err, wantErr)
}

func (m *model) link() {
	v := m.pick()
	ino, dir, name := m.anyNode(v.ref), m.dir(v.ref), m.name()
	m.note("%s link %d %d %.20q", v.view.Name(), ino, dir, name)
	a, err := m.fs.Link(bg, v.view, ino, dir, name)
	if m.refused(v, err) {
		return
	}
	want, wantErr := v.ref.link(ino, dir, name)
	same(m, plain(a), want, err, wantErr)
}

// removed is the answer of Unlink and of Rename.
type removed struct {
	ino  uint64
	last bool
}

func (m *model) unlink() {
	v := m.pick()
	dir := m.dir(v.ref)
	name := m.oldName(v.ref, dir)
	m.note("%s unlink %d %.20q", v.view.Name(), dir, name)
	ino, last, err := m.fs.Unlink(bg, v.view, dir, name)
	if m.refused(v, err) {
		return
	}
	wantIno, wantLast, wantErr := v.ref.unlink(dir, name)
	same(m, removed{ino, last}, removed{wantIno, wantLast}, err, wantErr)
}

func (m *model) rmdir() {
	v := m.pick()
	dir := m.dir(v.ref)
	name := m.oldName(v.ref, dir)
	m.note("%s rmdir %d %.20q", v.view.Name(), dir, name)
	ino, err := m.fs.Rmdir(bg, v.view, dir, name)
	if m.refused(v, err) {
		return
	}
	want, wantErr := v.ref.rmdir(dir, name)
	same(m, ino, want, err, wantErr)
}

func (m *model) rename() {
	v := m.pick()
	dir, newdir := m.dir(v.ref), m.dir(v.ref)
	if m.one(2) {
		newdir = dir
	}
	name, newname := m.oldName(v.ref, dir), m.name()
	if m.one(2) {
		newname = m.oldName(v.ref, newdir)
	}
	flags := uint32(0)
	if m.one(3) {
		flags = []uint32{1, 2, 2, 2, 3, 4}[m.rng.IntN(6)]
	}
	m.note("%s rename %d %.20q %d %.20q %d", v.view.Name(), dir, name, newdir, newname, flags)
	ino, last, err := m.fs.Rename(bg, v.view, dir, name, newdir, newname, flags)
	if m.refused(v, err) {
		return
	}
	wantIno, wantLast, wantErr := v.ref.rename(dir, name, newdir, newname, flags)
	same(m, removed{ino, last}, removed{wantIno, wantLast}, err, wantErr)
}

func (m *model) tmpfile() {
	v := m.pick()
	dir, cred, mode := m.dir(v.ref), m.cred(), m.mode()
	m.note("%s tmpfile %d %o", v.view.Name(), dir, mode)
	a, err := m.fs.Tmpfile(bg, v.view, dir, cred, mode)
	if m.refused(v, err) {
		return
	}
	want, wantErr := v.ref.tmpfile(a.Ino, dir, cred, mode)
	m.newIno(v, a, err)
	same(m, plain(a), want, err, wantErr)
}

func (m *model) forget() {
	v := m.pick()
	ino := m.node(v.ref, func(n *refNode) bool { return n.nlink == 0 })
	m.note("%s forget %d", v.view.Name(), ino)
	m.must("forget", m.fs.Forget(bg, v.view, ino))
	if !v.ro {
		v.ref.forget(ino)
	}
}

func (m *model) lookup() {
	v := m.pick()
	dir := m.dir(v.ref)
	name := m.oldName(v.ref, dir)
	m.note("%s lookup %d %.20q", v.view.Name(), dir, name)
	a, err := m.fs.Lookup(bg, v.view, dir, name)
	want, wantErr := v.ref.lookup(dir, name)
	same(m, plain(a), want, err, wantErr)
}

func (m *model) getattr() {
	v := m.pick()
	ino := m.anyNode(v.ref)
	m.note("%s getattr %d", v.view.Name(), ino)
	a, err := m.fs.Getattr(bg, v.view, ino)
	n, wantErr := v.ref.get(ino)
	if n == nil {
		n = &refNode{}
	}
	same(m, plain(a), n.attr(), err, wantErr)
}

func (m *model) setattr() {
	v := m.pick()
	ino, cred := m.anyNode(v.ref), m.cred()
	var s SetAttr
	if m.one(2) {
		mode := m.mode()
		s.Mode = &mode
	}
	if m.one(3) {
		id := uint32(m.rng.IntN(3)) * 22
		s.UID = &id
	}
	if m.one(3) {
		id := []uint32{0, 44, 1000, 7}[m.rng.IntN(4)]
		s.GID = &id
	}
	t := dcdb.Time{Sec: m.rng.Int64N(1<<36) - 1<<35, Nsec: uint32(m.rng.IntN(1e9))}
	if m.one(4) {
		s.Atime = &t
	}
	if m.one(4) {
		s.Mtime = &t
	}
	s.AtimeNow, s.MtimeNow, s.KillSuidGid = m.one(6), m.one(6), m.one(10)
	if m.one(20) {
		s.Ctime = &t
	}
	m.setattrOp(v, ino, cred, s)
}

func (m *model) setattrOp(v aim, ino uint64, cred Cred, s SetAttr) {
	m.note("%s setattr %d %s", v.view.Name(), ino, describe(s))
	a, err := m.fs.Setattr(bg, v.view, ino, cred, s)
	if m.refused(v, err) {
		return
	}
	want, wantErr := v.ref.setattr(ino, cred, s)
	same(m, plain(a), want, err, wantErr)
}

func describe(s SetAttr) string {
	d := ""
	for name, p := range map[string]*uint32{"mode": s.Mode, "uid": s.UID, "gid": s.GID} {
		if p != nil {
			d += fmt.Sprintf("%s %#o ", name, *p)
		}
	}
	if s.Size != nil {
		d += fmt.Sprintf("size %d ", *s.Size)
	}
	return d
}

func (m *model) truncate() {
	v := m.pick()
	ino := m.file(v.ref)
	size := m.off(m.sizeOf(v.ref, ino))
	s := SetAttr{Size: &size, KillSuidGid: m.one(3)}
	m.setattrOp(v, ino, m.cred(), s)
}

func (m *model) write() {
	v := m.pick()
	ino := m.file(v.ref)
	p, off := m.data(m.len()), m.off(m.sizeOf(v.ref, ino))
	w := WriteFlags{Append: m.one(5), KillSuidGid: m.one(5), Sync: m.one(50)}
	m.note("%s write %d [%d,%d) %v", v.view.Name(), ino, off, off+uint64(len(p)), w)
	cred := m.cred()
	n, err := m.fs.Write(bg, v.view, ino, cred, p, off, w)
	if m.refused(v, err) {
		return
	}
	want, wantErr := v.ref.write(ino, cred, p, off, w)
	same(m, n, want, err, wantErr)
	if err == nil && w.Sync && n > 0 {
		m.durable()
	}
}

func (m *model) read() {
	v := m.pick()
	ino := m.file(v.ref)
	off, n := m.off(m.sizeOf(v.ref, ino)), m.len()
	m.note("%s read %d [%d,%d)", v.view.Name(), ino, off, off+uint64(n))
	p := bytes.Repeat([]byte{0xee}, n)
	got, err := m.fs.Read(bg, v.view, ino, p, off)
	want, wantErr := v.ref.read(ino, off, uint64(n))
	same(m, got, len(want), err, wantErr)
	if err == nil && !bytes.Equal(p[:got], want) {
		i := 0
		for p[i] == want[i] {
			i++
		}
		m.fail("byte %d is %#x, want %#x", off+uint64(i), p[i], want[i])
	}
}

func (m *model) fallocate() {
	v := m.pick()
	ino := m.file(v.ref)
	off, n := m.off(m.sizeOf(v.ref, ino)), uint64(m.len())
	mode := []uint32{0, 1, 3, 3, 3, 3, 0x10, 0x11, 2, 8}[m.rng.IntN(10)]
	if m.one(10) {
		n = m.rng.Uint64N(m.c.maxOff)
	}
	if mode <= 1 {
		n = min(n, 1<<30) // the store must have room for it
	}
	m.note("%s fallocate %d [%d,%d) %#x", v.view.Name(), ino, off, off+n, mode)
	err := m.fs.Fallocate(bg, v.view, ino, off, n, mode)
	if m.refused(v, err) {
		return
	}
	same(m, 0, 0, err, v.ref.fallocate(ino, off, n, mode))
	m.settled()
}

// seek verifies what must hold whatever the implementation takes for a hole:
// no byte that is not zero lies in one.
func (m *model) seek() {
	v := m.pick()
	ino := m.file(v.ref)
	off := m.off(m.sizeOf(v.ref, ino))
	m.note("%s seek %d from %d", v.view.Name(), ino, off)
	data, err := m.fs.Seek(bg, v.view, ino, off, SeekData)
	n, wantErr := v.ref.getReg(ino)
	switch {
	case wantErr != nil:
		same(m, 0, 0, err, wantErr)
		return
	case off >= n.size:
		same(m, 0, 0, err, ErrNXIO)
		_, err = m.fs.Seek(bg, v.view, ino, off, SeekHole)
		same(m, 0, 0, err, ErrNXIO)
		return
	}
	first, found := n.seekData(off)
	switch {
	case isErr(err, ErrNXIO):
		data = n.size
	case err != nil:
		m.fail("seek: %v", err)
	case data < off || data >= n.size:
		m.fail("data at %d, size %d", data, n.size)
	}
	if found && data > first {
		m.fail("data at %d, want %d at the latest", data, first)
	}
	hole, err := m.fs.Seek(bg, v.view, ino, off, SeekHole)
	m.must("seek to a hole", err)
	if hole < off || hole > n.size || data > off && hole != off || data == off && hole == off {
		m.fail("data at %d and hole at %d, size %d", data, hole, n.size)
	}
	for _, b := range n.read(hole, refBlock-hole%refBlock) {
		if b != 0 {
			m.fail("there is data in the hole at %d", hole)
		}
	}
}

func (m *model) copyRange() {
	from, to := m.pick(), m.pick()
	if m.one(3) {
		from = to
	}
	src, dst := m.file(from.ref), m.file(to.ref)
	if m.one(4) && from.ref == to.ref {
		src = dst
	}
	srcOff, off, n := m.off(m.sizeOf(from.ref, src)), m.off(m.sizeOf(to.ref, dst)), uint64(m.len())
	if m.one(5) {
		n = 1 << 50
	}
	if m.one(2) { // whole records are shared
		srcOff, off = srcOff&^(dcdb.RecordBytes-1), off&^(dcdb.RecordBytes-1)
		n = max(n, uint64(m.rng.IntN(3*dcdb.RecordBytes)))
	}
	cred := m.cred()
	m.note("copy %s %d at %d to %s %d at %d: %d bytes", from.view.Name(), src, srcOff, to.view.Name(), dst, off, n)
	got, err := m.fs.CopyRange(bg, from.view, src, srcOff, to.view, dst, off, n, cred)
	if m.refused(to, err) {
		return
	}
	want, wantErr := to.ref.copyRange(from.ref, src, srcOff, dst, off, n, cred)
	same(m, got, want, err, wantErr)
	m.settled()
}

func (m *model) xattrName() string {
	switch m.rng.IntN(30) {
	case 0:
		return []string{"", "user.", "user", "system.posix_acl", "other.x", "user." + strings.Repeat("n", 251)}[m.rng.IntN(6)]
	case 1, 2:
		return "security.capability"
	case 3:
		return "user." + strings.Repeat("n", 250)
	case 4, 5, 6:
		return refAccess
	case 7, 8, 9:
		return refDefault
	}
	return []string{"user.", "trusted.", "security."}[m.rng.IntN(3)] + fmt.Sprint(m.rng.IntN(5))
}

func (m *model) setxattr() {
	v := m.pick()
	ino, name, flags := m.anyNode(v.ref), m.xattrName(), uint32(0)
	val := bytes.Repeat([]byte{byte(m.rng.Uint32())}, m.rng.IntN(40))
	if m.one(6) {
		val = bytes.Repeat([]byte{byte(m.rng.Uint32())}, []int{0, 5000, 20000, 65536, 65537}[m.rng.IntN(5)])
	}
	if isRefACL(name) {
		val = m.acl()
	}
	if m.one(3) {
		flags = uint32(m.rng.IntN(5))
	}
	m.note("%s setxattr %d %.20q %d bytes %d", v.view.Name(), ino, name, len(val), flags)
	err := m.fs.Setxattr(bg, v.view, ino, name, val, flags)
	if m.refused(v, err) {
		return
	}
	same(m, 0, 0, err, v.ref.setxattr(ino, name, string(val), flags))
	clear(val) // the caller's own
}

// acl returns the value of an ACL, now and then a bad one.
func (m *model) acl() []byte {
	l := refACL{{1}}
	for range m.rng.IntN(3) {
		l = append(l, [3]uint32{2, 0, uint32(m.rng.IntN(3))})
	}
	l = append(l, [3]uint32{4})
	for range m.rng.IntN(3) {
		l = append(l, [3]uint32{8, 0, uint32(m.rng.IntN(3))})
	}
	if len(l) > 2 || m.one(3) {
		l = append(l, [3]uint32{16})
	}
	l = append(l, [3]uint32{32})
	for i := range l {
		l[i][1] = uint32(m.rng.IntN(8))
	}
	val := []byte(l.String())
	switch m.rng.IntN(20) {
	case 0:
		val = val[:m.rng.IntN(len(val))]
	case 1:
		val[m.rng.IntN(len(val))] ^= 1 << m.rng.IntN(8)
	}
	return val
}

func (m *model) getxattr() {
	v := m.pick()
	ino, name := m.anyNode(v.ref), m.xattrName()
	m.note("%s getxattr %d %.20q", v.view.Name(), ino, name)
	val, err := m.fs.Getxattr(bg, v.view, ino, name)
	want, wantErr := v.ref.getxattr(ino, name)
	same(m, string(val), want, err, wantErr)
}

func (m *model) removexattr() {
	v := m.pick()
	ino, name := m.anyNode(v.ref), m.xattrName()
	m.note("%s removexattr %d %.20q", v.view.Name(), ino, name)
	err := m.fs.Removexattr(bg, v.view, ino, name)
	if m.refused(v, err) {
		return
	}
	same(m, 0, 0, err, v.ref.removexattr(ino, name))
}

func (m *model) listxattr() {
	v := m.pick()
	ino := m.anyNode(v.ref)
	m.note("%s listxattr %d", v.view.Name(), ino)
	list, err := m.fs.Listxattr(bg, v.view, ino)
	want, wantErr := v.ref.listxattr(ino)
	same(m, string(list), want, err, wantErr)
}

func (m *model) readlink() {
	v := m.pick()
	ino := m.anyNode(v.ref)
	m.note("%s readlink %d", v.view.Name(), ino)
	text, err := m.fs.Readlink(bg, v.view, ino)
	want, wantErr := v.ref.readlink(ino)
	same(m, text, want, err, wantErr)
}

// modelDir is an open directory and what is still to come of its listing.
type modelDir struct {
	d      *Dir
	v      aim
	ino    uint64
	cookie uint64
	rest   []string
}

func (m *model) openDir() {
	v := m.pick()
	ino := m.dir(v.ref)
	m.note("%s opendir %d", v.view.Name(), ino)
	d, err := m.fs.OpenDir(bg, v.view, ino)
	_, wantErr := v.ref.getDir(ino)
	same(m, 0, 0, err, wantErr)
	if err != nil {
		return
	}
	m.dirs = append(m.dirs, &modelDir{d: d, v: v, ino: ino})
	if len(m.dirs) > 8 {
		m.dirs[0].d.Close()
		m.dirs = m.dirs[1:]
	}
}

// readDir reads some entries of an open directory: those of the moment when
// its listing began, though the directory has changed since.
func (m *model) readDir() {
	if len(m.dirs) == 0 {
		return
	}
	h := m.dirs[m.rng.IntN(len(m.dirs))]
	if h.v.view.Err() != nil {
		err := h.d.Read(bg, h.cookie, func(Dirent) bool { return true })
		same(m, 0, 0, err, ErrStale)
		return
	}
	n := h.v.ref.nodes[h.ino]
	if n == nil {
		return // forgotten: no such handle can be
	}
	if h.cookie == 0 || m.one(20) {
		h.cookie, h.rest = 0, n.listing(h.v.ref)
	}
	m.note("%s readdir %d at %d", h.v.view.Name(), h.ino, h.cookie)
	k := m.rng.IntN(10)
	if m.one(5) {
		k = m.rng.IntN(600)
	}
	var got []string
	err := h.d.Read(bg, h.cookie, func(e Dirent) bool {
		if k--; k < 0 {
			return false
		}
		got = append(got, direntLine(e))
		h.cookie = e.Cookie
		return true
	})
	m.must("readdir", err)
	if len(got) > len(h.rest) || !slices.Equal(got, h.rest[:len(got)]) || k >= 0 && len(got) != len(h.rest) {
		m.fail("got %q, want %q", got, h.rest)
	}
	h.rest = h.rest[len(got):]
}

func (m *model) closeDirs() {
	for _, h := range m.dirs {
		h.d.Close()
	}
	m.dirs = nil
}

func (m *model) fsync() {
	v := m.pick()
	ino := m.anyNode(v.ref)
	n := v.ref.nodes[ino]
	if n == nil {
		return
	}
	m.note("%s fsync %d", v.view.Name(), ino)
	m.must("fsync", m.fs.Fsync(bg, v.view, ino))
	if !v.ro {
		m.floor = max(m.floor, n.changed)
	}
}

func (m *model) sync() {
	m.note("sync")
	m.must("sync", m.fs.SyncAll(bg))
	m.durable()
}

func (m *model) anyLine() *line {
	lines := m.main.all()
	return lines[m.rng.IntN(len(lines))]
}

func (m *model) snapName() string { return fmt.Sprintf("s%d", m.rng.IntN(6)) }

func (m *model) createSnapshot() {
	l := m.anyLine()
	name := m.snapName()
	if len(l.snaps) >= 4 {
		name = l.snaps[0].name
	}
	m.note("%s snapshot %s", l.view.Name(), name)
	v, err := m.vol.CreateSnapshot(bg, l.view, name)
	if l.snapshot(name) != nil {
		same(m, 0, 0, err, snap.ErrExist)
		return
	}
	m.must("create snapshot", err)
	l.snaps = append(l.snaps, &refSnap{name, l.live.clone(), v})
	m.durable()
}

func (m *model) deleteSnapshot() {
	l := m.anyLine()
	name := m.snapName()
	if len(l.snaps) > 0 && !m.one(10) {
		name = l.snaps[m.rng.IntN(len(l.snaps))].name
	}
	m.note("%s delete snapshot %s", l.view.Name(), name)
	err := m.vol.DeleteSnapshot(bg, l.view, name)
	s := l.snapshot(name)
	if s == nil {
		same(m, 0, 0, err, snap.ErrNotExist)
		return
	}
	m.must("delete snapshot", err)
	l.snaps = slices.DeleteFunc(l.snaps, func(x *refSnap) bool { return x == s })
	m.gone = append(m.gone, s.view)
	m.durable()
}

func (m *model) renameSnapshot() {
	l := m.anyLine()
	name, to := m.snapName(), m.snapName()
	s := l.snapshot(name)
	if s == nil || l.snapshot(to) != nil {
		return
	}
	m.note("%s rename snapshot %s %s", l.view.Name(), name, to)
	m.must("rename snapshot", m.vol.RenameSnapshot(bg, l.view, name, to))
	s.name = to
	m.durable()
}

func (m *model) createFork() {
	l := m.anyLine()
	name := fmt.Sprintf("f%d", m.rng.IntN(20))
	from, of := l.view, l.live
	if len(l.snaps) > 0 && m.one(2) {
		s := l.snaps[m.rng.IntN(len(l.snaps))]
		from, of = s.view, s.fs
	}
	if len(m.main.all()) >= m.c.lines && l.fork(name) == nil {
		return
	}
	m.note("%s fork %s", from.Name(), name)
	v, err := m.vol.CreateFork(bg, from, name)
	if l.fork(name) != nil {
		same(m, 0, 0, err, snap.ErrExist)
		return
	}
	m.must("create fork", err)
	f := l.branch(name, of)
	f.view = v
	l.forks = append(l.forks, f)
	m.durable()
	if m.one(2) {
		m.clean(f)
	}
}

func (m *model) deleteFork() {
	l := m.anyLine()
	if len(l.forks) == 0 {
		return
	}
	f := l.forks[m.rng.IntN(len(l.forks))]
	m.note("%s delete fork %s", l.view.Name(), f.name)
	err := m.vol.DeleteFork(bg, l.view, f.name)
	if len(f.forks) > 0 {
		same(m, 0, 0, err, snap.ErrNotEmpty)
		return
	}
	m.must("delete fork", err)
	l.forks = slices.DeleteFunc(l.forks, func(x *line) bool { return x == f })
	m.gone = append(m.gone, f.view)
	for _, s := range f.snaps {
		m.gone = append(m.gone, s.view)
	}
	m.durable()
}

func (m *model) renameFork() {
	l, to := m.anyLine(), m.anyLine()
	if len(l.forks) == 0 {
		return
	}
	f := l.forks[m.rng.IntN(len(l.forks))]
	name := fmt.Sprintf("f%d", m.rng.IntN(20))
	if to.fork(name) != nil || slices.Contains(f.all(), to) {
		return
	}
	m.note("rename fork %s/%s to %s/%s", l.view.Name(), f.name, to.view.Name(), name)
	m.must("rename fork", m.vol.RenameFork(bg, l.view, f.name, to.view, name))
	l.forks = slices.DeleteFunc(l.forks, func(x *line) bool { return x == f })
	f.name = name
	to.forks = append(to.forks, f)
	m.durable()
}

func (m *model) remountOp() {
	m.note("remount")
	m.remount()
	if m.one(2) {
		m.cleanAll()
	}
}
