package snap

import (
	"context"
	"fmt"
	"testing"
	"time"

	"dcfs/dcdb/store"
)

// forkCount is how many forks there are, nameless ones among them.
func (h *history) forkCount() (n int) {
	h.v.space.Locked(func() { n = len(h.v.forks) })
	return n
}

// place returns where a fork's records are.
func (h *history) place(w *View) (prefix, moving uint64) {
	h.v.space.Locked(func() { prefix, moving = w.fork.prefix, w.fork.moving })
	return prefix, moving
}

// slowStore takes its time to make groups durable.
type slowStore struct{ store.Store }

func (s slowStore) Barrier(ctx context.Context) error {
	time.Sleep(time.Millisecond)
	return s.Store.Barrier(ctx)
}

// Of two forks that become one the records of the smaller one move, while files
// are read and changed in what they become.
func TestMergeMovesTheFewerRecords(t *testing.T) {
	for _, c := range []struct {
		name           string
		parents, child int // files that are changed in each
		snapshot       bool
	}{{"the parent's", 20, 300, true}, {"the child's", 300, 20, true}, {"the parent's, no snapshot", 20, 300, false}} {
		t.Run(c.name, func(t *testing.T) {
			h := newHistory(t)
			h.must(h.v.Close(h.ctx))
			h.o.atOnce = 3
			h.wrap = func(st store.Store) store.Store { return slowStore{st} }
			h.open()
			m := h.v.Main()
			var inos []uint64
			for i := range 310 {
				inos = append(inos, h.create(m, fmt.Sprint("main ", i)))
			}
			want := map[*View][]string{}
			change := func(w *View, n int, mark string) {
				for i := range n {
					h.write(w, inos[i], fmt.Sprint(mark, i))
					want[w][i] = fmt.Sprint(mark, i)
				}
			}
			begin := func(w, from *View) {
				want[w] = append([]string(nil), want[from]...)
			}
			want[m] = make([]string, len(inos))
			for i := range inos {
				want[m][i] = fmt.Sprint("main ", i)
			}
			p := h.fork(m, "p")
			begin(p, m)
			change(p, c.parents, "p ")
			// One that only the parent, and what descends from it, has.
			inos = append(inos, h.create(p, "p early"))
			want[m], want[p] = append(want[m], ""), append(want[p], "p early")
			older := h.fork(p, "older")
			begin(older, p)
			change(p, c.parents, "p again ")
			for _, i := range []int{305, 306, 307, 309, 310} {
				h.write(p, inos[i], "p alone")
				want[p][i] = "p alone"
			}
			g := h.fork(p, "g")
			begin(g, p)
			change(g, c.child, "g ")
			if c.snapshot {
				begin(h.snapshot(g, "s"), g)
			}
			change(g, 5, "g again ")
			h.write(g, inos[309], "g alone")
			want[g][309] = "g alone"
			h.remove(g, inos[6])
			want[g][6] = ""
			h.must(h.v.RenameFork(h.ctx, p, "g", m, "g"))
			h.must(h.v.RenameFork(h.ctx, p, "older", m, "older"))
			parent, child := p.fork.prefix, g.fork.prefix
			h.must(h.v.DeleteFork(h.ctx, m, "p"))
			delete(want, p)

			check := func(w *View) {
				t.Helper()
				for i, ino := range inos {
					h.want(w, ino, want[w][i])
				}
			}
			var late *View
			for i := 0; ; i++ {
				_, moving := h.place(g)
				if moving == 0 {
					if ok, err := h.v.Idle(h.ctx); ok || err != nil {
						h.must(err)
						break
					}
					continue
				}
				if want := map[bool]uint64{true: parent, false: child}[c.parents < c.child]; moving != want {
					t.Fatalf("records move from %d, want from %d", moving, want)
				}
				if late == nil {
					// The last ones to move, of the parent's and of the child's.
					for _, i := range []int{17, 18, 19, 297, 298, 299, 306, 307} {
						h.write(g, inos[i], "early")
						want[g][i] = "early"
					}
					h.remove(g, inos[16])
					h.remove(g, inos[296])
					h.remove(g, inos[310])
					h.remove(g, inos[309])
					want[g][16], want[g][296], want[g][309], want[g][310] = "", "", "", ""
					late = h.fork(g, "late")
					begin(late, g)
					for w := range want {
						check(w)
					}
				}
				ino := (7 + 13*i) % len(inos)
				if want[g][ino] == "" {
					continue
				}
				h.write(g, inos[ino], fmt.Sprint("now ", i))
				want[g][ino] = fmt.Sprint("now ", i)
				if i == 3 {
					h.remove(g, inos[40])
					want[g][40] = ""
					inos[40], want[g][40] = h.create(g, "new"), "new"
					for w := range want {
						if w != g {
							want[w][40] = ""
						}
					}
				}
			}
			if late == nil {
				t.Fatal("nothing moved")
			}
			for w := range want {
				check(w)
			}
			sound(t, h.v, CheckOptions{})
			h.must(h.v.Close(h.ctx))
			h.st = h.st.Reopen()
			h.open()
			g, err := h.v.Fork(h.v.Main(), "g")
			h.must(err)
			h.dropFork(g, "late")
			h.dropFork(h.v.Main(), "older")
			h.dropFork(h.v.Main(), "g")
			h.objects(310)
			if n := h.forkCount(); n != 1 {
				t.Errorf("%d forks are left", n)
			}
			h.records(keyHead, 312)
			h.records(keyIndex, 312)
			h.records(keyDead, 0)
		})
	}
}

