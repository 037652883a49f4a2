package tests

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNamesOfAnyBytes(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		var want []string
		for b := 1; b < 256; b++ {
			if name := string([]byte{byte(b)}); name != "/" && name != "." {
				want = append(want, name)
			}
		}
		want = append(want, strings.Repeat("\xff", 255), strings.Repeat("é", 127), "...", " ", "\xc3\x28", "e\u0301", "\u00e9", "A", "a")
		sort.Strings(want)
		want = slices.Compact(want)
		must(t, os.Mkdir(w.path("d"), 0o755))
		for i, name := range want {
			write(t, w.path("d", name), name)
			if i%3 == 0 {
				must(t, os.Rename(w.path("d", name), w.path("tmp")))
				must(t, os.Link(w.path("tmp"), w.path("d")+"/"+name))
				must(t, os.Remove(w.path("tmp")))
			}
		}
		w.remount()
		wantsList(t, w.path("d"), want...)
		for _, name := range want {
			if got := read(t, w.path("d")+"/"+name); got != name {
				t.Errorf("%q: %q", name, got)
			}
		}
		long := w.path(strings.Repeat("n", 256))
		fails(t, "open", openErr(long, unix.O_RDONLY), syscall.ENAMETOOLONG)
		fails(t, "create", openErr(long, unix.O_CREAT|unix.O_WRONLY), syscall.ENAMETOOLONG)
		fails(t, "mkdir", unix.Mkdir(long, 0o755), syscall.ENAMETOOLONG)
		fails(t, "symlink", unix.Symlink("x", long), syscall.ENAMETOOLONG)
		fails(t, "rename", unix.Rename(w.path("d"), long), syscall.ENAMETOOLONG)
		fails(t, "empty name", unix.Mkdir("", 0o755), syscall.ENOENT)
	})
}

func TestPathsAndSymlinksHaveLimits(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		// As deep as it goes, which is deeper than a path is long.
		must(t, os.Mkdir(w.path("deep"), 0o755))
		name := strings.Repeat("d", 200)
		dir, err := unix.Open(w.path("deep"), unix.O_DIRECTORY, 0)
		must(t, err)
		for range 50 {
			must(t, unix.Mkdirat(dir, name, 0o755))
			next, err := unix.Openat(dir, name, unix.O_DIRECTORY, 0)
			must(t, err)
			unix.Close(dir)
			dir = next
		}
		unix.Close(dir)
		path := w.path("deep") + strings.Repeat("/"+name, 50)
		fails(t, "a path of 10000 bytes", openErr(path, unix.O_RDONLY), syscall.ENAMETOOLONG)
		path = w.path() + strings.Repeat("/", 4095-len(w.path())-4) + "deep"
		if err := openErr(path, unix.O_RDONLY); err != nil {
			t.Errorf("a path of %d bytes: %v", len(path), err)
		}
		fails(t, "a path of 4096 bytes", openErr("/"+path, unix.O_RDONLY), syscall.ENAMETOOLONG)
		run(t, "rm", "-rf", w.path("deep"))

		write(t, w.path("l0"), "end")
		for i := range 41 {
			must(t, os.Symlink(fmt.Sprintf("l%d", i), w.path(fmt.Sprintf("l%d", i+1))))
		}
		wants(t, w.path("l40"), "end")
		fails(t, "41 symlinks", openErr(w.path("l41"), unix.O_RDONLY), syscall.ELOOP)
		fails(t, "O_NOFOLLOW", openErr(w.path("l1"), unix.O_RDONLY|unix.O_NOFOLLOW), syscall.ELOOP)
		must(t, os.Symlink("self", w.path("self")))
		fails(t, "a symlink to itself", openErr(w.path("self", "x"), unix.O_RDONLY), syscall.ELOOP)
		must(t, os.Symlink(strings.Repeat("t", 4095), w.path("long")))
		if got, err := os.Readlink(w.path("long")); err != nil || len(got) != 4095 {
			t.Errorf("a target of 4095 bytes: %d, %v", len(got), err)
		}
		fails(t, "a target of 4096 bytes", unix.Symlink(strings.Repeat("t", 4096), w.path("longer")), syscall.ENAMETOOLONG)
		fails(t, "an empty target", unix.Symlink("", w.path("none")), syscall.ENOENT)
		w.call("check", "")
	})
}

