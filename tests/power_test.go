package tests

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dcfs/tests/powerdisk"
)

// powerStore is a mount of a store on a disk whose power can be cut.
type powerStore struct {
	t          *testing.T
	bin        string // the command that serves it
	dir        string
	image, log string
	ext4       *powerdisk.Ext4
	attached   int
}

// newPowerStore makes one, or skips the test where that can't be.
func newPowerStore(t *testing.T, bin string) *powerStore {
	t.Helper()
	needFUSE(t)
	if why := powerdisk.Missing(); why != "" {
		t.Skip("SKIPPED, NOT TESTED: " + why)
	}
	tmp := t.TempDir()
	p := &powerStore{t: t, bin: bin, dir: mountPoint(t), image: filepath.Join(tmp, "image"), log: filepath.Join(tmp, "log")}
	must(t, powerdisk.Format(p.image, 512<<20))
	p.attach()
	t.Cleanup(p.close)
	p.mount()
	return p
}

func (p *powerStore) store() string { return filepath.Join(p.ext4.Dir, "store") }

func (p *powerStore) attach() {
	p.t.Helper()
	d, err := powerdisk.Open(p.image)
	must(p.t, err)
	d.FlushTime = []time.Duration{0, 2 * time.Millisecond, 8 * time.Millisecond}[p.attached%3]
	p.attached++
	d.IgnoreFlushes = os.Getenv(powerFlushesEnv) != ""
	e, err := powerdisk.AttachDisk(d, filepath.Dir(p.image))
	must(p.t, err)
	p.ext4 = e
}

// mount serves the store, with short commit groups. The log is elsewhere: on the
// disk it would be lost.
func (p *powerStore) mount() {
	p.t.Helper()
	p.dcfs("mount", "--commit", "100ms", "--log", p.log, p.store(), p.dir)
}

func (p *powerStore) dcfs(args ...string) {
	p.t.Helper()
	if r := runCommand(p.t, nil, p.bin, args...); r.code != 0 {
		p.t.Fatalf("dcfs %s: exit %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
}

// crash cuts the power at random: while writers work; while the store is left to
// itself, when it erases what nobody needs any more, and makes that durable some
// time; or when Badger begins a new log, made to by a compaction.
func (p *powerStore) crash(r *crashRound, rng *rand.Rand) {
	pid := statusOf(p.t, p.dir).PID
	nap := time.Duration(rng.IntN(300)) * time.Millisecond
	switch rng.IntN(4) {
	case 0:
		time.Sleep(nap)
	case 1:
		time.Sleep(nap)
		r.rest.Lock()
		defer r.rest.Unlock()
		for range rng.IntN(2*len(r.views) + 1) {
			r.deleteView(p.t, rng)
		}
		time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
	default:
		rotated := newFile(p.t, filepath.Join(p.store(), "records"), ".mem", 3*time.Second)
		gc := exec.Command(p.bin, "gc", p.dir) // it fails when the server ends
		must(p.t, gc.Start())
		defer gc.Wait()
		<-rotated
	}
	must(p.t, p.ext4.Cut(rng, 1+rng.IntN(60)))
	c := p.ext4.Disk.Counts()
	p.t.Logf("power cut after %d writes and %d flushes; of %d sectors that were not flushed %d are there", c.Writes, c.Flushes, c.Kept+c.Lost, c.Kept)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		p.t.Fatal(err)
	}
	serverGone(p.t, pid)
	r.stop.Store(true)
}

// newFile returns a channel that is closed when a file whose name ends so was made
// in a directory, or after most.
func newFile(t *testing.T, dir, suffix string, most time.Duration) <-chan struct{} {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	f := os.NewFile(uintptr(fd), "inotify")
	_, err = unix.InotifyAddWatch(fd, dir, unix.IN_CREATE)
	must(t, errors.Join(err, f.SetReadDeadline(time.Now().Add(most))))
	made := make(chan struct{})
	go func() {
		defer close(made)
		defer f.Close()
		for b := make([]byte, 4096); ; {
			// Events hold the name, and zeros behind it.
			n, err := f.Read(b)
			if err != nil || strings.Contains(string(b[:n]), suffix+"\x00") {
				return
			}
		}
	}()
	return made
}

// mountAgain brings the power back. Every other time it has the volume checked
// first, which must be sound.
func (p *powerStore) mountAgain(round int) {
	must(p.t, unix.Unmount(p.dir, unix.MNT_DETACH))
	e := p.ext4
	p.ext4 = nil
	must(p.t, e.Detach())
	p.attach()
	if round%2 == 1 {
		p.dcfs("check", "--data", p.store())
	}
	p.mount()
}

// end unmounts everything, and checks the volume.
func (p *powerStore) end() {
	p.dcfs("umount", p.dir)
	p.dcfs("check", "--data", p.store())
}

func (p *powerStore) close() {
	if isMounted(p.t, p.dir) {
		if r := runCommand(p.t, nil, p.bin, "umount", p.dir); r.code != 0 {
			p.t.Logf("umount: %s", r.stderr)
		}
		unix.Unmount(p.dir, unix.MNT_DETACH)
	}
	if p.ext4 != nil {
		if err := p.ext4.Detach(); err != nil {
			p.t.Error(err)
		}
	}
	log, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Error(err)
	}
	// After a cut the server may die of a page that can't be read: SIGBUS.
	if strings.Contains(string(log), "DATA RACE") {
		p.t.Errorf("the server's log:\n%s", log)
	}
}

// In the environment of a test process that TestPowerCutsFindMistakes starts.
const (
	powerBinaryEnv  = "DCFS_TEST_POWER_BINARY"
	powerFlushesEnv = "DCFS_TEST_POWER_IGNORE_FLUSHES"
)

