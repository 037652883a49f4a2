package snap

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// autoNames returns the names of main's automatic snapshots, the oldest first.
func (d *timed) autoNames() (names []string) {
	for _, w := range d.v.Snapshots(d.v.Main()) {
		if IsAuto(w.Name()) {
			names = append(names, w.Name())
		}
	}
	return names
}

// autos fails the test unless main has just these automatic snapshots.
func (d *timed) autos(want ...string) {
	d.t.Helper()
	for i, s := range want {
		want[i] = autoPrefix + s
	}
	if got := d.autoNames(); !slices.Equal(got, want) {
		d.t.Fatalf("at %v: automatic snapshots %q, want %q", d.now(), got, want)
	}
}

func (d *timed) policy(text string) {
	d.t.Helper()
	p, err := ParsePolicy(text)
	d.must(err)
	d.must(d.v.SetPolicy(d.ctx, d.v.Main(), p))
}

func TestAutomaticSnapshotsAreTakenOnceAnHour(t *testing.T) {
	d := newTimed(t) // at 12:30
	m := d.v.Main()
	ino := d.create(m, "A")
	if wait := d.pass(0); wait != clockIdle {
		t.Errorf("without a policy the clock waits for %v", wait)
	}
	d.autos()
	d.policy("3h2d")
	d.pass(0)
	d.autos("2026-11-25T12:30:00Z") // at once: there was none
	for range 29 {
		d.write(m, ino, "B")
		d.pass(time.Minute)
	}
	d.autos("2026-11-25T12:30:00Z")
	if wait := d.pass(30 * time.Second); wait != 30*time.Second {
		t.Errorf("half a minute before the hour the clock waits for %v", wait)
	}
	d.pass(30 * time.Second)
	d.pass(5 * time.Minute)
	d.autos("2026-11-25T12:30:00Z", "2026-11-25T13:00:00Z")

	// Nothing changes: no snapshot. When it does, the next hour has one.
	for range 20 {
		d.pass(10 * time.Minute)
	}
	d.autos("2026-11-25T12:30:00Z", "2026-11-25T13:00:00Z")
	d.write(m, ino, "C")
	d.pass(10 * time.Minute) // 16:35
	d.autos("2026-11-25T12:30:00Z", "2026-11-25T13:00:00Z")
	d.pass(30 * time.Minute)
	d.autos("2026-11-25T12:30:00Z", "2026-11-25T13:00:00Z", "2026-11-25T17:05:00Z")

	// One that is deleted is not missed before the next hour; what is the same as
	// the last one then is not the same as none.
	for _, name := range d.autoNames() {
		d.must(d.v.DeleteSnapshot(d.ctx, m, name))
	}
	d.pass(time.Hour)
	d.autos("2026-11-25T18:05:00Z")
	if len(d.log) > 0 {
		t.Errorf("log: %q", d.log)
	}
	d.idle()
	sound(t, d.v, CheckOptions{})
}

