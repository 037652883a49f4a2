package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"dcfs/snap"
)

var statusVerb = &verb{
	name: "status", args: "TARGET", opens: true,
	summary: "Show what a store holds, who serves it and where it is mounted",
	long: `
Example:
  dcfs status /mnt
  dcfs status --json ~/volume`,
	flags: func(fl *pflag.FlagSet) func([]string) error {
		asJSON := fl.Bool("json", false, "print JSON")
		return onTarget(nil, func(t target, args []string) error {
			var st status
			if err := callStore(t, &request{Op: opStatus}, &st); err != nil {
				return err
			}
			if *asJSON {
				return printJSON(&st)
			}
			return st.print()
		})
	},
}

// status describes the volume; a server adds what it knows.
func (v *volume) status(ctx context.Context) (*status, error) {
	u, err := v.vol.Usage(ctx)
	if err != nil {
		return nil, err
	}
	super := v.store.Super()
	st := &status{
		Store: v.dir, UUID: super.UUID.String(), Sealed: v.sealed(), Format: super.Version, Created: super.Created,
		Mounts: []mountStatus{}, UsedBytes: u.UsedBytes, FreeBytes: u.FreeBytes,
	}
	if st.Backlog, err = v.backlog(uncounted(ctx)); err != nil {
		return nil, err
	}
	var walk func(view *snap.View)
	walk = func(view *snap.View) {
		st.Snapshots += len(v.vol.Snapshots(view))
		for _, f := range v.vol.Forks(view) {
			st.Forks++
			walk(f)
		}
	}
	walk(v.vol.Main())
	c := &v.store.Counters
	st.Counters = map[string]int64{
		"commits": c.Commits.Load(), "barriers": c.Barriers.Load(),
		"gets": c.Gets.Load(), "scans": c.Scans.Load(), "reads": c.Reads.Load(), "puts": c.Puts.Load(),
		"recordsPut": c.RecordsPut.Load(), "recordsDeleted": c.RecordsDeleted.Load(), "recordBytesPut": c.RecordBytesPut.Load(),
		"objectsPut": c.ObjectsPut.Load(), "objectBytesPut": c.BytesPut.Load(), "objectBytesRead": c.BytesRead.Load(),
		"objectsDeleted": c.ObjectsDeleted.Load(),
	}
	return st, nil
}

// print prints a status for people.
func (st *status) print() error {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "store\t%s\n", st.Store)
	sealed := ""
	if st.Sealed {
		sealed = ", sealed"
	}
	fmt.Fprintf(w, "volume\t%s, format %d, made %s%s\n", st.UUID, st.Format, localTime(st.Created), sealed)
	if st.Served {
		fmt.Fprintf(w, "served by\tdcfs %s, pid %d, since %s\n", st.Version, st.PID, localTime(*st.Since))
	} else {
		fmt.Fprintf(w, "served by\tnobody\n")
	}
	fmt.Fprintf(w, "space\t%s used, %s free\n", humanBytes(st.UsedBytes), humanBytes(st.FreeBytes))
	fmt.Fprintf(w, "holds\t%s, %s besides main\n", counted(st.Snapshots, "snapshot"), counted(st.Forks, "fork"))
	if st.Backlog != (backlog{}) {
		fmt.Fprintf(w, "to reclaim\t%v\n", st.Backlog)
	}
	if err := w.Flush(); err != nil || len(st.Mounts) == 0 {
		return err
	}
	fmt.Println()
	var rows [][]string
	for _, m := range st.Mounts {
		view, access := m.View, "rw"
		if view == "" {
			view = "main"
		}
		if m.ReadOnly {
			access = "ro"
		}
		rows = append(rows, []string{view, m.Mountpoint, access, localTime(m.Since)})
	}
	return printTable([]string{"VIEW", "MOUNTED AT", "", "SINCE"}, rows)
}