// Ten thousand times a fork of the last one takes its place: look-ups, records
// and forks are as after the first time, and what moves is what the generation
// changed.
func TestGenerationsStayFlat(t *testing.T) {
	generations, files := envInt("DCFS_GENERATIONS", 300), 500
	h := newHistory(t)
	h.must(h.v.Close(h.ctx))
	st := store.NewCounting(h.st)
	h.wrap = func(store.Store) store.Store { return st }
	h.open()
	m := h.v.Main()
	f := h.fork(m, "f0")
	var inos []uint64
	for i := range files {
		inos = append(inos, h.create(f, fmt.Sprint(0, " ", i)))
	}
	gen := 0
	next := func() {
		gen++
		g := h.fork(f, fmt.Sprint("f", gen))
		h.must(h.v.RenameFork(h.ctx, f, g.Name()[len(f.Name())+1:], m, fmt.Sprint("f", gen)))
		h.write(g, inos[gen%files], fmt.Sprint(gen))
		h.dropFork(m, f.Name())
		f = g
	}
	count := func() (records, reads, writes int64) {
		h.must(scan(h.ctx, h.st, nil, func(k, val []byte) error {
			if k[0] != keyViews { // these are bounded, see viewNumbers
				records++
			}
			return nil
		}))
		read := func() int64 { return st.KeysGot.Load() + st.RecordsScanned.Load() }
		written := func() int64 { return st.RecordsPut.Load() + st.RecordsDeleted.Load() }
		r, w := read(), written()
		next()
		return records, read() - r, written() - w
	}
	for range 10 {
		next()
	}
	records, reads, writes := count()
	for gen < generations {
		next()
	}
	records2, reads2, writes2 := count()
	t.Logf("after 10 and %d generations: %d and %d records; a generation reads %d and %d, writes %d and %d", gen, records, records2, reads, reads2, writes, writes2)
	if n := h.forkCount(); n != 2 {
		t.Errorf("%d forks, want 2", n)
	}
	if records2 > records+10 {
		t.Errorf("%d records, %d generations before %d", records2, gen, records)
	}
	if reads2 > 2*reads+20 || writes2 > 2*writes+20 {
		t.Errorf("a generation reads %d and writes %d records, once %d and %d", reads2, writes2, reads, writes)
	}
	sound(t, h.v, CheckOptions{})
}

// limitedStore takes small batches only.
type limitedStore struct{ store.Store }

func (s limitedStore) Limits() store.Limits {
	l := s.Store.Limits()
	l.BatchRecords = 6000
	return l
}

// The snapshots of a deleted fork, however many, do not have to fit a batch.
func TestForkWithManySnapshotsIsDeletedInSteps(t *testing.T) {
	h := newHistory(t)
	h.must(h.v.Close(h.ctx))
	h.wrap = func(st store.Store) store.Store { return limitedStore{st} }
	h.o.CommitInterval = time.Hour
	h.open()
	m := h.v.Main()
	f := h.fork(m, "f")
	ino := h.create(f, "first")
	for i := range 3000 {
		s := h.snapshot(f, fmt.Sprint("s", i))
		if i == 1500 {
			h.fork(s, "child")
			h.must(h.v.RenameFork(h.ctx, f, "child", m, "child"))
		}
		if i%500 == 0 {
			h.write(f, ino, fmt.Sprint("after ", i))
		}
	}
	last, err := h.v.Snapshot(f, "s2999")
	h.must(err)
	h.must(h.v.DeleteFork(h.ctx, m, "f"))
	if err := last.Err(); err == nil {
		t.Error("a snapshot of a deleted fork is still there")
	}
	h.st = h.st.CrashAt(0)
	h.open()
	m = h.v.Main()
	child, err := h.v.Fork(m, "child")
	h.must(err)
	h.want(child, ino, "after 1000")
	h.idle()
	sound(t, h.v, CheckOptions{})
	h.want(child, ino, "after 1000")
	h.objects(1)
	if n := h.forkCount(); n != 2 {
		t.Errorf("%d forks, want main and the child", n)
	}
	h.records(keySnap, 1) // where f, and now the child, begins in main
	h.records(keyTask, 0)
	h.dropFork(m, "child")
	h.objects(0)
	h.records(keySnap, 0)
}
