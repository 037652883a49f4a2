package tests

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapped maps a stretch of a file for the time of the test.
func mapped(t *testing.T, fd, bytes int) []byte {
	t.Helper()
	m, err := unix.Mmap(fd, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	t.Cleanup(func() { unix.Munmap(m) })
	return m
}

// faults reports whether access to memory ends in SIGBUS or SIGSEGV.
func faults(access func()) (fault bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { fault = recover() != nil }()
	access()
	return false
}

// sink takes what is read for nothing else than to read it.
var sink byte

// pread reads up to n bytes.
func pread(t *testing.T, fd, n int, off int64) []byte {
	t.Helper()
	buf := make([]byte, n)
	got, err := unix.Pread(fd, buf, off)
	must(t, err)
	return buf[:got]
}

func pwrite(t *testing.T, fd int, text string, off int64) {
	t.Helper()
	n, err := unix.Pwrite(fd, []byte(text), off)
	if err != nil || n != len(text) {
		t.Fatalf("write of %d bytes at %d: %d, %v", len(text), off, n, err)
	}
}

// TestMmapAndFileAreOne: what is stored through a mapping is read by read(2),
// in every descriptor, and the other way round, at once.
func TestMmapAndFileAreOne(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		const size = 5 << 12
		path := filepath.Join(dir, "f")
		fd := openAt(t, path, unix.O_RDWR|unix.O_CREAT)
		other := openAt(t, path, unix.O_RDWR)
		must(t, unix.Ftruncate(fd, size))
		m, m2 := mapped(t, fd, size), mapped(t, other, size)
		for i := range 200 {
			at := i * 97 % (size - 10)
			text := fmt.Sprintf("%09d", i)
			switch i % 4 {
			case 0:
				copy(m[at:], text)
			case 1:
				pwrite(t, other, text, int64(at))
			case 2:
				copy(m2[at:], text)
			case 3:
				must(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(at), 9))
				text = strings.Repeat("\x00", 9)
			}
			if got := string(m[at : at+9]); got != text {
				t.Fatalf("step %d: mapping has %q, want %q", i, got, text)
			}
			if got := string(m2[at : at+9]); got != text {
				t.Fatalf("step %d: the other mapping has %q, want %q", i, got, text)
			}
			for _, fd := range []int{fd, other} {
				if got := string(pread(t, fd, 9, int64(at))); got != text {
					t.Fatalf("step %d: read %q, want %q", i, got, text)
				}
			}
		}
		// A write whose data is in a mapping of the file that it goes to.
		copy(m, "the same file")
		_, err := unix.Pwrite(fd, m[:4096], 4097)
		must(t, err)
		if got := string(m2[4097:4110]); got != "the same file" {
			t.Errorf("a file written from its own mapping: %q", got)
		}
		want := string(m)
		must(t, unix.Msync(m, unix.MS_SYNC))
		must(t, unix.Msync(m, unix.MS_ASYNC))
		must(t, unix.Msync(m, unix.MS_INVALIDATE))
		wants(t, path, want)
	})
}

