package dcdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/bits"
	"time"

	"dcfs/dcdb/store"
)

// Bounds of one transaction on file data; what is larger is done in steps.
const (
	maxWrite     = 1 << 20 // bytes that one group must take as a whole
	maxDrop      = 256     // records, and pieces of them, dropped in one transaction
	maxCarryOver = 64      // other items that emptying a file carries over
)

func recordKey(rec uint64) string {
	var k [9]byte
	k[0] = byte(KindRecord)
	binary.BigEndian.PutUint64(k[1:], rec)
	return string(k[:])
}

// first is the error of an operation that wants something done before it is run
// again. Update does it.
type first struct {
	do func() error
}

func (f *first) Error() string { return "something else must be done first" }

// visible calls fn for the parts of [a, b) of a record that pieces cover, in
// order, with the piece that is on top there. It may be a hole.
func visible(pieces []piece, a, b uint32, fn func(pc *piece, a, b uint32) error) error {
	for i := len(pieces) - 1; i >= 0 && a < b; i-- {
		pc := &pieces[i]
		lo, hi := max(a, pc.at), min(b, pc.at+pc.n)
		if lo >= hi {
			continue
		}
		if err := visible(pieces[:i], a, lo, fn); err != nil {
			return err
		}
		if err := fn(pc, lo, hi); err != nil {
			return err
		}
		a = hi
	}
	return nil
}

// copyPiece fills dst from pc's bytes, from at in the record on.
func (tx *Tx) copyPiece(dst []byte, pc *piece, at uint32) error {
	from := pc.off + at - pc.at
	data := pc.c.data
	if data == nil {
		v, ok := tx.loaded[pc.c.id]
		if !ok {
			return tx.miss(want{id: pc.c.id, kind: store.KindContent})
		}
		data = v.([]byte)
	}
	if copy(dst, data[from:]) != len(dst) {
		return corrupt("content %v is shorter than its piece", pc.c.id)
	}
	return nil
}

// assemble fills dst, which is zero, with what pieces show from at on.
func (tx *Tx) assemble(dst []byte, pieces []piece, at uint32) error {
	return visible(pieces, at, at+uint32(len(dst)), func(pc *piece, a, b uint32) error {
		if pc.c == nil {
			return nil
		}
		return tx.copyPiece(dst[a-at:b-at], pc, a)
	})
}

// extent is a part of a read that only the store has.
type extent struct {
	id  store.ID
	off int
	dst []byte
}

// Read fills p with k's file data from off on and returns how much there was: it
// is short at the end of the file.
func (s *Space) Read(ctx context.Context, k Key, p []byte, off uint64) (int, error) {
	s.pace.begin()
	tx := &Tx{s: s, ctx: ctx}
	tx.enter()
	defer tx.end()
	var n int
	var exts []extent
	for {
		s.mu.RLock()
		tx.reset()
		var err error
		n, exts, err = tx.planRead(k, p, off, exts[:0])
		s.mu.RUnlock()
		if len(tx.want) == 0 {
			if err != nil {
				return 0, err
			}
			break
		}
		if err := tx.load(); err != nil {
			return 0, err
		}
	}
	if len(exts) > 0 {
		waits(ctx)
	}
	for _, e := range exts {
		if err := s.st.Read(ctx, e.id, store.KindContent, e.off, e.dst); err != nil {
			return 0, readErr(e.id, err)
		}
	}
	return n, nil
}

func (tx *Tx) planRead(k Key, p []byte, off uint64, exts []extent) (int, []extent, error) {
	db, err := tx.DB(k)
	if err != nil {
		return 0, exts, err
	}
	st := db.n.cur
	if off >= st.Size {
		return 0, exts, nil
	}
	p = p[:min(uint64(len(p)), st.Size-off)]
	clear(p)
	for done := 0; done < len(p); {
		rec, at := (off+uint64(done))/RecordBytes, uint32((off+uint64(done))%RecordBytes)
		n := min(len(p)-done, int(RecordBytes-at))
		it, err := st.tree.get(tx, recordKey(rec))
		if err != nil {
			return 0, exts, err
		}
		if it != nil {
			dst := p[done : done+n]
			err = visible(it.pieces, at, at+uint32(n), func(pc *piece, a, b uint32) error {
				switch {
				case pc.c == nil:
				case pc.c.data != nil:
					return tx.copyPiece(dst[a-at:b-at], pc, a)
				default:
					exts = append(exts, extent{pc.c.id, int(pc.off + a - pc.at), dst[a-at : b-at]})
				}
				return nil
			})
			if err != nil {
				return 0, exts, err
			}
		}
		done += n
	}
	return len(p), exts, nil
}

