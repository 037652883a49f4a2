package store

import "maps"

// Reopen returns the store as the next process finds it after Close: with
// every batch, without the objects of groups that were not committed. The old
// Memory stays as it is.
func (m *Memory) Reopen() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.openLocked(m.now)
}

// Crash returns what the next process finds if this one dies now and nothing
// survives that no Barrier covered.
func (m *Memory) Crash() *Memory { return m.CrashAt(0) }

// CrashAt is Crash with more luck: of the batches that no Barrier covered,
// those of groups up to keepGroup survive, a prefix of history.
func (m *Memory) CrashAt(keepGroup uint64) *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	states := append(m.undone[:len(m.undone):len(m.undone)], m.now)
	keep := states[0]
	for _, s := range states {
		if s.group <= keepGroup {
			keep = s
		}
	}
	return m.openLocked(keep)
}

// Undurable returns the groups of the batches that no Barrier has covered, in
// order: what CrashAt can choose from.
func (m *Memory) Undurable() []uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if len(m.undone) == 0 {
		return nil
	}
	var groups []uint64
	for _, s := range m.undone[1:] {
		groups = append(groups, s.group)
	}
	return append(groups, m.now.group)
}

// openLocked makes a store of state s and of the objects that belong to it.
func (m *Memory) openLocked(s memoryState) *Memory {
	n := NewMemory(m.super)
	n.super.Options = maps.Clone(m.super.Options)
	n.limits, n.capacity = m.limits, m.capacity
	n.fence = m.fence + 1
	n.now = memoryState{s.group, s.records.Copy()}
	n.objects = m.objects.Copy()
	n.spent = max(m.spent, m.first)
	n.first = n.spent + groupSkip
	n.segOff = m.segOff
	n.eraseAboveLocked(s.group)
	n.used = n.sizeLocked()
	return n
}

// eraseAboveLocked erases the objects of groups after last.
func (m *Memory) eraseAboveLocked(last uint64) {
	var dead []memoryObject
	m.objects.Ascend(memoryObject{id: ID{Group: last + 1}}, func(o memoryObject) bool {
		dead = append(dead, o)
		return true
	})
	for _, o := range dead {
		m.objects.Delete(o)
	}
}

func (m *Memory) sizeLocked() (n uint64) {
	m.objects.Scan(func(o memoryObject) bool { n += uint64(len(o.frame)); return true })
	m.now.records.Scan(func(_ string, frame []byte) bool { n += uint64(len(frame)); return true })
	return n
}

// CorruptObject flips a bit of byte at of the object's frame (header, table
// and payload) and reports whether there is one.
func (m *Memory) CorruptObject(id ID, at int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects.Get(memoryObject{id: id})
	if !ok || at >= len(o.frame) {
		return false
	}
	m.objects.Set(memoryObject{id, flip(o.frame, at)})
	return true
}

// CorruptRecord flips a bit of byte at of the record's frame and reports
// whether there is one.
func (m *Memory) CorruptRecord(key []byte, at int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	frame, ok := m.now.records.Get(string(key))
	if !ok || at >= len(frame) {
		return false
	}
	m.now.records.Set(string(key), flip(frame, at))
	return true
}

// flip returns b with one bit changed; b itself is shared with copies.
func flip(b []byte, at int) []byte {
	b = append([]byte(nil), b...)
	b[at] ^= 1
	return b
}
