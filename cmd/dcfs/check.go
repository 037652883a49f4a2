package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"dcfs/inode"
	"dcfs/snap"
	"dcfs/spill"
)

var checkVerb = &verb{
	name: "check", args: "STORE", opens: true,
	summary: "Check that a volume is consistent, and repair it",
	long: `
Every rule of the volume's format is checked, from its records to the file
system in each fork and snapshot, and a line is printed for each place that
breaks one. The store must not be mounted. What the check can't keep in 64 MiB of
memory it keeps in a temporary file in TMPDIR, or in the store if TMPDIR is not
set.

With --repair, what can be mended without a doubt is, and a line says what was
done: counts of records, objects that nothing refers to, link counts, sizes of
directories. Files that no directory names get names in /lost+found of their
fork. Where something can't be read, nothing is freed and no name or link count
changed: what seems to be unused may be used there. Snapshots stay as they are.
Back up the store first if you can.

The exit status is as that of fsck(8): 0 for a volume without problems, 1 if all
were repaired, 4 if problems are left, 8 if the volume could not be checked.

Example:
  dcfs check ~/volume
  dcfs check --data ~/volume
  dcfs check --repair ~/volume`,
	flags: func(fl *pflag.FlagSet) func([]string) error {
		asJSON := fl.Bool("json", false, "print JSON")
		quiet := fl.BoolP("quiet", "q", false, "no progress")
		data := fl.Bool("data", false, "read all file data too, and verify its checksums")
		repair := fl.Bool("repair", false, "mend what can be mended without a doubt")
		return func(args []string) error {
			if err := wantArgs(args, "STORE"); err != nil {
				return err
			}
			t, err := parseTarget(args[0])
			if err != nil {
				return err
			}
			k := &checking{data: *data, repair: *repair, show: progressTo(os.Stderr, *quiet), text: !*asJSON}
			k.spill.Dir = os.Getenv("TMPDIR")
			if k.spill.Dir == "" {
				k.spill.Dir = t.Store
			}
			return k.run(t)
		}
	},
}

// Exit codes of check, those of fsck(8).
const (
	exitRepaired = 1
	exitLeft     = 4
	exitNoCheck  = 8
)

// maxLines is how many problems are told of, and how many repairs.
const maxLines = 1000

// checkReport is what a check found.
type checkReport struct {
	Store     string   `json:"store"`
	Problems  []string `json:"problems"`           // the first thousand
	Found     int      `json:"found"`              // problems
	Repaired  []string `json:"repaired,omitempty"` // what a repair did, the first thousand
	Left      []string `json:"left,omitempty"`     // problems after a repair
	Forks     int      `json:"forks"`
	Snapshots int      `json:"snapshots"`
	Heads     int      `json:"heads"`
	Saved     int      `json:"savedHeads"`
	Objects   int      `json:"objects"`
	Bytes     uint64   `json:"objectBytes"`
}

// checking is one run of the command.
type checking struct {
	data, repair bool
	text         bool // print lines as they come
	spill        spill.Options
	show         *progress
	report       checkReport
}

// run checks the volume in a store that nobody serves, and again after a repair.
func (k *checking) run(t target) error {
	debug.SetGCPercent(50) // memory counts for more than time
	k.report.Store, k.report.Problems = t.Store, []string{}
	left, err := k.rounds(t)
	k.show.clear()
	if errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("%w (TMPDIR names where the temporary file goes)", err)
	}
	if err != nil {
		return &statusError{exitNoCheck, err}
	}
	r := &k.report
	if !k.text {
		if err := printJSON(r); err != nil {
			return &statusError{exitNoCheck, err}
		}
	}
	switch {
	case r.Found == 0:
		if k.text {
			r.print()
		}
		return nil
	case !k.repair:
		return &statusError{exitLeft, fmt.Errorf("%s is not consistent: %s (\"dcfs check --repair\" mends what it can)", t.Store, counted(r.Found, "problem"))}
	case left > 0:
		return &statusError{exitLeft, fmt.Errorf("%s is not consistent: %s, %s left after the repair", t.Store, counted(r.Found, "problem"), counted(left, "problem"))}
	}
	return &statusError{exitRepaired, fmt.Errorf("%s was repaired: %s", t.Store, counted(r.Found, "problem"))}
}

// rounds checks, repairs if that is wanted and needed, and then checks what the
// store has. It returns how many problems are left.
func (k *checking) rounds(t target) (left int, err error) {
	r := &k.report
	if err := k.open(t, k.first); err != nil || r.Found == 0 || !k.repair {
		return r.Found, err
	}
	err = k.open(t, func(ctx context.Context, v *volume) error {
		_, err := k.check(ctx, v, false, k.teller(&r.Left, &left, "left: "))
		return err
	})
	return left, err
}

// first is the first round.
func (k *checking) first(ctx context.Context, v *volume) error {
	c, err := k.check(ctx, v, k.repair, k.teller(&k.report.Problems, &k.report.Found, ""))
	r := &k.report
	r.Forks, r.Snapshots, r.Heads, r.Saved, r.Objects, r.Bytes = c.Forks, c.Snapshots, c.Heads, c.Saved, c.Objects, c.Bytes
	return err
}

