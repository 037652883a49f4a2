package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// What a store keeps of an object or a record is a frame: the bytes, and what
// it takes to know that they are the right ones. Every engine uses the same
// two frames.
//
// # Format, version 1
//
// Integers are big-endian. CRC is CRC-32C (Castagnoli).
//
//	object frame | header 48B | table 4B per block | payload |
//
//	header offset  size
//	            0     4  magic "dcfO"
//	            4     1  version, 1
//	            5     1  kind
//	            6     1  how the payload is stored: 0 plain; others are refused
//	            7     1  zero
//	            8     4  length of the payload, 1 or more
//	           12     8  group   \
//	           20     4  segment  } the object's ID
//	           24     4  offset  /
//	           28    16  UUID of the volume
//	           44     4  CRC of the 44 bytes before it and of the table
//
//	table: for each 4 KiB block of the payload (the last one may be short),
//	the CRC of its bytes
//
//	record frame | version, 1: 1B | CRC 4B | value |
//
// A record's CRC covers the volume's UUID, the length of the key (4B), the
// key and the value, so a value that comes back under another key, or from
// another volume, does not verify.
const (
	objectMagic   = "dcfO"
	objectVersion = 1
	storedPlain   = 0

	objectHeaderBytes = 48
	objectCRCOffset   = 44
	tableEntryBytes   = 4

	recordVersion     = 1
	recordHeaderBytes = 5
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC-32C of b, which everything on disk uses.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// PrefixBytes is the length of what an object frame holds before a payload of
// n bytes.
func PrefixBytes(n int) int {
	return objectHeaderBytes + tableEntryBytes*blocksOf(n)
}

func blocksOf(n int) int { return (n + BlockBytes - 1) / BlockBytes }

// AppendPrefix appends to b the header and table of the object id with the
// given payload, whose length must be id.Len. The payload follows them.
func AppendPrefix(b []byte, u UUID, id ID, kind Kind, payload []byte) []byte {
	start := len(b)
	b = append(b, objectMagic...)
	b = append(b, objectVersion, byte(kind), storedPlain, 0)
	b = binary.BigEndian.AppendUint32(b, id.Len)
	b = binary.BigEndian.AppendUint64(b, id.Group)
	b = binary.BigEndian.AppendUint32(b, id.Seg)
	b = binary.BigEndian.AppendUint32(b, id.Off)
	b = append(b, u[:]...)
	b = append(b, 0, 0, 0, 0) // the CRC, when the table is known
	for p := payload; len(p) > 0; {
		n := min(len(p), BlockBytes)
		b = binary.BigEndian.AppendUint32(b, Checksum(p[:n]))
		p = p[n:]
	}
	binary.BigEndian.PutUint32(b[start+objectCRCOffset:], prefixCRC(b[start:]))
	return b
}

func prefixCRC(prefix []byte) uint32 {
	c := crc32.Update(0, castagnoli, prefix[:objectCRCOffset])
	return crc32.Update(c, castagnoli, prefix[objectHeaderBytes:])
}

// ObjectHeader is what the header of an object frame says.
type ObjectHeader struct {
	ID   ID
	Kind Kind
	UUID UUID
}

// ParseHeader decodes the header of an object frame without verifying its
// CRC, for whoever looks for objects and does not know their length yet.
// A header of nothing but zeros, as a hole in a file reads, is ErrNotFound.
func ParseHeader(b []byte) (ObjectHeader, error) {
	var h ObjectHeader
	if len(b) < objectHeaderBytes {
		return h, fmt.Errorf("object header of %d bytes: %w", len(b), ErrCorrupt)
	}
	b = b[:objectHeaderBytes]
	if isZero(b) {
		return h, ErrNotFound
	}
	if string(b[:4]) != objectMagic {
		return h, fmt.Errorf("object magic % x: %w", b[:4], ErrCorrupt)
	}
	if b[4] != objectVersion || b[7] != 0 {
		return h, fmt.Errorf("object version %d.%d is unknown: %w", b[4], b[7], ErrCorrupt)
	}
	if b[6] != storedPlain {
		return h, fmt.Errorf("object stored in unknown way %d (compressed or sealed): %w", b[6], ErrCorrupt)
	}
	h.Kind = Kind(b[5])
	h.ID.Len = binary.BigEndian.Uint32(b[8:])
	h.ID.Group = binary.BigEndian.Uint64(b[12:])
	h.ID.Seg = binary.BigEndian.Uint32(b[20:])
	h.ID.Off = binary.BigEndian.Uint32(b[24:])
	copy(h.UUID[:], b[28:])
	if h.ID.Len == 0 || h.ID.Group == 0 {
		return h, fmt.Errorf("object header with ID %v: %w", h.ID, ErrCorrupt)
	}
	return h, nil
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Table is the verified block table of one object.
type Table struct {
	id  ID
	crc []byte
}

// OpenPrefix verifies the header and table of object id, PrefixBytes(id.Len)
// long, and returns the table. Zeros are ErrNotFound, see ParseHeader.
func OpenPrefix(u UUID, id ID, kind Kind, prefix []byte) (Table, error) {
	h, err := ParseHeader(prefix)
	if err != nil {
		return Table{}, fmt.Errorf("object %v: %w", id, err)
	}
	if n := PrefixBytes(int(id.Len)); len(prefix) != n {
		return Table{}, fmt.Errorf("object %v: %d bytes before the payload, not %d: %w", id, len(prefix), n, ErrCorrupt)
	}
	if got, want := prefixCRC(prefix), binary.BigEndian.Uint32(prefix[objectCRCOffset:]); got != want {
		return Table{}, fmt.Errorf("object %v: header checksum %08x, not %08x: %w", id, got, want, ErrCorrupt)
	}
	switch {
	case h.UUID != u:
		return Table{}, fmt.Errorf("object %v: it is of volume %v: %w", id, h.UUID, ErrCorrupt)
	case h.ID != id:
		return Table{}, fmt.Errorf("object %v: object %v lies there: %w", id, h.ID, ErrCorrupt)
	case h.Kind != kind:
		return Table{}, fmt.Errorf("object %v: it is of kind %d, not %d: %w", id, h.Kind, kind, ErrCorrupt)
	}
	return Table{id, prefix[objectHeaderBytes:]}, nil
}

// Span widens the payload range [off, off+n) to the blocks that must be read
// to verify it. A range that leaves the object is ErrCorrupt: whoever asks
// holds a wrong length.
func Span(id ID, off int, n int) (from, to int, err error) {
	if off < 0 || n < 0 || off > int(id.Len) || n > int(id.Len)-off {
		return 0, 0, fmt.Errorf("object %v: read of %d bytes at %d: %w", id, n, off, ErrCorrupt)
	}
	from = off / BlockBytes * BlockBytes
	to = min(int(id.Len), (off+n+BlockBytes-1)/BlockBytes*BlockBytes)
	return from, to, nil
}

// Verify checks payload bytes that begin at from, a multiple of BlockBytes,
// and end at one or at the object's end.
func (t Table) Verify(from int, b []byte) error {
	for i := from / BlockBytes; len(b) > 0; i++ {
		n := min(len(b), BlockBytes)
		want := binary.BigEndian.Uint32(t.crc[i*tableEntryBytes:])
		if got := Checksum(b[:n]); got != want {
			return fmt.Errorf("object %v: block %d has checksum %08x, not %08x: %w", t.id, i, got, want, ErrCorrupt)
		}
		b = b[n:]
	}
	return nil
}

// EncodeObject returns the whole frame of an object.
func EncodeObject(u UUID, id ID, kind Kind, payload []byte) []byte {
	b := make([]byte, 0, PrefixBytes(len(payload))+len(payload))
	return append(AppendPrefix(b, u, id, kind, payload), payload...)
}

// ReadObject fills p with the payload of a whole frame from off on, and
// verifies the blocks it touches.
func ReadObject(u UUID, id ID, kind Kind, frame []byte, off int, p []byte) error {
	n := PrefixBytes(int(id.Len))
	if len(frame) != n+int(id.Len) {
		return fmt.Errorf("object %v: frame of %d bytes, not %d: %w", id, len(frame), n+int(id.Len), ErrCorrupt)
	}
	t, err := OpenPrefix(u, id, kind, frame[:n])
	if err != nil {
		return err
	}
	from, to, err := Span(id, off, len(p))
	if err != nil {
		return err
	}
	payload := frame[n:]
	if err := t.Verify(from, payload[from:to]); err != nil {
		return err
	}
	copy(p, payload[off:])
	return nil
}

// VerifyObject verifies the whole frame of an object whose kind and length only its
// header tells, and returns the object's ID as far as it is known.
func VerifyObject(u UUID, frame []byte) (ID, error) {
	h, err := ParseHeader(frame)
	if err != nil {
		return h.ID, err
	}
	n := PrefixBytes(int(h.ID.Len))
	if len(frame) != n+int(h.ID.Len) {
		return h.ID, fmt.Errorf("object %v: frame of %d bytes, not %d: %w", h.ID, len(frame), n+int(h.ID.Len), ErrCorrupt)
	}
	t, err := OpenPrefix(u, h.ID, h.Kind, frame[:n])
	if err != nil {
		return h.ID, err
	}
	return h.ID, t.Verify(0, frame[n:])
}

// EncodeRecord returns the frame of a record's value.
func EncodeRecord(u UUID, key, value []byte) []byte {
	b := make([]byte, recordHeaderBytes, recordHeaderBytes+len(value))
	b[0] = recordVersion
	binary.BigEndian.PutUint32(b[1:], recordCRC(u, key, value))
	return append(b, value...)
}

// RecordError is damage of the record under a key. It is ErrCorrupt.
type RecordError struct {
	Key []byte
	why string
}

func (e *RecordError) Error() string {
	return fmt.Sprintf("record %x: %s: %v", e.Key, e.why, ErrCorrupt)
}
func (e *RecordError) Unwrap() error { return ErrCorrupt }

// DecodeRecord verifies the frame that was found under key, and returns the
// value in it, which is never nil and shares frame's memory.
func DecodeRecord(u UUID, key, frame []byte) ([]byte, error) {
	if len(frame) < recordHeaderBytes {
		return nil, &RecordError{key, fmt.Sprintf("frame of %d bytes", len(frame))}
	}
	if frame[0] != recordVersion {
		return nil, &RecordError{key, fmt.Sprintf("version %d is unknown", frame[0])}
	}
	value := frame[recordHeaderBytes:len(frame):len(frame)]
	if got, want := recordCRC(u, key, value), binary.BigEndian.Uint32(frame[1:]); got != want {
		return nil, &RecordError{key, fmt.Sprintf("checksum %08x, not %08x", got, want)}
	}
	return value, nil
}

func recordCRC(u UUID, key, value []byte) uint32 {
	var h [20]byte
	copy(h[:], u[:])
	binary.BigEndian.PutUint32(h[16:], uint32(len(key)))
	c := crc32.Update(0, castagnoli, h[:])
	c = crc32.Update(c, castagnoli, key)
	return crc32.Update(c, castagnoli, value)
}
