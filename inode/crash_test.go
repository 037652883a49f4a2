package inode

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dcfs/dcdb/store"
	"dcfs/snap"
)

// crasher runs the operations of the model and lets the machine die under them:
// before calls that change the store, whatever goroutine makes them, and between
// operations. What the next process would find then is looked at when the
// operation is over; the script goes on. A seed repeats the script and the choice
// of crashes, though not the moment at which background work gets its turn.
type crasher struct {
	*model
	plant  plant
	rate   float64       // how many of the calls are crashed at
	acked  atomic.Int64  // model.floor, for other goroutines
	armed  atomic.Bool   // the volume is made: crashes and mistakes begin
	points int           // crashes looked at
	dumps  map[*line]any // of moments, as far as they were needed

	mu    sync.Mutex
	dice  *rand.Rand // guarded by mu
	shots []shot     // guarded by mu; not looked at yet
}

// shot is what a crash left.
type shot struct {
	mem   *store.Memory
	floor int // the lowest step that it may show
	what  string
}

// plant is a mistake that the crasher must find.
type plant struct {
	name    string
	cut     store.Cut // what it lets happen
	barrier int       // of how many barriers one is made; 0: of one
	unacked bool      // whatever was acknowledged, some step must be there
}

var crashPlants = []plant{
	{name: "acknowledged before the barrier", barrier: 1 << 30},
	{name: "two groups under way", barrier: 2, unacked: true},
	{name: "batch before its objects", cut: store.Cut{LoseObjects: true}},
	{name: "batch in pieces", cut: store.Cut{TearBatch: true}, unacked: true},
}

// careless makes some barriers only.
type careless struct {
	store.Store
	every int64
	armed *atomic.Bool
	calls atomic.Int64
}

func (c *careless) Barrier(ctx context.Context) error {
	if c.armed.Load() && c.calls.Add(1)%c.every != 0 {
		return nil
	}
	return c.Store.Barrier(ctx)
}

// mishap is a testing.TB whose failing is no failure of the test.
type mishap struct {
	testing.TB
	text string
}

func (m *mishap) Errorf(format string, args ...any) { m.text += fmt.Sprintf(format, args...) + "\n" }
func (m *mishap) Logf(string, ...any)               {}
func (m *mishap) Fatalf(format string, args ...any) {
	m.Errorf(format, args...)
	runtime.Goexit()
}

func newCrasher(t testing.TB, seed uint64, p plant, rate float64) *crasher {
	c := modelConfig{names: 8, maxOff: 200 << 10, maxLen: 30 << 10, lines: 4, compare: 1 << 30, crash: 1 << 30, commit: time.Hour}
	if seed%2 == 1 {
		c.commit = time.Millisecond
		c.cache, c.dirty = 256<<10, 256<<10
	}
	m := &model{t: t, c: c, rng: rand.New(rand.NewPCG(seed, 2)), mem: newMemory(), time: newTestClock()}
	k := &crasher{model: m, plant: p, rate: rate, dice: rand.New(rand.NewPCG(seed, 3)), dumps: map[*line]any{}}
	m.wrap = k.watch
	m.ops = modelOps(c)
	m.ops[len(m.ops)-1] = modelOp{40, func(*model) { k.replace() }} // no crashes of its own
	return k
}

// watch is the store that the volume is opened on.
func (k *crasher) watch(mem *store.Memory) store.Store {
	var st store.Store = mem
	if k.plant.barrier > 0 {
		st = &careless{Store: mem, every: int64(k.plant.barrier), armed: &k.armed}
	}
	f := store.NewFault(st)
	f.Before(func(op store.Op) {
		if op&store.OpWrites != 0 && k.armed.Load() {
			k.shoot(mem, k.rate, fmt.Sprint("call ", op))
		}
	})
	return f
}

// shoot crashes, or not.
func (k *crasher) shoot(mem *store.Memory, rate float64, what string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dice.Float64() >= rate {
		return
	}
	c := k.plant.cut
	c.Rand, c.Killed = k.dice, k.dice.IntN(4) == 0
	floor := int(k.acked.Load()) // before the state is taken: it only grows
	k.shots = append(k.shots, shot{mem.Cut(c), floor, fmt.Sprintf("%s, killed %v", what, c.Killed)})
}

// run does steps operations.
func (k *crasher) run(steps int) {
	k.open()
	defer func() { k.vol.Close(bg) }()
	k.now = k.time.tick()
	k.main = &line{live: k.firstView(), given: map[uint64]bool{1: true, 2: true}, view: k.vol.Main()}
	k.remember()
	k.sync()
	k.armed.Store(true)
	for range steps {
		k.tick()
		k.pickOp().do(k.model)
		k.remember()
		k.acked.Store(int64(k.floor))
		k.shoot(k.mem, k.rate/2, "idle")
		k.look()
	}
}

