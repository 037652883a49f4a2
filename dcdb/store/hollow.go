package store

import (
	"context"
	"fmt"
	"sync"
)

// hollowSegment is the segment of a Hollow's contents.
const hollowSegment = 1 << 31

// Hollow passes calls on to a Store but for contents, of which it knows only that
// there are so many: what it reads of them is zeros. It is for tests with files
// larger than memory, and counts what is in the way of bounds.
type Hollow struct {
	Store

	mu    sync.Mutex
	there []uint64 // guarded by mu; a bit for each content
	next  uint32   // guarded by mu; number of contents put
	live  int      // guarded by mu
	most  int      // guarded by mu; records of the largest batch
}

// NewHollow wraps s.
func NewHollow(s Store) *Hollow { return &Hollow{Store: s} }

// Contents returns how many contents there are, of those that were ever put.
func (h *Hollow) Contents() (live, put int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.live, int(h.next)
}

// LargestBatch returns the most records that a batch had since it was called last.
func (h *Hollow) LargestBatch() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.most
	h.most = 0
	return n
}

// Put implements Objects.
func (h *Hollow) Put(ctx context.Context, group uint64, kind Kind, parts [][]byte) ([]ID, error) {
	sizes, made := Made(parts)
	return h.PutMade(ctx, group, kind, sizes, made)
}

// PutMade implements Objects.
func (h *Hollow) PutMade(ctx context.Context, group uint64, kind Kind, sizes []int, part func(i int, id ID) []byte) ([]ID, error) {
	if kind != KindContent {
		return h.Store.PutMade(ctx, group, kind, sizes, part)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := make([]ID, len(sizes))
	for i, n := range sizes {
		ids[i] = ID{group, hollowSegment, h.next, uint32(n)}
		if h.next%64 == 0 {
			h.there = append(h.there, 0)
		}
		h.there[h.next/64] |= 1 << (h.next % 64)
		h.next++
		h.live++
	}
	return ids, nil
}

// has reports whether there is a content. h.mu is held.
func (h *Hollow) has(id ID) bool {
	return id.Off < h.next && h.there[id.Off/64]&(1<<(id.Off%64)) != 0
}

// Read implements Objects.
func (h *Hollow) Read(ctx context.Context, id ID, kind Kind, off int, p []byte) error {
	if id.Seg != hollowSegment {
		return h.Store.Read(ctx, id, kind, off, p)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.has(id) {
		return fmt.Errorf("object %v: %w", id, ErrNotFound)
	}
	clear(p)
	return ctx.Err()
}

// Delete implements Objects.
func (h *Hollow) Delete(ctx context.Context, ids []ID) error {
	var others []ID
	h.mu.Lock()
	for _, id := range ids {
		switch {
		case id.Seg != hollowSegment:
			others = append(others, id)
		case h.has(id):
			h.there[id.Off/64] &^= 1 << (id.Off % 64)
			h.live--
		}
	}
	h.mu.Unlock()
	return h.Store.Delete(ctx, others)
}

// Commit implements Records.
func (h *Hollow) Commit(ctx context.Context, b *Batch) error {
	h.mu.Lock()
	h.most = max(h.most, len(b.Puts)+len(b.Deletes))
	h.mu.Unlock()
	return h.Store.Commit(ctx, b)
}