// change is what a write does to one record: either it goes into a content of
// the open group in place, or pieces are the record's new ones.
type change struct {
	rec    uint64
	c      *content // in place if not nil
	at     int      // in c
	data   []byte   // for c
	pieces []piece  // the record's afterwards; nil: they stay
}

// Write writes p at the offset that off returns, as one change up to 1 MiB and
// in several beyond. off and touch run in the transaction: touch after all
// reads and before all changes; it may refuse with an error, else it can Edit
// what goes with the write. Size and Alloc are set here.
func (s *Space) Write(ctx context.Context, k Key, p []byte, off func(*DB) uint64, touch func(*DB) error) (int, error) {
	done := 0
	var start uint64
	for done < len(p) || done == 0 {
		part := p[done:min(len(p), done+maxWrite)]
		if err := s.Room(ctx, len(part)); err != nil {
			return done, err
		}
		err := s.Update(ctx, func(tx *Tx) error {
			db, err := tx.DB(k)
			if err != nil {
				return err
			}
			if done == 0 {
				start = off(db)
			}
			return db.write(part, start+uint64(done), touch)
		})
		if err != nil {
			return done, err
		}
		done += len(part)
		if len(p) == 0 {
			break
		}
	}
	return done, nil
}

func (db *DB) write(p []byte, off uint64, touch func(*DB) error) error {
	end := off + uint64(len(p))
	if err := db.trimmed(end); err != nil {
		return err
	}
	changes, err := db.planWrite(p, off)
	if err != nil {
		return err
	}
	if err := touch(db); err != nil {
		return err
	}
	st := db.edit()
	for i := range changes {
		db.apply(&changes[i])
	}
	if len(p) > 0 {
		st.Size = max(st.Size, end)
	}
	return nil
}

// trimmed wants what lies beyond the end of the file dropped before the file
// grows to size.
func (db *DB) trimmed(size uint64) error {
	if !db.n.cur.excess || size <= db.n.cur.Size {
		return nil
	}
	k, s, ctx := db.n.key, db.tx.s, db.tx.ctx
	return &first{func() error { return s.trim(ctx, k, false) }}
}

// planWrite finds out what writing p at off changes.
func (db *DB) planWrite(p []byte, off uint64) ([]change, error) {
	var changes []change
	for len(p) > 0 {
		rec, at := off/RecordBytes, uint32(off%RecordBytes)
		n := min(len(p), int(RecordBytes-at))
		it, err := db.item(recordKey(rec))
		if err != nil {
			return nil, err
		}
		var old []piece
		if it != nil {
			old = it.pieces
		}
		c, err := db.planRecord(rec, old, at, p[:n], true)
		if err != nil {
			return nil, err
		}
		changes = append(changes, c)
		p, off = p[n:], off+uint64(n)
	}
	return changes, nil
}

// planRecord plans a write of p at a into a record of pieces old.
func (db *DB) planRecord(rec uint64, old []piece, a uint32, p []byte, inPlace bool) (change, error) {
	st, s := db.n.cur, db.tx.s
	c := change{rec: rec}
	b := a + uint32(len(p))
	// What is left of the last block after b is carried over, up to the end
	// of the file.
	tail := b
	if used := min(st.Size, (rec+1)*RecordBytes); used > rec*RecordBytes {
		tail = max(b, min((b+blockBytes-1)&^(blockBytes-1), uint32(used-rec*RecordBytes)))
	}
	if inPlace && len(old) > 0 {
		top := &old[len(old)-1]
		if s.mutable(top) && a >= top.at && a <= top.at+top.n {
			return db.planInPlace(c, old, a, p, tail)
		}
	}
	head := a &^ (blockBytes - 1)
	if head == a && tail == b {
		pieces, err := db.lay(old, a, bytes.Clone(p)) // clears nothing first
		c.pieces = pieces
		return c, err
	}
	buf := make([]byte, tail-head)
	if err := db.tx.assemble(buf[:a-head], old, head); err != nil {
		return c, err
	}
	if err := db.tx.assemble(buf[b-head:], old, b); err != nil {
		return c, err
	}
	copy(buf[a-head:], p)
	var err error
	c.pieces, err = db.lay(old, head, buf)
	return c, err
}

// mutable reports whether pc's content may grow and change in place.
func (s *Space) mutable(pc *piece) bool {
	c := pc.c
	return c != nil && c.group == s.open.num && !c.sealed && c.data != nil && pc.off == 0 && int(pc.n) == len(c.data)
}

