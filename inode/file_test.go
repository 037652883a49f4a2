package inode

import (
	"bytes"
	"context"
	"strings"
	"syscall"
	"testing"

	"dcfs/snap"
)

func TestReadsEndAtTheEndOfTheFile(t *testing.T) {
	x := newFixture(t)
	f := x.create("f", "0123456789")
	for _, c := range []struct {
		off  uint64
		n    int
		want string
	}{
		{0, 4, "0123"}, {8, 4, "89"}, {10, 4, ""}, {1 << 50, 4, ""}, {0, 0, ""}, {3, 7, "3456789"},
	} {
		p := make([]byte, c.n)
		n, err := x.fs.Read(bg, x.view, f, p, c.off)
		x.must(err)
		if string(p[:n]) != c.want {
			t.Errorf("read %d at %d: got %q, want %q", c.n, c.off, p[:n], c.want)
		}
	}
}

func TestWhatWasNeverWrittenReadsAsZeros(t *testing.T) {
	x := newFixture(t)
	f := x.create("f", "")
	x.write(f, "end", 20000)
	x.write(f, "mid", 9000)
	want := make([]byte, 20003)
	copy(want[9000:], "mid")
	copy(want[20000:], "end")
	if got := x.content(f); got != string(want) {
		t.Errorf("got %d bytes that differ", len(got))
	}
	x.must(x.set("f", SetAttr{Size: ptr(uint64(9001))}))
	x.must(x.set("f", SetAttr{Size: ptr(uint64(20003))}))
	clear(want[9001:])
	if got := x.content(f); got != string(want) {
		t.Error("a file that was cut and made longer shows what was cut")
	}
}

func TestAppendsGoToTheEndWhereverItIs(t *testing.T) {
	x := newFixture(t)
	f := x.create("f", "one")
	for _, s := range []string{" two", " three"} {
		n, err := x.fs.Write(bg, x.view, f, root, []byte(s), 0, WriteFlags{Append: true})
		x.must(err)
		if n != len(s) {
			t.Errorf("wrote %d", n)
		}
	}
	if got := x.content(f); got != "one two three" {
		t.Errorf("got %q", got)
	}
}

func TestAFileEndsAtItsLargestSize(t *testing.T) {
	x := newFixture(t)
	f := x.create("f", "")
	for _, c := range []struct {
		off  uint64
		n    int
		want int
		err  error
	}{
		{MaxFileBytes - 10, 10, 10, nil},
		{MaxFileBytes - 10, 11, 10, nil},
		{MaxFileBytes - 1, 5000, 1, nil},
		{MaxFileBytes, 1, 0, ErrFileTooBig},
		{1 << 63, 1, 0, ErrFileTooBig},
		{MaxFileBytes, 0, 0, nil},
	} {
		n, err := x.fs.Write(bg, x.view, f, root, make([]byte, c.n), c.off, WriteFlags{})
		x.want("write", err, c.err)
		if n != c.want {
			t.Errorf("write %d at %d: wrote %d, want %d", c.n, c.off, n, c.want)
		}
	}
	_, err := x.fs.Write(bg, x.view, f, root, []byte("x"), 0, WriteFlags{Append: true})
	x.want("append", err, ErrFileTooBig)
	x.must(x.set("f", SetAttr{Size: ptr(uint64(MaxFileBytes - 2))}))
	n, err := x.fs.Write(bg, x.view, f, root, []byte("abcd"), 0, WriteFlags{Append: true})
	x.must(err)
	if a := x.stat("f"); n != 2 || a.Size != MaxFileBytes {
		t.Errorf("append wrote %d, size is %d", n, a.Size)
	}
	x.check()
}

