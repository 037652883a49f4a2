package snap

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// scenario is a fixed sequence of operations on a volume whose store may fail. It
// goes on after errors.
type scenario struct {
	ctx   context.Context
	v     *Volume
	rnd   *rand.Rand
	files map[*View][]uint64
}

func (s *scenario) run(steps int) {
	m := s.v.Main()
	s.files = map[*View][]uint64{m: nil}
	views := []*View{m}
	for i := range steps {
		w := views[s.rnd.IntN(len(views))]
		switch n := s.rnd.IntN(22); {
		case n < 3:
			s.create(w)
		case n < 10:
			s.write(w)
		case n < 12:
			s.remove(w)
		case n < 14:
			s.v.CreateSnapshotFor(s.ctx, w, fmt.Sprint("s", i%5), time.Duration(i%2))
		case n == 14:
			for _, w := range s.v.Snapshots(w) {
				s.v.Hold(s.ctx, w.Live(), w.Name(), DefaultTag)
			}
			s.v.SetPolicy(s.ctx, w, Policy{1})
		case n == 15:
			for _, w := range s.v.Snapshots(w) {
				s.v.Release(s.ctx, w.Live(), w.Name(), DefaultTag)
			}
			s.v.NewClock(ClockHooks{}).Step(s.ctx)
		case n < 18:
			s.v.DeleteSnapshot(s.ctx, w, fmt.Sprint("s", s.rnd.IntN(5)))
		case n < 19:
			if f, err := s.v.CreateForkFor(s.ctx, w, fmt.Sprint("f", i), time.Duration(i%8/7)); err == nil {
				s.files[f] = append([]uint64(nil), s.files[w]...)
				views = append(views, f)
			}
		case n < 20:
			for _, f := range s.v.Forks(m) {
				s.v.DeleteFork(s.ctx, m, f.Name())
				break
			}
		default:
			s.v.Space().SyncAll(s.ctx)
		}
	}
	s.v.Space().SyncAll(s.ctx)
}

func (s *scenario) create(w *View) {
	var ino uint64
	err := s.v.Space().Update(s.ctx, func(tx *dcdb.Tx) error {
		if _, err := tx.DB(w.Key(RootIno)); err != nil {
			return err
		}
		ino = w.NewIno()
		tx.Create(w.Key(ino), dcdb.Attr{Mode: 0o100644, Nlink: 1})
		return nil
	})
	if err == nil {
		s.files[w] = append(s.files[w], ino)
	}
}

func (s *scenario) pick(w *View) uint64 {
	if len(s.files[w]) == 0 {
		return 0
	}
	return s.files[w][s.rnd.IntN(len(s.files[w]))]
}

func (s *scenario) write(w *View) {
	ino := s.pick(w)
	data := make([]byte, 1+s.rnd.IntN(200_000))
	off := uint64(s.rnd.IntN(40)) * 50_000
	if ino != 0 {
		s.v.Space().Write(s.ctx, w.Key(ino), data, func(*dcdb.DB) uint64 { return off }, func(*dcdb.DB) error { return nil })
	}
}

func (s *scenario) remove(w *View) {
	if ino := s.pick(w); ino != 0 {
		s.v.Space().Update(s.ctx, func(tx *dcdb.Tx) error {
			db, err := tx.DB(w.Key(ino))
			if err == nil {
				db.Delete()
			}
			return err
		})
	}
}

func newFaulty(t *testing.T, o Options) (*store.Memory, *store.Fault, *scenario) {
	mem := store.NewMemory(store.Superblock{Version: store.FormatVersion, UUID: store.NewUUID()})
	fault := store.NewFault(mem)
	v, err := Open(context.Background(), fault, o)
	if err != nil {
		t.Fatal(err)
	}
	return mem, fault, &scenario{ctx: context.Background(), v: v, rnd: rand.New(rand.NewPCG(1, 1))}
}

