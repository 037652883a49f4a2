package snap

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// A timed history has a clock of its own, which stands still unless it is set.
type timed struct {
	*history
	c     *Clock
	inUse map[*View]error // forks that the hook finds in use
	gone  int             // calls of the hook

	mu  sync.Mutex
	at  time.Time // guarded by mu
	log []string  // guarded by mu
}

func newTimed(t *testing.T) *timed {
	d := &timed{history: newHistory(t), inUse: map[*View]error{}, at: time.Date(2026, 11, 25, 12, 30, 0, 0, time.UTC)}
	d.history.now = d.now
	d.reopen(false)
	return d
}

func (d *timed) now() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.at
}

func (d *timed) reopen(crash bool) {
	d.t.Helper()
	d.history.reopen(crash)
	d.v.log = func(format string, args ...any) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.log = append(d.log, fmt.Sprintf(format, args...))
	}
	d.c = d.v.NewClock(ClockHooks{
		Gone:  func() { d.gone++ },
		Claim: func(w *View) (func(), error) { return func() {}, d.inUse[w] },
	})
}

// pass lets time pass; the Clock strikes then.
func (d *timed) pass(by time.Duration) time.Duration {
	d.mu.Lock()
	d.at = d.at.Add(by)
	d.mu.Unlock()
	return d.c.Step(d.ctx)
}

// has fails the test unless main has just these snapshots and forks.
func (d *timed) has(names string) {
	d.t.Helper()
	var got []string
	for _, w := range append(d.v.Snapshots(d.v.Main()), d.v.Forks(d.v.Main())...) {
		got = append(got, w.Name())
	}
	if s := strings.Join(got, " "); s != names {
		d.t.Fatalf("at %v: %q, want %q", d.now(), s, names)
	}
}

func (d *timed) snapshotFor(name string, ttl time.Duration) *View {
	d.t.Helper()
	s, err := d.v.CreateSnapshotFor(d.ctx, d.v.Main(), name, ttl)
	d.must(err)
	return s
}

func (d *timed) forkFor(w *View, name string, ttl time.Duration) *View {
	d.t.Helper()
	f, err := d.v.CreateForkFor(d.ctx, w, name, ttl)
	d.must(err)
	return f
}

func TestWhatHasExpiredGoesByItself(t *testing.T) {
	d := newTimed(t)
	m := d.v.Main()
	d.snapshot(m, "stays")
	s := d.snapshotFor("hour", time.Hour)
	d.snapshotFor("day", 24*time.Hour)
	f := d.forkFor(m, "try", 2*time.Hour)
	d.snapshot(f, "s")
	if got, want := s.Expires(), d.now().Add(time.Hour); !got.Equal(want) {
		t.Fatalf("expires at %v, want %v", got, want)
	}
	if wait := d.pass(0); wait > clockLook || wait <= 0 {
		t.Errorf("the clock waits for %v", wait)
	}
	if wait := d.pass(time.Hour - time.Second); wait != time.Second {
		t.Errorf("the clock waits for %v, want 1s", wait)
	}
	d.has("stays hour day try")
	d.pass(time.Second)
	d.has("stays day try")
	if s.Err() == nil || d.gone != 1 {
		t.Errorf("%v, told %d times that something is gone", s.Err(), d.gone)
	}
	d.pass(time.Hour)
	d.has("stays day")
	d.pass(1000 * time.Hour)
	d.has("stays")
	if wait := d.pass(0); wait != clockIdle {
		t.Errorf("with nothing to wait for the clock waits for %v", wait)
	}
	d.records(keyExpiry, 0)
	if len(d.v.expiring) > 0 || len(d.log) > 0 {
		t.Errorf("left: %v, log %q", d.v.expiring, d.log)
	}
	sound(t, d.v, CheckOptions{})
}