func TestOnlyRegularFilesHaveData(t *testing.T) {
	x := newFixture(t)
	d := x.mkdir("d")
	p, err := x.fs.Mknod(bg, x.view, snap.RootIno, "p", root, syscall.S_IFIFO|0600, 0)
	x.must(err)
	c, err := x.fs.Mknod(bg, x.view, snap.RootIno, "c", root, syscall.S_IFCHR|0600, 1)
	x.must(err)
	f := x.create("f", "data")
	buf := make([]byte, 1)
	for ino, want := range map[uint64]error{d: ErrIsDir, p.Ino: ErrInvalid} {
		_, err = x.fs.Read(bg, x.view, ino, buf, 0)
		x.want("read", err, want)
		_, err = x.fs.Write(bg, x.view, ino, root, buf, 0, WriteFlags{})
		x.want("write", err, want)
		_, err = x.fs.Seek(bg, x.view, ino, 0, SeekData)
		x.want("seek", err, want)
		_, err = x.fs.CopyRange(bg, x.view, ino, 0, x.view, f, 0, 1, root)
		x.want("copy from", err, want)
		_, err = x.fs.CopyRange(bg, x.view, f, 0, x.view, ino, 0, 1, root)
		x.want("copy to", err, want)
	}
	x.want("fallocate of a directory", x.fs.Fallocate(bg, x.view, d, 0, 1, 0), ErrIsDir)
	x.want("fallocate of a FIFO", x.fs.Fallocate(bg, x.view, p.Ino, 0, 1, 0), ErrSeek)
	x.want("fallocate of a device", x.fs.Fallocate(bg, x.view, c.Ino, 0, 1, 0), ErrNoDevice)
}

func TestFallocateModes(t *testing.T) {
	full := bytes.Repeat([]byte("abcdefgh"), 2048) // 16 KiB
	for _, c := range []struct {
		name   string
		off, n uint64
		mode   uint32
		size   int
		zeroed [2]int
		err    error
	}{
		{"extend", 10000, 10000, 0, 20000, [2]int{16384, 20000}, nil},
		{"within", 0, 100, 0, 16384, [2]int{}, nil},
		{"keep size", 10000, 10000, FallocKeepSize, 16384, [2]int{}, nil},
		{"punch blocks", 4096, 8192, FallocPunchHole | FallocKeepSize, 16384, [2]int{4096, 12288}, nil},
		{"punch bytes", 100, 5000, FallocPunchHole | FallocKeepSize, 16384, [2]int{100, 5100}, nil},
		{"punch inside a block", 5000, 10, FallocPunchHole | FallocKeepSize, 16384, [2]int{5000, 5010}, nil},
		{"punch over the end", 16000, 10000, FallocPunchHole | FallocKeepSize, 16384, [2]int{16000, 16384}, nil},
		{"punch beyond", 1 << 20, 10000, FallocPunchHole | FallocKeepSize, 16384, [2]int{}, nil},
		{"zero", 100, 5000, FallocZeroRange, 16384, [2]int{100, 5100}, nil},
		{"zero and extend", 16000, 10000, FallocZeroRange, 26000, [2]int{16000, 26000}, nil},
		{"zero and keep size", 16000, 10000, FallocZeroRange | FallocKeepSize, 16384, [2]int{16000, 16384}, nil},
		{"nothing", 0, 0, 0, 16384, [2]int{}, ErrInvalid},
		{"punch without keep size", 0, 1, FallocPunchHole, 16384, [2]int{}, ErrNotSupported},
		{"collapse", 0, 4096, 8, 16384, [2]int{}, ErrNotSupported},
		{"insert", 0, 4096, 0x20, 16384, [2]int{}, ErrNotSupported},
		{"unshare", 0, 4096, 0x40, 16384, [2]int{}, ErrNotSupported},
		{"too big", MaxFileBytes, 1, 0, 16384, [2]int{}, ErrFileTooBig},
		{"far too big", 1<<64 - 1, 1<<64 - 1, FallocKeepSize, 16384, [2]int{}, ErrFileTooBig},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newFixture(t)
			f := x.create("f", string(full))
			x.want("fallocate", x.fs.Fallocate(bg, x.view, f, c.off, c.n, c.mode), c.err)
			want := make([]byte, c.size)
			copy(want, full)
			clear(want[c.zeroed[0]:c.zeroed[1]])
			if got := x.content(f); got != string(want) {
				t.Errorf("contents differ: %d bytes, want %d", len(got), len(want))
			}
			x.check()
		})
	}
}

