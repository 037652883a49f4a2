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
// deleted: their space is there again.
func TestGCGivesBackWhatWasDeleted(t *testing.T) {
	store, dir := newMount(t)
	const files, size = 2000, 100 << 10
	for _, d := range []string{"a", "small"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	for i := range files {
		must(t, os.WriteFile(filepath.Join(dir, "a", fmt.Sprint(i)), noise(uint64(i), size), 0o644))
		must(t, os.WriteFile(filepath.Join(dir, "small", fmt.Sprint(i)), noise(uint64(i), 3000), 0o644))
		if i%500 == 499 {
			dcfs(t, "snapshot", "create", dir, fmt.Sprint("s", i))
			dcfs(t, "fork", "create", dir, fmt.Sprint("f", i))
			must(t, os.WriteFile(filepath.Join(dir, ".forks", fmt.Sprint("f", i), "a/0"), noise(uint64(i), size), 0o644))
		}
	}
	dcfs(t, "gc", dir) // with everything there
	full := diskBytes(t, store)
	if full < files*size {
		t.Errorf("the store takes %d MiB", full>>20)
	}
	must(t, os.RemoveAll(filepath.Join(dir, "a")))
	must(t, os.RemoveAll(filepath.Join(dir, "small")))
	if r := gcOf(t, dir); r.UsedBytesAfter < files*size {
		t.Errorf("with snapshots there: %d MiB", r.UsedBytesAfter>>20)
	}
	for i := 499; i < files; i += 500 {
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

func TestOverwritingTakesNoMoreAndMoreSpace(t *testing.T) {
	store, dir := newMount(t)
	const size = 64 << 20
	f, err := os.Create(filepath.Join(dir, "file"))
	must(t, err)
	defer f.Close()
	most := int64(0)
	for round := range 10 {
		data := noise(uint64(round), 1<<20)
		for off := int64(0); off < size; off += int64(len(data)) {
			_, err := f.WriteAt(data, off)
			must(t, err)
		}
		must(t, f.Sync())
		most = max(most, diskBytes(t, store))
	}
	gcOf(t, dir)
	left := diskBytes(t, store)
	t.Logf("a file of %d MiB, overwritten: %d MiB at most, %d MiB after gc", size>>20, most>>20, left>>20)
	if left > size*5/2 {
		t.Error("that is too much")
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
