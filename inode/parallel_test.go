package inode

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"dcfs/dcdb/store"
	"dcfs/snap"
)

// allowed are the errors that operations on names, which others change at the
// same time, may have.
var allowed = []error{nil, ErrExist, ErrNotExist, ErrNotDir, ErrIsDir, ErrNotEmpty, ErrInvalid, ErrStale}

// TestParallelChangesOfOneTreeKeepItWhole: creates, renames of directories
// into each other, links, removals and listings on the same few names.
func TestParallelChangesOfOneTreeKeepItWhole(t *testing.T) {
	x := newFixture(t)
	d := time.Second
	if testing.Short() {
		d = 200 * time.Millisecond
	}
	stop := time.Now().Add(d)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			w := &stormer{x, rand.New(rand.NewPCG(uint64(i), 7))}
			for time.Now().Before(stop) {
				w.step()
			}
		})
	}
	for i := range 10 {
		name := fmt.Sprint("s", i)
		_, err := x.vol.CreateSnapshot(bg, x.view, name)
		x.must(err)
		time.Sleep(d / 20)
		if i%2 == 0 {
			x.must(x.vol.DeleteSnapshot(bg, x.view, name))
		}
	}
	wg.Wait()
	x.check()
	for _, s := range x.vol.Snapshots(x.view) {
		x.must(x.fs.Check(bg, s, func(p string) { t.Errorf("check: %s", p) }))
	}
	x.must(x.fs.CleanOrphans(bg, x.view))
	x.check()
}

type stormer struct {
	x   *fixture
	rng *rand.Rand
}

func (w *stormer) step() {
	f, v := w.x.fs, w.x.view
	dir, name := w.dir(), w.name()
	var err error
	switch w.rng.IntN(10) {
	case 0:
		_, err = f.Mkdir(bg, v, dir, name, root, 0755)
	case 1:
		_, err = f.Mknod(bg, v, dir, name, root, 0644, 0)
	case 2:
		var ino uint64
		var last bool
		if ino, last, err = f.Unlink(bg, v, dir, name); last {
			err = f.Forget(bg, v, ino)
		}
	case 3:
		_, err = f.Rmdir(bg, v, dir, name)
	case 4, 5:
		_, _, err = f.Rename(bg, v, dir, name, w.dir(), w.name(), 0)
	case 6:
		_, _, err = f.Rename(bg, v, dir, name, w.dir(), w.name(), RenameExchange)
	case 7:
		var a Attr
		if a, err = f.Lookup(bg, v, dir, name); err == nil {
			_, err = f.Link(bg, v, a.Ino, w.dir(), w.name())
			if isErr(err, ErrPermission) {
				err = nil // a directory
			}
		}
	case 8:
		err = w.list(dir)
	case 9:
		_, _, err = f.RenameWhiteout(bg, v, dir, name, w.dir(), w.name(), 0, root)
	}
	for _, ok := range allowed {
		if isErr(err, ok) {
			return
		}
	}
	w.x.Errorf("error %v", err)
}

