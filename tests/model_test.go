package tests

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// modelConfig is a way to run the model test.
type modelConfig struct {
	name    string
	flags   []string // of mount
	steps   int      // without DCFS_MODEL_STEPS
	names   int      // how many names files get
	start   int      // files made before it begins
	maxOff  int64
	maxLen  int
	lines   int // how many forks at most
	compare int // steps between two full comparisons
	sealed  bool
}

var modelConfigs = []modelConfig{
	{name: "small", steps: 1200, names: 10, maxOff: 300 << 10, maxLen: 60 << 10, lines: 6, compare: 200},
	{name: "tiny caches", flags: []string{"--cache=1M", "--dirty=1M", "--commit=10ms"},
		steps: 1500, names: 10, maxOff: 2 << 20, maxLen: 300 << 10, lines: 4, compare: 200},
	{name: "sealed", sealed: true, flags: []string{"--cache=1M", "--dirty=1M"},
		steps: 400, names: 10, maxOff: 1 << 20, maxLen: 300 << 10, lines: 4, compare: 200},
	{name: "large directories and sparse files", flags: []string{"--cache=1M"},
		steps: 800, names: 300, start: 200, maxOff: 1 << 42, maxLen: 200 << 10, lines: 2, compare: 300},
}

// TestModelOnAMount does random system calls on a mount and on the naive file
// system of modelref_test.go, and compares every errno, and now and then every
// view in full. DCFS_MODEL_SEED and DCFS_MODEL_STEPS change a run.
func TestModelOnAMount(t *testing.T) {
	for _, c := range modelConfigs {
		t.Run(c.name, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			if s := os.Getenv("DCFS_MODEL_SEED"); s != "" {
				seed, _ = strconv.ParseUint(s, 10, 64)
			}
			if s := os.Getenv("DCFS_MODEL_STEPS"); s != "" {
				c.steps, _ = strconv.Atoi(s)
			} else if testing.Short() || raceEnabled {
				c.steps /= 5
			}
			t.Logf("DCFS_MODEL_SEED=%d, %d steps", seed, c.steps)
			runModel(t, c, seed)
		})
	}
}

// model is a run.
type model struct {
	t          *testing.T
	c          modelConfig
	rng        *rand.Rand
	store, dir string

	main  *refLine
	step  int
	ids   int           // the last refNode.id given
	inos  map[int]int64 // low part of st_ino by id
	files []*modelFile
	dirs  []*modelDir
	maps  []*modelMap
	log   []string // the last operations
	buf   []byte   // of viewWalk.stretch
}

// modelFile is an open file.
type modelFile struct {
	fd, flags int
	node      *refNode
	view      *refView
}

func (f *modelFile) writable() bool { return f.flags&unix.O_ACCMODE != unix.O_RDONLY }
func (f *modelFile) readable() bool { return f.flags&unix.O_ACCMODE != unix.O_WRONLY }

// modelDir is an open directory: paths begin there, too, also when it has
// moved or is gone.
type modelDir struct {
	fd   int
	node *refNode
	view *refView
	door int
}

// modelMap is a shared mapping.
type modelMap struct {
	p    []byte
	node *refNode
	view *refView
}

func runModel(t *testing.T, c modelConfig, seed uint64) {
	m := &model{t: t, c: c, rng: rand.New(rand.NewPCG(seed, 1)), inos: make(map[int]int64), buf: alignedBytes(1 << 20)}
	if c.sealed {
		useKeyFile(t)
	}
	m.store, m.dir = newMount(t, c.flags...)
	t.Cleanup(m.dropAll) // before what unmounts
	root := m.newNode(stat(t, m.dir).Mode)
	root.nlink = 2
	m.main = newLine("", nil, root)
	for range c.start {
		m.create()
	}
	for range c.steps {
		m.step++
		m.pick()(m)
		if m.step%c.compare == 0 {
			m.compareAll()
		}
	}
	m.compareAll()
	m.remount()
	m.compareAll()
	m.dropAll()
	dcfs(t, "umount", m.dir)
	dcfs(t, "check", "--data", m.store)

	// Whatever is deleted first, the rest stays as it is, and nothing is lost
	// or left.
	dcfs(t, append(append([]string{"mount"}, c.flags...), m.store, m.dir)...)
	for m.deleteAny() {
	}
	m.compareAll()
	dcfs(t, "umount", m.dir)
	dcfs(t, "check", "--data", m.store)
}

var modelOps = []struct {
	weight int
	do     func(*model)
}{
	{14, (*model).create}, {8, (*model).open}, {6, (*model).mkdir}, {3, (*model).symlink}, {2, (*model).mkfifo}, {5, (*model).link},
	{2, (*model).tmpfile}, {6, (*model).unlink}, {4, (*model).rmdir}, {10, (*model).rename}, {4, (*model).lookup},
	{16, (*model).write}, {4, (*model).truncate}, {4, (*model).ftruncate}, {8, (*model).fallocate}, {5, (*model).copyRange},
	{5, (*model).mapFile}, {6, (*model).writeMap}, {2, (*model).unmap}, {8, (*model).readFile}, {2, (*model).fsync}, {8, (*model).closeFile},
	{4, (*model).chmod}, {4, (*model).utimens}, {6, (*model).setxattr}, {3, (*model).removexattr}, {3, (*model).getxattr},
	{2, (*model).openDir}, {1, (*model).closeDir},
	{4, (*model).createSnapshot}, {2, (*model).deleteSnapshot}, {1, (*model).renameSnapshot},
	{3, (*model).createFork}, {2, (*model).deleteFork}, {1, (*model).renameFork}, {1, (*model).remountNow},
}

func (m *model) pick() func(*model) {
	sum := 0
	for _, o := range modelOps {
		sum += o.weight
	}
	n := m.rng.IntN(sum)
	for _, o := range modelOps {
		if n -= o.weight; n < 0 {
			return o.do
		}
	}
	panic("weights")
}

// note logs an operation, to be printed if it goes wrong.
func (m *model) note(format string, args ...any) {
	if len(m.log) > 80 {
		m.log = m.log[20:]
	}
	m.log = append(m.log, fmt.Sprintf("%d: ", m.step)+fmt.Sprintf(format, args...))
}

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	short := func(text string) string { return strings.ReplaceAll(text, m.dir, "") }
	m.t.Logf("the last operations:\n%s", short(strings.Join(m.log, "\n")))
	m.t.Fatal(short(fmt.Sprintf(format, args...)))
}

// same compares an errno, and says whether there was none.
func (m *model) same(err error, want syscall.Errno) bool {
	m.t.Helper()
	var got syscall.Errno
	if err != nil && !errors.As(err, &got) || got != want {
		m.fail("got error %v, want %v (%d)", err, want, int(want))
	}
	return want == 0
}

