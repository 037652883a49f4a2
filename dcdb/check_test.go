package dcdb

import (
	"context"
	"strings"
	"testing"

	"dcfs/dcdb/store"
)

// storedPage puts a page and returns a reference to it.
func storedPage(t *testing.T, st store.Store, since uint64, p *page) *ref {
	t.Helper()
	ids, err := st.Put(context.Background(), 1, store.KindPage, [][]byte{appendPage(nil, p)})
	if err != nil {
		t.Fatal(err)
	}
	return &ref{id: ids[0], since: since}
}

// TestCheckHeadFindsDamage shows heads that break each of the invariants.
func TestCheckHeadFindsDamage(t *testing.T) {
	st := store.NewMemory(store.Superblock{Version: 1, UUID: store.NewUUID()})
	leaf := func(keys ...string) *page {
		p := &page{}
		for _, k := range keys {
			p.items = append(p.items, item{key: k})
		}
		return p
	}
	inner := func(sep string, kids ...uint64) *page {
		return &page{inner: true, keys: []string{sep}, kids: kids}
	}
	record := func(pieces ...piece) *page { return &page{items: []item{{key: recordKey(0), pieces: pieces}}} }
	small := &content{data: []byte("0123456789")}
	inline := func(p *page) tree { return tree{next: 1, root: &tnode{slots: []*ref{{page: p}}}} }
	table := func(since uint64, pages ...*page) tree {
		n := &tnode{}
		for i, p := range pages {
			n.slots = append(n.slots, storedPage(t, st, since, p))
			n.slots[i].since = since
		}
		return tree{next: uint64(len(pages)), root: n}
	}
	missing := table(5, leaf("ea"))
	missing.root.slots[0].id.Off += 1000
	flag := table(5, leaf("ea"))
	flag.root.slots[0].objects = true

	for _, test := range []struct {
		want string
		tree tree
		size uint64
	}{
		{"", inline(leaf("ea", "eb", "xuser")), 0},
		{"", table(5, inner("em", 1, 2), leaf("ea"), leaf("em", "ez")), 0},
		{"(1) page 1: key \"ez\"", table(5, inner("em", 1, 2), leaf("ez"), leaf("em")), 0},
		{"(1) page 0: key \"qa\" of unknown kind", inline(leaf("qa")), 0},
		{"(2) page 1 is reached twice", table(5, inner("em", 1, 1), leaf("ea")), 0},
		{"(2) page 7 is reached", table(5, inner("em", 1, 7), leaf("ea")), 0},
		{"(2) page 2 is in the mapping table and not reached", table(5, leaf("ea"), leaf("eb"), leaf("ec")), 0},
		{"(2) page 0: its reference says", flag, 0},
		{"is missing from the store", missing, 0},
		{"(3) page 0 is used since 7", table(7, leaf("ea")), 0},
		{"(3) page 0 is used since 1", table(1, leaf("ea")), 0},
		{"(3) page 0: a piece of", inline(record(piece{n: 10, since: 6, c: small})), 10},
		{"(4) page 0: the value of", inline(&page{items: []item{{key: "xa", pieces: make([]piece, 2)}}}), 0},
		{"(4) page 0: \"r\" is no record", inline(leaf("r")), 0},
		{"(5) 0 bytes allocated by its head, 4096", inline(record(piece{n: 10, since: 5, c: small})), 10},
		{"(6) record 0 has data up to 10", inline(record(piece{n: 10, since: 5, c: small})), 9},
	} {
		h := &Head{Attr: Attr{Born: 2, Size: test.size}, Changed: 5, tree: test.tree}
		var got []string
		if err := CheckHead(context.Background(), st, h, func(p string) { got = append(got, p) }, func(Ref) {}); err != nil {
			t.Fatal(err)
		}
		if all := strings.Join(got, "\n"); !strings.Contains(all, test.want) || test.want == "" && all != "" {
			t.Errorf("check finds %q, want %q", all, test.want)
		}
	}
}
