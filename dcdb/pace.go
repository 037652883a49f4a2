package dcdb

import (
	"context"
	"sync/atomic"
	"time"
)

// pace has background work give way to operations while there are any.
type pace struct {
	ops   atomic.Int64 // that began
	seen  atomic.Int64 // when there was one at last, in nanoseconds since paceBegan
	last  atomic.Int64 // ops at that time
	hurry atomic.Int32 // those who wait for the background
	load  atomic.Int32 // of MaxLoad, how much work is waiting
}

const (
	// MaxLoad is for background work that must not wait any longer.
	MaxLoad = 100

	// busyFor is how long after an operation the volume counts as in use.
	busyFor = 200 * time.Millisecond
	// restTimes its own time is what background work rests after each step, up
	// to restMost.
	restTimes = 4
	restMost  = 500 * time.Millisecond
	// lazyFor is how long a piece of background work waits for its group to be
	// closed for another reason, if the interval of commits is not much
	// shorter: each group more has operations copy what it froze.
	lazyFor = 250 * time.Millisecond
	// nearlyFull bytes are left, and reclaiming has priority.
	nearlyFull = 128 << 20
)

// paceBegan is what times are counted from: the clock on the wall may be set
// back, and background work must not rest for as long as that.
var paceBegan = time.Now()

// begin notes an operation.
func (p *pace) begin() { p.ops.Add(1) }

// busy reports whether there was an operation lately.
func (p *pace) busy(now time.Time) bool {
	if n := p.ops.Load(); p.last.Swap(n) != n {
		p.seen.Store(int64(now.Sub(paceBegan)))
	}
	return now.Sub(paceBegan)-time.Duration(p.seen.Load()) < busyFor
}

// Hurry has background work run at full speed until end is called.
func (s *Space) Hurry() (end func()) {
	s.pace.hurry.Add(1)
	return func() { s.pace.hurry.Add(-1) }
}

// SetLoad tells how much work waits for the background, from 0 to MaxLoad. The
// more it is, the less background work gives way: what is deleted at full speed
// must be reclaimed as fast.
func (s *Space) SetLoad(load int) { s.pace.load.Store(int32(max(0, min(load, MaxLoad)))) }

// patience returns d, less of it the more work is waiting, and none if nobody
// would notice.
func (s *Space) patience(d time.Duration) time.Duration {
	p := &s.pace
	if p.hurry.Load() > 0 || !p.busy(time.Now()) || s.space.scarce() {
		return 0
	}
	return d * time.Duration(MaxLoad-p.load.Load()) / MaxLoad
}

// scarce reports whether little space is left, as far as is known.
func (r *room) scarce() bool {
	return r.free != nil && r.asked.Load() != 0 && r.left.Load() < nearlyFull
}

// rest is a pause of background work after a step that took so long.
func (s *Space) rest(took time.Duration) {
	const look = 20 * time.Millisecond
	d := s.patience(min(took*restTimes, restMost))
	for end := time.Now().Add(d); d > 0; d = min(time.Until(end), s.patience(restMost)) {
		select {
		case <-time.After(min(d, look)):
		case <-s.stop:
			return
		}
	}
}

// lazily waits for a group that nobody is in a hurry for, but not for long.
func (s *Space) lazily(ctx context.Context, g *group) {
	const look = 20 * time.Millisecond
	whole := min(lazyFor, s.o.Interval/2)
	for began := time.Now(); ; {
		d := s.patience(whole) - time.Since(began)
		if d <= 0 {
			return
		}
		select {
		case <-g.done:
			return
		case <-time.After(min(d, look)):
		case <-ctx.Done():
			return
		case <-s.stop:
			return
		}
	}
}
