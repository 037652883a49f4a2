package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"

	"dcfs/dcdb/store"
	"dcfs/dcdb/store/storetest"
)

var ctx = context.Background()

// small options keep tests light.
func small(t testing.TB) Options {
	return Options{MemTableBytes: 4 << 20, ReserveBytes: 1 << 20, Log: func(format string, args ...any) {
		t.Logf("store: "+format, args...)
	}}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// copyTree makes a copy of a store that is open: what a killed process leaves.
// It begins anew when a compaction has replaced tables meanwhile.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	tables := func() []string {
		manifest, _ := os.ReadFile(filepath.Join(from, recordsName, badger.ManifestFilename))
		return append(files(t, from, recordsName+"/*.sst"), string(manifest))
	}
	for {
		before := tables()
		out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput()
		if slices.Equal(before, tables()) {
			if err != nil {
				t.Fatalf("cp: %v: %s", err, out)
			}
			return
		}
		os.RemoveAll(to)
	}
}

func TestEmbeddedConforms(t *testing.T) {
	conforms(t, func(s *Store) store.Store { return s })
}

// TestEmbeddedConformsWithManySegments begins a new segment every 160 KiB.
func TestEmbeddedConformsWithManySegments(t *testing.T) {
	conforms(t, func(s *Store) store.Store {
		s.segments.maxBlock = 40
		return s
	})
}

func conforms(t *testing.T, prepare func(*Store) store.Store) {
	dirs := map[store.Store]string{}
	storetest.Run(t, storetest.Opener{
		New: func(t *testing.T) store.Store {
			dir := t.TempDir()
			s := must(OpenOrCreate(dir, small(t)))(t)
			dirs[s] = dir
			return prepare(s)
		},
		Reopen: func(t *testing.T, old store.Store) store.Store {
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			s := must(Open(dirs[old], small(t)))(t)
			dirs[s] = dirs[old]
			return prepare(s)
		},
		Crash: func(t *testing.T, old store.Store) store.Store {
			dir := filepath.Join(t.TempDir(), "copy")
			copyTree(t, dirs[old], dir)
			old.Close()
			s := must(Open(dir, small(t)))(t)
			dirs[s] = dir
			return prepare(s)
		},
	})
}

func data(seed byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7) ^ byte(i>>8) ^ seed
	}
	return b
}

func commit(t testing.TB, s *Store, group uint64, kv ...string) {
	t.Helper()
	b := &store.Batch{Group: group, Fence: s.Fence()}
	for i := 0; i < len(kv); i += 2 {
		b.Puts = append(b.Puts, store.Record{Key: []byte(kv[i]), Value: []byte(kv[i+1])})
	}
	if err := s.Commit(ctx, b); err != nil {
		t.Fatalf("Commit of group %d: %v", group, err)
	}
}