func (m *model) one(n int) bool { return m.rng.IntN(n) == 0 }

func (m *model) newNode(mode uint32) *refNode {
	m.ids++
	n := &refNode{id: m.ids, mode: mode, nlink: 1, blocks: make(map[int64]*[refBlock]byte), xattrs: make(map[string]string)}
	if n.dir() {
		n.nlink, n.kids = 2, make(map[string]*refNode)
	}
	return n
}

// place is a directory, and a path to it.
type place struct {
	view *refView
	dir  *refNode
	path string
	// door is the id of D where the path leads through D/.snapshots. What lies
	// behind two doors is not the same to the kernel.
	door int
}

func (p place) String() string { return p.path }

// spot is a name in a directory.
type spot struct {
	place
	name string
	node *refNode      // nil: there is none
	err  syscall.Errno // of a look-up
	abs  string
}

func (m *model) anyLine() *refLine {
	lines := m.main.all()
	return lines[m.rng.IntN(len(lines))]
}

// place returns a directory: mostly of a live view, mostly by its path.
func (m *model) place() place {
	if len(m.dirs) > 0 && m.one(6) {
		if d := m.dirs[m.rng.IntN(len(m.dirs))]; !d.view.gone {
			return place{d.view, d.node, fmt.Sprintf("/proc/self/fd/%d", d.fd), d.door}
		}
	}
	l := m.anyLine()
	v := l.live
	if len(l.snaps) > 0 && m.one(6) {
		v = l.snaps[m.rng.IntN(len(l.snaps))]
	}
	nodes, paths := v.dirs()
	i := m.rng.IntN(len(nodes))
	if m.c.start > 0 && m.one(2) {
		i = 0
	}
	if v.ro && m.one(2) {
		if p := m.pastPlace(v, nodes[i]); p.dir != nil {
			return p
		}
	}
	return place{v, nodes[i], filepath.Join(v.path(m.dir), paths[i]), 0}
}

// pastPlace returns d of a snapshot by way of what it, or a directory that it
// lies in, is now.
func (m *model) pastPlace(v *refView, d *refNode) place {
	nodes, paths := v.line.live.dirs()
	rest := ""
	for at := d; at.up != nil; at = at.up {
		i := slices.IndexFunc(nodes, func(n *refNode) bool { return n.id == at.id })
		if i >= 0 && m.one(2) {
			return place{v, d, filepath.Join(v.line.path(m.dir), paths[i], ".snapshots", v.name, rest), at.id}
		}
		for name, c := range at.up.kids {
			if c == at {
				rest = filepath.Join(name, rest)
			}
		}
	}
	return place{}
}

func (m *model) newName() string {
	switch m.rng.IntN(60) {
	case 0:
		return strings.Repeat("x", 256)
	case 1:
		return strings.Repeat(string(rune('a'+m.rng.IntN(3))), 255)
	case 2:
		return []string{"\xff\xfe", "new\nline", "größe", " ", "..."}[m.rng.IntN(5)]
	}
	return fmt.Sprintf("n%03d", m.rng.IntN(m.c.names))
}

func (m *model) at(p place, name string) spot {
	n, err := p.dir.lookup(name)
	return spot{p, name, n, err, p.path + "/" + name}
}

// newSpot returns a name that mostly does not exist, oldSpot one that mostly
// does.
func (m *model) newSpot() spot { return m.at(m.place(), m.newName()) }

func (m *model) oldSpot() spot {
	p := m.place()
	if names := p.dir.names(); len(names) > 0 && !m.one(8) {
		return m.at(p, names[m.rng.IntN(len(names))])
	}
	return m.at(p, m.newName())
}

// spotOf returns an entry that ok accepts, if one is found soon.
func (m *model) spotOf(ok func(*refNode) bool) spot {
	s := m.oldSpot()
	for i := 0; i < 30 && (s.node == nil || !ok(s.node)); i++ {
		s = m.oldSpot()
	}
	return s
}

// mode returns permission bits that do not get an ordinary user into the way
// of himself.
func (m *model) mode() uint32 {
	mode := 0o700 | uint32(m.rng.IntN(0o100))
	if os.Getuid() == 0 && m.one(4) {
		mode = uint32(m.rng.IntN(0o10000)) // also what takes more than permission
	}
	return mode
}

const modelUmask = 0o022 // as TestMain has it

// off returns an offset for a file of the size, often at the edge of
// something.
func (m *model) off(size int64) int64 {
	switch m.rng.IntN(8) {
	case 0:
		return 0
	case 1:
		return size
	case 2:
		return m.rng.Int64N(m.c.maxOff)
	case 3:
		return m.rng.Int64N(m.c.maxOff) &^ (refBlock - 1)
	case 4:
		return m.rng.Int64N(size+1) &^ (refBlock - 1)
	case 5:
		return m.rng.Int64N(size+1) &^ (128<<10 - 1)
	}
	return m.rng.Int64N(size + 1)
}

func (m *model) len() int {
	switch m.rng.IntN(6) {
	case 0:
		return 1 + m.rng.IntN(10)
	case 1:
		return refBlock * (1 + m.rng.IntN(4))
	case 2:
		return 1 + m.rng.IntN(m.c.maxLen)
	}
	return 1 + m.rng.IntN(3*refBlock)
}

func (m *model) data(n int) []byte {
	p := make([]byte, n)
	if m.one(10) {
		return p // zeros that are data
	}
	x := m.rng.Uint64() | 1
	for i := range p {
		x = x*6364136223846793005 + 1442695040888963407
		p[i] = byte(x >> 56)
	}
	return p
}

// changing is the errno of a change that goes to the server: a snapshot's.
func (v *refView) changing() syscall.Errno {
	if v.ro {
		return syscall.EROFS
	}
	return 0
}

// makable is the errno of making an entry.
func (s spot) makable() syscall.Errno {
	if err := s.dir.free(s.name); err != 0 {
		return err
	}
	return s.view.changing()
}

// made adds a new inode to the model, with what it has of its directory.
func (m *model) made(s spot, mode uint32) *refNode {
	n := m.newNode(mode)
	if n.dir() {
		n.mode |= s.dir.mode & syscall.S_ISGID
	}
	s.dir.attach(s.name, n)
	return n
}

func (m *model) keep(fd, flags int, n *refNode, v *refView) {
	m.files = append(m.files, &modelFile{fd, flags, n, v})
	if len(m.files) > 12 {
		unix.Close(m.files[0].fd)
		m.files = m.files[1:]
	}
}

