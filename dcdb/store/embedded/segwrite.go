package embedded

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"dcfs/dcdb/store"
)

const (
	// writeVectors and writeBytes bound one pwritev; Linux takes 1024 vectors.
	writeVectors = 768
	writeBytes   = 8 << 20
	// writeBehindBytes is the size of a write from which the kernel is asked
	// to begin writing at once, so that less is left to do at the commit.
	writeBehindBytes = 1 << 20
)

var zeros [store.BlockBytes]byte

// put writes the objects of p that are in run, one after the other, into one
// segment.
func (s *segments) put(u store.UUID, p *putting, run []int) error {
	total := uint32(0)
	for _, i := range run {
		total += blocksFor(p.sizes[i])
	}
	g, off, err := s.reserve(p.group, total)
	if err != nil {
		return err
	}
	w := vectorWriter{f: g.f, at: int64(off) * store.BlockBytes}
	at := off
	ids := make([]store.ID, len(run))
	for k, i := range run {
		id := store.ID{Group: p.group, Seg: g.num, Off: at, Len: uint32(p.sizes[i])}
		b := p.part(i, id)
		prefix := store.AppendPrefix(make([]byte, 0, store.PrefixBytes(len(b))), u, id, p.kind, b)
		w.add(prefix)
		w.add(b)
		// Written, not skipped: whole pages spare the kernel a read.
		blocks := blocksFor(len(b))
		w.add(zeros[:int(blocks)*store.BlockBytes-len(prefix)-len(b)])
		ids[k] = id
		at += blocks
	}
	err = w.flush()
	if n := int64(total) * store.BlockBytes; err == nil && n >= writeBehindBytes {
		// A hint: what it can't do, the commit's sync does.
		unix.SyncFileRange(int(g.f.Fd()), int64(off)*store.BlockBytes, n, unix.SYNC_FILE_RANGE_WRITE)
	}
	s.finish(g, extent{off, total}, err != nil)
	if err != nil {
		return fmt.Errorf("write %s: %w", segmentName(g.num), err)
	}
	for k, i := range run {
		p.ids[i] = ids[k]
	}
	return nil
}

// vectorWriter gathers bytes that follow each other in a file. After an error
// it does nothing more.
type vectorWriter struct {
	f    *os.File
	at   int64
	vecs [][]byte
	size int
	err  error
}

func (w *vectorWriter) add(b []byte) {
	if len(b) == 0 {
		return
	}
	w.vecs = append(w.vecs, b)
	w.size += len(b)
	if len(w.vecs) >= writeVectors || w.size >= writeBytes {
		w.flush()
	}
}

func (w *vectorWriter) flush() error {
	for len(w.vecs) > 0 && w.err == nil {
		n, err := unix.Pwritev(int(w.f.Fd()), w.vecs, w.at)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			w.err = err
		case n == 0:
			w.err = io.ErrShortWrite
		}
		if w.err == nil {
			w.at += int64(n)
			w.advance(n)
		}
	}
	w.vecs, w.size = w.vecs[:0], 0
	return w.err
}

// advance drops the n bytes that were written.
func (w *vectorWriter) advance(n int) {
	for n > 0 && n >= len(w.vecs[0]) {
		n -= len(w.vecs[0])
		w.vecs = w.vecs[1:]
	}
	if n > 0 {
		w.vecs[0] = w.vecs[0][n:]
	}
}
