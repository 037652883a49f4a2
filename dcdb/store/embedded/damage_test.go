package embedded

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"

	"dcfs/dcdb/store"
)

// damagedCopy copies a store and flips one bit of its largest table: another one
// holds only what compactions need.
func damagedCopy(t *testing.T, dir string, r *rand.Rand) string {
	copied := filepath.Join(t.TempDir(), "copy")
	copyTree(t, dir, copied)
	tables := files(t, copied, recordsName+"/*.sst")
	name := slices.MaxFunc(tables, func(a, b string) int { return cmp.Compare(blocks(t, a), blocks(t, b)) })
	b := must(os.ReadFile(name))(t)
	at := r.IntN(len(b))
	if r.IntN(4) == 0 {
		at = len(b) - 1 - r.IntN(300) // the index, on which Badger would end the process
	}
	b[at] ^= 1 << r.IntN(8)
	os.WriteFile(name, b, 0o600)
	return copied
}

// TestFlippedBytesInTables flips bits of Badger's tables: the store is refused,
// or every record and object reads as it was or as ErrCorrupt.
func TestFlippedBytesInTables(t *testing.T) {
	dir := t.TempDir()
	s := must(Create(dir, small(t)))(t)
	var ids []store.ID
	want := map[string]string{}
	for g := uint64(1); g <= 20; g++ {
		var kv []string
		for i := range 100 {
			k, v := fmt.Sprintf("key/%d/%d", g, i), string(data(byte(i), 150))
			kv = append(kv, k, v)
			want[k] = v
		}
		ids = append(ids, must(s.Put(ctx, g, store.KindPage, [][]byte{data(byte(g), 4000)}))(t)...)
		commit(t, s, g, kv...)
	}
	s.Close()

	r := rand.New(rand.NewPCG(1, 2))
	wrong, corrupt, absent, unopened := 0, 0, 0, 0
	for range 40 {
		dir := damagedCopy(t, dir, r)
		s, err := Open(dir, small(t))
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Open: %v", err)
			}
			unopened++
			continue
		}
		<-s.scrubbed
		for k, v := range want {
			vs, err := s.Get(ctx, []byte(k))
			switch {
			case errors.Is(err, store.ErrCorrupt):
				corrupt++
			case err != nil:
				t.Errorf("Get: %v", err)
			case vs[0] == nil:
				absent++
			case string(vs[0]) != v:
				wrong++
			}
		}
		for i, id := range ids {
			p := make([]byte, id.Len)
			err := s.Read(ctx, id, store.KindPage, 0, p)
			switch {
			case errors.Is(err, store.ErrCorrupt):
				corrupt++
			case errors.Is(err, store.ErrNotFound):
				absent++
			case err != nil || string(p) != string(data(byte(i+1), 4000)):
				wrong++
			}
		}
		rs, err := s.Scan(ctx, nil, nil, 1<<20)
		if err == nil && len(rs) != len(want) {
			wrong++
		}
		s.Close()
	}
	t.Logf("%d answers were wrong, %d corrupt, %d absent; %d opens were refused", wrong, corrupt, absent, unopened)
	if wrong > 0 || absent > 0 || corrupt == 0 || unopened == 0 {
		t.Error("want some corrupt and some refused, none wrong or absent")
	}
}

func goOn(int) error { return nil }

// TestScrubFindsDamageInEveryBlock damages the blocks of a table that is open.
func TestScrubFindsDamageInEveryBlock(t *testing.T) {
	dir := t.TempDir()
	s := must(Create(dir, small(t)))(t)
	var kv []string
	for i := range 200 {
		kv = append(kv, fmt.Sprintf("%03d", i), string(data(byte(i), 150)))
	}
	commit(t, s, 1, kv...)
	s.Close()
	s = must(Open(dir, small(t)))(t)
	defer s.Close()
	<-s.scrubbed
	names := must(tableNames(filepath.Join(dir, recordsName)))(t)
	found := 0
	for _, name := range names {
		table := must(openTable(name))(t)
		f := must(os.OpenFile(name, os.O_RDWR, 0))(t)
		for i := range table.blocks() {
			var o fb.BlockOffset
			table.index.Offsets(&o, i)
			f.WriteAt([]byte("damage"), int64(o.Offset()+9))
		}
		f.Close()
		table.close()
		s.damage.ranges.Store(nil)
		if _, err := s.verifyTable(name, goOn); err != nil {
			t.Fatal(err)
		}
		if rs := s.damage.ranges.Load(); rs != nil {
			found += len(*rs)
			if last := (*rs)[len(*rs)-1]; last.to != nil {
				t.Errorf("the last block ends at %q", last.to)
			}
		}
	}
	if found < 5 {
		t.Errorf("damage found in %d blocks", found)
	}
	if _, err := s.Scan(ctx, nil, nil, 1000); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Scan: got %v, want ErrCorrupt", err)
	}
}

