package store

import (
	"context"
	"sync"

	"github.com/tidwall/btree"
)

// Marks passes calls on to a Store and counts the marks that a scan would have to
// walk through in an engine that keeps one for each deleted record, as Badger
// does until a compaction: for tests that show that nobody does so again and
// again.
type Marks struct {
	Store

	mu      sync.Mutex
	deleted btree.Set[string] // guarded by mu
	walked  int64             // guarded by mu
}

// NewMarks wraps s, which has no marks yet.
func NewMarks(s Store) *Marks { return &Marks{Store: s} }

// Walked is how many marks scans have passed so far, and how many there are.
func (m *Marks) Walked() (walked, marks int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.walked, int64(m.deleted.Len())
}

// Commit implements Records.
func (m *Marks) Commit(ctx context.Context, b *Batch) error {
	if err := m.Store.Commit(ctx, b); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range b.Puts {
		m.deleted.Delete(string(r.Key))
	}
	for _, k := range b.Deletes {
		m.deleted.Insert(string(k))
	}
	return nil
}

// Scan implements Records.
func (m *Marks) Scan(ctx context.Context, from, to []byte, limit int) ([]Record, error) {
	rs, err := m.Store.Scan(ctx, from, to, limit)
	if err != nil {
		return rs, err
	}
	end := string(to)
	if len(rs) == limit && limit > 0 {
		end = string(rs[limit-1].Key)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deleted.Ascend(string(from), func(k string) bool {
		if end != "" && k >= end {
			return false
		}
		m.walked++
		return true
	})
	return rs, nil
}
