package inode

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
	"dcfs/dcdb/store/sealed"
	"dcfs/snap"
	"dcfs/spill"
)

// modelConfig is a way to run the model test.
type modelConfig struct {
	name    string
	steps   int // without DCFS_MODEL_STEPS
	names   int // how many names files get
	start   int // files made before it begins
	maxOff  uint64
	maxLen  int
	lines   int // how many forks at most
	compare int // steps between two full comparisons
	crash   int // steps between two crashes; 0: never
	cache   int64
	dirty   int64
	commit  time.Duration
	limits  store.Limits // of the store; zero: its own
	sealed  bool
}

var modelConfigs = []modelConfig{
	{name: "small", steps: 3000, names: 12, maxOff: 300 << 10, maxLen: 40 << 10, lines: 6, compare: 150},
	{name: "tiny caches", steps: 1500, names: 12, maxOff: 1 << 20, maxLen: 200 << 10, lines: 5, compare: 100,
		cache: 256 << 10, dirty: 256 << 10, commit: time.Millisecond},
	{name: "large directories", steps: 1000, names: 6000, start: 4000, maxOff: 8 << 10, maxLen: 5 << 10, lines: 3, compare: 250,
		cache: 512 << 10, commit: 5 * time.Millisecond},
	{name: "large sparse files", steps: 1000, names: 5, maxOff: 1<<44 + 1<<20, maxLen: 1 << 20, lines: 4, compare: 100},
	{name: "crashes", steps: 1000, names: 8, maxOff: 200 << 10, maxLen: 30 << 10, lines: 4, compare: 400, crash: 40,
		commit: 2 * time.Millisecond},
	{name: "small groups", steps: 500, names: 200, start: 200, maxOff: 1 << 20, maxLen: 300 << 10, lines: 3, compare: 200, crash: 100,
		cache: 256 << 10, dirty: 1 << 20,
		limits: store.Limits{BatchRecords: 5000, BatchBytes: 1 << 20, KeyBytes: 1 << 10, ValueBytes: 512 << 10, ObjectBytes: 16 << 20}},
	{name: "sealed", steps: 800, names: 40, maxOff: 1 << 20, maxLen: 300 << 10, lines: 4, compare: 200, crash: 60,
		cache: 256 << 10, dirty: 1 << 20, commit: 2 * time.Millisecond, sealed: true},
}

// TestModel does random operations on a volume and on the naive file system
// of ref_test.go, and compares every answer, and every view in full now and
// then. DCFS_MODEL_SEED and DCFS_MODEL_STEPS change a run.
func TestModel(t *testing.T) {
	for _, c := range modelConfigs {
		t.Run(c.name, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			if s := os.Getenv("DCFS_MODEL_SEED"); s != "" {
				seed, _ = strconv.ParseUint(s, 10, 64)
			}
			if s := os.Getenv("DCFS_MODEL_STEPS"); s != "" {
				c.steps, _ = strconv.Atoi(s)
			} else if testing.Short() {
				c.steps /= 5
			}
			t.Logf("DCFS_MODEL_SEED=%d, %d steps", seed, c.steps)
			runModel(t, c, seed)
		})
	}
}

// model is a run.
type model struct {
	t    testing.TB
	c    modelConfig
	rng  *rand.Rand
	ops  []modelOp
	mem  *store.Memory
	wrap func(*store.Memory) store.Store // what the volume is opened on; nil: mem itself
	key  *sealed.Key                     // of the volume, if it is sealed
	vol  *snap.Volume
	fs   *FS
	time *testClock

	main    *line
	step    int
	now     dcdb.Time
	log     []string     // the last operations
	dirs    []*modelDir  // open directories
	gone    []*snap.View // views that were deleted
	history []moment     // since the last crash; only with crashes
	floor   int          // the lowest step that a crash may go back to
	torn    int          // the last step that made several commits
}

// moment is the world after a step.
type moment struct {
	step int
	main *line
}

type modelOp struct {
	weight int
	do     func(*model)
}

func runModel(t *testing.T, c modelConfig, seed uint64) {
	m := &model{t: t, c: c, rng: rand.New(rand.NewPCG(seed, 1)), mem: newMemory(), time: newTestClock()}
	if c.limits != (store.Limits{}) {
		m.mem.SetLimits(c.limits)
	}
	if c.sealed {
		m.key = newSealKey(t)
	}
	m.ops = modelOps(c)
	m.open()
	defer func() { m.must("close", m.vol.Close(bg)) }()
	m.now = m.time.tick()
	m.main = &line{live: m.firstView(), given: map[uint64]bool{1: true, 2: true}, view: m.vol.Main()}
	m.remember()
	for range c.start {
		m.tick()
		m.mknodIn(m.target(m.main), snap.RootIno)
	}
	m.sync()
	m.remember()
	for range c.steps {
		m.tick()
		m.pickOp().do(m)
		m.remember()
		if m.step%c.compare == 0 {
			m.compareAll()
		}
	}
	m.compareAll()
	m.remount()
	m.compareAll()
	m.checkVolume()
}