// planInPlace plans a write into the content of the topmost piece.
func (db *DB) planInPlace(c change, old []piece, a uint32, p []byte, tail uint32) (change, error) {
	top := old[len(old)-1]
	b := a + uint32(len(p))
	c.c, c.at, c.data = top.c, int(a-top.at), p
	if end := top.at + top.n; b > end {
		if tail > b {
			c.data = make([]byte, tail-a)
			copy(c.data, p)
			if err := db.tx.assemble(c.data[b-a:], old, b); err != nil {
				return c, err
			}
		}
		top.n = tail - top.at
		c.pieces = append(uncovered(old[:len(old)-1], top.at, top.at+top.n), top)
	}
	return c, nil
}

// uncovered copies the pieces that [a, b) does not cover wholly.
func uncovered(pieces []piece, a, b uint32) []piece {
	out := make([]piece, 0, len(pieces)+1)
	for _, pc := range pieces {
		if pc.at < a || pc.at+pc.n > b {
			out = append(out, pc)
		}
	}
	return out
}

// lay returns old with a new content over it, joined if there are too many.
func (db *DB) lay(old []piece, at uint32, data []byte) ([]piece, error) {
	out := uncovered(old, at, at+uint32(len(data)))
	out = append(out, piece{at: at, n: uint32(len(data)), c: &content{data: data}})
	if len(out) > maxPieces {
		return db.join(out)
	}
	return out, nil
}

// join makes one piece of each run of blocks that pieces cover.
func (db *DB) join(pieces []piece) ([]piece, error) {
	var end uint32
	for _, pc := range pieces {
		end = max(end, pc.at+pc.n)
	}
	var out []piece
	for m, blk := blockMask(pieces), uint32(0); m>>blk != 0; {
		blk += uint32(bits.TrailingZeros32(m >> blk))
		n := uint32(bits.TrailingZeros32(^(m >> blk)))
		buf := make([]byte, min((blk+n)*blockBytes, end)-blk*blockBytes)
		if err := db.tx.assemble(buf, pieces, blk*blockBytes); err != nil {
			return nil, err
		}
		out = append(out, piece{at: blk * blockBytes, n: uint32(len(buf)), c: &content{data: buf}})
		blk += n
		if blk >= 32 {
			break
		}
	}
	return out, nil
}

// apply does what was planned.
func (db *DB) apply(c *change) {
	s := db.tx.s
	if c.c != nil {
		old := len(c.c.data)
		keep := min(old, c.at)
		if c.at+len(c.data) > old {
			c.c.data = append(c.c.data[:keep], c.data...)
			s.addDirty(len(c.c.data) - old)
		} else {
			copy(c.c.data[c.at:], c.data)
		}
	}
	if c.pieces == nil {
		return
	}
	db.setPieces(c.rec, c.pieces)
	if top := &c.pieces[len(c.pieces)-1]; top.at+top.n == RecordBytes && top.n >= writeBehindBytes && s.mutable(top) {
		s.open.full = append(s.open.full, top.c)
	}
}

// setPieces makes pieces the record's, the new ones part of the open group.
func (db *DB) setPieces(rec uint64, pieces []piece) {
	s, st := db.tx.s, db.n.cur
	key := recordKey(rec)
	it, err := st.tree.get(db.tx, key)
	if err != nil {
		panic("dcdb: record changed that was not read before: " + err.Error())
	}
	if it != nil {
		st.Alloc -= allocBytes(it.pieces)
	}
	if len(pieces) == 0 {
		if it != nil {
			st.tree.remove(db.tx, key)
		}
		return
	}
	for i := range pieces {
		pc := &pieces[i]
		if pc.since == 0 {
			pc.since = st.Changed
			if pc.c != nil {
				if !pc.c.id.IsZero() {
					db.tx.shares++
				}
				pc.c.group = s.open.num
				s.addDirty(len(pc.c.data))
			}
		}
	}
	st.Alloc += allocBytes(pieces)
	st.tree.put(db.tx, item{key: key, pieces: pieces})
}

// newContent is a content of the open group.
func (s *Space) newContent(data []byte) *content {
	s.addDirty(len(data))
	return &content{data: data, group: s.open.num}
}

