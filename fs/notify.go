package fs

import (
	"sync"
	"time"

	"dcfs/snap"
)

// What we tell the kernel unasked. Each such call may wait for locks that the
// kernel holds while it waits for answers of ours. So it is made in a
// goroutine of its own, which holds no lock, and whoever waits for it, waits
// in a request on which no other one depends.

const (
	// settleTime is how long a directory must have been left alone.
	settleTime = time.Second
	// goneWait is how long the deletion of a view waits for the kernel to
	// forget what it knows of it.
	goneWait = 5 * time.Second
	// yieldWait is how long a mount tries to give up a fork.
	yieldWait = 2 * time.Second
)

// writerTable counts the handles that may write, for each node: what they
// have written by mmap may be in the kernel only.
type writerTable struct {
	mu    sync.Mutex
	nodes map[uint64]int // guarded by mu
}

func (t *writerTable) add(node uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.nodes == nil {
		t.nodes = make(map[uint64]int)
	}
	t.nodes[node]++
}

func (t *writerTable) remove(node uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.nodes[node]--; t.nodes[node] <= 0 {
		delete(t.nodes, node)
	}
}

// of returns the nodes behind a door that have writers.
func (t *writerTable) of(door uint32) []uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	var nodes []uint64
	for n := range t.nodes {
		if number, _, _ := splitNode(n); number == door {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// Flush makes the kernel write back what programs have changed by mmap in the
// files of live view v, if a mount of this process serves it. It is called
// before a snapshot or fork of v.
func Flush(v *snap.View) {
	m := server(v)
	if m == nil {
		return
	}
	d := m.doors.live(v)
	if d == nil {
		return
	}
	nodes := m.writers.of(d.number)
	if len(nodes) == 0 {
		return
	}
	<-m.forgetPages(nodes)
}

// forgetPages makes the kernel write back and drop the pages of nodes, and
// ask for their attributes again. The channel is closed when that is done.
func (m *mount) forgetPages(nodes []uint64) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, n := range nodes {
			// It fails only if the kernel does not know the node any more,
			// or the mount is dead.
			m.nodes.told(n, false)
			m.kernel.InodeNotify(n, 0, 0)
		}
	}()
	return done
}

// Gone makes the kernel forget what it knows of views that were deleted, in
// every mount of this process. It returns when that is done, or takes long.
func Gone() {
	limit := time.After(goneWait)
	for _, m := range allMounts() {
		select {
		case <-m.forgetGone():
		case <-limit:
			return
		}
	}
}

// forgetGone is Gone for one mount. What is not known as a name is enough to
// forget the attributes of: every path into the view begins with a name that
// the kernel asks for each time, and whoever stands in it already asks for
// attributes at the next step.
func (m *mount) forgetGone() <-chan struct{} {
	gone := make(map[uint32]bool)
	for _, d := range append(m.doors.all(), m.own) {
		if d.view.Err() != nil {
			gone[d.number] = true
		}
	}
	if len(gone) == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	nodes := m.nodes.collect(func(node uint64) bool {
		number, _, _ := splitNode(node)
		return gone[number]
	})
	if gone[0] {
		nodes = append(nodes, nodeID(0, snap.RootIno))
	}
	return m.forgetPages(nodes)
}

// yield lets go of fork v if the kernel only remembers it, so that another
// mount can serve it. It reports whether that came about.
func (m *mount) yield(v *snap.View) bool {
	d := m.doors.live(v)
	if d == m.own {
		return false
	}
	if d != nil {
		go m.forgetNames(d)
	}
	for limit := time.Now().Add(yieldWait); time.Now().Before(limit); time.Sleep(5 * time.Millisecond) {
		if server(v) != m {
			return true
		}
	}
	return false
}

// forgetNames makes the kernel drop what it remembers of a fork and does not
// use. The name of the fork is not enough: where something below was in use
// when it was dropped once before, there is a rest that no name leads to.
func (m *mount) forgetNames(d *door) {
	m.kernel.EntryNotify(d.parent.Load(), entryName(d.view))
	for _, node := range m.nodes.collect(func(node uint64) bool { return uint32(node>>inoBits) == d.number }) {
		_, k, ino := splitNode(node)
		if k != inside {
			dir := ino
			if k == forks {
				dir = d.root
			}
			m.kernel.EntryNotify(nodeID(d.number, dir), m.nameOf(k))
			continue
		}
		if a, err := m.fs.Getattr(background, d.view, ino); err == nil && ino != d.root {
			m.kernel.EntryNotify(nodeID(d.number, a.Parent), a.Name)
		}
	}
}

// settling invalidates the attributes of a directory once more when it has
// been left alone for a while. The kernel does so by itself when the answer to
// a change comes; but attributes that were asked for before the change, mostly
// by READDIRPLUS of the directory above, and that arrive after it, it takes
// for new ones (files have a version against that, directories do not), and
// would keep them for as long as attributes may be kept.
type settling struct {
	m *mount // immutable

	mu    sync.Mutex
	dirs  map[uint64]time.Time // guarded by mu; when a node last changed
	timer *time.Timer          // guarded by mu; set while dirs is not empty
	ended bool                 // guarded by mu
}

// changed notes that the entries of a directory changed just now.
func (s *settling) changed(p place) {
	s.m.nodes.told(p.node(), false)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	if s.dirs == nil {
		s.dirs = make(map[uint64]time.Time)
	}
	s.dirs[p.node()] = time.Now()
	if s.timer == nil {
		s.timer = time.AfterFunc(settleTime, s.tick)
	}
}

func (s *settling) tick() {
	for _, n := range s.due() {
		s.m.nodes.told(n, false)
		s.m.kernel.InodeNotify(n, -1, 0) // attributes only
	}
}

// due takes out the directories that are at rest.
func (s *settling) due() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = nil
	if s.ended {
		return nil
	}
	var due []uint64
	limit := time.Now().Add(-settleTime)
	for n, t := range s.dirs {
		if t.Before(limit) {
			due = append(due, n)
			delete(s.dirs, n)
		}
	}
	if len(s.dirs) == 0 {
		s.dirs = nil // gives back the room of a busy time
	} else {
		s.timer = time.AfterFunc(settleTime, s.tick)
	}
	return due
}

func (s *settling) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.timer != nil {
		s.timer.Stop()
	}
}
