package dcdb

import (
	"context"

	"dcfs/dcdb/store"
)

// behindBatch is how many contents the writer hands to the store at once.
const behindBatch = 8

// writer writes full contents of the open group ahead of it, so that memory is
// free again and the group's end has less to do.
func (s *Space) writer() {
	defer s.workers.Done()
	for {
		g, cs := s.takeFull()
		if len(cs) > 0 {
			s.writeAhead(g, cs)
			continue
		}
		select {
		case <-s.behind:
		case <-s.stop:
			return
		}
	}
}

// takeFull seals contents of the open group that are to be written.
func (s *Space) takeFull() (*group, []*content) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.open
	n := min(len(g.full), behindBatch)
	if n == 0 || s.failed != nil || s.full != nil {
		return nil, nil
	}
	cs := make([]*content, 0, n)
	for _, c := range g.full[:n] {
		if !c.sealed && c.data != nil {
			c.sealed = true
			cs = append(cs, c)
		}
	}
	g.full = g.full[n:]
	g.flying += len(cs)
	return g, cs
}

func (s *Space) writeAhead(g *group, cs []*content) {
	parts := make([][]byte, len(cs))
	for i, c := range cs {
		parts[i] = c.data
	}
	ids, err := s.st.Put(context.Background(), g.num, store.KindContent, parts)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		// The group's end will meet the same trouble, and report it.
		s.o.Log("writing behind, group %d: %v", g.num, err)
	} else {
		for i, c := range cs {
			n := int64(len(c.data))
			c.id, c.data = ids[i], nil
			g.data -= n
			s.dirty -= n
		}
		g.stored = append(g.stored, cs...)
	}
	g.flying -= len(cs)
	s.wakeLocked()
}

// settle waits until nothing of a closed group is being written.
func (s *Space) settle(g *group) {
	for {
		s.mu.RLock()
		flying, room := g.flying, s.room
		s.mu.RUnlock()
		if flying == 0 {
			return
		}
		<-room
	}
}
