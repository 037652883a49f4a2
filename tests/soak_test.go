package tests

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSoak works on a volume from all sides at once, with snapshots and forks
// taken and deleted beside it. Whoever works knows what must be there, and looks.
// At the end the volume is sound, and empties; the server has grown by nothing
// that lasts. DCFS_SOAK says for how long, as "1h"; the default only shows that
// the test works.
func TestSoak(t *testing.T) {
	last := 3 * time.Second
	if s := os.Getenv("DCFS_SOAK"); s != "" {
		var err error
		if last, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	store, dir := newMount(t)
	s := &soak{dir: dir, store: store, stop: make(chan struct{})}
	workers := []struct {
		name string
		do   func(rng *rand.Rand) error // one round
	}{
		{"files", s.files("a")}, {"files", s.files("b")},
		{"renames", s.renames(0)}, {"renames", s.renames(1)}, {"listings", s.listing}, {"listings", s.listing},
		{"cut", s.cut()}, {"snapshots", s.snapshot}, {"forks", s.fork},
		{"data", s.data(seed, "x")}, {"data", s.data(seed+1, "y")},
	}
	must(t, s.prepare())
	var wg sync.WaitGroup
	failed := make(chan error, len(workers))
	var counts [16]atomic.Int64
	for i, w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			for !s.over() {
				if err := w.do(rng); err != nil {
					failed <- fmt.Errorf("%s: %w", w.name, err)
					return
				}
				counts[i].Add(1)
			}
		})
	}
	begin, every := time.Now(), min(max(last/100, 300*time.Millisecond), 10*time.Second)
	var samples []sample
	var err error
	for err == nil && time.Since(begin) < last {
		select {
		case err = <-failed:
		case <-time.After(every):
			samples = append(samples, sampleOf(t, store))
			if len(samples)%6 == 0 {
				t.Logf("%s: %v", time.Since(begin).Round(time.Second), samples[len(samples)-1])
			}
		}
	}
	close(s.stop)
	wg.Wait()
	close(failed)
	for e := range failed {
		err = errors.Join(err, e)
	}
	for _, end := range s.ends {
		if e := end(); err == nil {
			err = e
		}
	}
	for i, w := range workers {
		t.Logf("%d rounds of %s", counts[i].Load(), w.name)
	}
	if err != nil {
		t.Fatal(err)
	}
	if last >= 5*time.Minute {
		levelOff(t, samples)
	}
	dcfs(t, "umount", dir)
	dcfs(t, "check", "--data", store)

	// What is deleted is gone, and its space is there again.
	dcfs(t, "mount", store, dir)
	shell(t, `cd "$1"; rmdir .forks/* .snapshots/* 2>/dev/null || :; rm -rf -- *; [ -z "$(ls .forks .snapshots | grep -v :)" ]`, dir)
	dcfs(t, "gc", "--wait", dir)
	t.Logf("emptied: %v, %d MiB on disk", sampleOf(t, store), diskBytes(t, store)>>20)
	dcfs(t, "umount", dir)
	dcfs(t, "check", "--data", store)
}

// sample is what a server takes.
type sample struct {
	anonBytes, used, backlog int64
	fds, threads, goroutines int
	snapshots, forks         int
}

func (s sample) String() string {
	return fmt.Sprintf("RssAnon %d MiB, %d descriptors, %d threads, %d goroutines, %d snapshots, %d forks, %d MiB used, %d tasks waiting",
		s.anonBytes>>20, s.fds, s.threads, s.goroutines, s.snapshots, s.forks, s.used>>20, s.backlog)
}

func sampleOf(t *testing.T, store string) sample {
	t.Helper()
	st := statusOf(t, store)
	proc := fmt.Sprintf("/proc/%d/", st.PID)
	text, err := os.ReadFile(proc + "status")
	must(t, err)
	s := sample{used: int64(st.UsedBytes), backlog: st.Backlog.Tasks + st.Backlog.Merges, goroutines: st.Goroutines, snapshots: st.Snapshots, forks: st.Forks}
	for l := range strings.Lines(string(text)) {
		f := strings.Fields(l)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.Atoi(f[1])
		switch f[0] {
		case "RssAnon:":
			s.anonBytes = int64(n) << 10
		case "Threads:":
			s.threads = n
		}
	}
	fds, err := os.ReadDir(proc + "fd")
	must(t, err)
	s.fds = len(fds)
	if s.anonBytes == 0 || s.goroutines == 0 {
		t.Fatalf("nothing known of the server: %v", s)
	}
	return s
}

