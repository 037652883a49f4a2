// Package tests holds what needs a real mount: dcfs seen by programs, through
// system calls. The server is a process of its own, as a FUSE server must
// never wait for its own mount.
package tests

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
	"strings"
	"syscall"
	"testing"
	"time"

	"dcfs/dcdb/store"
	"dcfs/dcdb/store/embedded"
	"dcfs/fs"
	"dcfs/inode"
	"dcfs/snap"
)

// serverEnv is set in a process that TestMain shall make a server.
const serverEnv = "DCFS_TEST_SERVER"

// transportEnv is the transport of the mounts of all tests, such as fs.Wire.
const transportEnv = "DCFS_TEST_TRANSPORT"

func TestMain(m *testing.M) {
	if kind := os.Getenv(serverEnv); kind != "" {
		serve(kind, os.Stdin, os.Stdout)
		return
	}
	syscall.Umask(0o022)
	os.Exit(m.Run())
}

// world is a volume, the process that serves it, and a mount of its main
// fork on dir.
type world struct {
	t   *testing.T
	dir string

	kind  string
	store string
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
}

// stores are what tests run on.
var stores = []string{"memory", "embedded"}

// onEach runs a test on a new volume on each store.
func onEach(t *testing.T, test func(t *testing.T, w *world)) {
	for _, kind := range stores {
		t.Run(kind, func(t *testing.T) { test(t, newWorld(t, kind)) })
	}
}

// needFUSE skips the test where nothing can be mounted.
func needFUSE(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("SKIPPED, NOT TESTED: no /dev/fuse here")
	}
	if os.Geteuid() != 0 {
		if _, err := exec.LookPath("fusermount3"); err != nil {
			t.Skip("SKIPPED, NOT TESTED: not root, and no fusermount3")
		}
	}
}

func newWorld(t *testing.T, kind string) *world {
	t.Helper()
	needFUSE(t)
	tmp := t.TempDir()
	w := &world{t: t, dir: filepath.Join(tmp, "mnt"), store: filepath.Join(tmp, "store"), kind: kind}
	if err := os.Mkdir(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.start()
	t.Cleanup(w.stop)
	w.call("mount", w.dir, "")
	return w
}

// start starts the server.
func (w *world) start() {
	w.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	w.cmd = exec.Command(exe)
	w.cmd.Env = append(os.Environ(), serverEnv+"="+w.kind, "DCFS_TEST_STORE="+w.store)
	w.cmd.Stderr = os.Stderr
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		w.t.Fatal(err)
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	w.out = bufio.NewReader(out)
	if err := w.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
}

// stop ends the server, which unmounts.
func (w *world) stop() {
	w.in.Close()
	ended := make(chan error, 1)
	go func() { ended <- w.cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			w.t.Errorf("server: %v", err)
		}
	case <-time.After(30 * time.Second):
		w.t.Errorf("server does not end")
		w.cmd.Process.Signal(syscall.SIGQUIT) // shows where it is
		<-ended
	}
	for syscall.Unmount(w.dir, syscall.MNT_DETACH) == nil {
		w.t.Errorf("%s was still mounted", w.dir)
	}
}

// try asks the server to do something.
func (w *world) try(args ...string) error {
	line, err := json.Marshal(args)
	if err != nil {
		return err
	}
	if _, err := w.in.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("server: %w", err)
	}
	answer, err := w.out.ReadString('\n')
	if err != nil {
		return fmt.Errorf("server: %w", err)
	}
	if answer = strings.TrimSpace(answer); answer != "ok" {
		return errors.New(answer)
	}
	return nil
}

