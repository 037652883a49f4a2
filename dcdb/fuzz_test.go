package dcdb

import (
	"bytes"
	"testing"

	"dcfs/dcdb/store"
)

// The fuzzers hold every decoder to one rule: it does not panic, and what it
// takes has no other encoding.

var fuzzID = store.ID{Group: 7, Seg: 1, Off: 300, Len: 5000}

func fuzzPage() *page {
	return &page{items: []item{
		{key: string(KindDirent) + "name", val: []byte("value")},
		{key: recordKey(3), pieces: []piece{
			{n: 5000, since: 2, c: &content{id: fuzzID}},
			{at: 4096, n: 4096, since: 3},
			{at: 5, n: 3, since: 300, c: &content{data: []byte("abc")}},
		}},
	}}
}

func fuzzNode() *tnode {
	t := &tnode{}
	t.set(0, &ref{id: fuzzID, since: 4, objects: true})
	t.set(127, &ref{id: fuzzID, since: 1 << 40})
	return t
}

func fuzzHeads() []*Head {
	a := Attr{Mode: 0o100644, Nlink: 1, Size: 1 << 40, Name: "n", Parent: 1, Born: 2, Mtime: Time{Sec: -5, Nsec: 999_999_999}}
	return []*Head{
		{Attr: a, Changed: 3},
		{Attr: Attr{Born: 2}, Changed: 3, Deleted: true},
		{Attr: a, Changed: 3, tree: tree{next: 1, root: &tnode{slots: []*ref{{page: fuzzPage()}}}}},
		{Attr: a, Changed: 3, excess: true, tree: tree{next: 1000, depth: 1, root: fuzzNode()}},
	}
}

func FuzzHead(f *testing.F) {
	for _, h := range fuzzHeads() {
		f.Add(encodeHead(h))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		changed, deleted, infoErr := HeadInfo(b)
		h, err := DecodeHead(b)
		if err != nil {
			return
		}
		if got := encodeHead(h); !bytes.Equal(got, b) {
			t.Fatalf("%x encodes to %x", b, got)
		}
		if infoErr != nil || changed != h.Changed || deleted != h.Deleted {
			t.Fatalf("head info of %x: %d, %t, %v; want %d, %t", b, changed, deleted, infoErr, h.Changed, h.Deleted)
		}
	})
}

func FuzzPage(f *testing.F) {
	f.Add(appendPage(nil, fuzzPage()))
	f.Add(appendPage(nil, &page{}))
	f.Add(appendPage(nil, &page{inner: true, keys: []string{"ea", "eb"}, kids: []uint64{1, 2, 300}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &decoder{b: b}
		p := decodePage(d)
		if d.end() != nil {
			return
		}
		if got := appendPage(nil, p); !bytes.Equal(got, b) {
			t.Fatalf("%x encodes to %x", b, got)
		}
	})
}

func FuzzNode(f *testing.F) {
	for level := range 2 {
		f.Add(level, appendNode(nil, fuzzNode(), level))
		f.Add(level, appendNode(nil, &tnode{}, level))
	}
	f.Fuzz(func(t *testing.T, level int, b []byte) {
		d := &decoder{b: b}
		n := decodeNode(d, level)
		if d.end() != nil {
			return
		}
		if got := appendNode(nil, n, level); !bytes.Equal(got, b) {
			t.Fatalf("%x encodes to %x", b, got)
		}
	})
}

func FuzzFree(f *testing.F) {
	f.Add(encodeFree(nil))
	f.Add(encodeFree([]store.ID{fuzzID, {Group: 1, Len: 1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		ids, err := DecodeFree(b)
		if err != nil {
			return
		}
		if got := encodeFree(ids); !bytes.Equal(got, b) {
			t.Fatalf("%x encodes to %x", b, got)
		}
	})
}
