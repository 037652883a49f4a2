package powerdisk

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func newDisk(t *testing.T, bytes int64) (*Disk, string) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, bytes))
	d, err := Open(image)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d, image
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Random writes and flushes, with writes while they run, then a cut: each sector must be one of those that
// invariant (1) allows, and over many cuts all of them are seen.
func TestWhatACutLeaves(t *testing.T) {
	const sectors = 64
	var lost, kept, torn int
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 0))
		d, image := newDisk(t, sectors*SectorBytes)
		may := make([][]byte, sectors) // what each sector may hold, by first byte
		for i := range may {
			may[i] = []byte{0}
		}
		// A flush ends some writes later than it begins.
		began, last := -1, make([]int, sectors)
		for n := 1; n < 60; n++ {
			switch {
			case began < 0 && rng.IntN(20) == 0:
				began = d.before + len(d.later)
				for i := range may {
					last[i] = len(may[i]) - 1
				}
			case began >= 0 && rng.IntN(4) == 0:
				d.mu.Lock()
				d.flushLocked(began)
				d.mu.Unlock()
				for i := range may {
					may[i] = may[i][last[i]:]
				}
				began = -1
			}
			at, to := rng.IntN(sectors), 0
			to = at + 1 + rng.IntN(min(24, sectors-at))
			if _, err := d.WriteAt(bytes.Repeat([]byte{byte(n)}, (to-at)*SectorBytes), int64(at*SectorBytes)); err != nil {
				t.Fatal(err)
			}
			for i := at; i < to; i++ {
				may[i] = append(may[i], byte(n))
			}
		}
		must(t, d.Cut(rng))
		got, err := os.ReadFile(image)
		must(t, err)
		for i := range may {
			s := got[i*SectorBytes:][:SectorBytes]
			k := bytes.IndexByte(may[i], s[0])
			if k < 0 || !bytes.Equal(s, bytes.Repeat(s[:1], SectorBytes)) {
				t.Fatalf("seed %d: sector %d has %d, which it can't, of %v", seed, i, s[0], may[i])
			}
			switch {
			case len(may[i]) == 1:
			case k == 0:
				lost++
			case k == len(may[i])-1:
				kept++
			default:
				torn++
			}
		}
		if _, err := d.WriteAt(make([]byte, SectorBytes), 0); err == nil || d.Flush() == nil {
			t.Fatal("a dead disk writes")
		}
		if _, err := d.ReadAt(make([]byte, SectorBytes), 0); err == nil {
			t.Fatal("a dead disk reads")
		}
		after, err := os.ReadFile(image)
		must(t, err)
		if !bytes.Equal(got, after) {
			t.Fatal("a dead disk changed")
		}
	}
	t.Logf("of sectors written since the flush %d had the old content, %d the last, %d one between", lost, kept, torn)
	if lost == 0 || kept == 0 || torn == 0 {
		t.Error("some never happened")
	}
}

// Of four requests the third is the one to cut the power at. There is nothing to
// lose then, so it is the fourth.
func TestCutAtARequest(t *testing.T) {
	d, image := newDisk(t, 8*SectorBytes)
	done := d.CutAt(2, rand.New(rand.NewPCG(1, 0)))
	one := bytes.Repeat([]byte{1}, SectorBytes)
	_, err := d.WriteAt(one, 0)
	must(t, err)
	must(t, d.Flush())
	_, err = d.WriteAt(one, SectorBytes)
	must(t, err)
	if _, err := d.WriteAt(one, 2*SectorBytes); err == nil {
		t.Error("the fourth request was carried out")
	}
	must(t, <-done)
	got, err := os.ReadFile(image)
	must(t, err)
	if !bytes.Equal(got[:SectorBytes], one) || got[2*SectorBytes] != 0 {
		t.Error("what was flushed is not there, or what was refused is")
	}
}