// call is try that must succeed.
func (w *world) call(args ...string) {
	w.t.Helper()
	if err := w.try(args...); err != nil {
		w.t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
}

// remount unmounts and mounts again; on a store that lasts, with a new server
// process.
func (w *world) remount() {
	w.t.Helper()
	w.call("unmount", w.dir)
	if w.kind == "embedded" {
		w.stop()
		w.start()
	}
	w.call("mount", w.dir, "")
}

// path returns a path in the mount.
func (w *world) path(names ...string) string {
	return filepath.Join(append([]string{w.dir}, names...)...)
}

// host is the server's side.
type host struct {
	vol    *snap.Volume
	fs     *inode.FS
	mounts map[string]*fs.Server
}

func openStore(kind string) (store.Store, error) {
	if kind == "embedded" {
		return embedded.OpenOrCreate(os.Getenv("DCFS_TEST_STORE"), embedded.Options{LockWait: 5 * time.Second, Log: logf})
	}
	return store.NewMemory(store.Superblock{Version: store.FormatVersion, UUID: store.NewUUID()}), nil
}

func logf(format string, args ...any) { fmt.Fprintf(os.Stderr, "server: "+format+"\n", args...) }

// serve does what the lines of in say, each an array of strings, and answers
// each with a line. At the end of in it unmounts all.
func serve(kind string, in io.Reader, out io.Writer) {
	ctx := context.Background()
	st, err := openStore(kind)
	if err != nil {
		logf("open: %v", err)
		os.Exit(1)
	}
	vol, err := snap.Open(ctx, st, snap.Options{Log: logf})
	if err != nil {
		logf("open: %v", err)
		os.Exit(1)
	}
	h := &host{vol, inode.New(vol, inode.Options{}), make(map[string]*fs.Server)}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var args []string
		if err := json.Unmarshal(lines.Bytes(), &args); err != nil {
			logf("bad line: %v", err)
			os.Exit(1)
		}
		if err := h.do(ctx, args); err != nil {
			fmt.Fprintln(out, strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Fprintln(out, "ok")
		}
	}
	for dir := range h.mounts {
		h.unmount(dir)
	}
	if err := vol.Close(ctx); err != nil {
		logf("close: %v", err)
		os.Exit(1)
	}
}

func (h *host) do(ctx context.Context, args []string) error {
	switch args[0] {
	case "mount": // DIR FORK [SNAPDIR FORKDIR]
		return h.mount(args[1:])
	case "unmount": // DIR
		return h.unmount(args[1])
	case "check": // FORK
		return h.check(ctx, args[1])
	case "delete-fork": // FORK, as a command would
		err := h.vol.DeleteFork(ctx, h.vol.Main(), args[1])
		fs.Gone()
		return err
	case "delete-snapshot": // SNAPSHOT
		err := h.vol.DeleteSnapshot(ctx, h.vol.Main(), args[1])
		fs.Gone()
		return err
	}
	return fmt.Errorf("unknown command %q", args[0])
}

// view returns a fork of main, main itself, or a snapshot of it, "%name".
func (h *host) view(name string) (*snap.View, error) {
	if name == "" {
		return h.vol.Main(), nil
	}
	if s, ok := strings.CutPrefix(name, "%"); ok {
		return h.vol.Snapshot(h.vol.Main(), s)
	}
	return h.vol.Fork(h.vol.Main(), name)
}

func (h *host) mount(args []string) error {
	v, err := h.view(args[1])
	if err != nil {
		return err
	}
	if fs.Served(v) {
		return errors.New("busy")
	}
	o := fs.Options{Mountpoint: args[0], Log: logf, Debug: os.Getenv("DCFS_TEST_DEBUG") != "",
		Transport: os.Getenv(transportEnv)}
	if len(args) == 4 {
		o.SnapDir, o.ForkDir = args[2], args[3]
	}
	fd, err := fs.Attach(args[0], fs.MountOptions{
		Source: "dcfs,test", AllowOther: os.Geteuid() == 0, ReadOnly: v.ReadOnly(),
	})
	if err != nil {
		return err
	}
	s, err := fs.Serve(fd, h.fs, v, o)
	if err != nil {
		fs.Detach(args[0], true)
		return err
	}
	h.mounts[args[0]] = s
	return nil
}

func (h *host) unmount(dir string) error {
	s := h.mounts[dir]
	if s == nil {
		return fmt.Errorf("%s is not mounted", dir)
	}
	if err := s.Unmount(); err != nil {
		fs.Detach(dir, true)
		return err
	}
	delete(h.mounts, dir)
	return nil
}

// check verifies a fork's inodes.
func (h *host) check(ctx context.Context, fork string) error {
	v, err := h.view(fork)
	if err != nil {
		return err
	}
	var problems []string
	if err := h.fs.Check(ctx, v, func(p string) { problems = append(problems, p) }); err != nil {
		return err
	}
	if len(problems) > 0 {
		return errors.New(strings.Join(problems, "; "))
	}
	return nil
}

// What follows says "this must work" or "this must fail so".

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fails checks that an operation failed with an errno.
func fails(t *testing.T, what string, err error, want syscall.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

// wants checks the content of a file.
func wants(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s: got %q, %v; want %q", path, got, err, want)
	}
}

func stat(t *testing.T, path string) syscall.Stat_t {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatalf("stat %s: %v", path, err)
	}
	return st
}

// list returns the names in a directory, in the order it has.
func list(t *testing.T, dir string) []string {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	must(t, err)
	return names
}

// wantsList checks the names in a directory, in order.
func wantsList(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := list(t, dir); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("list %s: got %q, want %q", dir, got, want)
	}
}

// run runs a program, which must succeed, and returns what it prints.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// as runs a program as another user.
func as(uid int, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s as %d: %w: %s", name, strings.Join(args, " "), uid, err, out)
	}
	return nil
}

// runAs is as for a program that must succeed.
func runAs(t *testing.T, uid int, name string, args ...string) {
	t.Helper()
	must(t, as(uid, name, args...))
}
