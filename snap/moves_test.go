package snap

import (
	"bytes"
	"context"
	"testing"

	"dcfs/dcdb/store"
)

// hookStore calls a hook before each scan.
type hookStore struct {
	store.Store
	before func(from []byte)
}

func (s *hookStore) Scan(ctx context.Context, from, to []byte, limit int) ([]store.Record, error) {
	if s.before != nil {
		s.before(from)
	}
	return s.Store.Scan(ctx, from, to, limit)
}

// TestSumsAreCountedOnceWhileTheyMove: what was read at a fork's first place, and
// is at the second before that is read, does not count twice.
func TestSumsAreCountedOnceWhileTheyMove(t *testing.T) {
	h := newHistory(t)
	h.must(h.v.Close(h.ctx))
	h.o.atOnce, h.o.Still = 2, true // the test reclaims
	hook := &hookStore{}
	h.wrap = func(st store.Store) store.Store { hook.Store = st; return hook }
	h.open()
	m := h.v.Main()
	p := h.fork(m, "p")
	var inos []uint64
	for range 10 {
		inos = append(inos, h.create(p, "p"))
	}
	for _, ino := range inos[:5] {
		h.fork(p, "keep"+string(rune('a'+len(h.v.Forks(p)))))
		h.write(p, ino, "p again")
	}
	g := h.fork(p, "g")
	for range 40 {
		h.create(g, "g")
	}
	for _, f := range h.v.Forks(p) {
		h.must(h.v.RenameFork(h.ctx, p, f.fork.name, m, f.fork.name))
	}
	h.must(h.v.DeleteFork(h.ctx, m, "p"))
	for h.v.mover.f == nil || moveKinds[h.v.mover.kind] != keySum {
		if did, err := h.v.reclaimStep(h.ctx); err != nil || !did {
			t.Fatalf("nothing moves: %v", err)
		}
	}
	count := func() (all sum) {
		h.must(h.v.sums(h.ctx, g.fork, func(_ span, n sum) { all = sum{all.count + n.count, all.bytes + n.bytes} }))
		return all
	}
	want := count()
	prefix, moving := h.place(g)
	moved := 0
	hook.before = func(from []byte) {
		if moved > 0 || !bytes.HasPrefix(from, key(keySum, prefix)) {
			return
		}
		for moved++; moving != 0; _, moving = h.place(g) {
			_, err := h.v.reclaimStep(h.ctx)
			h.must(err)
		}
	}
	if got := count(); got != want || want.count < 5 || moved == 0 || moving != 0 {
		t.Errorf("the sums say %d, before they moved %d; they are at %d and %d", got, want, prefix, moving)
	}
}
