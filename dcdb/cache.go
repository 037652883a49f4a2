package dcdb

import (
	"container/list"
	"sync"

	"dcfs/dcdb/store"
)

// cache keeps decoded pages and table nodes that are in the store, the least
// recently used going first. What it holds is immutable. Nothing leaves it but
// by trim, which the holder of Space.mu calls, so that what a transaction has
// found once it finds again.
type cache struct {
	limit int64 // bytes, about; immutable

	mu    sync.Mutex
	bytes int64                      // guarded by mu
	byID  map[store.ID]*list.Element // guarded by mu
	order *list.List                 // guarded by mu; of *cached, the latest in front
}

type cached struct {
	id    store.ID
	body  any // *page or *tnode
	bytes int64
}

func newCache(limit int64) *cache {
	return &cache{limit: limit, byID: map[store.ID]*list.Element{}, order: list.New()}
}

func (c *cache) get(id store.ID) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byID[id]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached).body
}

func (c *cache) add(id store.ID, body any) {
	n := int64(200)
	switch b := body.(type) {
	case *page:
		n += 3 * int64(b.size)
	case *tnode:
		n += 80 * int64(len(b.slots))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byID[id] != nil {
		return
	}
	c.byID[id] = c.order.PushFront(&cached{id, body, n})
	c.bytes += n
}

// full reports whether trim has something to do.
func (c *cache) full() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes > c.limit
}

// trim brings the cache below its limit.
func (c *cache) trim() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.bytes > c.limit {
		e := c.order.Back()
		v := c.order.Remove(e).(*cached)
		delete(c.byID, v.id)
		c.bytes -= v.bytes
	}
}