func TestFallocateSaysThatThereIsNoRoom(t *testing.T) {
	mem := newMemory()
	mem.SetCapacity(1 << 30)
	x := newFixtureOn(t, mem, Options{})
	f := x.create("f", "")
	x.want("fallocate of 2 GiB", x.fs.Fallocate(bg, x.view, f, 0, 2<<30, 0), ErrNoSpace)
	x.want("fallocate of 2 GiB beyond", x.fs.Fallocate(bg, x.view, f, 0, 2<<30, FallocKeepSize), ErrNoSpace)
	x.want("fallocate of 1 MiB", x.fs.Fallocate(bg, x.view, f, 0, 1<<20, 0), nil)
	s, err := x.fs.Statfs(bg, x.view)
	x.must(err)
	if s.BlockSize != 4096 || s.Blocks != 1<<18 || s.Free > s.Blocks || s.Avail == 0 || s.NameLen != 255 || s.Files == 0 {
		t.Errorf("statfs: %+v", s)
	}
}

func TestSeekFindsDataAndHoles(t *testing.T) {
	x := newFixture(t)
	f := x.create("f", "")
	x.must(x.set("f", SetAttr{Size: ptr(uint64(1 << 40))}))
	data := string(bytes.Repeat([]byte("x"), 8192))
	x.write(f, data, 1<<20)
	x.write(f, data, 1<<30)
	e := x.create("empty", "")
	s := x.create("small", "data")
	for _, c := range []struct {
		ino, off uint64
		whence   uint32
		want     uint64
		err      error
	}{
		{f, 0, SeekData, 1 << 20, nil},
		{f, 0, SeekHole, 0, nil},
		{f, 1<<20 + 5, SeekData, 1<<20 + 5, nil},
		{f, 1<<20 + 5, SeekHole, 1<<20 + 8192, nil},
		{f, 1<<20 + 8192, SeekData, 1 << 30, nil},
		{f, 1<<30 + 8192, SeekData, 0, ErrNXIO},
		{f, 1<<30 + 8192, SeekHole, 1<<30 + 8192, nil},
		{f, 1<<40 - 1, SeekHole, 1<<40 - 1, nil},
		{f, 1 << 40, SeekHole, 0, ErrNXIO},
		{f, 1 << 40, SeekData, 0, ErrNXIO},
		{f, 1 << 63, SeekHole, 0, ErrNXIO},
		{e, 0, SeekData, 0, ErrNXIO},
		{e, 0, SeekHole, 0, ErrNXIO},
		{s, 0, SeekData, 0, nil},
		{s, 3, SeekData, 3, nil},
		{s, 0, SeekHole, 4, nil},
		{s, 4, SeekHole, 0, ErrNXIO},
		{s, 0, 0, 0, ErrInvalid},
	} {
		got, err := x.fs.Seek(bg, x.view, c.ino, c.off, c.whence)
		x.want("seek", err, c.err)
		if got != c.want {
			t.Errorf("seek %d from %d: got %d, want %d", c.whence, c.off, got, c.want)
		}
	}
}

func TestCopyRangeIsThatOfLinux(t *testing.T) {
	x := newFixture(t)
	src, dst := x.create("src", "0123456789"), x.create("dst", "abcdefghijklmnop")
	for _, c := range []struct {
		name           string
		to             uint64
		srcOff, dstOff uint64
		n, want        uint64
		content        string
		err            error
	}{
		{"a part", dst, 2, 3, 4, 4, "abc2345hijklmnop", nil},
		{"nothing", dst, 2, 3, 0, 0, "abc2345hijklmnop", nil},
		{"up to the end", dst, 8, 0, 100, 2, "89c2345hijklmnop", nil},
		{"beyond the end", dst, 10, 0, 100, 0, "89c2345hijklmnop", nil},
		{"beyond the other's end", dst, 0, 18, 1, 1, "89c2345hijklmnop\x00\x000", nil},
		{"too far", dst, 0, MaxFileBytes, 1, 0, "89c2345hijklmnop\x00\x000", ErrFileTooBig},
		{"onto itself", src, 0, 3, 5, 0, "0123456789", ErrInvalid},
		{"onto itself exactly", src, 0, 0, 5, 0, "0123456789", ErrInvalid},
		{"within itself", src, 0, 5, 5, 5, "0123401234", nil},
		{"its end behind it", src, 8, 10, 100, 2, "012340123434", nil},
	} {
		n, err := x.fs.CopyRange(bg, x.view, src, c.srcOff, x.view, c.to, c.dstOff, c.n, root)
		x.want(c.name, err, c.err)
		if got := x.content(c.to); n != c.want || got != c.content {
			t.Errorf("%s: copied %d, content %q, want %d, %q", c.name, n, got, c.want, c.content)
		}
	}
	x.check()
}

