package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"

	"dcfs/dcdb/store"
)

// Store is an open embedded store; see package store for what its methods
// promise.
type Store struct {
	dir    string           // immutable
	opt    Options          // immutable
	limits store.Limits     // immutable
	super  store.Superblock // immutable
	first  uint64           // immutable
	fence  uint64           // immutable

	lock       *os.File
	db         *badger.DB
	badgerLog  *badgerLog
	wal        *wal
	segments   *segments
	space      *space
	witness    *witness
	usage      usageCache
	damage     damage
	numbers    numbers
	compaction compaction
	last       atomic.Uint64 // written with commitMu held

	halted   sync.Once     // closes compaction.halt
	life     sync.RWMutex  // held for reading during every call
	closed   bool          // guarded by life
	stop     chan struct{} // closed with the store
	scrubbed chan struct{} // closed when the scrub has ended
	watched  chan struct{} // closed when nobody watches the space any more

	commitMu sync.Mutex // one Commit at a time

	barrierMu sync.Mutex
	acked     atomic.Uint64 // last group that a barrier covered; written with barrierMu held

	failure atomic.Pointer[error] // why nothing is written any more
}

var (
	_ store.Store     = (*Store)(nil)
	_ store.Compacter = (*Store)(nil)
)

// enter begins a call: it fails if ctx has ended or the store was closed. The
// call must end with leave.
func (s *Store) enter(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.life.RLock()
	if s.closed {
		s.life.RUnlock()
		return nil, store.ErrClosed
	}
	return s.life.RUnlock, nil
}

// enterWrite is enter for a call that writes.
func (s *Store) enterWrite(ctx context.Context) (leave func(), err error) {
	if err := s.failure.Load(); err != nil {
		return nil, fmt.Errorf("nothing is written since: %w", *err)
	}
	return s.enter(ctx)
}

// fail notes that a write failed half-way. Nothing is written any more: after
// a failed sync the kernel has forgotten what it could not write, and a second
// one would succeed.
func (s *Store) fail(err error) error {
	s.failure.CompareAndSwap(nil, &err)
	return err
}

// Super implements store.Store.
func (s *Store) Super() store.Superblock { return s.super }

// LastGroup implements store.Store.
func (s *Store) LastGroup() uint64 { return s.last.Load() }

// FirstGroup implements store.Store.
func (s *Store) FirstGroup() uint64 { return s.first }

// Fence implements store.Store. It grows with every open.
func (s *Store) Fence() uint64 { return s.fence }

// Limits implements store.Store.
func (s *Store) Limits() store.Limits { return s.limits }

// Close implements store.Store. A compaction ends before its next step.
func (s *Store) Close() error {
	s.halted.Do(func() { close(s.compaction.halt) })
	<-s.compaction.ended
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var err error
	if s.failure.Load() == nil {
		err = s.barrier()
	}
	return errors.Join(err, s.release())
}

// release closes what is open, the lock last.
func (s *Store) release() error {
	var errs []error
	if s.stop != nil {
		close(s.stop)
		<-s.scrubbed
		<-s.watched
	}
	if s.segments != nil {
		errs = append(errs, s.segments.close())
		s.segments.files.close()
	}
	if s.db != nil {
		errs = append(errs, engineError(s.db.Close()))
	}
	if s.witness != nil {
		errs = append(errs, s.witness.close())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}
