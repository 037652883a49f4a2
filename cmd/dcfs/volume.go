package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"dcfs/dcdb/store"
	"dcfs/dcdb/store/embedded"
	"dcfs/fs"
	"dcfs/inode"
	"dcfs/snap"
)

// volume is an open store and what is done with it: by the server for whoever
// asks, or by a command for itself.
type volume struct {
	dir   string
	store *store.Counting
	vol   *snap.Volume
}

// How a store is opened.
type openMode int

const (
	openExisting openMode = iota
	openOrMake            // it is made if it is missing or empty
	openStill             // for a look at it as it is: no background work
)

// openVolume opens the store in dir.
func openVolume(ctx context.Context, dir string, mode openMode, o serverOptions, logf func(string, ...any)) (*volume, error) {
	open := embedded.Open
	if mode == openOrMake {
		open = embedded.OpenOrCreate
	}
	var k opening
	var err error
	if k.secret, k.from, err = userKey.read(); err != nil {
		return nil, err
	}
	st, err := open(dir, k.options(embedded.Options{Log: logf}))
	if err != nil {
		return nil, openError(dir, err)
	}
	v := &volume{dir: dir, store: store.NewCounting(k.seal(st))}
	v.vol, err = snap.Open(ctx, countedStore{v.store}, snap.Options{
		CacheBytes: o.Cache, DirtyBytes: o.Dirty, CommitInterval: o.Commit, SizeBytes: o.Size, Log: logf,
		Still: mode == openStill,
	})
	if err != nil {
		st.Close()
		return nil, openError(dir, err)
	}
	return v, nil
}

// sealed reports whether the volume is encrypted.
func (v *volume) sealed() bool { return v.store.Super().Key != "" }

// countedStore counts all calls but those of who looks at what there is.
type countedStore struct{ *store.Counting }

type uncountedKey struct{}

// uncounted marks the calls that a status makes, which is to tell of others'.
func uncounted(ctx context.Context) context.Context {
	return context.WithValue(ctx, uncountedKey{}, true)
}

// Scan implements store.Records.
func (c countedStore) Scan(ctx context.Context, from, to []byte, limit int) ([]store.Record, error) {
	if ctx.Value(uncountedKey{}) != nil {
		return c.Store.Scan(ctx, from, to, limit)
	}
	return c.Counting.Scan(ctx, from, to, limit)
}

// openError says which store it was, and what to do if that is known.
func openError(dir string, err error) error {
	switch {
	case errors.Is(err, embedded.ErrInUse):
		return coded(codeLocked, "store %v", err)
	case errors.Is(err, embedded.ErrNoVolume), errors.Is(err, os.ErrNotExist):
		return coded(codeNotExist, "no volume at %s (\"dcfs mount %[1]s MOUNTPOINT\" makes one)", dir)
	case errors.Is(err, syscall.EROFS):
		return coded(codeReadOnly, "store %s: the store's file system is read-only; dcfs needs to write its lock even for -o ro: remount that file system read-write, or copy the store to one that is", dir)
	case errors.Is(err, os.ErrPermission):
		return coded(codeForbidden, "store %s: permission denied: it belongs to %s", dir, ownerName(dir))
	}
	if strings.Contains(err.Error(), dir) {
		return fmt.Errorf("store %w", err)
	}
	return fmt.Errorf("store %s: %w", dir, err)
}

// close makes everything durable and unlocks the store.
func (v *volume) close(ctx context.Context) error {
	err := v.vol.Close(ctx)
	if cerr := v.store.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("closing store %s: %w", v.dir, err)
	}
	return nil
}

// root returns a view from the volume's first fork on.
func (v *volume) root(fork, snapshot string) (*snap.View, error) {
	view := v.vol.Main()
	if fork != "" {
		var err error
		if view, err = v.forkAt(view, fork); err != nil {
			return nil, err
		}
	}
	if snapshot != "" {
		return v.snapshotOf(view, snapshot)
	}
	return view, nil
}

