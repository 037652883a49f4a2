package main

import (
	"context"

	"github.com/spf13/pflag"

	"dcfs/snap"
)

var snapshotHoldVerb = tagVerb("snapshot hold", "Keep snapshots from being deleted", `
While it is held, a snapshot can't be deleted by anyone, nor the fork that has
it; it does not expire, and no retention takes it. Renaming it is possible, and
so is forking it. A hold has a tag, which says for whom it is; several tags hold
a snapshot until all of them are released. "dcfs snapshot list" shows them.

Example:
  dcfs snapshot hold /mnt monday
  dcfs snapshot hold --tag backup /mnt monday tuesday`, opSnapshotHold)

var snapshotReleaseVerb = tagVerb("snapshot release", "Let go of snapshots that were held", `
Example:
  dcfs snapshot release /mnt monday
  dcfs snapshot release --tag backup /mnt monday tuesday`, opSnapshotRelease)

// tagVerb makes a verb that puts a tag on snapshots or takes it off, in the
// order in which they are named.
func tagVerb(name, summary, long, op string) *verb {
	return &verb{name: name, args: "TARGET NAME...", opens: true, summary: summary, long: long,
		flags: func(fl *pflag.FlagSet) func([]string) error {
			tag := fl.String("tag", snap.DefaultTag, "for whom they are held")
			return onNames(func(t target, name string) error {
				return callStore(t, &request{Op: op, Name: name, Tag: *tag}, nil)
			})
		}}
}

// holdSnapshot puts a tag on a snapshot, or takes it off.
func (v *volume) holdSnapshot(ctx context.Context, view *snap.View, req *request) error {
	if err := snap.CheckName(req.Tag); err != nil {
		return verbError(err, "tag %q", req.Tag)
	}
	if req.Op == opSnapshotHold {
		return verbError(v.vol.Hold(ctx, view, req.Name, req.Tag), "hold snapshot %s with tag %s", req.Name, req.Tag)
	}
	return verbError(v.vol.Release(ctx, view, req.Name, req.Tag), "release snapshot %s from tag %s", req.Name, req.Tag)
}
