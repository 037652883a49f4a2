package inode

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dcfs/dcdb/store"
	"dcfs/dcdb/store/embedded"
	"dcfs/snap"
)

// flipStores makes two embedded stores of the same volume: one that was closed, and
// one whose process was killed, with its last groups in Badger's log.
func flipStores(t *testing.T) (closed, killed string) {
	o := embedded.Options{MemTableBytes: 4 << 20, ReserveBytes: -1}
	closed, killed = filepath.Join(t.TempDir(), "closed"), filepath.Join(t.TempDir(), "killed")
	w := &flipWorld{}
	for i, fill := range []func(x *fixture){
		func(x *fixture) {
			x.populate()
			x.must(x.vol.Close(bg))
		},
		w.leave,
	} {
		s, err := embedded.OpenOrCreate(closed, o)
		if err != nil {
			t.Fatal(err)
		}
		x, err := openFixture(t, s, i == 1)
		x.must(err)
		fill(x)
		if i == 1 {
			x.must(os.CopyFS(killed, os.DirFS(closed)))
		}
		x.must(s.Close())
	}
	return closed, killed
}

// showsAll returns what each inode of each view is, an error in place of what can't
// be read.
func showsAll(x *fixture, want map[string]map[uint64]string) (shows map[string]map[uint64]string, eios int) {
	shows = map[string]map[uint64]string{}
	for _, v := range viewsOf(x.vol, x.vol.Main()) {
		d := &dumper{f: x.fs, v: v, seen: map[uint64]bool{snap.RootIno: true}, todo: []uint64{snap.RootIno}}
		if err := d.orphans(); err != nil && !eio(err) {
			x.Errorf("orphans of %s: %v", viewName(v), err)
		}
		for ino := range want[viewName(v)] {
			d.visit(ino)
		}
		of := map[uint64]string{}
		for i := 0; i < len(d.todo); i++ {
			line, err := d.inode(d.todo[i])
			if err != nil {
				line = "EIO"
				eios++
				if !eio(err) {
					line = err.Error()
				}
			}
			of[d.todo[i]] = line
		}
		shows[viewName(v)] = of
	}
	return shows, eios
}

// TestFlippedBytesOfEveryFile flips bytes of the embedded store's own files: it is
// refused, and says which, or what it shows is right or EIO; a scrub or a check
// finds something then. Without DCFS_FLIPS, of how many bytes of each file, it is one
// byte of a few files.
func TestFlippedBytesOfEveryFile(t *testing.T) {
	closed, killed := flipStores(t)
	o := embedded.Options{MemTableBytes: 4 << 20, ReserveBytes: -1}
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	counts := map[string]int{}
	for what, dir := range map[string]string{"closed": closed, "killed": killed} {
		sound := filepath.Join(t.TempDir(), "sound")
		if err := os.CopyFS(sound, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		s, err := embedded.Open(sound, o)
		if err != nil {
			t.Fatal(err)
		}
		x, err := openFixture(t, s, true)
		x.must(err)
		want, eios := showsAll(x, nil)
		if eios > 0 {
			t.Fatalf("%d inodes of a sound store can't be read", eios)
		}
		x.must(x.vol.Close(bg))
		x.must(s.Close())
		for _, name := range dataFiles(t, dir) {
			flips := crashEnv("DCFS_FLIPS", 0)
			if flips == 0 && rnd.IntN(4) == 0 {
				flips = 1
			}
			for range flips {
				copied := filepath.Join(t.TempDir(), "copy")
				x.must(os.CopyFS(copied, os.DirFS(dir)))
				at := flipIn(t, filepath.Join(copied, name), rnd)
				f := &fileFlip{t: t, what: fmt.Sprintf("%s, %s, byte %d", what, name, at), dir: copied, want: want}
				watched(t, f.what, func() { f.run(o) })
				counts[f.outcome]++
				if f.outcome == "harmless" {
					counts["harmless: "+what+" "+filepath.Ext(name)]++
				}
				x.must(os.RemoveAll(copied))
			}
		}
	}
	t.Log(counts)
}

// dataFiles returns the files of a store, without those that hold nothing.
func dataFiles(t *testing.T, dir string) (names []string) {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		if err == nil && e.Type().IsRegular() && !slices.Contains([]string{"lock", "ballast", "records/LOCK"}, name) {
			names = append(names, name)
		}
		return err
	})
	if err != nil || len(names) < 6 {
		t.Fatalf("files %q, %v", names, err)
	}
	return names
}

// flipIn flips a bit of a file where there is something, if there is.
func flipIn(t *testing.T, name string, rnd *rand.Rand) (at int) {
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) == 0 {
		return 0
	}
	end := len(strings.TrimRight(string(b), "\x00"))
	at = rnd.IntN(max(end, 1))
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte{b[at] ^ 1<<rnd.IntN(8)}, int64(at))
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// fileFlip is a store with a damaged file.
type fileFlip struct {
	t         testing.TB
	what, dir string
	want      map[string]map[uint64]string
	outcome   string
}

// tables are the files that nobody has all of but the store.
func (f *fileFlip) tables() []string {
	names, err := filepath.Glob(filepath.Join(f.dir, "records/*.sst"))
	if err != nil {
		f.t.Fatal(err)
	}
	return names
}

func (f *fileFlip) run(o embedded.Options) {
	tables := f.tables()
	s, err := embedded.Open(f.dir, o)
	left := f.tables()
	for _, name := range tables {
		if err != nil && !slices.Contains(left, name) {
			f.t.Errorf("%s: an open that refused has deleted %s: %v", f.what, name, err)
		}
	}
	if err != nil {
		f.outcome = "refused"
		if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, embedded.ErrUnknownFormat) || !strings.Contains(err.Error(), f.dir) || strings.Contains(err.Error(), "\n") {
			f.t.Errorf("%s: open: %v", f.what, err)
		}
		return
	}
	defer s.Close()
	found := 0
	if err := s.Scrub(bg, func(int) error { return nil }, func(error) { found++ }); err != nil {
		f.t.Errorf("%s: scrub: %v", f.what, err)
	}
	x, err := openFixture(f.t, s, true)
	if err != nil {
		f.outcome = "volume refused"
		if !eio(err) {
			f.t.Errorf("%s: open volume: %v", f.what, err)
		}
		return
	}
	defer x.vol.Close(bg)
	f.outcome = "harmless"
	got, eios := showsAll(x, f.want)
	if eios > 0 {
		f.outcome = "some EIO"
		c, err := x.vol.Check(bg, snap.CheckOptions{Contents: true})
		if err != nil || len(c.Problems) == 0 || found == 0 {
			f.t.Errorf("%s: a scrub finds %d problems, a check %d, %v", f.what, found, len(c.Problems), err)
		}
	} else if found > 0 {
		f.outcome = "only the scrub"
	}
	for view, inos := range f.want {
		for ino, want := range inos {
			if line := got[view][ino]; line != want && line != "EIO" {
				f.t.Errorf("%s: inode %d of %s reads\n%.200s, it was\n%.200s", f.what, ino, view, line, want)
			}
		}
	}
}
