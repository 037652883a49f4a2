package dcdb

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
)

// TestTreeIsASortedMap puts, removes and lists items in random order, with
// commits, reopenings and a cache that holds next to nothing, and compares each
// answer with a map's.
func TestTreeIsASortedMap(t *testing.T) {
	for seed := range int64(12) {
		t.Run(seeded(seed), func(t *testing.T) { treeRun(t, seed) })
	}
}

func treeRun(t *testing.T, seed int64) {
	r := rand.New(rand.NewSource(seed))
	ts := newTestSpace(t, Options{CacheBytes: []int64{1, 64 << 10, 64 << 20}[seed%3]})
	ts.create(20)
	m := &treeModel{t: t, ts: ts, want: map[string][]byte{}}
	keys := []int{30, 3000, 30000}[r.Intn(3)]
	for step := range 400 {
		grow := (step/100)%2 == 0 // and shrink, in turns
		switch n := r.Intn(100); {
		case n < 70:
			m.change(r, keys, grow)
		case n < 80:
			m.get(treeKey(r, keys))
		case n < 84:
			m.list(r, treeKey(r, keys))
		case n < 90:
			ts.sync()
		case n < 93:
			ts.snapshot()
		case n < 95:
			ts.check()
		case n < 96:
			ts.reopen()
		default:
			m.frozen(r)
		}
	}
	m.list(r, "")
	ts.check()
	for k := range m.want { // until nothing is left
		m.apply([]string{k}, [][]byte{nil})
	}
	m.list(r, "")
	ts.check()
	ts.update(func(tx *Tx) error {
		db, err := tx.DB(ts.live(20))
		if err == nil {
			db.Delete()
		}
		return err
	})
	ts.check()
}

func treeKey(r *rand.Rand, keys int) string {
	k := fmt.Sprintf("%06d", r.Intn(keys))
	return k + strings.Repeat("k", int(k[5]-'0')*int(k[4]-'0'))
}

type treeModel struct {
	t    *testing.T
	ts   *testSpace
	want map[string][]byte
}

// change puts or removes a few neighbours, or strangers, in one transaction.
func (m *treeModel) change(r *rand.Rand, keys int, grow bool) {
	var ks []string
	var vals [][]byte
	run, at := r.Intn(3) == 0, r.Intn(keys)
	for i := range 1 + r.Intn(24) {
		k := treeKey(r, keys)
		if run {
			k = fmt.Sprintf("%06d", at+i)
		}
		if slices.Contains(ks, k) {
			continue
		}
		ks = append(ks, k)
		if r.Intn(10) < 8 == grow {
			vals = append(vals, bytes.Repeat([]byte{byte(r.Intn(256))}, valueBytes(r)))
		} else {
			vals = append(vals, nil)
		}
	}
	m.apply(ks, vals)
}

func valueBytes(r *rand.Rand) int {
	switch r.Intn(20) {
	case 0:
		return 1 + r.Intn(20<<10) // an object of its own
	case 1:
		return 1 + r.Intn(MaxInlineValue)
	}
	return 1 + r.Intn(40)
}

// apply puts values, or removes where they are nil.
func (m *treeModel) apply(ks []string, vals [][]byte) {
	m.t.Helper()
	m.ts.update(func(tx *Tx) error {
		db, err := tx.DB(m.ts.live(20))
		if err != nil {
			return err
		}
		for _, k := range ks {
			if _, _, err := db.Get(KindDirent, k); err != nil {
				return err
			}
		}
		for i, k := range ks {
			if vals[i] == nil {
				db.Remove(KindDirent, k)
			} else {
				db.Put(KindDirent, k, vals[i])
			}
		}
		return nil
	})
	for i, k := range ks {
		if vals[i] == nil {
			delete(m.want, k)
		} else {
			m.want[k] = vals[i]
		}
	}
}

