package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"dcfs/dcdb"
)

// serveVerb is what "dcfs mount" starts. It is no command for people: it
// serves the store until nothing of it is mounted any more.
var serveVerb = &verb{
	name: "serve", args: "STORE", hidden: true,
	summary: "Serve a store; \"dcfs mount\" starts this",
	flags: func(fl *pflag.FlagSet) func([]string) error {
		var o serverOptions
		serverFlags(fl, &o)
		ready := fl.Int("ready-fd", -1, "where to tell that the server answers")
		fl.IntVar(&userKey.pipe, "key-fd", -1, "where to read the key of a sealed volume")
		make := fl.Bool("make", false, "make the volume if the store is missing or empty")
		return func(args []string) error {
			if err := wantArgs(args, "STORE"); err != nil {
				return err
			}
			mode := openExisting
			if *make {
				mode = openOrMake
			}
			return serveDaemon(args[0], mode, o, *ready)
		}
	},
}

// serverFlags are the flags that concern a store's server.
func serverFlags(fl *pflag.FlagSet, o *serverOptions) {
	fl.Var(sizeFlag{&o.Cache}, "cache", "memory for cached pages and contents (default 64M)")
	fl.Var(sizeFlag{&o.Dirty}, "dirty", "memory for data that waits to be written; writers wait beyond it (default 64M)")
	fl.Var(volumeSizeFlag{sizeFlag{&o.Size}}, "size", "what the volume may take on its disk (default all that is free)")
	fl.Var(intervalFlag{&o.Commit}, "commit", "how often changes are made durable by themselves (default 1s)")
	fl.StringVar(&o.Log, "log", "", "log to this file, - for stderr (with -f), none for no log (default dcfs.log in the store)")
	fl.BoolVarP(&o.Verbose, "verbose", "v", false, "log what is done, not only what goes wrong")
	fl.BoolVar(&o.Debug, "debug", false, "log every request of the kernel")
}

// args are o as flags.
func (o serverOptions) args() []string {
	var a []string
	if o.Cache != 0 {
		a = append(a, fmt.Sprintf("--cache=%d", o.Cache))
	}
	if o.Dirty != 0 {
		a = append(a, fmt.Sprintf("--dirty=%d", o.Dirty))
	}
	if o.Size != 0 {
		a = append(a, fmt.Sprintf("--size=%d", o.Size))
	}
	if o.Commit != 0 {
		a = append(a, fmt.Sprintf("--commit=%v", o.Commit))
	}
	if o.Log != "" {
		a = append(a, "--log="+o.Log)
	}
	if o.Verbose {
		a = append(a, "--verbose")
	}
	if o.Debug {
		a = append(a, "--debug")
	}
	return a
}

// limitMemory makes the garbage collector work harder before the process
// takes much more than it was allowed: a soft limit, GOMEMLIMIT overrides it.
func (o serverOptions) limitMemory() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit := int64(160 << 20)
	for _, n := range []int64{o.Cache, o.Dirty} {
		if n == 0 {
			n = 64 << 20
		}
		limit += n
	}
	debug.SetMemoryLimit(limit)
}

// shareCPUs lets more goroutines run than there are CPUs, so that it is the
// kernel that shares these out. Else a compaction and the garbage collector have
// all that Go gives, in slices of 10 ms, and an operation that comes waits for
// several of these (golang/go#18534): the kernel runs a thread that has slept
// much sooner. GOMAXPROCS overrides it.
func shareCPUs() {
	const most = 4 // more goroutines, however many CPUs
	if os.Getenv("GOMAXPROCS") == "" {
		n := runtime.GOMAXPROCS(0)
		runtime.GOMAXPROCS(n + min(n, most))
	}
}

// started is what a daemon tells whoever started it, as a line of JSON.
type started struct {
	OK    bool   `json:"ok"`
	Code  string `json:"code,omitempty"`
	Error string `json:"error,omitempty"`
}

// startDaemon starts a server for a store and returns when it answers. The
// server is this program again: a session of its own, working directory /,
// and none of this process's descriptors.
func startDaemon(store string, mode openMode, o serverOptions) error {
	key, err := userKey.pass()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	// What the caller's caller left open must not stay open for ever: a pipe
	// whose reader waits for its end, say. The child's own come by ExtraFiles.
	unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)

	files := []*os.File{w}
	if key != nil {
		defer key.Close()
		files = append(files, key)
	}
	args := append([]string{"serve", "--ready-fd=3", fmt.Sprintf("--make=%v", mode == openOrMake)}, o.args()...)
	if key != nil {
		args = append(args, "--key-fd=4")
	}
	cmd := exec.Command("/proc/self/exe", append(args, "--", store)...)
	cmd.Args[0] = "dcfs"
	cmd.Dir = "/"
	cmd.Env = withoutKeys(os.Environ())
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		w.Close()
		return fmt.Errorf("starting the server: %w", err)
	}
	w.Close()
	line, err := bufio.NewReader(io.LimitReader(r, maxRequestBytes)).ReadBytes('\n')
	if err != nil {
		werr := cmd.Wait()
		return fmt.Errorf("the server ended before it answered: %v; its log (dcfs.log in the store) may say why", werr)
	}
	var st started
	if err := json.Unmarshal(line, &st); err != nil {
		return fmt.Errorf("the server's message makes no sense: %v", err)
	}
	if !st.OK {
		cmd.Wait()
		return &controlError{st.Code, st.Error}
	}
	return cmd.Process.Release()
}