// TestPowerCutUnderWriters is TestKilledUnderWriters with the power of the store's
// disk cut, while writers work or while the store is left to itself. What was
// written to the disk and not flushed is there or not, or in part.
func TestPowerCutUnderWriters(t *testing.T) {
	bin := os.Getenv(powerBinaryEnv)
	if bin == "" {
		bin = dcfsBinary(t)
	}
	p := newPowerStore(t, bin)
	crashUnderWriters(t, p.dir, crashRounds(3, 50), p.crash, p.mountAgain)
	p.end()
}

// powerFault is a mistake that TestPowerCutUnderWriters must notice: changes of
// source files below dcdb, or, without any, a disk that ignores flushes.
type powerFault struct {
	name  string
	edits []edit
}

type edit struct{ file, old, new string }

var powerFaults = []powerFault{
	{"the disk ignores flushes", nil},
	{"the barrier returns before its sync", []edit{{
		"store/embedded/records.go",
		"err := s.wal.sync()\n\tif err = errors.Join(err, <-begun); err != nil {",
		"go s.wal.sync()\n\tif err := <-begun; err != nil {",
	}}},
	{"a segment is not synced before its batch", []edit{{
		"store/embedded/records.go",
		"err := s.segments.sync()",
		"err := error(nil)",
	}}},
	{"a hole is not synced", []edit{{
		"store/embedded/punch.go",
		"err = unix.Fdatasync(int(f.Fd()))",
		"err = nil",
	}}},
	{"objects are erased before the group that dropped them is durable", []edit{{
		"flush.go",
		"if err := s.st.Barrier(ctx); err != nil {",
		"if err := s.st.Delete(ctx, f.b.free); err != nil {\n\t\treturn err\n\t}\n\tif err := s.st.Barrier(ctx); err != nil {",
	}}},
	// A group that is handed over while the barrier of the one before runs is
	// safe behind it as long as both are in one log, or all logs are synced.
	{"two groups in flight, in two logs", []edit{{
		"flush.go",
		`	if err := s.st.Barrier(ctx); err != nil {
		return fmt.Errorf("%w: %w", errBarrier, err)
	}
	f.publish()
	if len(f.b.free) > 0 {
		s.erase.add(freed{group: g.num, ids: f.b.free, keys: keys})
	}
	close(g.done)
`,
		`	f.publish()
	go func() {
		if err := s.st.Barrier(ctx); err != nil {
			s.o.Log("%v", fmt.Errorf("%w: %w", errBarrier, err))
			return
		}
		if len(f.b.free) > 0 {
			s.erase.add(freed{group: g.num, ids: f.b.free, keys: keys})
		}
		close(g.done)
	}()
`,
	}, {
		"store/embedded/barrier.go",
		"return w.oldest == 0 || w.oldest == w.active && !w.mayRotateLocked()",
		"return true",
	}, {
		"store/embedded/barrier.go",
		"for n := oldest; n <= active; n++ {",
		"for n := active; n <= active; n++ {",
	}}},
}

// build builds dcfs with the mistake.
func (f powerFault) build(t *testing.T) (bin string) {
	t.Helper()
	dir := t.TempDir()
	mutants := map[string]string{} // by what they take the place of
	for _, e := range f.edits {
		path, err := filepath.Abs(filepath.Join("..", "dcdb", e.file))
		must(t, err)
		mutant := filepath.Join(dir, filepath.Base(path))
		source := read(t, path)
		if mutants[path] != "" {
			source = read(t, mutant)
		}
		if strings.Count(source, e.old) != 1 {
			t.Fatalf("%s does not hold %q once: the mistake can't be made", path, e.old)
		}
		writeFile(t, mutant, strings.Replace(source, e.old, e.new, 1))
		mutants[path] = mutant
	}
	overlay, err := json.Marshal(map[string]any{"Replace": mutants})
	must(t, err)
	writeFile(t, filepath.Join(dir, "overlay.json"), string(overlay))
	bin = filepath.Join(dir, "dcfs")
	run(t, "go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", bin, "dcfs/cmd/dcfs")
	return bin
}

// TestPowerCutsFindMistakes makes mistakes that would lose data, and wants
// TestPowerCutUnderWriters to fail because of each. DCFS_LONG makes those too for
// which dcfs must be built.
func TestPowerCutsFindMistakes(t *testing.T) {
	needFUSE(t)
	if why := powerdisk.Missing(); why != "" {
		t.Skip("SKIPPED, NOT TESTED: " + why)
	}
	for _, f := range powerFaults {
		t.Run(f.name, func(t *testing.T) {
			if f.edits != nil && !long() {
				t.Skip("SKIPPED, NOT TESTED: runs with DCFS_LONG=1")
			}
			env := append(os.Environ(), "DCFS_CRASH_ROUNDS=300")
			if f.edits == nil {
				env = append(env, powerFlushesEnv+"=1")
			} else {
				env = append(env, powerBinaryEnv+"="+f.build(t))
			}
			cmd := exec.Command(os.Args[0], "-test.run=^TestPowerCutUnderWriters$", "-test.v")
			cmd.Env = env
			out, err := cmd.CombinedOutput()
			cuts := strings.Count(string(out), "power cut after")
			if err == nil || cuts == 0 || !strings.Contains(string(out), "--- FAIL: TestPowerCutUnderWriters") {
				t.Fatalf("not noticed by %d cuts: %v\n%s", cuts, err, out)
			}
			_, found, _ := strings.Cut(string(out[strings.LastIndex(string(out), "power cut after"):]), "\n")
			t.Logf("noticed by cut %d: %.500s", cuts, found)
		})
	}
}