func (m *treeModel) get(k string) {
	m.t.Helper()
	err := m.ts.View(context.Background(), func(tx *Tx) error {
		db, err := tx.DB(m.ts.live(20))
		if err != nil {
			return err
		}
		got, ok, err := db.Get(KindDirent, k)
		if err != nil {
			return err
		}
		if want, has := m.want[k]; ok != has || !bytes.Equal(got, want) {
			m.t.Fatalf("get %q: got %d bytes, %t, want %d, %t", k, len(got), ok, len(want), has)
		}
		return nil
	})
	if err != nil {
		m.t.Fatalf("get %q: %v", k, err)
	}
}

// sorted returns the keys from from on, in order.
func (m *treeModel) sorted(from string) []string {
	var ks []string
	for k := range m.want {
		if k >= from {
			ks = append(ks, k)
		}
	}
	slices.Sort(ks)
	return ks
}

// list compares the items from from on, or the first few of them.
func (m *treeModel) list(r *rand.Rand, from string) {
	m.t.Helper()
	ks := m.sorted(from)
	if from != "" && len(ks) > 0 {
		ks = ks[:r.Intn(len(ks))+1]
	}
	var got []string
	err := m.ts.View(context.Background(), func(tx *Tx) error {
		got = got[:0]
		db, err := tx.DB(m.ts.live(20))
		if err != nil {
			return err
		}
		return db.Ascend(KindDirent, from, func(k string, val []byte) bool {
			if !bytes.Equal(val, m.want[k]) {
				m.t.Fatalf("list: %q has %d bytes, want %d", k, len(val), len(m.want[k]))
			}
			got = append(got, k)
			return from == "" || len(got) < len(ks)
		})
	})
	if err != nil || !slices.Equal(got, ks) {
		m.t.Fatalf("list from %q: %v, got %d keys, want %d", from, err, len(got), len(ks))
	}
}

// frozen shows one version while the tree changes.
func (m *treeModel) frozen(r *rand.Rand) {
	m.t.Helper()
	ctx := context.Background()
	f, err := m.ts.Freeze(ctx, m.ts.live(20))
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	want := m.sorted("")
	vals := map[string][]byte{}
	for k, v := range m.want {
		vals[k] = v
	}
	for range 4 {
		m.change(r, 3000, r.Intn(2) == 0)
	}
	if r.Intn(2) == 0 {
		m.ts.sync()
	}
	var got []string
	err = f.Ascend(ctx, KindDirent, "", func(k string, val []byte) bool {
		if !bytes.Equal(val, vals[k]) {
			m.t.Fatalf("frozen: %q has %d bytes, want %d", k, len(val), len(vals[k]))
		}
		got = append(got, k)
		return true
	})
	if err != nil || !slices.Equal(got, want) {
		m.t.Fatalf("frozen: %v, got %d keys, want %d", err, len(got), len(want))
	}
}

// TestTreeTableGrowsDeep numbers so many pages that the mapping table has nodes
// below its root, and takes them all out again.
func TestTreeTableGrowsDeep(t *testing.T) {
	ts := newTestSpace(t, Options{CacheBytes: 256 << 10})
	ts.create(20)
	m := &treeModel{t: t, ts: ts, want: map[string][]byte{}}
	val := bytes.Repeat([]byte{'v'}, 900)
	const n = 128 * 4 * 3
	for i := 0; i < n; i += 16 {
		var ks []string
		var vals [][]byte
		for j := range 16 {
			ks = append(ks, fmt.Sprintf("%06d", (i+j)*7919%n))
			vals = append(vals, val)
		}
		m.apply(ks, vals)
		if i%256 == 0 {
			ts.snapshot()
		}
	}
	ts.check()
	ts.Locked(func() {
		if d := ts.nodes[ts.live(20)].cur.tree.depth; d < 1 {
			t.Fatalf("the mapping table has depth %d", d)
		}
	})
	r := rand.New(rand.NewSource(1))
	m.list(r, "")
	for i := range n {
		m.apply([]string{fmt.Sprintf("%06d", i)}, [][]byte{nil})
		if i%200 == 0 {
			ts.check()
		}
	}
	m.list(r, "")
	ts.check()
}