func TestManyLinksToOneFile(t *testing.T) {
	n := 2000
	if long() {
		n = 66000 // more than ext4 allows
	}
	onEach(t, func(t *testing.T, w *world) {
		write(t, w.path("f"), "text")
		must(t, os.Mkdir(w.path("d"), 0o755))
		for i := range n {
			must(t, os.Link(w.path("f"), w.path("d", fmt.Sprint(i))))
		}
		w.remount()
		if st := stat(t, w.path("d", fmt.Sprint(n-1))); st.Nlink != uint64(n)+1 || st.Ino != stat(t, w.path("f")).Ino {
			t.Errorf("%d links, want %d", st.Nlink, n+1)
		}
		run(t, "rm", "-r", w.path("d"))
		if st := stat(t, w.path("f")); st.Nlink != 1 {
			t.Errorf("%d links, want 1", st.Nlink)
		}
		w.call("check", "")
	})
}

func TestLargestFile(t *testing.T) {
	const largest = 16 << 40
	onEach(t, func(t *testing.T, w *world) {
		f, err := os.Create(w.path("f"))
		must(t, err)
		defer f.Close()
		must(t, f.Truncate(largest))
		fails(t, "truncate beyond it", unix.Ftruncate(int(f.Fd()), largest+1), syscall.EFBIG)
		fails(t, "fallocate beyond it", unix.Fallocate(int(f.Fd()), 0, largest-10, 11), syscall.EFBIG)
		if n, err := unix.Pwrite(int(f.Fd()), []byte("end"), largest-3); n != 3 || err != nil {
			t.Errorf("write up to the end: %d, %v", n, err)
		}
		if n, err := unix.Pwrite(int(f.Fd()), []byte("beyond"), largest-3); n != 3 || err != nil {
			t.Errorf("write over the end: %d, %v; want 3 bytes", n, err)
		}
		_, err = unix.Pwrite(int(f.Fd()), []byte("x"), largest)
		fails(t, "write beyond the end", err, syscall.EFBIG)
		buf := make([]byte, 10)
		if n, err := unix.Pread(int(f.Fd()), buf, largest-3); err != nil || string(buf[:n]) != "bey" {
			t.Errorf("read at the end: %q, %v", buf[:max(n, 0)], err)
		}
		if at, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA); err != nil || at < largest-(1<<20) {
			t.Errorf("the first data is at %d, %v", at, err)
		}
		if st := stat(t, w.path("f")); st.Size != largest || st.Blocks > 4096 {
			t.Errorf("size %d, %d blocks", st.Size, st.Blocks)
		}
		must(t, f.Close())
		w.remount()
		if st := stat(t, w.path("f")); st.Size != largest {
			t.Errorf("after a remount: size %d", st.Size)
		}
		w.call("check", "")
	})
}

// TestFileSizeLimitOfAProcess: who goes beyond RLIMIT_FSIZE gets SIGXFSZ, or
// EFBIG if that is ignored.
func TestFileSizeLimitOfAProcess(t *testing.T) {
	needTool(t, "bash", "dd", "truncate", "fallocate")
	onEach(t, func(t *testing.T, w *world) {
		for what, c := range map[string]string{
			"write":     `exec dd if=/dev/zero of=f bs=3000 count=1 status=none`,
			"truncate":  `exec truncate -s 3000 f`,
			"fallocate": `exec fallocate -l 3000 f`,
		} {
			for _, trap := range []string{"", "trap '' XFSZ;"} {
				must(t, os.WriteFile(w.path("f"), make([]byte, 1000), 0o644))
				cmd := exec.Command("bash", "-c", "ulimit -c 0; ulimit -f 1; "+trap+c)
				cmd.Dir = w.dir
				out, err := cmd.CombinedOutput()
				ws, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
				switch {
				case trap == "" && (!ws.Signaled() || ws.Signal() != syscall.SIGXFSZ):
					t.Errorf("%s: %v, want SIGXFSZ: %s", what, err, out)
				case trap != "" && what != "write" && (ws.ExitStatus() == 0 || !strings.Contains(string(out), "File too large")):
					t.Errorf("%s, signal ignored: %v, want EFBIG: %s", what, err, out)
				}
				if size := stat(t, w.path("f")).Size; size > 1024 {
					t.Errorf("%s: %d bytes, the limit is 1024", what, size)
				}
			}
		}
	})
}