// forkAt follows a fork's path name, as in try/again.
func (v *volume) forkAt(view *snap.View, name string) (*snap.View, error) {
	for _, n := range strings.Split(name, "/") {
		next, err := v.vol.Fork(view, n)
		if errors.Is(err, snap.ErrNotExist) {
			return nil, coded(codeNotExist, "no fork %q (\"dcfs fork list\" shows those that are there)", name)
		}
		if err != nil {
			return nil, verbError(err, "fork %s", name)
		}
		view = next
	}
	return view, nil
}

func (v *volume) snapshotOf(view *snap.View, name string) (*snap.View, error) {
	if view.IsSnapshot() {
		return nil, coded(codeInvalid, "%s is a snapshot: only forks have snapshots", view.Name())
	}
	s, err := v.vol.Snapshot(view, name)
	if errors.Is(err, snap.ErrNotExist) {
		return nil, coded(codeNotExist, "no snapshot %q (\"dcfs snapshot list\" shows those that are there)", name)
	}
	if err != nil {
		return nil, verbError(err, "snapshot %s", name)
	}
	return s, nil
}

// descend follows p, a path in a mount of view, as far as it leads through
// the virtual directories of that mount.
func (v *volume) descend(view *snap.View, p string, o *mountOptions) (*snap.View, error) {
	parts := strings.Split(strings.Trim(path.Clean("/"+p), "/"), "/")
	for len(parts) >= 2 {
		var next *snap.View
		var err error
		switch parts[0] {
		case virtualName(o.ForkDir, ".forks"):
			next, err = v.vol.Fork(view, parts[1])
		case virtualName(o.SnapDir, ".snapshots"):
			next, err = v.vol.Snapshot(view, parts[1])
		default:
			return v.inDirectory(view, parts, o)
		}
		if err != nil {
			return nil, verbError(err, "%s/%s", parts[0], parts[1])
		}
		view, parts = next, parts[2:]
	}
	return view, nil
}

// inDirectory looks for a snapshot further down: D/.snapshots/S is in
// snapshot S.
func (v *volume) inDirectory(view *snap.View, parts []string, o *mountOptions) (*snap.View, error) {
	name := virtualName(o.SnapDir, ".snapshots")
	for i := 0; i+1 < len(parts); i++ {
		if parts[i] == name && !view.IsSnapshot() {
			s, err := v.vol.Snapshot(view, parts[i+1])
			if err != nil {
				return nil, verbError(err, "%s/%s", parts[i], parts[i+1])
			}
			return s, nil
		}
	}
	return view, nil
}

// virtualName is the name of a virtual directory of a mount, "" if the mount
// has none: no path has an empty part.
func virtualName(set, byDefault string) string {
	switch set {
	case "":
		return byDefault
	case "none":
		return "\x00"
	}
	return set
}

// viewInfo describes a snapshot or a fork.
type viewInfo struct {
	Name    string     `json:"name"`
	View    uint32     `json:"view"`
	Created time.Time  `json:"created"`
	Mounts  []string   `json:"mounts,omitempty"` // where it is mounted by itself
	Expires *time.Time `json:"expires,omitempty"`
	Holds   []string   `json:"holds,omitempty"` // of a snapshot: the tags that hold it

	// Bytes, if they were asked for.
	Refer   *uint64 `json:"refer,omitempty"`   // what it shows, if known
	Used    *uint64 `json:"used,omitempty"`    // of a snapshot: what deleting it alone frees
	Written *uint64 `json:"written,omitempty"` // of a snapshot: since the one before, if known
	Shared  *uint64 `json:"shared,omitempty"`  // of a fork: what it shows and shares with its origin, if known
	Own     *uint64 `json:"own,omitempty"`     // of a fork: what it has written itself, if known
}

// sizes returns the columns that lists show of snapshots or of forks.
func (i *viewInfo) sizes(forks bool) []*uint64 {
	if forks {
		return []*uint64{i.Refer, i.Shared, i.Own}
	}
	return []*uint64{i.Refer, i.Used, i.Written}
}

