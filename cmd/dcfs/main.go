// Command dcfs mounts snapshotting volumes and manages their snapshots and
// forks.
//
// # The processes
//
// One process serves a store, with any number of mounts of its views: the
// server. "dcfs mount" starts it where there is none, and every other command
// asks it, through the control socket in the store's directory (control.go
// has the protocol). A command that asks about a store that nobody serves
// opens the store itself for as long as it runs.
//
//	dcfs mount ──┬─ starts ──▶ dcfs serve (hidden verb; own session, cwd /)
//	             ├─ control socket: "mount this view" ──▶ reserved
//	             ├─ opens /dev/fuse, mount(2) or fusermount3, in its own
//	             │  mount namespace
//	             └─ passes the descriptor ──▶ server answers the kernel
//
// # Rules
//
//	(1) The store's lock comes first: only who holds it removes or makes the
//	    control socket, so a dead server's socket is never mistaken for a
//	    live one's, nor a live one's removed.
//	(2) The live view of a fork is served to one mount at a time. A fork that
//	    is mounted by itself is not deleted, and one that is being deleted not
//	    mounted. A snapshot may be deleted while it is mounted.
//	(3) A server without mounts, and without a request that it is answering,
//	    ends. It removes the socket before it closes the store, so whoever
//	    finds no server but a locked store waits. If the store is gone, or its
//	    engine can't come to an end, the server ends without.
//	(4) What is asked by way of a mount reaches only what lies in that
//	    mount's view.
//
// The same program is /sbin/mount.fuse.dcfs and /sbin/umount.fuse.dcfs, which
// mount(8) and umount(8) call; it goes by the name it is called by. umount(8)
// of root, if it need not look into the list of mounts, knows no more of the
// type than "fuse" and calls umount.fuse, so the program answers to that too,
// for any FUSE file system.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
)

// Exit codes. mount(8) asks its helpers for 32 where a mount failed.
const (
	exitError       = 1
	exitUsage       = 2
	exitMountHelper = 32
)

// A verb is one command. Its run function gets the arguments that are left
// after the flags.
type verb struct {
	name    string
	args    string // of the usage line
	summary string
	long    string // more help: paragraphs, and an example
	hidden  bool
	opens   bool // it may open a store, and then need its key
	flags   func(*pflag.FlagSet) func(args []string) error
}

var verbs = []*verb{
	mountVerb, umountVerb,
	snapshotCreateVerb, snapshotListVerb, snapshotRenameVerb, snapshotDeleteVerb,
	snapshotHoldVerb, snapshotReleaseVerb, snapshotExpireVerb,
	forkCreateVerb, forkListVerb, forkRenameVerb, forkDeleteVerb, forkExpireVerb,
	retentionSetVerb, retentionShowVerb, retentionApplyVerb,
	statusVerb, gcVerb, scrubVerb, checkVerb, keyChangeVerb, versionVerb, serveVerb,
}

// usageError is a command line that makes no sense. Its text says why, and
// main adds where help is found.
type usageError struct {
	verb string
	text string
}

func (e *usageError) Error() string { return e.text }

// statusError is an error with an exit code of its own.
type statusError struct {
	code int
	err  error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

func main() {
	var err error
	code := exitError
	switch filepath.Base(os.Args[0]) {
	case "mount.fuse.dcfs", "mount.dcfs":
		err, code = mountHelper(os.Args[1:]), exitMountHelper
	case "umount.fuse.dcfs", "umount.fuse", "umount.dcfs":
		err = umountHelper(os.Args[1:])
	default:
		err = run(os.Args[1:])
	}
	if err == nil {
		return
	}
	fmt.Fprintf(os.Stderr, "dcfs: %s\n", oneLine(err.Error()))
	var status *statusError
	if errors.As(err, &status) {
		code = status.code
	}
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(os.Stderr, "dcfs: try \"dcfs %s\"\n", strings.TrimSpace(usage.verb+" --help"))
		if code != exitMountHelper {
			code = exitUsage
		}
	}
	os.Exit(code)
}

