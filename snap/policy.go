package snap

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A Policy says how many automatic snapshots of a fork are kept: of each of so
// many hours, days, weeks, months and years that have one, the newest. Periods
// without a snapshot do not count, so what is kept depends on the snapshots alone,
// not on the time at which that is asked. The zero Policy is none.
type Policy [5]uint32

// maxKept is how many of a period a Policy may keep.
const maxKept = 10_000

// ErrPolicy: a policy that makes no sense.
var ErrPolicy = errors.New("a policy is like 24h7d4w: how many hours (h), days (d), weeks (w), months (M) and years (y) have their newest snapshot kept, each 1 to 10000")

// periods are those of a Policy, the shortest first, in UTC: how each is written,
// the number of the one that a time is in, and when a number begins. A week begins
// on Monday. Months are M: m is minutes wherever else a time is written.
var periods = [...]struct {
	letter byte
	number func(time.Time) int64
	begin  func(int64) time.Time
}{
	{'h', func(t time.Time) int64 { return floorDiv(t.Unix(), hourSeconds) }, func(n int64) time.Time { return time.Unix(n*hourSeconds, 0) }},
	{'d', dayOf, func(n int64) time.Time { return time.Unix(n*daySeconds, 0) }},
	{'w', func(t time.Time) int64 { return floorDiv(dayOf(t)+mondayDays, 7) }, func(n int64) time.Time { return time.Unix((7*n-mondayDays)*daySeconds, 0) }},
	{'M', monthOf, func(n int64) time.Time { return time.Date(0, time.Month(n+1), 1, 0, 0, 0, 0, time.UTC) }},
	{'y', func(t time.Time) int64 { return floorDiv(monthOf(t), 12) }, func(n int64) time.Time { return time.Date(int(n), 1, 1, 0, 0, 0, 0, time.UTC) }},
}

const (
	hourSeconds = 3600
	daySeconds  = 24 * hourSeconds
	mondayDays  = 3 // day 0, 1970-01-01, was a Thursday
)

func dayOf(t time.Time) int64 { return floorDiv(t.Unix(), daySeconds) }

func monthOf(t time.Time) int64 {
	t = t.UTC()
	return 12*int64(t.Year()) + int64(t.Month()) - 1
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// ParsePolicy reads a policy: numbers with a letter, each letter at most once, or
// "none".
func ParsePolicy(s string) (p Policy, err error) {
	if s == "none" {
		return p, nil
	}
	bad := fmt.Errorf("%q: %w", s, ErrPolicy)
	for rest := s; rest != ""; {
		num := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
		n, err := strconv.ParseUint(num, 10, 32)
		if err != nil || n < 1 || n > maxKept || len(rest) == len(num) {
			return Policy{}, bad
		}
		i := 0
		for i < len(periods) && periods[i].letter != rest[len(num)] {
			i++
		}
		if i == len(periods) || p[i] != 0 {
			return Policy{}, bad
		}
		p[i] = uint32(n)
		rest = rest[len(num)+1:]
	}
	if p.None() {
		return p, bad
	}
	return p, nil
}

// None reports whether p is no policy.
func (p Policy) None() bool { return p == Policy{} }

// String writes p as ParsePolicy reads it, the shortest period first.
func (p Policy) String() string {
	if p.None() {
		return "none"
	}
	var b strings.Builder
	for i, n := range p {
		if n > 0 {
			fmt.Fprintf(&b, "%d%c", n, periods[i].letter)
		}
	}
	return b.String()
}

// Keep says of each of a number of snapshots, by their times, whether p keeps it.
// The one that was taken last comes first: that its time is the latest is not
// certain, where the clock was set back. What lies between two of one period is
// then a period of its own, and the last one taken is kept in any case.
func (p Policy) Keep(times []time.Time) []bool {
	keep := make([]bool, len(times))
	for i, left := range p {
		var before int64 // the period of the one before
		for j, t := range times {
			n := periods[i].number(t)
			if j > 0 && n == before {
				continue
			}
			if left == 0 {
				break
			}
			before, keep[j] = n, true
			left--
		}
	}
	return keep
}

// slot is the shortest period of a policy that a time is in: one automatic
// snapshot is taken in each.
type slot struct {
	period int
	number int64
}

func (p Policy) slot(t time.Time) slot {
	for i, n := range p {
		if n > 0 {
			return slot{i, periods[i].number(t)}
		}
	}
	return slot{}
}

// end returns when the next slot begins.
func (s slot) end() time.Time { return periods[s.period].begin(s.number + 1).UTC() }

func (p Policy) encode() []byte {
	nums := make([]uint64, len(p))
	for i, n := range p {
		nums[i] = uint64(n)
	}
	return encode(nums...)
}

func decodePolicy(val []byte) (p Policy, err error) {
	r := newReader(val)
	for i := range p {
		if p[i] = r.u32(); p[i] > maxKept {
			r.fail()
		}
	}
	if p.None() {
		r.fail()
	}
	return p, r.end()
}
