package tests

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A crashFile is what a file holds: pieces that say which operation wrote them.
// It never changes: an operation makes another one.
type crashFile struct {
	pieces []crashPiece
	sum    string // of its bytes, when it was asked for
}

type crashPiece struct {
	op, n int // the number of the operation, and bytes
}

func (p crashPiece) bytes(writer int) []byte {
	b := make([]byte, 0, p.n+64)
	for i := 0; len(b) < p.n; i++ {
		b = fmt.Appendf(b, "writer %d, operation %d, %d bytes, line %d\n", writer, p.op, p.n, i)
	}
	return b[:p.n]
}

// crashOp is an operation of a writer that has returned, or has not.
type crashOp struct {
	began, ended int64 // ended 0: it has not
	names        map[string]*crashFile
}

// crashWriter changes a directory of its own, one operation at a time, and keeps
// what the directory holds after each. All of it is outside the mount.
type crashWriter struct {
	num  int
	base int // tells the operations of rounds apart
	rng  *rand.Rand

	ops     []crashOp // ops[0] is how it began
	touched string    // what the last operation changed
	acked   int       // the last operation that was fsynced
	refused int       // operations that failed with ENOSPC
}

// crashView is a snapshot or fork that was acknowledged.
type crashView struct {
	path        string // below the mount
	asked, done int64
	deleted     bool // or about to be: it may be gone
}

// crashRound is the work between two crashes.
type crashRound struct {
	dir       string
	clock     atomic.Int64 // orders calls: taken before each and after each
	stop      atomic.Bool
	rest      sync.RWMutex // held for reading by whoever works
	writers   []*crashWriter
	replacers []*crashReplacer
	full      bool // the disk may be full: what fails with ENOSPC has changed nothing

	mu    sync.Mutex
	acked int64       // guarded by mu; all that had ended by then is safe
	views []crashView // guarded by mu
}

func (r *crashRound) ack(asked int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acked = max(r.acked, asked)
}

// step makes one operation, and reports that the mount is still alive.
func (r *crashRound) step(t *testing.T, w *crashWriter) bool {
	num := len(w.ops)
	names := maps.Clone(w.ops[num-1].names)
	do := w.choose(filepath.Join(r.dir, fmt.Sprint("w", w.num)), num, names)
	w.ops = append(w.ops, crashOp{began: r.clock.Add(1), names: names})
	err := do()
	if r.full && errors.Is(err, syscall.ENOSPC) {
		w.ops, w.refused = w.ops[:num], w.refused+1
		return true
	}
	if err != nil {
		r.failed(t, fmt.Sprint("writer ", w.num), err)
		return false
	}
	w.ops[num].ended = r.clock.Add(1)
	return true
}

func dead(err error) bool {
	return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.EIO)
}