func (w *stormer) list(dir uint64) error {
	d, err := w.x.fs.OpenDir(bg, w.x.view, dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Read(bg, 0, func(e Dirent) bool { return true })
}

func (w *stormer) name() string { return strconv.Itoa(w.rng.IntN(5)) }

// dir walks down some way from the root.
func (w *stormer) dir() uint64 {
	ino := uint64(snap.RootIno)
	for range w.rng.IntN(4) {
		a, err := w.x.fs.Lookup(bg, w.x.view, ino, w.name())
		if err != nil || !isDir(a.Mode) {
			return ino
		}
		ino = a.Ino
	}
	return ino
}

// TestEverySnapshotIsACutThroughAllWriters: each writer counts up, first in
// a file of its own, then in one for all, then by a rename. A snapshot has
// what had returned before it was asked for, nothing that began after it was
// there, and no later step of a writer without the earlier ones. So has a fork.
// The store takes its time.
func TestEverySnapshotIsACutThroughAllWriters(t *testing.T) {
	const writers = 8
	slow := store.NewFault(newMemory())
	slow.Before(func(op store.Op) {
		if op&store.OpWrites != 0 {
			time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
		}
	})
	x := newFixtureOnStore(t, slow, Options{})
	shared := x.create("shared", "")
	var cs []*counter
	for i := range writers {
		c := &counter{x: x, n: i, shared: shared}
		c.own = x.create(fmt.Sprint("own", i), "")
		x.create(fmt.Sprintf("name%d.0", i), "")
		cs = append(cs, c)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for _, c := range cs {
		wg.Go(func() { c.run(done) })
	}
	rounds := 30
	if testing.Short() {
		rounds = 5
	}
	for i := range rounds {
		before := progress(cs)
		s, err := x.cut(i)
		x.must(err)
		after := progress(cs)
		for k, c := range cs {
			c.compare(s, before[k][0], after[k][1])
		}
		switch i % 4 {
		case 1:
			x.must(x.vol.DeleteSnapshot(bg, x.view, fmt.Sprint("s", i-1)))
		case 3:
			x.must(x.vol.DeleteFork(bg, x.view, fmt.Sprint("f", i-2)))
		}
		time.Sleep(time.Millisecond)
	}
	close(done)
	wg.Wait()
	x.check()
}

// cut makes a snapshot or a fork.
func (x *fixture) cut(i int) (*snap.View, error) {
	if i%2 == 1 {
		return x.vol.CreateFork(bg, x.view, fmt.Sprint("f", i))
	}
	return x.vol.CreateSnapshot(bg, x.view, fmt.Sprint("s", i))
}

// counter is a writer: its steps are numbered, three to a round.
type counter struct {
	x           *fixture
	n           int
	own, shared uint64

	mu              sync.Mutex
	begun, returned int // guarded by mu; steps
}

func (c *counter) run(done chan struct{}) {
	for round := 1; ; round++ {
		select {
		case <-done:
			return
		default:
		}
		text := []byte(fmt.Sprintf("%08d", round))
		c.step(func() error {
			_, err := c.x.fs.Write(bg, c.x.view, c.own, root, text, 0, WriteFlags{})
			return err
		})
		c.step(func() error {
			_, err := c.x.fs.Write(bg, c.x.view, c.shared, root, text, uint64(c.n)*5000, WriteFlags{})
			return err
		})
		c.step(func() error {
			return c.x.rename(fmt.Sprintf("name%d.%d", c.n, round-1), fmt.Sprintf("name%d.%d", c.n, round), 0)
		})
	}
}

func (c *counter) step(do func() error) {
	c.mu.Lock()
	c.begun++
	c.mu.Unlock()
	if err := do(); err != nil {
		c.x.Errorf("writer %d: %v", c.n, err)
	}
	c.mu.Lock()
	c.returned++
	c.mu.Unlock()
}

// progress returns how many steps of each writer have returned and begun.
func progress(cs []*counter) (p [][2]int) {
	for _, c := range cs {
		c.mu.Lock()
		p = append(p, [2]int{c.returned, c.begun})
		c.mu.Unlock()
	}
	return p
}

// compare verifies that the view shows a number of steps in [low, high].
func (c *counter) compare(v *snap.View, low, high int) {
	c.x.Helper()
	own, shared, name := c.number(v, c.own, 0), c.number(v, c.shared, uint64(c.n)*5000), c.named(v)
	steps := own + shared + name
	if own < shared || shared < name || own > name+1 {
		c.x.Errorf("%s: writer %d: own %d, shared %d, name %d: a later step without an earlier one", v.Name(), c.n, own, shared, name)
	}
	if steps < low || steps > high {
		c.x.Errorf("%s: writer %d: %d steps, want %d to %d", v.Name(), c.n, steps, low, high)
	}
}

func (c *counter) number(v *snap.View, ino, off uint64) int {
	c.x.Helper()
	p := make([]byte, 8)
	n, err := c.x.fs.Read(bg, v, ino, p, off)
	c.x.must(err)
	i, _ := strconv.Atoi(strings.TrimLeft(strings.Trim(string(p[:n]), "\x00"), "0"))
	return i
}

// named returns the number in the writer's name.
func (c *counter) named(v *snap.View) int {
	c.x.Helper()
	d, err := c.x.fs.OpenDir(bg, v, snap.RootIno)
	c.x.must(err)
	defer d.Close()
	prefix, found := fmt.Sprintf("name%d.", c.n), -1
	c.x.must(d.Read(bg, 0, func(e Dirent) bool {
		if rest, ok := strings.CutPrefix(e.Name, prefix); ok {
			found, _ = strconv.Atoi(rest)
		}
		return true
	}))
	return found
}
