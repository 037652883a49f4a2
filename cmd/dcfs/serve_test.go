package main

import (
	"errors"
	"os"
	"testing"
	"time"
)

func TestWritingAtTheEndHasALimit(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"lock", "records", "segments"} {
		if err := os.Mkdir(dir+"/"+name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	place, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{volume: &volume{dir: dir}, place: place}
	if s.gone() {
		t.Fatal("the store is gone")
	}
	failed := errors.New("failed")
	if err := s.limited(time.Minute, func() error { return failed }); err != failed {
		t.Errorf("got %v, want the function's error", err)
	}
	stuck := func() error { select {} }
	if err := s.limited(time.Millisecond, stuck); err == nil || err == errLost {
		t.Errorf("beyond the limit: %v", err)
	}
	if err := s.limited(0, func() error { return nil }); err != errLost {
		t.Errorf("after that: %v, want errLost", err)
	}
	if err := os.Remove(dir + "/records"); err != nil || !s.gone() {
		t.Errorf("%v; a store without records is there", err)
	}
}