func (m *model) create() {
	s, mode := m.newSpot(), m.mode()
	flags := unix.O_CREAT | unix.O_RDWR
	if m.one(2) {
		flags |= unix.O_EXCL
	}
	m.openAt(s, flags|m.openFlags(), mode)
}

func (m *model) open() { m.openAt(m.oldSpot(), m.rng.IntN(3)|m.openFlags(), 0) }

func (m *model) openFlags() int {
	flags := unix.O_NOFOLLOW | unix.O_CLOEXEC
	if m.one(5) {
		flags |= unix.O_APPEND
	}
	if m.one(6) {
		flags |= unix.O_TRUNC
	}
	if m.one(10) {
		flags |= unix.O_SYNC
	}
	return flags
}

func (m *model) openAt(s spot, flags int, mode uint32) {
	if s.node != nil && s.node.typ() == syscall.S_IFIFO {
		return // would wait for somebody at the other end
	}
	m.note("open %q %#o mode %o", s.abs, flags, mode)
	fd, err := unix.Open(s.abs, flags, mode)
	if !m.same(err, s.openable(flags)) {
		return
	}
	n := s.node
	switch {
	case n == nil:
		n = m.made(s, syscall.S_IFREG|mode&^modelUmask)
	case flags&unix.O_TRUNC != 0:
		n.truncate(0)
	}
	if n.dir() {
		unix.Close(fd)
		return
	}
	m.keep(fd, flags, n, s.view)
}

func (s spot) openable(flags int) syscall.Errno {
	n, writes := s.node, flags&(unix.O_ACCMODE|unix.O_TRUNC) != 0
	switch {
	case n == nil && flags&unix.O_CREAT != 0:
		return s.makable()
	case n == nil:
		return s.err
	case flags&unix.O_EXCL != 0:
		return syscall.EEXIST
	case n.dir() && (writes || flags&unix.O_CREAT != 0):
		return syscall.EISDIR
	case n.typ() == syscall.S_IFLNK:
		return syscall.ELOOP
	case writes:
		return s.view.changing()
	}
	return 0
}

func (m *model) mkdir() {
	s, mode := m.newSpot(), m.mode()
	m.note("mkdir %q %o", s.abs, mode)
	if m.same(unix.Mkdir(s.abs, mode), s.makable()) {
		m.made(s, syscall.S_IFDIR|mode&0o1777&^modelUmask)
	}
}

func (m *model) symlink() {
	s, target := m.newSpot(), strings.Repeat("t/", m.rng.IntN(20))+"end"
	if m.one(10) {
		target = strings.Repeat("long", 1000)
	}
	m.note("symlink %q to %.20q", s.abs, target)
	if m.same(unix.Symlink(target, s.abs), s.makable()) {
		m.made(s, syscall.S_IFLNK|0o777).target = target
	}
}

func (m *model) mkfifo() {
	s, mode := m.newSpot(), m.mode()
	m.note("mkfifo %q %o", s.abs, mode)
	if m.same(unix.Mkfifo(s.abs, mode), s.makable()) {
		m.made(s, syscall.S_IFIFO|mode&^modelUmask)
	}
}

// link makes a link to what has a name, or to an open file.
func (m *model) link() {
	to := m.newSpot()
	from := m.oldSpot()
	if to.view != from.view && !m.one(5) {
		to = m.at(from.place, m.newName())
	}
	flags := 0
	if f := m.file(); f != nil && m.one(3) {
		from = spot{place: place{view: f.view}, node: f.node, abs: fmt.Sprintf("/proc/self/fd/%d", f.fd)}
		flags = unix.AT_SYMLINK_FOLLOW
	}
	m.note("link %q to %q", from.abs, to.abs)
	n := from.node
	if m.same(unix.Linkat(unix.AT_FDCWD, from.abs, unix.AT_FDCWD, to.abs, flags), linkable(from, to)) {
		n.nlink++
		n.tmp = false
		to.dir.attach(to.name, n)
	}
}

func linkable(from, to spot) syscall.Errno {
	n := from.node
	if n == nil {
		return from.err
	}
	if err := to.dir.free(to.name); err != 0 {
		return err
	}
	switch {
	case n.dir():
		return syscall.EPERM
	case n.nlink == 0 && !n.tmp:
		return syscall.ENOENT
	case from.view != to.view:
		return syscall.EXDEV
	}
	return to.view.changing()
}

func (m *model) tmpfile() {
	p, mode := m.place(), m.mode()
	m.note("tmpfile %s %o", p, mode)
	fd, err := unix.Open(p.path, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, mode)
	want := p.view.changing()
	if p.dir.nlink == 0 {
		want = syscall.ENOENT
	}
	if m.same(err, want) {
		n := m.newNode(syscall.S_IFREG | mode&^modelUmask)
		n.nlink, n.tmp = 0, true
		m.keep(fd, unix.O_RDWR, n, p.view)
	}
}

func (m *model) unlink() {
	s := m.oldSpot()
	m.note("unlink %q", s.abs)
	want := s.err
	if want == 0 && s.node.dir() {
		want = syscall.EISDIR
	} else if want == 0 {
		want = s.view.changing()
	}
	if m.same(unix.Unlink(s.abs), want) {
		s.dir.remove(s.name)
	}
}

func (m *model) rmdir() {
	s := m.spotOf((*refNode).dir)
	m.note("rmdir %q", s.abs)
	want := s.err
	switch {
	case want != 0:
	case !s.node.dir():
		want = syscall.ENOTDIR
	case s.view.ro:
		want = syscall.EROFS
	case len(s.node.kids) > 0:
		want = syscall.ENOTEMPTY
	}
	if m.same(unix.Rmdir(s.abs), want) {
		s.dir.remove(s.name)
	}
}

func (m *model) rename() {
	from := m.oldSpot()
	to := m.newSpot()
	if m.one(2) {
		to = m.oldSpot()
	}
	if to.view != from.view && !m.one(8) { // elsewhere in the same view
		nodes, paths := from.view.dirs()
		i := m.rng.IntN(len(nodes))
		p := place{from.view, nodes[i], filepath.Join(from.view.path(m.dir), paths[i]), 0}
		if names := p.dir.names(); len(names) > 0 && m.one(2) {
			to = m.at(p, names[m.rng.IntN(len(names))])
		} else {
			to = m.at(p, to.name)
		}
	}
	flags := uint(0)
	if m.one(2) {
		flags = []uint{unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE, unix.RENAME_EXCHANGE}[m.rng.IntN(3)]
	}
	if m.one(30) {
		flags = []uint{unix.RENAME_EXCHANGE | unix.RENAME_NOREPLACE, 8}[m.rng.IntN(2)]
	}
	m.note("rename %q %q %d", from.abs, to.abs, flags)
	if !m.same(unix.Renameat2(unix.AT_FDCWD, from.abs, unix.AT_FDCWD, to.abs, flags), renamable(from, to, flags)) || from.node == to.node {
		return // also if both names are of one inode
	}
	if flags == unix.RENAME_EXCHANGE {
		a, b := from.dir.detach(from.name), to.dir.detach(to.name)
		from.dir.attach(from.name, b)
		to.dir.attach(to.name, a)
		return
	}
	if to.node != nil {
		to.dir.remove(to.name)
	}
	to.dir.attach(to.name, from.dir.detach(from.name))
}

