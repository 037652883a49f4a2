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
		out, err := h.v.Sizes(false).Snapshots(h.ctx, m)
		h.must(err)
		return out
	}
	u := usage()
	near(t, "snapshot 1 used", u[0].Used, file) // a1
	near(t, "snapshot 1 written", *u[0].Written, 2*file)
	near(t, "snapshot 2 used", u[1].Used, file) // a2; b1 is in both
	near(t, "snapshot 1 refers to", *u[0].Refer, 2*file)
	near(t, "snapshot 2 refers to", *u[1].Refer, 2*file)
	near(t, "snapshot 2 written", *u[1].Written, file)
	both, err := h.v.WouldFree(h.ctx, m, []string{"1", "2"})
	h.must(err)
	near(t, "both together", both, 3*file)

	// A fork owns what it writes.
	f := h.fork(m, "f")
	h.idle()
	fork := func() ForkUsage {
		t.Helper()
		h.idle()
		u, err := h.v.Sizes(false).Fork(h.ctx, f)
		h.must(err)
		return u
	}
	near(t, "a new fork owns", *fork().Own, 0)
	near(t, "a new fork shares", *fork().Shared, file)
	h.write(f, a, "f")
	near(t, "the fork owns", *fork().Own, file)
	near(t, "the fork shares", *fork().Shared, 0)

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

func TestWhatClonesShareIsFreedWithTheLastOfThem(t *testing.T) {
	const file = 64 << 10
	h := newHistory(t)
	m := h.v.Main()
	a := h.create(m, "a")
	b := h.create(m, "b")
	h.idle()
	h.clone(m, a, m, b)
	h.snapshot(m, "1")
	used := func(want uint64) {
		t.Helper()
		h.idle()
		u, err := h.v.Sizes(false).Snapshots(h.ctx, m)
		h.must(err)
		near(t, "snapshot 1 refers to", *u[0].Refer, 2*file)
		near(t, "snapshot 1 used", u[0].Used, want)
		n, err := h.v.WouldFree(h.ctx, m, []string{"1"})
		h.must(err)
		near(t, "deleting it would free", n, want)
	}
	used(0)
	h.remove(m, a)
	used(0) // b has it
	h.remove(m, b)
	used(file)
	h.fork(m, "f")
	f, err := h.v.CreateFork(h.ctx, h.v.Snapshots(m)[0], "g")
	h.must(err)
	used(0) // the fork keeps it
	u, err := h.v.Sizes(false).Fork(h.ctx, f)
	h.must(err)
	near(t, "the fork shares", *u.Shared, 2*file)
}

// What takes long to count is unknown until somebody wants it, and known then.
func TestSizesAreCountedOnceAndWithinBounds(t *testing.T) {
	const file = 64 << 10
	h := newHistory(t)
	m := h.v.Main()
	for range 3 {
		h.create(m, "x")
	}
	h.snapshot(m, "1")
	f := h.fork(m, "f")
	h.write(m, h.create(m, "y"), "z")
	h.snapshot(m, "2")
	h.idle()
	poor := func() *Sizes {
		c := h.v.Sizes(false)
		c.heads = 3
		return c
	}
	u, err := poor().Snapshots(h.ctx, m)
	h.must(err)
	if u[0].Refer != nil || u[0].Written != nil || u[1].Refer != nil {
		t.Errorf("with few heads to read: %+v, want unknown sizes", u)
	}
	o, err := poor().Fork(h.ctx, f)
	h.must(err)
	if o.Refer != nil || o.Shared != nil || o.Own == nil || *o.Own != 0 {
		t.Errorf("with few heads to read: %+v, want an own size of 0 alone", o)
	}
	if _, err := h.v.Sizes(true).Snapshots(h.ctx, m); err != nil {
		t.Fatal(err)
	}
	h.idle()
	h.must(h.v.Close(h.ctx))
	h.open()
	m = h.v.Main()
	none := h.v.Sizes(false)
	none.heads = 0
	u, err = none.Snapshots(h.ctx, m)
	h.must(err)
	near(t, "snapshot 1 refers to", *u[0].Refer, 3*file)
	near(t, "snapshot 2 refers to", *u[1].Refer, 4*file)
	near(t, "snapshot 2 has written", *u[1].Written, file)
	f, err = h.v.Fork(m, "f")
	h.must(err)
	o, err = poor().Fork(h.ctx, f)
	h.must(err)
	near(t, "the fork shares", *o.Shared, 3*file)
}
