package embedded

import (
	"errors"
	"os"
	"strings"
	"testing"

	"dcfs/dcdb/store"
)

// breakSegment makes writes to the current segment fail until mend is called.
func breakSegment(t *testing.T, s *Store) (mend func()) {
	g := s.segments.cur
	good := g.f
	g.f = must(os.Open(good.Name()))(t)
	return func() {
		g.f.Close()
		g.f = good
	}
}

func TestFailedPutLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	s := must(Create(dir, small(t)))(t)
	ids := must(s.Put(ctx, 1, store.KindPage, [][]byte{data(1, 20_000)}))(t)
	mend := breakSegment(t, s)
	if _, err := s.Put(ctx, 1, store.KindPage, [][]byte{data(1, 10), data(1, 30_000)}); err == nil {
		t.Fatal("Put into a broken segment: no error")
	}
	mend()
	ids = append(ids, must(s.Put(ctx, 1, store.KindPage, [][]byte{data(2, 20_000)}))(t)...)
	commit(t, s, 1)
	barrier(t, s)
	_, segs := s.segments.states(1)
	if len(segs) != 1 || len(segs[0].exceptions) != 1 || segs[0].exceptions[0].n != blocksFor(30_000) {
		t.Errorf("state of segments: %+v", segs)
	}
	s.Close()
	s = must(Open(dir, small(t)))(t)
	defer s.Close()
	if got := must(s.List(ctx, store.ID{}, 10))(t); len(got) != 2 || got[0] != ids[0] || got[1] != ids[1] {
		t.Errorf("List: got %v, want %v", got, ids)
	}
}

func TestNothingIsWrittenAfterAFailedSync(t *testing.T) {
	dir := t.TempDir()
	s := must(Create(dir, small(t)))(t)
	commit(t, s, 1, "a", "1")
	must(s.Put(ctx, 2, store.KindPage, [][]byte{data(1, 20_000)}))(t)
	s.segments.cur.f.Close()
	two := &store.Batch{Group: 2, Fence: s.Fence(), Puts: []store.Record{{Key: []byte("a"), Value: []byte("2")}}}
	if err := s.Commit(ctx, two); err == nil {
		t.Fatal("Commit with a failed sync: no error")
	}
	for range 2 {
		if err := s.Commit(ctx, two); err == nil || !strings.Contains(err.Error(), "nothing is written since") {
			t.Errorf("Commit after it: got %v", err)
		}
	}
	if err := s.Barrier(ctx); err == nil {
		t.Error("Barrier after it: no error")
	}
	if vs := must(s.Get(ctx, []byte("a")))(t); string(vs[0]) != "1" || s.LastGroup() != 1 {
		t.Errorf("reads: %q, last group %d", vs, s.LastGroup())
	}
	s.Close()
	s = must(Open(dir, small(t)))(t)
	defer s.Close()
	if s.LastGroup() != 1 {
		t.Errorf("after a reopen the last group is %d", s.LastGroup())
	}
}

func TestGroupsStayNearTheLastDurableOne(t *testing.T) {
	s := must(Create(t.TempDir(), small(t)))(t)
	defer s.Close()
	if _, err := s.Put(ctx, s.FirstGroup()+groupSkip, store.KindPage, [][]byte{{1}}); err == nil {
		t.Error("Put far ahead: no error")
	}
	for g := s.FirstGroup(); g < 4*groupSkip; g += groupSkip / 2 {
		commit(t, s, g) // without a barrier of its own
		if acked := s.acked.Load(); g >= max(acked, s.first)+groupSkip {
			t.Errorf("group %d is written to, the last durable one is %d", g, acked)
		}
	}
	err := s.Commit(ctx, &store.Batch{Group: s.LastGroup() + groupSkip, Fence: s.Fence()})
	if err == nil || errors.Is(err, store.ErrConflict) {
		t.Errorf("Commit far ahead: got %v", err)
	}
}
