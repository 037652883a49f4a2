package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"dcfs/fs"
)

// endNotice is how long the server may take to see that the kernel has let go
// of a mount. Beyond it, the file system is still mounted in another mount
// namespace, or lazily and in use.
const endNotice = 3 * time.Second

var umountVerb = &verb{
	name: "umount", args: "MOUNTPOINT",
	summary: "Unmount, and return when the data is safe",
	long: `
When the last mount of a store has gone, the store is unlocked before the
command returns. A mount that is in use is left alone, and what uses it is
named; --lazy takes it away from the tree at once, makes everything durable
that was written so far, and leaves it to the programs that use it. The exit
status is 0 only if the data is safe.

Example:
  dcfs umount /mnt`,
	flags: func(fl *pflag.FlagSet) func([]string) error {
		var f umountFlags
		fl.BoolVarP(&f.lazy, "lazy", "l", false, "detach now, even if it is in use")
		return func(args []string) error {
			if err := wantArgs(args, "MOUNTPOINT"); err != nil {
				return err
			}
			return umount(args[0], f)
		}
	},
}

type umountFlags struct {
	lazy bool
	fake bool
	any  bool // also what is no mount of dcfs
}

// umountHelper is /sbin/umount.fuse.dcfs: umount(8) calls it with
//
//	DIR [-flnrv] [-N namespace] [-t type]
func umountHelper(args []string) error {
	fl := pflag.NewFlagSet("umount.fuse.dcfs", pflag.ContinueOnError)
	fl.Usage = func() {}
	lazy := fl.BoolP("lazy", "l", false, "")
	force := fl.BoolP("force", "f", false, "")
	fl.BoolP("no-mtab", "n", false, "")
	fl.BoolP("read-only", "r", false, "")
	fl.BoolP("verbose", "v", false, "")
	fake := fl.Bool("fake", false, "")
	fl.StringP("types", "t", "", "")
	namespace := fl.StringP("namespace", "N", "", "")
	if err := fl.Parse(args); err != nil {
		return &usageError{verb: "umount", text: err.Error()}
	}
	if err := wantArgs(fl.Args(), "DIR"); err != nil {
		return err
	}
	if *namespace != "" {
		return errors.New("umount -N is not supported: use nsenter(1)")
	}
	_ = force // a local mount needs none, and a dead one is cleared anyway
	return umount(fl.Arg(0), umountFlags{lazy: *lazy, fake: *fake, any: true})
}

// umount unmounts and waits until the data is safe.
func umount(mountpoint string, f umountFlags) error {
	dir, err := realPath(mountpoint)
	if err != nil {
		return err
	}
	m, err := mountAt(dir)
	if err != nil {
		return err
	}
	if m == nil || !m.isDcfs() && !f.any {
		return fmt.Errorf("%s is not a mount of dcfs", dir)
	}
	if f.fake {
		return nil
	}
	if !m.isDcfs() {
		return detach(dir, f.lazy)
	}
	if isDead(dir) {
		return clearDead(dir)
	}
	store, c, err := watchMount(m)
	if err != nil { // the mount comes off even if its server can't be asked
		if derr := detach(dir, f.lazy); derr != nil {
			return derr
		}
		return fmt.Errorf("%s is unmounted, but can't wait until its data is safe: %w", dir, err)
	}
	defer c.Close()
	if err := detach(dir, f.lazy); err != nil {
		return err
	}
	removeMark(m)
	if others, err := mountsOf(m.Dev); err == nil && len(others) > 0 {
		return syncStore(store) // a bind mount remains
	}
	return awaitEnd(c, store, dir, f.lazy)
}

// watchMount asks the server of a mount to tell of its end.
func watchMount(m *mountEntry) (store string, c *conn, err error) {
	if store, err = storeOfMount(m); err != nil {
		return "", nil, err
	}
	if c, err = dial(store); err != nil {
		return "", nil, err
	}
	if _, err = c.ask(&request{Op: opWatch, Dev: m.Dev}); err != nil {
		c.Close()
		return "", nil, err
	}
	return store, c, nil
}

// detach takes a mount out of the tree. If it is in use, the error says by
// what.
func detach(dir string, lazy bool) error {
	err := fs.Detach(dir, lazy)
	if errors.Is(err, syscall.EBUSY) {
		return fmt.Errorf("%s is in use%s: end that, or use --lazy", dir, usersOf(dir))
	}
	if err != nil {
		return fmt.Errorf("unmounting %s: %w", dir, plainErr(err))
	}
	return nil
}

// awaitEnd waits for what the server tells of a mount's end.
func awaitEnd(c *conn, store, dir string, lazy bool) error {
	c.SetReadDeadline(time.Now().Add(endNotice))
	if _, err := c.next(); errors.Is(err, os.ErrDeadlineExceeded) {
		why := "it is still mounted in another mount namespace"
		if lazy {
			why = "programs still use it"
		}
		fmt.Fprintf(os.Stderr, "dcfs: note: %s is detached, what was written is safe, but the store stays in use: %s\n", dir, why)
		return syncStore(store)
	} else if err != nil {
		return fmt.Errorf("%s is unmounted, but its data may not be safe: %w", dir, err)
	}
	c.SetReadDeadline(time.Time{})
	notice := time.AfterFunc(noticeAfter, func() { fmt.Fprintf(os.Stderr, "dcfs: writing back what %s still holds in memory\n", store) })
	defer notice.Stop()
	if _, err := c.next(); err != nil {
		return fmt.Errorf("%s is unmounted, but its data may not be safe: %w", dir, err)
	}
	return nil
}

// syncStore makes a served store's data durable. A store whose server has
// ended meanwhile is durable already.
func syncStore(store string) error {
	c, err := dial(store)
	if errors.Is(err, errNotServed) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.ask(&request{Op: opSync})
	if codeOf(err) == codeClosing {
		return nil
	}
	return err
}
