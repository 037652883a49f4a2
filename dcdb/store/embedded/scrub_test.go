package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"dcfs/dcdb/store"
)

// scrubbed returns the lines of a scrub, and how many bytes it read.
func scrubbed(t *testing.T, s *Store) (lines string, bytes int) {
	t.Helper()
	err := s.Scrub(ctx, func(n int) error { bytes += n; return nil }, func(err error) {
		if !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("problem: %v", err)
		}
		lines += err.Error() + "\n"
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines, bytes
}

// TestScrubReadsAllThereIs damages a record, a small object, the header and the
// data of large ones, each in the files of a store of its own.
func TestScrubReadsAllThereIs(t *testing.T) {
	dir := t.TempDir()
	s := must(Create(dir, small(t)))(t)
	ids := must(s.Put(ctx, 1, store.KindPage, [][]byte{data(1, 3000), data(2, 100_000), data(3, 200_000), data(4, 50_000)}))(t)
	commit(t, s, 1, "a record", "its value, which is found in the table as it is", "another", "one")
	if err := s.Delete(ctx, ids[1:2]); err != nil {
		t.Fatal(err)
	}
	commit(t, s, 2, "later", "x")
	lines, bytes := scrubbed(t, s)
	if lines != "" || bytes < 253_000 {
		t.Errorf("scrub of a sound store, from its log: read %d bytes, finds %s", bytes, lines)
	}
	s.Close()

	seg := filepath.Join(segmentsName, segmentName(ids[2].Seg))
	header := func(id store.ID) int64 { return int64(id.Off) * store.BlockBytes }
	for _, c := range []struct {
		what, glob string
		at         int64  // -1: where text is
		text, want string // want: what a line has
	}{
		{"nothing", seg, header(ids[1]) + 5000, "", ""},
		{"record", recordsName + "/*.sst", -1, "its value, which", "record 61207265636f7264"},
		{"small object", recordsName + "/*.sst", -1, string(data(1, 64)), "small object"},
		{"header", seg, header(ids[2]) + 9, "", "header of an object"},
		{"data", seg, header(ids[2]) + 60_000, "", fmt.Sprintf("object %v", ids[2])},
		{"last data", seg, header(ids[3]) + 50_000, "", fmt.Sprintf("object %v", ids[3])},
		{"superblock", superName, -1, "uuid", superName},
	} {
		t.Run(c.what, func(t *testing.T) {
			copied := filepath.Join(t.TempDir(), "copy")
			copyTree(t, dir, copied)
			s := must(Open(copied, small(t)))(t)
			defer s.Close()
			<-s.scrubbed
			done := c.what == "nothing"
			for _, name := range files(t, copied, c.glob) {
				at := c.at
				if at < 0 {
					at = int64(strings.Index(string(must(os.ReadFile(name))(t)), c.text))
				}
				if at < 0 || done {
					continue
				}
				done = true
				f := must(os.OpenFile(name, os.O_RDWR, 0))(t)
				b := make([]byte, 1)
				f.ReadAt(b, at)
				b[0] ^= 4
				if _, err := f.WriteAt(b, at); err != nil {
					t.Fatal(err)
				}
				f.Close()
			}
			if !done {
				t.Fatal("nothing to damage")
			}
			lines, _ := scrubbed(t, s)
			again, _ := scrubbed(t, s)
			if !strings.Contains(lines, c.want) || (lines == "") != (c.want == "") || lines != again {
				t.Errorf("scrub finds %q, then %q, want %q", lines, again, c.want)
			}
		})
	}
}

// TestScrubBesideWriters finds nothing in what is being written and deleted, and
// ends when it is told to, or the store is closed.
func TestScrubBesideWriters(t *testing.T) {
	o := small(t)
	o.SegmentBytes = 4 << 20
	s := must(Create(t.TempDir(), o))(t)
	var writer sync.WaitGroup
	stop := make(chan struct{})
	var written atomic.Uint64
	writer.Go(func() {
		var last []store.ID
		for g := uint64(1); ; g++ {
			select {
			case <-stop:
				return
			default:
			}
			ids, err := s.Put(ctx, g, store.KindContent, [][]byte{data(byte(g), 100), data(byte(g), 40_000), data(byte(g), 300_000)})
			if err == nil {
				err = s.Commit(ctx, &store.Batch{Group: g, Fence: s.Fence(), Puts: []store.Record{{Key: fmt.Append(nil, g%100), Value: data(byte(g), 500)}}})
			}
			if err == nil {
				err = s.Delete(ctx, last)
			}
			if err != nil {
				t.Errorf("group %d: %v", g, err)
				return
			}
			last = ids[:g%4]
			written.Store(g)
		}
	})
	for n := 0; n < 10 || written.Load() < 60 && !t.Failed(); n++ {
		if lines, _ := scrubbed(t, s); lines != "" {
			t.Fatalf("finds %s", lines)
		}
	}
	close(stop)
	writer.Wait()
	enough := errors.New("enough")
	if err := s.Scrub(ctx, func(int) error { return enough }, func(error) {}); !errors.Is(err, enough) {
		t.Errorf("scrub that was told to end: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.Scrub(ended, goOn, func(error) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("scrub with a context that has ended: %v", err)
	}
	s.Close()
	if err := s.Scrub(ctx, goOn, func(error) {}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("scrub of a closed store: %v", err)
	}
}