// renamable has the cases in the order in which the kernel comes to them.
func renamable(from, to spot, flags uint) syscall.Errno {
	a, b, exchange := from.node, to.node, flags == unix.RENAME_EXCHANGE
	oneDoor, twoDirs := from.door == to.door, from.dir != to.dir && from.door == to.door
	if flags > unix.RENAME_EXCHANGE {
		return syscall.EINVAL
	}
	if a == nil {
		return from.err
	}
	if b == nil {
		if err := to.dir.free(to.name); err != 0 {
			return err
		}
	}
	switch {
	case b != nil && flags == unix.RENAME_NOREPLACE:
		return syscall.EEXIST
	case b == nil && exchange:
		return syscall.ENOENT
	case twoDirs && a.dir() && to.dir.below(a):
		return syscall.EINVAL
	case twoDirs && b != nil && b.dir() && from.dir.below(b):
		if exchange {
			return syscall.EINVAL
		}
		return syscall.ENOTEMPTY
	case a == b && oneDoor:
		return 0
	case b != nil && !exchange && a.dir() && !b.dir():
		return syscall.ENOTDIR
	case b != nil && !exchange && !a.dir() && b.dir():
		return syscall.EISDIR
	case from.view != to.view:
		return syscall.EXDEV
	case from.view.ro:
		return syscall.EROFS
	case b != nil && !exchange && b.dir() && len(b.kids) > 0:
		return syscall.ENOTEMPTY
	}
	return 0
}

func (m *model) lookup() {
	s := m.oldSpot()
	if m.one(3) {
		s = m.newSpot()
	}
	m.note("stat %q", s.abs)
	var st unix.Stat_t
	if m.same(unix.Lstat(s.abs, &st), s.err) {
		m.sameStat(s.abs, s.node, &st)
	}
}

// sameStat compares what stat says with what the model knows.
func (m *model) sameStat(what string, n *refNode, st *unix.Stat_t) {
	m.t.Helper()
	if st.Mode != n.mode || st.Nlink != n.nlink || st.Size != n.shown() {
		m.fail("%q: got mode %o, %d links, size %d; want mode %o, %d links, size %d", what, st.Mode, st.Nlink, st.Size, n.mode, n.nlink, n.shown())
	}
	if n.mtime != nil && n.maps == 0 && st.Mtim != *n.mtime {
		m.fail("%q: got mtime %v, want %v", what, st.Mtim, *n.mtime)
	}
	// What nobody changed has the times that it had, in each view.
	times := fmt.Sprint(st.Mtim, st.Ctim)
	if n.times != "" && n.maps == 0 && times != n.times {
		m.fail("%q: got mtime and ctime %s, want %s", what, times, n.times)
	}
	if n.maps == 0 {
		n.times = times
	}
	ino := st.Ino & (1<<40 - 1)
	if old := m.inos[n.id]; old != 0 && old != int64(ino) {
		m.fail("%q: inode number %d of the view, want %d", what, ino, old)
	}
	m.inos[n.id] = int64(ino)
}

// file returns an open file, nil if there is none.
func (m *model) file() *modelFile {
	for range 10 {
		if len(m.files) > 0 {
			if f := m.files[m.rng.IntN(len(m.files))]; !f.view.gone {
				return f
			}
		}
	}
	return nil
}

func (m *model) write() {
	f := m.file()
	if f == nil {
		return
	}
	off, p := m.off(f.node.size), m.data(m.len())
	if f.flags&unix.O_APPEND != 0 {
		off = f.node.size
	}
	m.note("write %d of %d: [%d,%d)", f.node.id, f.fd, off, off+int64(len(p)))
	n, err := unix.Pwrite(f.fd, p, off)
	want := syscall.Errno(0)
	if !f.writable() {
		want = syscall.EBADF
	}
	if m.same(err, want) {
		if n != len(p) {
			m.fail("wrote %d of %d", n, len(p))
		}
		f.node.write(off, p)
	}
}

func (m *model) truncate() {
	s := m.spotOf((*refNode).reg)
	n := s.node
	if n != nil && n.typ() == syscall.S_IFLNK {
		return
	}
	size := int64(0)
	if n != nil {
		size = m.off(n.size)
	}
	m.note("truncate %q %d", s.abs, size)
	want := s.err
	switch {
	case n == nil:
	case n.dir():
		want = syscall.EISDIR
	case !n.reg():
		want = syscall.EINVAL
	default:
		want = s.view.changing()
	}
	if m.same(unix.Truncate(s.abs, size), want) {
		n.truncate(size)
	}
}

func (m *model) ftruncate() {
	f := m.file()
	if f == nil {
		return
	}
	size := m.off(f.node.size)
	m.note("ftruncate %d of %d: %d", f.node.id, f.fd, size)
	want := syscall.Errno(0)
	if !f.writable() {
		want = syscall.EINVAL
	}
	if m.same(unix.Ftruncate(f.fd, size), want) {
		f.node.truncate(size)
	}
}

func (m *model) fallocate() {
	f := m.file()
	if f == nil {
		return
	}
	mode := []uint32{0, 1, 3, 3, 3, 3, 0x10, 0x11, 8}[m.rng.IntN(9)]
	off, n := m.off(f.node.size), int64(m.len())
	if m.one(8) && mode > 1 {
		n = 1 + m.rng.Int64N(m.c.maxOff)
	}
	m.note("fallocate %d of %d: %#x [%d,%d)", f.node.id, f.fd, mode, off, off+n)
	want := syscall.Errno(0)
	switch {
	case !f.writable():
		want = syscall.EBADF
	case mode == 8:
		want = syscall.EOPNOTSUPP
	}
	if m.same(unix.Fallocate(f.fd, mode, off, n), want) {
		f.node.fallocate(mode, off, n)
	}
}

