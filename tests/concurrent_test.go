package tests

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// rounds is how often a storm does something: enough to meet what others do.
func rounds(n int) int {
	if long() {
		return 20 * n
	}
	return n
}

// together runs fn n times at once and waits.
func together(n int, fn func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { fn(i) })
	}
	wg.Wait()
}

// isOneOf checks an error of a race: what the loser of it may hear.
func isOneOf(t *testing.T, what string, err error, allowed ...syscall.Errno) {
	t.Helper()
	if err != nil && !slices.ContainsFunc(allowed, func(e syscall.Errno) bool { return errors.Is(err, e) }) {
		t.Errorf("%s: %v, want success or one of %v", what, err, allowed)
	}
}

// TestOneOfManyWins: of the same change made by many at once, one succeeds.
func TestOneOfManyWins(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		p := func(format string, args ...any) string { return filepath.Join(dir, fmt.Sprintf(format, args...)) }
		const n = 6
		for round := range rounds(30) {
			for what, c := range map[string]struct {
				loser syscall.Errno
				try   func(i int) error
			}{
				"O_EXCL":  {syscall.EEXIST, func(int) error { return openErr(p("x%d", round), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY) }},
				"mkdir":   {syscall.EEXIST, func(int) error { return unix.Mkdir(p("d%d", round), 0o755) }},
				"symlink": {syscall.EEXIST, func(i int) error { return unix.Symlink(fmt.Sprint(i), p("l%d", round)) }},
				"rename":  {syscall.ENOENT, func(i int) error { return unix.Rename(p("from%d", round), p("to%d.%d", round, i)) }},
				"unlink":  {syscall.ENOENT, func(int) error { return unix.Unlink(p("gone%d", round)) }},
				"rmdir":   {syscall.ENOENT, func(int) error { return unix.Rmdir(p("emptied%d", round)) }},
				"RENAME_NOREPLACE": {syscall.EEXIST, func(i int) error {
					return unix.Renameat2(-1, p("mine%d.%d", round, i), -1, p("slot%d", round), unix.RENAME_NOREPLACE)
				}},
				"link": {syscall.EEXIST, func(i int) error { return unix.Link(p("mine%d.%d", round, i+n), p("linked%d", round)) }},
			} {
				write(t, p("from%d", round), "")
				write(t, p("gone%d", round), "")
				must(t, os.MkdirAll(p("emptied%d", round), 0o755))
				for i := range 2 * n {
					write(t, p("mine%d.%d", round, i), "")
				}
				var won atomic.Int64
				together(n, func(i int) {
					if err := c.try(i); err == nil {
						won.Add(1)
					} else if !errors.Is(err, c.loser) {
						t.Errorf("%s: %v, want %v", what, err, c.loser)
					}
				})
				if won.Load() != 1 {
					t.Errorf("%s by %d at once: %d succeeded", what, n, won.Load())
				}
			}
		}
	})
}

// TestParallelChangesOfNames: many change names of their own in the same two
// directories; each finds what it left, and nothing else is there.
func TestParallelChangesOfNames(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		dirs := []string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}
		for _, d := range dirs {
			must(t, os.Mkdir(d, 0o755))
		}
		var mu sync.Mutex
		var all []string
		var subdirs [2]int
		together(6, func(who int) {
			rng := rand.New(rand.NewPCG(uint64(who), 9))
			have := make(map[string]bool) // is it a directory?
			path := func() string { return fmt.Sprintf("%s/%d.%d", dirs[rng.IntN(2)], who, rng.IntN(20)) }
			for range rounds(400) {
				p, q := path(), path()
				isDir, used := have[p]
				otherDir, otherUsed := have[q]
				var err error
				var want error
				switch rng.IntN(5) {
				case 0:
					if err = openErr(p, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY); used {
						want = syscall.EEXIST
					} else {
						have[p] = false
					}
				case 1:
					if err = unix.Mkdir(p, 0o755); used {
						want = syscall.EEXIST
					} else {
						have[p] = true
					}
				case 2:
					switch err = unix.Unlink(p); {
					case !used:
						want = syscall.ENOENT
					case isDir:
						want = syscall.EISDIR
					default:
						delete(have, p)
					}
				case 3:
					switch err = unix.Rmdir(p); {
					case !used:
						want = syscall.ENOENT
					case !isDir:
						want = syscall.ENOTDIR
					default:
						delete(have, p)
					}
				case 4:
					switch err = unix.Rename(p, q); {
					case !used:
						want = syscall.ENOENT
					case otherUsed && isDir && !otherDir:
						want = syscall.ENOTDIR
					case otherUsed && !isDir && otherDir:
						want = syscall.EISDIR
					default:
						delete(have, p)
						have[q] = isDir
					}
				}
				if !errors.Is(err, want) {
					t.Errorf("%d: %s, %s: %v, want %v", who, p, q, err, want)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for p, isDir := range have {
				all = append(all, p)
				if isDir {
					subdirs[slices.Index(dirs, filepath.Dir(p))]++
				}
			}
		})
		var found []string
		for i, d := range dirs {
			for _, name := range list(t, d) {
				found = append(found, d+"/"+name)
			}
			if st := stat(t, d); int(st.Nlink) != 2+subdirs[i] {
				t.Errorf("%s: %d links with %d subdirectories", d, st.Nlink, subdirs[i])
			}
		}
		slices.Sort(all)
		slices.Sort(found)
		if !slices.Equal(all, found) {
			t.Errorf("found %q, want %q", found, all)
		}
	})
}

