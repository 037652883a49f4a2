package dcdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"dcfs/dcdb/store"
)

// What a group reserves of a batch. An operation that is about to join states no
// worst case of its own: none changes more than 16 DCDBs and drops or shares more
// than opRefs references. A DCDB costs nodeRecords at most: its head, its saved
// head or dropped tree, two index records, an entry for the saved head, one that it
// has an end to be dropped, and a few more while the heads of a fork move (package
// snap). A
// reference costs one record at most, the object's count or a share of a list's
// record, and spanRecords the first time that one of its since is dropped: a
// record of the list, and the sum. Room for all that is kept free.
const (
	nodeRecords  = 10
	spanRecords  = 2
	spanBytes    = 192
	refBytes     = 64
	opRefs       = 1200
	opRecords    = 16*nodeRecords + opRefs*(1+spanRecords)
	opBytes      = 256<<10 + opRefs*(refBytes+spanBytes)
	groupRecords = 256      // of the group itself, of metadata and lists
	groupBytes   = 64 << 10 // likewise

	// writeBehindBytes: smaller contents wait for their group.
	writeBehindBytes = 32 << 10
)

// group gathers the changes of a short time. They become durable as a whole.
type group struct {
	num uint64 // immutable

	// Guarded by Space.mu until the group is closed, then the flusher's but
	// for data and flying.
	entries []*entry
	forks   map[uint64]any // what Rules.Freeze said, at closing
	meta    map[string][]byte
	works   []*work
	records int // estimates for the batch
	bytes   int
	spans   map[span]bool // that are counted in them
	full    []*content    // that the writer may write ahead
	stored  []*content    // that it has written
	since   time.Time     // of the first change
	urgent  bool          // somebody waits
	data    int64         // guarded by Space.mu: bytes of contents in memory
	flying  int           // guarded by Space.mu: contents that are being written

	done chan struct{} // closed when the group is durable, or failed
	err  error         // set before
}

// Work is a piece of background work that becomes part of a group. It runs on the
// flusher, after all changes of the group, and sees the records as the store has
// them and as the group changes them, through the Builder.
// If it fails the group goes without it.
type Work func(ctx context.Context, b *Builder) error

// work is a Work in a group.
type work struct {
	do  Work
	err error // why the group goes without it; set before the group is done
}

// workError is what a flush fails with for a Work.
type workError struct {
	*work
	err error
}

func (e *workError) Error() string { return e.err.Error() }
func (e *workError) Unwrap() error { return e.err }

// span is what references of one since that a fork drops have in common: they
// share the records of a list.
type span struct{ fork, since uint64 }

// entry is one DCDB's change in one group.
type entry struct {
	n     *node
	g     *group
	state *state // the last one; frozen when the group is closed
	est   int    // bytes it is counted for
}

func newGroup(num uint64) *group {
	return &group{num: num, done: make(chan struct{}), forks: map[uint64]any{}, meta: map[string][]byte{}, spans: map[span]bool{}}
}

func (g *group) empty() bool {
	return len(g.entries) == 0 && len(g.meta) == 0 && len(g.works) == 0
}

func (g *group) add(e *entry) {
	g.entries = append(g.entries, e)
	g.records += nodeRecords
	if e.n.committed != nil {
		g.bytes += e.n.committed.estimate() // it may be saved
	}
	g.forks[e.n.key.Fork] = nil
}

// estimate is about the bytes of a state's head record, and of its share in
// lists and indexes.
func (st *state) estimate() int {
	n := 400 + len(st.Name)
	if r := st.tree.root; r != nil {
		n += 24 * len(r.slots)
		if st.tree.depth == 0 && len(r.slots) == 1 && r.slots[0].page != nil {
			n += min(r.slots[0].page.size, maxInlinePage+MaxInlineValue)
		}
	}
	return n
}