// TestTruncationUnderAMapping: pages past the end are SIGBUS, what is past the
// end within the last page is no part of the file.
func TestTruncationUnderAMapping(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		const page = 4096
		fd := openAt(t, filepath.Join(dir, "f"), unix.O_RDWR|unix.O_CREAT)
		must(t, unix.Ftruncate(fd, 4*page))
		m := mapped(t, fd, 4*page)
		for i := range m {
			m[i] = 'x'
		}
		must(t, unix.Ftruncate(fd, page+10))
		if !faults(func() { sink = m[2*page] }) || !faults(func() { m[3*page] = 1 }) {
			t.Error("no SIGBUS past the end")
		}
		if faults(func() { m[page+9] = 'y' }) {
			t.Error("SIGBUS before the end")
		}
		if got := m[page+10 : 2*page]; len(bytes.Trim(got, "\x00")) != 0 {
			t.Errorf("past the end in the last page: %.20q, want zeros", got)
		}
		must(t, unix.Ftruncate(fd, 4*page))
		if got := m[page+10:]; len(bytes.Trim(got, "\x00")) != 0 {
			t.Errorf("after growing again, mapped: %.20q, want zeros", got)
		}
		if got := pread(t, fd, 4*page, page+10); len(got) != 3*page-10 || len(bytes.Trim(got, "\x00")) != 0 {
			t.Errorf("after growing again, read: %d bytes %.20q, want zeros", len(got), got)
		}
		// Stores past the end stay out of the file, however it grows.
		for how, grow := range map[string]func() error{
			"ftruncate": func() error { return unix.Ftruncate(fd, 3*page) },
			"fallocate": func() error { return unix.Fallocate(fd, 0, 0, 3*page) },
			"write":     func() error { _, err := unix.Pwrite(fd, make([]byte, 10), 3*page-10); return err },
			"copy_file_range": func() error {
				src := openAt(t, filepath.Join(dir, "src"), unix.O_RDWR|unix.O_CREAT)
				pwrite(t, src, strings.Repeat("\x00", 10), 0)
				from, to := int64(0), int64(3*page-10)
				_, err := unix.CopyFileRange(src, &from, fd, &to, 10, 0)
				return err
			},
		} {
			must(t, unix.Ftruncate(fd, 10))
			m[9], m[20] = 'a', 'b'
			must(t, unix.Msync(m[:page], unix.MS_SYNC))
			must(t, grow())
			if got := pread(t, fd, page, 9); got[0] != 'a' || len(bytes.Trim(got[1:], "\x00")) != 0 {
				t.Errorf("stored past the end, then %s: %q, want a and zeros", how, bytes.Trim(got, "\x00"))
			}
		}
		// Truncated to nothing by another open.
		must(t, openErr(filepath.Join(dir, "f"), unix.O_WRONLY|unix.O_TRUNC))
		if !faults(func() { sink = m[0] }) {
			t.Error("no SIGBUS in an empty file")
		}
	})
}

// TestMmapStoresMoveTheTimes: at msync at the latest.
func TestMmapStoresMoveTheTimes(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		fd := openAt(t, filepath.Join(dir, "f"), unix.O_RDWR|unix.O_CREAT)
		must(t, unix.Ftruncate(fd, 4096))
		m := mapped(t, fd, 4096)
		last := fstat(t, fd)
		for i := range 3 {
			time.Sleep(10 * time.Millisecond) // the clock that files go by moves
			m[i] = byte('a' + i)
			must(t, unix.Msync(m, unix.MS_SYNC))
			st := fstat(t, fd)
			if st.Mtim == last.Mtim || st.Ctim == last.Ctim {
				t.Errorf("store %d: mtime %v after %v, ctime %v after %v", i, st.Mtim, last.Mtim, st.Ctim, last.Ctim)
			}
			last = st
		}
	})
}

func TestMmapNeedsTheRights(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		path := filepath.Join(dir, "f")
		write(t, path, strings.Repeat("x", 4096))
		fd := openAt(t, path, unix.O_RDONLY)
		_, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		fails(t, "map read-only file shared to write", err, syscall.EACCES)
		p, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		must(t, err)
		p[0] = 'p'
		must(t, unix.Munmap(p))
		wants(t, path, strings.Repeat("x", 4096))
		fd = openAt(t, path, unix.O_WRONLY)
		_, err = unix.Mmap(fd, 0, 4096, unix.PROT_WRITE, unix.MAP_SHARED)
		fails(t, "map write-only file", err, syscall.EACCES)
		fd = openAt(t, path, unix.O_RDWR|unix.O_APPEND)
		m := mapped(t, fd, 4096)
		m[1] = 'm' // O_APPEND says nothing about mappings
		must(t, unix.Msync(m, unix.MS_SYNC))
		wants(t, path, "xm"+strings.Repeat("x", 4094))
	})
}

// aligned returns memory that O_DIRECT may use.
func aligned(t *testing.T, n int) []byte {
	t.Helper()
	buf, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(t, err)
	t.Cleanup(func() { unix.Munmap(buf) })
	return buf
}

