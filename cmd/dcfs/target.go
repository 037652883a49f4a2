package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"dcfs/snap"
)

// A target is what a command works on: a view, by its place in a store or by
// a path in a mount.
type target struct {
	Store    string // the store's directory, absolute
	Fork     string // a fork's path name, as in try/again; "" is main
	Snapshot string // a snapshot of that fork; "" is its live view

	Mount *mountEntry // the mount that the path lies in, or nil
	Path  string      // of Mount: the path from its view's root on
}

// parseStore reads STORE[@FORK][%SNAPSHOT]. Names of forks and snapshots
// contain neither @ nor %, but the path of a store may, so what exists
// decides: the whole, if there is such a directory; else the longest
// directory that an @ or a % follows.
func parseStore(s string) (target, error) {
	if s == "" {
		return target{}, errors.New("the store's name is empty")
	}
	if strings.ContainsRune(s, 0) {
		return target{}, fmt.Errorf("store %q: a path has no NUL bytes", s)
	}
	path, fork, snapshot := splitStore(s)
	abs, err := filepath.Abs(path)
	if err != nil {
		return target{}, err
	}
	if fork != "" {
		for _, name := range strings.Split(fork, "/") {
			if snap.CheckName(name) != nil {
				return target{}, fmt.Errorf("%s: %q is no name of a fork", s, name)
			}
		}
	}
	if snapshot != "" && snap.CheckName(snapshot) != nil {
		return target{}, fmt.Errorf("%s: %q is no name of a snapshot", s, snapshot)
	}
	return target{Store: abs, Fork: fork, Snapshot: snapshot}, nil
}

func splitStore(s string) (path, fork, snapshot string) {
	if isDir(s) {
		return s, "", ""
	}
	for i := len(s) - 1; i > 0; i-- {
		if s[i] != '@' && s[i] != '%' {
			continue
		}
		if isDir(s[:i]) {
			fork, snapshot := splitView(s[i:])
			return s[:i], fork, snapshot
		}
	}
	// The store does not exist: it may be meant to be made, in a directory
	// that does.
	dir, base := filepath.Split(s)
	if i := strings.IndexAny(base, "@%"); i > 0 {
		fork, snapshot := splitView(base[i:])
		return dir + base[:i], fork, snapshot
	}
	return s, "", ""
}

// splitView splits @FORK%SNAPSHOT, of which each part may be missing.
func splitView(s string) (fork, snapshot string) {
	if i := strings.LastIndexByte(s, '%'); i >= 0 {
		s, snapshot = s[:i], s[i+1:]
	}
	return strings.TrimPrefix(s, "@"), snapshot
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

// String returns the target as the user would write it.
func (t target) String() string {
	if t.Mount != nil {
		return filepath.Join(t.Mount.Mountpoint, t.Path)
	}
	return t.Store + t.viewSuffix()
}

// viewSuffix returns [@FORK][%SNAPSHOT].
func (t target) viewSuffix() string {
	return viewSuffix(t.Fork, t.Snapshot)
}

func viewSuffix(fork, snapshot string) string {
	s := ""
	if fork != "" {
		s += "@" + fork
	}
	if snapshot != "" {
		s += "%" + snapshot
	}
	return s
}

// parseTarget reads what a command is to work on: a path in a mount of dcfs,
// or STORE[@FORK][%SNAPSHOT].
func parseTarget(s string) (target, error) {
	path, err := realPath(s)
	if err == nil {
		m, err := mountOf(path)
		if err != nil {
			return target{}, err
		}
		if m != nil && m.isDcfs() {
			return mountTarget(m, path)
		}
	}
	t, err := parseStore(s)
	if err != nil {
		return target{}, err
	}
	return t, t.checkStore()
}

// checkStore refuses @FORK and %SNAPSHOT after a mount point: there, they have
// paths.
func (t target) checkStore() error {
	if t.viewSuffix() == "" {
		return nil
	}
	path, err := realPath(t.Store)
	if err != nil {
		return nil // there is none
	}
	m, err := mountAt(path)
	if err != nil || m == nil || !m.isDcfs() {
		return err
	}
	in := t.Store
	if t.Fork != "" {
		in += "/.forks/" + strings.ReplaceAll(t.Fork, "/", "/.forks/")
	}
	if t.Snapshot != "" {
		in += "/.snapshots/" + t.Snapshot
	}
	return coded(codeInvalid, "%s is a mount point, not a store: name its store%s, or use the path %s", t.Store, t.viewSuffix(), in)
}

// mountTarget is the view at path, which lies in m. The store is where m's
// source says; whoever overrides the source with fsname= is found by the
// mark that the server leaves.
func mountTarget(m *mountEntry, path string) (target, error) {
	if err := m.alive(); err != nil {
		return target{}, err
	}
	rel, err := filepath.Rel(m.Mountpoint, path)
	if err != nil {
		return target{}, err
	}
	// A bind mount's root lies somewhere in the view.
	t := target{Mount: m, Path: strings.Trim(filepath.Join(m.Root, rel), "/")}
	if t.Store, err = storeOfMount(m); err != nil {
		return target{}, err
	}
	return t, nil
}

// realPath makes path absolute and free of symbolic links, also where it lies
// in the mount of a dead server, which answers nothing, or of a view that was
// deleted.
func realPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if (errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ESTALE) || errors.Is(err, syscall.EACCES)) && abs != "/" {
		dir, err := realPath(filepath.Dir(abs))
		return filepath.Join(dir, filepath.Base(abs)), err
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, plainErr(err))
	}
	return real, nil
}

// plainErr strips the operation and path that package os adds to an error.
func plainErr(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	var se *os.SyscallError
	if errors.As(err, &se) {
		return se.Err
	}
	return err
}
