package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"dcfs/dcdb/store"
)

const recordPrefix = 'r'

func recordKey(key []byte) []byte {
	return append(append(make([]byte, 0, 1+len(key)), recordPrefix), key...)
}

// Get implements store.Records.
func (s *Store) Get(ctx context.Context, keys ...[]byte) (values [][]byte, err error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	defer recovered("get", &err)
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	values = make([][]byte, len(keys))
	for i, k := range keys {
		if values[i], err = s.getRecord(txn, k); err != nil {
			return nil, fmt.Errorf("get: %w", err)
		}
	}
	return values, nil
}

// getRecord returns a record's value, nil if it is absent.
func (s *Store) getRecord(txn *badger.Txn, key []byte) (value []byte, err error) {
	if err := s.damage.check(recordKey(key), recordKey(key)); err != nil {
		return nil, err
	}
	item, err := txn.Get(recordKey(key))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, engineError(err)
	}
	frame, err := item.ValueCopy(nil)
	if err != nil {
		return nil, engineError(err)
	}
	return store.DecodeRecord(s.super.UUID, key, frame)
}

// Scan implements store.Records.
func (s *Store) Scan(ctx context.Context, from, to []byte, limit int) (rs []store.Record, err error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if limit <= 0 {
		return nil, nil
	}
	defer recovered("scan", &err)
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	it := txn.NewIterator(badger.IteratorOptions{Prefix: recordKey(common(from, to))})
	defer it.Close()
	reached := recordKey(from) // every key up to it is accounted for
	for it.Seek(reached); it.Valid() && len(rs) < limit; it.Next() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		item := it.Item()
		if err := s.damage.check(reached, item.Key()); err != nil {
			return nil, fmt.Errorf("scan: %w", err)
		}
		reached = item.KeyCopy(reached[:0])
		key := bytes.Clone(item.Key()[1:])
		if len(to) > 0 && bytes.Compare(key, to) >= 0 {
			break
		}
		frame, err := item.ValueCopy(nil)
		if err != nil {
			return nil, fmt.Errorf("scan: %w", engineError(err))
		}
		value, err := store.DecodeRecord(s.super.UUID, key, frame)
		if err != nil {
			return nil, fmt.Errorf("scan: %w", err)
		}
		rs = append(rs, store.Record{Key: key, Value: value})
	}
	if len(rs) < limit {
		end := recordKey(to)
		if len(to) == 0 {
			end[0]++
		}
		if err := s.damage.check(reached, end); err != nil {
			return nil, fmt.Errorf("scan: %w", err)
		}
	}
	return rs, nil
}

// common returns what all keys in [from, to) begin with. Badger goes no further
// than that: a scan that only looked at to would pass over whatever was deleted
// behind it, and that can be much.
func common(from, to []byte) []byte {
	n := 0
	for n < min(len(from), len(to)) && from[n] == to[n] {
		n++
	}
	if n == len(to)-1 && n < len(from) && from[n]+1 == to[n] {
		n++ // to is the first key behind them
	}
	return from[:n]
}

// Commit implements store.Records.
func (s *Store) Commit(ctx context.Context, b *store.Batch) (err error) {
	leave, err := s.enterWrite(ctx)
	if err != nil {
		return err
	}
	defer leave()
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if err := store.CheckBatch(b, s.fence, s.last.Load(), s.first, s.limits); err != nil {
		return err
	}
	if err := s.near(b.Group); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	txn, bytes, err := s.batchTxn(b)
	if err != nil {
		return fmt.Errorf("commit group %d: %w", b.Group, err)
	}
	defer txn.Discard()
	if err := s.space.forWrite(bytes); err != nil {
		return fmt.Errorf("commit group %d: %w", b.Group, err)
	}
	// From here on an error leaves open what is durable, or written at all.
	if err := s.segments.sync(); err != nil {
		return s.fail(fmt.Errorf("commit group %d: %w", b.Group, err))
	}
	if err := s.wal.write(txn, bytes, int64(len(b.Puts)+len(b.Deletes)+1), true); err != nil {
		return s.fail(fmt.Errorf("commit group %d: %w", b.Group, engineError(err)))
	}
	for _, k := range b.Deletes {
		s.compaction.bytes.Add(int64(len(k)))
	}
	s.compaction.records.Add(int64(len(b.Deletes)))
	s.last.Store(b.Group)
	s.segments.committed(b.Group)
	s.numbers.forget(b.Group)
	return nil
}

// batchTxn makes the transaction of a batch and of the state that goes with
// it, and returns the bytes of its keys and values.
func (s *Store) batchTxn(b *store.Batch) (txn *badger.Txn, bytes int64, err error) {
	txn = s.db.NewTransaction(true)
	defer func() {
		if err != nil {
			txn.Discard()
		}
	}()
	set := func(key, frame []byte) error {
		bytes += int64(len(key) + len(frame))
		return engineError(txn.Set(key, frame))
	}
	for _, r := range b.Puts {
		if err := set(recordKey(r.Key), store.EncodeRecord(s.super.UUID, r.Key, r.Value)); err != nil {
			return nil, 0, err
		}
	}
	for _, k := range b.Deletes {
		key := recordKey(k)
		bytes += int64(len(key))
		if err := txn.Delete(key); err != nil {
			return nil, 0, engineError(err)
		}
	}
	st := state{last: b.Group, first: s.first, fence: s.fence}
	st.next, st.segs = s.segments.states(b.Group)
	return txn, bytes, set(stateKey, store.EncodeRecord(s.super.UUID, stateKey, st.encode()))
}

// Barrier implements store.Records.
func (s *Store) Barrier(ctx context.Context) error {
	leave, err := s.enterWrite(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return s.barrier()
}

func (s *Store) barrier() error {
	s.barrierMu.Lock()
	defer s.barrierMu.Unlock()
	last := s.last.Load()
	acked := s.acked.Load()
	if last == acked {
		return nil
	}
	begun := make(chan error, 1)
	go func() { begun <- s.witness.begin(last, acked) }()
	err := s.wal.sync()
	if err = errors.Join(err, <-begun); err != nil {
		return s.fail(fmt.Errorf("barrier: %w", err))
	}
	s.acked.Store(last)
	if err := s.witness.done(last); err != nil {
		return s.fail(err)
	}
	return nil
}

// near refuses a group number that an open after a crash might use again. It
// is for callers that leave out numbers, or barriers.
func (s *Store) near(group uint64) error {
	for range 2 {
		if group < max(s.acked.Load(), s.first)+groupSkip {
			return nil
		}
		if err := s.barrier(); err != nil {
			return err
		}
	}
	return fmt.Errorf("group %d: %d or more beyond the last one, %d", group, groupSkip, s.acked.Load())
}

// engineError gives Badger's errors the names of package store, in one line.
func engineError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, badger.ErrTxnTooBig):
		return store.ErrTooBig
	case errors.Is(err, badger.ErrDBClosed), errors.Is(err, badger.ErrBlockedWrites):
		return store.ErrClosed
	}
	if full := asFull(err); errors.Is(full, store.ErrFull) {
		return store.ErrFull
	}
	return errors.New(firstLine(err.Error()))
}
