package snap

import (
	"context"
	"errors"
	"maps"
	"time"
)

// How long a Clock waits, whatever there is to do.
const (
	clockRetry = 30 * time.Second // for what is in use or can't be done
	clockLook  = time.Minute      // the system's clock may be set meanwhile
	clockIdle  = time.Hour        // nothing to wait for
)

// ClockHooks are what a Clock asks of whoever serves the volume. A nil one is
// not needed.
type ClockHooks struct {
	Flush func(*View) // before a snapshot of a live view
	Gone  func()      // after a deletion

	// Claim keeps a fork that is to be deleted from being used, until let is
	// called; or it says by what it is in use.
	Claim func(w *View) (let func(), err error)
}

// A Clock does what time asks of a volume: it deletes what has expired, and takes
// automatic snapshots and thins them out. It is used by one goroutine.
type Clock struct {
	v     *Volume
	hooks ClockHooks
	told  map[matter]string // what was said last of each, so that it is said once
	seen  map[*View]slot    // for which automatic snapshots were seen to
}

// matter is what may go wrong with a view.
type matter struct {
	w    *View
	what string
}

const (
	staysMatter = "has expired and stays for now"
	autoMatter  = "gets no automatic snapshot"
)

// NewClock returns the clock of a volume; there is to be one.
func (v *Volume) NewClock(h ClockHooks) *Clock {
	if h.Flush == nil {
		h.Flush = func(*View) {}
	}
	if h.Gone == nil {
		h.Gone = func() {}
	}
	if h.Claim == nil {
		h.Claim = func(*View) (func(), error) { return func() {}, nil }
	}
	return &Clock{v: v, hooks: h, told: map[matter]string{}, seen: map[*View]slot{}}
}

// Run does what is to be done, when it is, until the context ends.
func (c *Clock) Run(ctx context.Context) {
	for ctx.Err() == nil {
		t := time.NewTimer(c.Step(ctx))
		select {
		case <-c.v.clock:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// Wake has Run look again: what was in use may be so no more.
func (c *Clock) Wake() { c.v.wakeClock() }

// wakeClock tells the Clock, if there is one, that there may be something to do.
func (v *Volume) wakeClock() {
	select {
	case v.clock <- struct{}{}:
	default:
	}
}

// Step does what is to be done now, and returns how long there will be nothing, if
// nothing changes.
func (c *Clock) Step(ctx context.Context) time.Duration {
	wait := clockIdle
	soon := func(d time.Duration) { wait = min(wait, max(d, time.Millisecond)) }
	until := func(t time.Time) {
		if !t.IsZero() {
			soon(clockLook)
			soon(t.Sub(c.v.now()))
		}
	}
	gone := false
	due, nextAuto := c.v.dueForks(c.seen)
	for _, w := range due {
		thinned, err := c.snapshot(ctx, w)
		gone = gone || thinned
		if !c.done(w, autoMatter, err) {
			soon(clockRetry)
		}
	}
	past, nextPast := c.v.expired()
	for _, w := range past { // to find out that a fork is in use takes time
		if c.done(w, staysMatter, c.expire(ctx, w)) {
			gone = true
		} else {
			soon(clockRetry)
		}
	}
	if gone {
		c.hooks.Gone()
	}
	c.forget()
	until(nextAuto)
	until(nextPast)
	return wait
}

// forget drops what is known of views that are gone.
func (c *Clock) forget() {
	maps.DeleteFunc(c.told, func(m matter, _ string) bool { return m.w.Err() != nil })
	maps.DeleteFunc(c.seen, func(w *View, _ slot) bool { return w.Err() != nil })
}

// snapshot takes an automatic snapshot of a live view, and thins those that there
// are. It reports whether some were deleted.
func (c *Clock) snapshot(ctx context.Context, w *View) (thinned bool, err error) {
	r, err := c.v.Retention(w)
	if err != nil || r.Policy.None() {
		return false, err
	}
	s := r.Policy.slot(c.v.now())
	c.hooks.Flush(w)
	made, err := c.v.autoSnapshot(ctx, w)
	if err != nil {
		return false, err
	}
	c.seen[w] = s
	if !made {
		return false, nil
	}
	names, err := c.v.Thin(ctx, w)
	if errors.Is(err, ErrNoPolicy) {
		err = nil // it was taken away meanwhile
	}
	return len(names) > 0, err
}

// expire deletes what has expired, unless it is in use. What the volume itself has
// against it is asked first: to claim a fork takes time.
func (c *Clock) expire(ctx context.Context, w *View) (err error) {
	c.v.space.Locked(func() { err = c.v.mayExpire(w) })
	if err != nil {
		return err
	}
	if !w.IsSnapshot() {
		let, err := c.hooks.Claim(w)
		if err != nil {
			return err
		}
		defer let()
	}
	return c.v.expire(ctx, w)
}

// done reports whether something came about. If not, the log tells why, once.
func (c *Clock) done(w *View, what string, err error) bool {
	about := matter{w, what}
	switch {
	case err == nil:
		delete(c.told, about)
		return true
	case ignorable(err) || errors.Is(err, ErrGone) || errors.Is(err, ErrNotDue):
		return false
	}
	kind := "fork"
	if w.IsSnapshot() {
		kind = "snapshot"
	}
	if why := err.Error(); c.told[about] != why {
		c.told[about] = why
		c.v.log("%s %q %s: %s", kind, w.Name(), what, why)
	}
	return false
}