// join waits until the open group has room for one more operation, and for
// records and bytes besides, and takes Space.mu. With an error it is not taken.
// Who may bring file data waits for room for that as well; others would only wait
// behind those who write as fast as they can.
func (s *Space) join(ctx context.Context, records, bytes int, data bool) error {
	for {
		s.mu.Lock()
		if s.failed != nil {
			err := s.failed
			s.mu.Unlock()
			return err
		}
		if !s.crowded(records, bytes, data) {
			return nil
		}
		full, room := s.full, s.room
		s.open.urgent = true
		s.mu.Unlock()
		if full != nil {
			return full
		}
		s.wakeFlusher()
		waits(ctx)
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// crowded reports whether an operation must wait that wants records and bytes
// besides what each may need, and, it may be, data. An empty group has room for
// each. s.mu is held.
func (s *Space) crowded(records, bytes int, data bool) bool {
	l := s.st.Limits()
	full := s.open.records+records+opRecords+groupRecords > l.BatchRecords ||
		s.open.bytes+bytes+opBytes+groupBytes > l.BatchBytes
	return full && !s.open.empty() || data && s.dirty > s.o.DirtyBytes
}

// countRefs adds what the references that tx dropped and shared cost to the
// estimates. s.mu is held.
func (s *Space) countRefs(tx *Tx) {
	g, refs := s.open, len(tx.drops)+tx.shares
	g.records += refs
	g.bytes += refs * refBytes
	for _, n := range tx.edited {
		for _, since := range tx.drops {
			if sp := (span{n.key.Fork, since}); !g.spans[sp] {
				g.spans[sp] = true
				g.records += spanRecords
				g.bytes += spanBytes
			}
		}
	}
}

// finish closes a run of an update: what it changed is counted. s.mu is held.
func (s *Space) finish(tx *Tx) {
	s.countRefs(tx)
	for _, n := range tx.edited {
		est := n.cur.estimate()
		s.open.bytes += est - n.entry.est
		n.entry.est = est
		n.group = s.open.num
		w := n.cur.weight()
		s.bytes += w - n.bytes
		n.bytes = w
	}
	if len(tx.edited) > 0 {
		s.started()
	}
	if s.cache.full() {
		s.cache.trim()
	}
	if len(s.open.full) >= 8 {
		wake(s.behind)
	}
}

// started notes that the open group has something to commit. s.mu is held.
func (s *Space) started() {
	if s.open.since.IsZero() {
		s.open.since = time.Now()
		s.wakeFlusher()
	}
	if s.crowded(0, 0, true) && !s.open.urgent {
		s.open.urgent = true
		s.wakeFlusher()
	}
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (s *Space) wakeFlusher() { wake(s.kick) }

// addDirty counts bytes of file data that were made in memory. s.mu is held.
func (s *Space) addDirty(n int) {
	s.space.left.Add(-int64(n))
	s.dirty += int64(n)
	s.open.data += int64(n)
}

// wakeLocked lets those run who wait for room. s.mu is held.
func (s *Space) wakeLocked() {
	close(s.room)
	s.room = make(chan struct{})
}

// closeGroup ends the open group; the next one is open at once. s.mu is held.
func (s *Space) closeGroup() *group {
	g := s.open
	for f := range g.forks {
		g.forks[f] = s.rules.Freeze(f)
	}
	s.gen++
	s.queue = append(s.queue, g)
	s.open = newGroup(g.num + 1)
	s.openGroup.Store(s.open.num)
	return g
}

// Meta is a change of records that belong to no DCDB, as part of the open group.
// It is good only while the function that Space.Meta was given runs.
type Meta struct {
	s      *Space
	closed *group
}

// Put sets a record.
func (m *Meta) Put(key, val []byte) {
	g := m.s.open
	g.meta[string(key)] = val
	g.records++
	g.bytes += len(key) + len(val) + 32
}

// Delete takes a record out.
func (m *Meta) Delete(key []byte) {
	m.Put(key, nil)
}

// Work makes do part of a group and returns when that is durable, however long the
// store is full. do changes no more than records records of bytes bytes. It may
// ask the Builder for the facts of fork.
func (s *Space) Work(ctx context.Context, fork uint64, records, bytes int, do Work) error {
	if err := s.join(ctx, records, bytes, false); err != nil {
		return err
	}
	g := s.open
	w := &work{do: do}
	g.works = append(g.works, w)
	g.records += records
	g.bytes += bytes
	g.forks[fork] = nil
	s.started()
	s.mu.Unlock()
	s.lazily(ctx, g)
	err := s.wait(ctx, g)
	if err == nil {
		return w.err
	}
	if !errors.Is(err, store.ErrFull) {
		return err
	}
	// The work stays in its group: to say that it failed would have it done
	// again, and what it drops dropped twice.
	select {
	case <-g.done:
		return cmp.Or(g.err, w.err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// CloseGroup ends the group here: what was done so far in this function is in
// it, what comes after is in the next one.
func (m *Meta) CloseGroup() { m.closed = m.s.closeGroup() }

// Meta runs fn with Space.mu held for writing; it must not wait for anything.
// With durable it returns when what fn did is.
func (s *Space) Meta(ctx context.Context, durable bool, fn func(m *Meta) error) error {
	return s.LargeMeta(ctx, durable, 0, 0, fn)
}

// LargeMeta is Meta for a fn that changes up to records records of bytes bytes,
// more than a few hundred.
func (s *Space) LargeMeta(ctx context.Context, durable bool, records, bytes int, fn func(m *Meta) error) error {
	if err := s.join(ctx, records, bytes, false); err != nil {
		return err
	}
	m := &Meta{s: s}
	err := fn(m)
	if !s.open.empty() {
		s.started()
	}
	g := m.closed
	if g == nil {
		g = s.lastGroup()
	}
	s.mu.Unlock()
	if err != nil || !durable || g == nil {
		return err
	}
	return s.wait(ctx, g)
}

// lastGroup returns the group that the latest change is in, nil if all are
// durable. An empty group is never written: nobody may wait for it. s.mu is held.
func (s *Space) lastGroup() *group {
	if !s.open.empty() {
		return s.open
	}
	if n := len(s.queue); n > 0 {
		return s.queue[n-1]
	}
	return nil
}

// MetaLocked is Meta for a caller that runs in an Update already.
func (s *Space) MetaLocked() *Meta {
	s.started()
	return &Meta{s: s}
}

// Exclusive runs fn with Space.mu held, for writing.
func (s *Space) Exclusive(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
}

// Locked runs fn with Space.mu held, for reading.
func (s *Space) Locked(fn func()) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	fn()
}

// wait returns when g is durable, or the store is too full for it at present.
func (s *Space) wait(ctx context.Context, g *group) error {
	s.mu.RLock()
	seen := s.fullSeen
	s.mu.RUnlock()
	for {
		s.mu.Lock()
		g.urgent = true
		full, room, failed := s.full, s.room, s.failed
		if s.fullSeen == seen {
			full = nil // it is tried again for us
		}
		s.mu.Unlock()
		s.wakeFlusher()
		select {
		case <-g.done:
			return g.err
		default:
		}
		if failed != nil {
			return failed // g is a group that nobody commits any more
		}
		if full != nil {
			return full
		}
		waits(ctx)
		select {
		case <-g.done:
			return g.err
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Sync returns when all changes of a DCDB so far are durable, and with them all
// that came before. It returns at once if they are.
func (s *Space) Sync(ctx context.Context, k Key) error {
	s.mu.RLock()
	var g *group
	var err error
	if n := s.nodes[k]; n != nil && n.pending > 0 {
		g = s.groupOf(n.group)
	}
	if g == nil && s.failed != nil {
		err = s.failed
	}
	s.mu.RUnlock()
	if g == nil {
		return err
	}
	return s.wait(ctx, g)
}

// groupOf returns a group that is not done by its number. s.mu is held.
func (s *Space) groupOf(num uint64) *group {
	for _, g := range s.queue {
		if g.num == num {
			return g
		}
	}
	return s.open
}

// SyncAll returns when all changes so far are durable.
func (s *Space) SyncAll(ctx context.Context) error {
	s.mu.RLock()
	g, err := s.lastGroup(), s.failed
	s.mu.RUnlock()
	if g == nil || err != nil {
		return err
	}
	return s.wait(ctx, g)
}

// SyncClosed returns when all groups that are closed by now are durable. It does
// not close the open one.
func (s *Space) SyncClosed(ctx context.Context) error {
	s.mu.RLock()
	var g *group
	if n := len(s.queue); n > 0 {
		g = s.queue[n-1]
	}
	err := s.failed
	s.mu.RUnlock()
	if g == nil || err != nil {
		return err
	}
	return s.wait(ctx, g)
}

// flusher commits one group after the other.
func (s *Space) flusher() {
	defer s.workers.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		g, in := s.nextGroup()
		if g != nil {
			s.commit(g)
			continue
		}
		timer.Reset(in)
		select {
		case <-s.kick:
		case <-timer.C:
		case <-s.stop:
			return
		}
	}
}

// nextGroup returns the group to commit now, or in what time to ask again.
func (s *Space) nextGroup() (*group, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil && !errors.Is(s.failed, ErrClosed) {
		s.abandon()
	}
	if len(s.queue) > 0 {
		return s.queue[0], 0
	}
	if s.open.empty() {
		return nil, time.Hour
	}
	if in := time.Until(s.open.since.Add(s.o.Interval)); !s.open.urgent && in > 0 {
		return nil, in
	}
	return s.closeGroup(), 0
}

// abandon ends all groups that will never be committed. s.mu is held.
func (s *Space) abandon() {
	for _, g := range s.queue {
		g.err = s.failed
		close(g.done)
	}
	s.queue = nil
	if !s.open.empty() {
		s.open.err = s.failed
		close(s.open.done)
		s.open = newGroup(s.open.num + 1)
	}
	s.wakeLocked()
}

// commit writes a closed group, as often as it takes while the store is full or
// busy.
func (s *Space) commit(g *group) {
	ctx := context.Background()
	said := false
	for {
		err := s.flush(ctx, g)
		if w := (*workError)(nil); errors.As(err, &w) {
			w.work.err = w.err
			continue
		}
		if err == nil {
			if said {
				s.o.Log("commit group %d: written now", g.num)
			}
			return
		}
		again := errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrRetry)
		if !again || errors.Is(err, errBarrier) {
			s.fail(g, err)
			return
		}
		if !said {
			s.o.Log("commit group %d: %v; trying again", g.num, err)
			said = true
		}
		if errors.Is(err, store.ErrFull) {
			s.mu.Lock()
			s.full, s.fullSeen = err, s.fullSeen+1
			s.wakeLocked()
			s.mu.Unlock()
		}
		if !s.pause(time.Second) {
			s.fail(g, err)
			return
		}
	}
}

// retryPause is the least time between two attempts to commit.
const retryPause = 50 * time.Millisecond

// pause waits, not as long if somebody asks for a commit, and returns false if the
// Space is closed.
func (s *Space) pause(d time.Duration) bool {
	least := time.After(retryPause)
	after := time.After(d)
	select {
	case <-s.kick:
	case <-after:
	case <-s.stop:
		return false
	}
	select {
	case <-least:
	case <-s.stop:
		return false
	}
	return true
}

// fail ends all commits.
func (s *Space) fail(g *group, err error) {
	s.o.Log("commit group %d: %v; the volume is read-only from now on", g.num, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = fmt.Errorf("%w: %w", ErrFailed, err)
	s.abandon()
}

// Trim has what lies beyond the ends of files dropped, that an earlier run of the
// program had truncated.
func (s *Space) Trim(files []Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range files {
		s.trimLater(k)
	}
}

// Trimming returns how many files have such an end, as far as is known.
func (s *Space) Trimming() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.trimming
}

// trimLater has the trimmer drop what lies beyond a file's end. s.mu is held.
func (s *Space) trimLater(k Key) {
	if s.o.Still {
		return
	}
	s.excess = append(s.excess, k)
	s.trimming++
	wake(s.trims)
}

func (s *Space) trimmer() {
	defer s.workers.Done()
	var again <-chan time.Time
	var said Repeated
	for {
		s.mu.Lock()
		var k Key
		n := len(s.excess)
		if n > 0 {
			k = s.excess[n-1]
			s.excess = s.excess[:n-1]
		}
		stopped := s.failed != nil
		s.mu.Unlock()
		if n > 0 && !stopped {
			err := s.trim(context.Background(), k, true)
			if errors.Is(err, ErrNotExist) || errors.Is(err, ErrGone) || errors.Is(err, ErrClosed) {
				err = nil
			}
			if err != nil {
				said.Log(s.o.Log, "dropping the end of %v: %v", k, err)
			}
			if err == nil || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrVersion) || errors.Is(err, ErrIO) {
				// What can't be read is tried again after the next open.
				s.mu.Lock()
				s.trimming--
				s.mu.Unlock()
				again = nil
				continue
			}
			s.mu.Lock()
			s.excess = append([]Key{k}, s.excess...) // after the others
			s.mu.Unlock()
			again = time.After(time.Second)
		}
		select {
		case <-s.trims:
		case <-again:
		case <-s.stop:
			return
		}
	}
}
