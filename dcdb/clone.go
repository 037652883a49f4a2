package dcdb

import (
	"context"
	"slices"
)

// cloneRecords is how many records one transaction shares.
const cloneRecords = 32

// Clone makes records of dst share the contents that src has there. Offsets must
// be multiples of RecordBytes. It shares whole records, and what the last one of
// src has if dst ends with it too, and returns how many bytes that were, up to n:
// less at the end of src. It is done in several changes if n is large. src may be
// of any view. touch is as for Write. Bytes that can't be shared, since they are
// few, are copied.
func (s *Space) Clone(ctx context.Context, src Key, srcOff uint64, dst Key, dstOff, n uint64, touch func(*DB) error) (uint64, error) {
	var done uint64
	for done < n {
		var step uint64
		err := s.Update(ctx, func(tx *Tx) error {
			from, err := tx.DB(src)
			if err != nil {
				return err
			}
			to, err := tx.DB(dst)
			if err != nil {
				return err
			}
			step = shareable(from.n.cur.Size, to.n.cur.Size, srcOff+done, dstOff+done, n-done)
			if step == 0 {
				return nil
			}
			return to.clone(from, srcOff+done, dstOff+done, step, touch)
		})
		if err != nil || step == 0 {
			return done, err
		}
		done += step
	}
	return done, nil
}

// shareable returns how many of n bytes one step can share.
func shareable(srcSize, dstSize, srcOff, dstOff, n uint64) uint64 {
	if srcOff >= srcSize {
		return 0
	}
	n = min(n, srcSize-srcOff, cloneRecords*RecordBytes)
	if n%RecordBytes != 0 && (srcOff+n < srcSize || dstOff+n < dstSize) {
		n -= n % RecordBytes
	}
	return n
}

func (db *DB) clone(src *DB, srcOff, dstOff, n uint64, touch func(*DB) error) error {
	if err := db.trimmed(dstOff + n); err != nil {
		return err
	}
	count := (n + RecordBytes - 1) / RecordBytes
	all := make([][]piece, count)
	for i := range count {
		it, err := src.item(recordKey(srcOff/RecordBytes + i))
		if err != nil {
			return err
		}
		if _, err := db.item(recordKey(dstOff/RecordBytes + i)); err != nil {
			return err
		}
		if it == nil {
			continue
		}
		if all[i], err = src.share(it.pieces); err != nil {
			return err
		}
	}
	if err := touch(db); err != nil {
		return err
	}
	st := db.edit()
	for i, pieces := range all {
		db.setPieces(dstOff/RecordBytes+uint64(i), pieces)
	}
	st.Size = max(st.Size, dstOff+n)
	return nil
}

// share copies pieces for another slot. The contents must have been committed:
// what is not yet is committed first.
func (db *DB) share(pieces []piece) ([]piece, error) {
	s, k, ctx := db.tx.s, db.n.key, db.tx.ctx
	out := make([]piece, len(pieces))
	for i, pc := range pieces {
		pc.since = 0
		switch c := pc.c; {
		case c == nil:
		case !c.id.IsZero() && c.id.Group < s.open.num:
			pc.c = &content{id: c.id}
		case c.id.IsZero() && len(c.data) <= MaxInlineValue && c.group != s.open.num:
			pc.c, pc.off = &content{data: slices.Clone(c.data[pc.off : pc.off+pc.n])}, 0
		default:
			return nil, &first{func() error { return s.Sync(ctx, k) }}
		}
		out[i] = pc
	}
	return out, nil
}
