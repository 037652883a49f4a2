package tests

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// diskBytes is what a store takes on its disk, its ballast not counted.
func diskBytes(t *testing.T, store string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(store, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() == "ballast" {
			return nil // files of the engine come and go
		}
		if info, err := d.Info(); err == nil {
			n += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// noise returns n bytes that don't repeat themselves.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i+8 <= n; i += 8 {
		v := r.Uint64()
		for k := range 8 {
			b[i+k] = byte(v >> (8 * k))
		}
	}
	return b
}

// gcResult is what "dcfs gc --json" says.
type gcResult struct {
	UsedBytesBefore, UsedBytesAfter int64
	Backlog                         map[string]int64
}

func gcOf(t *testing.T, target string) (r gcResult) {
	t.Helper()
	began := time.Now()
	if err := json.Unmarshal([]byte(dcfs(t, "gc", "--wait", "--json", target)), &r); err != nil {
		t.Fatal(err)
	}
	for what, n := range r.Backlog {
		if n != 0 {
			t.Errorf("after gc --wait: %d %s are left", n, what)
		}
	}
	t.Logf("gc --wait: %d MiB, then %d MiB, in %v", r.UsedBytesBefore>>20, r.UsedBytesAfter>>20, time.Since(began))
	return r
}

// Files with snapshots and forks, and small ones in the records, are all
// deleted: their space is there again. With DCFS_LONG=1 they are 300,000 small
// files and 4 GiB.
func TestGCGivesBackWhatWasDeleted(t *testing.T) {
	store, dir := newMount(t)
	files, smalls := 2000, 1
	if long() {
		files, smalls = 42_000, 7
	}
	const size, each = 100 << 10, 1000 // files to a directory
	part := files / 4
	for i := range files {
		for _, d := range []string{"a", "small"} {
			if i%each == 0 {
				must(t, os.MkdirAll(filepath.Join(dir, d, fmt.Sprint(i/each)), 0o755))
			}
		}
		must(t, os.WriteFile(filepath.Join(dir, "a", fmt.Sprint(i/each), fmt.Sprint(i)), noise(uint64(i), size), 0o644))
		for k := range smalls {
			must(t, os.WriteFile(filepath.Join(dir, "small", fmt.Sprint(i/each), fmt.Sprint(i, "-", k)), noise(uint64(i), 3000), 0o644))
		}
		if i%part == part-1 {
			dcfs(t, "snapshot", "create", dir, fmt.Sprint("s", i))
			dcfs(t, "fork", "create", dir, fmt.Sprint("f", i))
			must(t, os.WriteFile(filepath.Join(dir, ".forks", fmt.Sprint("f", i), "a/0/0"), noise(uint64(i), size), 0o644))
		}
	}
	dcfs(t, "gc", dir) // with everything there
	full := diskBytes(t, store)
	if full < int64(files*size) {
		t.Errorf("the store takes %d MiB", full>>20)
	}
	must(t, os.RemoveAll(filepath.Join(dir, "a")))
	must(t, os.RemoveAll(filepath.Join(dir, "small")))
	if r := gcOf(t, dir); r.UsedBytesAfter < int64(files*size) {
		t.Errorf("with snapshots there: %d MiB", r.UsedBytesAfter>>20)
	}
	for i := part - 1; i < files; i += part {
		dcfs(t, "snapshot", "delete", dir, fmt.Sprint("s", i))
		dcfs(t, "fork", "delete", dir, fmt.Sprint("f", i))
	}
	gcOf(t, dir)
	left := diskBytes(t, store)
	t.Logf("the store took %d MiB and takes %d", full>>20, left>>20)
	if left > 64<<20 {
		t.Errorf("%d MiB are left", left>>20)
	}
	if out := dcfs(t, "status", dir); strings.Contains(out, "to reclaim") {
		t.Errorf("status when all is reclaimed:\n%s", out)
	}
	dcfs(t, "umount", dir)
	if out := dcfs(t, "gc", store); !strings.Contains(out, "given back") {
		t.Errorf("gc of a store that is not mounted says %q", out)
	}
	dcfs(t, "check", store)
}

// sampled calls fn and returns what a store took at most on its disk meanwhile.
func sampled(t *testing.T, store string, fn func()) (most int64) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			most = max(most, diskBytes(t, store))
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	fn()
	close(stop)
	<-done
	return most
}

// TestOverwritingTakesNoMoreAndMoreSpace overwrites a file again and again, with
// an fsync now and then: at no time the store takes more than two and a half times
// the file, and, as it is small unless DCFS_LONG=1 is set, some for the records.
func TestOverwritingTakesNoMoreAndMoreSpace(t *testing.T) {
	size, limit := int64(64<<20), int64(64<<20*5/2+320<<20)
	if long() {
		size, limit = 1<<30, 1<<30*5/2
	}
	for _, test := range []struct {
		name         string
		piece, times int64
		random       bool
	}{
		{"sequential", 1 << 20, 12, false},
		{"random 128 KiB", 128 << 10, 12, true},
		{"random 4 KiB", 4 << 10, 3, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if long() {
				test.times = max(test.times, 10)
			}
			store, dir := newMount(t)
			f, err := os.Create(filepath.Join(dir, "file"))
			must(t, err)
			defer f.Close()
			data := noise(1, 4<<20)
			r := rand.New(rand.NewPCG(1, 2))
			overwrite := func(piece int64, random bool) {
				for i := range size / piece {
					off := i * piece
					if random {
						off = r.Int64N(size/piece) * piece
					}
					from := r.Int64N(int64(len(data)) - piece)
					_, err := f.WriteAt(data[from:from+piece], off)
					must(t, err)
					if i%(16<<20/piece) == 0 {
						must(t, f.Sync())
					}
				}
			}
			overwrite(1<<20, false)
			began := time.Now()
			most := sampled(t, store, func() {
				for range test.times {
					overwrite(test.piece, test.random)
				}
			})
			took := time.Since(began)
			gcOf(t, dir)
			left := diskBytes(t, store)
			t.Logf("a file of %d MiB, overwritten %d times in %v: %d MiB at most, %d MiB after gc", size>>20, test.times, took, most>>20, left>>20)
			if most > limit {
				t.Errorf("%d MiB at most are too much", most>>20)
			}
			if left > size*5/4+64<<20 {
				t.Errorf("%d MiB after gc are too much", left>>20)
			}
		})
	}
}

// TestGCGoesOnBesidesOtherWork has the volume in use while it gives space back.
func TestGCGoesOnBesidesOtherWork(t *testing.T) {
	_, dir := newMount(t)
	done := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		for i := 0; ; i++ {
			name := filepath.Join(dir, fmt.Sprint(i%50))
			err := os.WriteFile(name, []byte(strings.Repeat(fmt.Sprint(i, " "), 500)), 0o644)
			if err == nil && i%3 == 0 {
				err = os.Remove(name)
			}
			select {
			case <-stop:
				done <- err
				return
			default:
			}
			if err != nil {
				done <- err
				return
			}
		}
	}()
	for range 3 {
		dcfs(t, "gc", "--wait", dir)
	}
	close(stop)
	must(t, <-done)
}
