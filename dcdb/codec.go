package dcdb

import (
	"encoding/binary"
	"fmt"

	"dcfs/dcdb/store"
)

// decoder reads the encodings of this package from b. The first thing that
// does not fit sets err; all reads after it return zero. Varints must be as
// short as they can be, so that what decodes has one encoding.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrCorrupt, what)
	}
	d.b = nil
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("short")
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 {
		d.fail("bad varint")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// max is uvarint for a value that may not be above m.
func (d *decoder) max(m uint64, what string) uint64 {
	v := d.uvarint()
	if v > m {
		d.fail(what + " out of range")
		return 0
	}
	return v
}

func (d *decoder) u32(what string) uint32 { return uint32(d.max(1<<32-1, what)) }

func (d *decoder) varint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func appendVarint(b []byte, v int64) []byte {
	return binary.AppendUvarint(b, uint64(v<<1)^uint64(v>>63))
}

// bytes returns the next bytes, their length before them. They share d.b.
func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail("length out of range")
	}
	if d.err != nil {
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

func appendBytes[T []byte | string](b []byte, p T) []byte {
	b = binary.AppendUvarint(b, uint64(len(p)))
	return append(b, p...)
}

func (d *decoder) id() store.ID {
	id := store.ID{
		Group: d.uvarint(),
		Seg:   d.u32("segment"),
		Off:   d.u32("offset"),
		Len:   d.u32("length"),
	}
	if d.err == nil && (id.Group == 0 || id.Len == 0) {
		d.fail("no object")
	}
	return id
}

// DecodeID reads an ID that store.ID.Append wrote and returns what follows.
func DecodeID(b []byte) (store.ID, []byte, error) {
	d := decoder{b: b}
	id := d.id()
	return id, d.b, d.err
}

func (d *decoder) time() Time {
	return Time{Sec: d.varint(), Nsec: uint32(d.max(999_999_999, "nanoseconds"))}
}

func appendTime(b []byte, t Time) []byte {
	return binary.AppendUvarint(appendVarint(b, t.Sec), uint64(t.Nsec))
}

// end reports the error of all reads, or that bytes are left.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("bytes left over")
	}
	return d.err
}