// TestTimesOfAnyYear: times are kept to the nanosecond, before 1970 and far
// beyond what ext4 can hold.
func TestTimesOfAnyYear(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		times := []unix.Timespec{
			{Sec: -1, Nsec: 999999999},                 // the last nanosecond before 1970
			{Sec: 0, Nsec: 0},                          //
			{Sec: -2147483649, Nsec: 1},                // 1901, beyond 32 bits
			{Sec: 2147483648, Nsec: 123456789},         // 2038
			{Sec: 4294967296, Nsec: 5},                 // 2106
			{Sec: 15032385536, Nsec: 999999999},        // 2446, the end of ext4
			{Sec: 253402300800, Nsec: 0},               // year 10000
			{Sec: -62135596800, Nsec: 0},               // year 1
			{Sec: 1 << 55, Nsec: 7}, {Sec: -(1 << 55)}, // what no calendar knows
		}
		for i, ts := range times {
			p := w.path(fmt.Sprint(i))
			write(t, p, "")
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, times[(i+1)%len(times)]}, 0))
		}
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		compare := func(dir string) {
			for i, want := range times {
				st := stat(t, fmt.Sprint(dir, "/", i))
				next := times[(i+1)%len(times)]
				if st.Atim != syscall.Timespec(want) || st.Mtim != syscall.Timespec(next) {
					t.Errorf("%s/%d: %v and %v, want %v and %v", dir, i, st.Atim, st.Mtim, want, next)
				}
			}
		}
		compare(w.dir)
		w.remount()
		compare(w.dir)
		compare(w.path(".snapshots", "s"))
		bad := []unix.Timespec{{Nsec: 1000000000}, {}}
		fails(t, "a second of nanoseconds", unix.UtimesNanoAt(unix.AT_FDCWD, w.path("0"), bad, 0), syscall.EINVAL)
	})
}

// TestRewoundListingIsNew: rewinddir(3) shows the directory as it is then.
func TestRewoundListingIsNew(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		must(t, os.Mkdir(w.path("d"), 0o755))
		for _, name := range []string{"a", "b"} {
			write(t, w.path("d", name), "")
		}
		fd, err := unix.Open(w.path("d"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		defer unix.Close(fd)
		names := func() (s string) {
			for _, e := range getdents(t, fd, 1<<12) {
				s += " " + e.name
			}
			return s
		}
		if got := names(); got != " . .. a b" {
			t.Errorf("first: %q", got)
		}
		write(t, w.path("d", "c"), "")
		must(t, os.Remove(w.path("d", "a")))
		if got := names(); got != "" {
			t.Errorf("at the end: %q", got)
		}
		_, err = unix.Seek(fd, 0, io.SeekStart)
		must(t, err)
		if got := names(); got != " . .. b c" {
			t.Errorf("rewound: %q", got)
		}
		// A directory that is gone lists nothing, and takes nothing new.
		must(t, os.RemoveAll(w.path("d")))
		_, err = unix.Seek(fd, 0, io.SeekStart)
		must(t, err)
		_, err = unix.Getdents(fd, make([]byte, 1<<12))
		fails(t, "list it", err, syscall.ENOENT)
		fails(t, "mkdir in it", unix.Mkdirat(fd, "x", 0o755), syscall.ENOENT)
		fails(t, "symlink in it", unix.Symlinkat("x", fd, "x"), syscall.ENOENT)
		var st unix.Stat_t
		must(t, unix.Fstat(fd, &st))
		if st.Nlink != 0 {
			t.Errorf("removed, with %d links", st.Nlink)
		}
	})
}

// openErr opens a file and tells whether it can.
func openErr(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err == nil {
		unix.Close(fd)
	}
	return err
}
