package inode

import (
	"errors"
	"fmt"
	"testing"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
	"dcfs/snap"
)

func TestErrorsFromBelowGetTheirMeaning(t *testing.T) {
	strange := errors.New("strange")
	for _, c := range []struct{ from, want error }{
		{dcdb.ErrNotExist, ErrStale},
		{snap.ErrGone, ErrStale},
		{dcdb.ErrReadOnly, ErrReadOnly},
		{snap.ErrReadOnly, ErrReadOnly},
		{store.ErrCorrupt, ErrIO},
		{dcdb.ErrFull, ErrNoSpace},
		{store.ErrFull, ErrNoSpace},
		{dcdb.ErrCorrupt, ErrIO},
		{dcdb.ErrFailed, ErrIO},
		{dcdb.ErrIO, ErrIO},
		{ErrExist, ErrExist},
		{strange, strange},
	} {
		err := op{"write", 7, ""}.wrap(fmt.Errorf("page 3: %w", c.from))
		if !errors.Is(err, c.want) || !errors.Is(err, c.from) {
			t.Errorf("%v became %v, want %v", c.from, err, c.want)
		}
	}
	if err := (op{}).wrap(nil); err != nil {
		t.Errorf("nil became %v", err)
	}
}

func TestErrorsSayWhatFailed(t *testing.T) {
	x := newFixture(t)
	_, err := x.lookup("missing")
	if want := `lookup 1/"missing": no such file or directory`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %v", err, want)
	}
	_, err = x.fs.Getattr(bg, x.view, 4711)
	if want := "getattr 4711: inode or view is gone"; err == nil || len(err.Error()) < len(want) || err.Error()[:len(want)] != want {
		t.Errorf("got %v, want %v", err, want)
	}
}
