package inode

import (
	"context"
	"errors"

	"dcfs/dcdb"
	"dcfs/snap"
)

const (
	copyBytes  = 1 << 20  // how much CopyRange has in memory at a time
	firstBytes = 16 << 20 // how much of it nothing interrupts, at most
)

// CopyRange copies up to n bytes from one file to another, or within one, as
// copy_file_range(2): up to the source's end, and not onto itself. The source
// may be in another view of the same volume. Holes stay holes. Whole records are
// not copied but shared (DESIGN section 4, rule 7).
//
// An interrupt makes it a short copy and never an error, which nobody expects
// of a copy: it is looked at after the first step.
func (f *FS) CopyRange(interrupt context.Context, srcView *snap.View, src, srcOff uint64, dstView *snap.View, dst, dstOff, n uint64, cred Cred) (uint64, error) {
	o, ctx := op{"copy to", dst, ""}, context.WithoutCancel(interrupt)
	if err := writable(dstView); err != nil {
		return 0, o.wrap(err)
	}
	if srcView.Volume() != f.vol || dstView.Volume() != f.vol {
		return 0, o.wrap(ErrXDev)
	}
	from, err := f.copySource(ctx, srcView, src)
	if err != nil {
		return 0, err
	}
	if _, err := f.regular(ctx, o, dstView, dst); err != nil {
		return 0, err
	}
	if srcOff >= from.Size || n == 0 {
		return 0, nil
	}
	n = min(n, from.Size-srcOff)
	if dstOff >= MaxFileBytes {
		return 0, o.wrap(ErrFileTooBig)
	}
	n = min(n, MaxFileBytes-dstOff)
	if srcView == dstView && src == dst && overlap(srcOff, dstOff, n) {
		return 0, o.wrap(ErrInvalid)
	}
	c := copier{f: f, o: o, cred: cred, srcView: srcView, src: src, dstView: dstView, dst: dst}
	done, err := c.step(ctx, srcOff, dstOff, min(n, firstBytes))
	if err == nil && done > 0 {
		var more uint64
		more, err = c.run(interrupt, srcOff+done, dstOff+done, n-done)
		done += more
	}
	if done > 0 {
		return done, nil // as a short write: the next call meets the error
	}
	return 0, err
}

// copySource returns the attributes of a file to copy from.
func (f *FS) copySource(ctx context.Context, v *snap.View, ino uint64) (Attr, error) {
	a, err := f.Getattr(ctx, v, ino)
	if err != nil {
		return a, err
	}
	return a, op{"copy from", ino, ""}.wrap(regular(a.Mode))
}

// overlap reports whether n bytes at a and at b have one in common.
func overlap(a, b, n uint64) bool { return a < b+n && b < a+n }

// copier is a CopyRange under way.
type copier struct {
	f       *FS
	o       op
	cred    Cred
	srcView *snap.View
	src     uint64
	dstView *snap.View
	dst     uint64
	buf     []byte
}

// run copies step by step; each step is a hole or a stretch of data.
func (c *copier) run(ctx context.Context, srcOff, dstOff, n uint64) (done uint64, err error) {
	for done < n {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		step, err := c.step(ctx, srcOff+done, dstOff+done, n-done)
		if err != nil || step == 0 {
			return done, err
		}
		done += step
	}
	return done, nil
}

func (c *copier) step(ctx context.Context, srcOff, dstOff, n uint64) (uint64, error) {
	data, err := c.f.Seek(ctx, c.srcView, c.src, srcOff, SeekData)
	if errors.Is(err, ErrNXIO) {
		data, err = c.end(ctx, srcOff)
	}
	if err != nil {
		return 0, err
	}
	if data > srcOff {
		n = min(n, data-srcOff)
		return n, c.hole(ctx, dstOff, n)
	}
	if shared, err := c.share(ctx, srcOff, dstOff, n); shared > 0 || err != nil {
		return shared, err
	}
	n = min(n, copyBytes)
	if (srcOff-dstOff)%dcdb.RecordBytes == 0 {
		n = min(n, dcdb.RecordBytes-srcOff%dcdb.RecordBytes) // the next step may share
	}
	return c.data(ctx, srcOff, dstOff, n)
}

// share lets the destination refer to the source's contents, where whole records
// can be shared.
func (c *copier) share(ctx context.Context, srcOff, dstOff, n uint64) (uint64, error) {
	if srcOff%dcdb.RecordBytes != 0 || dstOff%dcdb.RecordBytes != 0 || n < dcdb.RecordBytes {
		return 0, nil
	}
	if err := writable(c.dstView); err != nil {
		return 0, err
	}
	w := write{flags: WriteFlags{KillSuidGid: !c.cred.Root}, cred: c.cred, start: dstOff}
	touch := func(db *dcdb.DB) error { return w.touch(db, 0) }
	shared, err := c.f.space.Clone(ctx, c.srcView.Key(c.src), srcOff, c.dstView.Key(c.dst), dstOff, n, touch)
	return shared, c.o.wrap(err)
}

// end returns where the source ends now, at least off: it may have been cut
// since the copy began.
func (c *copier) end(ctx context.Context, off uint64) (uint64, error) {
	a, err := c.f.Getattr(ctx, c.srcView, c.src)
	return max(off, a.Size), err
}

func (c *copier) hole(ctx context.Context, off, n uint64) error {
	if err := c.f.punch(ctx, c.o, c.dstView, c.dst, off, off+n); err != nil {
		return err
	}
	return c.f.extend(ctx, c.o, c.dstView, c.dst, off+n, c.cred, !c.cred.Root)
}

func (c *copier) data(ctx context.Context, srcOff, dstOff, n uint64) (uint64, error) {
	if c.buf == nil {
		c.buf = make([]byte, min(n, copyBytes))
	}
	got, err := c.f.Read(ctx, c.srcView, c.src, c.buf[:min(n, uint64(len(c.buf)))], srcOff)
	if err != nil || got == 0 {
		return 0, err
	}
	put, err := c.f.Write(ctx, c.dstView, c.dst, c.cred, c.buf[:got], dstOff, WriteFlags{KillSuidGid: !c.cred.Root})
	return uint64(put), err
}
