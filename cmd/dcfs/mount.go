package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"dcfs/fs"
)

// lockWait is how long a command waits for a store that a process is about to
// let go of: umount(8) returns before the last group is durable.
const lockWait = 30 * time.Second

// noticeAfter is when a command that waits says so.
const noticeAfter = time.Second

var mountVerb = &verb{
	name: "mount", args: "STORE[@FORK][%SNAPSHOT] MOUNTPOINT", opens: true,
	summary: "Mount a volume, a fork or a snapshot",
	long: `
STORE is a directory; the volume is made if it is missing or empty. Without
@FORK the volume's first fork, main, is mounted, without %SNAPSHOT the fork's
live state. The command returns when the mount answers.

The live state of a fork is mounted once at a time ("mount --bind" shows it in
more places), a snapshot any number of times. Mounts are nosuid and nodev;
root may ask for -o suid,dev (allow_suid,allow_dev by way of mount(8), which
keeps the others to itself). They are their user's alone; others are let in
with -o allow_other, which an ordinary user may use only if /etc/fuse.conf
says user_allow_other.

With a key (--key-file, DCFS_KEY_FILE or DCFS_PASSPHRASE) a volume that is made is
sealed: its data and names are encrypted in the store, and nothing but the key
opens it. Keep a copy of the key elsewhere.

Options of -o: ro, rw, allow_other, [no]suid, [no]dev, [no]exec, [no]acl,
[no]strictatime, noatime, noexport (no file handles, for an overlayfs on top),
snapdir=NAME and forkdir=NAME (other names for .snapshots and .forks, or
none), fsname=NAME, and, as the flags, cache=, dirty=, size=, commit=, log=,
key-file=. With remount: [no]strictatime, and what the kernel itself sees to
(ro, suid, dev, exec, noatime).
Those that mean something only to mount(8) and /etc/fstab are ignored.

Example:
  dcfs mount ~/volume /mnt
  dcfs mount -o ro ~/volume@try%monday /mnt/monday
  dcfs mount --key-file ~/volume.key ~/sealed /mnt`,
	flags: func(fl *pflag.FlagSet) func([]string) error {
		p := &optionParser{}
		foreground := fl.BoolP("foreground", "f", false, "stay in the foreground until it is unmounted")
		list := fl.StringArrayP("options", "o", nil, "mount options, as mount(8) has them")
		serverFlags(fl, &p.server)
		return func(args []string) error {
			for _, o := range *list {
				if err := p.parse(o); err != nil {
					return err
				}
			}
			if p.mount.Remount && len(args) == 1 {
				args = append([]string{""}, args...)
			}
			if err := wantArgs(args, "STORE", "MOUNTPOINT"); err != nil {
				return err
			}
			return mount(args[0], args[1], p, *foreground)
		}
	},
}

// mountHelper is /sbin/mount.fuse.dcfs: mount(8) calls it with
//
//	SOURCE DIR [-sfnv] [-N namespace] [-o options] [-t type]
func mountHelper(args []string) error {
	fl := pflag.NewFlagSet("mount.fuse.dcfs", pflag.ContinueOnError)
	fl.Usage = func() {}
	list := fl.StringArrayP("options", "o", nil, "")
	sloppy := fl.BoolP("sloppy", "s", false, "")
	fake := fl.BoolP("fake", "f", false, "")
	fl.BoolP("no-mtab", "n", false, "")
	fl.BoolP("verbose", "v", false, "")
	fl.StringP("types", "t", "", "")
	namespace := fl.StringP("namespace", "N", "", "")
	if err := fl.Parse(args); err != nil {
		return &usageError{verb: "mount", text: err.Error()}
	}
	if err := wantArgs(fl.Args(), "SOURCE", "DIR"); err != nil {
		return err
	}
	if *namespace != "" {
		return errors.New("mount -N is not supported: use nsenter(1)")
	}
	p := &optionParser{sloppy: *sloppy}
	for _, o := range *list {
		if err := p.parse(o); err != nil {
			return err
		}
	}
	if *fake {
		return p.check()
	}
	return mount(fl.Arg(0), fl.Arg(1), p, false)
}

// mount mounts the view that source names, or changes the options of what is
// mounted.
func mount(source, mountpoint string, p *optionParser, foreground bool) error {
	if err := p.check(); err != nil {
		return err
	}
	if p.mount.Remount {
		return remount(mountpoint, &p.mount)
	}
	t, err := parseStore(source)
	if err == nil {
		err = t.checkStore()
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return errors.New("there is no /dev/fuse: run \"modprobe fuse\", or start the container with --device /dev/fuse")
	}
	dir, err := prepareMountpoint(mountpoint, t.Store)
	if err != nil {
		return err
	}
	if p.server.Log != "" && p.server.Log != "-" && p.server.Log != "none" {
		if p.server.Log, err = filepath.Abs(p.server.Log); err != nil {
			return err
		}
	}
	if p.server.Log == "-" && !foreground {
		return &usageError{text: "--log=- needs -f: a server in the background has no stderr"}
	}
	mp := &mountPlan{target: t, source: sourceName(source, t, &p.mount), mountpoint: dir, options: p.mount, server: p.server}
	if foreground {
		return mp.inForeground()
	}
	c, err := mp.run(func() error { return startDaemon(t.Store, mp.openMode(), p.server) })
	if err != nil {
		return err
	}
	c.Close()
	// The first answer also shows that the mount works.
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("mounted, but %s does not answer: %w", dir, plainErr(err))
	}
	return nil
}

