package inode

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"dcfs/dcdb/store"
	"dcfs/snap"
)

// TestEveryFaultComesOutAndHarmsNothing fails the store from its n-th call
// on, for every n. What an fsync or snapshot acknowledged before is there
// after a crash, and every invariant holds.
func TestEveryFaultComesOutAndHarmsNothing(t *testing.T) {
	for n := 0; ; n++ {
		mem := newMemory()
		fault := store.NewFault(mem)
		vol, err := snap.Open(bg, fault, snap.Options{CacheBytes: 1 << 16, CommitInterval: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		fault.FailAfter(store.OpAll, n, store.ErrInjected)
		s := &faultScript{fs: New(vol, Options{}), vol: vol, acked: map[string]string{}}
		s.run()
		if s.err != nil && !errors.Is(s.err, store.ErrInjected) && !errors.Is(s.err, ErrIO) {
			t.Errorf("fault %d: error %v, want the injected one or %v", n, s.err, ErrIO)
		}
		vol.Close(bg)
		s.compare(newFixtureOn(t, mem.Crash(), Options{}), n)
		if t.Failed() {
			return
		}
		if s.err == nil {
			t.Logf("%d faults", n)
			return
		}
	}
}

// faultScript does some of everything until something fails.
type faultScript struct {
	fs    *FS
	vol   *snap.Volume
	err   error
	acked map[string]string // path in the root, or snapshot@path, and content
}

func (s *faultScript) run() {
	v := s.vol.Main()
	var inos []uint64
	for i := range 6 {
		name := fmt.Sprint("f", i)
		ino := s.file(v, name, fmt.Sprintf("%s %060000d", name, i))
		inos = append(inos, ino)
		s.ack(v, ino, name, fmt.Sprintf("%s %060000d", name, i))
	}
	for i, ino := range inos[:3] {
		s.try(func() error { _, err := s.fs.Link(bg, v, ino, snap.RootIno, fmt.Sprint("l", i)); return err })
		s.try(func() error { _, _, err := s.fs.Unlink(bg, v, snap.RootIno, fmt.Sprint("f", i)); return err })
		delete(s.acked, fmt.Sprint("f", i)) // it may be gone by now
	}
	s.try(func() error { _, err := s.vol.CreateSnapshot(bg, v, "s"); return err })
	if s.err == nil {
		for i := 3; i < 6; i++ {
			name := fmt.Sprint("f", i)
			s.acked["s@"+name] = s.acked[name]
		}
	}
	for i := 3; i < 6; i++ {
		name := fmt.Sprint("f", i)
		s.write(v, inos[i], "new", 30000)
		if s.err == nil {
			s.acked[name] = s.acked[name][:30000] + "new" + s.acked[name][30003:]
		} else {
			delete(s.acked, name)
		}
	}
	s.try(func() error { _, err := s.fs.Read(bg, v, inos[4], make([]byte, 60000), 0); return err })
	s.try(func() error { return s.fs.SyncAll(bg) })
	if s.err != nil {
		for i := 3; i < 6; i++ {
			delete(s.acked, fmt.Sprint("f", i)) // old or new, who knows
		}
	}
	s.try(func() error { return s.vol.DeleteSnapshot(bg, v, "s") })
	for i := 3; i < 6; i++ {
		delete(s.acked, fmt.Sprint("s@f", i))
	}
}

func (s *faultScript) try(do func() error) {
	if s.err == nil {
		s.err = do()
	}
}

func (s *faultScript) file(v *snap.View, name, data string) (ino uint64) {
	s.try(func() error {
		a, err := s.fs.Mknod(bg, v, snap.RootIno, name, root, 0644, 0)
		ino = a.Ino
		return err
	})
	s.write(v, ino, data, 0)
	return ino
}

func (s *faultScript) write(v *snap.View, ino uint64, data string, off uint64) {
	s.try(func() error {
		_, err := s.fs.Write(bg, v, ino, root, []byte(data), off, WriteFlags{})
		return err
	})
}

func (s *faultScript) ack(v *snap.View, ino uint64, name, data string) {
	s.try(func() error { return s.fs.Fsync(bg, v, ino) })
	if s.err == nil {
		s.acked[name] = data
	}
}

// compare verifies what the next process finds.
func (s *faultScript) compare(x *fixture, n int) {
	x.Helper()
	x.check()
	for path, want := range s.acked {
		x.view = x.vol.Main()
		name := path
		if len(path) > 2 && path[:2] == "s@" {
			v, err := x.vol.Snapshot(x.view, "s")
			x.must(err)
			x.view, name = v, path[2:]
		}
		if got := x.content(x.ino(name)); got != want {
			x.Errorf("fault %d: %s has %d bytes that differ from the %d acknowledged", n, path, len(got), len(want))
		}
	}
	x.view = x.vol.Main()
	for _, v := range x.vol.Snapshots(x.view) {
		x.must(x.fs.Check(bg, v, func(p string) { x.Errorf("fault %d: check: %s", n, p) }))
	}
}

func TestAFullStoreIsNoSpaceUntilThereIsSome(t *testing.T) {
	fault := store.NewFault(newMemory())
	x := newFixtureOnStore(t, fault, Options{})
	f := x.create("f", "before")
	x.must(x.fs.Fsync(bg, x.view, f))
	fault.FailAfter(store.OpPut|store.OpCommit, 0, store.ErrFull)
	x.write(f, "during", 0)
	x.want("fsync", x.fs.Fsync(bg, x.view, f), ErrNoSpace)
	fault.Heal()
	for x.fs.Fsync(bg, x.view, f) != nil {
		time.Sleep(10 * time.Millisecond)
	}
	if got := x.content(f); got != "during" {
		t.Errorf("got %q", got)
	}
	x.check()
}

// TestNothingSucceedsAfterAFailedCommit: each fsync of a change that is lost says so,
// also the second one, and nothing is changed any more though the store is healthy.
func TestNothingSucceedsAfterAFailedCommit(t *testing.T) {
	for _, op := range []store.Op{store.OpPut, store.OpCommit, store.OpBarrier} {
		fault := store.NewFault(newMemory())
		x, err := openFixture(t, fault, false)
		x.must(err)
		f := x.create("f", "before")
		x.must(x.fs.SyncAll(bg))
		fault.FailAfter(op, 0, store.ErrInjected)
		x.write(f, strings.Repeat("lost", 30_000), 0)
		for range 2 { // two descriptors
			x.want("fsync", x.fs.Fsync(bg, x.view, f), ErrIO)
		}
		fault.Heal()
		x.want("fsync, healed", x.fs.Fsync(bg, x.view, f), ErrIO)
		_, err = x.fs.Write(bg, x.view, f, root, []byte("x"), 0, WriteFlags{})
		x.want("write", err, ErrIO)
		_, err = x.fs.Mkdir(bg, x.view, snap.RootIno, "d", root, 0o755)
		x.want("mkdir", err, ErrIO)
		x.vol.Close(bg)
	}
}