// levelOff compares the last quarter of a run with the second: what leaks grows
// from one to the other.
func levelOff(t *testing.T, samples []sample) {
	t.Helper()
	n := len(samples)
	for _, what := range []struct {
		name  string
		slack int64
		of    func(sample) int64
	}{
		{"bytes of RssAnon", 48 << 20, func(s sample) int64 { return s.anonBytes }},
		{"descriptors", 16, func(s sample) int64 { return int64(s.fds) }},
		{"threads", 16, func(s sample) int64 { return int64(s.threads) }},
		{"goroutines", 50, func(s sample) int64 { return int64(s.goroutines) }},
	} {
		median := func(part []sample) int64 {
			var all []int64
			for _, s := range part {
				all = append(all, what.of(s))
			}
			slices.Sort(all)
			return all[len(all)/2]
		}
		early, late := median(samples[n/4:n/2]), median(samples[n*3/4:])
		t.Logf("%s: %d in the second quarter, %d in the last", what.name, early, late)
		if late > early+early/4+what.slack {
			t.Errorf("the server's %s grow: %d in the second quarter, %d in the last", what.name, early, late)
		}
	}
}

// soak is what the workers of a run share.
type soak struct {
	dir, store string
	stop       chan struct{}
	ends       []func() error // what workers look at when all have stopped
}

func (s *soak) path(names ...string) string {
	return filepath.Join(append([]string{s.dir}, names...)...)
}

func (s *soak) over() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// pause waits, until the end at most.
func (s *soak) pause(d time.Duration) {
	select {
	case <-s.stop:
	case <-time.After(d):
	}
}

const (
	soakFixed  = 40 // names in each directory of the renames that nobody touches
	soakMovers = 20 // files that each worker renames
)

var soakDirs = []string{"p", "q", "r"}