// open opens the volume as a process that starts does.
func (m *model) open() {
	var st store.Store = m.mem
	if m.wrap != nil {
		st = m.wrap(m.mem)
	}
	if m.key != nil {
		st = sealed.New(st, m.key)
	}
	vol, err := snap.Open(bg, st, snap.Options{
		CacheBytes: m.c.cache, DirtyBytes: m.c.dirty, CommitInterval: m.c.commit, Now: m.time.Now, Log: m.t.Logf,
	})
	m.must("open", err)
	m.vol, m.fs = vol, New(vol, Options{})
}

// newSealKey returns the key of some sealed volume.
func newSealKey(t testing.TB) *sealed.Key {
	t.Helper()
	secret, err := sealed.KeyFile(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	line, err := sealed.Make(secret, store.UUID{})
	if err != nil {
		t.Fatal(err)
	}
	k, err := sealed.Unwrap(line, secret, store.UUID{})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// firstView returns the model of a new volume. What the root's attributes
// are is not this package's to say.
func (m *model) firstView() *refFS {
	a, err := m.fs.Getattr(bg, m.vol.Main(), snap.RootIno)
	m.must("getattr of the root", err)
	r := &refFS{nodes: map[uint64]*refNode{}}
	n := r.newNode(snap.RootIno, &refNode{}, Cred{UID: a.UID, GID: a.GID}, a.Mode)
	n.nlink, n.up = 2, snap.RootIno
	n.atime, n.mtime, n.ctime, n.btime = a.Atime, a.Mtime, a.Ctime, a.Btime
	return r
}

func (m *model) tick() {
	m.step++
	m.now = m.time.tick()
}

func (m *model) pickOp() modelOp {
	sum := 0
	for _, o := range m.ops {
		sum += o.weight
	}
	n := m.rng.IntN(sum)
	for _, o := range m.ops {
		if n -= o.weight; n < 0 {
			return o
		}
	}
	panic("weights")
}

// note logs an operation, to be printed if it goes wrong.
func (m *model) note(format string, args ...any) {
	if len(m.log) > 60 {
		m.log = m.log[20:]
	}
	m.log = append(m.log, fmt.Sprintf("%d: ", m.step)+fmt.Sprintf(format, args...))
}

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	m.t.Logf("the last operations:\n%s", strings.Join(m.log, "\n"))
	m.t.Fatalf(format, args...)
}

func (m *model) must(what string, err error) {
	m.t.Helper()
	if err != nil {
		m.fail("%s: %v", what, err)
	}
}

// same compares an error and, if both succeeded, an answer.
func same[T comparable](m *model, got, want T, err, wantErr error) {
	m.t.Helper()
	if !isErr(err, wantErr) {
		m.fail("got error %v, want %v", err, wantErr)
	}
	if err == nil && got != want {
		m.fail("got %v, want %v", got, want)
	}
}

// plain takes from a what the model does not know.
func plain(a Attr) Attr {
	a.Alloc, a.Parent, a.Name, a.NextCookie, a.Flags, a.Born = 0, 0, "", 0, 0, 0
	return a
}

// aim is the view that an operation goes to.
type aim struct {
	line *line
	view *snap.View
	ref  *refFS
	ro   bool
}

func (m *model) target(l *line) aim {
	l.live.now, l.live.step = m.now, m.step
	return aim{l, l.view, l.live, false}
}

// pick returns a view: mostly a live one.
func (m *model) pick() aim {
	lines := m.main.all()
	l := lines[m.rng.IntN(len(lines))]
	if len(l.snaps) > 0 && m.rng.IntN(6) == 0 {
		s := l.snaps[m.rng.IntN(len(l.snaps))]
		return aim{l, s.view, s.fs, true}
	}
	return m.target(l)
}

func (m *model) one(n int) bool { return m.rng.IntN(n) == 0 }

// anyNode returns an inode number that exists, nearly always.
func (m *model) anyNode(r *refFS) uint64 {
	if m.one(100) {
		return []uint64{snap.OrphanIno, 0, 1 << 40, 99999}[m.rng.IntN(4)]
	}
	return r.order[m.rng.IntN(len(r.order))]
}

// node returns an inode that ok accepts, if one is found soon.
func (m *model) node(r *refFS, ok func(*refNode) bool) uint64 {
	ino := uint64(0)
	for range 30 {
		ino = m.anyNode(r)
		if n := r.nodes[ino]; n == nil || ok(n) || m.one(50) {
			break
		}
	}
	return ino
}

func (m *model) dir(r *refFS) uint64 {
	if m.c.start > 0 && m.one(2) {
		return snap.RootIno
	}
	return m.node(r, (*refNode).dir)
}

func (m *model) file(r *refFS) uint64 { return m.node(r, (*refNode).reg) }

// name returns a name, nearly always a good one.
func (m *model) name() string {
	switch m.rng.IntN(60) {
	case 0:
		return []string{".", "..", "", "a/b", "x\x00y", strings.Repeat("n", 256)}[m.rng.IntN(6)]
	case 1:
		return strings.Repeat(string(rune('a'+m.rng.IntN(3))), 255)
	case 2:
		return []string{"\xff\xfe", "new\nline", "größe", "\x01", " "}[m.rng.IntN(5)]
	}
	return fmt.Sprintf("n%04d", m.rng.IntN(m.c.names))
}

// oldName returns a name that is in the directory, mostly.
func (m *model) oldName(r *refFS, dir uint64) string {
	d := r.nodes[dir]
	if d == nil || len(d.ents) == 0 || m.one(8) {
		return m.name()
	}
	if len(d.ents) > 100 {
		for range 20 {
			if name := m.name(); d.ents[name] != 0 {
				return name
			}
		}
	}
	names := make([]string, 0, len(d.ents))
	for name := range d.ents {
		names = append(names, name)
	}
	slices.Sort(names)
	return names[m.rng.IntN(len(names))]
}

func (m *model) cred() Cred {
	c := root
	if m.one(3) {
		c = user
	}
	if m.one(3) {
		c.Umask = 027
	}
	return c
}

func (m *model) mode() uint32 {
	mode := uint32(m.rng.IntN(01000))
	if m.one(3) {
		mode |= uint32(m.rng.IntN(8)) << 9
	}
	return mode
}

// off returns an offset for a file of the size.
func (m *model) off(size uint64) uint64 {
	switch m.rng.IntN(8) {
	case 0:
		return 0
	case 1:
		return size
	case 2:
		return m.rng.Uint64N(m.c.maxOff)
	case 3:
		return m.rng.Uint64N(m.c.maxOff) &^ (refBlock - 1)
	case 4:
		return m.rng.Uint64N(size+1) &^ (refBlock - 1)
	}
	return m.rng.Uint64N(size + 1)
}

func (m *model) len() int {
	switch m.rng.IntN(6) {
	case 0:
		return m.rng.IntN(10)
	case 1:
		return refBlock * m.rng.IntN(4)
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
	for i := range p {
		p[i] = byte(m.rng.Uint32())
	}
	return p
}

func (m *model) sizeOf(r *refFS, ino uint64) uint64 {
	if n := r.nodes[ino]; n != nil && n.reg() {
		return n.size
	}
	return 0
}

// remember keeps the world, for a crash.
func (m *model) remember() {
	if m.c.crash > 0 {
		m.history = append(m.history, moment{m.step, m.main.clone()})
	}
}

// durable says that everything so far was acknowledged as safe.
func (m *model) durable() { m.floor = m.step }

// compareAll compares every view in full and verifies the invariants.
func (m *model) compareAll() {
	m.t.Helper()
	for _, l := range m.main.all() {
		m.compareView(l.name, l.view, l.live)
		for _, s := range l.snaps {
			m.compareView(l.name+"@"+s.name, s.view, s.fs)
		}
	}
	for _, v := range m.gone {
		if _, err := m.fs.Getattr(bg, v, snap.RootIno); !isErr(err, ErrStale) {
			m.fail("getattr in a view that is gone: %v", err)
		}
	}
}

func (m *model) compareView(name string, v *snap.View, r *refFS) {
	m.t.Helper()
	got, err := dumpView(m.fs, v)
	m.must("walk of view "+name, err)
	if diff := firstDiff(got, r.dump()); diff != "" {
		m.fail("view %q: %s", name, diff)
	}
	bad := false
	for _, base := range []*snap.View{nil, m.vol.Main()} {
		o := CheckOptions{Base: base, Spill: spill.Options{Bytes: 1000}}
		o.Problem = func(p string) { bad = true; m.t.Errorf("check of %q, base %v: %s", name, base != nil, p) }
		m.must("check of "+name, m.fs.CheckView(bg, v, o))
	}
	if bad {
		m.fail("invariants do not hold")
	}
}

func firstDiff(got, want []string) string {
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			return fmt.Sprintf("\n got %.3000s\nwant %.3000s", g, w)
		}
	}
	return ""
}