func infoOf(view *snap.View, name string) viewInfo {
	i := viewInfo{Name: name, View: view.Number(), Created: view.Created().UTC(), Holds: view.Tags()}
	i.Expires = timeOrNil(view.Expires())
	return i
}

// manage does what a request asks of view.
func (v *volume) manage(ctx context.Context, view *snap.View, req *request) (any, error) {
	switch req.Op {
	case opSnapshotCreate:
		fs.Flush(view) // what programs changed by mmap belongs in it
		s, err := v.vol.CreateSnapshotFor(ctx, view, req.Name, req.TTL)
		if err != nil {
			return nil, verbError(err, "snapshot %s", req.Name)
		}
		return infoOf(s, req.Name), nil
	case opSnapshotList:
		return v.listSnapshots(ctx, view, req.Sizes, req.Count)
	case opSnapshotFrees:
		n, err := v.vol.WouldFree(ctx, view, req.Names)
		return freed{n}, verbError(err, "delete snapshots")
	case opSnapshotRename:
		return nil, verbError(v.vol.RenameSnapshot(ctx, view, req.Name, req.To), "rename snapshot %s to %s", req.Name, req.To)
	case opSnapshotDelete:
		return nil, gone(verbError(v.vol.DeleteSnapshot(ctx, view, req.Name), "delete snapshot %s", req.Name))
	case opSnapshotHold, opSnapshotRelease:
		return nil, v.holdSnapshot(ctx, view, req)
	case opSnapshotExpire, opForkExpire:
		return nil, v.expire(ctx, view, req)
	case opRetentionSet, opRetentionShow, opRetentionApply:
		return v.retain(ctx, view, req)
	case opForkCreate:
		return v.createFork(ctx, view, req.Name, req.TTL)
	case opForkList:
		return v.listForks(ctx, view, req.Sizes, req.Count)
	case opForkRename:
		return nil, v.renameFork(ctx, view, req.Name, req.To)
	case opForkDelete:
		parent, name, err := v.forkParent(view, req.Name)
		if err != nil {
			return nil, err
		}
		drop := v.vol.DeleteFork
		if req.Recursive {
			drop = v.vol.DeleteForks
		}
		return nil, gone(verbError(drop(ctx, parent, name), "delete fork %s", req.Name))
	}
	return nil, coded(codeInvalid, "unknown operation %q", req.Op)
}

// gone makes the kernel forget what was deleted, if it was.
func gone(err error) error {
	if err == nil {
		fs.Gone()
	}
	return err
}

// freed is how many bytes something frees.
type freed struct {
	Bytes uint64 `json:"bytes"`
}

func (v *volume) listSnapshots(ctx context.Context, view *snap.View, sizes, count bool) (any, error) {
	if view.IsSnapshot() {
		return nil, coded(codeInvalid, "%s is a snapshot: only forks have snapshots", view.Name())
	}
	list := []viewInfo{}
	if !sizes {
		for _, s := range v.vol.Snapshots(view) {
			list = append(list, infoOf(s, s.Name()))
		}
		return list, nil
	}
	usages, err := v.vol.Sizes(count).Snapshots(ctx, view)
	if err != nil {
		return nil, verbError(err, "sizes of snapshots")
	}
	for _, u := range usages {
		i := infoOf(u.View, u.View.Name())
		i.Refer, i.Used, i.Written = u.Refer, &u.Used, u.Written
		list = append(list, i)
	}
	return list, nil
}

// createFork forks view; a name with slashes puts the fork into another
// fork's listing.
func (v *volume) createFork(ctx context.Context, view *snap.View, name string, ttl time.Duration) (any, error) {
	if strings.Contains(name, "/") {
		return nil, coded(codeInvalid, "fork %s: a name has no slash; to list a fork below another, fork that one, or rename it to there", name)
	}
	if !view.ReadOnly() {
		fs.Flush(view)
	}
	f, err := v.vol.CreateForkFor(ctx, view, name, ttl)
	if err != nil {
		return nil, verbError(err, "fork %s", name)
	}
	return infoOf(f, name), nil
}

