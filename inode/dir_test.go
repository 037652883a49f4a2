package inode

import (
	"fmt"
	"slices"
	"testing"

	"dcfs/snap"
)

// many makes n entries in the root, so that their cookies are in another
// order than their names.
func (x *fixture) many(n int) []string {
	x.Helper()
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("n%05d", i*7919%n)
		x.create(names[i], "")
	}
	slices.Sort(names)
	return names
}

// readSome reads up to n entries of d after the cookie.
func (x *fixture) readSome(d *Dir, cookie uint64, n int) (names []string, last uint64) {
	x.Helper()
	last = cookie
	x.must(d.Read(bg, cookie, func(e Dirent) bool {
		if len(names) == n {
			return false
		}
		names = append(names, e.Name)
		last = e.Cookie
		return true
	}))
	return names, last
}

func (x *fixture) opendir(ino uint64) *Dir {
	x.Helper()
	d, err := x.fs.OpenDir(bg, x.view, ino)
	x.must(err)
	x.Cleanup(d.Close)
	return d
}

func TestListingIsReadInPieces(t *testing.T) {
	x := newFixture(t)
	want := append([]string{".", ".."}, x.many(1000)...)
	for _, step := range []int{1, 3, windowEntries, 5000} {
		d := x.opendir(snap.RootIno)
		var got []string
		for cookie := uint64(0); ; {
			names, next := x.readSome(d, cookie, step)
			got = append(got, names...)
			if len(names) == 0 {
				break
			}
			cookie = next
		}
		if !slices.Equal(got, want) {
			t.Errorf("in steps of %d: got %d names, want %d", step, len(got), len(want))
		}
	}
}

func TestEveryCookieWorksInEveryHandle(t *testing.T) {
	mem := newMemory()
	x := newFixtureOn(t, mem, Options{})
	x.many(700)
	names, cookies := x.cookies()
	x.must(x.fs.SyncAll(bg))
	y := newFixtureOn(t, mem.Crash(), Options{}) // another mount
	for i := 0; i < len(names); i += 13 {
		for _, z := range []*fixture{x, y} {
			got, _ := z.readSome(z.opendir(snap.RootIno), cookies[names[i]], 3)
			if want := names[i+1 : min(i+4, len(names))]; !slices.Equal(got, want) {
				t.Errorf("after %q: got %q, want %q", names[i], got, want)
			}
		}
	}
	d := x.opendir(snap.RootIno)
	for i := len(names) - 1; i >= 0; i-- { // seekdir backwards
		got, _ := x.readSome(d, cookies[names[i]], 1)
		if want := names[i+1 : min(i+2, len(names))]; !slices.Equal(got, want) {
			t.Errorf("in one handle, after %q: got %q, want %q", names[i], got, want)
		}
	}
}

func TestAHandleListsOneVersionUntilItIsRewound(t *testing.T) {
	x := newFixture(t)
	want := x.many(600)
	d := x.opendir(snap.RootIno)
	got, cookie := x.readSome(d, 0, 100)
	x.create("n00000new", "")
	x.create("zzz", "")
	for _, name := range want[50:550] {
		x.must(x.unlink(name))
	}
	rest, _ := x.readSome(d, cookie, 1000)
	if got = append(got, rest...); !slices.Equal(got[2:], want) {
		t.Errorf("got %d names, want the %d of the old version", len(got)-2, len(want))
	}
	got, _ = x.readSome(d, 0, 1000)
	now := slices.Concat([]string{".", "..", want[0], "n00000new"}, want[1:50], want[550:], []string{"zzz"})
	if !slices.Equal(got, now) {
		t.Errorf("rewound: got %q, want %q", got, now)
	}
}

// TestARewoundHandleKnowsCookiesOfEntriesThatAreGone: it has listed them, so
// it knows where they were.
func TestARewoundHandleKnowsCookiesOfEntriesThatAreGone(t *testing.T) {
	x := newFixture(t)
	names := x.many(20)
	d := x.opendir(snap.RootIno)
	_, cookie := x.readSome(d, 0, 10) // up to names[7]
	x.must(x.unlink(names[7]))
	x.must(x.unlink(names[8]))
	x.readSome(d, 0, 1)
	if got, _ := x.readSome(d, cookie, 100); !slices.Equal(got, names[9:]) {
		t.Errorf("got %q, want %q", got, names[9:])
	}
}

// TestACookieThatMeansNothingLosesNoEntry: a handle that never listed the
// entry begins anew.
func TestACookieThatMeansNothingLosesNoEntry(t *testing.T) {
	x := newFixture(t)
	names := x.many(20)
	_, cookies := x.cookies()
	x.must(x.unlink(names[7]))
	left := slices.Concat(names[:7], names[8:])
	for _, cookie := range []uint64{cookies[names[7]], 1 << 60} {
		if got, _ := x.readSome(x.opendir(snap.RootIno), cookie, 100); !slices.Equal(got, left) {
			t.Errorf("cookie %d: got %q, want %q", cookie, got, left)
		}
	}
}

func TestRemovingWhileReadingEmptiesADirectory(t *testing.T) {
	x := newFixture(t)
	x.many(1000)
	d := x.opendir(snap.RootIno)
	for cookie := uint64(0); ; {
		names, next := x.readSome(d, cookie, 50)
		if len(names) == 0 {
			break
		}
		for _, name := range names {
			if name != "." && name != ".." {
				x.must(x.unlink(name))
			}
		}
		cookie = next
	}
	if got := x.list(snap.RootIno); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
	x.check()
}

func TestARemovedDirectoryListsNothing(t *testing.T) {
	x := newFixture(t)
	d := x.opendir(x.mkdir("d"))
	x.must(x.rmdir("d"))
	if got, _ := x.readSome(d, 0, 10); !slices.Equal(got, []string{".", ".."}) {
		t.Errorf("got %q", got)
	}
}

func TestTheCallersFunctionMayUseTheFileSystem(t *testing.T) {
	x := newFixture(t)
	x.many(300)
	d := x.opendir(snap.RootIno)
	n := 0
	x.must(d.Read(bg, 2, func(e Dirent) bool {
		_, err := x.fs.Getattr(bg, x.view, e.Ino)
		x.must(err)
		x.must(x.unlink(e.Name))
		n++
		return true
	}))
	if n != 300 {
		t.Errorf("saw %d entries, want 300", n)
	}
}

// TestAHandleThatHasReadAllHoldsNothing: what is held cannot be erased.
func TestAHandleThatHasReadAllHoldsNothing(t *testing.T) {
	x := newFixture(t)
	names := x.many(600)
	d := x.opendir(snap.RootIno)
	_, cookie := x.readSome(d, 0, 100)
	if d.frozen == nil {
		t.Error("a version that is read by half is let go of")
	}
	_, last := x.readSome(d, cookie, 1000)
	if d.frozen != nil {
		t.Error("a version that is read is still held")
	}
	x.create("zzz", "")
	if got, _ := x.readSome(d, last, 10); got != nil {
		t.Errorf("after the end: got %q", got)
	}
	if got, _ := x.readSome(d, cookie, 1000); !slices.Equal(got, append(slices.Clone(names[98:]), "zzz")) {
		t.Errorf("back in the middle: got %d names, want those of the directory as it is now", len(got))
	}
}
