package snap

import (
	"testing"
	"time"

	"dcfs/dcdb"
)

// TestPressureGrowsWithTheBacklog: a large deletion takes its time, but not while
// more and more is waiting.
func TestPressureGrowsWithTheBacklog(t *testing.T) {
	var p pressure
	now, load := time.Unix(1000, 0), 0
	run := func(what string, from, step, times, least, most int) {
		t.Helper()
		for i := range times {
			now = now.Add(pressureEvery)
			p.look(now, func() int { return from + i*step }, func(l int) { load = l })
		}
		if load < least || load > most {
			t.Errorf("%s: the load is %d, want %d to %d", what, load, least, most)
		}
	}
	run("one task that lasts", 1, 0, 20, 0, pressureUp)
	run("1,000 that become less", 1000, -1, 20, 0, pressureUp)
	run("more and more", 1, 1, 20, dcdb.MaxLoad, dcdb.MaxLoad)
	run("it does not become more", 20, 0, 20, dcdb.MaxLoad, dcdb.MaxLoad)
	run("less and less", 100, -1, 30, 0, 0)
	run("more again", 1, 5, 10, dcdb.MaxLoad, dcdb.MaxLoad)
	run("nothing", 0, 0, 1, 0, 0)
}