// copyRange copies between open files, of any views.
func (m *model) copyRange() {
	f, g := m.file(), m.file()
	if f == nil || g == nil {
		return
	}
	from, to, n := m.off(f.node.size), m.off(g.node.size), int64(m.len())
	if m.one(2) { // whole records are shared
		from, to = from&^(128<<10-1), to&^(128<<10-1)
		n += int64(m.rng.IntN(300 << 10))
	}
	m.note("copy %d of %d at %d to %d of %d at %d: %d", f.node.id, f.fd, from, g.node.id, g.fd, to, n)
	want := syscall.Errno(0)
	n = max(0, min(n, f.node.size-from))
	switch {
	case !f.readable() || !g.writable() || g.flags&unix.O_APPEND != 0:
		want = syscall.EBADF
	case f.node == g.node && from < to+n && to < from+n:
		want = syscall.EINVAL
	}
	off, out := from, to
	got, err := unix.CopyFileRange(f.fd, &off, g.fd, &out, int(n), 0)
	if !m.same(err, want) {
		return
	}
	if n > 0 && got <= 0 || int64(got) > n {
		m.fail("copied %d of %d", got, n)
	}
	if got > 0 {
		g.node.copyFrom(f.node, from, to, int64(got))
	}
}

func (m *model) mapFile() {
	f := m.file()
	if f == nil || f.node.size == 0 || len(m.maps) >= 4 {
		return
	}
	n := int(min(f.node.size, 4<<20))
	m.note("mmap %d of %d: %d", f.node.id, f.fd, n)
	p, err := unix.Mmap(f.fd, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	want := syscall.Errno(0)
	if f.flags&unix.O_ACCMODE != unix.O_RDWR {
		want = syscall.EACCES
	}
	if m.same(err, want) {
		f.node.maps++
		m.maps = append(m.maps, &modelMap{p, f.node, f.view})
	}
}

// writeMap writes to a mapping, and reads from it, where the file is.
func (m *model) writeMap() {
	if len(m.maps) == 0 {
		return
	}
	x := m.maps[m.rng.IntN(len(m.maps))]
	size := min(int64(len(x.p)), x.node.size)
	if x.view.gone || size == 0 {
		return // SIGBUS
	}
	off := m.rng.Int64N(size)
	n := min(int64(m.len()), size-off)
	m.note("write to map of %d: [%d,%d)", x.node.id, off, off+n)
	if want := x.node.read(off, int(n)); !bytes.Equal(x.p[off:off+n], want) {
		m.fail("in the map at %d: %s", off, difference(x.p[off:off+n], want))
	}
	p := m.data(int(n))
	copy(x.p[off:], p)
	x.node.write(off, p)
}

func (m *model) unmap() {
	if len(m.maps) > 0 {
		m.note("unmap")
		m.unmapAt(m.rng.IntN(len(m.maps)))
	}
}

func (m *model) unmapAt(i int) {
	x := m.maps[i]
	if err := unix.Msync(x.p, unix.MS_SYNC); err != nil && !x.view.gone {
		m.fail("msync: %v", err)
	}
	if err := unix.Munmap(x.p); err != nil {
		m.fail("munmap: %v", err)
	}
	x.node.maps--
	x.node.changed()
	m.maps = slices.Delete(m.maps, i, i+1)
}

// readFile reads from an open file and asks for its attributes.
func (m *model) readFile() {
	if len(m.files) == 0 {
		return
	}
	f := m.files[m.rng.IntN(len(m.files))]
	off, p := m.off(f.node.size), make([]byte, m.len())
	m.note("read %d of %d: [%d,%d)", f.node.id, f.fd, off, off+int64(len(p)))
	want := syscall.Errno(0)
	if f.view.gone {
		want = syscall.ESTALE
	}
	var st unix.Stat_t
	if m.same(unix.Fstat(f.fd, &st), want) {
		m.sameStat(fmt.Sprint("open file ", f.fd), f.node, &st)
	}
	if !f.readable() {
		want = syscall.EBADF
	}
	n, err := unix.Pread(f.fd, p, off)
	if !m.same(err, want) {
		return
	}
	if want := f.node.read(off, len(p)); !bytes.Equal(p[:n], want) {
		m.fail("read of %d bytes at %d: %s", len(p), off, difference(p[:n], want))
	}
}

func (m *model) fsync() {
	if f := m.file(); f != nil {
		m.note("fsync %d", f.node.id)
		m.same(unix.Fsync(f.fd), 0)
	}
}

func (m *model) closeFile() {
	if len(m.files) > 0 {
		i := m.rng.IntN(len(m.files))
		m.note("close %d of %d", m.files[i].node.id, m.files[i].fd)
		m.same(unix.Close(m.files[i].fd), 0)
		m.files = slices.Delete(m.files, i, i+1)
	}
}

// changing is the errno of setting attributes. A chmod of a snapshot's root is
// a matter of its own, but roots are no entries.
func (s spot) changing() syscall.Errno {
	if s.err != 0 {
		return s.err
	}
	return s.view.changing()
}

// setting returns an entry whose attributes can be set, mostly.
func (m *model) setting() (spot, syscall.Errno) {
	s := m.oldSpot()
	return s, s.changing()
}

func (m *model) chmod() {
	s, want := m.setting()
	if s.node != nil && s.node.typ() == syscall.S_IFLNK {
		return
	}
	mode := m.mode()
	m.note("chmod %q %o", s.abs, mode)
	if m.same(unix.Chmod(s.abs, mode), want) {
		s.node.mode = s.node.typ() | mode
		s.node.times = ""
	}
}

func (m *model) utimens() {
	s, want := m.setting()
	ts := []unix.Timespec{{Sec: m.rng.Int64N(1 << 33), Nsec: m.rng.Int64N(1e9)}, {Sec: m.rng.Int64N(1<<33) - 1<<31, Nsec: m.rng.Int64N(1e9)}}
	m.note("utimens %q %v", s.abs, ts)
	if m.same(unix.UtimesNanoAt(unix.AT_FDCWD, s.abs, ts, unix.AT_SYMLINK_NOFOLLOW), want) {
		s.node.times, s.node.mtime = "", &ts[1]
		if s.node.maps > 0 {
			s.node.mtime = nil // pages that are written later change it
		}
	}
}

// xattrName returns a name that n may have; n may be nil.
func (m *model) xattrName(n *refNode) string {
	if n != nil && len(n.xattrs) > 0 && m.one(2) {
		names := slices.Sorted(maps.Keys(n.xattrs))
		return names[m.rng.IntN(len(names))]
	}
	prefix := "user."
	if os.Getuid() == 0 && m.one(3) {
		prefix = "trusted."
	}
	if m.one(20) {
		return prefix + strings.Repeat("n", 255-len(prefix))
	}
	return prefix + fmt.Sprint(m.rng.IntN(4))
}

// noXattr: Linux has user attributes of files and directories only.
func noXattr(n *refNode, name string) bool {
	return !n.reg() && !n.dir() && strings.HasPrefix(name, "user.")
}

func (m *model) setxattr() {
	s, want := m.setting()
	name, val, flags := m.xattrName(s.node), string(m.data(m.rng.IntN(40))), 0
	if m.one(6) {
		val = string(m.data([]int{5000, 20000, 65536}[m.rng.IntN(3)]))
	}
	if m.one(3) {
		flags = 1 + m.rng.IntN(2)
	}
	m.note("setxattr %q %.20q %d bytes %d", s.abs, name, len(val), flags)
	if n := s.node; n != nil {
		_, there := n.xattrs[name]
		switch {
		case noXattr(n, name):
			want = syscall.EPERM
		case want != 0:
		case there && flags == unix.XATTR_CREATE:
			want = syscall.EEXIST
		case !there && flags == unix.XATTR_REPLACE:
			want = syscall.ENODATA
		}
	}
	if m.same(unix.Lsetxattr(s.abs, name, []byte(val), flags), want) {
		s.node.xattrs[name] = val
		s.node.times = ""
	}
}

func (m *model) removexattr() {
	s := m.spotOf((*refNode).hasXattrs)
	want := s.changing()
	name := m.xattrName(s.node)
	m.note("removexattr %q %.20q", s.abs, name)
	if n := s.node; n != nil {
		_, there := n.xattrs[name]
		switch {
		case noXattr(n, name):
			want = syscall.EPERM
		case want == 0 && !there:
			want = syscall.ENODATA
		}
	}
	if m.same(unix.Lremovexattr(s.abs, name), want) {
		delete(s.node.xattrs, name)
		s.node.times = ""
	}
}

func (m *model) getxattr() {
	s, buf := m.spotOf((*refNode).hasXattrs), make([]byte, 65536)
	name := m.xattrName(s.node)
	m.note("getxattr %q %.20q", s.abs, name)
	want, val := s.err, ""
	if s.node != nil {
		var ok bool
		if val, ok = s.node.xattrs[name]; !ok {
			want = syscall.ENODATA
		}
	}
	n, err := unix.Lgetxattr(s.abs, name, buf)
	if m.same(err, want) && string(buf[:n]) != val {
		m.fail("xattr: %s", difference(buf[:n], []byte(val)))
	}
}

func (m *model) openDir() {
	p := m.place()
	m.note("opendir %s", p)
	fd, err := unix.Open(p.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if m.same(err, 0) {
		m.dirs = append(m.dirs, &modelDir{fd, p.dir, p.view, p.door})
	}
	if len(m.dirs) > 8 {
		m.closeDirAt(0)
	}
}

func (m *model) closeDir() {
	if len(m.dirs) > 0 {
		m.closeDirAt(m.rng.IntN(len(m.dirs)))
	}
}

func (m *model) closeDirAt(i int) {
	d := m.dirs[i]
	want := syscall.Errno(0)
	if d.view.gone {
		want = syscall.ESTALE
	}
	m.note("fstat and close of open directory %d", d.fd)
	var st unix.Stat_t
	if m.same(unix.Fstat(d.fd, &st), want) {
		m.sameStat(fmt.Sprint("open directory ", d.fd), d.node, &st)
	}
	unix.Close(d.fd)
	m.dirs = slices.Delete(m.dirs, i, i+1)
}

func (m *model) snapName() string { return fmt.Sprintf("s%d", m.rng.IntN(6)) }

// createSnapshot makes one of a whole fork, through any of its directories.
func (m *model) createSnapshot() {
	l, name := m.anyLine(), m.snapName()
	nodes, paths := l.live.dirs()
	i := m.rng.IntN(len(nodes))
	p := filepath.Join(l.path(m.dir), paths[i], ".snapshots", name)
	want := syscall.Errno(0)
	if old := l.snapshot(name); old != nil {
		want = syscall.EEXIST
	} else if len(l.snaps) >= 4 {
		return
	}
	m.note("mkdir %q", p)
	if m.same(unix.Mkdir(p, 0o755), want) {
		v := &refView{name: name, line: l, ro: true, number: -1, seen: make(map[int]string)}
		v.root = l.live.root.clone(nil, make(map[*refNode]*refNode))
		l.snaps = append(l.snaps, v)
	}
}

func (m *model) deleteSnapshot() {
	l, name := m.anyLine(), m.snapName()
	if len(l.snaps) > 0 && !m.one(10) {
		name = l.snaps[m.rng.IntN(len(l.snaps))].name
	}
	m.rmdirSnapshot(l, name)
}

func (m *model) rmdirSnapshot(l *refLine, name string) {
	want := syscall.ENOENT
	s := l.snapshot(name)
	if s != nil {
		want = 0
	}
	p := filepath.Join(l.path(m.dir), ".snapshots", name)
	m.note("rmdir %q", p)
	if m.same(unix.Rmdir(p), want) {
		m.end(s)
		l.snaps = slices.DeleteFunc(l.snaps, func(x *refView) bool { return x == s })
	}
}

func (m *model) renameSnapshot() {
	l, name, to := m.anyLine(), m.snapName(), m.snapName()
	s, t := l.snapshot(name), l.snapshot(to)
	want := syscall.Errno(0)
	switch {
	case s == nil:
		want = syscall.ENOENT
	case t != nil && s != t:
		want = syscall.EEXIST
	}
	dir := filepath.Join(l.path(m.dir), ".snapshots")
	m.note("rename %q/%s %s", dir, name, to)
	if m.same(unix.Rename(filepath.Join(dir, name), filepath.Join(dir, to)), want) {
		s.name = to
	}
}

// createFork makes one of a live view or a snapshot: both are listed in the
// live view.
func (m *model) createFork() {
	l, name := m.anyLine(), fmt.Sprintf("f%d", m.rng.IntN(8))
	v := l.live
	if len(l.snaps) > 0 && m.one(2) {
		v = l.snaps[m.rng.IntN(len(l.snaps))]
	}
	want := syscall.Errno(0)
	if l.fork(name) != nil {
		want = syscall.EEXIST
	} else if len(m.main.all()) >= m.c.lines {
		return
	}
	p := filepath.Join(v.path(m.dir), ".forks", name)
	m.note("mkdir %q", p)
	if m.same(unix.Mkdir(p, 0o755), want) {
		l.forks = append(l.forks, newLine(name, l, v.root))
	}
}

func (m *model) deleteFork() {
	l := m.anyLine()
	if len(l.forks) == 0 {
		return
	}
	m.rmdirFork(l.forks[m.rng.IntN(len(l.forks))])
}

func (m *model) rmdirFork(f *refLine) {
	p := f.path(m.dir)
	if snaps := f.up.snaps; len(snaps) > 0 && m.one(3) { // found there, as a link
		link := filepath.Join(snaps[m.rng.IntN(len(snaps))].path(m.dir), ".forks", f.name)
		m.note("rmdir %q", link)
		m.same(unix.Rmdir(link), syscall.ENOTDIR)
	}
	m.note("rmdir %q", p)
	want := syscall.Errno(0)
	if len(f.forks) > 0 {
		want = syscall.ENOTEMPTY
	}
	if m.same(unix.Rmdir(p), want) {
		f.up.forks = slices.DeleteFunc(f.up.forks, func(x *refLine) bool { return x == f })
		m.end(f.views()...)
	}
}

// end says that views were deleted: what is open in them is stale at once,
// whatever the kernel had of it.
func (m *model) end(views ...*refView) {
	m.t.Helper()
	for _, v := range views {
		v.gone = true
	}
	var st unix.Stat_t
	for _, f := range m.files {
		if !f.view.gone {
			continue
		}
		m.same(unix.Fstat(f.fd, &st), syscall.ESTALE)
		if f.readable() {
			_, err := unix.Pread(f.fd, make([]byte, 1), 0)
			m.same(err, syscall.ESTALE)
		}
	}
	for _, d := range m.dirs {
		if d.view.gone {
			m.same(unix.Fstat(d.fd, &st), syscall.ESTALE)
		}
	}
}

// renameFork gives a fork another name, or another listing.
func (m *model) renameFork() {
	l, to := m.anyLine(), m.anyLine()
	if len(l.forks) == 0 {
		return
	}
	f, name := l.forks[m.rng.IntN(len(l.forks))], fmt.Sprintf("f%d", m.rng.IntN(8))
	old, within := to.fork(name), slices.Contains(f.all(), to)
	want := syscall.Errno(0)
	switch {
	case within:
		want = syscall.EINVAL
	case old != nil && old != f && slices.Contains(old.all(), l):
		want = syscall.ENOTEMPTY
	case old != nil && old != f:
		want = syscall.EEXIST
	}
	p := filepath.Join(to.path(m.dir), ".forks", name)
	m.note("rename %q %q", f.path(m.dir), p)
	if m.same(unix.Rename(f.path(m.dir), p), want) && old != f {
		l.forks = slices.DeleteFunc(l.forks, func(x *refLine) bool { return x == f })
		f.name, f.up = name, to
		to.forks = append(to.forks, f)
	}
}

// deleteAny deletes a snapshot or a fork; false: there is none.
func (m *model) deleteAny() bool {
	var snaps []*refView
	var forks []*refLine
	for _, l := range m.main.all() {
		snaps = append(snaps, l.snaps...)
		if l.up != nil && len(l.forks) == 0 {
			forks = append(forks, l)
		}
	}
	switch n := len(snaps) + len(forks); {
	case n == 0:
		return false
	case m.rng.IntN(n) < len(snaps):
		s := snaps[m.rng.IntN(len(snaps))]
		m.rmdirSnapshot(s.line, s.name)
	default:
		m.rmdirFork(forks[m.rng.IntN(len(forks))])
	}
	if m.one(4) {
		m.compareAll()
	}
	return true
}

func (m *model) remountNow() {
	if m.one(2) {
		m.remount()
	}
}

func (m *model) remount() {
	m.note("remount")
	m.dropAll()
	dcfs(m.t, "umount", m.dir)
	dcfs(m.t, append(append([]string{"mount"}, m.c.flags...), m.store, m.dir)...)
}

// dropAll closes all that is open, with what is dirty in it.
func (m *model) dropAll() {
	for _, f := range m.files {
		unix.Close(f.fd)
	}
	for _, d := range m.dirs {
		unix.Close(d.fd)
	}
	for _, x := range m.maps {
		unix.Munmap(x.p)
		x.node.maps--
		x.node.changed()
	}
	m.files, m.dirs, m.maps = nil, nil, nil
}

// compareAll compares every view in full.
func (m *model) compareAll() {
	m.t.Helper()
	m.note("compare")
	for _, x := range m.maps {
		// SEEK_DATA goes past the kernel's pages.
		if err := unix.Msync(x.p, unix.MS_SYNC); err != nil && !x.view.gone {
			m.fail("msync: %v", err)
		}
	}
	numbers := make(map[int64]*refView)
	for _, l := range m.main.all() {
		m.sameList(filepath.Join(l.path(m.dir), ".snapshots"), names(l.snaps, func(v *refView) string { return v.name }))
		m.sameList(filepath.Join(l.path(m.dir), ".forks"), names(l.forks, func(f *refLine) string { return f.name }))
		for _, v := range l.views() {
			w := &viewWalk{m: m, v: v, nodes: make(map[*refNode]bool), inos: make(map[uint64]*refNode)}
			w.dir(v.path(m.dir), v.root)
			if other := numbers[v.number]; other != nil {
				m.fail("%s and %s have one view number, %d", other.path(m.dir), v.path(m.dir), v.number)
			}
			numbers[v.number] = v
		}
		m.comparePast(l)
	}
}

func names[T any](list []T, name func(T) string) []string {
	var s []string
	for _, x := range list {
		s = append(s, name(x))
	}
	return s
}

// sameList compares a listing, whatever its order.
func (m *model) sameList(dir string, want []string) []os.DirEntry {
	m.t.Helper()
	ents, err := os.ReadDir(dir) // sorts
	if err != nil {
		m.fail("readdir %q: %v", dir, err)
	}
	got := names(ents, os.DirEntry.Name)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		m.fail("%q lists %q, want %q", dir, got, want)
	}
	return ents
}

// comparePast compares what some directories show of their own past: by
// inode, so that renames do not hide it.
func (m *model) comparePast(l *refLine) {
	m.t.Helper()
	past := make([]map[int]*refNode, len(l.snaps))
	for i, s := range l.snaps {
		past[i] = make(map[int]*refNode)
		nodes, _ := s.dirs()
		for _, n := range nodes {
			past[i][n.id] = n
		}
	}
	nodes, paths := l.live.dirs()
	for i, n := range nodes {
		if !m.one(3) {
			continue
		}
		var have []string
		dir := filepath.Join(l.path(m.dir), paths[i], ".snapshots")
		for j, s := range l.snaps {
			if p := past[j][n.id]; p != nil {
				have = append(have, s.name)
				if i == 0 {
					continue // the snapshot itself
				}
				w := &viewWalk{m: m, v: s, nodes: make(map[*refNode]bool), inos: make(map[uint64]*refNode)}
				w.dir(filepath.Join(dir, s.name), p)
			}
		}
		m.sameList(dir, have)
	}
}

// viewWalk compares the tree of a view.
type viewWalk struct {
	m     *model
	v     *refView
	nodes map[*refNode]bool   // seen
	inos  map[uint64]*refNode // by st_ino: two inodes have two
}

func (w *viewWalk) dir(path string, n *refNode) {
	w.m.t.Helper()
	w.inode(path, n)
	for _, e := range w.m.sameList(path, n.names()) {
		c, p := n.kids[e.Name()], path+"/"+e.Name()
		if got := fileType(e.Type()); got != c.typ() {
			w.m.fail("%q is listed as type %o, want %o", p, got, c.typ())
		}
		if c.dir() {
			w.dir(p, c)
		} else {
			w.inode(p, c)
		}
	}
}

func fileType(mode os.FileMode) uint32 {
	switch mode {
	case os.ModeDir:
		return syscall.S_IFDIR
	case os.ModeSymlink:
		return syscall.S_IFLNK
	case os.ModeNamedPipe:
		return syscall.S_IFIFO
	case 0:
		return syscall.S_IFREG
	}
	return 0
}

func (w *viewWalk) inode(path string, n *refNode) {
	w.m.t.Helper()
	m := w.m
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		m.fail("lstat %q: %v", path, err)
	}
	m.sameStat(path, n, &st)
	w.number(path, n, &st)
	if w.nodes[n] {
		return
	}
	w.nodes[n] = true
	w.xattrs(path, n)
	switch n.typ() {
	case syscall.S_IFREG:
		w.content(path, n)
	case syscall.S_IFLNK:
		if got, err := os.Readlink(path); err != nil || got != n.target {
			m.fail("readlink %q: %.40q, %v; want %.40q", path, got, err, n.target)
		}
	}
}

