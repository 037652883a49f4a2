package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseStore(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"st", "at@home", "at@home/st", "st@x", "50%/st"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ in, store, fork, snapshot string }{
		{"st", "st", "", ""},
		{"st@try", "st", "try", ""},
		{"st@try/again", "st", "try/again", ""},
		{"st%monday", "st", "", "monday"},
		{"st@try/again%monday", "st", "try/again", "monday"},
		{"st@x", "st@x", "", ""}, // it exists
		{"st@x@try", "st@x", "try", ""},
		{"at@home/st", "at@home/st", "", ""},
		{"at@home/st@try", "at@home/st", "try", ""},
		{"50%/st%a", "50%/st", "", "a"},
		{"new", "new", "", ""}, // to be made
		{"new@try", "new", "try", ""},
		{"at@home/new", "at@home/new", "", ""},
	} {
		got, err := parseStore(filepath.Join(dir, c.in))
		want := target{Store: filepath.Join(dir, c.store), Fork: c.fork, Snapshot: c.snapshot}
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", c.in, got, err, want)
		}
	}
	for _, in := range []string{"", "st@.x", "st%-a", "st@a//b", "st@a/../b"} {
		s := in
		if in != "" {
			s = filepath.Join(dir, "st") + strings.TrimPrefix(in, "st")
		}
		if got, err := parseStore(s); err == nil {
			t.Errorf("%q: got %+v, want an error", in, got)
		}
	}
}

func FuzzParseStore(f *testing.F) {
	f.Add("/a/b@c/d%e")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseStore(s)
		if err == nil && (!filepath.IsAbs(got.Store) || strings.ContainsAny(got.Fork+got.Snapshot, "@%")) {
			t.Errorf("%q: %+v", s, got)
		}
	})
}

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		path, dir string
		want      bool
	}{
		{"/a", "/a", true}, {"/a/b", "/a", true}, {"/ab", "/a", false}, {"/a", "/", true}, {"/", "/a", false},
	} {
		if got := within(c.path, c.dir); got != c.want {
			t.Errorf("within(%s, %s) = %v", c.path, c.dir, got)
		}
	}
}
