package embedded

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"dcfs/dcdb/store"
)

// wholeReadBytes is the size of an object up to which header and payload are
// read at once.
const wholeReadBytes = 64 << 10

// buffers holds *[]byte of wholeReadBytes and a prefix.
var buffers = sync.Pool{New: func() any {
	b := make([]byte, wholeReadBytes+store.BlockBytes)
	return &b
}}

// read fills p from an object in a segment.
func (s *segments) read(u store.UUID, id store.ID, kind store.Kind, off int, p []byte) error {
	f, err := s.files.get(id.Seg)
	if err != nil {
		return fmt.Errorf("object %v: %w", id, err)
	}
	defer s.files.put(f)
	err = readObject(f, u, id, kind, off, p)
	if errors.Is(err, store.ErrCorrupt) && erased(f, id) {
		// Its header was there, then a Delete came between.
		return fmt.Errorf("object %v: %w", id, store.ErrNotFound)
	}
	return err
}

func readObject(f io.ReaderAt, u store.UUID, id store.ID, kind store.Kind, off int, p []byte) error {
	from, to, err := store.Span(id, off, len(p))
	if err != nil {
		return err
	}
	n := store.PrefixBytes(int(id.Len))
	base := int64(id.Off) * store.BlockBytes
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)

	// One read for what is small or begins at the front, if its blocks need
	// a buffer anyway.
	if n+to <= len(*buf) && from == 0 {
		b := (*buf)[:n+to]
		if err := readFull(f, b, base, id, n); err != nil {
			return err
		}
		t, err := store.OpenPrefix(u, id, kind, b[:n])
		if err != nil {
			return err
		}
		if err := t.Verify(0, b[n:]); err != nil {
			return err
		}
		copy(p, b[n+off:])
		return nil
	}

	prefix := (*buf)[:0]
	if n > cap(prefix) {
		prefix = make([]byte, n)
	}
	prefix = prefix[:n]
	if err := readFull(f, prefix, base, id, n); err != nil {
		return err
	}
	t, err := store.OpenPrefix(u, id, kind, prefix)
	if err != nil {
		return err
	}
	body := p
	if from != off || to != off+len(p) {
		body = make([]byte, to-from)
	}
	if err := readFull(f, body, base+int64(n+from), id, 0); err != nil {
		return err
	}
	if err := t.Verify(from, body); err != nil {
		return err
	}
	copy(p, body[off-from:])
	return nil
}

// readFull reads b. A file that ends before is ErrNotFound if that leaves
// nothing of the object's header, of which need bytes are in b, else
// ErrCorrupt.
func readFull(f io.ReaderAt, b []byte, at int64, id store.ID, need int) error {
	n, err := f.ReadAt(b, at)
	switch {
	case n == len(b):
		return nil
	case err == io.EOF && need > 0 && n == 0:
		return fmt.Errorf("object %v: %w", id, store.ErrNotFound)
	case err == io.EOF:
		return fmt.Errorf("object %v: the segment ends %d bytes too early: %w", id, len(b)-n, store.ErrCorrupt)
	}
	return fmt.Errorf("object %v: %w", id, err)
}

// erased reports whether the object's first bytes are gone.
func erased(f io.ReaderAt, id store.ID) bool {
	b := make([]byte, store.PrefixBytes(1))
	if _, err := f.ReadAt(b, int64(id.Off)*store.BlockBytes); err != nil {
		return err == io.EOF
	}
	_, err := store.ParseHeader(b)
	return errors.Is(err, store.ErrNotFound)
}