// TestDirectAndBufferedAreOne: O_DIRECT, buffered and mapped I/O of one file
// see each other's data.
func TestDirectAndBufferedAreOne(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		const blocks, block = 64, 4096
		path := filepath.Join(dir, "f")
		fd := openAt(t, path, unix.O_RDWR|unix.O_CREAT)
		direct := openAt(t, path, unix.O_RDWR|unix.O_DIRECT)
		must(t, unix.Ftruncate(fd, blocks*block))
		m, buf := mapped(t, fd, blocks*block), aligned(t, 4*block)
		want := make([]byte, blocks*block)
		rng := rand.New(rand.NewPCG(1, 2))
		for i := range 600 {
			n := (1 + rng.IntN(4)) * block
			at := rng.IntN(blocks-3) * block
			for j := range buf[:n] {
				buf[j] = byte(i)
			}
			var err error
			switch rng.IntN(6) {
			case 0:
				_, err = unix.Pwrite(direct, buf[:n], int64(at))
			case 1:
				_, err = unix.Pwrite(fd, buf[:n], int64(at))
			case 2:
				copy(m[at:], buf[:n])
			case 3:
				if got := pread(t, fd, n, int64(at)); !bytes.Equal(got, want[at:at+n]) {
					t.Fatalf("step %d: buffered read at %d: %s", i, at, difference(got, want[at:at+n]))
				}
				continue
			case 4:
				if got := m[at : at+n]; !bytes.Equal(got, want[at:at+n]) {
					t.Fatalf("step %d: mapping at %d: %s", i, at, difference(got, want[at:at+n]))
				}
				continue
			case 5:
				got, err := unix.Pread(direct, buf[:n], int64(at))
				if err != nil || !bytes.Equal(buf[:got], want[at:at+n]) {
					t.Fatalf("step %d: direct read at %d: %v, %s", i, at, err, difference(buf[:got], want[at:at+n]))
				}
				continue
			}
			must(t, err)
			copy(want[at:], buf[:n])
		}
		must(t, unix.Ftruncate(fd, 3*block-100))
		if n, err := unix.Pread(direct, buf, 2*block); err != nil || n != block-100 {
			t.Errorf("direct read up to the end: %d, %v, want %d", n, err, block-100)
		}
		if n, err := unix.Pread(direct, buf, 3*block); err != nil || n != 0 {
			t.Errorf("direct read past the end: %d, %v", n, err)
		}
		// It also appends.
		must(t, unix.Ftruncate(fd, 3*block))
		app := openAt(t, path, unix.O_WRONLY|unix.O_DIRECT|unix.O_APPEND)
		_, err := unix.Write(app, buf[:block])
		must(t, err)
		if st := fstat(t, fd); st.Size != 4*block {
			t.Errorf("after a direct append: %d bytes, want %d", st.Size, 4*block)
		}
	})
}

// appenderEnv makes TestAppendsOfManyProcesses a process that appends.
const appenderEnv = "DCFS_TEST_APPEND"

// TestAppendsOfManyProcesses: each write with O_APPEND is in the file once, in
// one piece, those of one writer in their order.
func TestAppendsOfManyProcesses(t *testing.T) {
	const writers, lines = 4, 300
	line := func(i, j int) string { return fmt.Sprintf("%d %d %s\n", i, j, strings.Repeat("x", j*j%5000)) }
	if s := os.Getenv(appenderEnv); s != "" {
		var i int
		fmt.Sscan(s, &i)
		fd := openAt(t, os.Getenv("DCFS_TEST_FILE"), unix.O_WRONLY|unix.O_APPEND)
		for j := range lines {
			if n, err := unix.Pwrite(fd, []byte(line(i, j)), 0); err != nil || n != len(line(i, j)) { // the offset counts for nothing
				t.Fatal(n, err)
			}
		}
		return
	}
	asOnExt4(t, func(t *testing.T, dir string) {
		path := filepath.Join(dir, "f")
		write(t, path, "")
		var cmds []*exec.Cmd
		for i := range writers {
			cmd := exec.Command(os.Args[0], "-test.run=^TestAppendsOfManyProcesses$")
			cmd.Env = append(os.Environ(), fmt.Sprint(appenderEnv, "=", i), "DCFS_TEST_FILE="+path)
			must(t, cmd.Start())
			cmds = append(cmds, cmd)
		}
		for _, cmd := range cmds {
			if err := cmd.Wait(); err != nil {
				t.Errorf("writer: %v", err)
			}
		}
		next := make([]int, writers)
		for l := range strings.Lines(read(t, path)) {
			var i, j int
			if _, err := fmt.Sscan(l, &i, &j); err != nil || i < 0 || i >= writers || j != next[i] || l != line(i, j) {
				t.Fatalf("line %.20q: %v", l, err)
			}
			next[i]++
		}
		for i, n := range next {
			if n != lines {
				t.Errorf("writer %d: %d lines, want %d", i, n, lines)
			}
		}
	})
}

