package tests

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// lockerEnv makes TestLocker a process that takes locks.
const lockerEnv = "DCFS_TEST_LOCKER"

// TestLocker is no test but a process of others: it does what the lines of
// its input say, each answered with a line.
func TestLocker(t *testing.T) {
	if os.Getenv(lockerEnv) == "" {
		return
	}
	runtime.LockOSThread() // which signals go to
	fmt.Printf("thread %d\n", unix.Gettid())
	fds := make(map[string]int)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var what, name, arg string
		fmt.Sscan(lines.Text(), &what, &name, &arg)
		var err error
		switch what {
		case "open", "openro":
			flags := unix.O_RDWR
			if what == "openro" {
				flags = unix.O_RDONLY
			}
			fds[name], err = unix.Open(arg, flags|unix.O_CLOEXEC, 0)
		case "close":
			err = unix.Close(fds[name])
		default:
			err = lock(fds[name], what, arg)
		}
		fmt.Println("=", err)
	}
}

// lock takes or drops one. what is flock, posix or ofd, with "wait" behind it
// if it is to wait; arg is sh, ex or un, for posix and ofd with :START:LEN.
func lock(fd int, what, arg string) error {
	arg = strings.ReplaceAll(arg, ":", " ")
	var kind string
	var start, n int64
	fmt.Sscan(arg, &kind, &start, &n)
	what, wait := strings.CutSuffix(what, "wait")
	if what == "flock" {
		how := map[string]int{"sh": unix.LOCK_SH, "ex": unix.LOCK_EX, "un": unix.LOCK_UN}[kind]
		if !wait {
			how |= unix.LOCK_NB
		}
		_, _, e := syscall.Syscall(unix.SYS_FLOCK, uintptr(fd), uintptr(how), 0)
		return errOf(e)
	}
	l := unix.Flock_t{Type: map[string]int16{"sh": unix.F_RDLCK, "ex": unix.F_WRLCK, "un": unix.F_UNLCK}[kind], Start: start, Len: n}
	cmd := map[string]int{"posix": unix.F_SETLK, "ofd": unix.F_OFD_SETLK}[what]
	if wait {
		cmd = map[string]int{"posix": unix.F_SETLKW, "ofd": unix.F_OFD_SETLKW}[what]
	}
	return unix.FcntlFlock(uintptr(fd), cmd, &l)
}

func errOf(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// locker is a process that takes locks.
type locker struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	tid int
}

func newLocker(t *testing.T) *locker {
	t.Helper()
	l := &locker{t: t, cmd: exec.Command(os.Args[0], "-test.run=^TestLocker$")}
	l.cmd.Env = append(os.Environ(), lockerEnv+"=1")
	var err error
	l.in, err = l.cmd.StdinPipe()
	must(t, err)
	out, err := l.cmd.StdoutPipe()
	must(t, err)
	l.out = bufio.NewReader(out)
	must(t, l.cmd.Start())
	t.Cleanup(l.kill)
	line, err := l.out.ReadString('\n')
	must(t, err)
	fmt.Sscanf(line, "thread %d", &l.tid)
	return l
}

func (l *locker) kill() {
	l.cmd.Process.Kill()
	l.cmd.Wait()
}

// send asks for something without waiting for the answer.
func (l *locker) send(format string, args ...any) { fmt.Fprintf(l.in, format+"\n", args...) }

// answer returns what became of what was sent.
func (l *locker) answer() string {
	line, err := l.out.ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(strings.TrimPrefix(line, "= "))
}

// does asks for something and checks its result, "" if it is to succeed.
func (l *locker) does(want string, format string, args ...any) {
	l.t.Helper()
	l.send(format, args...)
	if want == "" {
		want = "<nil>"
	}
	if got := l.answer(); got != want {
		l.t.Errorf("%s: %s, want %s", fmt.Sprintf(format, args...), got, want)
	}
}