func barrier(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Barrier(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestSecondOpenNamesWhoHasTheStore(t *testing.T) {
	dir := t.TempDir()
	s := must(Create(dir, small(t)))(t)
	_, err := Open(dir, small(t))
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	time.AfterFunc(100*time.Millisecond, func() { s.Close() })
	o := small(t)
	o.LockWait = 20 * time.Second
	if s, err := Open(dir, o); err != nil {
		t.Errorf("with waiting: %v", err)
	} else {
		s.Close()
	}
}

func TestOpenRefusesWhatIsNoVolume(t *testing.T) {
	foreign := t.TempDir()
	os.WriteFile(filepath.Join(foreign, "letter"), []byte("dear"), 0o600)
	half := t.TempDir()
	os.MkdirAll(filepath.Join(half, recordsName), 0o700)
	os.WriteFile(filepath.Join(half, recordsName, "MANIFEST"), nil, 0o600)
	missing := filepath.Join(t.TempDir(), "a", "b")
	volume := t.TempDir()
	must(Create(volume, small(t)))(t).Close()

	for _, c := range []struct {
		name string
		open func(string, Options) (*Store, error)
		dir  string
		want error
	}{
		{"open foreign", Open, foreign, ErrForeign},
		{"create foreign", Create, foreign, ErrForeign},
		{"open or create foreign", OpenOrCreate, foreign, ErrForeign},
		{"open or create half", OpenOrCreate, half, ErrForeign},
		{"open missing", Open, missing, ErrNoVolume},
		{"open empty", Open, t.TempDir(), ErrNoVolume},
	} {
		s, err := c.open(c.dir, small(t))
		if s != nil || !errors.Is(err, c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("Open has made a directory")
	}
	if entries, _ := os.ReadDir(foreign); len(entries) != 1 {
		t.Errorf("something was put into a foreign directory: %v", entries)
	}
	if s, err := Create(volume, small(t)); err == nil || s != nil {
		t.Error("Create over a volume: no error")
	}
	must(OpenOrCreate(missing, small(t)))(t).Close()
}

// TestInterruptedCreate removes the superblock of a volume that was just made
// and never opened, which is the state before Create's last step.
func TestInterruptedCreate(t *testing.T) {
	dir := t.TempDir()
	if err := makeVolume(dir, small(t), ErrNoVolume); err != nil {
		t.Fatal(err)
	}
	os.Rename(filepath.Join(dir, superName), filepath.Join(dir, superName+".new"))
	s := must(OpenOrCreate(dir, small(t)))(t)
	defer s.Close()
	commit(t, s, s.FirstGroup(), "a", "1")
}

func TestSuperblockIsChecked(t *testing.T) {
	dir := t.TempDir()
	o := small(t)
	o.VolumeOptions = map[string]string{"colour": "green"}
	s := must(Create(dir, o))(t)
	super := s.Super()
	s.Close()
	if super.Options["colour"] != "green" {
		t.Errorf("options: %v", super.Options)
	}
	name := filepath.Join(dir, superName)
	good := must(os.ReadFile(name))(t)

	try := func(what string, b []byte, want error, text string) {
		os.WriteFile(name, b, 0o600)
		s, err := OpenOrCreate(dir, small(t))
		if s != nil || !errors.Is(err, want) || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, want %v with %q", what, err, want, text)
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x01
		if sb, err := decodeSuper(bad); err == nil && fmt.Sprint(sb) != fmt.Sprint(super) {
			t.Errorf("byte %d flipped: accepted as %v", i, sb)
		}
	}
	try("cut", good[:len(good)/2], store.ErrCorrupt, "")
	try("empty", nil, store.ErrCorrupt, "")
	try("flipped", bytes.Replace(good, []byte("green"), []byte("greem"), 1), store.ErrCorrupt, "checksum")
	later := super
	later.Version = 2
	try("version", must(encodeSuper(later))(t), ErrUnknownFormat, "version 2")
	later = super
	later.Incompat = []string{"telepathy"}
	try("feature", must(encodeSuper(later))(t), ErrUnknownFormat, "telepathy")
	later = super
	later.Incompat = []string{featureSealed}
	try("sealed without a key", must(encodeSuper(later))(t), store.ErrCorrupt, featureSealed)
	later = super
	later.Key = "a key"
	try("a key of what is not sealed", must(encodeSuper(later))(t), store.ErrCorrupt, "a key")
	later = super
	later.Compat = []string{"harmless"}
	os.WriteFile(name, must(encodeSuper(later))(t), 0o600)
	must(Open(dir, small(t)))(t).Close()
}

func TestMissingLogIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := must(Create(dir, small(t)))(t)
	for g := uint64(1); g <= 20; g++ {
		commit(t, s, g, fmt.Sprint(g), string(data(1, 5000)))
		barrier(t, s)
	}
	for name, damage := range map[string]func(string) error{
		"flipped": func(log string) error {
			f := must(os.OpenFile(log, os.O_RDWR, 0))(t)
			defer f.Close()
			_, err := f.WriteAt(make([]byte, 64), 60_000) // about group 12 of 20
			return err
		},
		"cut":     func(log string) error { return os.Truncate(log, 80_000) },
		"removed": os.Remove,
	} {
		crash := filepath.Join(t.TempDir(), "crash")
		copyTree(t, dir, crash)
		logs := files(t, crash, recordsName+"/*.mem")
		if len(logs) != 1 {
			t.Fatalf("log files: %v", logs)
		}
		if err := damage(logs[0]); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second open finds what the first one left
			_, err := Open(crash, small(t))
			if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "group 20 was acknowledged") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: got %v", name, err)
			}
		}
	}
	s.Close()
}

