package fs

import (
	"math/rand/v2"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"dcfs/snap"
)

func TestNodeIDsSplitIntoTheirParts(t *testing.T) {
	if id := nodeID(0, snap.RootIno); id != fuse.FUSE_ROOT_ID {
		t.Errorf("the root of the mount is node %d", id)
	}
	const maxIno = virtualBit - 1
	for _, door := range []uint32{0, 1, passingDoor - 1, passingDoor, maxDoor} {
		for _, ino := range []uint64{1, 2, 100, maxIno} {
			if d, k, i := splitNode(nodeID(door, ino)); d != door || k != inside || i != ino {
				t.Errorf("inode %d behind door %d: split into %d, %v, %d", ino, door, d, k, i)
			}
			if d, k, i := splitNode(virtualID(door, snapshots, ino)); d != door || k != snapshots || i != ino {
				t.Errorf(".snapshots of %d behind door %d: split into %d, %v, %d", ino, door, d, k, i)
			}
		}
		if d, k, _ := splitNode(virtualID(door, forks, 7)); d != door || k != forks {
			t.Errorf(".forks behind door %d: split into %d, %v", door, d, k)
		}
	}
	if virtualID(maxDoor, snapshots, maxIno) >= ^uint64(0) {
		t.Error("a node has the number that go-fuse keeps for itself")
	}
}

// TestNodeTableCountsLikeAMap compares the table with a map of Go.
func TestNodeTableCountsLikeAMap(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var table nodeTable
	type entry struct {
		count  uint64
		orphan bool
	}
	want := make(map[uint64]entry)
	for range 300_000 {
		// Few nodes at a time, so that they come and go; neighbours, as
		// inode numbers are.
		node := nodeID(uint32(rng.IntN(3)), rng.Uint64N(500)+1)
		e, known := want[node]
		switch rng.IntN(4) {
		case 0, 1:
			if first := table.add(node); first == known {
				t.Fatalf("add %#x: first %v, want %v", node, first, !known)
			}
			want[node] = entry{e.count + 1, e.orphan}
		case 2:
			n := rng.Uint64N(e.count+2) + 1
			gone, orphan := table.forget(node, n)
			if wantGone := known && n >= e.count; gone != wantGone || gone && orphan != e.orphan {
				t.Fatalf("forget %#x, %d of %d: %v, %v; want %v, %v", node, n, e.count, gone, orphan, wantGone, e.orphan)
			}
			if gone {
				delete(want, node)
			} else if known {
				want[node] = entry{e.count - n, e.orphan}
			}
		case 3:
			if got := table.mark(node); got != known {
				t.Fatalf("mark %#x: %v, want %v", node, got, known)
			}
			if known {
				want[node] = entry{e.count, true}
			}
		}
		if known := want[node].count > 0; known {
			table.told(node, false)
			if table.fresh(node) {
				t.Fatalf("%#x is fresh, and was not told", node)
			}
			table.told(node, true)
		} else {
			table.told(node, true)
		}
		if known := want[node].count > 0; table.fresh(node) != known {
			t.Fatalf("%#x, known: %v, fresh: %v", node, known, table.fresh(node))
		}
		if got := table.count(node); got != want[node].count {
			t.Fatalf("count of %#x: %d, want %d", node, got, want[node].count)
		}
	}
	all := table.collect(func(uint64) bool { return true })
	if len(all) != len(want) {
		t.Errorf("%d nodes, want %d", len(all), len(want))
	}
	for _, n := range all {
		if _, ok := want[n]; !ok {
			t.Errorf("node %#x is there", n)
		}
	}
}

func TestNodeTableShrinks(t *testing.T) {
	var table nodeTable
	const n = 100_000
	for i := range uint64(n) {
		table.add(nodeID(0, i+1))
	}
	slots := func() (sum int) {
		for i := range table.shards {
			sum += len(table.shards[i].slots)
		}
		return sum
	}
	if s := slots(); s > 4*n {
		t.Errorf("%d slots for %d nodes", s, n)
	}
	for i := range uint64(n) {
		table.forget(nodeID(0, i+1), 1)
	}
	if s := slots(); s > minSlots<<shardBits {
		t.Errorf("%d slots for nothing", s)
	}
}

func BenchmarkNodeTable(b *testing.B) {
	var table nodeTable
	b.ReportAllocs()
	for i := range uint64(b.N) {
		node := nodeID(0, i%100_000+1)
		table.add(node)
		table.forget(node, 1)
	}
}
