package embedded

import (
	"encoding/binary"
	"fmt"
	"slices"

	"dcfs/dcdb/store"
)

// state is what the store records of itself in every batch.
//
// # Format, version 1
//
// Integers are unsigned varints, in this order, in a record frame:
//
//	version, 1 | last | first | fence | next segment | number of segments
//	for each segment:   number | mark | number of exceptions
//	for each exception: blocks since the end of the one before | blocks
type state struct {
	last  uint64 // group of the batch that this is in
	first uint64 // FirstGroup of the process that wrote it
	fence uint64
	next  uint32     // segments from here on belong to no committed group
	segs  []segState // those of which some part may belong to no committed group; by number
}

// segState says of a segment what must be erased unless a later batch says
// more: everything from the block mark on, and the exceptions below it.
type segState struct {
	num        uint32
	mark       uint32
	exceptions []extent // ordered, not touching
}

// extent is a range of blocks.
type extent struct{ off, n uint32 }

func (e extent) end() uint32 { return e.off + e.n }

const stateVersion = 1

var stateKey = []byte("mstate")

func (s state) encode() []byte {
	var b []byte
	for _, v := range []uint64{stateVersion, s.last, s.first, s.fence, uint64(s.next), uint64(len(s.segs))} {
		b = binary.AppendUvarint(b, v)
	}
	for _, g := range s.segs {
		b = binary.AppendUvarint(b, uint64(g.num))
		b = binary.AppendUvarint(b, uint64(g.mark))
		b = binary.AppendUvarint(b, uint64(len(g.exceptions)))
		at := uint32(0)
		for _, e := range g.exceptions {
			b = binary.AppendUvarint(b, uint64(e.off-at))
			b = binary.AppendUvarint(b, uint64(e.n))
			at = e.end()
		}
	}
	return b
}

// varints reads unsigned varints, each at most a given value and in its
// shortest form.
type varints struct {
	b   []byte
	bad bool
}

func (v *varints) next(limit uint64) uint64 {
	x, n := binary.Uvarint(v.b)
	if n <= 0 || x > limit || n > 1 && v.b[n-1] == 0 {
		v.bad, v.b = true, nil
		return 0
	}
	v.b = v.b[n:]
	return x
}

const (
	max32 = 1<<32 - 1
	max64 = 1<<64 - 1
)

func decodeState(b []byte) (state, error) {
	v := &varints{b: b}
	if version := v.next(max64); version != stateVersion {
		return state{}, fmt.Errorf("state of version %d: %w", version, store.ErrCorrupt)
	}
	s := state{last: v.next(max64), first: v.next(max64), fence: v.next(max64), next: uint32(v.next(max32))}
	for n := v.next(uint64(len(b))); n > 0 && !v.bad; n-- {
		g := segState{num: uint32(v.next(max32)), mark: uint32(v.next(max32))}
		at := uint64(0)
		for k := v.next(uint64(len(b))); k > 0 && !v.bad; k-- {
			off := at + v.next(max32)
			n := v.next(max32)
			at = off + n
			if n == 0 || at > uint64(g.mark) {
				v.bad = true
			}
			g.exceptions = append(g.exceptions, extent{uint32(off), uint32(n)})
		}
		s.segs = append(s.segs, g)
	}
	if v.bad || len(v.b) > 0 {
		return state{}, fmt.Errorf("state of %d bytes: %w", len(b), store.ErrCorrupt)
	}
	return s, nil
}

// mergeExtents sorts extents and joins those that touch.
func mergeExtents(es []extent) []extent {
	slices.SortFunc(es, func(a, b extent) int { return int(int64(a.off) - int64(b.off)) })
	var out []extent
	for _, e := range es {
		if k := len(out) - 1; k >= 0 && out[k].end() >= e.off {
			out[k].n = max(out[k].end(), e.end()) - out[k].off
			continue
		}
		out = append(out, e)
	}
	return out
}
