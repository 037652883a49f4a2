package tests

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDataOperations mixes, on a few files, every way in which bytes get into a
// file and out of it, as fsx does, and compares each answer with bytes in
// memory; snapshots and forks, taken in between, with the bytes of their
// moment. DCFS_FSX_SEED repeats a run, DCFS_FSX_STEPS makes it longer.
func TestDataOperations(t *testing.T) {
	steps := 6000
	if long() {
		steps = 1_000_000
	} else if testing.Short() || raceEnabled {
		steps = 3000
	}
	if s := os.Getenv("DCFS_FSX_STEPS"); s != "" {
		steps, _ = strconv.Atoi(s)
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("DCFS_FSX_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("DCFS_FSX_SEED=%d DCFS_FSX_STEPS=%d", seed, steps)
	flags := []string{"--cache=8M"} // much is read again from the store
	store, dir := newMount(t, flags...)
	x := newFsx(seed, dir, "fsx")
	t.Cleanup(x.close)
	for x.step < steps {
		if err := x.do(); err != nil {
			t.Fatal(x.report(err))
		}
		if x.step%20_000 == steps%20_000 && x.step > 0 { // the last time at the end
			x.close()
			dcfs(t, "umount", dir)
			dcfs(t, append(append([]string{"mount"}, flags...), store, dir)...)
			if err := errors.Join(x.reopen(), x.checkAll()); err != nil {
				t.Fatal(x.report(fmt.Errorf("after a remount: %w", err)))
			}
		}
	}
	t.Logf("%s", x.summary())
	x.close()
	dcfs(t, "umount", dir)
	dcfs(t, "check", "--data", store)
}

// fsxBytes is the most that a file grows to; fsxKept how many snapshots and
// forks there are at a time.
const (
	fsxBytes = 768 << 10
	fsxFiles = 4
	fsxKept  = 5
)

// fsx is a run. Nothing in it needs a test: TestSoak has several, beside each
// other.
type fsx struct {
	rng   *rand.Rand
	mount string
	name  string // of its directory in the mount, begins the names of its snapshots and forks
	files []*fsxFile
	past  []*fsxPast
	step  int
	ids   int
	log   []string
	count map[string]int
	page  []byte // for O_DIRECT
}

// fsxFile is a file and what must be in it.
type fsxFile struct {
	name             string
	fd, direct, tail int // opened plainly, with O_DIRECT, with O_APPEND
	want             []byte
	mapped           []byte // shared, as long as the file was when it was mapped
}

// fsxPast is a snapshot or a fork, and what must be in it.
type fsxPast struct {
	path string // of the directory with the files
	name string // for rmdir
	fork bool
	want map[string][]byte
}

func newFsx(seed uint64, mount, name string) *fsx {
	x := &fsx{rng: rand.New(rand.NewPCG(seed, 2)), mount: mount, name: name, count: make(map[string]int), page: alignedBytes(1 << 20)}
	for i := range fsxFiles {
		x.files = append(x.files, &fsxFile{name: fmt.Sprint("f", i), fd: -1, direct: -1, tail: -1})
	}
	return x
}

func (x *fsx) path(name string) string { return filepath.Join(x.mount, x.name, name) }

var fsxOps = []struct {
	weight int
	name   string
	do     func(*fsx, *fsxFile) error
}{
	{12, "write", (*fsx).write}, {4, "append", (*fsx).append}, {8, "write directly", (*fsx).writeDirect}, {4, "writev", (*fsx).writev},
	{12, "read", (*fsx).read}, {6, "read directly", (*fsx).readDirect}, {8, "read the map", (*fsx).readMap}, {10, "write the map", (*fsx).writeMap},
	{4, "private map", (*fsx).privateMap}, {3, "unmap", (*fsx).unmap}, {6, "truncate", (*fsx).truncate}, {12, "fallocate", (*fsx).fallocate},
	{8, "copy", (*fsx).copy}, {3, "copy out of the past", (*fsx).copyPast}, {8, "seek", (*fsx).seek}, {4, "size", (*fsx).size},
	{2, "fsync", (*fsx).fsync}, {4, "drop from the cache", (*fsx).drop}, {3, "reopen", (*fsx).openAgain}, {1, "replace", (*fsx).replace},
	{1, "check", (*fsx).check}, {4, "read the past", (*fsx).readPast}, {2, "write a fork", (*fsx).writeFork}, {1, "snapshot or fork", (*fsx).keep},
}

// do does one operation.
func (x *fsx) do() error {
	if x.step == 0 {
		if err := errors.Join(os.MkdirAll(x.path(""), 0o755), x.reopen()); err != nil {
			return err
		}
	}
	x.step++
	sum := 0
	for _, o := range fsxOps {
		sum += o.weight
	}
	n := x.rng.IntN(sum)
	for _, o := range fsxOps {
		if n -= o.weight; n < 0 {
			f := x.files[x.rng.IntN(len(x.files))]
			x.note("%s %s", o.name, f.name)
			x.count[o.name]++
			if err := o.do(x, f); err != nil {
				return fmt.Errorf("step %d, %s %s: %w", x.step, o.name, f.name, err)
			}
			return nil
		}
	}
	panic("weights")
}

func (x *fsx) note(format string, args ...any) {
	if len(x.log) > 80 {
		x.log = slices.Delete(x.log, 0, 40)
	}
	x.log = append(x.log, fmt.Sprintf("%d: ", x.step)+fmt.Sprintf(format, args...))
}

// detail adds to what is noted.
func (x *fsx) detail(format string, args ...any) {
	x.log[len(x.log)-1] += fmt.Sprintf(": "+format, args...)
}

func (x *fsx) report(err error) string {
	return fmt.Sprintf("%s: the last operations:\n%s\n%v", x.name, strings.Join(x.log, "\n"), err)
}

func (x *fsx) summary() string {
	parts := []string{fmt.Sprintf("%s: %d operations", x.name, x.step)}
	for _, o := range fsxOps {
		parts = append(parts, fmt.Sprintf("%s %d", o.name, x.count[o.name]))
	}
	return strings.Join(parts, ", ")
}

func (x *fsx) one(n int) bool { return x.rng.IntN(n) == 0 }

// stretch returns a part of [0,limit), often one that begins or ends on a
// block or a record. It is empty only if the limit is 0.
func (x *fsx) stretch(limit int) (off, n int) {
	if limit == 0 {
		return 0, 0
	}
	off, n = x.rng.IntN(limit), 1+x.rng.IntN(1<<uint(1+x.rng.IntN(18)))
	switch x.rng.IntN(6) {
	case 0, 1:
		off &^= 4095
	case 2:
		off &^= 128<<10 - 1
	}
	if x.one(3) {
		n = (n + 4095) &^ 4095
	}
	return off, min(n, limit-off)
}

// bytes returns n bytes that tell where they come from: noise, or zeros, which
// are data, too.
func (x *fsx) bytes(n int) []byte {
	if x.one(12) {
		return make([]byte, n)
	}
	return noise(x.rng.Uint64(), n+7)[:n] // it comes in words
}

// put is what a write does.
func (f *fsxFile) put(off int, p []byte) {
	f.grow(off + len(p))
	copy(f.want[off:], p)
}

func (f *fsxFile) grow(n int) {
	if n > len(f.want) {
		f.want = append(f.want, make([]byte, n-len(f.want))...)
	}
}

// differ compares what was found in a file from off on.
func differ(what string, off int, got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	return fmt.Errorf("%s from %d on: %s", what, off, difference(got, want))
}

// whole says whether a call took all that it was given.
func whole(n, want int, err error) error {
	if err == nil && n != want {
		err = fmt.Errorf("%d bytes of %d", n, want)
	}
	return err
}

func (x *fsx) write(f *fsxFile) error {
	off, n := x.stretch(fsxBytes)
	p := x.bytes(n)
	x.detail("[%d,%d)", off, off+n)
	k, err := unix.Pwrite(f.fd, p, int64(off))
	f.put(off, p)
	return whole(k, n, err)
}

// writeDirect writes with O_DIRECT: where the kernel has pages of the file,
// dirty ones too, and where somebody has them mapped.
func (x *fsx) writeDirect(f *fsxFile) error {
	off, n := x.stretch(fsxBytes)
	if !x.one(4) { // as most do
		off, n = off&^4095, (n+4095)&^4095
	}
	p := x.page[:n]
	copy(p, x.bytes(n))
	x.detail("[%d,%d)", off, off+n)
	k, err := unix.Pwrite(f.direct, p, int64(off))
	f.put(off, p)
	return whole(k, n, err)
}

func (x *fsx) writev(f *fsxFile) error {
	off, n := x.stretch(fsxBytes)
	p := x.bytes(n)
	a, b := x.rng.IntN(n+1), x.rng.IntN(n+1)
	a, b = min(a, b), max(a, b)
	x.detail("[%d,%d)", off, off+n)
	k, err := unix.Pwritev(f.fd, [][]byte{p[:a], p[a:b], p[b:]}, int64(off))
	f.put(off, p)
	return whole(k, n, err)
}

// append writes with O_APPEND, where the offset counts for nothing, not that of
// pwrite either.
func (x *fsx) append(f *fsxFile) error {
	_, n := x.stretch(1 << 16)
	if len(f.want)+n > fsxBytes {
		return nil
	}
	p := x.bytes(n)
	x.detail("%d at %d", n, len(f.want))
	var k int
	var err error
	if x.one(2) {
		k, err = unix.Pwrite(f.tail, p, 5)
	} else {
		k, err = unix.Write(f.tail, p)
	}
	f.put(len(f.want), p)
	return whole(k, n, err)
}

func (x *fsx) readAt(fd int, buf []byte, want []byte) error {
	off, n := x.stretch(fsxBytes)
	n = min(n, len(buf))
	x.detail("[%d,%d)", off, off+n)
	k, err := unix.Pread(fd, buf[:n], int64(off))
	if err != nil {
		return err
	}
	return differ("read", off, buf[:k], want[min(off, len(want)):min(off+n, len(want))])
}

func (x *fsx) read(f *fsxFile) error       { return x.readAt(f.fd, make([]byte, 1<<18), f.want) }
func (x *fsx) readDirect(f *fsxFile) error { return x.readAt(f.direct, x.page, f.want) }

// mappedPart maps the file, if it is not mapped, and returns how much of the
// map is of the file: the file may have become shorter.
func (x *fsx) mappedPart(f *fsxFile) (int, error) {
	if f.mapped == nil && len(f.want) > 0 {
		p, err := unix.Mmap(f.fd, 0, len(f.want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return 0, fmt.Errorf("mmap: %w", err)
		}
		f.mapped = p
	}
	return min(len(f.mapped), len(f.want)), nil
}

func (x *fsx) readMap(f *fsxFile) error {
	size, err := x.mappedPart(f)
	off, n := x.stretch(size)
	if err != nil || n == 0 {
		return err
	}
	x.detail("[%d,%d)", off, off+n)
	return differ("map", off, f.mapped[off:off+n], f.want[off:off+n])
}

func (x *fsx) writeMap(f *fsxFile) error {
	size, err := x.mappedPart(f)
	off, n := x.stretch(size)
	if err != nil || n == 0 {
		return err
	}
	n = min(n, 1<<14)
	x.detail("[%d,%d)", off, off+n)
	f.put(off, f.mapped[off:off+copy(f.mapped[off:off+n], x.bytes(n))])
	if x.one(3) {
		return unix.Msync(f.mapped, []int{unix.MS_SYNC, unix.MS_ASYNC}[x.rng.IntN(2)])
	}
	return nil
}

// privateMap writes to a private map, of which the file must not hear.
func (x *fsx) privateMap(f *fsxFile) error {
	off, n := x.stretch(len(f.want))
	if n == 0 {
		return nil
	}
	x.detail("[%d,%d)", off, off+n)
	p, err := unix.Mmap(f.fd, int64(off&^4095), off%4096+n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(p)
	q := p[off%4096:]
	if err := differ("private map", off, q, f.want[off:off+n]); err != nil {
		return err
	}
	copy(q, x.bytes(n))
	buf := make([]byte, n)
	k, err := unix.Pread(f.fd, buf, int64(off))
	return errors.Join(err, differ("read", off, buf[:k], f.want[off:off+n]))
}

func (x *fsx) unmap(f *fsxFile) error {
	if f.mapped == nil {
		return nil
	}
	p := f.mapped
	f.mapped = nil
	return unix.Munmap(p)
}

func (x *fsx) truncate(f *fsxFile) error {
	n, _ := x.stretch(fsxBytes)
	if x.one(3) { // near the end, within a page
		n = min(fsxBytes, max(0, len(f.want)+x.rng.IntN(8192)-4096))
	}
	x.detail("from %d to %d", len(f.want), n)
	f.grow(n)
	f.want = f.want[:n:n]
	if x.one(2) {
		return unix.Truncate(x.path(f.name), int64(n))
	}
	return unix.Ftruncate(f.fd, int64(n))
}

func (x *fsx) fallocate(f *fsxFile) error {
	off, n := x.stretch(fsxBytes)
	const keep, punch, zero = unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE
	mode := []uint32{0, keep, punch | keep, punch | keep, zero, zero | keep}[x.rng.IntN(6)]
	x.detail("%#x [%d,%d) of %d", mode, off, off+n, len(f.want))
	if mode&keep == 0 {
		f.grow(off + n)
	}
	if mode&(punch|zero) != 0 {
		clear(f.want[min(off, len(f.want)):min(off+n, len(f.want))])
	}
	return unix.Fallocate(f.fd, mode, int64(off), int64(n))
}

// copyRange copies within the files, all of what it is asked for.
func (x *fsx) copyRange(from, to, off, out, n int) error {
	for n > 0 {
		a, b := int64(off), int64(out)
		k, err := unix.CopyFileRange(from, &a, to, &b, n, 0)
		if err != nil {
			return err
		}
		if k <= 0 || a != int64(off+k) || b != int64(out+k) {
			return fmt.Errorf("copied %d of %d, and the offsets went from %d to %d and from %d to %d", k, n, off, a, out, b)
		}
		off, out, n = off+k, out+k, n-k
	}
	return nil
}

// place returns where to copy n bytes, as far from a record's begin as the
// source is, or anywhere.
func (x *fsx) place(off, n int) int {
	out := x.rng.IntN(fsxBytes - n + 1)
	if x.one(2) {
		out = min(out&^(128<<10-1)+off%(128<<10), fsxBytes-n)
	}
	return out
}

func (x *fsx) copy(f *fsxFile) error {
	g := x.files[x.rng.IntN(len(x.files))]
	off, n := x.stretch(len(f.want))
	if n == 0 {
		return nil
	}
	out := x.place(off, n)
	x.detail("[%d,%d) to %s at %d", off, off+n, g.name, out)
	if f == g && off < out+n && out < off+n {
		a, b := int64(off), int64(out)
		if _, err := unix.CopyFileRange(f.fd, &a, g.fd, &b, n, 0); err != syscall.EINVAL {
			return fmt.Errorf("a copy onto itself: %v, want EINVAL", err)
		}
		return nil
	}
	g.put(out, f.want[off:off+n])
	return x.copyRange(f.fd, g.fd, off, out, n)
}

// somePast returns a snapshot or fork that has f, nil if there is none.
func (x *fsx) somePast() *fsxPast {
	if len(x.past) == 0 {
		return nil
	}
	return x.past[x.rng.IntN(len(x.past))]
}

func (x *fsx) copyPast(f *fsxFile) error {
	s := x.somePast()
	if s == nil {
		return nil
	}
	want := s.want[f.name]
	off, n := x.stretch(len(want))
	if n == 0 {
		return nil
	}
	g := x.files[x.rng.IntN(len(x.files))]
	out := x.place(off, n)
	x.detail("%s [%d,%d) to %s at %d", s.name, off, off+n, g.name, out)
	fd, err := unix.Open(filepath.Join(s.path, f.name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	g.put(out, want[off:off+n])
	return x.copyRange(fd, g.fd, off, out, n)
}

// seekIn checks what SEEK_DATA and SEEK_HOLE say: what they pass over is zeros,
// and past the end there is nothing.
func (x *fsx) seekIn(fd int, want []byte) error {
	size := len(want)
	off := x.rng.IntN(size + 2)
	x.detail("from %d, size %d", off, size)
	data, err := unix.Seek(fd, int64(off), unix.SEEK_DATA)
	switch {
	case err == syscall.ENXIO:
		data = int64(max(off, size))
	case err != nil:
		return fmt.Errorf("SEEK_DATA: %w", err)
	case int(data) < off || int(data) >= size:
		return fmt.Errorf("SEEK_DATA says %d", data)
	}
	if off < size && len(bytes.Trim(want[off:data], "\x00")) > 0 {
		return fmt.Errorf("SEEK_DATA says %d, and not all before it is 0", data)
	}
	hole, err := unix.Seek(fd, int64(off), unix.SEEK_HOLE)
	switch {
	case off >= size:
		if err != syscall.ENXIO {
			return fmt.Errorf("SEEK_HOLE past the end: %d, %v; want ENXIO", hole, err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("SEEK_HOLE: %w", err)
	case int(hole) < off || int(hole) > size:
		return fmt.Errorf("SEEK_HOLE says %d", hole)
	case int(hole) > off && int(data) != off:
		return fmt.Errorf("a hole until %d, data until %d", data, hole)
	case int(hole) == off && int(data) == off:
		return errors.New("neither a hole nor data")
	}
	return nil
}

// seek asks where there is data. What is dirty in a map only, the server has
// not heard of: FUSE asks it without writing that first.
func (x *fsx) seek(f *fsxFile) error {
	if f.mapped != nil {
		if err := unix.Msync(f.mapped, unix.MS_SYNC); err != nil {
			return err
		}
	}
	return x.seekIn(f.fd, f.want)
}

func (x *fsx) size(f *fsxFile) error {
	for _, fd := range []int{f.fd, f.direct, f.tail} {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Size != int64(len(f.want)) {
			return fmt.Errorf("%d, %v; want %d", st.Size, err, len(f.want))
		}
	}
	return nil
}

func (x *fsx) fsync(f *fsxFile) error {
	switch x.rng.IntN(3) {
	case 0:
		return unix.Fsync(f.direct)
	case 1:
		return unix.Fdatasync(f.fd)
	}
	return unix.SyncFileRange(f.fd, 0, 0, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
}

// drop has the kernel forget pages of a file that are not dirty: what is read
// next comes from the server.
func (x *fsx) drop(f *fsxFile) error {
	off, n := x.stretch(fsxBytes)
	if x.one(3) {
		off, n = 0, 0 // all
	}
	if x.one(2) {
		if err := unix.Fdatasync(f.fd); err != nil {
			return err
		}
	}
	return unix.Fadvise(f.fd, int64(off), int64(n), unix.FADV_DONTNEED)
}

func (f *fsxFile) close() {
	if f.mapped != nil {
		unix.Munmap(f.mapped)
		f.mapped = nil
	}
	for _, fd := range []*int{&f.fd, &f.direct, &f.tail} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

func (x *fsx) close() {
	for _, f := range x.files {
		f.close()
	}
}

func (x *fsx) open(f *fsxFile) (err error) {
	flags := unix.O_RDWR | unix.O_CLOEXEC | unix.O_CREAT
	sync := []int{0, 0, 0, unix.O_DSYNC, unix.O_SYNC}[x.rng.IntN(5)]
	if f.fd, err = unix.Open(x.path(f.name), flags|sync, 0o644); err != nil {
		return err
	}
	if f.direct, err = unix.Open(x.path(f.name), flags|unix.O_DIRECT, 0o644); err != nil {
		return err
	}
	f.tail, err = unix.Open(x.path(f.name), flags&^unix.O_RDWR|unix.O_WRONLY|unix.O_APPEND, 0o644)
	return err
}

func (x *fsx) openAgain(f *fsxFile) error {
	f.close()
	if x.one(8) && x.open(f) == nil { // and with O_TRUNC
		f.close()
		fd, err := unix.Open(x.path(f.name), unix.O_WRONLY|unix.O_TRUNC|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		unix.Close(fd)
		f.want = nil
	}
	return x.open(f)
}

func (x *fsx) reopen() error {
	for _, f := range x.files {
		f.close()
		if err := x.open(f); err != nil {
			return err
		}
	}
	return nil
}

// replace writes a new file and renames it onto the old one, as editors do.
func (x *fsx) replace(f *fsxFile) error {
	n, _ := x.stretch(fsxBytes)
	p := x.bytes(n)
	f.close()
	if err := os.WriteFile(x.path("new"), p, 0o644); err != nil {
		return err
	}
	if err := os.Rename(x.path("new"), x.path(f.name)); err != nil {
		return err
	}
	f.want = slices.Clone(p)
	return x.open(f)
}

func (x *fsx) check(f *fsxFile) error { return same(x.path(f.name), f.want) }

func same(path string, want []byte) error {
	got, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return differ(path, 0, got, want)
}

// checkAll compares everything.
func (x *fsx) checkAll() error {
	for _, f := range x.files {
		if err := x.check(f); err != nil {
			return err
		}
	}
	for _, s := range x.past {
		if err := s.check(); err != nil {
			return err
		}
	}
	return nil
}

func (s *fsxPast) check() error {
	for name, want := range s.want {
		if err := same(filepath.Join(s.path, name), want); err != nil {
			return err
		}
	}
	return nil
}

// keep takes a snapshot or a fork; when there are many, one goes first, after a
// last look.
func (x *fsx) keep(*fsxFile) error {
	if len(x.past) >= fsxKept {
		i := x.rng.IntN(len(x.past))
		s := x.past[i]
		x.past = slices.Delete(x.past, i, i+1)
		if err := s.check(); err != nil {
			return err
		}
		if err := unix.Rmdir(s.name); err != nil {
			return fmt.Errorf("rmdir %s: %w", s.name, err)
		}
	}
	x.ids++
	s := &fsxPast{want: make(map[string][]byte), fork: x.one(3)}
	if s.fork {
		s.name = filepath.Join(x.mount, ".forks", fmt.Sprint(x.name, "-", x.ids))
		s.path = filepath.Join(s.name, x.name)
	} else {
		s.name = filepath.Join(x.mount, ".snapshots", fmt.Sprint(x.name, "-", x.ids))
		s.path = filepath.Join(s.name, x.name)
		if x.one(2) {
			s.path = filepath.Join(x.mount, x.name, ".snapshots", filepath.Base(s.name))
		}
	}
	x.detail("%s", s.name)
	if err := unix.Mkdir(s.name, 0o755); err != nil {
		return err
	}
	for _, f := range x.files {
		s.want[f.name] = slices.Clone(f.want)
	}
	x.past = append(x.past, s)
	return nil
}

func (x *fsx) readPast(f *fsxFile) error {
	s := x.somePast()
	if s == nil {
		return nil
	}
	flags, buf := unix.O_RDONLY|unix.O_CLOEXEC, make([]byte, 1<<18)
	if x.one(3) {
		flags, buf = flags|unix.O_DIRECT, x.page
	}
	fd, err := unix.Open(filepath.Join(s.path, f.name), flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	x.detail("%s", s.name)
	if x.one(3) {
		return x.seekIn(fd, s.want[f.name])
	}
	return x.readAt(fd, buf, s.want[f.name])
}

// writeFork changes a file in a fork, which nobody else sees.
func (x *fsx) writeFork(f *fsxFile) error {
	s := x.somePast()
	if s == nil || !s.fork {
		return nil
	}
	g := &fsxFile{name: f.name, want: s.want[f.name]}
	var err error
	if g.fd, err = unix.Open(filepath.Join(s.path, f.name), unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	defer unix.Close(g.fd)
	if x.one(2) {
		err = x.write(g)
	} else {
		err = x.fallocate(g)
	}
	s.want[f.name] = g.want
	return err
}