// sourceName is what /proc/mounts shows: what the caller said, but never a
// relative path, which means nothing elsewhere.
func sourceName(given string, t target, o *mountOptions) string {
	if o.FsName != "" {
		return o.FsName
	}
	if filepath.IsAbs(given) {
		return given
	}
	return t.String()
}

// prepareMountpoint returns the mount point's real path. It clears it if it
// is the mount point of a dead server.
func prepareMountpoint(mountpoint, store string) (string, error) {
	dir, err := realPath(mountpoint)
	if err != nil {
		return "", fmt.Errorf("mount point %w", err)
	}
	for isDead(dir) { // they may be stacked
		if err := clearDead(dir); err != nil {
			return "", err
		}
	}
	if m, err := mountAt(dir); err == nil && m != nil && m.isDcfs() {
		if err := m.present(); err != nil {
			return "", err
		}
	}
	if fi, err := os.Stat(dir); err != nil {
		return "", fmt.Errorf("mount point %s: %w", mountpoint, plainErr(err))
	} else if !fi.IsDir() {
		return "", fmt.Errorf("mount point %s is not a directory", mountpoint)
	}
	if m, err := mountAt(dir); err != nil {
		return "", err
	} else if m != nil && m.isDcfs() {
		return "", fmt.Errorf("%s is mounted already (%s): \"dcfs umount %[1]s\" first", dir, m.Source)
	}
	if real := realAncestor(store); within(real, dir) {
		return "", fmt.Errorf("mount point %s: the store lies in it and would be hidden", dir)
	}
	return dir, nil
}

// realAncestor is path, or the nearest directory above it that exists, free
// of symbolic links.
func realAncestor(path string) string {
	for {
		real, err := filepath.EvalSymlinks(path)
		if err == nil || path == "/" {
			return real
		}
		path = filepath.Dir(path)
	}
}

// clearDead detaches a mount of ours whose server is gone.
func clearDead(dir string) error {
	m, err := mountAt(dir)
	if err != nil {
		return err
	}
	if m == nil || !m.isDcfs() {
		return fmt.Errorf("%s is a dead mount of another file system: unmount it first", dir)
	}
	if err := fs.Detach(dir, true); err != nil {
		return fmt.Errorf("clearing the dead mount at %s: %w", dir, err)
	}
	removeMark(m)
	return nil
}

// mountPlan is a mount that is to be made.
type mountPlan struct {
	target     target
	source     string
	mountpoint string
	options    mountOptions
	server     serverOptions
}

// openMode is how the store is opened: a volume that is made has no forks and
// snapshots to mount.
func (mp *mountPlan) openMode() openMode {
	if mp.target.viewSuffix() != "" {
		return openExisting
	}
	return openOrMake
}

// run makes the mount with the store's server, which start starts if there is
// none. It returns the connection on which the server confirmed.
func (mp *mountPlan) run(start func() error) (*conn, error) {
	w := newWaiter(mp.target.Store)
	startedIt := false
	for {
		c, err := dial(mp.target.Store)
		if err == nil {
			if !startedIt && !mp.server.isZero() {
				fmt.Fprintf(os.Stderr, "dcfs: note: %s is being served already: the flags for its server have no effect\n", mp.target.Store)
			}
			if err = mp.ask(c); err == nil {
				return c, nil
			}
			c.Close()
		} else if errors.Is(err, errNotServed) {
			if err = start(); err == nil {
				startedIt = true
				continue
			}
		}
		if !w.again(err) {
			return nil, err
		}
	}
}

// ask goes through the mount request of the control protocol on c.
func (mp *mountPlan) ask(c *conn) error {
	_, err := c.ask(&request{
		Op: opMount, Fork: mp.target.Fork, Snapshot: mp.target.Snapshot,
		Mountpoint: mp.mountpoint, Source: mp.source, Options: &mp.options,
	})
	if err != nil {
		return err
	}
	fd, err := fs.Attach(mp.mountpoint, mp.attachOptions())
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	dev := ""
	if m, err := mountAt(mp.mountpoint); err == nil && m != nil {
		dev = m.Dev
	}
	if err = c.send(&mounted{Version: protocolVersion, Dev: dev}, fd); err == nil {
		_, err = c.next()
	}
	if err != nil {
		fs.Detach(mp.mountpoint, true)
		return err
	}
	if mp.options.FsName != "" {
		if err := leaveMark(dev, mp.target.Store); err != nil {
			fmt.Fprintf(os.Stderr, "dcfs: note: %v: commands must name the store %s, not the mount point\n", err, mp.target.Store)
		}
	}
	return nil
}