func (s *soak) prepare() error {
	for _, d := range soakDirs {
		if err := os.MkdirAll(s.path("storm", d), 0o755); err != nil {
			return err
		}
		for i := range soakFixed {
			if err := os.WriteFile(s.path("storm", d, fmt.Sprint("fixed", i)), []byte(d), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// renames returns a worker that moves files of its own among the directories,
// onto each other too, and exchanges them; what it did, it finds.
func (s *soak) renames(id int) func(*rand.Rand) error {
	at := make(map[string]string) // the contents by path
	free := 0
	return func(rng *rand.Rand) error {
		place := func() string {
			return s.path("storm", soakDirs[rng.IntN(len(soakDirs))], fmt.Sprintf("moving%d-%d", id, rng.IntN(2*soakMovers)))
		}
		if len(at) < soakMovers {
			path, text := place(), fmt.Sprintf("file %d of %d\n", free, id)
			free++
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				return err
			}
			at[path] = text
			return nil
		}
		from, to := place(), place()
		a, b := at[from], at[to]
		flags := []uint{0, 0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}[rng.IntN(5)]
		err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
		want := error(nil)
		switch {
		case a == "":
			want = unix.ENOENT
		case b != "" && flags == unix.RENAME_NOREPLACE:
			want = unix.EEXIST
		case b == "" && flags == unix.RENAME_EXCHANGE:
			want = unix.ENOENT
		}
		if err != want {
			return fmt.Errorf("rename %s %s %d: %v, want %v", from, to, flags, err, want)
		}
		if err == nil && from != to {
			delete(at, from)
			at[to] = a
			if flags == unix.RENAME_EXCHANGE {
				at[from] = b
			}
		}
		path := place()
		got, err := os.ReadFile(path)
		if text := at[path]; text == "" && !errors.Is(err, os.ErrNotExist) || text != "" && string(got) != text {
			return fmt.Errorf("%s: %q, %v; want %q", path, got, err, text)
		}
		return nil
	}
}

// listing lists a directory in which others rename: what nobody touches is there
// once, whatever else moves.
func (s *soak) listing(rng *rand.Rand) error {
	dir := s.path("storm", soakDirs[rng.IntN(len(soakDirs))])
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	seen := make(map[string]int)
	for {
		names, err := f.Readdirnames(1 + rng.IntN(30))
		for _, n := range names {
			seen[n]++
		}
		if len(names) == 0 {
			break
		} else if err != nil {
			return err
		}
	}
	for i := range soakFixed {
		if n := seen[fmt.Sprint("fixed", i)]; n != 1 {
			return fmt.Errorf("%s lists fixed%d %d times", dir, i, n)
		}
	}
	s.pause(time.Duration(rng.IntN(10)) * time.Millisecond)
	return nil
}

// files returns a worker that makes a tree, finds it as it made it, and
// removes it.
func (s *soak) files(name string) func(*rand.Rand) error {
	round := 0
	return func(rng *rand.Rand) error {
		round++
		top := s.path(fmt.Sprint("tree-", name, round%3))
		if err := os.RemoveAll(top); err != nil {
			return err
		}
		want := make(map[string][]byte)
		for i := range 30 {
			dir := filepath.Join(top, fmt.Sprint("d", rng.IntN(4)), fmt.Sprint("e", rng.IntN(3)))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			path := filepath.Join(dir, fmt.Sprint("f", i))
			want[path] = noise(rng.Uint64(), rng.IntN(1<<uint(4+rng.IntN(14)))) // up to 128 KiB
			if err := os.WriteFile(path, want[path], 0o644); err != nil {
				return err
			}
			switch rng.IntN(5) {
			case 0:
				to := filepath.Join(top, fmt.Sprint("link", i))
				if err := os.Link(path, to); err != nil {
					return err
				}
				want[to] = want[path]
			case 1:
				if err := os.Remove(path); err != nil {
					return err
				}
				delete(want, path)
			}
		}
		n := 0
		err := filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			n++
			got, err := os.ReadFile(path)
			if err == nil && !bytes.Equal(got, want[path]) {
				err = fmt.Errorf("%s: %s", path, difference(got, want[path]))
			}
			return err
		})
		if err == nil && n != len(want) {
			err = fmt.Errorf("%s has %d files, want %d", top, n, len(want))
		}
		return err
	}
}

// cut returns a worker that counts in two files, the first first. Each snapshot
// and fork must show them equal, or the first one ahead by one.
func (s *soak) cut() func(*rand.Rand) error {
	n := 0
	return func(rng *rand.Rand) error {
		n++
		for _, name := range []string{"first", "second"} {
			f, err := os.OpenFile(s.path(name), os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(f, "%12d", n)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
		}
		s.pause(time.Duration(rng.IntN(3)) * time.Millisecond)
		return nil
	}
}

func countIn(path string) (int, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(text) == 0 {
		return 0, nil // not made or not written yet
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

func cutIn(view string) error {
	a, err := countIn(filepath.Join(view, "first"))
	if err != nil {
		return err
	}
	b, err := countIn(filepath.Join(view, "second"))
	if err == nil && a != b && a != b+1 {
		err = fmt.Errorf("%s is no cut: %d and %d", view, a, b)
	}
	return err
}

// views makes a view each second, looks into it twice, and deletes it: kept of
// them are there at a time.
func (s *soak) views(kind string, kept int, rng *rand.Rand) error {
	list := func() ([]string, error) { // not what the data workers take
		all, err := filepath.Glob(s.path(kind, "beat-*"))
		slices.Sort(all)
		return all, err
	}
	view := s.path(kind, fmt.Sprintf("beat-%d", time.Now().UnixNano()))
	if err := os.Mkdir(view, 0o755); err != nil {
		return err
	}
	if err := cutIn(view); err != nil {
		return err
	}
	views, err := list()
	if err != nil {
		return err
	}
	if len(views) > kept {
		old := views[rng.IntN(len(views))]
		if err := cutIn(old); err != nil {
			return err
		}
		// Who looks at what is being deleted holds it up: nobody does.
		if err := os.Remove(old); err != nil {
			return err
		}
	}
	s.pause(time.Second)
	return nil
}

func (s *soak) snapshot(rng *rand.Rand) error { return s.views(".snapshots", 10, rng) }

// fork is views, and works in one of the forks.
func (s *soak) fork(rng *rand.Rand) error {
	forks, err := filepath.Glob(s.path(".forks", "beat-*"))
	if err != nil {
		return err
	}
	if len(forks) > 0 {
		in := forks[rng.IntN(len(forks))]
		p := noise(rng.Uint64(), 200_000)
		path := filepath.Join(in, "own", "file")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, p, 0o644); err != nil {
			return err
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, p) {
			return fmt.Errorf("%s: %v, %s", path, err, difference(got, p))
		}
		if rng.IntN(2) == 0 {
			if err := os.RemoveAll(filepath.Join(in, "storm")); err != nil {
				return err
			}
		}
	}
	return s.views(".forks", 6, rng)
}

// data returns a worker that does as TestDataOperations does.
func (s *soak) data(seed uint64, name string) func(*rand.Rand) error {
	x := newFsx(seed, s.dir, "data-"+name)
	s.ends = append(s.ends, func() error {
		defer x.close()
		return x.checkAll()
	})
	return func(*rand.Rand) error {
		for range 100 {
			if err := x.do(); err != nil {
				return errors.New(x.report(err))
			}
		}
		return nil
	}
}
