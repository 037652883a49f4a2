package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"dcfs/dcdb/store"
)

// groupSkip is how far FirstGroup jumps at an open, and how far beyond the last
// durable group a new one may be: so a number that was used before a crash is
// not used after it.
const groupSkip = 1024

// Create makes a volume in dir, which must be missing or empty, and opens it.
// What an interrupted Create left is completed.
func Create(dir string, o Options) (*Store, error) {
	return open(dir, o, func(err error) error {
		if err == nil {
			return fmt.Errorf("create %s: there is a volume already", dir)
		}
		return makeVolume(dir, o, err)
	})
}

// Open opens the volume in dir.
func Open(dir string, o Options) (*Store, error) {
	if _, err := readSuper(dir); err != nil {
		return nil, err // without leaving a lock file in a foreign directory
	}
	return open(dir, o, func(err error) error { return err })
}

// OpenOrCreate opens the volume in dir, or makes one if dir is missing or
// empty.
func OpenOrCreate(dir string, o Options) (*Store, error) {
	return open(dir, o, func(err error) error { return makeVolume(dir, o, err) })
}

// open takes the lock, lets prepare act on what readSuper says, and starts the
// store.
func open(dir string, o Options, prepare func(error) error) (_ *Store, err error) {
	if err := prepareDir(dir); err != nil {
		return nil, err
	}
	total, _, err := statfs(dir)
	if err != nil {
		return nil, err
	}
	o = o.withDefaults(total)
	s := &Store{dir: dir, opt: o, limits: o.limits(), numbers: numbers{next: map[uint64]uint32{}}}
	if s.lock, err = lock(dir, o.LockWait); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	_, err = readSuper(dir)
	if err = prepare(err); err != nil {
		return nil, err
	}
	if s.super, err = readSuper(dir); err != nil {
		return nil, err
	}
	if err = o.unlock(s.super); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if err = s.start(); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return s, nil
}

func (o Options) unlock(sb store.Superblock) error {
	if o.Unlock != nil {
		return o.Unlock(sb)
	}
	if sb.Key != "" {
		return ErrSealed
	}
	return nil
}

// ChangeKey replaces the wrapped key of the volume in dir, which nobody may have
// open, by what change returns. After a crash it has the old one or the new one.
func ChangeKey(dir string, wait time.Duration, change func(sb store.Superblock) (string, error)) error {
	if _, err := readSuper(dir); err != nil {
		return err
	}
	l, err := lock(dir, wait)
	if err != nil {
		return err
	}
	defer l.Close()
	sb, err := readSuper(dir)
	if err != nil {
		return err
	}
	if sb.Key, err = change(sb); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if (sb.Key != "") != slices.Contains(sb.Incompat, featureSealed) {
		return fmt.Errorf("%s: a volume is sealed for ever or never", dir)
	}
	return writeSuper(dir, sb)
}

// prepareDir makes a missing directory, and refuses a foreign one before
// anything is put there.
func prepareDir(dir string) error {
	_, err := readSuper(dir)
	if !errors.Is(err, ErrNoVolume) {
		if errors.Is(err, ErrForeign) {
			return err
		}
		return nil // whatever it is, it is told when the lock is held
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(filepath.Clean(dir)))
}

// makeVolume makes a volume where readSuper found none. The superblock comes
// last: with it, everything else is there.
func makeVolume(dir string, o Options, found error) error {
	if !errors.Is(found, ErrNoVolume) {
		return found
	}
	now := o.Now
	if now == nil {
		now = time.Now
	}
	sb := store.Superblock{
		Version: store.FormatVersion,
		UUID:    store.NewUUID(),
		Created: now().UTC(),
		Options: o.VolumeOptions,
	}
	if o.NewKey != nil {
		var err error
		if sb.Key, err = o.NewKey(sb.UUID); err != nil {
			return fmt.Errorf("create %s: %w", dir, err)
		}
		sb.Incompat = append(sb.Incompat, featureSealed)
	}
	for _, sub := range []string{recordsName, segmentsName} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return err
		}
	}
	if err := createWitness(dir, sb.UUID); err != nil {
		return fmt.Errorf("create %s: %w", dir, err)
	}
	if err := writeSuper(dir, sb); err != nil {
		return fmt.Errorf("create %s: %w", dir, err)
	}
	return nil
}

// start opens the engine and clears away what a crash left.
func (s *Store) start() error {
	var seen witnessed
	var err error
	if s.witness, seen, err = openWitness(s.dir, s.super.UUID); err != nil {
		return err
	}
	if s.space, err = newSpace(s.dir, s.opt); err != nil {
		return err
	}
	if err := s.space.forWrite(0); err != nil {
		return fmt.Errorf("open: %w: it takes %d MiB", err, s.space.scratch()>>20)
	}
	records := filepath.Join(s.dir, recordsName)
	if err := checkTables(records); err != nil {
		return err
	}
	s.badgerLog = &badgerLog{log: s.opt.Log}
	if s.db, err = openBadger(records, s.opt, s.badgerLog); err != nil {
		return err
	}
	if err := anchor(s.db); err != nil {
		return fmt.Errorf("prepare records: %w", engineError(err))
	}
	if s.wal, err = newWAL(s.db, records, s.opt.MemTableBytes); err != nil {
		return err
	}
	s.wal.rotated = func() { s.space.lookAt(s.db.Levels()) }
	s.wal.rotated()
	if err := s.recover(seen); err != nil {
		return err
	}
	s.stop = make(chan struct{})
	s.scrubbed, s.watched = make(chan struct{}), make(chan struct{})
	go s.space.watch(s.db, s.stop, s.watched)
	go s.scrub(s.stop, s.scrubbed)
	s.compaction.turn = make(chan struct{}, 1)
	s.compaction.halt, s.compaction.ended = make(chan struct{}), make(chan struct{})
	go s.compactor()
	return nil
}
