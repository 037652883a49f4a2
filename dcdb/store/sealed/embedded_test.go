package sealed_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dcfs/dcdb/store"
	"dcfs/dcdb/store/embedded"
	"dcfs/dcdb/store/sealed"
	"dcfs/dcdb/store/storetest"
)

var ctx = context.Background()

// openSealed opens the store in dir, which it makes if there is none, with a
// volume that is sealed.
func openSealed(t *testing.T, dir string) store.Store {
	t.Helper()
	secret, err := sealed.KeyFile(bytes.Repeat([]byte("key"), 11))
	if err != nil {
		t.Fatal(err)
	}
	var key *sealed.Key
	st, err := embedded.OpenOrCreate(dir, embedded.Options{
		MemTableBytes: 4 << 20, ReserveBytes: 1 << 20,
		NewKey: func(u store.UUID) (string, error) { return sealed.Make(secret, u) },
		Unlock: func(sb store.Superblock) (err error) {
			key, err = sealed.Unwrap(sb.Key, secret, sb.UUID)
			return err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return sealed.New(st, key)
}

func TestSealedEmbeddedConforms(t *testing.T) {
	dirs := map[store.Store]string{}
	open := func(t *testing.T, dir string) store.Store {
		s := openSealed(t, dir)
		dirs[s] = dir
		return s
	}
	storetest.Run(t, storetest.Opener{
		New: func(t *testing.T) store.Store { return open(t, t.TempDir()) },
		Reopen: func(t *testing.T, s store.Store) store.Store {
			s.Close()
			return open(t, dirs[s])
		},
	})
}

// walkStore calls fn for all files of a store.
func walkStore(t *testing.T, dir string, fn func(path string, b []byte)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "ballast" {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil {
			fn(path, b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestNoFileOfAStoreHasWhatIsSealed looks at logs, tables and segments.
func TestNoFileOfAStoreHasWhatIsSealed(t *testing.T) {
	const word = "unmistakable"
	for _, sealing := range []bool{false, true} {
		dir := t.TempDir()
		var s store.Store
		if sealing {
			s = openSealed(t, dir)
		} else {
			st, err := embedded.Create(dir, embedded.Options{MemTableBytes: 4 << 20, ReserveBytes: -1})
			if err != nil {
				t.Fatal(err)
			}
			s = st
		}
		g := s.FirstGroup()
		ids, err := s.Put(ctx, g, store.KindContent, [][]byte{[]byte(word), []byte(strings.Repeat(word, 10_000))})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(ctx, &store.Batch{Group: g, Fence: s.Fence(), Puts: []store.Record{{Key: []byte("k"), Value: []byte(word)}}}); err != nil {
			t.Fatal(err)
		}
		if err := s.(store.Compacter).Compact(ctx); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		found, key := 0, false
		walkStore(t, dir, func(path string, b []byte) {
			if strings.Contains(string(b), word) {
				found++
				if sealing {
					t.Errorf("%s has it in the clear", path)
				}
			}
			key = key || bytes.Contains(b, []byte("keykeykey"))
		})
		if !sealing && found < 2 {
			t.Errorf("in the clear it is found in %d files only: this test would not notice", found)
		}
		if key {
			t.Error("the user's key is in the store")
		}
		if sealing {
			s = openSealed(t, dir)
			p := make([]byte, len(word))
			if err := s.Read(ctx, ids[1], store.KindContent, 50*len(word), p); err != nil || string(p) != word {
				t.Errorf("read back: %q, %v", p, err)
			}
			if _, err := s.Get(ctx, []byte("k")); err != nil {
				t.Error(err)
			}
			s.Close()
		}
	}
}

// TestFlippedBitsOfASealedStore changes each block of a segment.
func TestFlippedBitsOfASealedStore(t *testing.T) {
	dir := t.TempDir()
	s := openSealed(t, dir)
	ids, err := s.Put(ctx, s.FirstGroup(), store.KindContent, [][]byte{bytes.Repeat([]byte("content "), 5000)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(ctx, &store.Batch{Group: s.FirstGroup(), Fence: s.Fence()}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	segs, err := filepath.Glob(filepath.Join(dir, "segments", "*.seg"))
	if err != nil || len(segs) != 1 {
		t.Fatalf("segments %q, %v", segs, err)
	}
	good, err := os.ReadFile(segs[0])
	if err != nil {
		t.Fatal(err)
	}
	s = openSealed(t, dir)
	defer s.Close()
	for at := 0; at < int(ids[0].Len); at += 2000 {
		bad := bytes.Clone(good)
		bad[at] ^= 2
		if err := os.WriteFile(segs[0], bad, 0); err != nil {
			t.Fatal(err)
		}
		if err := s.Read(ctx, ids[0], store.KindContent, 0, make([]byte, ids[0].Len)); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("byte %d: got %v, want ErrCorrupt", at, err)
		}
	}
}