// TestSeekDataAndHoleAreExact, by the 4 KiB.
func TestSeekDataAndHoleAreExact(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		const blocks, block = 200, 4096
		rng := rand.New(rand.NewPCG(3, 4))
		for round := range 4 {
			fd := openAt(t, filepath.Join(dir, fmt.Sprint("f", round)), unix.O_RDWR|unix.O_CREAT)
			data := make([]bool, blocks)
			size := int64(blocks*block - rng.IntN(block))
			must(t, unix.Ftruncate(fd, size))
			for range 40 {
				at, n := rng.IntN(blocks-10), 1+rng.IntN(9)
				hole := rng.IntN(3) == 0
				if hole {
					must(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(at*block), int64(n*block)))
				} else {
					pwrite(t, fd, strings.Repeat("d", n*block), int64(at*block))
				}
				for i := range n {
					data[at+i] = !hole
				}
			}
			must(t, unix.Fsync(fd))
			for off := int64(0); off < size; off += block / 2 {
				for _, whence := range []int{unix.SEEK_DATA, unix.SEEK_HOLE} {
					want, i := off, int(off/block)
					for ; i < blocks && data[i] != (whence == unix.SEEK_DATA); i++ {
						want = int64(i+1) * block
					}
					var wantErr error
					if i == blocks && whence == unix.SEEK_DATA {
						wantErr = syscall.ENXIO
					}
					want = min(want, size)
					got, err := unix.Seek(fd, off, whence)
					if !errors.Is(err, wantErr) || err == nil && got != want {
						t.Fatalf("round %d: seek %d, %d: %d, %v; want %d, %v", round, off, whence, got, err, want, wantErr)
					}
				}
			}
			for _, whence := range []int{unix.SEEK_DATA, unix.SEEK_HOLE} {
				for _, off := range []int64{size, size + 1, 1 << 40, -1} {
					_, err := unix.Seek(fd, off, whence)
					fails(t, fmt.Sprintf("seek %d, %d in %d bytes", off, whence, size), err, syscall.ENXIO)
				}
			}
			_, err := unix.Seek(fd, -1, io.SeekStart)
			fails(t, "seek to -1", err, syscall.EINVAL)
			_, err = unix.Seek(fd, 0, 99)
			fails(t, "seek by 99", err, syscall.EINVAL)
			if got, err := unix.Seek(fd, 10, io.SeekEnd); err != nil || got != size+10 {
				t.Errorf("seek 10 past the end: %d, %v", got, err)
			}
			if n, err := unix.Read(fd, make([]byte, 10)); n != 0 || err != nil {
				t.Errorf("read there: %d, %v", n, err)
			}
		}
		empty := openAt(t, filepath.Join(dir, "empty"), unix.O_RDWR|unix.O_CREAT)
		_, err := unix.Seek(empty, 0, unix.SEEK_DATA)
		fails(t, "SEEK_DATA in an empty file", err, syscall.ENXIO)
		_, err = unix.Seek(empty, 0, unix.SEEK_HOLE)
		fails(t, "SEEK_HOLE in an empty file", err, syscall.ENXIO)
	})
}