// checkVolume verifies what the packages below keep, when they are at rest.
func (m *model) checkVolume() {
	m.t.Helper()
	m.must("wait for the reclamation", m.vol.WaitIdle(bg))
	r, err := m.vol.Check(bg, snap.CheckOptions{Contents: true})
	m.must("check of the volume", err)
	if len(r.Problems) > 0 {
		m.fail("check of the volume:\n%s", strings.Join(r.Problems, "\n"))
	}
}

// remount closes the volume and opens it again.
func (m *model) remount() {
	m.closeDirs()
	m.checkVolume()
	m.must("close", m.vol.Close(bg))
	m.mem = m.mem.Reopen()
	m.open()
	m.must("listing", m.main.bind(m.vol, m.vol.Main()))
	m.gone = nil
	m.durable()
}

// crash lets the process die, and accepts what a later one finds if it is
// the world after some step that was not before the last acknowledged one.
func (m *model) crash() {
	m.closeDirs()
	after := m.mem.Cut(store.Cut{Rand: m.rng, Killed: m.one(3)})
	m.vol.Close(bg) // of the dead process: only its goroutines matter
	m.mem = after
	m.open()
	m.gone = nil
	m.main = m.survivor()
	m.note("crash: back at step %d, floor %d", m.history[0].step, m.floor)
	m.floor = m.history[0].step
	m.cleanAll()
}

