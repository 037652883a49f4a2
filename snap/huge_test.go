package snap

import (
	"context"
	"os"
	"runtime"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// hugeRecords is how many records of 128 KiB huge files have: 16 GiB, or with
// DCFS_LONG=1 a TiB.
func hugeRecords() uint64 {
	if os.Getenv("DCFS_LONG") != "" {
		return 1 << 40 / dcdb.RecordBytes
	}
	return 16 << 30 / dcdb.RecordBytes
}

// huge is a volume whose contents take no memory.
type huge struct {
	history
	hollow *store.Hollow
	m      *View
}

func newHuge(t *testing.T) *huge {
	h := &huge{history: history{t: t, ctx: context.Background()}}
	h.st = store.NewMemory(store.Superblock{Version: store.FormatVersion, UUID: store.NewUUID()})
	h.hollow = store.NewHollow(h.st)
	h.openHollow()
	return h
}

func (h *huge) openHollow() {
	h.t.Helper()
	v, err := Open(h.ctx, h.hollow, Options{CommitInterval: 100 * time.Millisecond, Log: h.t.Logf})
	h.must(err)
	h.v, h.m = v, v.Main()
	h.t.Cleanup(func() { v.stop() })
}

// file makes a file of n records, each of one content of a block.
func (h *huge) file(n uint64) uint64 {
	h.t.Helper()
	var ino uint64
	h.must(h.v.space.Update(h.ctx, func(tx *dcdb.Tx) error {
		ino = h.m.NewIno()
		tx.Create(h.m.Key(ino), dcdb.Attr{Mode: 0o100644, Nlink: 1})
		return nil
	}))
	block := make([]byte, 4<<10)
	for r := range n {
		_, err := h.v.space.Write(h.ctx, h.m.Key(ino), block, func(*dcdb.DB) uint64 { return r * dcdb.RecordBytes }, func(*dcdb.DB) error { return nil })
		h.must(err)
	}
	return ino
}

func (h *huge) truncate(ino, size uint64) {
	h.t.Helper()
	h.must(h.v.space.Update(h.ctx, func(tx *dcdb.Tx) error {
		db, err := tx.DB(h.m.Key(ino))
		if err != nil {
			return err
		}
		return db.Truncate(size)
	}))
}

// left checks what is left in the store.
func (h *huge) left(contents, objects int) {
	h.t.Helper()
	if live, put := h.hollow.Contents(); live != contents {
		h.t.Errorf("%d contents of %d are left, want %d", live, put, contents)
	}
	ids, err := h.st.List(h.ctx, store.ID{}, objects+1)
	if err != nil || len(ids) > objects {
		h.t.Errorf("%d pages and table nodes or more are left, want %d at most: %v", len(ids), objects, err)
	}
}

// watchHeap returns a function that tells by how much the live heap was larger at
// most than it is now.
func watchHeap() func() (grown int64) {
	heap := func() int64 {
		m := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(m)
		return int64(m[0].Value.Uint64())
	}
	runtime.GC()
	base, most := heap(), int64(0)
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Add(1)
	go func() {
		defer done.Done()
		for {
			most = max(most, heap()-base)
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() int64 { close(stop); done.Wait(); return most }
}

// TestHugeFilesGoInBoundedPieces unlinks and truncates files of very many records:
// whatever their size, a batch has no more records than steps of the background
// have, the foreground does not wait, and all space comes back.
func TestHugeFilesGoInBoundedPieces(t *testing.T) {
	for _, test := range []struct {
		name           string
		drop           func(h *huge, ino uint64)
		contents, left int
	}{
		{"unlink", func(h *huge, ino uint64) { h.remove(h.m, ino) }, 0, 0},
		{"truncate to 0", func(h *huge, ino uint64) { h.truncate(ino, 0) }, 0, 0},
		{"truncate to 1", func(h *huge, ino uint64) { h.truncate(ino, 1) }, 1, 8},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHuge(t)
			began := time.Now()
			ino := h.file(hugeRecords())
			h.must(h.v.WaitIdle(h.ctx))
			written := time.Since(began)
			h.hollow.LargestBatch()
			grown := watchHeap()
			began = time.Now()
			test.drop(h, ino)
			dropped := time.Since(began)
			h.must(h.v.WaitIdle(h.ctx))
			heap := grown()
			batch := h.hollow.LargestBatch()
			t.Logf("%d records: written in %v, dropped in %v, reclaimed in %v; batches of up to %d records, %d MiB more memory",
				hugeRecords(), written, dropped, time.Since(began), batch, heap>>20)
			h.left(test.contents, test.left)
			if most := 2 * stepRecords; batch > most {
				t.Errorf("a batch had %d records, want %d at most", batch, most)
			}
			if heap > 64<<20 {
				t.Errorf("the heap has grown by %d MiB", heap>>20)
			}
			h.must(h.v.Close(h.ctx))
		})
	}
}

// TestUnlinksDoNotWaitForTheReclamation stops the reclaimer, unlinks 1,000 large
// files, and lets another process reclaim them.
func TestUnlinksDoNotWaitForTheReclamation(t *testing.T) {
	const files, records = 1000, 300
	h := newHuge(t)
	var inos []uint64
	for range files {
		inos = append(inos, h.file(records))
	}
	h.must(h.v.WaitIdle(h.ctx))
	h.v.stop()
	<-h.v.done
	began := time.Now()
	for _, ino := range inos {
		h.remove(h.m, ino)
	}
	took := time.Since(began)
	h.must(h.v.space.SyncAll(h.ctx))
	t.Logf("%d unlinks in %v, durable in %v, the largest batch of %d records", files, took, time.Since(began), h.hollow.LargestBatch())
	if b := h.backlog(); b.Trees != files {
		t.Errorf("backlog: %+v, want %d trees", b, files)
	}
	h.must(h.v.space.Close(h.ctx))
	h.openHollow()
	began = time.Now()
	h.must(h.v.WaitIdle(h.ctx))
	t.Logf("reclaimed in %v", time.Since(began))
	h.left(0, 0)
	sound(t, h.v, CheckOptions{})
	h.must(h.v.Close(h.ctx))
}