// replace writes a file anew as editors do: beside it, and then in its place.
func (k *crasher) replace() {
	l := k.anyLine()
	sub := func(do func(v aim)) {
		do(k.target(l))
		k.remember()
		k.tick()
	}
	var ino uint64
	sub(func(v aim) {
		a, err := k.fs.Mknod(bg, v.view, snap.RootIno, "doc.tmp", root, 0o644, 0)
		want, wantErr := v.ref.mknod(a.Ino, snap.RootIno, "doc.tmp", root, 0o644, 0)
		k.newIno(v, a, err)
		same(k.model, plain(a), want, err, wantErr)
		ino = v.ref.nodes[snap.RootIno].ents["doc.tmp"]
	})
	sub(func(v aim) {
		p := k.data(20000 + k.rng.IntN(50000))
		_, err := k.fs.Write(bg, v.view, ino, root, p, 0, WriteFlags{})
		_, wantErr := v.ref.write(ino, root, p, 0, WriteFlags{})
		same(k.model, 0, 0, err, wantErr)
	})
	fsync := func(v aim, ino uint64) {
		changed := v.ref.nodes[ino].changed
		k.must("fsync", k.fs.Fsync(bg, v.view, ino))
		k.floor = max(k.floor, changed)
	}
	if k.one(2) {
		sub(func(v aim) { fsync(v, ino) })
	}
	sub(func(v aim) {
		k.note("%s replace doc by %d", v.view.Name(), ino)
		got, last, err := k.fs.Rename(bg, v.view, snap.RootIno, "doc.tmp", snap.RootIno, "doc", 0)
		wantIno, wantLast, wantErr := v.ref.rename(snap.RootIno, "doc.tmp", snap.RootIno, "doc", 0)
		same(k.model, removed{got, last}, removed{wantIno, wantLast}, err, wantErr)
	})
	if k.one(2) {
		sub(func(v aim) { fsync(v, snap.RootIno) })
	}
}

// look looks at what the crashes since the last look left.
func (k *crasher) look() {
	k.mu.Lock()
	shots := k.shots
	k.shots = nil
	k.mu.Unlock()
	for _, s := range shots {
		k.points++
		k.verify(s)
	}
	// No later crash may go back to before what is acknowledged now.
	for len(k.history) > 1 && k.history[0].step < k.floor && !k.plant.unacked {
		delete(k.dumps, k.history[0].main)
		k.history = k.history[1:]
	}
}

// verify opens what a crash left, as the next process does.
func (k *crasher) verify(s shot) {
	vol, err := snap.Open(bg, s.mem, snap.Options{CacheBytes: 1 << 20, CommitInterval: time.Hour, Now: k.time.Now, Log: k.t.Logf})
	if err != nil {
		k.fail("%s: the volume can't be opened: %v", s.what, err)
	}
	defer vol.Close(bg)
	f := New(vol, Options{})
	got, err := dumpVolume(f, vol, vol.Main(), "main")
	if err != nil {
		k.fail("%s: %v", s.what, err)
	}
	if diff := k.unknown(got, s.floor); diff != "" {
		k.fail("crash in step %d, %s: no step from %d on is there; %s", k.step, s.what, s.floor, diff)
	}
	var bad []string
	problem := func(p string) { bad = append(bad, p) }
	for _, v := range viewsOf(vol, vol.Main()) {
		if err := f.Check(bg, v, problem); err != nil {
			k.fail("%s: check of %q: %v", s.what, v.Name(), err)
		}
	}
	if len(bad) == 0 && k.points%10 != 0 {
		return // what reclaims takes its time
	}
	if err := vol.WaitIdle(bg); err != nil {
		k.fail("%s: %v", s.what, err)
	}
	r, err := vol.Check(bg, snap.CheckOptions{Contents: true})
	if err != nil {
		k.fail("%s: %v", s.what, err)
	}
	if bad = append(bad, r.Problems...); len(bad) > 0 {
		k.fail("crash in step %d, %s: check: %s", k.step, s.what, strings.Join(bad, "\n"))
	}
}

// unknown tells how the newest step differs if none from floor on is what got is.
func (k *crasher) unknown(got []string, floor int) (diff string) {
	if k.torn == k.step {
		return "" // the step was several commits, and may have ended between two
	}
	if k.plant.unacked {
		floor = 0
	}
	for i := len(k.history) - 1; i >= 0 && k.history[i].step >= floor; i-- {
		w, n := k.history[i].main, k.history[i].step
		want, ok := k.dumps[w].([]string)
		if !ok {
			want = w.dump("main")
			k.dumps[w] = want
		}
		d := firstDiff(got, want)
		if d == "" {
			return ""
		}
		diff = fmt.Sprintf("with step %d: %s", n, d) // the oldest
	}
	return diff
}