// attachOptions are the options that concern mount(2).
func (mp *mountPlan) attachOptions() fs.MountOptions {
	return fs.MountOptions{
		Source: mp.source, AllowOther: mp.options.AllowOther,
		ReadOnly: mp.options.ReadOnly || mp.target.Snapshot != "", Flags: mp.options.mountFlags(),
	}
}

// inForeground mounts and waits for the end of the mount. It is the server
// itself, if there is none.
func (mp *mountPlan) inForeground() error {
	var s *server
	served := make(chan error, 1)
	c, err := mp.run(func() error {
		syscall.Umask(0)
		mp.server.limitMemory()
		shareCPUs()
		o := mp.server
		if o.Log == "" {
			o.Log = "-"
		}
		log := newLogger(o)
		if err := log.openIn(mp.target.Store, false); err != nil {
			return err
		}
		var err error
		if s, err = newServer(context.Background(), mp.target.Store, mp.openMode(), o, log); err != nil {
			return err
		}
		s.stopOnSignals()
		go func() { served <- s.serve() }()
		return nil
	})
	if err != nil {
		if s != nil {
			s.leave(0)
			<-served
		}
		return err
	}
	c.Close()
	if s != nil {
		return <-served
	}
	return mp.waitForEnd()
}

// waitForEnd waits until another process's mount has ended; SIGINT and
// SIGTERM unmount it.
func (mp *mountPlan) waitForEnd() error {
	m, err := mountAt(mp.mountpoint)
	if err != nil || m == nil {
		return err
	}
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT)
	ended := make(chan error, 1)
	go func() { ended <- watchEnd(mp.target.Store, m.Dev) }()
	for {
		select {
		case err := <-ended:
			return err
		case <-ch:
			if err := umount(mp.mountpoint, umountFlags{lazy: false}); err != nil {
				fmt.Fprintf(os.Stderr, "dcfs: %v\n", err)
			}
		}
	}
}

// watchEnd returns when the mount dev has ended and its data is safe.
func watchEnd(store, dev string) error {
	c, err := dial(store)
	if err != nil {
		return err
	}
	defer c.Close()
	r, err := c.ask(&request{Op: opWatch, Dev: dev})
	for err == nil && r.State != "" {
		r, err = c.next()
	}
	return err
}

// remount changes the options of a mount as "mount -i -o remount,..." does:
// the kernel's own, and whether reads change atime. Of the latter the kernel
// tells the server nothing.
func remount(mountpoint string, o *mountOptions) error {
	dir, err := realPath(mountpoint)
	if err != nil {
		return err
	}
	m, err := mountAt(dir)
	if err != nil {
		return err
	}
	if m == nil || !m.isDcfs() {
		return fmt.Errorf("%s is not a mount of dcfs", dir)
	}
	flags := (kernelFlags(m.Options) | o.Flags) &^ o.Clear
	if err := unix.Mount(m.Source, dir, fsType, flags|unix.MS_REMOUNT, ""); err != nil {
		return fmt.Errorf("remounting %s: %w", dir, err)
	}
	if (o.Flags|o.Clear)&unix.MS_STRICTATIME == 0 {
		return nil
	}
	if err := askMount(m, &request{Op: opRemount, Options: o}); err != nil {
		return fmt.Errorf("remounting %s: strictatime: %w", dir, err)
	}
	return nil
}

// askMount asks the server of a mount for something about it.
func askMount(m *mountEntry, req *request) error {
	store, err := storeOfMount(m)
	if err != nil {
		return err
	}
	c, err := dial(store)
	if err != nil {
		return err
	}
	defer c.Close()
	req.Dev = m.Dev
	_, err = c.ask(req)
	return err
}

// kernelFlags are the flags of mount(2) that mountinfo's options tell.
func kernelFlags(opts string) uintptr {
	var flags uintptr
	for _, o := range strings.Split(opts, ",") {
		flags |= map[string]uintptr{
			"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
			"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
		}[o]
	}
	return flags
}

// waiter tries again as long as that may help, and says so if it takes long.
type waiter struct {
	store   string
	begun   time.Time
	noticed bool
}

func newWaiter(store string) *waiter { return &waiter{store: store, begun: time.Now()} }

// again waits a little and reports whether to try again after err.
func (w *waiter) again(err error) bool {
	code := codeOf(err)
	if code != codeLocked && code != codeClosing || time.Since(w.begun) > lockWait {
		return false
	}
	if !w.noticed && time.Since(w.begun) > noticeAfter {
		w.noticed = true
		fmt.Fprintf(os.Stderr, "dcfs: waiting up to %v for %s to be let go of\n", lockWait, w.store)
	}
	time.Sleep(50 * time.Millisecond)
	return true
}