// choose returns an operation, one system call that changes something, and does it
// to names. What a file needs to be opened and closed changes nothing.
func (w *crashWriter) choose(dir string, num int, names map[string]*crashFile) func() error {
	at := func(name string) string { return filepath.Join(dir, name) }
	// The kernel makes two requests of a write that begins within a page it has
	// not in its cache: that page and the rest. So none does.
	n := 4096 * (1 + w.rng.IntN(15))
	piece := crashPiece{w.base + num, n}
	w.touched = dir
	name := fmt.Sprint("f", w.rng.IntN(6))
	f, tmp := names[name], names["doc.tmp"]
	switch {
	case tmp != nil && len(tmp.pieces) == 0 || f != nil && w.rng.IntN(2) == 0:
		if tmp != nil && len(tmp.pieces) == 0 {
			name, f = "doc.tmp", tmp
		}
		k, off := len(f.pieces), 0
		if k >= 6 || k > 0 && w.rng.IntN(3) == 0 { // over a piece that is there
			k = w.rng.IntN(k)
			piece.n = f.pieces[k].n
		}
		for _, p := range f.pieces[:k] {
			off += p.n
		}
		w.touched = at(name)
		names[name] = &crashFile{pieces: append(slices.Clone(f.pieces[:k]), piece)}
		if k < len(f.pieces) {
			names[name].pieces = append(names[name].pieces, f.pieces[k+1:]...)
		}
		return func() error {
			h, err := os.OpenFile(at(name), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer h.Close()
			_, err = h.WriteAt(piece.bytes(w.num), int64(off))
			return err
		}
	case tmp != nil:
		names["doc"] = tmp
		delete(names, "doc.tmp")
		return func() error { return os.Rename(at("doc.tmp"), at("doc")) }
	case w.rng.IntN(3) == 0:
		name, f = "doc.tmp", nil
		fallthrough
	case f == nil:
		names[name] = &crashFile{}
		return func() error { return makeEmpty(at(name)) }
	case w.rng.IntN(3) == 0:
		delete(names, name)
		return func() error { return os.Remove(at(name)) }
	case w.rng.IntN(2) == 0:
		names[name], w.touched = &crashFile{}, at(name)
		return func() error { return os.Truncate(at(name), 0) }
	default:
		to := fmt.Sprint("f", w.rng.IntN(6))
		if to != name {
			names[to] = f
			delete(names, name)
		}
		return func() error { return os.Rename(at(name), at(to)) }
	}
}

func makeEmpty(path string) error {
	h, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err == nil {
		h.Close()
	}
	return err
}

// failed reports an error that is no sign of a crash.
func (r *crashRound) failed(t *testing.T, what string, err error) {
	if !dead(err) && !r.stop.Load() {
		t.Errorf("%s: %v", what, err)
	}
}

// work lets the writers, and who takes snapshots and forks, run until the mount is
// dead.
func (r *crashRound) work(t *testing.T, round int, rng *rand.Rand, crash func()) {
	var all sync.WaitGroup
	repeat := func(step func() bool) {
		all.Go(func() {
			for ok := true; ok && !r.stop.Load(); {
				r.rest.RLock()
				ok = step()
				r.rest.RUnlock()
			}
		})
	}
	for _, w := range r.writers {
		repeat(func() bool { return r.stepAndSync(t, w) })
	}
	for _, p := range r.replacers {
		repeat(func() bool { return r.replace(t, p) })
	}
	viewRng := rand.New(rand.NewPCG(rng.Uint64(), 0))
	made := 0
	repeat(func() bool {
		if r.full {
			time.Sleep(50 * time.Millisecond) // there are only so many to be looked at
		} else if viewRng.IntN(4) == 0 {
			return r.deleteView(t, viewRng)
		}
		path := filepath.Join(".snapshots", fmt.Sprintf("s%d-%d", round, made))
		if made%3 == 2 {
			path = filepath.Join(".forks", fmt.Sprintf("f%d-%d", round, made))
		}
		made++
		return r.makeView(t, path)
	})
	defer all.Wait() // also when crash fails the test
	defer r.stop.Store(true)
	crash()
}

// stepAndSync is step and, now and then, an fsync.
func (r *crashRound) stepAndSync(t *testing.T, w *crashWriter) bool {
	if !r.step(t, w) {
		return false
	}
	if w.rng.IntN(8) != 0 {
		return true
	}
	// Meanwhile another's fsync may have it written, and not be done.
	time.Sleep(time.Duration(w.rng.IntN(2)*w.rng.IntN(10)) * time.Millisecond)
	if syncPath(w.touched) == nil { // a dead mount: the next step knows
		last := len(w.ops) - 1
		w.acked = last
		r.ack(w.ops[last].began)
	}
	return true
}

func syncPath(path string) error {
	h, err := os.Open(path)
	if err != nil {
		return err
	}
	defer h.Close()
	return h.Sync()
}

func (r *crashRound) makeView(t *testing.T, path string) bool {
	asked := r.clock.Add(1)
	err := os.Mkdir(filepath.Join(r.dir, path), 0o755)
	if r.full && errors.Is(err, syscall.ENOSPC) {
		return true // it may come when there is space
	}
	if err != nil {
		r.failed(t, "mkdir "+path, err)
		return false
	}
	r.ack(asked)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.views = append(r.views, crashView{path: path, asked: asked, done: r.clock.Add(1)})
	return true
}

// deleteView deletes one of the round's snapshots and forks, if it has any.
func (r *crashRound) deleteView(t *testing.T, rng *rand.Rand) bool {
	r.mu.Lock()
	if len(r.views) == 0 {
		r.mu.Unlock()
		return true
	}
	v := &r.views[rng.IntN(len(r.views))]
	path, gone := v.path, v.deleted
	v.deleted = true
	r.mu.Unlock()
	if gone {
		return true
	}
	err := os.Remove(filepath.Join(r.dir, path))
	if err != nil {
		r.failed(t, "rmdir "+path, err)
	}
	return err == nil
}

// found returns which operations of w, of those that may, a directory shows.
func (w *crashWriter) found(dir string, may func(k int) bool) (states []int, got string) {
	got = listing(dir)
	for k := range w.ops {
		if !may(k) {
			continue
		}
		var lines []string
		for name, f := range w.ops[k].names {
			if f.sum == "" {
				var b []byte
				for _, p := range f.pieces {
					b = append(b, p.bytes(w.num)...)
				}
				f.sum = fmt.Sprintf("%d %x", len(b), sha256.Sum256(b))
			}
			lines = append(lines, name+" "+f.sum)
		}
		slices.Sort(lines)
		if strings.Join(lines, "\n") == got {
			states = append(states, k)
		}
	}
	return states, got
}

// tail says what the last operations left, by sizes.
func (w *crashWriter) tail() string {
	var lines []string
	for k := max(0, len(w.ops)-6); k < len(w.ops); k++ {
		line := fmt.Sprintf("%d, from %d to %d:", k, w.ops[k].began, w.ops[k].ended)
		for _, name := range slices.Sorted(maps.Keys(w.ops[k].names)) {
			line += fmt.Sprintf(" %s %v", name, w.ops[k].names[name].pieces)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// listing says what a directory holds, by name, size and sum.
func listing(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err.Error()
	}
	var lines []string
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err.Error()
		}
		lines = append(lines, fmt.Sprintf("%s %d %x", e.Name(), len(b), sha256.Sum256(b)))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// verify wants a view to be a cut through all writers: all that had ended when it
// was asked for, nothing that began after it was done, and of what is there
// everything that had ended when it began. It returns what each writer is at.
func (r *crashRound) verify(t *testing.T, what, root string, asked, done int64) []int {
	t.Helper()
	at := make([]int, len(r.writers))
	began := int64(0) // when the last operation began that must be there
	may := make([][]int, len(r.writers))
	for i, w := range r.writers {
		states, got := w.found(filepath.Join(root, fmt.Sprint("w", w.num)), func(k int) bool {
			if root == r.dir && k < w.acked {
				return false
			}
			next := k + 1
			lost := next < len(w.ops) && w.ops[next].ended != 0 && w.ops[next].ended < asked
			return !lost && w.ops[k].began <= done
		})
		if len(states) == 0 {
			t.Fatalf("%s: writer %d: no state that could be is there, of %d operations; the last fsynced is %d; it has\n%s\nthe last were\n%s", what, w.num, len(w.ops)-1, w.acked, got, w.tail())
		}
		may[i] = states
		began = max(began, w.ops[states[0]].began)
	}
	for i, w := range r.writers {
		last := may[i][len(may[i])-1]
		if next := last + 1; next < len(w.ops) && w.ops[next].ended != 0 && w.ops[next].ended < began {
			t.Errorf("%s: writer %d is at operation %d, but another writer's operation is there that began after the next one had ended", what, w.num, last)
		}
		at[i] = last
	}
	for _, p := range r.replacers {
		p.verify(t, what, root, asked, done)
	}
	return at
}

func crashRounds(short, long int) int {
	if os.Getenv("DCFS_LONG") != "" {
		short = long
	}
	return envInt("DCFS_CRASH_ROUNDS", short)
}

// envInt is a number of the environment.
func envInt(name string, byDefault int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return byDefault
}

// TestKilledUnderWriters kills the server with SIGKILL while writers work and
// snapshots and forks are taken, again and again. What is mounted then is a prefix
// of all that was done, with nothing missing that was acknowledged; each snapshot
// and fork is a cut through all writers. DCFS_CRASH_ROUNDS makes it longer.
func TestKilledUnderWriters(t *testing.T) { killedUnderWriters(t, crashRounds(3, 200)) }

func TestKilledUnderWritersOfASealedVolume(t *testing.T) {
	useKeyFile(t)
	killedUnderWriters(t, crashRounds(1, 50))
}

func killedUnderWriters(t *testing.T, rounds int) {
	store, dir := newMount(t)
	crashUnderWriters(t, dir, rounds, func(r *crashRound, rng *rand.Rand) {
		pid := statusOf(t, dir).PID
		time.Sleep(time.Duration(rng.IntN(400)) * time.Millisecond)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		serverGone(t, pid)
	}, func(round int) {
		if round%2 == 0 { // a mount clears the dead one by itself
			dcfs(t, "umount", dir)
		}
		dcfs(t, "mount", store, dir)
	})
	dcfs(t, "umount", dir)
	dcfs(t, "check", "--data", store)
}

// crashSeed is DCFS_CRASH_SEED, or another one each time.
func crashSeed(t *testing.T) uint64 {
	seed, err := strconv.ParseUint(os.Getenv("DCFS_CRASH_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("DCFS_CRASH_SEED=%d", seed)
	return seed
}

// crashUnderWriters does rounds of work, crash and mount.
func crashUnderWriters(t *testing.T, dir string, rounds int, crash func(*crashRound, *rand.Rand), mount func(round int)) {
	seed := crashSeed(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	begin := make([]map[string]*crashFile, 4)
	for i := range begin {
		begin[i] = map[string]*crashFile{}
		must(t, os.Mkdir(filepath.Join(dir, fmt.Sprint("w", i)), 0o755))
	}
	replacers := newReplacers(t, dir)
	shell(t, `mkdir "$1/.snapshots/begin" && rmdir "$1/.snapshots/begin"`, dir) // durable
	ops, views, replaced := 0, 0, 0
	for round := range rounds {
		r := &crashRound{dir: dir, replacers: replacers}
		for i := range begin {
			r.writers = append(r.writers, &crashWriter{num: i, base: round * 1e6, rng: rand.New(rand.NewPCG(seed, uint64(round*10+i+1))), ops: []crashOp{{names: begin[i]}}})
		}
		r.work(t, round, rng, func() { crash(r, rng) })
		mount(round)
		at := r.verify(t, fmt.Sprintf("round %d", round), dir, r.acked, r.clock.Load()+1)
		for _, v := range r.views {
			root := filepath.Join(dir, v.path)
			if _, err := os.Lstat(root); v.deleted && errors.Is(err, os.ErrNotExist) {
				continue
			}
			r.verify(t, fmt.Sprintf("round %d, %s", round, v.path), root, v.asked, v.done)
			views++
		}
		for i, w := range r.writers {
			// Numbers begin anew: what is there is written down by content.
			begin[i] = w.ops[at[i]].names
			ops += at[i]
		}
		for _, p := range replacers {
			replaced += p.again(t, dir)
		}
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
		shell(t, `cd "$1"; shopt -s nullglob; for d in .snapshots/* .forks/*; do :; done; ls .snapshots | sed 's,^,.snapshots/,' | xargs -r rmdir; ls .forks | sed 's,^,.forks/,' | xargs -r rmdir`, dir)
	}
	t.Logf("%d crashes, %d operations outlived them, %d files replaced, %d snapshots and forks were as they must be", rounds, ops, replaced, views)
}