func TestCopyRangeCrossesViewsAndKeepsHoles(t *testing.T) {
	x := newFixture(t)
	f := x.create("f", "")
	x.must(x.set("f", SetAttr{Size: ptr(uint64(1 << 40))}))
	x.write(f, "data", 3<<20)
	s, err := x.vol.CreateSnapshot(bg, x.view, "s")
	x.must(err)
	x.must(x.set("f", SetAttr{Size: ptr(uint64(0))}))
	g := x.create("g", "old data that a hole replaces")
	n, err := x.fs.CopyRange(bg, s, f, 0, x.view, g, 0, 1<<50, root)
	x.must(err)
	a := x.stat("g")
	if n != 1<<40 || a.Size != 1<<40 || a.Alloc > 1<<20 {
		t.Errorf("copied %d, size %d, %d bytes allocated", n, a.Size, a.Alloc)
	}
	if at, err := x.fs.Seek(bg, x.view, g, 4096, SeekData); err != nil || at != 3<<20 {
		t.Errorf("data at %d, %v, want %d", at, err, 3<<20)
	}
	buf := make([]byte, 8)
	_, err = x.fs.Read(bg, x.view, g, buf, 3<<20)
	x.must(err)
	if string(buf) != "data\x00\x00\x00\x00" {
		t.Errorf("got %q", buf)
	}
	_, err = x.fs.CopyRange(bg, x.view, g, 0, s, f, 0, 1, root)
	x.want("copy into a snapshot", err, ErrReadOnly)
	y := newFixture(t)
	_, err = x.fs.CopyRange(bg, y.view, y.create("f", "x"), 0, x.view, g, 0, 1, root)
	x.want("copy from another volume", err, ErrXDev)
}

// An interrupt, such as Go's runtime sends its own threads all day, makes a copy
// shorter at worst.
func TestCopyRangeThatIsInterruptedIsShort(t *testing.T) {
	x := newFixture(t)
	text := strings.Repeat("some text ", 400_000) // in records, and more than is held at a time
	f, g := x.create("f", text), x.create("g", "")
	gone, end := context.WithCancel(bg)
	end()
	for off := uint64(0); off < uint64(len(text)); {
		n, err := x.fs.CopyRange(gone, x.view, f, off, x.view, g, off+1, uint64(len(text)), root) // not to be shared
		if err != nil || n == 0 || n == uint64(len(text)) {
			t.Fatalf("from %d on: %d, %v; want a part", off, n, err)
		}
		off += n
	}
	if x.content(g) != "\x00"+text {
		t.Error("the copy is another")
	}
	n, err := x.fs.CopyRange(gone, x.view, f, 0, x.view, x.create("h", ""), 0, 4096, root)
	if n != 4096 || err != nil {
		t.Errorf("a small copy: %d, %v", n, err)
	}
	x.check()
}

func TestCopyRangeByAUserKillsSetidBits(t *testing.T) {
	x := newFixture(t)
	src, dst := x.create("src", "data"), x.create("dst", "")
	x.must(x.set("dst", SetAttr{Mode: ptr(uint32(06755))}))
	_, err := x.fs.CopyRange(bg, x.view, src, 0, x.view, dst, 0, 4, user)
	x.must(err)
	if a := x.stat("dst"); a.Mode&07777 != 0755 {
		t.Errorf("mode %o", a.Mode)
	}
}

func TestWhatFsyncAcknowledgedOutlivesACrash(t *testing.T) {
	mem := newMemory()
	x := newFixtureOn(t, mem, Options{})
	f := x.create("f", "synced")
	x.must(x.fs.Fsync(bg, x.view, f))
	g := x.create("g", "")
	_, err := x.fs.Write(bg, x.view, g, root, []byte("sync"), 0, WriteFlags{Sync: true})
	x.must(err)
	y := newFixtureOn(t, mem.Crash(), Options{})
	if got := y.content(y.ino("f")); got != "synced" {
		t.Errorf("f: %q", got)
	}
	if got := y.content(y.ino("g")); got != "sync" {
		t.Errorf("g: %q", got)
	}
	x.create("h", "later")
	x.must(x.fs.SyncAll(bg))
	z := newFixtureOn(t, mem.Crash(), Options{})
	if got := z.content(z.ino("h")); got != "later" {
		t.Errorf("h: %q", got)
	}
}
