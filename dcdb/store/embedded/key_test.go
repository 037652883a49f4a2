package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"dcfs/dcdb/store"
)

// contents are all files of a directory, but the lock, with what is in them and
// when they were changed.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == lockName {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = fmt.Sprint(info.ModTime(), len(b), store.Checksum(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func withKey(t *testing.T, key string) Options {
	o := small(t)
	o.NewKey = func(store.UUID) (string, error) { return key, nil }
	o.Unlock = func(sb store.Superblock) error {
		if sb.Key != key {
			return fmt.Errorf("key %q: %w", sb.Key, errWrong)
		}
		return nil
	}
	return o
}

var errWrong = errors.New("not mine")

func TestNothingIsTouchedWithoutTheKey(t *testing.T) {
	dir := t.TempDir()
	s := must(Create(dir, withKey(t, "one")))(t)
	if sb := s.Super(); sb.Key != "one" || !slices.Contains(sb.Incompat, featureSealed) {
		t.Errorf("superblock: %+v", sb)
	}
	commit(t, s, s.FirstGroup(), "a", "1")
	s.Close()
	before := contents(t, dir)
	for what, open := range map[string]func(string, Options) (*Store, error){"Open": Open, "OpenOrCreate": OpenOrCreate} {
		if _, err := open(dir, withKey(t, "two")); !errors.Is(err, errWrong) {
			t.Errorf("%s with another key: %v", what, err)
		}
		if _, err := open(dir, small(t)); !errors.Is(err, ErrSealed) {
			t.Errorf("%s without a key: %v", what, err)
		}
	}
	if after := contents(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("before %v\nafter  %v", before, after)
	}
	must(Open(dir, withKey(t, "one")))(t).Close()
}

func TestChangeKey(t *testing.T) {
	dir := t.TempDir()
	change := func(err error) error {
		return ChangeKey(dir, 0, func(sb store.Superblock) (string, error) {
			if sb.Key != "one" {
				t.Errorf("key %q", sb.Key)
			}
			return "two", err
		})
	}
	if err := change(nil); !errors.Is(err, ErrNoVolume) {
		t.Errorf("where there is none: %v", err)
	}
	s := must(Create(dir, withKey(t, "one")))(t)
	if err := change(nil); !errors.Is(err, ErrInUse) {
		t.Errorf("of an open store: %v", err)
	}
	s.Close()
	// What a change leaves that a crash cut off.
	os.WriteFile(filepath.Join(dir, superName+".new"), []byte("half"), 0o600)
	before := contents(t, dir)
	if err := change(errWrong); !errors.Is(err, errWrong) {
		t.Errorf("a change that fails: %v", err)
	}
	if after := contents(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("a change that failed has changed something: %v, %v", before, after)
	}
	must(Open(dir, withKey(t, "one")))(t).Close()
	before = contents(t, dir)
	if err := change(nil); err != nil {
		t.Fatal(err)
	}
	after := contents(t, dir)
	for name, is := range before {
		if was := after[name]; was != is && filepath.Base(name) != superName && filepath.Base(name) != superName+".new" {
			t.Errorf("%s is another one", name)
		}
	}
	must(Open(dir, withKey(t, "two")))(t).Close()

	dir = t.TempDir()
	must(Create(dir, small(t)))(t).Close()
	if err := ChangeKey(dir, 0, func(store.Superblock) (string, error) { return "new", nil }); err == nil {
		t.Error("a volume in the clear got a key")
	}
	must(Open(dir, small(t)))(t).Close()
}