func TestFallocateToTheLetter(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		path := filepath.Join(dir, "f")
		write(t, path, "text")
		fd := openAt(t, path, unix.O_RDWR)
		const keep, punch, zero = unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE
		for _, c := range []struct {
			mode     uint32
			off, len int64
			want     syscall.Errno
		}{
			{0, 0, 0, syscall.EINVAL},
			{0, -1, 1, syscall.EINVAL},
			{0, 0, -1, syscall.EINVAL},
			{0, 1<<63 - 1, 1, syscall.EFBIG},
			{punch, 0, 4, syscall.EOPNOTSUPP},
			{punch | zero | keep, 0, 4, syscall.EOPNOTSUPP},
			{0x8000, 0, 4, syscall.EOPNOTSUPP},
		} {
			fails(t, fmt.Sprintf("fallocate %#x at %d, %d", c.mode, c.off, c.len), unix.Fallocate(fd, c.mode, c.off, c.len), c.want)
		}
		fails(t, "of a read-only descriptor", unix.Fallocate(openAt(t, path, unix.O_RDONLY), 0, 0, 1), syscall.EBADF)
		fails(t, "of a directory", unix.Fallocate(openAt(t, dir, unix.O_RDONLY), 0, 0, 1), syscall.EBADF)
		must(t, unix.Mknod(filepath.Join(dir, "p"), unix.S_IFIFO|0o644, 0))
		fails(t, "of a fifo", unix.Fallocate(openAt(t, filepath.Join(dir, "p"), unix.O_RDWR), 0, 0, 1), syscall.ESPIPE)
		wants(t, path, "text")
		must(t, unix.Fallocate(fd, zero|keep, 2, 100))
		wants(t, path, "te\x00\x00")
		must(t, unix.Fallocate(fd, punch|keep, 0, 100))
		wants(t, path, "\x00\x00\x00\x00")
		must(t, unix.Fallocate(fd, zero, 2, 4))
		wants(t, path, strings.Repeat("\x00", 6))
		must(t, unix.Fallocate(fd, 0, 0, 3)) // never shortens
		wants(t, path, strings.Repeat("\x00", 6))
	})
}

// TestFallocateModesThatDcfsLacks say so.
func TestFallocateModesThatDcfsLacks(t *testing.T) {
	w := newWorld(t, "memory")
	write(t, w.path("f"), strings.Repeat("x", 8192))
	fd := openAt(t, w.path("f"), unix.O_RDWR)
	for _, mode := range []uint32{unix.FALLOC_FL_COLLAPSE_RANGE, unix.FALLOC_FL_INSERT_RANGE, unix.FALLOC_FL_UNSHARE_RANGE} {
		fails(t, fmt.Sprintf("fallocate %#x", mode), unix.Fallocate(fd, mode, 0, 4096), syscall.EOPNOTSUPP)
	}
	wants(t, w.path("f"), strings.Repeat("x", 8192))
}

