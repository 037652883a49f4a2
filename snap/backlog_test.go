package snap

import (
	"testing"

	"dcfs/dcdb"
)

func (h *history) backlog() Backlog {
	h.t.Helper()
	h.must(h.v.space.SyncAll(h.ctx))
	b, err := h.v.Backlog(h.ctx)
	h.must(err)
	return b
}

// TestBacklogTellsWhatIsLeftToReclaim stops the reclaimer to see what it leaves
// to the next process.
func TestBacklogTellsWhatIsLeftToReclaim(t *testing.T) {
	const files, records = 5, 300
	h := newHistory(t)
	m := h.v.Main()
	var inos []uint64
	for range files {
		inos = append(inos, h.create(m, "A"))
	}
	h.snapshot(m, "1")
	for _, i := range inos {
		h.write(m, i, "B")
	}
	large := h.create(m, "A")
	for r := range uint64(records) {
		_, err := h.v.space.Write(h.ctx, m.Key(large), make([]byte, 100), func(*dcdb.DB) uint64 { return r << 17 }, func(*dcdb.DB) error { return nil })
		h.must(err)
	}
	h.idle()
	if b := h.backlog(); !b.Empty() {
		t.Errorf("with nothing deleted: %+v", b)
	}

	h.v.stop()
	<-h.v.done
	h.must(h.v.DeleteSnapshot(h.ctx, m, "1"))
	h.remove(m, large)
	got := h.backlog()
	if got.Bytes < files*64<<10 || got.Bytes > files*65<<10 {
		t.Errorf("%d bytes are to be reclaimed, want about %d", got.Bytes, files*64<<10)
	}
	want := Backlog{Tasks: 1, Trees: 1, Entries: 2 * files, Bytes: got.Bytes} // a head and a page or content each
	if got.Objects = 0; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}

	h.must(h.v.space.Close(h.ctx))
	h.open()
	h.objects(files)
	if b := h.backlog(); !b.Empty() {
		t.Errorf("when all is reclaimed: %+v", b)
	}
}