func TestTornWitnessSlots(t *testing.T) {
	dir := t.TempDir()
	u := store.UUID{1}
	if err := createWitness(dir, u); err != nil {
		t.Fatal(err)
	}
	w, _, err := openWitness(dir, u)
	if err != nil {
		t.Fatal(err)
	}
	for g := uint64(1); g <= 5; g++ {
		if err := errors.Join(w.begin(g, g-1), w.done(g)); err != nil {
			t.Fatal(err)
		}
	}
	w.close()
	name := filepath.Join(dir, witnessName)
	good := must(os.ReadFile(name))(t)
	for slot, want := range []witnessed{{5, 5}, {5, 5}, {5, 4}} {
		bad := bytes.Clone(good)
		bad[slot*slotBytes+30] ^= 1
		os.WriteFile(name, bad, 0o600)
		w, seen, err := openWitness(dir, u)
		if err != nil || seen != want {
			t.Errorf("slot %d torn: %v, %v, want %v", slot, seen, err, want)
			continue
		}
		w.close()
	}
	os.WriteFile(name, good[:slotBytes], 0o600)
	if _, _, err := openWitness(dir, u); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("two slots missing: got %v", err)
	}
	os.WriteFile(name, good, 0o600)
	if _, _, err := openWitness(dir, store.UUID{2}); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("another volume's: got %v", err)
	}
}

func FuzzDecodeState(f *testing.F) {
	f.Add(state{last: 3, first: 1, fence: 2, next: 9, segs: []segState{{7, 100, []extent{{1, 2}, {50, 50}}}, {8, 0, nil}}}.encode())
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err == nil && !bytes.Equal(s.encode(), b) {
			t.Errorf("%x decodes, but not back to the same bytes", b)
		}
	})
}

func FuzzDecodeSlot(f *testing.F) {
	f.Add(encodeSlot(store.UUID{}, witnessed{5, 4}))
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := decodeSlot(store.UUID{}, b)
		if err == nil && !bytes.Equal(encodeSlot(store.UUID{}, w), b) {
			t.Errorf("%x decodes, but not back to the same bytes", b)
		}
	})
}

func FuzzDecodeSuper(f *testing.F) {
	f.Add(must(encodeSuper(store.Superblock{Version: 1, UUID: store.UUID{1}}))(f))
	f.Add(must(encodeSuper(store.Superblock{Version: 1, UUID: store.UUID{1}, Incompat: []string{featureSealed}, Key: "1$file$"}))(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		sb, err := decodeSuper(b)
		if err != nil {
			return
		}
		again, err := decodeSuper(must(encodeSuper(sb))(t))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(sb) {
			t.Errorf("%s is read as %v, then as %v, %v", b, sb, again, err)
		}
	})
}

// files returns the names of the files in a store's sub-directory.
func files(t testing.TB, dir, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func blocks(t *testing.T, name string) int64 {
	t.Helper()
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return blocksBytes(info)
}

func TestDeletedObjectsGiveTheirSpaceBack(t *testing.T) {
	dir := t.TempDir()
	o := small(t)
	o.SegmentBytes = 32 << 20
	s := must(Create(dir, o))(t)
	var ids []store.ID
	for range 50 {
		ids = append(ids, must(s.Put(ctx, 1, store.KindContent, [][]byte{data(1, 1<<20)}))(t)...)
	}
	commit(t, s, 1, "a", "1")
	segs := files(t, dir, segmentsName+"/*.seg")
	if len(segs) != 2 {
		t.Fatalf("segments: %v", segs)
	}
	before := blocks(t, segs[0])
	if err := s.Delete(ctx, ids[3:9]); err != nil {
		t.Fatal(err)
	}
	if got := before - blocks(t, segs[0]); got < 6<<20 {
		t.Errorf("deleting 6 MiB gave back %d bytes", got)
	}
	if err := s.Delete(ctx, ids); err != nil {
		t.Fatal(err)
	}
	if got := files(t, dir, segmentsName+"/*.seg"); len(got) != 1 || got[0] != segs[1] {
		t.Errorf("empty segments: %v, want only the active one", got)
	}
	s.Close()
	must(Open(dir, o))(t).Close()
	if got := files(t, dir, segmentsName+"/*.seg"); len(got) != 0 {
		t.Errorf("after a reopen: %v", got)
	}
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	s := must(Create(dir, small(t)))(t)
	defer s.Close()
	before := must(s.Usage(ctx))(t)
	must(s.Put(ctx, 1, store.KindContent, [][]byte{data(1, 8<<20)}))(t)
	commit(t, s, 1)
	s.usage.at = time.Time{}
	after := must(s.Usage(ctx))(t)
	if grown := after.UsedBytes - before.UsedBytes; grown < 8<<20 || grown > 9<<20 {
		t.Errorf("8 MiB more, and UsedBytes grows from %d to %d", before.UsedBytes, after.UsedBytes)
	}
	if after.FreeBytes == 0 || after.TotalBytes < after.FreeBytes {
		t.Errorf("usage: %+v", after)
	}
}

func TestFlippedBytesInASegmentAreFound(t *testing.T) {
	dir := t.TempDir()
	s := must(Create(dir, small(t)))(t)
	id := must(s.Put(ctx, 1, store.KindContent, [][]byte{data(1, 40_000)}))(t)[0]
	commit(t, s, 1)
	defer s.Close()
	f := must(os.OpenFile(filepath.Join(s.segments.dir, segmentName(id.Seg)), os.O_RDWR, 0))(t)
	defer f.Close()
	frame := store.PrefixBytes(40_000) + 40_000
	for at := 0; at < frame; at += 97 {
		b := make([]byte, 1)
		f.ReadAt(b, int64(at))
		f.WriteAt([]byte{b[0] ^ 8}, int64(at))
		p := make([]byte, id.Len)
		if err := s.Read(ctx, id, store.KindContent, 0, p); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("byte %d flipped: got %v, want ErrCorrupt", at, err)
		}
		f.WriteAt(b, int64(at))
	}
	if err := s.Read(ctx, id, store.KindContent, 0, make([]byte, id.Len)); err != nil {
		t.Errorf("mended: %v", err)
	}
	f.Truncate(20_000)
	if err := s.Read(ctx, id, store.KindContent, 0, make([]byte, id.Len)); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("cut segment: got %v, want ErrCorrupt", err)
	}
	f.Truncate(0)
	if err := s.Read(ctx, id, store.KindContent, 0, make([]byte, id.Len)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("empty segment: got %v, want ErrNotFound", err)
	}
}

