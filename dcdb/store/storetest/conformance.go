// Package storetest is the suite that every store.Store passes.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"dcfs/dcdb/store"
)

// Opener makes the stores of one implementation.
type Opener struct {
	// New returns a new, empty store.
	New func(t *testing.T) store.Store
	// Reopen closes s and opens what it kept.
	Reopen func(t *testing.T, s store.Store) store.Store
	// Crash opens what s leaves if its process dies now; nil if the
	// implementation can't show it. Nothing of s is used afterwards.
	Crash func(t *testing.T, s store.Store) store.Store
}

// Run runs the whole suite.
func Run(t *testing.T, o Opener) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Opener)
	}{
		{"ObjectsComeBackWholeAndInRanges", objectsComeBack},
		{"PutRefusesWhatItMust", putRefuses},
		{"PutMadeTellsTheIDs", putMade},
		{"AbsentAndDeletedObjectsAreNotFound", deletedObjects},
		{"ListIsInOrder", listInOrder},
		{"WrongKindIsCorrupt", wrongKind},
		{"BatchesApplyWhole", batchesApply},
		{"BatchesAreRefusedWhole", batchesRefused},
		{"BatchAtTheLimitIsTaken", batchAtTheLimit},
		{"ScanPages", scanPages},
		{"ScanOrderIsThatOfBytes", scanOrder},
		{"ReopenKeepsAll", reopenKeepsAll},
		{"GroupsOnlyGrow", groupsGrow},
		{"ReopenErasesWhatWasNotCommitted", reopenErases},
		{"IDsAreNeverGivenTwice", idsOnce},
		{"DeletesOutliveReopen", deletesOutlive},
		{"WriteAheadOfTheGroup", writeAhead},
		{"CrashKeepsWhatBarrierAcknowledged", crashKeeps},
		{"ManyAtOnce", manyAtOnce},
		{"EndedContext", endedContext},
		{"ClosedStore", closedStore},
		{"RandomHistory", randomHistory},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, o) })
	}
}

var ctx = context.Background()

// data returns n bytes that depend on seed.
func data(seed, n int) []byte {
	r := rand.New(rand.NewPCG(uint64(seed), uint64(n)))
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		v := r.Uint64()
		for k := i; k < min(n, i+8); k++ {
			b[k] = byte(v)
			v >>= 8
		}
	}
	return b
}

func put(t *testing.T, s store.Store, group uint64, kind store.Kind, parts ...[]byte) []store.ID {
	t.Helper()
	ids, err := s.Put(ctx, group, kind, parts)
	if err != nil {
		t.Fatalf("Put in group %d: %v", group, err)
	}
	if len(ids) != len(parts) {
		t.Fatalf("Put of %d parts: %d IDs", len(parts), len(ids))
	}
	return ids
}

func commit(t *testing.T, s store.Store, group uint64, puts ...string) {
	t.Helper()
	b := &store.Batch{Group: group, Fence: s.Fence()}
	for i := 0; i+1 < len(puts); i += 2 {
		b.Puts = append(b.Puts, store.Record{Key: []byte(puts[i]), Value: []byte(puts[i+1])})
	}
	if err := s.Commit(ctx, b); err != nil {
		t.Fatalf("Commit of group %d: %v", group, err)
	}
}

func barrier(t *testing.T, s store.Store) {
	t.Helper()
	if err := s.Barrier(ctx); err != nil {
		t.Fatalf("Barrier: %v", err)
	}
}

// wantObject reads id whole and compares.
func wantObject(t *testing.T, s store.Store, id store.ID, kind store.Kind, want []byte) {
	t.Helper()
	got := make([]byte, id.Len)
	if err := s.Read(ctx, id, kind, 0, got); err != nil {
		t.Errorf("Read %v: %v", id, err)
	} else if !bytes.Equal(got, want) {
		t.Errorf("Read %v: other bytes than were put", id)
	}
}

func wantGone(t *testing.T, s store.Store, id store.ID, kind store.Kind) {
	t.Helper()
	if err := s.Read(ctx, id, kind, 0, make([]byte, id.Len)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Read %v: got %v, want ErrNotFound", id, err)
	}
}