// teller returns a function that counts lines, and prints and keeps the first ones.
func (k *checking) teller(lines *[]string, n *int, prefix string) func(string) {
	return func(line string) {
		if *n++; *n > maxLines {
			if *n == maxLines+1 && k.text {
				k.show.clear()
				fmt.Println(prefix + "... and more")
			}
			return
		}
		*lines = append(*lines, line)
		if k.text {
			k.show.clear()
			fmt.Println(prefix + line)
		}
	}
}

// open runs fn on a volume that nobody serves.
func (k *checking) open(t target, fn func(context.Context, *volume) error) error {
	if err := unserved(t); err != nil {
		return err
	}
	ctx := context.Background()
	v, err := lookWaiting(ctx, t.Store)
	if err != nil {
		return err
	}
	err = fn(ctx, v)
	if cerr := v.close(ctx); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("check %s: %w", t.Store, err)
	}
	return nil
}

// unserved fails if t's store is being served.
func unserved(t target) error {
	c, err := dial(t.Store)
	if errors.Is(err, errNotServed) {
		return nil
	}
	if err != nil {
		return err
	}
	c.Close()
	return coded(codeBusy, "%s is mounted: unmount it first (\"dcfs status %[1]s\" shows where)", t.Store)
}

// check checks the volume, and the file system in each of its views. With repair
// it mends; file systems only if nothing else is wrong with the volume than what
// can be mended.
func (k *checking) check(ctx context.Context, v *volume, repair bool, problem func(string)) (snap.CheckReport, error) {
	repairs := 0
	mended := k.teller(&k.report.Repaired, &repairs, "repaired: ")
	o := snap.CheckOptions{Contents: k.data, Problem: problem, MaxProblems: maxLines + 1, Spill: k.spill, Progress: k.show.records}
	check := v.vol.Check
	if repair {
		check = func(ctx context.Context, o snap.CheckOptions) (snap.CheckReport, error) {
			return v.vol.Repair(ctx, o, mended)
		}
	}
	c, err := check(ctx, o)
	if err != nil {
		return c, err
	}
	f := inode.New(v.vol, inode.Options{})
	return c, v.eachView(func(view, base *snap.View) error {
		o := inode.CheckOptions{Problem: problem, Base: base, Spill: k.spill, Progress: k.show.inodes(view)}
		if repair && c.Whole && !view.ReadOnly() {
			o.Base, o.Mended = nil, mended
		}
		return f.CheckView(ctx, view, o)
	})
}

// checkCache is the memory for what a check reads: nearly all of it once.
const checkCache = 16 << 20

// lookWaiting opens a store, as it is, that another process may be about to
// let go of.
func lookWaiting(ctx context.Context, store string) (*volume, error) {
	for w := newWaiter(store); ; {
		v, err := openVolume(ctx, store, openStill, serverOptions{Cache: checkCache}, logToStderr)
		if err == nil || !w.again(err) {
			return v, err
		}
	}
}

// print prints what a volume has that is consistent.
func (r *checkReport) print() {
	fmt.Printf("%s is consistent: %s, %s, %s, %s, %s of %s\n", r.Store,
		counted(r.Forks, "fork"), counted(r.Snapshots, "snapshot"), counted(r.Heads, "inode"),
		counted(r.Saved, "saved state"), counted(r.Objects, "object"), humanBytes(r.Bytes))
}

// eachView calls fn for each fork and snapshot, with another one that it was called
// for before and that is much like it; nil for the first.
func (v *volume) eachView(fn func(view, like *snap.View) error) error {
	var walk func(view, like *snap.View) error
	walk = func(view, like *snap.View) error {
		if err := fn(view, like); err != nil {
			return err
		}
		last := view
		for _, s := range slices.Backward(v.vol.Snapshots(view)) {
			if err := fn(s, last); err != nil {
				return err
			}
			last = s
		}
		for _, f := range v.vol.Forks(view) {
			if err := walk(f, view); err != nil {
				return err
			}
		}
		return nil
	}
	return walk(v.vol.Main(), nil)
}

// progress shows on a terminal how far a check is, at most once a second.
type progress struct {
	f     *os.File // nil: nowhere
	last  time.Time
	shown bool
}

func progressTo(f *os.File, quiet bool) *progress {
	fi, err := f.Stat()
	if quiet || err != nil || fi.Mode()&os.ModeCharDevice == 0 {
		f = nil
	}
	return &progress{f: f, last: time.Now()}
}

func (p *progress) line(format string, args ...any) {
	if p.f == nil || time.Since(p.last) < time.Second {
		return
	}
	p.last, p.shown = time.Now(), true
	fmt.Fprintf(p.f, clearLine+"dcfs: "+format+" ", args...)
}

func (p *progress) records(done, total int) { p.line("checked %d of %d", done, total) }

func (p *progress) inodes(view *snap.View) func() {
	name, n := view.Name(), 0
	return func() {
		n++
		if n%64 == 0 {
			p.line("%s: checked %s", name, counted(n, "inode"))
		}
	}
}

// clear makes room for a line.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.f, clearLine)
		p.shown = false
	}
}
