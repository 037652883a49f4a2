package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"dcfs/snap"
)

var retentionSetVerb = &verb{
	name: "retention set", args: "POLICY TARGET", opens: true,
	summary: "Have automatic snapshots taken of a fork, and thinned out",
	long: `
POLICY says of how many hours (h), days (d), weeks (w), months (M) and years (y)
the newest automatic snapshot is kept, as in 24h7d4w; periods that have none do
not count. "none" ends it, and leaves the snapshots that there are.

While the store is served, one snapshot is taken in each of the policy's
shortest periods, or soon after the mount if that was missed: of the fork that
TARGET lies in, and if it has changed since the last one. It is called
auto-TIME, as in auto-2026-11-25T21:00:00Z, and the policy is applied then. It
never takes a snapshot that has another name (rename one to keep it), or that
is held. All times are UTC, and a week begins on Monday.

Example:
  dcfs retention set 24h7d4w /mnt
  dcfs retention set 30d12M ~/volume@try
  dcfs retention set none /mnt`,
	flags: func(fl *pflag.FlagSet) func([]string) error {
		return func(args []string) error {
			if err := wantArgs(args, "POLICY", "TARGET"); err != nil {
				return err
			}
			if _, err := snap.ParsePolicy(args[0]); err != nil {
				return &usageError{text: err.Error()}
			}
			t, err := parseTarget(args[1])
			if err != nil {
				return err
			}
			return callStore(t, &request{Op: opRetentionSet, Policy: args[0]}, nil)
		}
	},
}

var retentionShowVerb = &verb{
	name: "retention show", args: "TARGET", opens: true,
	summary: "Show a fork's policy for automatic snapshots",
	long: `
Example:
  dcfs retention show /mnt`,
	flags: func(fl *pflag.FlagSet) func([]string) error {
		asJSON := fl.Bool("json", false, "print JSON")
		return onTarget(nil, func(t target, args []string) error {
			var r retention
			if err := callStore(t, &request{Op: opRetentionShow}, &r); err != nil {
				return err
			}
			if *asJSON {
				return printJSON(&r)
			}
			return r.print()
		})
	},
}

var retentionApplyVerb = &verb{
	name: "retention apply", args: "TARGET", opens: true,
	summary: "Delete the automatic snapshots that a fork's policy does not keep",
	long: `
The same is done after each automatic snapshot. With -n nothing is deleted: it
says what would be, and what that would free.

Example:
  dcfs retention apply -n /mnt`,
	flags: func(fl *pflag.FlagSet) func([]string) error {
		dry := fl.BoolP("dry-run", "n", false, "only say what it would delete")
		asJSON := fl.Bool("json", false, "print JSON")
		return onTarget(nil, func(t target, args []string) error {
			var r thinned
			if err := callStore(t, &request{Op: opRetentionApply, DryRun: *dry}, &r); err != nil {
				return err
			}
			if *asJSON {
				return printJSON(&r)
			}
			deleted, frees := "deleted", "frees"
			if *dry {
				deleted, frees = "would delete", "would free"
			}
			for _, name := range r.Snapshots {
				fmt.Printf("%s %s\n", deleted, name)
			}
			fmt.Printf("%s %s (%d bytes)\n", frees, humanBytes(r.Bytes), r.Bytes)
			return nil
		})
	},
}

// retention is what a fork's policy has brought about.
type retention struct {
	Policy string     `json:"policy"`
	Autos  int        `json:"snapshots"`      // automatic ones
	Last   *time.Time `json:"last,omitempty"` // of them
	Next   *time.Time `json:"next,omitempty"` // when one is due
}

func (r *retention) print() error {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "policy\t%s\n", r.Policy)
	fmt.Fprintf(w, "automatic\t%s", counted(r.Autos, "snapshot"))
	if r.Last != nil {
		fmt.Fprintf(w, ", the last one of %s", localTime(*r.Last))
	}
	fmt.Fprintln(w)
	if r.Next != nil {
		fmt.Fprintf(w, "next\t%s, if it is mounted and has changed\n", localTime(*r.Next))
	}
	return w.Flush()
}

// thinned is what a policy deletes.
type thinned struct {
	Snapshots []string `json:"snapshots"`
	Bytes     uint64   `json:"bytes"` // that this frees
}

// retain does what a request asks about view's policy.
func (v *volume) retain(ctx context.Context, view *snap.View, req *request) (any, error) {
	switch req.Op {
	case opRetentionSet:
		p, err := snap.ParsePolicy(req.Policy)
		if err == nil {
			err = v.vol.SetPolicy(ctx, view, p)
		}
		return nil, verbError(err, "retention")
	case opRetentionShow:
		r, err := v.vol.Retention(view)
		if err != nil {
			return nil, verbError(err, "retention")
		}
		return &retention{r.Policy.String(), r.Autos, timeOrNil(r.Last), timeOrNil(r.Next)}, nil
	}
	names, bytes, err := v.vol.WouldThin(ctx, view)
	if err == nil && !req.DryRun {
		if names, err = v.vol.Thin(ctx, view); len(names) > 0 {
			gone(nil)
		}
	}
	if names == nil {
		names = []string{}
	}
	return &thinned{names, bytes}, verbError(err, "retention")
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