// TestEveryFailureLeavesASoundVolume has the store fail from call n on, for many n,
// and checks what the next process finds.
func TestEveryFailureLeavesASoundVolume(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	for n, done := 0, false; !done; n += 1 + n/10 {
		mem, fault, s := newFaulty(t, Options{CommitInterval: time.Millisecond})
		fault.FailAfter(store.OpWrites, n, store.ErrInjected)
		s.run(120)
		done = fault.Failed() == 0
		keep := uint64(0)
		if u := mem.Undurable(); len(u) > 0 {
			keep = u[rnd.IntN(len(u))]
		}
		crashed := mem.CrashAt(keep)
		s.v.Close(s.ctx)
		r, err := check(s.ctx, crashed, CheckOptions{Contents: true})
		if err != nil || len(r.Problems) > 0 {
			t.Fatalf("after %d calls: %v\n%s", n, err, strings.Join(r.Problems, "\n"))
		}
		v, err := Open(s.ctx, crashed, Options{Log: t.Logf})
		if err != nil {
			t.Fatalf("after %d calls: %v", n, err)
		}
		if err := v.WaitIdle(s.ctx); err != nil {
			t.Fatalf("after %d calls: %v", n, err)
		}
		sound(t, v, CheckOptions{Contents: true})
		if err := v.Close(s.ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFullStoreLosesNothing has the store be full for a while, from some call on:
// the groups are written again, and no work of the background is done twice.
func TestFullStoreLosesNothing(t *testing.T) {
	for n := range 4 {
		t.Run(fmt.Sprint("call=", n), func(t *testing.T) {
			t.Parallel()
			_, fault, s := newFaulty(t, Options{CommitInterval: time.Millisecond})
			s.run(60)
			m := s.v.Main()
			for i := range 10 { // much to reclaim
				s.v.CreateSnapshot(s.ctx, m, fmt.Sprint("t", i))
				s.write(m)
			}
			for i := range 9 {
				if err := s.v.DeleteSnapshot(s.ctx, m, fmt.Sprint("t", i)); err != nil {
					t.Fatal(err)
				}
			}
			fault.FailAfter(store.OpPut|store.OpCommit, n, store.ErrFull)
			time.AfterFunc(2500*time.Millisecond, fault.Heal)
			s.run(60)
			for s.v.WaitIdle(s.ctx) != nil {
				time.Sleep(50 * time.Millisecond)
			}
			sound(t, s.v, CheckOptions{Contents: true})
			if err := s.v.Close(s.ctx); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestDroppedTreeIsReclaimedUnasked deletes a file of many pages while commits are
// slow: no other change must be needed for its space to come back.
func TestDroppedTreeIsReclaimedUnasked(t *testing.T) {
	mem, fault, s := newFaulty(t, Options{CommitInterval: time.Hour})
	m := s.v.Main()
	s.files = map[*View][]uint64{}
	s.create(m)
	ino := s.files[m][0]
	for i := range uint64(300) {
		_, err := s.v.Space().Write(s.ctx, m.Key(ino), make([]byte, 2000), func(*dcdb.DB) uint64 { return i * dcdb.RecordBytes }, func(*dcdb.DB) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.v.WaitIdle(s.ctx); err != nil {
		t.Fatal(err)
	}
	fault.Before(func(op store.Op) {
		if op == store.OpCommit {
			time.Sleep(20 * time.Millisecond)
		}
	})
	s.remove(m)
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
	defer cancel()
	if err := s.v.WaitIdle(ctx); err != nil {
		t.Fatalf("reclamation does not end: %v", err)
	}
	if ids, err := mem.List(ctx, store.ID{}, 10); err != nil || len(ids) > 0 {
		t.Fatalf("objects remain: %v, %v", ids, err)
	}
	if err := s.v.Close(s.ctx); err != nil {
		t.Fatal(err)
	}
}

// TestRenameToItselfReturns: an operation that changes nothing waits for no group.
func TestRenameToItselfReturns(t *testing.T) {
	_, _, s := newFaulty(t, Options{CommitInterval: time.Hour})
	m := s.v.Main()
	if _, err := s.v.CreateFork(s.ctx, m, "f"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.v.CreateSnapshot(s.ctx, m, "s"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.ctx, 2*time.Second)
	defer cancel()
	if err := s.v.RenameFork(ctx, m, "f", m, "f"); err != nil {
		t.Error(err)
	}
	if err := s.v.RenameSnapshot(ctx, m, "s", "s"); err != nil {
		t.Error(err)
	}
	if err := s.v.Close(s.ctx); err != nil {
		t.Fatal(err)
	}
}