func TestCopyFileRangeToTheLetter(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		text := strings.Repeat("0123456789", 1000)
		write(t, a, text)
		write(t, b, "bbbb")
		fa, fb := openAt(t, a, unix.O_RDWR), openAt(t, b, unix.O_RDWR)
		copyAt := func(from int, at int64, to int, toAt int64, n, flags int) (int, error) {
			return unix.CopyFileRange(from, &at, to, &toAt, n, flags)
		}
		bad := func(what string, want syscall.Errno, from int, at int64, to int, toAt int64, n, flags int) {
			t.Helper()
			_, err := copyAt(from, at, to, toAt, n, flags)
			fails(t, what, err, want)
		}
		good := func(what string, want int, from int, at int64, to int, toAt int64, n int) {
			t.Helper()
			if got, err := copyAt(from, at, to, toAt, n, 0); err != nil || got != want {
				t.Errorf("%s: copied %d, %v, want %d", what, got, err, want)
			}
		}
		bad("onto itself", syscall.EINVAL, fa, 0, fa, 0, 10, 0)
		bad("onto itself, shifted by 1", syscall.EINVAL, fa, 0, fa, 1, 2, 0)
		bad("onto itself, shifted back", syscall.EINVAL, fa, 10, fa, 1, 10, 0)
		bad("with flags", syscall.EINVAL, fa, 0, fb, 0, 1, 1)
		bad("from a write-only descriptor", syscall.EBADF, openAt(t, a, unix.O_WRONLY), 0, fb, 0, 1, 0)
		bad("to a read-only descriptor", syscall.EBADF, fa, 0, openAt(t, b, unix.O_RDONLY), 0, 1, 0)
		bad("to O_APPEND", syscall.EBADF, fa, 0, openAt(t, b, unix.O_WRONLY|unix.O_APPEND), 0, 1, 0)
		bad("from a directory", syscall.EISDIR, openAt(t, dir, unix.O_RDONLY), 0, fb, 0, 1, 0)
		must(t, unix.Mknod(filepath.Join(dir, "p"), unix.S_IFIFO|0o644, 0))
		bad("from a fifo", syscall.EINVAL, openAt(t, filepath.Join(dir, "p"), unix.O_RDWR), 0, fb, 0, 1, 0)
		wants(t, b, "bbbb")
		good("past the end", 0, fa, int64(len(text)), fb, 0, 10)
		good("far past the end", 0, fa, 1<<40, fb, 0, 10)
		good("nothing", 0, fa, 0, fb, 0, 0)
		wants(t, b, "bbbb")
		good("over the end", 5, fa, int64(len(text)-5), fb, 1, 1000)
		wants(t, b, "b56789")
		good("in one file, side by side", 5000, fa, 0, fa, 5000, 5000)
		wants(t, a, text)
		good("to beyond the end", 10, fa, 0, fb, 20, 10)
		wants(t, b, "b56789"+strings.Repeat("\x00", 14)+"0123456789")
		// Offsets of descriptors move where none are given.
		_, err := unix.Seek(fa, 3, io.SeekStart)
		must(t, err)
		if n, err := unix.CopyFileRange(fa, nil, fb, nil, 4, 0); n != 4 || err != nil {
			t.Errorf("by the descriptors' offsets: %d, %v", n, err)
		}
		offA, _ := unix.Seek(fa, 0, io.SeekCurrent)
		offB, _ := unix.Seek(fb, 0, io.SeekCurrent)
		if offA != 7 || offB != 4 {
			t.Errorf("offsets after it: %d and %d, want 7 and 4", offA, offB)
		}
		wants(t, b, "345689"+strings.Repeat("\x00", 14)+"0123456789")
		// What is mapped and dirty is copied.
		m := mapped(t, fa, 10000)
		copy(m, "MAPPED")
		good("what was stored by mmap", 6, fa, 0, fb, 0, 6)
		mb := mapped(t, fb, 30)
		good("onto what is mapped", 3, fa, 3, fb, 0, 3)
		if got := string(mb[:6]); got != "PEDPED" {
			t.Errorf("mapping of the target: %q, want PEDPED", got)
		}
		fails(t, "FICLONE", unix.IoctlFileClone(fb, fa), syscall.EOPNOTSUPP)
		fails(t, "FICLONERANGE", unix.IoctlFileCloneRange(fb, &unix.FileCloneRange{Src_fd: int64(fa), Src_length: 4096}), syscall.EOPNOTSUPP)
	})
}

// TestCopyFileRangeBetweenViews: from anywhere in the volume to wherever it
// may be written, and between file systems not at all.
func TestCopyFileRangeBetweenViews(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		data := strings.Repeat("0123456789abcdef", 1<<16)
		write(t, w.path("f"), data)
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		must(t, os.Mkdir(w.path(".forks", "f"), 0o755))
		write(t, w.path("f"), "now")
		t.Run("mounted", func(t *testing.T) {
			past := openAt(t, w.path(".snapshots/s/f"), unix.O_RDONLY)
			fork := openAt(t, w.path(".forks/f/new"), unix.O_RDWR|unix.O_CREAT)
			live := openAt(t, w.path("new"), unix.O_RDWR|unix.O_CREAT)
			all := func(from, to int) {
				t.Helper()
				for at := int64(0); at < int64(len(data)); {
					out := at
					n, err := unix.CopyFileRange(from, &at, to, &out, len(data)-int(at), 0)
					if err != nil || n == 0 {
						t.Fatalf("copied %d: %v", n, err)
					}
				}
			}
			all(past, fork)
			wants(t, w.path(".forks/f/new"), data)
			all(fork, live)
			wants(t, w.path("new"), data)
			// The same inode in two views is two files: nothing overlaps.
			same := openAt(t, w.path("f"), unix.O_RDWR)
			all(past, same)
			wants(t, w.path("f"), data)
			wants(t, w.path(".snapshots/s/f"), data)
			fails(t, "open in a snapshot to write", openErr(w.path(".snapshots/s/f"), unix.O_RDWR), syscall.EROFS)
			fails(t, "create in a snapshot", openErr(w.path(".snapshots/s/new"), unix.O_CREAT|unix.O_WRONLY), syscall.EROFS)
			outside := openAt(t, filepath.Join(t.TempDir(), "outside"), unix.O_RDWR|unix.O_CREAT)
			_, err := unix.CopyFileRange(past, nil, outside, nil, 10, 0)
			fails(t, "out of the volume", err, syscall.EXDEV)
			pwrite(t, outside, "x", 0)
			_, err = unix.CopyFileRange(outside, nil, live, nil, 1, 0)
			fails(t, "into the volume", err, syscall.EXDEV)
		})
	})
}