// survivor returns the newest remembered world that equals the volume.
func (m *model) survivor() *line {
	var diff string
	for i := len(m.history) - 1; i >= 0 && m.history[i].step >= m.floor; i-- {
		h := m.history[i]
		if d := m.differs(h.main); d == "" {
			m.history = []moment{{h.step, h.main.clone()}}
			return h.main
		} else if diff == "" || len(d) > 0 && i == len(m.history)-1 {
			diff = d
		}
	}
	m.fail("after a crash: no step from %d to %d equals the volume; with the last one: %s", m.floor, m.step, diff)
	return nil
}

// differs compares the volume with a world, "" if they are equal.
func (m *model) differs(main *line) string {
	if err := main.bind(m.vol, m.vol.Main()); err != nil {
		return err.Error()
	}
	for _, l := range main.all() {
		if d := m.viewDiffers(l.view, l.live); d != "" {
			return fmt.Sprintf("view %q: %s", l.name, d)
		}
		for _, s := range l.snaps {
			if d := m.viewDiffers(s.view, s.fs); d != "" {
				return fmt.Sprintf("view %q@%q: %s", l.name, s.name, d)
			}
		}
	}
	return ""
}

func (m *model) viewDiffers(v *snap.View, r *refFS) string {
	got, err := dumpView(m.fs, v)
	if err != nil {
		return err.Error()
	}
	return firstDiff(got, r.dump())
}

// cleanAll does what the first use of each view after a mount does.
func (m *model) cleanAll() {
	for _, l := range m.main.all() {
		m.clean(l)
	}
}

func (m *model) clean(l *line) {
	m.remember()
	m.must("clean orphans", m.fs.CleanOrphans(bg, l.view))
	m.target(l).ref.clean()
	m.settled()
	m.remember()
}

// settled makes durable what an operation did in several commits, so that no
// crash leaves a part of it.
func (m *model) settled() {
	m.torn = m.step
	if m.c.crash > 0 {
		m.sync()
	}
}

// newIno fails if a new inode has a number that its line has given before.
func (m *model) newIno(v aim, a Attr, err error) {
	if err != nil {
		return
	}
	if v.line.given[a.Ino] {
		m.fail("inode number %d is given a second time", a.Ino)
	}
	v.line.given[a.Ino] = true
}

// refused handles an operation that changes something in a snapshot.
func (m *model) refused(v aim, err error) bool {
	if v.ro && !isErr(err, ErrReadOnly) {
		m.fail("in a snapshot: got %v, want %v", err, ErrReadOnly)
	}
	return v.ro
}

func (m *model) mknodIn(v aim, dir uint64) {
	name, cred, mode, rdev := m.name(), m.cred(), m.mode(), uint32(m.rng.IntN(1000))
	if m.one(5) {
		mode |= []uint32{syscall.S_IFIFO, syscall.S_IFSOCK, syscall.S_IFCHR, syscall.S_IFBLK, syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFLNK}[m.rng.IntN(7)]
	}
	m.note("%s mknod %d %.20q %o", v.view.Name(), dir, name, mode)
	a, err := m.fs.Mknod(bg, v.view, dir, name, cred, mode, rdev)
	if m.refused(v, err) {
		return
	}
	want, wantErr := v.ref.mknod(a.Ino, dir, name, cred, mode, rdev)
	m.newIno(v, a, err)
	same(m, plain(a), want, err, wantErr)
}
