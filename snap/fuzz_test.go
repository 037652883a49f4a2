package snap

import (
	"bytes"
	"testing"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// The fuzzers hold every decoder to one rule: it does not panic, and what it
// takes has no other encoding.

func FuzzFork(f *testing.F) {
	g := &fork{
		parent: &fork{id: 7}, origin: 3, first: 100, counter: 1 << 40, reserved: 200, live: true,
		name: "try", place: 1, number: 9, created: time.Unix(1e9, 5),
	}
	g.doors[1] = DoorAttr{1000, 1000, 0o755}
	f.Add(g.encode())
	g.live, g.parent = false, nil
	f.Add(g.encode())
	g.prefix, g.moving = 6, 5
	f.Add(g.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		g, parent, err := decodeFork(5, b)
		if err != nil {
			return
		}
		if parent != 0 {
			g.parent = &fork{id: parent}
		}
		if got := g.encode(); !bytes.Equal(got, b) {
			t.Fatalf("%x encodes to %x", b, got)
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	f.Add((&snapshot{name: "monday", number: 5, created: time.Unix(-1, 0)}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		sn, err := decodeSnapshot(&fork{}, 5, b)
		if err != nil {
			return
		}
		if got := sn.encode(); !bytes.Equal(got, b) {
			t.Fatalf("%x encodes to %x", b, got)
		}
	})
}

func encodeEntries(es []entry) []byte {
	b := []byte{recordVersion}
	for i := range es {
		b = es[i].append(b)
	}
	return b
}

func FuzzEntries(f *testing.F) {
	f.Add(encodeEntries(nil))
	f.Add(encodeEntries([]entry{
		{kind: entryRef, id: store.ID{Group: 7, Seg: 1, Off: 300, Len: 5000}},
		{kind: entryHead, ino: 20},
		{kind: entryUnsized, ino: 21},
		{kind: entryInherited, ino: 1 << 39, size: 160},
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		es, err := decodeEntries(b)
		if err != nil {
			return
		}
		if got := encodeEntries(es); !bytes.Equal(got, b) {
			t.Fatalf("%x encodes to %x", b, got)
		}
	})
}

func FuzzSum(f *testing.F) {
	f.Add(encode(3, 1<<40))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeSum(b)
		if err != nil {
			return
		}
		if got := encode(s.count, s.bytes); !bytes.Equal(got, b) {
			t.Fatalf("%x encodes to %x", b, got)
		}
	})
}

func FuzzBulk(f *testing.F) {
	head := dcdb.EncodeHead(&dcdb.Head{Changed: 5})
	f.Add((&bulk{death: 3, next: 1 << 40, records: true, head: head}).encode())
	f.Add((&bulk{death: 3, cut: 2, head: head}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := decodeBulk(b)
		if err != nil {
			return
		}
		if got := k.encode(); !bytes.Equal(got, b) {
			t.Fatalf("%x encodes to %x", b, got)
		}
	})
}

func FuzzTags(f *testing.F) {
	f.Add(encodeTags([]string{"backup", "keep"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		tags, err := decodeTags(b)
		if err != nil {
			return
		}
		if got := encodeTags(tags); !bytes.Equal(got, b) {
			t.Fatalf("%x encodes to %x", b, got)
		}
	})
}

func FuzzExpiry(f *testing.F) {
	f.Add(encodeExpiry(time.Unix(1e9, 5)))
	f.Add(encodeExpiry(time.Unix(-5, 0)))
	f.Fuzz(func(t *testing.T, b []byte) {
		at, err := decodeExpiry(b)
		if err != nil {
			return
		}
		if got := encodeExpiry(at); !bytes.Equal(got, b) {
			t.Fatalf("%x encodes to %x", b, got)
		}
	})
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{"1w2d3h", "1.5d", "0", "90m", "5200w", "1h-1h", "106751d23h47m16.9s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDuration(s)
		if err != nil {
			return
		}
		if d < 0 || d > maxTTL {
			t.Fatalf("%q is %v", s, d)
		}
		if again, err := ParseDuration(d.String()); d > 0 && (err != nil || again != d) {
			t.Fatalf("%q is %v, which is %v, %v", s, d, again, err)
		}
	})
}

func FuzzPolicy(f *testing.F) {
	f.Add(Policy{24, 7, 4, 12, 10}.encode())
	f.Add(Policy{0, 0, 0, 0, 1}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePolicy(b)
		if err != nil {
			return
		}
		if got := p.encode(); !bytes.Equal(got, b) {
			t.Fatalf("%x encodes to %x", b, got)
		}
	})
}

func FuzzPolicyText(f *testing.F) {
	for _, s := range []string{"24h7d4w", "12M10y", "none", "1h1h", "6m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePolicy(s)
		if err != nil {
			return
		}
		if again, err := ParsePolicy(p.String()); err != nil || again != p {
			t.Fatalf("%q is %v, which is %v, %v", s, p, again, err)
		}
	})
}