// number compares st_ino: one inode has one in a view, and another one in
// each other view; it lasts, and so does all of a snapshot.
func (w *viewWalk) number(path string, n *refNode, st *unix.Stat_t) {
	w.m.t.Helper()
	if other := w.inos[st.Ino]; other != nil && other != n {
		w.m.fail("%q has the number %d of another inode", path, st.Ino)
	}
	w.inos[st.Ino] = n
	number := int64(st.Ino >> 40)
	if w.v.number < 0 {
		w.v.number = number
	}
	if number != w.v.number {
		w.m.fail("%q: view number %d, want %d", path, number, w.v.number)
	}
	if w.v.ro {
		same := *st
		same.Dev = 0 // the mount's
		all := fmt.Sprint(same)
		if old := w.v.seen[n.id]; old != "" && old != all {
			w.m.fail("%q has changed in the snapshot: %s, was %s", path, all, old)
		}
		w.v.seen[n.id] = all
	}
}

func (w *viewWalk) xattrs(path string, n *refNode) {
	w.m.t.Helper()
	buf := make([]byte, 65536)
	k, err := unix.Llistxattr(path, buf)
	if err != nil {
		w.m.fail("listxattr %q: %v", path, err)
	}
	list := ""
	for _, name := range slices.Sorted(maps.Keys(n.xattrs)) {
		list += name + "\x00"
	}
	got := strings.SplitAfter(string(buf[:k]), "\x00")
	slices.Sort(got)
	if strings.Join(got, "") != list {
		w.m.fail("listxattr %q: %q, want %q", path, got, list)
	}
	for name, val := range n.xattrs {
		k, err := unix.Lgetxattr(path, name, buf)
		if err != nil || string(buf[:k]) != val {
			w.m.fail("getxattr %q %q: %v, %s", path, name, err, difference(buf[:max(k, 0)], []byte(val)))
		}
	}
}

