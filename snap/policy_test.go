package snap

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPoliciesAreWrittenAsTheyAreRead(t *testing.T) {
	for s, want := range map[string]Policy{
		"24h7d4w": {24, 7, 4}, "none": {}, "1y": {4: 1}, "12M10y": {3: 12, 4: 10}, "4w7d24h": {24, 7, 4}, "10000h": {10000},
	} {
		p, err := ParsePolicy(s)
		if err != nil || p != want {
			t.Errorf("%q: %v, %v, want %v", s, p, err, want)
		}
		if again, err := ParsePolicy(p.String()); err != nil || again != p {
			t.Errorf("%q is written %q", s, p)
		}
	}
	if got := (Policy{24, 7, 4, 12, 10}).String(); got != "24h7d4w12M10y" {
		t.Error(got)
	}
	for _, s := range []string{"", "24", "h", "0h", "24h24h", "6m", "24H", "-1h", "1.5h", "10001d", "99999999999h", "24h 7d", "none1h", "1s", "1h,2d"} {
		if p, err := ParsePolicy(s); !errors.Is(err, ErrPolicy) {
			t.Errorf("%q: %v, %v, want an error", s, p, err)
		}
	}
}

// TestPeriodsFollowEachOther: each time is in the period that begins before it, and
// not in the next.
func TestPeriodsFollowEachOther(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 20000 {
		at := time.Unix(rnd.Int64N(1<<34)-1<<32, rnd.Int64N(1e9)) // 1833 to 2378
		for _, p := range periods {
			n := p.number(at)
			if p.begin(n).After(at) || !p.begin(n+1).After(at) || p.number(p.begin(n)) != n || p.number(p.begin(n+1).Add(-1)) != n {
				t.Fatalf("%v is in %c %d, which begins %v, the next one %v", at.UTC(), p.letter, n, p.begin(n).UTC(), p.begin(n+1).UTC())
			}
		}
	}
	at := time.Date(2026, 11, 25, 21, 37, 0, 0, time.UTC) // a Wednesday
	for i, want := range []string{"2026-11-25T21:00:00Z", "2026-11-25T00:00:00Z", "2026-11-23T00:00:00Z", "2026-11-01T00:00:00Z", "2026-01-01T00:00:00Z"} {
		if got := periods[i].begin(periods[i].number(at)).UTC().Format(autoTime); got != want {
			t.Errorf("%c begins %s, want %s", periods[i].letter, got, want)
		}
	}
}

// chosen is Keep said another way: a snapshot is kept if it is the last one of its
// period, and fewer than the policy's number of periods are later.
func chosen(p Policy, times []time.Time) []bool {
	keep := make([]bool, len(times))
	for i, t := range times {
		for u, n := range p {
			later := map[int64]bool{}
			for _, o := range times[:i] {
				later[periods[u].number(o)] = true
			}
			if !later[periods[u].number(t)] && len(later) < int(n) {
				keep[i] = true
			}
		}
	}
	return keep
}

func randomPolicy(rnd *rand.Rand) (p Policy) {
	for p.None() {
		for i := range p {
			if rnd.IntN(2) == 0 {
				p[i] = uint32(rnd.IntN(8))
			}
		}
	}
	return p
}

// TestWhatAPolicyKeeps holds Keep to its rules for random policies and times, some
// with clocks that were set back.
func TestWhatAPolicyKeeps(t *testing.T) {
	steps := []time.Duration{time.Minute, 20 * time.Minute, time.Hour, 7 * time.Hour, 24 * time.Hour, 5 * 24 * time.Hour, 100 * 24 * time.Hour}
	for seed := range uint64(3000) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		p := randomPolicy(rnd)
		back := seed%3 == 0
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		var times []time.Time
		for range 1 + rnd.IntN(60) {
			step := time.Duration(rnd.Int64N(int64(2 * steps[rnd.IntN(len(steps))])))
			if back && rnd.IntN(5) == 0 {
				step = -step
			}
			at = at.Add(step)
			times = append(times, at)
		}
		slices.Reverse(times)
		keep := p.Keep(times)
		fail := func(what string) {
			t.Helper()
			var b strings.Builder
			for i, at := range times {
				b.WriteString("\n" + at.Format(autoTime))
				if keep[i] {
					b.WriteString(" kept")
				}
			}
			t.Fatalf("seed %d, %v: %s%s", seed, p, what, b.String())
		}
		if !keep[0] {
			fail("the newest goes")
		}
		var left []time.Time
		for i := range times {
			if keep[i] {
				left = append(left, times[i])
			}
		}
		most := uint32(0)
		for _, n := range p {
			most += n
		}
		if len(left) > int(most) {
			fail("more are kept than the policy has")
		}
		if slices.Contains(p.Keep(left), false) {
			fail("of what is kept, not all is kept")
		}
		if !back && !slices.Equal(keep, chosen(p, times)) {
			fail("what is kept is not the newest of each of the last periods")
		}
		// What is held stays besides; that changes nothing for the others.
		held := make([]bool, len(times))
		var more []time.Time
		var want []bool
		for i := range times {
			held[i] = rnd.IntN(4) == 0
			if keep[i] || held[i] {
				more, want = append(more, times[i]), append(want, keep[i])
			}
		}
		if !slices.Equal(p.Keep(more), want) {
			fail("what is held changes what is kept besides")
		}
	}
}