// serveDaemon is the daemon's side.
func serveDaemon(store string, mode openMode, o serverOptions, readyFd int) error {
	if !filepath.IsAbs(store) {
		return &usageError{text: "the store's path must be absolute"}
	}
	var ready *os.File
	if readyFd >= 0 {
		ready = os.NewFile(uintptr(readyFd), "ready")
		unix.CloseOnExec(readyFd)
	}
	if userKey.pipe >= 0 {
		unix.CloseOnExec(userKey.pipe)
	}
	tell := func(err error) {
		if ready == nil {
			return
		}
		st := started{OK: err == nil}
		if err != nil {
			st.Code, st.Error = codeOf(err), err.Error()
		}
		line, _ := json.Marshal(st) // two strings: can't fail
		ready.Write(append(line, '\n'))
		ready.Close()
		ready = nil
	}
	syscall.Umask(0) // modes are masked by who creates, not by us
	o.limitMemory()
	shareCPUs()
	log := newLogger(o)
	s, err := newServer(context.Background(), store, mode, o, log)
	if err == nil && s.sealed() {
		err = log.keepNames()
	}
	if err == nil {
		err = log.openIn(store, true)
	}
	if err != nil && s != nil {
		s.leave(0) // whoever tries again finds the store unlocked
	}
	tell(err)
	if err != nil {
		return nil // told
	}
	s.stopOnSignals()
	if s.serve() != nil {
		os.Exit(exitError) // the log has it
	}
	return nil
}

// logger writes a line for what goes wrong and, if asked, for what is done.
type logger struct {
	verbose, debug bool
	file           string // "" the store's own, "-" stderr, "none"

	mu   sync.Mutex
	w    io.Writer // guarded by mu; nil: not open yet
	held []string  // guarded by mu: lines from before
	mute bool      // guarded by mu; names are left out
}

const (
	logName     = "dcfs.log"
	maxLogBytes = 1 << 20 // at a start, the log is begun anew beyond this
)

func newLogger(o serverOptions) *logger {
	return &logger{verbose: o.Verbose || o.Debug, debug: o.Debug, file: o.Log}
}

// keepNames has the store's own log, which nobody seals, tell no names. It is
// for a sealed volume, before openIn.
func (l *logger) keepNames() error {
	if l.file != "" {
		return nil // where it goes is the user's choice
	}
	if l.verbose {
		return coded(codeInvalid, "-v and --debug would write names of a sealed volume into its store, in the clear: say with --log=FILE where they are to go")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mute = true
	return nil
}

// quoted is a name as all layers write it into errors and logs.
var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// openIn opens the log of the server of a store. It is the last thing to
// happen at a start, since the store's own log lies in the store. With
// replace, it takes the place of stdout and stderr too: a crash is told there.
func (l *logger) openIn(store string, replace bool) error {
	var f *os.File
	var err error
	switch l.file {
	case "none":
		f, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	case "-":
		f = os.Stderr
	case "":
		path := filepath.Join(store, logName)
		if fi, serr := os.Stat(path); serr == nil && fi.Size() > maxLogBytes {
			os.Rename(path, path+".old")
		}
		f, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	default:
		f, err = os.OpenFile(l.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	if replace && f != os.Stderr {
		if err := replaceStdio(int(f.Fd())); err != nil {
			return fmt.Errorf("log: %w", err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.w = f
	for _, line := range l.held {
		l.writeLocked(line)
	}
	l.held = nil
	return nil
}

func (l *logger) writeLocked(line string) {
	if l.mute {
		line = withoutNames(line)
	}
	io.WriteString(l.w, line)
}

// withoutNames leaves out what is in quotes. Where one has no partner, a path
// may have had it, and who knows which belong together: then all is left out from
// the first one on.
func withoutNames(line string) string {
	if strings.Contains(quoted.ReplaceAllString(line, ""), `"`) {
		before, _, _ := strings.Cut(line, `"`)
		return before + "...\n"
	}
	return quoted.ReplaceAllString(line, `"..."`)
}

// replaceStdio makes stdout and stderr lead to fd, stdin to nothing.
func replaceStdio(fd int) error {
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	for to, from := range map[int]int{0: null, 1: fd, 2: fd} {
		if err := unix.Dup3(from, to, 0); err != nil {
			return err
		}
	}
	return nil
}

// printf logs what went wrong. That what comes after the end finds the volume
// closed is no news.
func (l *logger) printf(format string, args ...any) {
	for _, a := range args {
		if err, ok := a.(error); ok && errors.Is(err, dcdb.ErrClosed) && !l.verbose {
			return
		}
	}
	line := time.Now().UTC().Format("2006-01-02T15:04:05.000Z ") + oneLine(fmt.Sprintf(format, args...)) + "\n"
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w == nil {
		l.held = append(l.held, line)
		return
	}
	l.writeLocked(line)
}

// debugf logs what is done, if that is wanted.
func (l *logger) debugf(format string, args ...any) {
	if l.verbose {
		l.printf(format, args...)
	}
}