// wantRecords compares all records with key, value, key, value ...
func wantRecords(t *testing.T, s store.Store, want ...string) {
	t.Helper()
	rs, err := s.Scan(ctx, nil, nil, 1<<20)
	if err != nil {
		t.Fatalf("Scan: %v", err)
	}
	var got []string
	for _, r := range rs {
		got = append(got, string(r.Key), string(r.Value))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("records: got %q, want %q", got, want)
	}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// sizes are small and large objects, and those about the edges of blocks.
var sizes = []int{1, 100, 4095, 4096, 4097, 10_000, 16 << 10, 65_000, 65_536, 128 << 10, 300_001, 1 << 20}

func objectsComeBack(t *testing.T, o Opener) {
	s := o.New(t)
	defer s.Close()
	g := s.FirstGroup()
	var parts [][]byte
	for i, n := range sizes {
		parts = append(parts, data(i, n))
	}
	ids := put(t, s, g, store.KindContent, parts...)
	seen := map[store.ID]bool{}
	for i, id := range ids {
		if id.Group != g || int(id.Len) != len(parts[i]) || seen[id] {
			t.Errorf("part %d of %d bytes got ID %v", i, len(parts[i]), id)
		}
		seen[id] = true
		wantObject(t, s, id, store.KindContent, parts[i])
		n := len(parts[i])
		for _, r := range [][2]int{{0, min(n, 4096)}, {n / 3, n - n/3}, {n - 1, 1}, {n, 0}, {n / 4096 * 4096, n % 4096}} {
			p := make([]byte, r[1])
			if err := s.Read(ctx, id, store.KindContent, r[0], p); err != nil || !bytes.Equal(p, parts[i][r[0]:r[0]+r[1]]) {
				t.Errorf("Read of %d bytes at %d of %v: %v", r[1], r[0], id, err)
			}
		}
		wantErr(t, "Read past the end", s.Read(ctx, id, store.KindContent, n, make([]byte, 1)), store.ErrCorrupt)
		wantErr(t, "Read before the front", s.Read(ctx, id, store.KindContent, -1, make([]byte, 1)), store.ErrCorrupt)
	}
}

func putRefuses(t *testing.T, o Opener) {
	s := o.New(t)
	defer s.Close()
	g := s.FirstGroup()
	if _, err := s.Put(ctx, g, store.KindPage, [][]byte{{1}, nil}); err == nil {
		t.Error("Put of an empty part: no error")
	}
	_, err := s.Put(ctx, g, store.KindPage, [][]byte{make([]byte, s.Limits().ObjectBytes+1)})
	wantErr(t, "Put above the limit", err, store.ErrTooBig)
	big := data(1, s.Limits().ObjectBytes)
	wantObject(t, s, put(t, s, g, store.KindPage, big)[0], store.KindPage, big)
	if ids := put(t, s, g, store.KindPage); len(ids) != 0 {
		t.Errorf("Put of nothing: %v", ids)
	}
	commit(t, s, g)
	if _, err := s.Put(ctx, g, store.KindPage, [][]byte{{1}}); err == nil {
		t.Error("Put in a committed group: no error")
	}
}

func putMade(t *testing.T, o Opener) {
	s := o.New(t)
	defer s.Close()
	g := s.FirstGroup()
	sizes := []int{300, 40_000, 7, 9000, 70_000}
	told := make([]store.ID, len(sizes))
	ids, err := s.PutMade(ctx, g, store.KindPage, sizes, func(i int, id store.ID) []byte {
		if told[i] != (store.ID{}) {
			t.Errorf("part %d is asked for again", i)
		}
		told[i] = id
		return data(i, sizes[i])
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		if id != told[i] || int(id.Len) != sizes[i] {
			t.Errorf("part %d of %d bytes: told %v, got %v", i, sizes[i], told[i], id)
		}
		wantObject(t, s, id, store.KindPage, data(i, sizes[i]))
	}
	_, err = s.PutMade(ctx, g, store.KindPage, []int{5, s.Limits().ObjectBytes + 1}, nil)
	wantErr(t, "PutMade above the limit", err, store.ErrTooBig)
	if _, err = s.PutMade(ctx, g, store.KindPage, []int{5, 0}, nil); err == nil {
		t.Error("PutMade of an empty part: no error")
	}
}

func deletedObjects(t *testing.T, o Opener) {
	s := o.New(t)
	defer s.Close()
	g := s.FirstGroup()
	small, large := data(1, 500), data(2, 100_000)
	ids := put(t, s, g, store.KindPage, small, large, small, large, large)
	commit(t, s, g)
	for _, id := range []store.ID{
		{}, {Group: g, Off: 1 << 20, Len: 5}, {Group: g + 5, Len: 500}, {Group: g, Seg: 77, Len: 5},
		{Group: g, Seg: ids[1].Seg, Off: 1 << 24, Len: 100_000},
	} {
		wantGone(t, s, id, store.KindPage)
	}
	for range 2 { // twice is harmless
		if err := s.Delete(ctx, []store.ID{ids[0], ids[1], ids[3]}); err != nil {
			t.Fatalf("Delete: %v", err)
		}
		wantGone(t, s, ids[0], store.KindPage)
		wantGone(t, s, ids[1], store.KindPage)
		wantGone(t, s, ids[3], store.KindPage)
		wantObject(t, s, ids[2], store.KindPage, small)
		wantObject(t, s, ids[4], store.KindPage, large)
	}
	if err := s.Delete(ctx, []store.ID{{Group: g, Seg: 99, Len: 1}, {Group: g, Off: 99, Len: 1}}); err != nil {
		t.Errorf("Delete of what never was: %v", err)
	}
	if err := s.Delete(ctx, nil); err != nil {
		t.Errorf("Delete of nothing: %v", err)
	}
}

func listAll(t *testing.T, s store.Store, limit int) (all []store.ID) {
	t.Helper()
	var after store.ID
	for {
		ids, err := s.List(ctx, after, limit)
		if err != nil {
			t.Fatalf("List: %v", err)
		}
		if len(ids) == 0 {
			return all
		}
		if len(ids) > limit {
			t.Fatalf("List of %d: %d IDs", limit, len(ids))
		}
		all = append(all, ids...)
		after = ids[len(ids)-1]
	}
}

func listInOrder(t *testing.T, o Opener) {
	s := o.New(t)
	defer s.Close()
	g := s.FirstGroup()
	var want []store.ID
	for i := range uint64(4) {
		want = append(want, put(t, s, g+i, store.KindContent, data(1, 10), data(2, 50_000), data(3, 20), data(4, 4096), data(5, 20_000))...)
	}
	commit(t, s, g+3)
	if err := s.Delete(ctx, []store.ID{want[1], want[7]}); err != nil {
		t.Fatal(err)
	}
	want = append(append(want[:1:1], want[2:7]...), want[8:]...)
	sortIDs(want)
	for _, limit := range []int{1, 3, 100} {
		if got := listAll(t, s, limit); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("List by %d:\ngot  %v\nwant %v", limit, got, want)
		}
	}
}

func wrongKind(t *testing.T, o Opener) {
	s := o.New(t)
	defer s.Close()
	for _, id := range put(t, s, s.FirstGroup(), store.KindPage, data(1, 100), data(2, 70_000)) {
		wantErr(t, "Read as another kind", s.Read(ctx, id, store.KindContent, 0, make([]byte, 10)), store.ErrCorrupt)
		other := id
		other.Group++
		if err := s.Read(ctx, other, store.KindPage, 0, make([]byte, 10)); err == nil {
			t.Errorf("Read of %v, which was never given out: no error", other)
		}
	}
}

func batchesApply(t *testing.T, o Opener) {
	s := o.New(t)
	defer s.Close()
	g := s.FirstGroup()
	commit(t, s, g, "a", "1", "b", "2", "empty", "")
	wantRecords(t, s, "a", "1", "b", "2", "empty", "")
	err := s.Commit(ctx, &store.Batch{
		Group: g + 1, Fence: s.Fence(),
		Puts:    []store.Record{{Key: []byte("b"), Value: []byte("3")}, {Key: []byte("c"), Value: []byte("4")}},
		Deletes: [][]byte{[]byte("a"), []byte("never was")},
	})
	if err != nil {
		t.Fatal(err)
	}
	wantRecords(t, s, "b", "3", "c", "4", "empty", "")
	vs, err := s.Get(ctx, []byte("c"), []byte("a"), []byte("empty"), []byte("b"))
	if err != nil {
		t.Fatal(err)
	}
	if string(vs[0]) != "4" || vs[1] != nil || vs[2] == nil || len(vs[2]) != 0 || string(vs[3]) != "3" {
		t.Errorf("Get: %q", vs)
	}
	if vs, err := s.Get(ctx); err != nil || len(vs) != 0 {
		t.Errorf("Get of nothing: %q, %v", vs, err)
	}
}

func batchesRefused(t *testing.T, o Opener) {
	s := o.New(t)
	defer s.Close()
	l := s.Limits()
	g := s.FirstGroup()
	commit(t, s, g, "a", "1")
	many := make([]store.Record, l.BatchRecords+1)
	for i := range many {
		many[i] = store.Record{Key: fmt.Appendf(nil, "%d", i)}
	}
	var heavy []store.Record
	for n := 0; n <= l.BatchBytes; n += l.ValueBytes {
		heavy = append(heavy, store.Record{Key: fmt.Appendf(nil, "%d", n), Value: make([]byte, l.ValueBytes)})
	}
	a2 := []store.Record{{Key: []byte("a"), Value: []byte("2")}}
	with := func(r store.Record) []store.Record { return append(a2[:1:1], r) }
	for name, c := range map[string]struct {
		b    store.Batch
		want error
	}{
		"fence":          {store.Batch{Group: g + 1, Fence: s.Fence() + 1, Puts: a2}, store.ErrConflict},
		"records":        {store.Batch{Group: g + 1, Fence: s.Fence(), Puts: many}, store.ErrTooBig},
		"bytes":          {store.Batch{Group: g + 1, Fence: s.Fence(), Puts: heavy}, store.ErrTooBig},
		"key":            {store.Batch{Group: g + 1, Fence: s.Fence(), Puts: with(store.Record{Key: make([]byte, l.KeyBytes+1)})}, store.ErrTooBig},
		"key to delete":  {store.Batch{Group: g + 1, Fence: s.Fence(), Puts: a2, Deletes: [][]byte{make([]byte, l.KeyBytes+1)}}, store.ErrTooBig},
		"value":          {store.Batch{Group: g + 1, Fence: s.Fence(), Puts: with(store.Record{Key: []byte("v"), Value: make([]byte, l.ValueBytes+1)})}, store.ErrTooBig},
		"the same group": {store.Batch{Group: g, Fence: s.Fence(), Puts: a2}, nil},
		"earlier group":  {store.Batch{Group: g - 1, Fence: s.Fence(), Puts: a2}, nil},
	} {
		err := s.Commit(ctx, &c.b)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	wantRecords(t, s, "a", "1")
	if s.LastGroup() != g {
		t.Errorf("LastGroup: got %d, want %d", s.LastGroup(), g)
	}
	commit(t, s, g+1, "a", "2")
}

func batchAtTheLimit(t *testing.T, o Opener) {
	s := o.New(t)
	defer s.Close()
	l := s.Limits()
	g := s.FirstGroup()
	size := l.BatchBytes/l.BatchRecords - 32 - 8
	b := &store.Batch{Group: g, Fence: s.Fence()}
	for i := range l.BatchRecords {
		b.Puts = append(b.Puts, store.Record{Key: fmt.Appendf(nil, "%08d", i), Value: data(i, max(0, size))})
	}
	if err := s.Commit(ctx, b); err != nil {
		t.Fatalf("Commit of %d records: %v", len(b.Puts), err)
	}
	b = &store.Batch{Group: g + 1, Fence: s.Fence(), Puts: []store.Record{
		{Key: bytes.Repeat([]byte("k"), l.KeyBytes), Value: data(7, l.ValueBytes)},
	}}
	if err := s.Commit(ctx, b); err != nil {
		t.Fatalf("Commit of the longest key and value: %v", err)
	}
	if vs, err := s.Get(ctx, b.Puts[0].Key); err != nil || !bytes.Equal(vs[0], b.Puts[0].Value) {
		t.Errorf("Get of the longest key: %v", err)
	}
	rs, err := s.Scan(ctx, nil, []byte("9"), l.BatchRecords+1)
	if err != nil || len(rs) != l.BatchRecords {
		t.Errorf("Scan: %d records, %v, want %d", len(rs), err, l.BatchRecords)
	}
}

func scanPages(t *testing.T, o Opener) {
	s := o.New(t)
	defer s.Close()
	b := &store.Batch{Group: s.FirstGroup(), Fence: s.Fence()}
	for i := range 1000 {
		b.Puts = append(b.Puts, store.Record{Key: fmt.Appendf(nil, "k%04d", i), Value: fmt.Append(nil, i)})
	}
	if err := s.Commit(ctx, b); err != nil {
		t.Fatal(err)
	}
	var got []store.Record
	for from := []byte("k0100"); ; {
		rs, err := s.Scan(ctx, from, []byte("k0900"), 7)
		if err != nil {
			t.Fatal(err)
		}
		if len(rs) == 0 {
			break
		}
		got = append(got, rs...)
		from = append(bytes.Clone(rs[len(rs)-1].Key), 0)
	}
	if len(got) != 800 {
		t.Fatalf("%d records, want 800", len(got))
	}
	for i, r := range got {
		if want := b.Puts[100+i]; !bytes.Equal(r.Key, want.Key) || !bytes.Equal(r.Value, want.Value) {
			t.Fatalf("record %d: got %q, want %q", i, r, want)
		}
	}
	if rs, err := s.Scan(ctx, []byte("k0990"), nil, 100); err != nil || len(rs) != 10 {
		t.Errorf("Scan without an end: %d records, %v", len(rs), err)
	}
	if rs, err := s.Scan(ctx, []byte("z"), nil, 100); err != nil || len(rs) != 0 {
		t.Errorf("Scan past the end: %d records, %v", len(rs), err)
	}
	if rs, err := s.Scan(ctx, nil, nil, 0); err != nil || len(rs) != 0 {
		t.Errorf("Scan with limit 0: %d records, %v", len(rs), err)
	}
}

func scanOrder(t *testing.T, o Opener) {
	s := o.New(t)
	defer s.Close()
	want := []string{"\x00", "\x00\x00", "a", "a\x00", "a\x00\xff", "a\x01", "ab", "b", "\xff", "\xff\xff"}
	var kv []string
	for _, k := range []int{3, 8, 0, 5, 9, 1, 7, 2, 6, 4} {
		kv = append(kv, want[k], "v")
	}
	commit(t, s, s.FirstGroup(), kv...)
	rs, err := s.Scan(ctx, nil, nil, 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rs {
		got = append(got, string(r.Key))
	}
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func reopenKeepsAll(t *testing.T, o Opener) {
	s := o.New(t)
	super := s.Super()
	g := s.FirstGroup()
	small, large := data(1, 900), data(2, 90_000)
	ids := put(t, s, g, store.KindContent, small, large)
	commit(t, s, g, "a", "1")
	commit(t, s, g+1, "b", "2")
	for range 3 {
		s = o.Reopen(t, s)
		wantRecords(t, s, "a", "1", "b", "2")
		wantObject(t, s, ids[0], store.KindContent, small)
		wantObject(t, s, ids[1], store.KindContent, large)
		if s.LastGroup() != g+1 {
			t.Errorf("LastGroup: got %d, want %d", s.LastGroup(), g+1)
		}
		if s.Super().UUID != super.UUID || !s.Super().Created.Equal(super.Created) {
			t.Errorf("Super: got %v, want %v", s.Super(), super)
		}
	}
	s.Close()
}

func groupsGrow(t *testing.T, o Opener) {
	s := o.New(t)
	if s.LastGroup() != 0 || s.FirstGroup() == 0 {
		t.Errorf("a new store has LastGroup %d, FirstGroup %d", s.LastGroup(), s.FirstGroup())
	}
	for range 3 {
		first := s.FirstGroup()
		commit(t, s, first+3, "a", "1")
		fence := s.Fence()
		s = o.Reopen(t, s)
		if s.FirstGroup() <= first+3 {
			t.Errorf("FirstGroup %d after group %d", s.FirstGroup(), first+3)
		}
		err := s.Commit(ctx, &store.Batch{Group: first + 3, Fence: s.Fence()})
		if err == nil {
			t.Errorf("Commit of group %d again: no error", first+3)
		}
		if s.Fence() == fence {
			t.Errorf("Fence is still %d", fence)
		}
	}
	s.Close()
}

func reopenErases(t *testing.T, o Opener) {
	s := o.New(t)
	g := s.FirstGroup()
	kept := put(t, s, g, store.KindContent, data(1, 100), data(2, 50_000))
	commit(t, s, g)
	lost := put(t, s, g+1, store.KindContent, data(3, 100), data(4, 50_000))
	wantObject(t, s, lost[1], store.KindContent, data(4, 50_000))
	s = o.Reopen(t, s)
	defer s.Close()
	for _, id := range lost {
		wantGone(t, s, id, store.KindContent)
	}
	sortIDs(kept)
	if got := listAll(t, s, 10); fmt.Sprint(got) != fmt.Sprint(kept) {
		t.Errorf("List: got %v, want %v", got, kept)
	}
}

func idsOnce(t *testing.T, o Opener) {
	s := o.New(t)
	seen := map[store.ID]bool{}
	for i := range 4 {
		g := s.FirstGroup()
		for _, id := range put(t, s, g, store.KindPage, data(1, 10), data(2, 40_000), data(1, 10)) {
			if seen[id] {
				t.Errorf("open %d gives %v again", i, id)
			}
			seen[id] = true
		}
		if i%2 == 0 { // and once without anything committed
			commit(t, s, g)
		}
		s = o.Reopen(t, s)
	}
	s.Close()
}

func deletesOutlive(t *testing.T, o Opener) {
	s := o.New(t)
	g := s.FirstGroup()
	ids := put(t, s, g, store.KindPage, data(1, 10), data(2, 40_000), data(3, 10), data(4, 40_000))
	commit(t, s, g)
	barrier(t, s)
	if err := s.Delete(ctx, ids[:2]); err != nil {
		t.Fatal(err)
	}
	s = o.Reopen(t, s)
	wantGone(t, s, ids[0], store.KindPage)
	wantGone(t, s, ids[1], store.KindPage)
	wantObject(t, s, ids[2], store.KindPage, data(3, 10))
	wantObject(t, s, ids[3], store.KindPage, data(4, 40_000))
	if err := s.Delete(ctx, ids); err != nil {
		t.Fatal(err)
	}
	if got := listAll(t, s, 10); len(got) != 0 {
		t.Errorf("List: %v are left", got)
	}
	s.Close()
}

// writeAhead puts objects of the next group between those of the one that is
// committed: a reopen must tell them apart.
func writeAhead(t *testing.T, o Opener) {
	s := o.New(t)
	g := s.FirstGroup()
	var kept, lost []store.ID
	for i := range 5 {
		kept = append(kept, put(t, s, g, store.KindContent, data(i, 20_000), data(i, 50))...)
		lost = append(lost, put(t, s, g+1, store.KindContent, data(i, 30_000), data(i, 60))...)
	}
	commit(t, s, g)
	lost = append(lost, put(t, s, g+2, store.KindContent, data(9, 100_000))...)
	s = o.Reopen(t, s)
	defer s.Close()
	for i, id := range kept {
		wantObject(t, s, id, store.KindContent, data(i/2, int(id.Len)))
	}
	for _, id := range lost {
		wantGone(t, s, id, store.KindContent)
	}
	sortIDs(kept)
	if got := listAll(t, s, 100); fmt.Sprint(got) != fmt.Sprint(kept) {
		t.Errorf("List: got %v, want %v", got, kept)
	}
}

func crashKeeps(t *testing.T, o Opener) {
	if o.Crash == nil {
		t.Skip("no crashes to be had")
	}
	s := o.New(t)
	for round := range 3 {
		g := s.FirstGroup()
		kept := put(t, s, g, store.KindPage, data(1, 99), data(2, 33_000))
		commit(t, s, g, "round", fmt.Sprint(round))
		barrier(t, s)
		lost := put(t, s, g+1, store.KindPage, data(3, 99), data(4, 33_000))
		s = o.Crash(t, s)
		wantRecords(t, s, "round", fmt.Sprint(round))
		wantObject(t, s, kept[0], store.KindPage, data(1, 99))
		wantObject(t, s, kept[1], store.KindPage, data(2, 33_000))
		wantGone(t, s, lost[0], store.KindPage)
		wantGone(t, s, lost[1], store.KindPage)
		if s.LastGroup() != g || s.FirstGroup() <= g+1 {
			t.Errorf("LastGroup %d, FirstGroup %d after a crash in group %d", s.LastGroup(), s.FirstGroup(), g+1)
		}
	}
	s.Close()
}

// manyAtOnce has one committer, as a volume has, and everything else beside it.
func manyAtOnce(t *testing.T, o Opener) {
	s := o.New(t)
	defer s.Close()
	const groups, putters = 12, 3
	first := s.FirstGroup()
	var wg sync.WaitGroup
	for g := first; g < first+groups; g++ {
		for w := range putters {
			wg.Add(1)
			go func() {
				defer wg.Done()
				a, b := data(w, 700), data(w, 30_000+w)
				ids, err := s.Put(ctx, g, store.KindContent, [][]byte{a, b, a})
				if err != nil {
					t.Errorf("Put: %v", err)
					return
				}
				wantObject(t, s, ids[0], store.KindContent, a)
				wantObject(t, s, ids[1], store.KindContent, b)
				if err := s.Delete(ctx, ids[2:]); err != nil {
					t.Errorf("Delete: %v", err)
				}
			}()
		}
		wg.Wait()
		wg.Add(2)
		go func() {
			defer wg.Done()
			commit(t, s, g, "pair/a", fmt.Sprint(g), "pair/b", fmt.Sprint(g), fmt.Sprintf("own/%d", g), "x")
		}()
		go func() {
			defer wg.Done()
			wantPair(t, s)
			if err := s.Barrier(ctx); err != nil {
				t.Errorf("Barrier: %v", err)
			}
			wantPair(t, s)
		}()
		wg.Wait()
	}
	if got := listAll(t, s, 1000); len(got) != groups*putters*2 {
		t.Errorf("List: %d objects, want %d", len(got), groups*putters*2)
	}
}

// wantPair checks that Get and Scan see whole batches.
func wantPair(t *testing.T, s store.Store) {
	vs, err := s.Get(ctx, []byte("pair/a"), []byte("pair/b"))
	if err != nil || !bytes.Equal(vs[0], vs[1]) {
		t.Errorf("Get: %q, %v", vs, err)
	}
	rs, err := s.Scan(ctx, []byte("pair/"), []byte("pair0"), 10)
	if err != nil || len(rs) == 1 || len(rs) == 2 && !bytes.Equal(rs[0].Value, rs[1].Value) {
		t.Errorf("Scan: %q, %v", rs, err)
	}
}

func endedContext(t *testing.T, o Opener) {
	s := o.New(t)
	defer s.Close()
	id := put(t, s, s.FirstGroup(), store.KindPage, data(1, 10))[0]
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for name, err := range calls(s, ended, id) {
		wantErr(t, name, err, context.Canceled)
	}
	if s.LastGroup() != 0 {
		t.Error("Commit has done something")
	}
	wantObject(t, s, id, store.KindPage, data(1, 10))
}

func closedStore(t *testing.T, o Opener) {
	s := o.New(t)
	id := put(t, s, s.FirstGroup(), store.KindPage, data(1, 10))[0]
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	for name, err := range calls(s, ctx, id) {
		wantErr(t, name, err, store.ErrClosed)
	}
}

// calls makes every call that can fail.
func calls(s store.Store, ctx context.Context, id store.ID) map[string]error {
	errs := map[string]error{
		"Read":    s.Read(ctx, id, store.KindPage, 0, make([]byte, 1)),
		"Delete":  s.Delete(ctx, []store.ID{id}),
		"Commit":  s.Commit(ctx, &store.Batch{Group: s.FirstGroup(), Fence: s.Fence()}),
		"Barrier": s.Barrier(ctx),
	}
	_, errs["Put"] = s.Put(ctx, s.FirstGroup(), store.KindPage, [][]byte{{1}})
	_, errs["PutMade"] = s.PutMade(ctx, s.FirstGroup(), store.KindPage, []int{1}, func(int, store.ID) []byte { return []byte{1} })
	_, errs["List"] = s.List(ctx, store.ID{}, 1)
	_, errs["Get"] = s.Get(ctx, []byte("a"))
	_, errs["Scan"] = s.Scan(ctx, nil, nil, 1)
	return errs
}