// dirtyPages is the number of a file's pages that are not on the disk.
func dirtyPages(t *testing.T, name string) uint64 {
	t.Helper()
	f := must(os.Open(name))(t)
	defer f.Close()
	var c unix.Cachestat_t
	if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &c, 0); err != nil {
		t.Skipf("SKIPPED: cachestat: %v", err)
	}
	return c.Dirty + c.Writeback
}

func TestBarrierLeavesNothingUnwritten(t *testing.T) {
	dir := t.TempDir()
	s := must(Create(dir, small(t)))(t)
	defer s.Close()
	for g := uint64(1); g <= 30; g++ {
		must(s.Put(ctx, g, store.KindContent, [][]byte{data(1, 200_000), data(1, 15_000)}))(t)
		var kv []string
		for i := range 50 {
			kv = append(kv, fmt.Sprintf("%d/%d", g, i), string(data(1, 4000)))
		}
		commit(t, s, g, kv...)
		for _, name := range files(t, dir, segmentsName+"/*.seg") {
			if n := dirtyPages(t, name); n > 0 {
				t.Errorf("group %d committed: %d pages of %s are dirty", g, n, filepath.Base(name))
			}
		}
		if g%10 != 0 {
			continue
		}
		barrier(t, s)
		for _, name := range append(files(t, dir, recordsName+"/*.mem"), filepath.Join(dir, superName)) {
			if n := dirtyPages(t, name); n > 0 {
				t.Errorf("group %d acknowledged: %d pages of %s are dirty", g, n, filepath.Base(name))
			}
		}
	}
}

func TestGroupSpanningLogFilesIsSyncedFirst(t *testing.T) {
	dir := t.TempDir()
	s := must(Create(dir, small(t)))(t)
	defer s.Close()
	begin := s.wal.active
	rotations, surprises := 0, 0
	for g := uint64(1); g <= 400; g++ {
		var kv []string
		for i := range 100 {
			kv = append(kv, fmt.Sprintf("%d/%d", g, i), string(data(byte(g), int(g)%700)))
		}
		s.wal.mu.Lock()
		active, may := s.wal.active, s.wal.mayRotateLocked()
		s.wal.mu.Unlock()
		commit(t, s, g, kv...)
		s.wal.mu.Lock()
		if s.wal.active != active {
			rotations++
			if !may {
				surprises++
			}
			if s.wal.oldest != s.wal.active {
				t.Errorf("group %d: log files from %d on are not durable, the batch is in %d", g, s.wal.oldest, s.wal.active)
			}
		}
		s.wal.mu.Unlock()
	}
	if s.wal.active == begin || surprises > 0 {
		t.Errorf("%d rotations, %d of them not foreseen", rotations, surprises)
	}
}
