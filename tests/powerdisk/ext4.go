package powerdisk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Missing says what of that which Format and Attach need is not here, "" if
// nothing is.
func Missing() string {
	if os.Geteuid() != 0 {
		return "needs root"
	}
	for _, dev := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(dev); err != nil {
			return "no " + dev + " here"
		}
	}
	for _, tool := range []string{"mkfs.ext4", "losetup", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "no " + tool + " here"
		}
	}
	return ""
}

// Format makes an image of an empty ext4.
func Format(image string, bytes int64) error {
	f, err := os.OpenFile(image, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(f.Truncate(bytes), f.Close())
	if err == nil {
		// Else the kernel goes on formatting in the background.
		_, err = command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
	}
	return err
}

// Ext4 is a mounted ext4 on a disk whose power can be cut.
type Ext4 struct {
	Dir  string // where it is mounted
	Disk *Disk

	server *Server
}

// Attach mounts the ext4 of an image, in default mount options, on dir/ext4. After
// a cut that replays its journal.
func Attach(image, dir string) (*Ext4, error) {
	d, err := Open(image)
	if err != nil {
		return nil, err
	}
	return AttachDisk(d, dir)
}

// AttachDisk is Attach of an image that is open. Detach closes it.
func AttachDisk(d *Disk, dir string) (*Ext4, error) {
	e := &Ext4{Dir: filepath.Join(dir, "ext4"), Disk: d}
	under := filepath.Join(dir, "disk")
	err := errors.Join(os.MkdirAll(e.Dir, 0o755), os.MkdirAll(under, 0o755))
	if err == nil {
		e.server, err = Serve(d, under)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if err := e.mount(); err != nil {
		return nil, errors.Join(err, e.server.Close(), d.Close())
	}
	return e, nil
}

func (e *Ext4) mount() error {
	dev, err := command("losetup", "--find", "--show", "--direct-io=on", e.server.Path)
	if err != nil {
		return err
	}
	_, err = command("mount", "-t", "ext4", dev, e.Dir)
	// The device goes with its last user.
	_, detachErr := command("losetup", "--detach", dev)
	return errors.Join(err, detachErr)
}

// Cut cuts the power now, or, with after > 0, at one of the next requests if there
// are so many soon.
func (e *Ext4) Cut(r *rand.Rand, after int) error {
	if after == 0 {
		return e.Disk.Cut(r)
	}
	select {
	case err := <-e.Disk.CutAt(after, r):
		return err
	case <-time.After(3 * time.Second):
	}
	if err := e.Disk.Cut(r); !errors.Is(err, ErrDead) {
		return err
	}
	return nil // meanwhile
}

// Detach unmounts it. Programs that use it must have ended; what they can't have
// closed, lazily.
func (e *Ext4) Detach() error {
	err := unix.Unmount(e.Dir, 0)
	if err == unix.EBUSY {
		err = unix.Unmount(e.Dir, unix.MNT_DETACH)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", e.Dir, err)
	}
	return errors.Join(e.server.Close(), e.Disk.Close())
}

func command(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
