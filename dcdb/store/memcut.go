package store

import (
	"maps"
	"math/rand/v2"

	"github.com/tidwall/btree"
)

// Cut is an end of the process, or of the machine, at any moment.
type Cut struct {
	Rand *rand.Rand

	// Killed: only the process ends, and all that was written is there. Else
	// the power goes: of what no Barrier covered, any part may be there. Of
	// batches that is any subset, whatever a good engine does, so that whoever
	// has two of them under way is found out. An object deleted after the last
	// batch that is there may be back.
	Killed bool

	// What a store must never do, for tests that want it noticed. LoseObjects:
	// a batch is there without some objects of its group. TearBatch: a part of
	// a batch is there.
	LoseObjects, TearBatch bool
}

// memoryBatch is a batch that no Barrier has covered.
type memoryBatch struct {
	group   uint64
	frames  map[string][]byte // nil: the record is deleted
	deleted []memoryObject    // since the batch before
}

// unsure is what no Barrier has covered.
type unsure struct {
	batches []memoryBatch
	put     map[ID]bool
	deleted []memoryObject // since the last batch
}

func (u *unsure) commit(b *Batch, records *btree.Map[string, []byte]) {
	m := memoryBatch{b.Group, make(map[string][]byte, len(b.Puts)+len(b.Deletes)), u.deleted}
	u.deleted = nil
	for _, r := range b.Puts {
		m.frames[string(r.Key)], _ = records.Get(string(r.Key))
	}
	for _, k := range b.Deletes {
		m.frames[string(k)] = nil
	}
	u.batches = append(u.batches, m)
}

func (u *unsure) putObject(id ID) {
	if u.put == nil {
		u.put = map[ID]bool{}
	}
	u.put[id] = true
}

func (u *unsure) deleteObject(o memoryObject) {
	delete(u.put, o.id)
	u.deleted = append(u.deleted, o)
}

// barrier forgets all but the objects of groups after last, which lie about
// until their batch comes.
func (u *unsure) barrier(last uint64) {
	u.batches = nil
	maps.DeleteFunc(u.put, func(id ID, _ bool) bool { return id.Group <= last })
}

// Cut returns what the next process finds if c happens now.
func (m *Memory) Cut(c Cut) *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.Killed {
		return m.openLocked(m.now)
	}
	durable := m.now
	if len(m.undone) > 0 {
		durable = m.undone[0]
	}
	s := memoryState{durable.group, durable.records.Copy()}
	likely := c.Rand.Float64()
	keep := func() bool { return c.Rand.Float64() < likely }
	var back []memoryObject // deleted, but by no batch that is there
	for _, b := range m.unsure.batches {
		back = append(back, b.deleted...)
		if !keep() {
			continue
		}
		back = nil
		for k, frame := range b.frames {
			switch {
			case c.TearBatch && keep():
			case frame == nil:
				s.records.Delete(k)
			default:
				s.records.Set(k, frame)
			}
		}
		s.group = b.group
	}
	n := m.openLocked(s)
	for _, o := range append(back, m.unsure.deleted...) {
		if o.id.Group <= s.group && keep() {
			n.objects.Set(o)
		}
	}
	for id := range m.unsure.put {
		if c.LoseObjects && keep() {
			n.objects.Delete(memoryObject{id: id})
		}
	}
	n.used = n.sizeLocked()
	return n
}
