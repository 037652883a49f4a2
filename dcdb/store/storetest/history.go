package storetest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"dcfs/dcdb/store"
)

func sortIDs(ids []store.ID) { slices.SortFunc(ids, store.ID.Compare) }

// history is a store beside a map that does the same.
type history struct {
	t       *testing.T
	o       Opener
	s       store.Store
	r       *rand.Rand
	group   uint64 // the next to commit
	records map[string]string
	objects map[store.ID]int  // committed; the seed of the data
	ahead   map[store.ID]int  // put, of groups not committed
	given   map[store.ID]bool // every ID ever
}

// randomHistory does random things to a store and to a map, compares them,
// and reopens and crashes the store in between.
func randomHistory(t *testing.T, o Opener) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	h := &history{
		t: t, o: o, s: o.New(t), r: rand.New(rand.NewPCG(seed, 0)),
		records: map[string]string{}, objects: map[store.ID]int{}, given: map[store.ID]bool{},
	}
	h.opened()
	for range 400 {
		h.step()
	}
	h.compare()
	h.s.Close()
}

func (h *history) opened() {
	h.group = h.s.FirstGroup()
	h.ahead = map[store.ID]int{}
}

func (h *history) step() {
	switch n := h.r.IntN(100); {
	case n < 40:
		h.put(h.group + uint64(h.r.IntN(3)))
	case n < 70:
		h.commit()
		if h.r.IntN(2) == 0 {
			barrier(h.t, h.s)
		}
	case n < 80:
		h.delete()
	case n < 96:
		h.read()
	case n < 98:
		h.s = h.o.Reopen(h.t, h.s)
		h.opened()
		h.compare()
	case h.o.Crash != nil:
		barrier(h.t, h.s)
		h.s = h.o.Crash(h.t, h.s)
		h.opened()
		h.compare()
	}
}

func (h *history) put(group uint64) {
	var parts [][]byte
	var seeds []int
	for range 1 + h.r.IntN(4) {
		seed := h.r.IntN(1 << 30)
		n := 1 + h.r.IntN(6000)
		if h.r.IntN(3) == 0 {
			n = 1 + h.r.IntN(100_000)
		}
		seeds, parts = append(seeds, seed), append(parts, data(seed, n))
	}
	for i, id := range put(h.t, h.s, group, store.KindContent, parts...) {
		if h.given[id] {
			h.t.Errorf("%v is given again", id)
		}
		h.given[id] = true
		h.ahead[id] = seeds[i]
	}
}

func (h *history) commit() {
	b := &store.Batch{Group: h.group, Fence: h.s.Fence()}
	used := map[string]bool{}
	for range h.r.IntN(10) {
		k := fmt.Sprintf("key%d", h.r.IntN(40))
		if used[k] {
			continue
		}
		used[k] = true
		if h.r.IntN(3) == 0 {
			b.Deletes = append(b.Deletes, []byte(k))
			delete(h.records, k)
			continue
		}
		h.records[k] = fmt.Sprint(h.r.Uint64())
		b.Puts = append(b.Puts, store.Record{Key: []byte(k), Value: []byte(h.records[k])})
	}
	if err := h.s.Commit(ctx, b); err != nil {
		h.t.Fatalf("Commit of group %d: %v", b.Group, err)
	}
	for id, seed := range h.ahead {
		if id.Group <= h.group {
			h.objects[id] = seed
			delete(h.ahead, id)
		}
	}
	h.group += 1 + uint64(h.r.IntN(2))
	// What was put for a group that is skipped belongs to the next one.
}

func (h *history) delete() {
	var ids []store.ID
	for id := range h.objects {
		if h.r.IntN(4) == 0 {
			ids = append(ids, id)
			delete(h.objects, id)
		}
	}
	if err := h.s.Delete(ctx, ids); err != nil {
		h.t.Fatalf("Delete: %v", err)
	}
}

func (h *history) read() {
	for id, seed := range h.objects {
		wantObject(h.t, h.s, id, store.KindContent, data(seed, int(id.Len)))
		return
	}
}

// compare demands that the store has exactly what the maps have.
func (h *history) compare() {
	h.t.Helper()
	var want []string
	for _, k := range slices.Sorted(maps.Keys(h.records)) {
		want = append(want, k, h.records[k])
	}
	wantRecords(h.t, h.s, want...)
	var ids []store.ID
	for _, m := range []map[store.ID]int{h.objects, h.ahead} {
		for id, seed := range m {
			ids = append(ids, id)
			wantObject(h.t, h.s, id, store.KindContent, data(seed, int(id.Len)))
		}
	}
	sortIDs(ids)
	if got := listAll(h.t, h.s, 50); fmt.Sprint(got) != fmt.Sprint(ids) {
		h.t.Errorf("List: got %v, want %v", got, ids)
	}
}
