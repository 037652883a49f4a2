package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"

	"dcfs/dcdb/store"
)

// Badger deletes by writing a mark, and gives space back when a compaction
// brings the mark down to what it hides. By itself it may never do that: the
// mark stays in memory until a memtable more was written, and then above what
// it hides until its level overflows. 100,000 records of 4 KiB, deleted, still
// took 403 MiB a minute later.
//
// So a compaction pushes the memtable out, with a filler that is written to
// one key until Badger begins a new log file, and then brings all levels into
// one by Badger's Flatten, which rewrites what marks and older values overlap.
// Flatten does nothing where there are tables in level 0 only; so a new volume
// gets an anchor, a key that stays in the last level for ever. A filler is
// written as any small object is: in no order with batches, whose
// own write sees to invariant (2). A crash may leave some of it; nobody reads
// it, and the next compaction drops it.
//
// In the background that happens when the deleted bytes are worth it, with
// pauses as long as the work between them.
const (
	// compactLeastBytes and a memtable, which the filler takes, are what must
	// have been deleted at least, and a compactShare-th of all tables: so a
	// deleted byte never costs more than a few written ones.
	compactLeastBytes = 16 << 20
	compactShare      = 4

	// compactCheck is how often that is looked at. While much is being deleted
	// from one look to the next, it waits for compactMore times as much.
	compactCheck = time.Second
	compactMore  = 4

	// A compaction in the background is followed by so many times its own
	// duration of rest, a failed one by compactRetry.
	compactRest  = 10
	compactRetry = time.Minute

	// fillerBytes is written at a time; it must be below Badger's threshold
	// for the value log with the smallest memtable.
	fillerBytes = 256 << 10

	// pauseMost bounds a single pause, for Badger's own compactors stand still
	// while it flattens.
	pauseMost = time.Second
	// crowdedTables are so many tables in level 0 that there is no pause: at
	// three times as many, writes must wait.
	crowdedTables = 5
)

var (
	fillerKey = []byte("mfiller")
	anchorKey = []byte("manchor")
)

// anchor brings the anchor to Badger's last level, if there is nothing below
// level 0. DropPrefix pushes the memtable out and compacts level 0, with
// everything else standing still: that is for a volume that nobody uses yet.
func anchor(db *badger.DB) error {
	for _, l := range db.Levels() {
		if l.Level > 0 && l.NumTables > 0 {
			return nil
		}
	}
	err := db.Update(func(txn *badger.Txn) error {
		return errors.Join(txn.Set(anchorKey, nil), txn.Set(fillerKey, nil))
	})
	if err != nil {
		return err
	}
	return db.DropPrefix(fillerKey) // of a prefix without keys it does nothing
}

// compaction is what the compactions of a store share.
type compaction struct {
	// What was deleted from Badger since the last compaction began.
	bytes   atomic.Int64 // of keys and of small objects
	records atomic.Int64 // whose sizes are not known

	turn  chan struct{} // holds a token while one runs
	hurry atomic.Int32  // how many callers wait for one: no pauses then
	halt  chan struct{} // closed before the store is: it must end
	ended chan struct{} // closed when the background has ended
}

// deleted estimates the bytes that were deleted since the last compaction, and
// returns those of all tables. A deleted record is taken for one of the average
// size: to look at each would cost a read.
func (s *Store) deleted() (deleted, all int64) {
	deleted = s.compaction.bytes.Load()
	keys := int64(0)
	for _, t := range s.db.Tables() {
		all += int64(t.OnDiskSize)
		keys += int64(t.KeyCount)
	}
	if keys > 0 {
		deleted += s.compaction.records.Load() * (all / keys)
	}
	return deleted, all
}

// compactor makes compactions in the background.
func (s *Store) compactor() {
	defer close(s.compaction.ended)
	t := time.NewTicker(compactCheck)
	defer t.Stop()
	var rested time.Time
	var seen int64
	for {
		select {
		case <-s.compaction.halt:
			return
		case <-t.C:
		}
		if time.Now().Before(rested) || s.failure.Load() != nil {
			continue
		}
		deleted, all := s.deleted()
		least := max(compactLeastBytes, s.opt.MemTableBytes, all/compactShare)
		grows := deleted-seen > least/16
		seen = deleted
		if deleted < least || grows && deleted < compactMore*least {
			continue
		}
		began := time.Now()
		err := s.compact(context.Background(), true)
		rested = time.Now().Add(compactRest * time.Since(began))
		if err != nil && !errors.Is(err, store.ErrClosed) {
			s.opt.Log("compaction in the background: %v", err)
			rested = time.Now().Add(compactRetry)
		}
	}
}