// waits returns when the process waits for a lock.
func (l *locker) waits() {
	l.t.Helper()
	eventually(l.t, "waiting for a lock", func() bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/wchan", l.cmd.Process.Pid, l.tid))
		s, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", l.cmd.Process.Pid, l.tid))
		nr, _, _ := strings.Cut(string(s), " ")
		return strings.Contains(string(b), "lock") || nr == fmt.Sprint(unix.SYS_FLOCK) || nr == fmt.Sprint(unix.SYS_FCNTL)
	})
}

const busy = "resource temporarily unavailable"

// TestLocks: the three kinds of locks, between processes.
func TestLocks(t *testing.T) {
	needRoot(t) // to see what a process waits for
	asOnExt4(t, func(t *testing.T, dir string) {
		path, link := filepath.Join(dir, "f"), filepath.Join(dir, "link")
		write(t, path, "0123456789")
		must(t, os.Link(path, link))
		for _, kind := range []struct{ name, sh, ex, un string }{
			{"flock", "sh", "ex", "un"}, {"posix", "sh:0:0", "ex:0:0", "un:0:0"}, {"ofd", "sh:0:0", "ex:0:0", "un:0:0"},
		} {
			a, b := newLocker(t), newLocker(t)
			a.does("", "open f %s", path)
			b.does("", "open f %s", link) // by another path, the same inode
			// Shared with shared, exclusive with none.
			a.does("", "%s f %s", kind.name, kind.sh)
			b.does("", "%s f %s", kind.name, kind.sh)
			a.does(busy, "%s f %s", kind.name, kind.ex)
			b.does("", "%s f %s", kind.name, kind.un)
			a.does("", "%s f %s", kind.name, kind.ex)
			b.does(busy, "%s f %s", kind.name, kind.sh)
			b.does(busy, "%s f %s", kind.name, kind.ex)
			// A rename of the file and an unlink of a name change nothing.
			must(t, os.Rename(path, path+"2"))
			b.does(busy, "%s f %s", kind.name, kind.sh)
			must(t, os.Rename(path+"2", path))
			// Who waits gets it when it is let go, or the holder closes or dies.
			for how, end := range map[string]func(){
				"unlock": func() { a.does("", "%s f %s", kind.name, kind.un) },
				"close":  func() { a.does("", "close f"); a.does("", "open f %s", path) },
				"death":  func() { a.kill(); a = newLocker(t); a.does("", "open f %s", path) },
			} {
				a.does("", "%s f %s", kind.name, kind.ex)
				b.send("%swait f %s", kind.name, kind.ex)
				b.waits()
				end()
				if got := b.answer(); got != "<nil>" {
					t.Errorf("%s: wait for %s: %s", kind.name, how, got)
				}
				a.does(busy, "%s f %s", kind.name, kind.ex)
				b.does("", "%s f %s", kind.name, kind.un)
			}
			// Who waits can be interrupted, and killed.
			a.does("", "%s f %s", kind.name, kind.ex)
			b.send("%swait f %s", kind.name, kind.ex)
			b.waits()
			b.kill()
			a.does("", "%s f %s", kind.name, kind.un)
			c := newLocker(t)
			c.does("", "open f %s", path)
			c.does("", "%s f %s", kind.name, kind.ex)
			a.kill()
			c.kill()
		}
	})
}

// TestWaitForALockIsInterrupted: by a signal whose handler does not ask for
// a restart, as alarm(2) with a time limit is used.
func TestWaitForALockIsInterrupted(t *testing.T) {
	needTool(t, "python3")
	asOnExt4(t, func(t *testing.T, dir string) {
		path := filepath.Join(dir, "f")
		write(t, path, "")
		out := run(t, "python3", "-c", `
import fcntl, os, signal, sys
def handler(*a): raise TimeoutError
signal.signal(signal.SIGALRM, handler)
for take in fcntl.flock, fcntl.lockf:
    f = open(sys.argv[1], "r+")
    take(f, fcntl.LOCK_EX)
    pid = os.fork()
    if pid == 0:
        g = open(sys.argv[1], "r+")
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            take(g, fcntl.LOCK_EX)
        except TimeoutError:
            os._exit(0)
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    f.close()
`, path)
		if out != "0\n0\n" {
			t.Errorf("flock and lockf that wait: exit %q, want to be interrupted", out)
		}
	})
}