// dumpVolume writes down every view from v down, each with its name.
func dumpVolume(f *FS, vol *snap.Volume, v *snap.View, name string) ([]string, error) {
	lines, err := dumpNamed(f, v, name)
	if err != nil {
		return nil, err
	}
	for _, s := range vol.Snapshots(v) {
		more, err := dumpNamed(f, s, name+"@"+s.Name())
		if err != nil {
			return nil, err
		}
		lines = append(lines, more...)
	}
	for _, k := range vol.Forks(v) {
		more, err := dumpVolume(f, vol, k, name+"/"+path.Base(k.Name()))
		if err != nil {
			return nil, err
		}
		lines = append(lines, more...)
	}
	return lines, nil
}

func dumpNamed(f *FS, v *snap.View, name string) ([]string, error) {
	lines, err := dumpView(f, v)
	if err != nil {
		return nil, fmt.Errorf("view %q: %w", name, err)
	}
	return append([]string{name}, lines...), nil
}

// dump is dumpVolume of the model.
func (l *line) dump(name string) []string {
	lines := append([]string{name}, l.live.dump()...)
	for _, s := range l.snaps {
		lines = append(append(lines, name+"@"+s.name), s.fs.dump()...)
	}
	byName := map[string]*line{}
	for _, f := range l.forks {
		byName[f.name] = f
	}
	for _, n := range slices.Sorted(maps.Keys(byName)) {
		lines = append(lines, byName[n].dump(name+"/"+n)...)
	}
	return lines
}

func viewsOf(vol *snap.Volume, v *snap.View) []*snap.View {
	views := append([]*snap.View{v}, vol.Snapshots(v)...)
	for _, f := range vol.Forks(v) {
		views = append(views, viewsOf(vol, f)...)
	}
	return views
}

func crashEnv(name string, def uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return def
}

// TestCrashAnywhereLeavesAPrefix crashes at every call to the store that changes
// it, in short scripts, and at random ones in long scripts. What is found is the
// volume after some operation, not before the last acknowledged one, with all its
// snapshots and forks, and a check is clean. DCFS_CRASH_SEEDS and
// DCFS_CRASH_POINTS make it longer (of CI: 4 and 200; of the long form: 200 and
// 100000), DCFS_CRASH_SEED is the first seed.
func TestCrashAnywhereLeavesAPrefix(t *testing.T) {
	seeds, points := crashEnv("DCFS_CRASH_SEEDS", 4), crashEnv("DCFS_CRASH_POINTS", 200)
	first := crashEnv("DCFS_CRASH_SEED", uint64(time.Now().UnixNano()))
	total := 0
	for i := range seeds {
		seed := first + i
		rate, steps := 1.0, 40
		if i%2 == 1 {
			rate, steps = 0.2, 400
		}
		t.Logf("DCFS_CRASH_SEED=%d", seed)
		k := newCrasher(t, seed, plant{}, rate)
		for k.points < int(points/seeds) {
			k = again(k, seed, rate)
			k.run(steps)
			seed += 1e6
		}
		total += k.points
	}
	t.Logf("%d crashes", total)
}

// again is a new script that goes on counting.
func again(k *crasher, seed uint64, rate float64) *crasher {
	n := newCrasher(k.t, seed, k.plant, rate)
	n.points = k.points
	return n
}

// TestCrashesFindMistakes makes the mistakes that the order of a commit is to
// avoid, and wants each noticed.
func TestCrashesFindMistakes(t *testing.T) {
	for _, p := range crashPlants {
		t.Run(p.name, func(t *testing.T) {
			for seed := range uint64(100) {
				m := &mishap{TB: t}
				k := newCrasher(m, seed, p, 1)
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					k.run(40)
				}()
				<-ended
				if m.text != "" {
					t.Logf("found by seed %d after %d crashes: %.300s", seed, k.points, m.text)
					return
				}
			}
			t.Error("not noticed")
		})
	}
}

// TestMountAfterACrashReadsTheSame beside few files and many: what a mount asks of
// the store after a crash does not grow with the volume.
func TestMountAfterACrashReadsTheSame(t *testing.T) {
	calls := func(files int) int64 {
		mem := newMemory()
		x := newFixtureOn(t, mem, Options{})
		for i := range files {
			x.create(fmt.Sprint("f", i), "some")
		}
		x.must(x.fs.SyncAll(bg))
		x.create("last", "not synced")
		c := store.NewCounting(mem.Cut(store.Cut{Rand: rand.New(rand.NewPCG(1, 1))}))
		vol, err := snap.Open(bg, c, snap.Options{CommitInterval: time.Hour})
		x.must(err)
		defer vol.Close(bg)
		f := New(vol, Options{})
		x.must(f.CleanOrphans(bg, vol.Main()))
		_, err = f.Getattr(bg, vol.Main(), snap.RootIno)
		x.must(err)
		return c.Calls() + c.RecordsScanned.Load()
	}
	few, many := calls(10), calls(5000)
	t.Logf("%d calls to the store and records read beside 10 files, %d beside 5000", few, many)
	if many > few+10 { // a directory has a level more, and the background its turn
		t.Errorf("a mount made %d calls to the store and records read beside 10 files, %d beside 5000", few, many)
	}
}
