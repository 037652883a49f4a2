package dcdb

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestBackgroundDoesNotWaitBehindData: while the bound of dirty data is passed, who
// brings none goes on: the eraser, that is, or what is overwritten stays.
func TestBackgroundDoesNotWaitBehindData(t *testing.T) {
	ts := newTestSpace(t, Options{})
	ts.Exclusive(func() { ts.dirty += ts.o.DirtyBytes + 2<<30 })
	defer ts.Exclusive(func() { ts.dirty -= ts.o.DirtyBytes + 2<<30 })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := ts.Meta(ctx, true, func(m *Meta) error { m.Put([]byte("k"), []byte("v")); return nil }); err != nil {
		t.Errorf("meta: %v", err)
	}
	if err := ts.Work(ctx, 1, 1, 10, func(context.Context, *Builder) error { return nil }); err != nil {
		t.Errorf("work: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if err := ts.Update(short, func(*Tx) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("update: got %v, want it to wait", err)
	}
}

// TestBackgroundGivesWay asks how long background work waits, as there are
// operations, others that wait for it, and much to do.
func TestBackgroundGivesWay(t *testing.T) {
	ts := newTestSpace(t, Options{})
	busy := func() { // and nobody has looked since long ago
		ts.pace.begin()
		ts.pace.seen.Store(-int64(time.Hour))
	}
	const d = time.Second
	want := func(when string, want time.Duration) {
		t.Helper()
		if got := ts.patience(d); got != want {
			t.Errorf("%s: got %v, want %v", when, got, want)
		}
	}
	ts.pace.busy(time.Now())
	ts.pace.seen.Store(-int64(time.Hour))
	want("at rest", 0)
	busy()
	want("in use", d)
	ts.SetLoad(MaxLoad / 4)
	busy()
	want("some load", d*3/4)
	ts.SetLoad(MaxLoad)
	busy()
	want("much load", 0)
	ts.SetLoad(0)
	end := ts.Hurry()
	busy()
	want("somebody waits", 0)
	end()
	busy()
	want("nobody waits any more", d)
	ts.space.free = func(context.Context) (uint64, error) { return nearlyFull - 1, nil }
	ts.askRoom(context.Background(), 0)
	busy()
	want("nearly full", 0)
}