// TestRenamesMakeNoCycle: no directory goes below itself, not even by two
// renames at once that are harmless each.
func TestRenamesMakeNoCycle(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		p := func(name string) string { return filepath.Join(dir, name) }
		must(t, os.MkdirAll(p("a/b/c"), 0o755))
		for _, to := range []string{"a/x", "a/b/x", "a/b/c/x"} {
			fails(t, "rename a to "+to, unix.Rename(p("a"), p(to)), syscall.EINVAL)
		}
		for _, to := range []string{"a/b", "a/b/c"} {
			fails(t, "exchange a with "+to, unix.Renameat2(-1, p("a"), -1, p(to), unix.RENAME_EXCHANGE), syscall.EINVAL)
			fails(t, "exchange "+to+" with a", unix.Renameat2(-1, p(to), -1, p("a"), unix.RENAME_EXCHANGE), syscall.EINVAL)
			fails(t, "rename "+to+" onto a", unix.Rename(p(to), p("a")), syscall.ENOTEMPTY)
		}
		must(t, os.RemoveAll(p("a")))
		for range rounds(100) {
			must(t, os.MkdirAll(p("x/1/2"), 0o755))
			must(t, os.MkdirAll(p("y/1/2"), 0o755))
			var won atomic.Int64
			together(4, func(i int) {
				from, to := "x", "y/1/2/x"
				if i%2 == 1 {
					from, to = "y", "x/1/2/y"
				}
				err := unix.Rename(p(from), p(to))
				if err == nil {
					won.Add(1)
				}
				isOneOf(t, "rename "+from+" to "+to, err, syscall.ENOENT, syscall.EINVAL)
			})
			dirs := strings.Fields(run(t, "find", dir, "-mindepth", "1", "-name", "[xy12]"))
			if won.Load() != 1 || len(dirs) != 6 {
				t.Fatalf("%d renames went through, left are %q", won.Load(), dirs)
			}
			must(t, os.RemoveAll(p("x")))
			must(t, os.RemoveAll(p("y")))
		}
	})
}

// TestExchangesLoseNothing: while names change their files, each name is
// there all the time, and at the end each file has one.
func TestExchangesLoseNothing(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		const names, tokens = 8, 4
		must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
		name := func(i int) string { return filepath.Join(dir, []string{"", "d"}[i%2], fmt.Sprint("n", i)) }
		for i := range names {
			write(t, name(i), fmt.Sprint(i))
		}
		slot := func(i int) string { return filepath.Join(dir, []string{"d", ""}[i%2], fmt.Sprint("slot", i)) }
		for i := range tokens {
			write(t, slot(i), fmt.Sprint("token", i))
		}
		var stop atomic.Bool
		var readers sync.WaitGroup
		for range 2 {
			readers.Go(func() {
				for i := 0; !stop.Load(); i++ {
					b, err := os.ReadFile(name(i % names))
					if err != nil || len(b) != 1 {
						t.Errorf("read %s: %q, %v", name(i%names), b, err)
						return
					}
				}
			})
		}
		together(4, func(who int) {
			rng := rand.New(rand.NewPCG(uint64(who), 3))
			for range rounds(300) {
				must := func(what string, err error, allowed ...syscall.Errno) { isOneOf(t, what, err, allowed...) }
				must("exchange", unix.Renameat2(-1, name(rng.IntN(names)), -1, name(rng.IntN(names)), unix.RENAME_EXCHANGE))
				// Twice as many slots as tokens: a token moves to where none is.
				must("move", unix.Renameat2(-1, slot(rng.IntN(2*tokens)), -1, slot(rng.IntN(2*tokens)), unix.RENAME_NOREPLACE),
					syscall.ENOENT, syscall.EEXIST)
			}
		})
		stop.Store(true)
		readers.Wait()
		var files, left []string
		for i := range names {
			files = append(files, read(t, name(i)))
		}
		for i := range 2 * tokens {
			if b, err := os.ReadFile(slot(i)); err == nil {
				left = append(left, string(b))
			}
		}
		slices.Sort(files)
		slices.Sort(left)
		if strings.Join(files, "") != "01234567" || strings.Join(left, " ") != "token0 token1 token2 token3" {
			t.Errorf("left are %q and %q", files, left)
		}
		fails(t, "both flags", unix.Renameat2(-1, name(0), -1, name(1), unix.RENAME_EXCHANGE|unix.RENAME_NOREPLACE), syscall.EINVAL)
		fails(t, "exchange with nothing", unix.Renameat2(-1, name(0), -1, filepath.Join(dir, "no"), unix.RENAME_EXCHANGE), syscall.ENOENT)
	})
}

