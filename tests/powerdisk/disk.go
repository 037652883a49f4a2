// Package powerdisk is a disk whose power can be cut, for tests of what is on it
// then.
//
// A Disk is an image file that a FUSE server of this process serves as another
// file; a loop device makes a block device of that, and Ext4 mounts one. The
// server knows which writes were followed by a flush. When the power is cut, the
// image becomes what a real disk might hold: all that was flushed, and any part
// of what was written later. From then on the server answers EIO, so nothing
// that was not there at the cut gets there.
//
//	programs -> ext4 -> loop device -> FUSE -> Disk -> image file
//
// # Invariants
//
//	(1) Each sector of the image after a cut holds what it held at the last
//	    flush, or what some later write put there; of several, the one that was
//	    kept last.
//	(2) No request that comes after a cut changes the image.
package powerdisk

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// SectorBytes is what a disk writes whole or not at all.
	SectorBytes = 512
	pageBytes   = 4096
)

// Disk is an image file, and what of it would outlive a power cut.
type Disk struct {
	// IgnoreFlushes has flushes answered and forgotten, as some disks do. It is
	// set before the disk is used.
	IgnoreFlushes bool

	// FlushTime is how long a flush takes at most. What is written meanwhile is
	// for the next one. It is set before the disk is used.
	FlushTime time.Duration

	image *os.File // immutable
	size  int64    // immutable

	mu      sync.RWMutex
	dead    bool             // guarded by mu
	later   []write          // guarded by mu; since the last flush, in order
	before  int              // guarded by mu; how many writes were flushed
	flushed map[int64][]byte // guarded by mu; pages that later writes changed, as of the last flush
	trigger *trigger         // guarded by mu
	counts  Counts           // guarded by mu
}

// Counts are the requests that a disk has carried out, and the sectors of those
// writes that no flush had followed when the power was cut.
type Counts struct{ Writes, Flushes, Kept, Lost int64 }

// write is of whole sectors.
type write struct {
	off  int64
	data []byte
}

// trigger is a cut at a request that is still to come.
type trigger struct {
	left int
	rand *rand.Rand
	done chan error
}

// Open opens an image file as a disk.
func Open(image string) (*Disk, error) {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Disk{image: f, size: info.Size(), flushed: map[int64][]byte{}}, nil
}

// Close closes the image; without a cut, it has all that was written.
func (d *Disk) Close() error { return d.image.Close() }

// Counts returns the requests so far.
func (d *Disk) Counts() Counts {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.counts
}

func (d *Disk) isDead() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.dead
}

// ReadAt reads as io.ReaderAt does.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.dead {
		return 0, syscall.EIO
	}
	return d.image.ReadAt(p, off)
}

// WriteAt writes as io.WriterAt does, whole sectors within the disk.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off%SectorBytes != 0 || len(p)%SectorBytes != 0 || off+int64(len(p)) > d.size {
		return 0, syscall.EINVAL
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.requestLocked(); err != nil {
		return 0, err
	}
	w := write{off, bytes.Clone(p)}
	var err error
	w.pages(func(page int64, _ int, _ []byte) {
		if d.flushed[page] != nil || err != nil {
			return
		}
		b := make([]byte, min(pageBytes, d.size-page*pageBytes))
		_, err = d.image.ReadAt(b, page*pageBytes)
		d.flushed[page] = b
	})
	if err != nil {
		return 0, err
	}
	n, err := d.image.WriteAt(p, off)
	d.later = append(d.later, w) // some of it may be there
	d.counts.Writes++
	return n, err
}

// Flush makes all that was written before outlive a cut.
func (d *Disk) Flush() error {
	d.mu.Lock()
	err := d.requestLocked()
	all := d.before + len(d.later)
	d.mu.Unlock()
	if err != nil {
		return err
	}
	if d.FlushTime > 0 {
		time.Sleep(rand.N(d.FlushTime))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return syscall.EIO
	}
	d.counts.Flushes++
	if !d.IgnoreFlushes {
		d.flushLocked(all)
	}
	return nil
}

// flushLocked flushes the first n writes of all.
func (d *Disk) flushLocked(n int) {
	if n <= d.before {
		return // another flush, which began later, was quicker
	}
	done := d.later[:n-d.before]
	d.later, d.before = d.later[len(done):], n
	if len(d.later) == 0 {
		clear(d.flushed)
		return
	}
	for _, w := range done {
		w.pages(func(page int64, at int, p []byte) { copy(d.flushed[page][at:], p) })
	}
	changed := map[int64]bool{}
	for _, w := range d.later {
		w.pages(func(page int64, _ int, _ []byte) { changed[page] = true })
	}
	maps.DeleteFunc(d.flushed, func(page int64, _ []byte) bool { return !changed[page] })
}

// pages calls fn with what w writes at some place in each page.
func (w write) pages(fn func(page int64, at int, p []byte)) {
	for off, p := w.off, w.data; len(p) > 0; {
		at := int(off % pageBytes)
		n := min(len(p), pageBytes-at)
		fn(off/pageBytes, at, p[:n])
		off, p = off+int64(n), p[n:]
	}
}

// requestLocked refuses a request to a disk that is dead, or dies of it.
func (d *Disk) requestLocked() error {
	if t := d.trigger; t != nil && !d.dead {
		if t.left--; t.left < 0 && len(d.later) > 0 {
			t.done <- d.cutLocked(t.rand)
		}
	}
	if d.dead {
		return syscall.EIO
	}
	return nil
}

// ErrDead is the error of a second cut.
var ErrDead = errors.New("the power is off already")

// Cut cuts the power now.
func (d *Disk) Cut(r *rand.Rand) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return ErrDead
	}
	return d.cutLocked(r)
}

// CutAt cuts the power at the next write or flush but n that finds something not
// flushed, and that is not carried out any more. The channel says so; only a disk
// that is at rest lives longer.
func (d *Disk) CutAt(n int, r *rand.Rand) <-chan error {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := &trigger{left: n, rand: r, done: make(chan error, 1)}
	d.trigger = t
	return t.done
}

func (d *Disk) cutLocked(r *rand.Rand) error {
	d.dead = true
	for page, b := range d.flushed {
		if _, err := d.image.WriteAt(b, page*pageBytes); err != nil {
			return fmt.Errorf("cut: %w", err)
		}
	}
	keep := fate(r, len(d.later))
	var err error
	for i, w := range d.later {
		w.pages(func(page int64, at int, p []byte) {
			if err == nil {
				err = d.keepPageLocked(page*pageBytes+int64(at), p, keep(i))
			}
		})
	}
	if err != nil {
		return fmt.Errorf("cut: %w", err)
	}
	d.later, d.flushed = nil, nil
	return nil
}

// keepPageLocked writes those sectors of what lies in one page that keep wants.
func (d *Disk) keepPageLocked(off int64, p []byte, keep func() bool) error {
	for n := 0; n < len(p); n += SectorBytes {
		if !keep() {
			d.counts.Lost++
			continue
		}
		d.counts.Kept++
		if _, err := d.image.WriteAt(p[n:n+SectorBytes], off+int64(n)); err != nil {
			return err
		}
	}
	return nil
}