// Truncate sets the size of a file. It must be the operation's first change; if
// it returns an error nothing was changed.
func (db *DB) Truncate(size uint64) error {
	st := db.n.cur
	if size >= st.Size {
		if err := db.trimmed(size); err != nil {
			return err
		}
		db.edit().Size = size
		return nil
	}
	rec, cut := size/RecordBytes, uint32(size%RecordBytes)
	last, err := db.item(recordKey(rec))
	if err != nil {
		return err
	}
	from := rec
	if cut > 0 {
		from++
	}
	recs, more, err := db.records(from, 1<<64-1)
	if err != nil {
		return err
	}
	if more {
		return db.truncateMany(size, rec, cut, last)
	}
	st = db.edit()
	st.Size, st.excess = size, false
	db.cutRecord(rec, cut, last)
	for _, r := range recs {
		db.setPieces(r, nil)
	}
	return nil
}

// records returns the records in [from, to) that are not all hole, up to
// maxDrop, and whether there are more.
func (db *DB) records(from, to uint64) (recs []uint64, more bool, err error) {
	t, pieces := &db.n.cur.tree, 0
	err = t.ascend(db.tx, recordKey(from), func(it *item) bool {
		if ItemKind(it.key[0]) != KindRecord || len(it.key) != 9 {
			return false
		}
		rec := binary.BigEndian.Uint64([]byte(it.key[1:]))
		if rec >= to {
			return false
		}
		if more = pieces >= maxDrop; !more {
			recs = append(recs, rec)
			pieces += len(it.pieces)
		}
		return !more
	})
	return recs, more, err
}

// cutRecord drops what a record has from cut on; nothing at all is left if cut
// is zero, but then the record is not the last one, and others drop it.
func (db *DB) cutRecord(rec uint64, cut uint32, it *item) {
	if it == nil || cut == 0 {
		return
	}
	var pieces []piece
	for _, pc := range it.pieces {
		if pc.at >= cut {
			continue
		}
		if pc.c != nil {
			pc.n = min(pc.n, cut-pc.at)
		} else { // a hole is of whole blocks
			pc.n = min(pc.n, (cut+blockBytes-1)&^(blockBytes-1)-pc.at)
		}
		pieces = append(pieces, pc)
	}
	if blockMask(pieces) == 0 {
		pieces = nil // only holes are left
	}
	db.setPieces(rec, pieces)
}

// truncateMany truncates a file that has more records to drop than one group may.
// Emptied, it gets a new tree and the old one is dropped as a whole; else the
// records stay for a while beyond the end of the file, where nothing sees them.
func (db *DB) truncateMany(size, rec uint64, cut uint32, last *item) error {
	if size == 0 {
		items, ok, err := db.others()
		if err != nil {
			return err
		}
		if ok {
			st := db.edit()
			st.Size, st.Alloc = 0, 0
			st.tree, st.rebuilt, st.excess = tree{}, true, false
			for _, it := range items {
				st.tree.put(db.tx, it)
			}
			return nil
		}
	}
	st := db.edit()
	st.Size = size
	db.cutRecord(rec, cut, last)
	st.excess = true
	db.tx.s.trimLater(db.n.key)
	return nil
}

// others returns the items that are no records, if they are few.
func (db *DB) others() (items []item, few bool, err error) {
	collect := func(it *item) bool {
		items = append(items, *it)
		return len(items) <= maxCarryOver
	}
	t := &db.n.cur.tree
	err = t.ascend(db.tx, "", func(it *item) bool { return ItemKind(it.key[0]) != KindRecord && collect(it) })
	if err == nil && len(items) <= maxCarryOver {
		err = t.ascend(db.tx, string(KindRecord+1), collect)
	}
	return items, len(items) <= maxCarryOver, err
}