// TestScrubTakesADeletedTableForNoDamage: Badger compacts while a table is
// being verified.
func TestScrubTakesADeletedTableForNoDamage(t *testing.T) {
	dir := t.TempDir()
	s := must(Create(dir, small(t)))(t)
	commit(t, s, 1, "k", "v")
	s.Close()
	s = must(Open(dir, small(t)))(t)
	defer s.Close()
	<-s.scrubbed
	names := must(tableNames(filepath.Join(dir, recordsName)))(t)
	if len(names) == 0 {
		t.Fatal("no table")
	}
	for _, name := range names {
		copied := filepath.Join(t.TempDir(), filepath.Base(name))
		if err := os.WriteFile(copied, must(os.ReadFile(name))(t), 0o600); err != nil {
			t.Fatal(err)
		}
		table := must(openTable(copied))(t)
		defer table.close()
		for _, remove := range []func() error{
			func() error { return os.Truncate(copied, 0) },
			func() error { return os.Remove(copied) },
		} {
			if err := remove(); err != nil {
				t.Fatal(err)
			}
			s.verifyBlocks(copied, table, goOn)
			if _, err := s.verifyTable(copied, goOn); err != nil {
				t.Errorf("scrub: got %v, want no error", err)
			}
		}
	}
	if rs := s.damage.ranges.Load(); rs != nil {
		t.Errorf("%d blocks are taken for damaged", len(*rs))
	}
}

// TestWhatCanNotBeVerifiedIsNotCompacted: neither a list of tables nor a table that
// can't be read counts as verified.
func TestWhatCanNotBeVerifiedIsNotCompacted(t *testing.T) {
	for what, hide := range map[string]func(dir string) string{
		"list":  func(dir string) string { return filepath.Join(dir, recordsName, "MANIFEST") },
		"table": func(dir string) string { return must(tableNames(filepath.Join(dir, recordsName)))(t)[0] },
	} {
		dir := t.TempDir()
		s := must(Create(dir, small(t)))(t)
		commit(t, s, 1, "k", "v")
		s.Close()
		s = must(Open(dir, small(t)))(t)
		<-s.scrubbed
		if err := s.Compact(ctx); err != nil {
			t.Fatalf("%s: compact: %v", what, err)
		}
		name := hide(dir)
		hidden := filepath.Join(t.TempDir(), "hidden")
		if err := errors.Join(os.Rename(name, hidden), os.Mkdir(name, 0o700)); err != nil {
			t.Fatal(err)
		}
		// A directory has a size too, so it is not taken for a table that is gone.
		if info := must(os.Stat(name))(t); info.Size() == 0 {
			t.Skipf("directories have no size here")
		}
		lines := 0
		s.opt.Log = func(string, ...any) { lines++ }
		s.scrub(nil, make(chan struct{}))
		if err := s.Compact(ctx); err == nil {
			t.Errorf("%s: compacted what was not verified", what)
		}
		if lines != 1 {
			t.Errorf("%s: %d lines in the log, want 1", what, lines)
		}
		if vs, err := s.Get(ctx, []byte("k")); err != nil || string(vs[0]) != "v" {
			t.Errorf("%s: Get: %q, %v", what, vs, err)
		}
		if err := errors.Join(os.Remove(name), os.Rename(hidden, name)); err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
}

// FuzzTable reads tables whose index has the checksum that it should have, whatever
// it says, and manifests.
func FuzzTable(f *testing.F) {
	dir := f.TempDir()
	s := must(Create(dir, Options{MemTableBytes: minMemTableBytes, ReserveBytes: -1}))(f)
	for i := range 30 {
		err := s.Commit(ctx, &store.Batch{Group: uint64(i + 1), Fence: s.Fence(), Puts: []store.Record{{Key: fmt.Append(nil, i), Value: data(1, 1000)}}})
		if err != nil {
			f.Fatal(err)
		}
	}
	s.Close()
	records := filepath.Join(dir, recordsName)
	manifest := must(os.ReadFile(filepath.Join(records, "MANIFEST")))(f)
	for _, name := range must(tableNames(records))(f) {
		file := must(os.Open(name))(f)
		size := must(file.Stat())(f).Size()
		_, end, err := readTail(file, size)
		index := must(must2(readTail(file, end))(err))(f)
		f.Add(index, manifest)
		f.Add(index[:len(index)/2], manifest[:len(manifest)-3])
		file.Close()
	}
	dir = f.TempDir() // one a process
	f.Fuzz(func(t *testing.T, index, manifest []byte) {
		sum := must(proto.Marshal(&pb.Checksum{Algo: pb.Checksum_CRC32C, Sum: y.CalculateChecksum(index, pb.Checksum_CRC32C)}))(t)
		b := append(make([]byte, 5000), index...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(index)))
		b = append(b, sum...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(sum)))
		name := filepath.Join(dir, "000001.sst")
		if err := errors.Join(os.WriteFile(name, b, 0o600), os.WriteFile(filepath.Join(dir, "MANIFEST"), manifest, 0o600)); err != nil {
			t.Fatal(err)
		}
		tableNames(dir)
		table, err := openTable(name)
		if err != nil {
			return
		}
		defer table.close()
		for i := range table.blocks() {
			table.verify(i)
			table.keys(i)
			table.blockBytes(i)
		}
	})
}

// must2 leaves out a result between a value and its error.
func must2[T, U any](v T, _ U, err error) func(error) (T, error) {
	return func(before error) (T, error) { return v, errors.Join(before, err) }
}
