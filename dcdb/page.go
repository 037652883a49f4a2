package dcdb

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"strings"

	"dcfs/dcdb/store"
)

// Sizes of this format. Only RecordBytes is read off what is stored; the
// others say when to split and what to inline, and may change.
const (
	// RecordBytes is the stretch of a file that one item covers.
	RecordBytes = 128 << 10
	blockBytes  = store.BlockBytes

	// MaxInlineValue: longer values and contents become objects.
	MaxInlineValue = 1 << 10
	// maxInlinePage: a larger only page of a tree becomes an object.
	maxInlinePage = 2 << 10
	// pageBytes is where a page is split. A page may be larger: contents
	// that grow in it are not counted again.
	pageBytes = 4 << 10
	// maxPieces: a record of more is joined into one content.
	maxPieces = 8
)

// ItemKind is the first byte of an item's key.
type ItemKind byte

// The kinds of items. The bytes are on disk.
const (
	KindDirent ItemKind = 'e' // a directory's entry, by name
	KindLink   ItemKind = 'l' // a further link, by parent and name
	KindRecord ItemKind = 'r' // file data, by record number
	KindText   ItemKind = 't' // a symlink's target, one with an empty key
	KindXattr  ItemKind = 'x' // an extended attribute, by name
)

// item is what a leaf page keeps under a key.
type item struct {
	key    string
	val    []byte // immutable
	pieces []piece
}

// piece lays n bytes of a content over a record, from at on; a later piece
// covers an earlier one. Pieces are immutable as soon as their page is.
type piece struct {
	at, n uint32
	off   uint32 // where in the content
	since uint64
	c     *content // nil: a hole
}

// content is a stretch of file data. In memory and not yet in the store it is
// data; an object it is id. It is changed in place only while it is of the
// open group and not sealed.
type content struct {
	id     store.ID // guarded by Space.mu
	data   []byte   // guarded by Space.mu; nil when only the store has it
	group  uint64   // immutable; the group that made it, 0 if it was loaded
	sealed bool     // guarded by Space.mu; being written
	used   bool     // the flusher's: an encoded page refers to it
}

// page is a node of a DCDB's tree: a leaf with items, or an inner page with
// keys and len(keys)+1 page numbers. Child i has the keys below keys[i] and not
// below keys[i-1]. A page of an earlier gen than the Space's is immutable.
type page struct {
	gen   uint64
	inner bool
	items []item
	keys  []string
	kids  []uint64
	size  int // encoded, about
}

const (
	pageLeaf  = 0
	pageInner = 1

	pieceHole   = 0
	pieceObject = 1
	pieceInline = 2
)

func itemSize(it *item) int {
	n := len(it.key) + len(it.val) + 6
	for i := range it.pieces {
		if c := it.pieces[i].c; c != nil && c.id.IsZero() && len(c.data) <= MaxInlineValue {
			n += len(c.data)
		}
		n += 28
	}
	return n
}

// measure sets p.size from scratch.
func (p *page) measure() {
	p.size = 8
	for i := range p.items {
		p.size += itemSize(&p.items[i])
	}
	for _, k := range p.keys {
		p.size += len(k) + 5
	}
}

// find returns the place of key among the items of a leaf.
func (p *page) find(key string) (int, bool) {
	return slices.BinarySearchFunc(p.items, key, func(it item, k string) int { return strings.Compare(it.key, k) })
}

// child returns the index of the child that key belongs to.
func (p *page) child(key string) int {
	i, ok := slices.BinarySearch(p.keys, key)
	if ok {
		i++
	}
	return i
}

// clone copies p for gen. Items are copied, their pieces are not.
func (p *page) clone(gen uint64) *page {
	q := *p
	q.gen = gen
	q.items = append(make([]item, 0, len(p.items)+4), p.items...)
	q.keys = slices.Clone(p.keys)
	q.kids = slices.Clone(p.kids)
	return &q
}

// objects calls fn for each piece of p that is not a hole.
func (p *page) objects(fn func(pc *piece)) {
	for i := range p.items {
		for j := range p.items[i].pieces {
			if pc := &p.items[i].pieces[j]; pc.c != nil {
				fn(pc)
			}
		}
	}
}

