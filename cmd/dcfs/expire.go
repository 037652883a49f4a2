package main

import (
	"context"
	"time"

	"github.com/spf13/pflag"

	"dcfs/snap"
)

var snapshotExpireVerb = expireVerb("snapshot expire", "Have snapshots expire, or not", `
A snapshot that has expired is deleted while its store is being served, or soon
after the next mount; one that is held when it is released. The time counts from
now, and --ttl none takes it away.

Example:
  dcfs snapshot expire --ttl 12h /mnt monday
  dcfs snapshot expire --ttl none /mnt monday`, opSnapshotExpire)

var forkExpireVerb = expireVerb("fork expire", "Have forks expire, or not", `
A fork that has expired is deleted, with its snapshots, while its store is being
served, or soon after the next mount. It stays for as long as it is mounted by
itself or something in it is in use, lists forks of its own, or has a snapshot
that is held. The time counts from now, and --ttl none takes it away.

Example:
  dcfs fork expire --ttl 2d /mnt try
  dcfs fork expire --ttl none /mnt try/again`, opForkExpire)

// expireVerb makes a verb that has things of TARGET's view expire.
func expireVerb(name, summary, long, op string) *verb {
	return &verb{name: name, args: "--ttl DURATION TARGET NAME...", opens: true, summary: summary, long: long,
		flags: func(fl *pflag.FlagSet) func([]string) error {
			var ttl time.Duration
			addTTL(fl, &ttl)
			run := onNames(func(t target, name string) error {
				return callStore(t, &request{Op: op, Name: name, TTL: ttl}, nil)
			})
			return func(args []string) error {
				if !fl.Changed("ttl") {
					return &usageError{text: "--ttl is missing: in which time they expire, or none"}
				}
				return run(args)
			}
		}}
}

// ttlFlag makes pflag read a time to live.
type ttlFlag struct{ d *time.Duration }

func addTTL(fl *pflag.FlagSet, d *time.Duration) {
	fl.Var(ttlFlag{d}, "ttl", "delete it after this time, as in 90m, 12h, 2d or 1w; none for never")
}

func (f ttlFlag) String() string { return "" }
func (f ttlFlag) Type() string   { return "DURATION" }
func (f ttlFlag) Set(s string) (err error) {
	if s == "none" {
		*f.d = 0
		return nil
	}
	*f.d, err = snap.ParseDuration(s)
	return err
}

// expire sets when a snapshot or fork expires.
func (v *volume) expire(ctx context.Context, view *snap.View, req *request) error {
	if req.Op == opSnapshotExpire {
		return verbError(v.vol.SetSnapshotTTL(ctx, view, req.Name, req.TTL), "expire snapshot %s", req.Name)
	}
	parent, name, err := v.forkParent(view, req.Name)
	if err != nil {
		return err
	}
	return verbError(v.vol.SetForkTTL(ctx, parent, name, req.TTL), "expire fork %s", req.Name)
}

var expiresColumn = column{"EXPIRES", func(i *viewInfo) string {
	if i.Expires == nil {
		return ""
	}
	return localTime(*i.Expires)
}}
