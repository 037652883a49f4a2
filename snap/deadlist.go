package snap

import (
	"context"
	"encoding/binary"
	"fmt"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// Kinds of entries of dead lists. The numbers are on disk.
const (
	entryRef       = 1
	entryHead      = 2
	entryUnsized   = 3 // inherited; written until sizes were
	entryInherited = 4
)

// listBytes is where a record of a dead list ends and another begins.
const listBytes = 4 << 10

// entry is what a fork's live state has no more and a kept counter still needs.
type entry struct {
	kind byte
	id   store.ID // of entryRef
	ino  uint64   // of the others
	size uint64   // bytes; stored for inherited heads only: IDs and saved heads tell it
}

func (e *entry) append(b []byte) []byte {
	b = append(b, e.kind)
	if e.kind == entryRef {
		return e.id.Append(b)
	}
	b = binary.AppendUvarint(b, e.ino)
	if e.kind == entryInherited {
		b = binary.AppendUvarint(b, e.size)
	}
	return b
}

// decodeEntries reads a record of a dead list.
func decodeEntries(val []byte) ([]entry, error) {
	r := newReader(val)
	var out []entry
	for r.err == nil && len(r.b) > 0 {
		e := entry{kind: r.b[0]}
		r.b = r.b[1:]
		switch e.kind {
		case entryRef:
			id, rest, err := dcdb.DecodeID(r.b)
			if err != nil {
				return nil, err
			}
			e.id, e.size, r.b = id, uint64(id.Len), rest
		case entryHead, entryUnsized:
			e.ino = r.num()
		case entryInherited:
			e.ino, e.size = r.num(), r.num()
		default:
			r.fail()
		}
		out = append(out, e)
	}
	return out, r.end()
}

// span is when something died and since when it had been in use, in the fork
// whose keys have a prefix.
type span struct{ prefix, death, since uint64 }

// sum is what a dead list holds for a span.
type sum struct{ count, bytes uint64 }

func (s span) key(kind byte) []byte { return key(kind, s.prefix, s.death, s.since) }

type forkInode struct{ prefix, ino uint64 }

// lists gathers the dead lists' changes of one group. It is the flusher's.
type lists struct {
	b     *dcdb.Builder
	added map[span][][]byte      // records, the last one growing
	sums  map[span][2]int64      // count and bytes, as they change
	saved map[forkInode][]string // keys of heads saved by the group
	bulks uint32
	wake  bool
}

// of returns the lists of b's group, empty if b is new.
func (l *lists) of(b *dcdb.Builder) *lists {
	if l.b != b {
		*l = lists{b: b, added: map[span][][]byte{}, sums: map[span][2]int64{}, saved: map[forkInode][]string{}}
	}
	return l
}

func (l *lists) add(prefix, death, since uint64, e entry) {
	s := span{prefix, death, since}
	recs := l.added[s]
	if n := len(recs); n == 0 || len(recs[n-1]) > listBytes {
		recs = append(recs, []byte{recordVersion})
	}
	last := &recs[len(recs)-1]
	*last = e.append(*last)
	l.added[s] = recs
	l.count(s, 1, int64(e.size))
}

// save puts a saved head.
func (l *lists) save(b *dcdb.Builder, prefix, ino, counter uint64, rec []byte) {
	k := key(keySaved, prefix, ino, ^counter)
	b.Put(k, rec)
	i := forkInode{prefix, ino}
	l.saved[i] = append(l.saved[i], string(k))
}

func (l *lists) count(s span, n, bytes int64) {
	c := l.sums[s]
	l.sums[s] = [2]int64{c[0] + n, c[1] + bytes}
}

// write puts the records of all that was added, and the sums.
func (l *lists) write(ctx context.Context, b *dcdb.Builder) error {
	for s, recs := range l.added {
		for i, rec := range recs {
			k := binary.BigEndian.AppendUint64(s.key(keyDead), b.Group)
			b.Put(binary.BigEndian.AppendUint32(k, uint32(i)), rec)
		}
	}
	for s, c := range l.sums {
		old, err := getSum(ctx, b, s)
		if err != nil {
			return err
		}
		n, bytes := int64(old.count)+c[0], int64(old.bytes)+c[1]
		switch {
		case n < 0:
			return fmt.Errorf("%w: dead list of prefix %d (%d, %d] counts below zero", dcdb.ErrCorrupt, s.prefix, s.since, s.death)
		case n == 0:
			b.Delete(s.key(keySum))
		default:
			b.Put(s.key(keySum), encode(uint64(n), uint64(max(bytes, 0))))
		}
	}
	return nil
}

func getSum(ctx context.Context, b *dcdb.Builder, s span) (sum, error) {
	val, err := b.Get(ctx, s.key(keySum))
	if err != nil || val == nil {
		return sum{}, err
	}
	return decodeSum(val)
}

func decodeSum(val []byte) (sum, error) {
	r := newReader(val)
	s := sum{r.num(), r.num()}
	return s, r.end()
}