// appendPage appends p's encoding. A content without an ID goes inline.
func appendPage(b []byte, p *page) []byte {
	if p.inner {
		b = append(b, pageInner)
		b = binary.AppendUvarint(b, uint64(len(p.keys)))
		for _, k := range p.keys {
			b = appendBytes(b, k)
		}
		for _, n := range p.kids {
			b = binary.AppendUvarint(b, n)
		}
		return b
	}
	b = append(b, pageLeaf)
	b = binary.AppendUvarint(b, uint64(len(p.items)))
	for i := range p.items {
		b = appendItem(b, &p.items[i])
	}
	return b
}

func appendItem(b []byte, it *item) []byte {
	b = appendBytes(b, it.key)
	b = appendBytes(b, it.val)
	b = binary.AppendUvarint(b, uint64(len(it.pieces)))
	for i := range it.pieces {
		pc := &it.pieces[i]
		b = binary.AppendUvarint(b, uint64(pc.at))
		b = binary.AppendUvarint(b, uint64(pc.n))
		switch {
		case pc.c == nil:
			b = append(b, pieceHole)
			b = binary.AppendUvarint(b, pc.since)
		case !pc.c.id.IsZero():
			b = append(b, pieceObject)
			b = binary.AppendUvarint(b, pc.since)
			b = pc.c.id.Append(b)
			b = binary.AppendUvarint(b, uint64(pc.off))
		default:
			b = append(b, pieceInline)
			b = binary.AppendUvarint(b, pc.since)
			b = appendBytes(b, pc.c.data[pc.off:pc.off+pc.n])
		}
	}
	return b
}

// decodePage reads a page. Its contents share d's bytes.
func decodePage(d *decoder) *page {
	p := &page{}
	switch d.byte() {
	case pageInner:
		p.inner = true
		n := d.max(uint64(len(d.b)), "keys")
		for range n {
			k := string(d.bytes())
			if len(p.keys) > 0 && k <= p.keys[len(p.keys)-1] {
				d.fail("keys out of order")
			}
			p.keys = append(p.keys, k)
		}
		for range n + 1 {
			p.kids = append(p.kids, d.uvarint())
		}
	case pageLeaf:
		n := d.max(uint64(len(d.b)), "items")
		p.items = make([]item, 0, min(n, 1<<10))
		for range n {
			it := decodeItem(d)
			if len(p.items) > 0 && it.key <= p.items[len(p.items)-1].key {
				d.fail("items out of order")
			}
			if d.err != nil {
				break
			}
			p.items = append(p.items, it)
		}
	default:
		d.fail("unknown kind of page")
	}
	p.measure()
	return p
}

func decodeItem(d *decoder) item {
	it := item{key: string(d.bytes())}
	if d.err == nil && it.key == "" {
		d.fail("item without kind")
	}
	it.val = d.bytes()
	n := d.max(uint64(len(d.b)), "pieces")
	for range n {
		pc := piece{at: d.u32("piece"), n: d.u32("piece")}
		kind := d.byte()
		pc.since = d.uvarint()
		switch kind {
		case pieceHole:
		case pieceObject:
			pc.c = &content{id: d.id()}
			pc.off = d.u32("offset")
			if uint64(pc.off)+uint64(pc.n) > uint64(pc.c.id.Len) {
				d.fail("piece beyond its content")
			}
		case pieceInline:
			pc.c = &content{data: d.bytes()}
			if len(pc.c.data) != int(pc.n) {
				d.fail("inline piece of another length")
			}
		default:
			d.fail("unknown kind of piece")
		}
		if pc.n == 0 || uint64(pc.at)+uint64(pc.n) > RecordBytes {
			d.fail("piece outside its record")
		}
		if d.err != nil {
			break
		}
		it.pieces = append(it.pieces, pc)
	}
	return it
}

// blockMask has a bit for each 4 KiB block of a record that pieces cover with
// data.
func blockMask(pieces []piece) uint32 {
	var m uint32
	for i := range pieces {
		pc := &pieces[i]
		if pc.c != nil {
			m |= maskOf(pc.at/blockBytes, (pc.at+pc.n+blockBytes-1)/blockBytes)
		} else {
			// A hole covers whole blocks only.
			m &^= maskOf((pc.at+blockBytes-1)/blockBytes, (pc.at+pc.n)/blockBytes)
		}
	}
	return m
}

// maskOf has the bits from block a up to before block b, at most 32.
func maskOf(a, b uint32) uint32 {
	if a >= b {
		return 0
	}
	return uint32((uint64(1)<<b - 1) &^ (uint64(1)<<a - 1))
}

func allocBytes(pieces []piece) uint64 {
	return uint64(bits.OnesCount32(blockMask(pieces))) * blockBytes
}
