package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"

	"dcfs/inode"
	"dcfs/snap"
)

var checkVerb = &verb{
	name: "check", args: "STORE",
	summary: "Check that a volume is consistent",
	long: `
Every rule of the volume's format is checked, from its records to the file
system in each fork and snapshot, and a line is printed for each place that
breaks one. The exit status is 0 if there is none. The store must not be
mounted.

Example:
  dcfs check ~/volume
  dcfs check --data ~/volume`,
	flags: func(fl *pflag.FlagSet) func([]string) error {
		asJSON := fl.Bool("json", false, "print JSON")
		quiet := fl.BoolP("quiet", "q", false, "no progress")
		data := fl.Bool("data", false, "read all file data too, and verify its checksums")
		return func(args []string) error {
			if err := wantArgs(args, "STORE"); err != nil {
				return err
			}
			t, err := parseTarget(args[0])
			if err != nil {
				return err
			}
			return check(t, snap.CheckOptions{Contents: *data, Progress: progressTo(os.Stderr, *quiet)}, *asJSON)
		}
	},
}

// checkReport is what a check found.
type checkReport struct {
	Store     string   `json:"store"`
	Problems  []string `json:"problems"`
	Forks     int      `json:"forks"`
	Snapshots int      `json:"snapshots"`
	Heads     int      `json:"heads"`
	Saved     int      `json:"savedHeads"`
	Objects   int      `json:"objects"`
	Bytes     uint64   `json:"objectBytes"`
}

// check opens a store that nobody serves and checks the volume in it.
func check(t target, o snap.CheckOptions, asJSON bool) error {
	if c, err := dial(t.Store); err == nil {
		c.Close()
		return coded(codeBusy, "%s is mounted: unmount it first (\"dcfs status %[1]s\" shows where)", t.Store)
	} else if !errors.Is(err, errNotServed) {
		return err
	}
	ctx := context.Background()
	v, err := lookWaiting(ctx, t.Store)
	if err != nil {
		return err
	}
	r, err := v.check(ctx, o)
	if cerr := v.close(ctx); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("check %s: %w", t.Store, err)
	}
	if err := r.print(asJSON); err != nil {
		return err
	}
	if n := len(r.Problems); n > 0 {
		return fmt.Errorf("%s is not consistent: %s", t.Store, counted(n, "problem"))
	}
	return nil
}

// lookWaiting opens a store, as it is, that another process may be about to
// let go of.
func lookWaiting(ctx context.Context, store string) (*volume, error) {
	for w := newWaiter(store); ; {
		v, err := openVolume(ctx, store, openStill, serverOptions{}, logToStderr)
		if err == nil || !w.again(err) {
			return v, err
		}
	}
}

// check checks the volume, and the file system in each of its views.
func (v *volume) check(ctx context.Context, o snap.CheckOptions) (*checkReport, error) {
	c, err := v.vol.Check(ctx, o)
	if err != nil {
		return nil, err
	}
	r := &checkReport{
		Store: v.dir, Problems: append([]string{}, c.Problems...), Forks: c.Forks, Snapshots: c.Snapshots,
		Heads: c.Heads, Saved: c.Saved, Objects: c.Objects, Bytes: c.Bytes,
	}
	f := inode.New(v.vol, inode.Options{})
	return r, v.eachView(func(view *snap.View) error {
		return f.Check(ctx, view, func(problem string) { r.Problems = append(r.Problems, problem) })
	})
}

// print prints a report.
func (r *checkReport) print(asJSON bool) error {
	if asJSON {
		return printJSON(r)
	}
	for _, p := range r.Problems {
		fmt.Println(p)
	}
	if len(r.Problems) == 0 {
		fmt.Printf("%s is consistent: %s, %s, %s, %s, %s of %s\n", r.Store,
			counted(r.Forks, "fork"), counted(r.Snapshots, "snapshot"), counted(r.Heads, "inode"),
			counted(r.Saved, "saved state"), counted(r.Objects, "object"), humanBytes(r.Bytes))
	}
	return nil
}

// eachView calls fn for each fork and snapshot.
func (v *volume) eachView(fn func(*snap.View) error) error {
	var walk func(view *snap.View) error
	walk = func(view *snap.View) error {
		for _, w := range append(v.vol.Snapshots(view), view) {
			if err := fn(w); err != nil {
				return err
			}
		}
		for _, f := range v.vol.Forks(view) {
			if err := walk(f); err != nil {
				return err
			}
		}
		return nil
	}
	return walk(v.vol.Main())
}

// progressTo returns a function that shows progress on a terminal, at most
// once a second.
func progressTo(f *os.File, quiet bool) func(done, total int) {
	fi, err := f.Stat()
	if quiet || err != nil || fi.Mode()&os.ModeCharDevice == 0 {
		return nil
	}
	last := time.Now()
	return func(done, total int) {
		if time.Since(last) >= time.Second {
			last = time.Now()
			fmt.Fprintf(f, "\rdcfs: checked %d of %d ", done, total)
		}
	}
}