func TestExpiryOutlivesACrashAndAPause(t *testing.T) {
	d := newTimed(t)
	d.snapshotFor("s", time.Hour)
	d.forkFor(d.v.Main(), "f", time.Hour)
	d.snapshot(d.v.Main(), "later")
	d.must(d.v.SetSnapshotTTL(d.ctx, d.v.Main(), "later", 2*time.Hour))
	d.reopen(true)
	d.pass(0)
	d.has("s later f")
	d.pass(59 * time.Minute)
	d.reopen(false)
	sound(t, d.v, CheckOptions{})
	d.has("s later f")
	d.mu.Lock()
	d.at = d.at.Add(time.Minute) // nobody serves the volume
	d.mu.Unlock()
	d.reopen(true)
	d.has("s later f")
	d.pass(0)
	d.has("later")
	d.reopen(true)
	d.has("later")
	d.pass(time.Hour)
	d.has("")
	d.idle()
	sound(t, d.v, CheckOptions{})
}

func TestTimeToLiveIsSetAndClearedLater(t *testing.T) {
	d := newTimed(t)
	m := d.v.Main()
	s := d.snapshotFor("s", time.Hour)
	f := d.fork(m, "f")
	d.pass(30 * time.Minute)
	d.must(d.v.SetSnapshotTTL(d.ctx, m, "s", time.Hour))
	d.must(d.v.SetForkTTL(d.ctx, m, "f", 2*time.Hour))
	d.must(d.v.RenameSnapshot(d.ctx, m, "s", "t"))
	d.must(d.v.RenameFork(d.ctx, m, "f", m, "g"))
	d.pass(59 * time.Minute)
	d.has("t g")
	d.must(d.v.SetSnapshotTTL(d.ctx, m, "t", 0))
	if !s.Expires().IsZero() {
		t.Error("it still expires")
	}
	d.pass(10 * time.Hour)
	d.has("t")
	if f.Err() == nil {
		t.Error("the fork is not gone")
	}
	d.records(keyExpiry, 0)
	d.is(d.v.SetForkTTL(d.ctx, m, "none", time.Hour), ErrNotExist)
	d.is(d.v.SetSnapshotTTL(d.ctx, m, "none", time.Hour), ErrNotExist)
	d.is(d.v.SetSnapshotTTL(d.ctx, m, "t", -1), ErrDuration)
	d.is(d.v.SetForkTTL(d.ctx, s, "g", 1), ErrReadOnly)
	if _, err := d.v.CreateForkFor(d.ctx, m, "x", maxTTL+1); !errors.Is(err, ErrDuration) {
		t.Errorf("a time to live of %v: %v", maxTTL+1, err)
	}
	d.has("t")
}

// TestWhatIsKeptExpiresLater: each of the reasons for which something stays is
// logged once, and when it has gone the thing goes too.
func TestWhatIsKeptExpiresLater(t *testing.T) {
	d := newTimed(t)
	m := d.v.Main()
	d.snapshotFor("held", time.Minute)
	d.must(d.v.Hold(d.ctx, m, "held", DefaultTag))
	lists := d.forkFor(m, "lists", time.Minute)
	d.fork(lists, "below")
	mounted := d.forkFor(m, "mounted", time.Minute)
	d.inUse[mounted] = errors.New("it is mounted at /x")
	holds := d.forkFor(m, "holds", time.Minute)
	d.snapshot(holds, "s")
	d.must(d.v.Hold(d.ctx, holds, "s", "tag"))
	for range 3 {
		if wait := d.pass(time.Hour); wait > clockRetry {
			t.Errorf("the clock waits for %v", wait)
		}
	}
	d.has("held holds lists mounted")
	if len(d.log) != 4 || !strings.Contains(strings.Join(d.log, "\n"), `fork "mounted" has expired and stays for now: it is mounted at /x`) {
		t.Errorf("log:\n%s", strings.Join(d.log, "\n"))
	}
	d.must(d.v.SetForkTTL(d.ctx, m, "lists", 30*24*time.Hour))

	<-d.v.clock // what was done before
	woken := func(what string) {
		t.Helper()
		select {
		case <-d.v.clock:
		default:
			t.Errorf("%s does not wake the clock", what)
		}
		d.pass(0)
		select {
		case <-d.v.clock:
		default:
		}
	}
	d.must(d.v.Release(d.ctx, m, "held", DefaultTag))
	woken("a release")
	d.has("holds lists mounted")
	d.must(d.v.Release(d.ctx, holds, "s", "tag"))
	woken("a release")
	d.has("lists mounted")
	d.must(d.v.SetForkTTL(d.ctx, m, "lists", time.Nanosecond))
	woken("a new expiry")
	d.pass(time.Second)
	d.has("lists mounted")
	d.must(d.v.DeleteFork(d.ctx, lists, "below"))
	woken("the end of a fork")
	d.has("mounted")
	delete(d.inUse, mounted)
	d.pass(0)
	d.has("")
	if len(d.c.told) > 0 {
		t.Errorf("the clock still knows %v", d.c.told)
	}
	d.records(keyExpiry, 0)
}

