package dcdb

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"dcfs/dcdb/store"
)

// Options of a Space. A zero field means its default.
type Options struct {
	CacheBytes int64         // of memory for what is in the store as well; default 64 MiB
	DirtyBytes int64         // of file data not yet in the store; default 64 MiB
	Interval   time.Duration // between a change and its commit; default 1 s
	Still      bool          // the ends of truncated files are not dropped
	// Free tells how many bytes more the store may take; nil: who writes
	// learns at the end of the group that it is full.
	Free func(ctx context.Context) (uint64, error)
	Now  func() time.Time
	Log  func(format string, args ...any)
}

func (o Options) withDefaults() Options {
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.DirtyBytes == 0 {
		o.DirtyBytes = 64 << 20
	}
	if o.Interval == 0 {
		o.Interval = time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	return o
}

// Rules say what the heads of a volume mean: which one a view sees, and what
// becomes of what a change drops.
type Rules interface {
	// Load returns the head record that a key resolves to, ErrNotExist if
	// there is none. It is called without a lock.
	Load(ctx context.Context, k Key) (rec []byte, err error)

	// Alive returns ErrGone if there is no such view any more. Space.mu is
	// held, for reading at least.
	Alive(fork, at uint64) error
	// Counter returns a fork's present counter. Space.mu is held.
	Counter(fork uint64) uint64
	// Freeze returns what Change will want to know of a fork, as it is at the
	// end of a group. Space.mu is held.
	Freeze(fork uint64) any

	// Share records that an object of an earlier group is referred to once
	// more. It is called by the flusher, before all Changes of a group.
	Share(ctx context.Context, b *Builder, id store.ID) error
	// Change records what a group changes in one DCDB. It is called by the
	// flusher, for one group after the other.
	Change(ctx context.Context, b *Builder, facts any, c *Change) error
	// Finish adds to a group what it needs besides. It is called last.
	Finish(ctx context.Context, b *Builder) error
}

// Change is what one group does to one DCDB.
type Change struct {
	Key     Key
	Old     *Head // as the store has it; nil: it is new
	Changed uint64
	Born    uint64
	Record  []byte // the new head; nil: the DCDB is deleted
	Dropped []Dropped
	// Bulk: all of Old's tree is dropped as well, and not in Dropped since it
	// may be large. Records: but its items that are no records stay.
	Bulk, Records bool
}

// Dropped is a reference that the live state has no more.
type Dropped struct {
	ID    store.ID
	Since uint64
}

// Space is all DCDBs of a volume in memory. All methods may be called
// concurrently.
type Space struct {
	st    store.Store // immutable
	rules Rules       // immutable
	o     Options     // immutable
	cache *cache      // immutable

	epochs    epochs
	openGroup atomic.Uint64 // open.num, for readers without mu

	mu       sync.RWMutex
	gen      uint64        // guarded by mu; what is of an earlier one is immutable
	nodes    map[Key]*node // guarded by mu
	clock    []*node       // guarded by mu; all nodes, for eviction
	hand     int           // guarded by mu
	bytes    int64         // guarded by mu; of nodes, about
	open     *group        // guarded by mu
	queue    []*group      // guarded by mu; closed, in order, the first may be being flushed
	dirty    int64         // guarded by mu; bytes of file data not in the store
	room     chan struct{} // guarded by mu; closed when a group is done or data written
	failed   error         // guarded by mu; why nothing can be committed any more
	full     error         // guarded by mu; why the last attempt to commit did not succeed
	fullSeen uint64        // guarded by mu; counts these attempts
	excess   []Key         // guarded by mu; files to trim
	trimming int           // guarded by mu; these, and the one being trimmed

	loadMu  sync.Mutex
	loading map[Key]*flight // guarded by loadMu

	kick    chan struct{} // the flusher has something to do
	behind  chan struct{} // the writer behind has something to do
	trims   chan struct{} // the trimmer has something to do
	erase   eraser
	space   room
	pace    pace
	stop    chan struct{}
	workers sync.WaitGroup
}

// node is a DCDB in memory. It stays there while it has changes that are not
// committed.
type node struct {
	key  Key         // immutable
	used atomic.Bool // since the clock last passed

	// All guarded by Space.mu.
	cur       *state
	committed *state // as the store has it; nil: not at all
	entry     *entry // of the last group that changed it
	pending   int    // groups that have changes of it and are not done
	group     uint64 // number of the last group that changed it
	bytes     int64  // as counted in Space.bytes
}

// state is one version of a DCDB. One of an earlier gen than the Space's is
// immutable, but for what the flusher does to refs.
type state struct {
	gen uint64
	Head
	rebuilt bool // the tree has nothing in common with the committed one
}

// flight is a node being loaded.
type flight struct {
	done chan struct{}
	err  error
}

// NewSpace returns the Space of a store. Its groups begin at the store's
// FirstGroup.
func NewSpace(st store.Store, rules Rules, o Options) *Space {
	o = o.withDefaults()
	s := &Space{
		st: st, rules: rules, o: o,
		cache:   newCache(o.CacheBytes / 2),
		gen:     1,
		nodes:   map[Key]*node{},
		loading: map[Key]*flight{},
		room:    make(chan struct{}),
		kick:    make(chan struct{}, 1),
		behind:  make(chan struct{}, 1),
		trims:   make(chan struct{}, 1),
		stop:    make(chan struct{}),
	}
	s.erase.s = s
	s.space.free = o.Free
	s.open = newGroup(max(st.FirstGroup(), st.LastGroup()+1, 1))
	s.openGroup.Store(s.open.num)
	s.workers.Add(4)
	go s.flusher()
	go s.writer()
	go s.trimmer()
	go s.erase.run()
	return s
}

// Close commits what is open and ends the work of the Space. The store stays
// open.
func (s *Space) Close(ctx context.Context) error {
	err := s.SyncAll(ctx)
	s.mu.Lock()
	if s.failed == nil {
		s.failed = ErrClosed
	}
	s.wakeLocked()
	s.mu.Unlock()
	close(s.stop)
	s.workers.Wait()
	s.mu.Lock()
	s.abandon() // what came after the last commit
	s.mu.Unlock()
	return err
}

// loadNode brings a node into memory. One at a time does it for a key, from the
// look at what is there until the node is in its place: nobody else can have
// changed and evicted it in between.
func (s *Space) loadNode(ctx context.Context, k Key) error {
	s.loadMu.Lock()
	if f := s.loading[k]; f != nil {
		s.loadMu.Unlock()
		select {
		case <-f.done:
			return f.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f := &flight{done: make(chan struct{})}
	s.loading[k] = f
	s.loadMu.Unlock()

	f.err = s.loadFlight(ctx, k)
	s.loadMu.Lock()
	delete(s.loading, k)
	s.loadMu.Unlock()
	close(f.done)
	return f.err
}

func (s *Space) loadFlight(ctx context.Context, k Key) error {
	s.mu.RLock()
	there := s.nodes[k] != nil
	s.mu.RUnlock()
	if there {
		return nil
	}
	rec, err := s.rules.Load(ctx, k)
	if err != nil {
		return fmt.Errorf("%v: %w", k, err)
	}
	h, err := DecodeHead(rec)
	if err != nil {
		return fmt.Errorf("head of %v: %w", k, err)
	}
	if h.Deleted {
		return fmt.Errorf("%v: %w", k, ErrNotExist)
	}
	n := &node{key: k, cur: &state{Head: *h}}
	n.committed = n.cur
	s.mu.Lock()
	defer s.mu.Unlock()
	s.insert(n)
	if h.excess && k.At == Live {
		s.trimLater(k)
	}
	return nil
}

// insert puts n among the nodes, and old ones out. s.mu is held.
func (s *Space) insert(n *node) {
	n.used.Store(true)
	n.bytes = n.cur.weight()
	s.nodes[n.key] = n
	s.clock = append(s.clock, n)
	s.bytes += n.bytes
	// Each insertion passes a few nodes, so that no single one pays for all,
	// and none twice: what a transaction has just used stays for its next run.
	for left := min(8, len(s.clock)-1); left > 0 && s.bytes > s.o.CacheBytes/2; left-- {
		s.hand++
		if s.hand >= len(s.clock) {
			s.hand = 0
		}
		if o := s.clock[s.hand]; o != n {
			s.evict(o)
		}
	}
}

// evict lets go of o unless it was used since it was last asked or has changes
// to commit. s.mu is held.
func (s *Space) evict(o *node) {
	if o.pending > 0 || o.used.Swap(false) {
		return
	}
	s.forget(o)
}

// forget takes a node that is at s.hand of the clock out. s.mu is held.
func (s *Space) forget(o *node) {
	if s.nodes[o.key] == o {
		delete(s.nodes, o.key)
	}
	s.bytes -= o.bytes
	last := len(s.clock) - 1
	s.clock[s.hand] = s.clock[last]
	s.clock[last] = nil
	s.clock = s.clock[:last]
}

// weight is about the memory a state takes.
func (st *state) weight() int64 {
	n := int64(700 + len(st.Name))
	if st.tree.root != nil {
		for _, r := range st.tree.root.slots {
			n += 96
			if r != nil && r.page != nil {
				n += 3 * int64(r.page.size)
			}
		}
	}
	return n
}

// Frozen is one version of a DCDB, for a handle that lists it. What it shows is
// kept until Close.
type Frozen struct {
	s     *Space
	st    *state
	epoch uint64
}

// Freeze returns the present version of a DCDB.
func (s *Space) Freeze(ctx context.Context, k Key) (*Frozen, error) {
	f := &Frozen{s: s, epoch: s.openGroup.Load()}
	s.epochs.enter(f.epoch)
	err := s.freeze(ctx, k, f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (s *Space) freeze(ctx context.Context, k Key, f *Frozen) error {
	return s.View(ctx, func(tx *Tx) error {
		db, err := tx.DB(k)
		if err != nil {
			return err
		}
		f.st = db.n.cur
		if f.st.gen == s.gen {
			// The open group may still change it in place.
			return &first{func() error { s.newGen(); return nil }}
		}
		return nil
	})
}

// newGen makes all that there is immutable.
func (s *Space) newGen() {
	s.mu.Lock()
	s.gen++
	s.mu.Unlock()
}

// Attr returns the attributes of the version.
func (f *Frozen) Attr() *Attr { return &f.st.Attr }

// Ascend calls fn once for each key of a kind from from on, in order, until it
// returns false.
func (f *Frozen) Ascend(ctx context.Context, kind ItemKind, from string, fn func(key string, val []byte) bool) error {
	// A batch is gathered under the lock and handed out without it.
	type pair struct {
		key string
		val []byte
	}
	for {
		var batch []pair
		err := f.s.View(ctx, func(tx *Tx) error {
			batch = batch[:0]
			return f.st.tree.ascendKind(tx, kind, from, func(key string, val []byte) bool {
				batch = append(batch, pair{key, val})
				return len(batch) < 256
			})
		})
		if err != nil {
			return err
		}
		for _, p := range batch {
			if !fn(p.key, p.val) {
				return nil
			}
		}
		if len(batch) < 256 {
			return nil
		}
		from = batch[len(batch)-1].key + "\x00"
	}
}

// Close lets go of the version. It may be called once.
func (f *Frozen) Close() { f.s.epochs.leave(f.epoch) }