// TestReadAndWriteOfAnySize: 1 byte to over 1 MiB, aligned to nothing, in one
// piece and in several.
func TestReadAndWriteOfAnySize(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		fd := openAt(t, filepath.Join(dir, "f"), unix.O_RDWR|unix.O_CREAT)
		source := noise(5, 2<<20)
		var want []byte
		for i, n := range []int{1, 2, 511, 4095, 4096, 4097, 65537, 131071, 131072, 131073, 1<<20 - 1, 1 << 20, 1<<20 + 1} {
			for j, at := range []int{0, 1, 4095, 131071, len(want)} {
				b := source[i*100+j : i*100+j+n]
				var got int
				var err error
				if (i+j)%2 == 0 {
					got, err = unix.Pwrite(fd, b, int64(at))
				} else {
					got, err = unix.Pwritev(fd, [][]byte{b[:n/3], nil, b[n/3 : n/2], b[n/2:]}, int64(at))
				}
				if err != nil || got != n {
					t.Fatalf("write %d at %d: %d, %v", n, at, got, err)
				}
				if at+n > len(want) {
					want = append(want, make([]byte, at+n-len(want))...)
				}
				copy(want[at:], b)
				back := pread(t, fd, n+10, int64(max(at-5, 0)))
				if w := want[max(at-5, 0):min(max(at-5, 0)+n+10, len(want))]; !bytes.Equal(back, w) {
					t.Fatalf("after write of %d at %d: %s", n, at, difference(back, w))
				}
			}
		}
		if got := pread(t, fd, len(want)+100, 0); !bytes.Equal(got, want) {
			t.Errorf("in one piece: %s", difference(got, want))
		}
		a, b := make([]byte, 1), make([]byte, len(want))
		if n, err := unix.Preadv(fd, [][]byte{a, b}, 0); err != nil || n != len(want) || !bytes.Equal(slices.Concat(a, b[:n-1]), want) {
			t.Errorf("preadv: %d, %v", n, err)
		}
	})
}

