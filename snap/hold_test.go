package snap

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// is fails the test unless err is want.
func (h *history) is(err, want error) {
	h.t.Helper()
	if !errors.Is(err, want) {
		h.t.Fatalf("got %v, want %v", err, want)
	}
}

// reopen closes the volume and opens it again; with crash, its last words are lost.
func (h *history) reopen(crash bool) {
	h.t.Helper()
	st := h.st
	if crash {
		st = h.st.CrashAt(0)
	}
	h.v.Close(h.ctx)
	h.st = st.Reopen()
	h.open()
}

func TestHeldSnapshotIsNotDeletedUntilAllTagsAreReleased(t *testing.T) {
	h := newHistory(t)
	m := h.v.Main()
	h.create(m, "A")
	s := h.snapshot(m, "monday")
	h.snapshot(m, "tuesday")
	h.must(h.v.Hold(h.ctx, m, "monday", DefaultTag))
	h.must(h.v.Hold(h.ctx, m, "monday", "backup"))
	h.is(h.v.Hold(h.ctx, m, "monday", "backup"), ErrHold)
	h.is(h.v.Hold(h.ctx, m, "sunday", "backup"), ErrNotExist)
	h.is(h.v.Hold(h.ctx, s, "monday", "backup"), ErrReadOnly)
	h.is(h.v.Hold(h.ctx, m, "monday", "no/tag"), ErrName)
	h.is(h.v.Release(h.ctx, m, "tuesday", "backup"), ErrNoHold)
	if got := s.Tags(); !slices.Equal(got, []string{"backup", "keep"}) {
		t.Fatalf("held by %q", got)
	}

	var held *HeldError
	if err := h.v.DeleteSnapshot(h.ctx, m, "monday"); !errors.As(err, &held) || !errors.Is(err, ErrHeld) {
		t.Fatalf("delete: %v, want a HeldError", err)
	}
	if held.Fork != "main" || held.Snapshot != "monday" || !slices.Equal(held.Tags, s.Tags()) {
		t.Errorf("%+v", held)
	}
	if _, err := h.v.WouldFree(h.ctx, m, []string{"tuesday", "monday"}); !errors.Is(err, ErrHeld) {
		t.Errorf("would free: %v, want what deleting says", err)
	}
	h.dropSnapshot(m, "tuesday")

	h.must(h.v.RenameSnapshot(h.ctx, m, "monday", "kept"))
	h.is(h.v.DeleteSnapshot(h.ctx, m, "kept"), ErrHeld)
	h.must(h.v.Release(h.ctx, m, "kept", DefaultTag))
	h.is(h.v.DeleteSnapshot(h.ctx, m, "kept"), ErrHeld)
	h.records(keyHold, 1)
	h.must(h.v.Release(h.ctx, m, "kept", "backup"))
	h.records(keyHold, 0)
	sound(t, h.v, CheckOptions{})
	h.dropSnapshot(m, "kept")
}

func TestForkWithAHeldSnapshotIsDeletedAsAWholeOrNotAtAll(t *testing.T) {
	h := newHistory(t)
	m := h.v.Main()
	try := h.fork(m, "try")
	again, other := h.fork(try, "again"), h.fork(try, "other")
	ino := h.create(other, "A")
	h.snapshot(other, "free")
	h.snapshot(again, "held")
	h.must(h.v.Hold(h.ctx, again, "held", DefaultTag))

	h.is(h.v.DeleteFork(h.ctx, try, "again"), ErrHeld)
	var held *HeldError
	if err := h.v.DeleteForks(h.ctx, m, "try"); !errors.As(err, &held) || held.Fork != "try/again" {
		t.Fatalf("delete: %v", err)
	}
	for _, w := range []*View{try, again, other} {
		h.must(w.Err())
	}
	h.want(other, ino, "A")
	if len(h.v.Snapshots(other)) != 1 || len(h.v.Snapshots(again)) != 1 {
		t.Error("a snapshot went")
	}
	h.must(h.v.RenameFork(h.ctx, try, "again", m, "elsewhere"))
	h.must(h.v.DeleteForks(h.ctx, m, "try"))
	h.must(h.v.Release(h.ctx, again, "held", DefaultTag))
	h.dropFork(m, "elsewhere")
	h.records(keyHold, 0)
	sound(t, h.v, CheckOptions{})
}

func TestHoldsOutliveACrash(t *testing.T) {
	h := newHistory(t)
	h.snapshot(h.v.Main(), "s")
	for i, crash := range []bool{true, false, true} {
		tag := fmt.Sprint("tag", i)
		h.must(h.v.Hold(h.ctx, h.v.Main(), "s", tag))
		h.reopen(crash)
		m := h.v.Main()
		h.is(h.v.DeleteSnapshot(h.ctx, m, "s"), ErrHeld)
		s, err := h.v.Snapshot(m, "s")
		h.must(err)
		if got := s.Tags(); !slices.Equal(got, []string{tag}) {
			t.Fatalf("held by %q, want %s", got, tag)
		}
		sound(t, h.v, CheckOptions{})
		h.must(h.v.Release(h.ctx, m, "s", tag))
		h.reopen(crash)
		if s, err = h.v.Snapshot(h.v.Main(), "s"); err != nil || len(s.Tags()) > 0 {
			t.Fatalf("%v, held by %q after its release", err, s.Tags())
		}
	}
	h.dropSnapshot(h.v.Main(), "s")
}

func TestAHoldHasABoundedNumberOfTags(t *testing.T) {
	h := newHistory(t)
	h.snapshot(h.v.Main(), "s")
	for i := range maxTags {
		h.must(h.v.Hold(h.ctx, h.v.Main(), "s", fmt.Sprint(i)))
	}
	h.is(h.v.Hold(h.ctx, h.v.Main(), "s", "more"), ErrManyHolds)
	h.reopen(true)
	h.must(h.v.Release(h.ctx, h.v.Main(), "s", "7"))
	h.must(h.v.Hold(h.ctx, h.v.Main(), "s", "more"))
}