func TestIgnoredFlushes(t *testing.T) {
	lost := false
	for seed := range uint64(20) {
		d, image := newDisk(t, SectorBytes)
		d.IgnoreFlushes = true
		_, err := d.WriteAt(bytes.Repeat([]byte{1}, SectorBytes), 0)
		must(t, err)
		must(t, d.Flush())
		must(t, d.Cut(rand.New(rand.NewPCG(seed, 0))))
		got, err := os.ReadFile(image)
		must(t, err)
		lost = lost || got[0] == 0
	}
	if !lost {
		t.Error("a disk that ignores flushes lost nothing")
	}
}

// attached runs do on an ext4 in an image, cuts the power with a seed, and then
// runs look on what is found.
func attached(t *testing.T, image string, seed uint64, do, look func(e *Ext4)) {
	t.Helper()
	e, err := Attach(image, filepath.Dir(image))
	must(t, err)
	func() {
		defer func() { must(t, e.Detach()) }()
		do(e)
		must(t, e.Disk.Cut(rand.New(rand.NewPCG(seed, 0))))
	}()
	e, err = Attach(image, filepath.Dir(image))
	must(t, err)
	defer func() { must(t, e.Detach()) }()
	look(e)
}

func newExt4(t *testing.T) (image string) {
	t.Helper()
	if why := Missing(); why != "" {
		t.Skip("SKIPPED, NOT TESTED: " + why)
	}
	image = filepath.Join(t.TempDir(), "image")
	must(t, Format(image, 64<<20))
	return image
}

func writeAndSync(t *testing.T, path string, text []byte) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	_, err = f.Write(text)
	must(t, err)
	must(t, f.Sync())
}

// Everything that the tests above show is worth nothing unless an fsync in the
// ext4 arrives as a flush.
func TestFsyncInExt4IsAFlush(t *testing.T) {
	image := newExt4(t)
	for seed := range uint64(8) {
		text := bytes.Repeat([]byte{byte(seed)}, 64<<10)
		attached(t, image, seed, func(e *Ext4) {
			before := e.Disk.Counts()
			writeAndSync(t, filepath.Join(e.Dir, "file"), text)
			if c := e.Disk.Counts(); c.Flushes == before.Flushes || c.Writes == before.Writes {
				t.Errorf("an fsync made %d writes and %d flushes", c.Writes-before.Writes, c.Flushes-before.Flushes)
			}
		}, func(e *Ext4) {
			if got, err := os.ReadFile(filepath.Join(e.Dir, "file")); err != nil || !bytes.Equal(got, text) {
				t.Errorf("seed %d: a file that was synced: %d bytes, %v", seed, len(got), err)
			}
		})
	}
}

// What reached the disk by O_DIRECT and was not synced is there or not, or in part.
func TestWhatWasNotSyncedInExt4MayBeLost(t *testing.T) {
	image := newExt4(t)
	const size = 64 << 10
	block, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	must(t, err)
	defer unix.Munmap(block)
	old, later, torn := 0, 0, 0
	for seed := range uint64(12) {
		attached(t, image, seed, func(e *Ext4) {
			path := filepath.Join(e.Dir, "file")
			writeAndSync(t, path, bytes.Repeat([]byte{'a'}, size))
			f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_DIRECT, 0)
			must(t, err)
			defer f.Close()
			copy(block, bytes.Repeat([]byte{'b'}, size))
			_, err = f.WriteAt(block, 0)
			must(t, err)
		}, func(e *Ext4) {
			got, err := os.ReadFile(filepath.Join(e.Dir, "file"))
			must(t, err)
			a, b := bytes.Count(got, []byte{'a'}), bytes.Count(got, []byte{'b'})
			switch {
			case a+b != size:
				t.Errorf("seed %d: %d bytes of neither", seed, size-a-b)
			case b == 0:
				old++
			case a == 0:
				later++
			default:
				torn++
			}
		})
	}
	t.Logf("of 12 files that were written over %d were as before, %d as written, %d of both", old, later, torn)
	if old == 0 || later == 0 || torn == 0 {
		t.Error("some never happened")
	}
}
