package snap

import (
	"time"

	"dcfs/dcdb"
)

// pressure decides how much the reclaimer may give way to operations. A large
// deletion may take its time; but when more and more is waiting, what is deleted
// must be reclaimed as fast as it is deleted.
type pressure struct {
	at   time.Time
	had  int
	load int
}

const (
	pressureEvery = 5 * time.Second
	pressureUp    = dcdb.MaxLoad / 4
	pressureDown  = dcdb.MaxLoad / 20
)

// look counts what is waiting, now and then, and sets the load.
func (p *pressure) look(now time.Time, waiting func() int, set func(int)) {
	if now.Sub(p.at) < pressureEvery {
		return
	}
	n := waiting()
	switch {
	case n == 0 || now.Sub(p.at) > 10*pressureEvery:
		p.load = 0
	case n > p.had:
		p.load = min(p.load+pressureUp, dcdb.MaxLoad)
	case n < p.had:
		p.load = max(p.load-pressureDown, 0)
	}
	p.at, p.had = now, n
	set(p.load)
}

// pending is how much waits for the reclaimer: deleted snapshots, forks to be cut,
// and trees.
func (v *Volume) pending() (n int) {
	v.space.Locked(func() { n = len(v.tasks) })
	return n + v.trees.count()
}