// alignedBytes returns a buffer for O_DIRECT.
func alignedBytes(n int) []byte {
	b := make([]byte, n+refBlock)
	skip := refBlock - int(uintptr(unsafe.Pointer(&b[0]))%refBlock)
	return b[skip : skip+n]
}

// content compares what is in a file, stretch by stretch as SEEK_DATA and
// SEEK_HOLE have them: no byte that is not zero may lie in a hole. Sometimes it
// asks the server, not the kernel's pages.
func (w *viewWalk) content(path string, n *refNode) {
	w.m.t.Helper()
	m, flags := w.m, unix.O_RDONLY|unix.O_CLOEXEC
	if m.one(3) {
		flags |= unix.O_DIRECT
	}
	fd, err := unix.Open(path, flags, 0)
	if err != nil {
		m.fail("open %q: %v", path, err)
	}
	defer unix.Close(fd)
	for off := int64(0); off < n.size; {
		data, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) {
			data = n.size
		} else if err != nil || data < off || data >= n.size {
			m.fail("%q: data from %d on: %d, %v; size %d", path, off, data, err, n.size)
		}
		w.hole(path, n, off, data)
		if data < n.size-1 && m.one(2) { // the hole reads as zeros
			w.stretch(path, fd, n, off, min(data, off+3*refBlock))
		}
		if off = data; off == n.size {
			break
		}
		hole, err := unix.Seek(fd, off, unix.SEEK_HOLE)
		if err != nil || hole <= off || hole > n.size {
			m.fail("%q: hole from %d on: %d, %v; size %d", path, off, hole, err, n.size)
		}
		w.stretch(path, fd, n, off, hole)
		off = hole
	}
	if n.size <= 4<<20 {
		w.stretch(path, fd, n, 0, n.size)
	}
}

func (w *viewWalk) hole(path string, n *refNode, off, end int64) {
	w.m.t.Helper()
	for b, data := range n.blocks {
		from, to := max(off, b*refBlock), min(end, (b+1)*refBlock)
		if from < to && len(bytes.Trim(data[from-b*refBlock:to-b*refBlock], "\x00")) > 0 {
			w.m.fail("%q: the hole [%d,%d) is not empty at block %d", path, off, end, b)
		}
	}
}

func (w *viewWalk) stretch(path string, fd int, n *refNode, off, end int64) {
	w.m.t.Helper()
	buf := w.m.buf
	for off &^= refBlock - 1; off < end; {
		k, err := unix.Pread(fd, buf, off)
		if err != nil || k == 0 {
			w.m.fail("%q: read at %d: %d, %v", path, off, k, err)
		}
		if want := n.read(off, k); !bytes.Equal(buf[:k], want) {
			w.m.fail("%q at %d: %s", path, off, difference(buf[:k], want))
		}
		off += int64(k)
	}
}