// listForks lists the forks below view, with their path names.
func (v *volume) listForks(ctx context.Context, view *snap.View, sizes, count bool) (any, error) {
	if view.IsSnapshot() {
		return nil, coded(codeInvalid, "%s is a snapshot: its forks are listed in its fork", view.Name())
	}
	list := []viewInfo{}
	all := v.vol.Sizes(count)
	var walk func(view *snap.View, prefix string) error
	walk = func(view *snap.View, prefix string) error {
		for _, f := range v.vol.Forks(view) {
			name := prefix + path.Base(f.Name())
			i := infoOf(f, name)
			if sizes {
				u, err := all.Fork(ctx, f)
				if err != nil {
					return verbError(err, "size of fork %s", name)
				}
				i.Refer, i.Shared, i.Own = u.Refer, u.Shared, u.Own
			}
			list = append(list, i)
			if err := walk(f, name+"/"); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk(view, ""); err != nil {
		return nil, err
	}
	return list, nil
}

// renameFork renames a fork, and moves it to another listing if the path
// names differ in more than the last part.
func (v *volume) renameFork(ctx context.Context, view *snap.View, from, to string) error {
	fromView, fromName, err := v.forkParent(view, from)
	if err != nil {
		return err
	}
	toView, toName, err := v.forkParent(view, to)
	if err != nil {
		return err
	}
	return verbError(v.vol.RenameFork(ctx, fromView, fromName, toView, toName), "rename fork %s to %s", from, to)
}

// forkParent returns the view in whose listing the fork name stands.
func (v *volume) forkParent(view *snap.View, name string) (*snap.View, string, error) {
	dir, base := path.Split(name)
	if dir == "" {
		return view, base, nil
	}
	parent, err := v.forkAt(view, strings.TrimSuffix(dir, "/"))
	return parent, base, err
}

// verbError puts what was tried before an error, and after it what to do.
func verbError(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(format, args...)
	if held := (*snap.HeldError)(nil); errors.As(err, &held) {
		return coded(codeBusy, "%s: snapshot %s of fork %s is held (%s): release it with \"dcfs snapshot release\"", what, held.Snapshot, held.Fork, strings.Join(held.Tags, ", "))
	}
	for _, e := range []struct {
		err        error
		code, text string
	}{
		{snap.ErrExist, codeExist, "the name is taken; delete or rename that one first"},
		{snap.ErrNotExist, codeNotExist, "there is none of this name"},
		{snap.ErrNameTooLong, codeInvalid, "a name has at most 255 bytes"},
		{snap.ErrName, codeInvalid, "a name is UTF-8, has no control characters, no /, @ or %, and begins with neither . nor -"},
		{snap.ErrNotEmpty, codeNotEmpty, "it lists forks of its own; delete or rename these first"},
		{snap.ErrReadOnly, codeReadOnly, "a snapshot does not change: name a fork"},
		{snap.ErrGone, codeNotExist, "it was deleted meanwhile"},
		{snap.ErrBusy, codeBusy, "it is in use; unmount it first"},
		{snap.ErrDuration, codeInvalid, "the time to live makes no sense; write 90m, 12h, 2d or 1w, at most 100 years"},
		{snap.ErrPolicy, codeInvalid, "the policy makes no sense; write 24h7d4w, of the letters h, d, w, M and y"},
		{snap.ErrNoPolicy, codeNotExist, "the fork has no policy; \"dcfs retention set\" gives it one"},
		{snap.ErrHold, codeExist, "that tag holds it already; use another --tag"},
		{snap.ErrNoHold, codeNotExist, "that tag does not hold it; \"dcfs snapshot list\" shows those that do"},
		{snap.ErrManyHolds, codeOther, "too many tags hold it; release one first"},
		{inode.ErrNoSpace, codeOther, "no space left in the store"},
		{store.ErrFull, codeOther, "no space left in the store"},
	} {
		if errors.Is(err, e.err) {
			return coded(e.code, "%s: %s", what, e.text)
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}