// Compact implements store.Compacter. It writes a memtable's size at least, and
// rewrites the tables that hold what was deleted.
func (s *Store) Compact(ctx context.Context) error {
	leave, err := s.enterWrite(ctx)
	if err != nil {
		return err
	}
	defer leave()
	s.compaction.hurry.Add(1)
	defer s.compaction.hurry.Add(-1)
	if err := s.compact(ctx, false); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	return nil
}

// compact makes one compaction, when no other one runs. The store is not
// closed before it returns.
func (s *Store) compact(ctx context.Context, gently bool) error {
	p := &pace{s: s, ctx: ctx, gently: gently, last: time.Now()}
	select {
	case s.compaction.turn <- struct{}{}:
		defer func() { <-s.compaction.turn }()
	case <-s.compaction.halt:
		return store.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	// What a damaged block makes unreadable is known only from its table: none
	// is rewritten before the scrub has looked at it.
	select {
	case <-s.scrubbed:
	case <-s.compaction.halt:
		return store.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := s.damage.bad(); err != nil {
		return err
	}
	bytes, records := s.compaction.bytes.Load(), s.compaction.records.Load()
	if err := s.pushOut(p); err != nil {
		return err
	}
	if err := s.flatten(p); err != nil {
		return err
	}
	s.compaction.bytes.Add(-bytes)
	s.compaction.records.Add(-records)
	s.usage.forget()
	return nil
}

// pushOut writes filler until Badger begins a new memtable, and returns when
// the old one is a table.
func (s *Store) pushOut(p *pace) error {
	old := s.wal.current()
	filler := make([]byte, fillerBytes)
	for s.wal.current() == old {
		if err := p.next(); err != nil {
			return err
		}
		if err := s.writeFiller(filler); err != nil {
			return err
		}
	}
	if err := s.writeFiller(nil); err != nil {
		return err
	}
	for {
		// Badger removes the log when the table is durable.
		if _, err := os.Lstat(s.wal.path(old)); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		if err := p.ended(); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// writeFiller writes one value of the filler; nil deletes it.
func (s *Store) writeFiller(value []byte) error {
	size := int64(len(fillerKey) + len(value))
	if err := s.space.forWrite(size); err != nil {
		return err
	}
	txn := s.db.NewTransaction(true)
	defer txn.Discard()
	var err error
	if value == nil {
		err = txn.Delete(fillerKey)
	} else {
		err = txn.Set(fillerKey, value)
	}
	if err == nil {
		err = s.wal.write(txn, size, 1, false)
	}
	return engineError(err)
}

// stopFlatten is what a step of Flatten that must not begin panics with.
type stopFlatten struct{ err error }

// flatten brings all levels of Badger into one, step by step. Flatten can't be
// told to stop, or to take its time. But it logs before each of its steps, in
// its own goroutine and with no lock held, and restarts Badger's compactors by
// defer; so the step is looked at in the logger, and not begun if that panics.
func (s *Store) flatten(p *pace) (err error) {
	step := func() {
		s.space.lookAt(s.db.Levels())
		err := s.space.forWrite(0)
		if err == nil {
			err = p.next()
		}
		if err != nil {
			panic(stopFlatten{err})
		}
	}
	defer func() {
		s.badgerLog.step.Store(nil)
		s.space.lookAt(s.db.Levels())
		switch v := recover().(type) {
		case nil:
		case stopFlatten:
			err = v.err
		default:
			panic(v)
		}
	}()
	s.badgerLog.step.Store(&step)
	// Badger keeps what a reader that began before the mark might see. A new
	// one lets it know that there is none.
	s.db.View(func(*badger.Txn) error { return nil })
	return engineError(s.db.Flatten(1))
}

// flattenStep begins what Badger logs before each step of Flatten.
const flattenStep = "Attempting to compact"

func isFlattenStep(format string) bool { return strings.HasPrefix(format, flattenStep) }

// pace is asked before each step of a compaction.
type pace struct {
	s      *Store
	ctx    context.Context
	gently bool
	last   time.Time // when the last step began
}

// next returns when the next step may begin, or why it may not.
func (p *pace) next() error {
	for end := time.Now().Add(min(time.Since(p.last), pauseMost)); p.gently && time.Now().Before(end); {
		if p.s.compaction.hurry.Load() > 0 || p.s.db.Levels()[0].NumTables >= crowdedTables {
			break
		}
		t := time.NewTimer(min(time.Until(end), 50*time.Millisecond))
		select {
		case <-t.C:
		case <-p.s.compaction.halt:
		}
		t.Stop()
		if err := p.ended(); err != nil {
			return err
		}
	}
	p.last = time.Now()
	return p.ended()
}

// ended returns why the compaction must end, if it must.
func (p *pace) ended() error {
	select {
	case <-p.s.compaction.halt:
		return store.ErrClosed
	default:
	}
	if err := p.s.failure.Load(); err != nil {
		return *err
	}
	return p.ctx.Err()
}