// TestStormOfRenamesEnds: directories move into each other, by many at once,
// with lookups and listings of all of them; no two wait for each other.
func TestStormOfRenamesEnds(t *testing.T) {
	asOnExt4(t, func(t *testing.T, dir string) {
		const dirs = 6
		for i := range dirs {
			must(t, os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o755))
			write(t, filepath.Join(dir, fmt.Sprint(i), "file"), "")
		}
		// path goes down through a few of them, wherever they are.
		path := func(rng *rand.Rand) string {
			p := dir
			for range 1 + rng.IntN(3) {
				p = filepath.Join(p, fmt.Sprint(rng.IntN(dirs)))
			}
			return p
		}
		together(6, func(who int) {
			rng := rand.New(rand.NewPCG(uint64(who), 5))
			for range rounds(500) {
				p, q := path(rng), path(rng)
				gone := []syscall.Errno{syscall.ENOENT}
				switch rng.IntN(6) {
				case 0, 1, 2:
					isOneOf(t, "rename", unix.Rename(p, q), syscall.ENOENT, syscall.EINVAL, syscall.ENOTEMPTY, syscall.EEXIST)
				case 3:
					isOneOf(t, "exchange", unix.Renameat2(-1, p, -1, q, unix.RENAME_EXCHANGE), syscall.ENOENT, syscall.EINVAL)
				case 4:
					_, err := os.ReadDir(p)
					isOneOf(t, "list", err, gone...)
				case 5:
					_, err := os.ReadFile(filepath.Join(p, "file"))
					isOneOf(t, "read", err, gone...)
				}
			}
		})
		if n := strings.Count(run(t, "find", dir, "-name", "file"), "\n"); n != dirs {
			t.Errorf("%d files are left of %d", n, dirs)
		}
		if n := strings.Count(run(t, "find", dir, "-mindepth", "1", "-type", "d", "-name", "[0-9]"), "\n"); n != dirs {
			t.Errorf("%d directories are left of %d", n, dirs)
		}
	})
}

// TestListingsBesidesChanges: whoever lists a directory that many change sees
// each entry that was there all the time once, and no entry twice.
func TestListingsBesidesChanges(t *testing.T) {
	w := newWorld(t, "embedded")
	const n = 300
	dir := w.path("d")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.Mkdir(w.path("e"), 0o755))
	stays := make(map[string]bool)
	for i := range n {
		stays[fmt.Sprintf("stay%04d", i)] = true
		write(t, fmt.Sprintf("%s/stay%04d", dir, i), "")
		write(t, fmt.Sprintf("%s/x%04d", dir, i), "")
	}
	var stop atomic.Bool
	var writers sync.WaitGroup
	for who := range 3 {
		writers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(who), 6))
			path := func() string {
				return fmt.Sprintf("%s/%s%04d", []string{dir, dir, w.path("e")}[rng.IntN(3)], []string{"x", "stax", "stay0100x"}[rng.IntN(3)], rng.IntN(n))
			}
			for !stop.Load() {
				switch rng.IntN(4) {
				case 0, 1:
					isOneOf(t, "rename", unix.Rename(path(), path()), syscall.ENOENT)
				case 2:
					isOneOf(t, "unlink", unix.Unlink(path()), syscall.ENOENT)
				case 3:
					isOneOf(t, "create", openErr(path(), unix.O_CREAT|unix.O_WRONLY))
				}
			}
		})
	}
	together(3, func(who int) {
		for range rounds(40) {
			fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			seen := make(map[string]int)
			for _, e := range getdents(t, fd, []int{280, 4096, 1 << 15}[who]) {
				seen[e.name]++
			}
			unix.Close(fd)
			stayed := 0
			for name, times := range seen {
				if times != 1 {
					t.Errorf("%s: seen %d times", name, times)
				}
				if stays[name] {
					stayed++
				}
			}
			if stayed != n {
				t.Errorf("seen %d of %d entries that were there all the time", stayed, n)
			}
		}
	})
	stop.Store(true)
	writers.Wait()
	w.remount()
	w.call("check", "")
}