// TestEndOfFile: reads stop there, and past it lies nothing.
func TestEndOfFile(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		path := filepath.Join(dir, "f")
		write(t, path, "0123456789")
		fd := openAt(t, path, unix.O_RDWR)
		for _, c := range []struct {
			off  int64
			n    int
			want string
		}{{0, 100, "0123456789"}, {5, 5, "56789"}, {5, 6, "56789"}, {9, 1, "9"}, {10, 1, ""}, {11, 100, ""}, {1 << 40, 1, ""}, {3, 0, ""}} {
			if got := pread(t, fd, c.n, c.off); string(got) != c.want {
				t.Errorf("read %d at %d: %q, want %q", c.n, c.off, got, c.want)
			}
		}
		_, err := unix.Pread(fd, make([]byte, 1), -1)
		fails(t, "read at -1", err, syscall.EINVAL)
		_, err = unix.Pwrite(fd, make([]byte, 1), -1)
		fails(t, "write at -1", err, syscall.EINVAL)
		fails(t, "ftruncate to -1", unix.Ftruncate(fd, -1), syscall.EINVAL)
		ro, wo := openAt(t, path, unix.O_RDONLY), openAt(t, path, unix.O_WRONLY)
		_, err = unix.Write(ro, []byte("x"))
		fails(t, "write to what is open to read", err, syscall.EBADF)
		fails(t, "ftruncate of it", unix.Ftruncate(ro, 0), syscall.EINVAL)
		_, err = unix.Read(wo, make([]byte, 1))
		fails(t, "read from what is open to write", err, syscall.EBADF)
		_, _, e := syscall.Syscall6(unix.SYS_PREAD64, uintptr(fd), 8, 4, 0, 0, 0)
		fails(t, "read to a bad address", e, syscall.EFAULT)
		_, _, e = syscall.Syscall6(unix.SYS_PWRITE64, uintptr(fd), 8, 4, 0, 0, 0)
		fails(t, "write from a bad address", e, syscall.EFAULT)

		// A write of nothing changes nothing, wherever it is.
		before := fstat(t, fd)
		time.Sleep(10 * time.Millisecond)
		if n, err := unix.Pwrite(fd, nil, 100); n != 0 || err != nil {
			t.Errorf("write of nothing: %d, %v", n, err)
		}
		if after := fstat(t, fd); after.Size != 10 || after.Mtim != before.Mtim {
			t.Errorf("after a write of nothing: %d bytes, mtime %v, before %v", after.Size, after.Mtim, before.Mtim)
		}
		// Between the end and a write beyond it there are zeros.
		pwrite(t, fd, "x", 5000)
		if got := string(pread(t, fd, 6000, 9)); got != "9"+strings.Repeat("\x00", 4990)+"x" {
			t.Errorf("a write beyond the end: %d bytes, %.20q", len(got), got)
		}
	})
}

// TestOtherWaysToMoveData: sendfile, splice, and the flags of pwritev2.
func TestOtherWaysToMoveData(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		data := string(noise(6, 300_000))
		write(t, a, data)
		fa, fb := openAt(t, a, unix.O_RDWR), openAt(t, b, unix.O_RDWR|unix.O_CREAT)
		for at := int64(0); at < int64(len(data)); {
			if n, err := unix.Sendfile(fb, fa, &at, len(data)); err != nil || n == 0 {
				t.Fatalf("sendfile: %d, %v", n, err)
			}
		}
		wants(t, b, data)
		must(t, unix.Ftruncate(fb, 0))
		var pipe [2]int
		must(t, unix.Pipe2(pipe[:], unix.O_CLOEXEC))
		defer unix.Close(pipe[0])
		defer unix.Close(pipe[1])
		var in, out int64
		for out < int64(len(data)) {
			n, err := unix.Splice(fa, &in, pipe[1], nil, 1<<16, 0)
			must(t, err)
			for n > 0 {
				m, err := unix.Splice(pipe[0], nil, fb, &out, int(n), 0)
				must(t, err)
				n -= m
			}
		}
		wants(t, b, data)
		must(t, unix.Ftruncate(fb, 4))
		_, err := unix.Pwritev2(fb, [][]byte{[]byte("end")}, 0, unix.RWF_APPEND)
		must(t, err)
		_, err = unix.Pwritev2(fb, [][]byte{[]byte("!")}, 0, unix.RWF_DSYNC)
		must(t, err)
		wants(t, b, "!"+data[1:4]+"end")
		must(t, unix.Fadvise(fb, 0, 0, unix.FADV_DONTNEED))
		must(t, unix.SyncFileRange(fb, 0, 0, unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER))
		_, _, e := syscall.Syscall(unix.SYS_READAHEAD, uintptr(fa), 0, 1<<16)
		if e != 0 {
			t.Errorf("readahead: %v", e)
		}
		wants(t, b, "!"+data[1:4]+"end")
		// mincore: pages that were read are there.
		m := mapped(t, fa, 4096)
		sink = m[0]
		vec := make([]byte, 1)
		if _, _, e := syscall.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), 4096, uintptr(unsafe.Pointer(&vec[0]))); e != 0 || vec[0]&1 == 0 {
			t.Errorf("mincore: %v, %d", e, vec[0])
		}
	})
}
