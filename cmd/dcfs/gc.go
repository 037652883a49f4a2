package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"dcfs/dcdb/store"
	"dcfs/snap"
)

var gcVerb = &verb{
	name: "gc", args: "TARGET", opens: true,
	summary: "Give back the disk space of what was deleted",
	long: `
What was deleted is reclaimed in the background, and the space of large
contents comes back with it. The store's records and small contents keep theirs
until many were deleted: this command has them give it back now. With --wait it
first waits until everything that was deleted is reclaimed. Whatever is mounted
stays in use meanwhile.

Example:
  dcfs gc --wait /mnt
  dcfs gc ~/volume`,
	flags: func(fl *pflag.FlagSet) func([]string) error {
		wait := fl.Bool("wait", false, "wait for what is still to be reclaimed, then give its space back too")
		asJSON := fl.Bool("json", false, "print JSON")
		quiet := fl.BoolP("quiet", "q", false, "no progress")
		return onTarget(nil, func(t target, args []string) error {
			show := showBacklog(os.Stderr, *quiet)
			var r gcReport
			err := callStore(t, &request{Op: opGC, Wait: *wait, progress: show.step}, &r)
			show.end()
			if err != nil {
				return err
			}
			if *asJSON {
				return printJSON(&r)
			}
			r.print()
			return nil
		})
	},
}

// backlog is what was deleted and still takes space.
type backlog struct {
	Tasks   int    `json:"tasks"`   // deleted snapshots, and forks to be cut
	Merges  int    `json:"merges"`  // deleted forks to be joined with their last descendant
	Trees   int    `json:"trees"`   // large files and directories that were dropped; 1000 are that or more
	Objects int    `json:"objects"` // that are free and not erased
	Entries uint64 `json:"entries"` // of dead lists, that the tasks remove
	Bytes   uint64 `json:"bytes"`   // ... and what they name
}

// String describes a backlog that is not empty.
func (b backlog) String() string {
	s := counted(b.Tasks+b.Merges, "task")
	if b.Entries > 0 {
		s += fmt.Sprintf(" with %s of %s", counted(int(b.Entries), "dead page"), humanBytes(b.Bytes))
	}
	if b.Trees >= snap.MaxTrees {
		s += fmt.Sprintf(", %d trees or more", b.Trees)
	} else if b.Trees > 0 {
		s += ", " + counted(b.Trees, "tree")
	}
	if b.Objects > 0 {
		s += ", " + counted(b.Objects, "object") + " to erase"
	}
	return s
}

func (v *volume) backlog(ctx context.Context) (backlog, error) {
	b, err := v.vol.Backlog(ctx)
	return backlog(b), err
}

// gcReport is what a gc did.
type gcReport struct {
	Store   string  `json:"store"`
	Before  uint64  `json:"usedBytesBefore"`
	After   uint64  `json:"usedBytesAfter"`
	Full    bool    `json:"full"`    // too full to rewrite the records, which takes space
	Backlog backlog `json:"backlog"` // that is left
}

func (r *gcReport) print() {
	fmt.Printf("%s given back, %s used now\n", humanBytes(r.Before-min(r.Before, r.After)), humanBytes(r.After))
	if r.Full {
		fmt.Println("the disk is too full to give back what records take: do it again when there is some space")
	}
	if r.Backlog != (backlog{}) {
		fmt.Printf("still to be reclaimed: %v (\"dcfs gc --wait\" waits for it)\n", r.Backlog)
	}
}

// gcProgress is what a gc is busy with.
type gcProgress struct {
	Backlog    backlog `json:"backlog"`
	Compacting bool    `json:"compacting"` // nothing is waited for any more
	UsedBytes  uint64  `json:"usedBytes"`
}

// gc waits for the background's work, if it is to, and has the store give back
// what it holds without need.
func (v *volume) gc(ctx context.Context, wait bool, tell func(any) error) (*gcReport, error) {
	before, err := v.vol.Usage(ctx)
	if err != nil {
		return nil, err
	}
	p := gcProgress{}
	now := func() error {
		u, err := v.vol.Usage(ctx)
		if err == nil {
			p.UsedBytes = u.UsedBytes
			p.Backlog, err = v.backlog(ctx)
		}
		if err == nil {
			err = tell(p)
		}
		return err
	}
	if wait {
		if err := telling(ctx, now, v.vol.WaitIdle); err != nil {
			return nil, verbError(err, "waiting for the reclamation")
		}
	}
	p.Compacting = true
	err = telling(ctx, now, v.store.Compact)
	full := errors.Is(err, store.ErrFull)
	if err != nil && !full {
		return nil, verbError(err, "giving space back")
	}
	after, err := v.vol.Usage(ctx)
	if err != nil {
		return nil, err
	}
	r := &gcReport{Store: v.dir, Before: before.UsedBytes, After: after.UsedBytes, Full: full}
	r.Backlog, err = v.backlog(ctx)
	return r, err
}

// backlogLine shows on a terminal what a gc is busy with.
type backlogLine struct {
	f     *os.File // nil: nowhere
	shown bool
}

func showBacklog(f *os.File, quiet bool) *backlogLine {
	fi, err := f.Stat()
	if quiet || err != nil || fi.Mode()&os.ModeCharDevice == 0 {
		f = nil
	}
	return &backlogLine{f: f}
}

// clearLine erases the line that the cursor is in.
const clearLine = "\r\x1b[K"

func (l *backlogLine) step(raw json.RawMessage) error {
	var p gcProgress
	if err := json.Unmarshal(raw, &p); err != nil || l.f == nil {
		return err
	}
	what := "compacting"
	if !p.Compacting {
		what = "reclaiming: " + p.Backlog.String()
	}
	fmt.Fprintf(l.f, "%sdcfs: %s used, %s ", clearLine, humanBytes(p.UsedBytes), what)
	l.shown = true
	return nil
}

func (l *backlogLine) end() {
	if l.shown {
		fmt.Fprint(l.f, clearLine)
	}
}