// TestMissedSlotsAreTakenOnce: whatever the time in which nobody serves the volume,
// one snapshot is taken after it.
func TestMissedSlotsAreTakenOnce(t *testing.T) {
	d := newTimed(t)
	ino := d.create(d.v.Main(), "A")
	d.policy("24h")
	d.pass(0)
	d.write(d.v.Main(), ino, "B")
	d.must(d.v.space.SyncAll(d.ctx))
	d.reopen(true)
	d.pass(0) // the slot has one
	d.autos("2026-11-25T12:30:00Z")
	d.reopen(false)
	d.pass(50 * time.Hour)
	d.pass(time.Minute)
	d.autos("2026-11-25T12:30:00Z", "2026-11-27T14:30:00Z")
	d.reopen(true)
	d.write(d.v.Main(), ino, "C")
	d.pass(time.Minute)
	d.autos("2026-11-25T12:30:00Z", "2026-11-27T14:30:00Z")
	if r, err := d.v.Retention(d.v.Main()); err != nil || r.Policy != (Policy{24}) || r.Autos != 2 || !r.Next.Equal(time.Date(2026, 11, 27, 15, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestPolicyThinsWhatItTook runs some weeks of a policy, hour by hour.
func TestPolicyThinsWhatItTook(t *testing.T) {
	d := newTimed(t)
	m := d.v.Main()
	ino := d.create(m, "A")
	d.snapshot(m, "mine")
	d.snapshot(m, "auto-mine")
	d.policy("4h3d2w")
	var held string
	for i := range 24 * 20 {
		d.write(m, ino, "B")
		d.pass(time.Hour)
		switch i {
		case 100:
			held = d.autoNames()[0]
			d.must(d.v.Hold(d.ctx, m, held, DefaultTag))
		case 200:
			d.must(d.v.RenameSnapshot(d.ctx, m, d.autoNames()[2], "rescued"))
		}
	}
	// 20 days after Wednesday, 12:30: the last hours, days and weeks of that
	// Tuesday; and what is held.
	want := []string{held, "auto-2026-12-13T23:30:00Z", "auto-2026-12-14T23:30:00Z"}
	for _, h := range []string{"09", "10", "11", "12"} {
		want = append(want, "auto-2026-12-15T"+h+":30:00Z")
	}
	if got := d.autoNames(); !slices.Equal(got, want) {
		t.Errorf("left: %q\nwant %q", got, want)
	}
	for _, name := range []string{"mine", "auto-mine", "rescued"} {
		if _, err := d.v.Snapshot(m, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if names, err := d.v.Thin(d.ctx, m); err != nil || len(names) > 0 {
		t.Errorf("thinning once more deletes %q, %v", names, err)
	}
	d.idle()
	sound(t, d.v, CheckOptions{})
	if len(d.log) > 0 {
		t.Errorf("log: %q", d.log)
	}
}

func TestThinningTellsBeforeWhatItDoes(t *testing.T) {
	d := newTimed(t)
	m := d.v.Main()
	ino := d.create(m, "A")
	d.policy("100h")
	for range 5 {
		d.write(m, ino, "B")
		d.pass(time.Hour)
	}
	all := d.autoNames()
	d.write(m, ino, "C")
	if names, bytes, err := d.v.WouldThin(d.ctx, m); err != nil || len(names) > 0 || bytes > 0 {
		t.Errorf("would delete %q, %d bytes, %v", names, bytes, err)
	}
	d.policy("2h") // thins nothing before the next snapshot, or before it is asked to
	d.pass(time.Minute)
	if got := d.autoNames(); !slices.Equal(got, all) {
		t.Fatalf("left: %q", got)
	}
	names, bytes, err := d.v.WouldThin(d.ctx, m)
	if err != nil || !slices.Equal(names, all[:3]) {
		t.Fatalf("would delete %q, %v, want %q", names, err, all[:3])
	}
	near(t, "freed", bytes, 3*64<<10)
	if got := d.autoNames(); !slices.Equal(got, all) {
		t.Fatalf("left: %q", got)
	}
	if names, err := d.v.Thin(d.ctx, m); err != nil || !slices.Equal(names, all[:3]) {
		t.Fatalf("deleted %q, %v", names, err)
	}
	if got := d.autoNames(); !slices.Equal(got, all[3:]) {
		t.Fatalf("left: %q", got)
	}
	d.objects(3)

	s, err := d.v.Snapshot(m, all[4])
	d.must(err)
	d.is(d.v.SetPolicy(d.ctx, s, Policy{1}), ErrReadOnly)
	_, err = d.v.Thin(d.ctx, s)
	d.is(err, ErrReadOnly)
	d.policy("none")
	_, err = d.v.Thin(d.ctx, m)
	d.is(err, ErrNoPolicy)
	_, _, err = d.v.WouldThin(d.ctx, m)
	d.is(err, ErrNoPolicy)
	d.write(m, ino, "D")
	d.pass(10 * time.Hour)
	if got := d.autoNames(); !slices.Equal(got, all[3:]) {
		t.Fatalf("left: %q", got)
	}
	d.records(keyPolicy, 0)
}

// TestAutomaticSnapshotsOfAClockThatIsSet: a clock that jumps costs at most one
// snapshot, and those that are taken after it is put right stay.
func TestAutomaticSnapshotsOfAClockThatIsSet(t *testing.T) {
	d := newTimed(t)
	m := d.v.Main()
	ino := d.create(m, "A")
	d.policy("3h")
	hour := func(by time.Duration) {
		d.t.Helper()
		d.write(m, ino, "B")
		d.pass(by)
	}
	hour(0)
	hour(time.Hour)
	d.autos("2026-11-25T12:30:00Z", "2026-11-25T13:30:00Z")
	hour(-45 * time.Minute) // 12:45: the last one is as good as one of now
	hour(10 * time.Minute)
	d.autos("2026-11-25T12:30:00Z", "2026-11-25T13:30:00Z")
	hour(10 * 365 * 24 * time.Hour) // 2036-11-22
	hour(time.Minute)
	if got := d.autoNames(); len(got) != 3 || !strings.HasPrefix(got[2], "auto-2036-") {
		t.Fatalf("%q", got)
	}
	wrong := d.autoNames()[2]
	hour(-10 * 365 * 24 * time.Hour) // 12:56
	if got := d.autoNames(); !slices.Contains(got, "auto-2026-11-25T12:56:00Z") || !slices.Contains(got, wrong) || len(got) != 3 {
		t.Fatalf("%q", got)
	}
	for range 3 {
		hour(time.Hour)
	}
	d.autos("2026-11-25T13:56:00Z", "2026-11-25T14:56:00Z", "2026-11-25T15:56:00Z")
}

func TestPolicyIsAForksOwnAndGoesWithIt(t *testing.T) {
	d := newTimed(t)
	m := d.v.Main()
	d.policy("24h")
	f := d.fork(m, "f")
	d.must(d.v.SetPolicy(d.ctx, f, Policy{1: 7}))
	g := d.fork(f, "g")
	if r, err := d.v.Retention(g); err != nil || !r.Policy.None() || !r.Next.IsZero() {
		t.Errorf("a fork of one with a policy has %+v, %v", r, err)
	}
	d.pass(0)
	if n := [...]int{len(d.v.Snapshots(m)), len(d.v.Snapshots(f)), len(d.v.Snapshots(g))}; n != [...]int{1, 1, 0} {
		t.Errorf("snapshots: %v", n)
	}
	d.reopen(true)
	f, err := d.v.Fork(d.v.Main(), "f")
	d.must(err)
	if r, err := d.v.Retention(f); err != nil || r.Policy != (Policy{1: 7}) {
		t.Errorf("after a crash: %+v, %v", r, err)
	}
	d.must(d.v.DeleteForks(d.ctx, d.v.Main(), "f"))
	d.records(keyPolicy, 1)
	d.pass(24 * time.Hour)
	if len(d.log) > 0 || len(d.v.retaining) != 1 {
		t.Errorf("log: %q, policies %v", d.log, d.v.retaining)
	}
	sound(t, d.v, CheckOptions{})
}

// TestSnapshotThatFailsIsTriedAgain: it is logged once, and taken when it can be.
func TestSnapshotThatFailsIsTriedAgain(t *testing.T) {
	d := newTimed(t)
	d.policy("24h")
	var next uint32
	d.v.space.Exclusive(func() { next, d.v.nextView = d.v.nextView, maxView+1 })
	for range 5 {
		if wait := d.pass(time.Minute); wait > clockRetry {
			t.Errorf("the clock waits for %v", wait)
		}
	}
	d.autos()
	if len(d.log) != 1 || !strings.Contains(d.log[0], `fork "main" gets no automatic snapshot: too many snapshots`) {
		t.Errorf("log: %q", d.log)
	}
	d.v.space.Exclusive(func() { d.v.nextView = next })
	d.pass(time.Minute)
	if len(d.autoNames()) != 1 || len(d.c.told) > 0 {
		t.Errorf("%q, the clock still knows %v", d.autoNames(), d.c.told)
	}
}

// TestThinningInSteps: more go than one group takes.
func TestThinningInSteps(t *testing.T) {
	d := newTimed(t)
	m := d.v.Main()
	d.policy("1h")
	const n = 2*thinStep + 7
	for i := range n {
		at := d.now().Add(time.Duration(i) * time.Second)
		d.snapshot(m, autoPrefix+at.Format(autoTime))
	}
	names, err := d.v.Thin(d.ctx, m)
	if d.must(err); len(names) != n-1 || len(d.v.Snapshots(m)) != 1 {
		t.Errorf("%d were deleted, %d are left", len(names), len(d.v.Snapshots(m)))
	}
	d.idle()
	sound(t, d.v, CheckOptions{})
}

func TestAutomaticNames(t *testing.T) {
	for name, want := range map[string]bool{
		"auto-2026-11-25T21:00:00Z": true, "auto-2026-02-30T21:00:00Z": false, "auto-": false, "auto-x": false, "2026-11-25T21:00:00Z": false,
		"auto-2026-11-25T21:00:00": false, "auto-2026-11-25T21:00:00.5Z": false, "auto-2026-11-25T21:00:00Z.1": false, "auto-2026-1-25T21:00:00Z": false,
	} {
		if IsAuto(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
		if want && CheckName(name) != nil {
			t.Errorf("%s is no name", name)
		}
	}
}

// A fork that has taken its parent's place has its heads where the parent had
// them. That it changed is seen there, too.
func TestAutomaticSnapshotsOfAMergedFork(t *testing.T) {
	for _, many := range []bool{false, true} {
		d := newTimed(t)
		d.o.atOnce = 3
		d.reopen(false)
		m := d.v.Main()
		p := d.fork(m, "p")
		var inos []uint64
		for range 20 {
			inos = append(inos, d.create(p, "p"))
		}
		g := d.fork(p, "g")
		d.write(g, inos[0], "g")
		if many {
			for range 30 {
				d.create(g, "g")
			}
		}
		d.must(d.v.RenameFork(d.ctx, p, "g", m, "g"))
		d.dropFork(m, "p")
		if prefix, moving := d.place(g); moving != 0 || (prefix == g.fork.id) != many {
			t.Fatalf("the records are at %d and %d, the fork is %d", prefix, moving, g.fork.id)
		}
		policy, err := ParsePolicy("9h")
		d.must(err)
		d.must(d.v.SetPolicy(d.ctx, g, policy))
		d.pass(time.Minute)
		for i := range 3 {
			d.write(g, inos[i], "changed")
			d.pass(time.Hour)
		}
		if r, err := d.v.Retention(g); err != nil || r.Autos != 4 {
			t.Errorf("%d automatic snapshots, %v, want 4", r.Autos, err)
		}
		d.pass(time.Hour)
		if r, err := d.v.Retention(g); err != nil || r.Autos != 4 {
			t.Errorf("nothing changed: %d automatic snapshots, %v, want 4", r.Autos, err)
		}
	}
}