// TestRangesOfLocks: POSIX and OFD locks are of bytes; closing any descriptor
// drops a process's POSIX locks, and only those.
func TestRangesOfLocks(t *testing.T) {
	needRoot(t)
	asOnExt4(t, func(t *testing.T, dir string) {
		path := filepath.Join(dir, "f")
		write(t, path, "0123456789")
		a, b := newLocker(t), newLocker(t)
		a.does("", "open f %s", path)
		a.does("", "open g %s", path)
		b.does("", "open f %s", path)
		a.does("", "posix f ex:10:10")
		b.does("", "posix f ex:0:10")
		b.does(busy, "posix f sh:5:6")
		a.does("", "posix f un:12:2") // splits it
		b.does("", "posix f ex:12:2")
		b.does(busy, "posix f ex:14:1")
		a.does("", "posix f sh:10:2") // half of it for readers
		b.does("", "posix f sh:10:2")
		b.does(busy, "posix f sh:14:1")
		b.does("", "posix f ex:1000000000000:0") // past the end, for ever
		a.does(busy, "posix g ex:2000000000000:1")
		b.send("posixwait f ex:14:1")
		b.waits()
		a.does("resource deadlock avoided", "posixwait f ex:0:1")
		a.does("", "ofd g ex:100:1")
		a.does(busy, "ofd f ex:100:1") // another open file, though the same process
		a.does("", "close g")          // and with it all POSIX locks of a
		if got := b.answer(); got != "<nil>" {
			t.Errorf("wait for a close: %s", got)
		}
		b.does("", "posix f ex:10:10")
		b.does("", "ofd f ex:100:1")
		fd := openAt(t, path, unix.O_RDONLY)
		fails(t, "write lock of what is open to read", unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}), syscall.EBADF)
		l := unix.Flock_t{Type: unix.F_WRLCK, Start: 0, Len: 1}
		must(t, unix.FcntlFlock(uintptr(fd), unix.F_GETLK, &l))
		if l.Type != unix.F_WRLCK || int(l.Pid) != b.cmd.Process.Pid || l.Start != 0 || l.Len != 20 {
			t.Errorf("F_GETLK: %+v, want the lock of %d", l, b.cmd.Process.Pid)
		}
	})
}

// TestLocksInSnapshotsAndForks: read locks in the past, and each view by
// itself.
func TestLocksInSnapshotsAndForks(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		write(t, w.path("f"), "text")
		must(t, os.Mkdir(w.path(".snapshots", "s"), 0o755))
		must(t, os.Mkdir(w.path(".forks", "f"), 0o755))
		t.Run("mounted", func(t *testing.T) {
			past, again, root := newLocker(t), newLocker(t), newLocker(t)
			past.does("", "openro f %s", w.path(".snapshots/s/f"))
			again.does("", "openro f %s", w.path(".snapshots/s/f"))
			for _, kind := range []string{"posix", "ofd"} {
				past.does("", "%s f sh:0:0", kind)
				again.does("", "%s f sh:0:0", kind)
				past.does("bad file descriptor", "%s f ex:0:0", kind)
			}
			past.does("", "flock f sh")
			again.does("", "flock f sh")
			again.does("", "flock f un")
			past.does("", "flock f ex") // which asks for no right to write
			again.does(busy, "flock f sh")
			for _, p := range []string{w.path("f"), w.path(".forks/f/f")} {
				root.does("", "open f %s", p)
				root.does("", "flock f ex")
				root.does("", "posix f ex:0:0")
			}
		})
	})
}
