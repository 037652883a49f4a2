package fs

import (
	"sync"

	"dcfs/snap"
)

// orphanQueue ends inodes without a name in the background: FORGET has no
// answer, and while one is handled go-fuse reads no other request.
type orphanQueue struct {
	m *mount // immutable

	mu     sync.Mutex
	change sync.Cond   // of all below
	queue  []orphanRef // guarded by mu
	ended  bool        // guarded by mu
	done   chan struct{}
}

type orphanRef struct {
	view *snap.View
	ino  uint64
}

// maxOrphans is how many may wait before add does.
const maxOrphans = 4096

func (q *orphanQueue) init(m *mount) {
	q.m, q.change.L, q.done = m, &q.mu, make(chan struct{})
	go q.work()
}

// add ends an inode if it has no name.
func (q *orphanQueue) add(v *snap.View, ino uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.queue) >= maxOrphans && !q.ended {
		q.change.Wait()
	}
	q.queue = append(q.queue, orphanRef{v, ino})
	q.change.Broadcast()
}

func (q *orphanQueue) work() {
	defer close(q.done)
	for {
		batch := q.take()
		if batch == nil {
			return
		}
		for _, o := range batch {
			if err := q.m.fs.Forget(background, o.view, o.ino); err != nil {
				q.m.log("inode %d without a name stays until the next mount: %v", o.ino, err)
			}
		}
	}
}

// take waits for something to do; nil: the end.
func (q *orphanQueue) take() []orphanRef {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.queue) == 0 && !q.ended {
		q.change.Wait()
	}
	batch := q.queue
	q.queue = nil
	q.change.Broadcast()
	return batch
}

// end waits until all is done.
func (q *orphanQueue) end() {
	q.mu.Lock()
	q.ended = true
	q.change.Broadcast()
	q.mu.Unlock()
	<-q.done
}