// trim drops the records beyond the end of a file, in steps, gently if nobody
// waits for it.
func (s *Space) trim(ctx context.Context, k Key, gently bool) error {
	for more := true; more; {
		began := time.Now()
		err := s.runUpdate(ctx, func(tx *Tx) error {
			more = false
			db, err := tx.DB(k)
			if err != nil || !db.n.cur.excess {
				return err
			}
			var recs []uint64
			from := (db.n.cur.Size + RecordBytes - 1) / RecordBytes
			if recs, more, err = db.records(from, 1<<64-1); err != nil {
				return err
			}
			for _, rec := range recs {
				if _, err := db.item(recordKey(rec)); err != nil {
					return err
				}
			}
			st := db.edit()
			st.excess = more
			for _, rec := range recs {
				db.setPieces(rec, nil)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if more && gently {
			s.rest(time.Since(began))
		}
	}
	return nil
}

// Punch makes [off, off+n) a hole. The size stays. It must be the operation's
// first change; if it returns an error nothing was changed.
func (db *DB) Punch(off, n uint64) error {
	st := db.n.cur
	end := min(off+n, st.Size)
	if off >= end {
		db.edit()
		return nil
	}
	// Whole blocks become holes, the rest zeros; the last block of the file
	// counts as whole.
	a := (off + blockBytes - 1) &^ (blockBytes - 1)
	b := end &^ (blockBytes - 1)
	if end == st.Size {
		b = (end + blockBytes - 1) &^ (blockBytes - 1)
	}
	var edges []change
	for _, e := range [...][2]uint64{{off, min(a, end)}, {max(b, a), end}} {
		if e[0] >= e[1] {
			continue
		}
		var err error
		if edges, err = db.planZero(edges, e[0], e[1]); err != nil {
			return err
		}
	}
	var recs []uint64
	if a < b {
		var more bool
		var err error
		recs, more, err = db.records(a/RecordBytes, (b+RecordBytes-1)/RecordBytes)
		if err != nil {
			return err
		}
		if more {
			return db.punchFirst(recs[0]+1, recs[len(recs)-1])
		}
		for _, rec := range recs {
			if _, err := db.item(recordKey(rec)); err != nil {
				return err
			}
		}
	}
	db.edit()
	for i := range edges {
		db.apply(&edges[i])
	}
	for _, rec := range recs {
		base := rec * RecordBytes
		lo, hi := max(a, base)-base, min(b, base+RecordBytes)-base
		db.punchRecord(rec, uint32(lo), uint32(hi))
	}
	return nil
}

// planZero adds zeros for a part of one block to changes, if there is data.
func (db *DB) planZero(changes []change, a, b uint64) ([]change, error) {
	rec := a / RecordBytes
	it, err := db.item(recordKey(rec))
	if err != nil || it == nil {
		return changes, err
	}
	old := it.pieces
	if n := len(changes); n > 0 && changes[n-1].rec == rec {
		old = changes[n-1].pieces
	}
	if blockMask(old)>>(a%RecordBytes/blockBytes)&1 == 0 {
		return changes, nil
	}
	c, err := db.planRecord(rec, old, uint32(a%RecordBytes), make([]byte, b-a), false)
	return append(changes, c), err
}

// punchFirst wants the records in [from, to), all inside the hole, dropped in
// groups before the operation that makes the hole is run again.
func (db *DB) punchFirst(from, to uint64) error {
	k, s, ctx := db.n.key, db.tx.s, db.tx.ctx
	return &first{func() error {
		return s.Update(ctx, func(tx *Tx) error {
			db, err := tx.DB(k)
			if err != nil {
				return err
			}
			recs, _, err := db.records(from, to)
			if err != nil {
				return err
			}
			for _, rec := range recs {
				if _, err := db.item(recordKey(rec)); err != nil {
					return err
				}
			}
			db.edit()
			for _, rec := range recs {
				db.setPieces(rec, nil)
			}
			return nil
		})
	}}
}

// punchRecord makes [a, b) of a record a hole.
func (db *DB) punchRecord(rec uint64, a, b uint32) {
	it, err := db.n.cur.tree.get(db.tx, recordKey(rec))
	if err != nil {
		panic("dcdb: record punched that was not read before: " + err.Error())
	}
	if it == nil {
		return
	}
	pieces := uncovered(it.pieces, a, b)
	for _, pc := range pieces {
		if pc.at < b && a < pc.at+pc.n {
			pieces = append(pieces, piece{at: a, n: b - a})
			break
		}
	}
	if blockMask(pieces) == 0 {
		pieces = nil
	}
	db.setPieces(rec, pieces)
}

// Seek returns where the next data, or hole, begins at or after off, which must
// be below the file's size, and false if there is no data. Blocks of 4 KiB are
// told apart. The end of the file is a hole.
func (db *DB) Seek(off uint64, hole bool) (uint64, bool, error) {
	size := db.n.cur.Size
	at, found := off, false
	err := db.n.cur.tree.ascend(db.tx, recordKey(off/RecordBytes), func(it *item) bool {
		if ItemKind(it.key[0]) != KindRecord {
			return false
		}
		base := binary.BigEndian.Uint64([]byte(it.key[1:])) * RecordBytes
		if base >= size {
			return false
		}
		if base > at && hole {
			found = true // a record is missing
			return false
		}
		at = max(at, base)
		m := blockMask(it.pieces)
		if hole {
			m = ^m
		}
		blk := uint32((at - base) / blockBytes)
		if m = m >> blk << blk; m != 0 {
			at = max(at, base+uint64(bits.TrailingZeros32(m))*blockBytes)
			found = true
			return false
		}
		at = base + RecordBytes
		return true
	})
	if err != nil {
		return 0, false, err
	}
	if hole {
		return min(at, size), true, nil
	}
	return at, found && at < size, nil
}
