package snap

import (
	"testing"
)

// near checks a number of bytes that heads and pages are in besides contents.
func near(t *testing.T, what string, got, contents uint64) {
	t.Helper()
	if got < contents || got > contents+16<<10 {
		t.Errorf("%s: %d bytes, want %d and a little", what, got, contents)
	}
}

func TestUsageTellsWhatDeletingFrees(t *testing.T) {
	const file = 64 << 10
	h := newHistory(t)
	m := h.v.Main()
	a, b := h.create(m, "a1"), h.create(m, "b1")
	h.snapshot(m, "1")
	h.write(m, a, "a2")
	h.snapshot(m, "2")
	h.write(m, a, "a3")
	h.remove(m, b)
	h.idle()
	usage := func() (out []SnapshotUsage) {
		t.Helper()
		h.idle()
		out, err := h.v.SnapshotUsages(h.ctx, m)
		h.must(err)
		return out
	}
	u := usage()
	near(t, "snapshot 1 used", u[0].Used, file) // a1
	near(t, "snapshot 1 written", u[0].Written, 2*file)
	near(t, "snapshot 2 used", u[1].Used, file) // a2; b1 is in both
	near(t, "snapshot 2 written", u[1].Written, file)
	both, err := h.v.WouldFree(h.ctx, m, []string{"1", "2"})
	h.must(err)
	near(t, "both together", both, 3*file)

	// A fork owns what it writes.
	f := h.fork(m, "f")
	h.idle()
	own, err := h.v.OwnBytes(h.ctx, f)
	h.must(err)
	near(t, "a new fork owns", own, 0)
	h.write(f, a, "f")
	h.idle()
	own, err = h.v.OwnBytes(h.ctx, f)
	h.must(err)
	near(t, "the fork owns", own, file)

	// What is said is what comes back.
	objects := func() (bytes uint64) {
		t.Helper()
		r := sound(t, h.v, CheckOptions{})
		return r.Bytes
	}
	before := objects()
	h.dropSnapshot(m, "1")
	if freed := before - objects(); freed < file || freed > u[0].Used {
		t.Errorf("deleting snapshot 1 frees %d bytes, it used %d", freed, u[0].Used)
	}
	near(t, "snapshot 2 used afterwards", usage()[0].Used, 2*file) // a2 and b1
	if _, err := h.v.WouldFree(h.ctx, m, []string{"2", "none"}); err == nil {
		t.Error("a snapshot that does not exist would free nothing; want an error")
	}
}
