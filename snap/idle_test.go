package snap

import (
	"context"
	"fmt"
	"testing"
	"time"

	"dcfs/dcdb/store"
)

// TestWaitIdleEndsWhileFilesAreOverwritten: there is always something to be erased,
// for each time that something is erased a file was overwritten before.
func TestWaitIdleEndsWhileFilesAreOverwritten(t *testing.T) {
	h := newHistory(t)
	h.must(h.v.Close(h.ctx))
	var fault *store.Fault
	h.wrap = func(st store.Store) store.Store { fault = store.NewFault(st); return fault }
	h.open()
	m := h.v.Main()
	ino, n := h.create(m, "0"), 0
	h.snapshot(m, "s")
	fault.Before(func(op store.Op) {
		if op == store.OpDelete {
			n++
			h.write(m, ino, fmt.Sprint(n))
			h.v.space.SyncAll(h.ctx)
		}
	})
	for range 2 { // what is overwritten now no snapshot needs
		h.write(m, ino, "again")
	}
	h.must(h.v.DeleteSnapshot(h.ctx, m, "s"))
	ctx, cancel := context.WithTimeout(h.ctx, 10*time.Second)
	defer cancel()
	if err := h.v.WaitIdle(ctx); err != nil {
		t.Errorf("the wait did not end: %v", err)
	}
	if h.v.space.Erasing() == 0 {
		t.Error("there was nothing to be erased")
	}
	fault.Before(nil)
	h.must(h.v.WaitIdle(h.ctx))
	h.objects(1)
}