// run finds the verb that args begin with and runs it.
func run(args []string) error {
	if len(args) == 0 {
		help(os.Stderr)
		return &usageError{text: "no command given"}
	}
	switch args[0] {
	case "-h", "--help":
		help(os.Stdout)
		return nil
	case "--version":
		return versionVerb.run(nil)
	case "help":
		return helpOn(args[1:])
	}
	if v, rest := findVerb(args); v != nil {
		return v.run(rest)
	}
	if sub := verbsUnder(args[0]); len(sub) > 0 {
		asked := len(args) > 1 && (args[1] == "-h" || args[1] == "--help")
		if asked {
			helpVerbs(os.Stdout, sub)
			return nil
		}
		return &usageError{verb: args[0], text: fmt.Sprintf("%s what? One of: %s", args[0], subNames(sub))}
	}
	// mount.fuse3(8) of the fuse3 package calls the file system's command
	// with what is to be mounted, and no verb.
	if strings.Contains(args[0], "/") && len(args) >= 2 {
		return mountHelper(args)
	}
	return &usageError{text: fmt.Sprintf("unknown command %q", args[0])}
}

// findVerb returns the verb that args begin with, and what follows it.
func findVerb(args []string) (*verb, []string) {
	for _, v := range verbs {
		words := strings.Fields(v.name)
		if len(args) >= len(words) && strings.Join(args[:len(words)], " ") == v.name {
			return v, args[len(words):]
		}
	}
	return nil, nil
}

// verbsUnder returns the verbs of two words of which the first is group.
func verbsUnder(group string) []*verb {
	var sub []*verb
	for _, v := range verbs {
		if strings.HasPrefix(v.name, group+" ") {
			sub = append(sub, v)
		}
	}
	return sub
}

func subNames(vs []*verb) string {
	var names []string
	for _, v := range vs {
		names = append(names, strings.Fields(v.name)[1])
	}
	return strings.Join(names, ", ")
}

// run parses v's flags and runs it.
func (v *verb) run(args []string) error {
	fl := pflag.NewFlagSet(v.name, pflag.ContinueOnError)
	fl.SortFlags = false
	fl.Usage = func() {}
	fn := v.flags(fl)
	if v.opens {
		addKeyFile(fl)
	}
	wantHelp := fl.BoolP("help", "h", false, "show this help")
	if err := fl.Parse(args); err != nil {
		return &usageError{verb: v.name, text: err.Error()}
	}
	if *wantHelp {
		v.help(os.Stdout, fl)
		return nil
	}
	err := fn(fl.Args())
	var usage *usageError
	if errors.As(err, &usage) && usage.verb == "" {
		usage.verb = v.name
	}
	return err
}

// help prints all that there is to know of v.
func (v *verb) help(w *os.File, fl *pflag.FlagSet) {
	fmt.Fprintf(w, "Usage: dcfs %s [flags] %s\n\n%s.\n", v.name, v.args, v.summary)
	if v.long != "" {
		fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(v.long))
	}
	fmt.Fprintf(w, "\nFlags:\n%s", fl.FlagUsages())
}

// help prints the list of verbs.
func help(w *os.File) {
	fmt.Fprint(w, `dcfs is a file system that is snapshotted and forked in constant time.

Usage: dcfs COMMAND [flags] ...

`)
	helpVerbs(w, verbs)
	fmt.Fprint(w, `
TARGET is a path in a mount, or STORE[@FORK][%SNAPSHOT].
"dcfs help COMMAND" says more, with an example.
`)
}

func helpVerbs(w *os.File, vs []*verb) {
	for _, v := range vs {
		if !v.hidden {
			fmt.Fprintf(w, "  %-17s %s\n", v.name, v.summary)
		}
	}
}

// helpOn answers "dcfs help ...".
func helpOn(args []string) error {
	if len(args) == 0 {
		help(os.Stdout)
		return nil
	}
	if v, _ := findVerb(args); v != nil {
		return v.run([]string{"--help"})
	}
	if sub := verbsUnder(args[0]); len(sub) > 0 {
		helpVerbs(os.Stdout, sub)
		return nil
	}
	return &usageError{text: fmt.Sprintf("unknown command %q", strings.Join(args, " "))}
}

// wantArgs returns an error that names what is missing or too much.
func wantArgs(args []string, names ...string) error {
	if len(args) < len(names) {
		return &usageError{text: fmt.Sprintf("%s is missing", names[len(args)])}
	}
	if len(args) > len(names) {
		return &usageError{text: fmt.Sprintf("too many arguments: %q", args[len(names)])}
	}
	return nil
}

// oneLine makes one line of a text: errors from below may hold line breaks.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