// TestForksExpireFromBelow: forks that expire together go together, whatever lists
// them.
func TestForksExpireFromBelow(t *testing.T) {
	d := newTimed(t)
	w := d.v.Main()
	for i := range 6 {
		w = d.forkFor(w, fmt.Sprint("f", i), time.Minute)
	}
	d.pass(time.Hour)
	d.has("")
	if len(d.log) > 0 {
		t.Errorf("log: %q", d.log)
	}
	d.idle()
	sound(t, d.v, CheckOptions{})
}

// TestClockThatIsSet: forward, what expires by it is gone; back, it stays for as
// much longer.
func TestClockThatIsSet(t *testing.T) {
	d := newTimed(t)
	d.snapshotFor("hour", time.Hour)
	d.snapshotFor("week", 7*24*time.Hour)
	d.pass(-2 * time.Hour)
	d.has("hour week")
	d.pass(2 * time.Hour)
	d.has("hour week")
	d.pass(2 * time.Hour)
	d.has("week")
	d.pass(-365 * 24 * time.Hour)
	d.has("week")
	d.pass(2 * 365 * 24 * time.Hour)
	d.has("")
}

func TestRunningClockHearsOfWhatExpires(t *testing.T) {
	h := newHistory(t)
	m := h.v.Main()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.v.NewClock(ClockHooks{}).Run(h.ctx)
	}()
	s, err := h.v.CreateSnapshotFor(h.ctx, m, "s", 20*time.Millisecond)
	h.must(err)
	for s.Err() == nil { // the test's own limit ends it
		time.Sleep(time.Millisecond)
	}
	f := h.fork(m, "f")
	h.must(h.v.SetForkTTL(h.ctx, m, "f", time.Millisecond))
	for f.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	h.cancel()
	<-ended
}

func TestDurations(t *testing.T) {
	day := 24 * time.Hour
	for s, want := range map[string]time.Duration{
		"90m": 90 * time.Minute, "2d": 2 * day, "1w": 7 * day, "1w2d3h4m5s": 9*day + 3*time.Hour + 4*time.Minute + 5*time.Second,
		"1.5d": 36 * time.Hour, "0.5w": 84 * time.Hour, "0": 0, "0d": 0, "100ms": 100 * time.Millisecond, "36600d": maxTTL,
	} {
		if got, err := ParseDuration(s); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "5", "d", "1x", "-1h", "1h-1m", "1D", "1W", "36601d", "99999999w", "1e3h", "1 d", "1d ", "1dd", "1.2.3d", "18250d18351d", "1M", "1y", "+1h", "none"} {
		if got, err := ParseDuration(s); !errors.Is(err, ErrDuration) {
			t.Errorf("%q: %v, %v, want an error", s, got, err)
		}
	}
}
