package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	fuseDevice = "/dev/fuse"
	fsType     = "dcfs" // after "fuse.", in /proc/mounts
	// deadLayers is how many dead mounts on top of each other Attach clears.
	deadLayers = 16
)

// MountOptions are what the kernel is told at mount.
type MountOptions struct {
	Source     string // what /proc/mounts shows as the source
	ReadOnly   bool
	AllowOther bool // let in other users than the one who mounts
	// Flags are options of mount(8) that hold for any file system: suid, dev,
	// noexec, noatime and so on. Unless said otherwise a mount is nosuid and
	// nodev, as any of FUSE.
	Flags []string
}

// flagBits are the generic options and their flags in mount(2).
var flagBits = map[string]struct {
	set, clear uintptr
}{
	"ro": {syscall.MS_RDONLY, 0}, "rw": {0, syscall.MS_RDONLY},
	"nosuid": {syscall.MS_NOSUID, 0}, "suid": {0, syscall.MS_NOSUID},
	"nodev": {syscall.MS_NODEV, 0}, "dev": {0, syscall.MS_NODEV},
	"noexec": {syscall.MS_NOEXEC, 0}, "exec": {0, syscall.MS_NOEXEC},
	"sync": {syscall.MS_SYNCHRONOUS, 0}, "async": {0, syscall.MS_SYNCHRONOUS},
	"dirsync": {syscall.MS_DIRSYNC, 0},
	"noatime": {syscall.MS_NOATIME, 0}, "atime": {0, syscall.MS_NOATIME},
	strictAtime:  {syscall.MS_STRICTATIME, 0},
	"nodiratime": {syscall.MS_NODIRATIME, 0}, "diratime": {0, syscall.MS_NODIRATIME},
	"relatime": {syscall.MS_RELATIME, 0}, "norelatime": {0, syscall.MS_RELATIME},
}

// strictAtime is the flag that fusermount3 does not know of.
const strictAtime = "strictatime"

// IsMountFlag reports whether MountOptions.Flags may hold s.
func IsMountFlag(s string) bool {
	_, ok := flagBits[s]
	return ok
}

// Attach opens /dev/fuse and mounts it on a directory: by mount(2) as root,
// else by fusermount3. What it returns answers nobody until it is given to
// Serve, in whichever process. A dead mount in the way, whose server was
// killed, is detached first.
func Attach(mountpoint string, o MountOptions) (fd int, err error) {
	dir, err := filepath.Abs(mountpoint)
	if err != nil {
		return -1, err
	}
	if err := checkMountpoint(dir); err != nil {
		return -1, err
	}
	if _, err := os.Stat(fuseDevice); err != nil {
		return -1, fmt.Errorf("%s is missing: load the kernel's module fuse, or give the container the device", fuseDevice)
	}
	if os.Geteuid() == 0 {
		return attachDirect(dir, o)
	}
	return attachHelper(dir, o)
}

// checkMountpoint makes sure that dir is a directory that lives.
func checkMountpoint(dir string) error {
	for range deadLayers {
		st, err := os.Stat(dir)
		if err == nil {
			// What stat(2) tells, the kernel of a dead mount may still know.
			// This it asks for each time.
			err = syscall.Statfs(dir, new(syscall.Statfs_t))
		}
		switch {
		case errors.Is(err, syscall.ENOTCONN):
			if err := Detach(dir, true); err != nil {
				return fmt.Errorf("%s holds a mount whose server is dead: %w", dir, err)
			}
			continue
		case errors.Is(err, os.ErrNotExist):
			return fmt.Errorf("%s does not exist: make the directory first", dir)
		case errors.Is(err, os.ErrPermission):
			return fmt.Errorf("%s: permission denied", dir)
		case err != nil:
			return err
		case !st.IsDir():
			return fmt.Errorf("%s is not a directory", dir)
		}
		return nil
	}
	return fmt.Errorf("%s holds too many dead mounts: umount them", dir)
}

// options returns the options in the two forms that the kernel has for them.
func (o *MountOptions) options() (flags uintptr, words []string, err error) {
	flags = syscall.MS_NOSUID | syscall.MS_NODEV
	names := o.Flags
	if o.ReadOnly {
		names = append([]string{"ro"}, names...)
	}
	for _, name := range names {
		f, ok := flagBits[name]
		if !ok {
			return 0, nil, fmt.Errorf("unknown mount option %q", name)
		}
		flags = flags&^f.clear | f.set
		words = append(words, name)
	}
	return flags, words, nil
}

// fuseWords are the options that FUSE itself has. The kernel checks
// permissions: only so does it look at x on the way through a path that it
// has cached.
func (o *MountOptions) fuseWords() []string {
	words := []string{"default_permissions", fmt.Sprintf("max_read=%d", maxRequestBytes)}
	if o.AllowOther {
		words = append(words, "allow_other")
	}
	return words
}

// attachDirect mounts by mount(2).
func attachDirect(dir string, o MountOptions) (int, error) {
	flags, _, err := o.options()
	if err != nil {
		return -1, err
	}
	fd, err := syscall.Open(fuseDevice, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", fuseDevice, err)
	}
	data := append(o.fuseWords(), fmt.Sprintf("fd=%d", fd), "rootmode=40000",
		fmt.Sprintf("user_id=%d", os.Geteuid()), fmt.Sprintf("group_id=%d", os.Getegid()))
	err = syscall.Mount(o.Source, dir, "fuse."+fsType, flags, strings.Join(data, ","))
	if err != nil {
		syscall.Close(fd)
		return -1, mountError(dir, err)
	}
	return fd, nil
}

func mountError(dir string, err error) error {
	switch {
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("mount on %s: not permitted here (a container needs CAP_SYS_ADMIN)", dir)
	case errors.Is(err, syscall.ENODEV):
		return fmt.Errorf("mount on %s: this kernel has no FUSE", dir)
	}
	return fmt.Errorf("mount on %s: %w", dir, err)
}

// helper returns the path of fusermount3.
func helper() (string, error) {
	for _, name := range []string{"fusermount3", "/usr/bin/fusermount3", "/bin/fusermount3"} {
		if p, err := exec.LookPath(name); err == nil {
			return p, nil
		}
	}
	return "", errors.New("fusermount3 is not installed, and only root can mount without it: install the package fuse3")
}

// attachHelper mounts by fusermount3, which sends the descriptor back over a
// socket whose number it is told.
func attachHelper(dir string, o MountOptions) (int, error) {
	_, words, err := o.options()
	if err != nil {
		return -1, err
	}
	bin, err := helper()
	if err != nil {
		return -1, err
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket pair for fusermount3: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "fusermount3"), os.NewFile(uintptr(pair[1]), "fusermount3")
	defer ours.Close()
	defer theirs.Close()

	words = slices.DeleteFunc(words, func(w string) bool { return w == strictAtime })
	words = append(words, o.fuseWords()...)
	words = append(words, "subtype="+fsType, "fsname="+escapeOption(o.Source))
	cmd := exec.Command(bin, "-o", strings.Join(words, ","), "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	if err := runHelper(cmd); err != nil {
		return -1, err
	}
	theirs.Close() // so that a helper that sent nothing is the end of file
	return receiveFD(ours)
}

// escapeOption makes s a value in a list of options.
func escapeOption(s string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(s)
}

// runHelper runs fusermount3. Its own message is the best one.
func runHelper(cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if line, _, _ := strings.Cut(strings.TrimSpace(out.String()), "\n"); line != "" {
		return errors.New(line)
	}
	return fmt.Errorf("%s: %w", filepath.Base(cmd.Path), err)
}

// receiveFD takes the descriptor that a message carries.
func receiveFD(sock *os.File) (int, error) {
	oob := make([]byte, syscall.CmsgSpace(4))
	_, n, _, _, err := syscall.Recvmsg(int(sock.Fd()), make([]byte, 1), oob, syscall.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("receive the descriptor of the mount: %w", err)
	}
	msgs, err := syscall.ParseSocketControlMessage(oob[:n])
	if err == nil && len(msgs) == 1 {
		if fds, err := syscall.ParseUnixRights(&msgs[0]); err == nil && len(fds) == 1 {
			return fds[0], nil
		}
	}
	return -1, errors.New("fusermount3 did not send the descriptor of the mount")
}

// Detach unmounts. lazy takes the mount away although something in it is in
// use; it lives on for that.
func Detach(mountpoint string, lazy bool) error {
	if mountpoint == "" {
		return errors.New("unmount: where the mount is, is not known here")
	}
	flags := 0x8 // UMOUNT_NOFOLLOW
	if lazy {
		flags |= syscall.MNT_DETACH
	}
	err := unmount(mountpoint, flags)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("%s is in use: end what works in it first: %w", mountpoint, syscall.EBUSY)
	case errors.Is(err, syscall.EINVAL):
		return fmt.Errorf("%s is not mounted", mountpoint)
	case !errors.Is(err, syscall.EPERM):
		return fmt.Errorf("unmount %s: %w", mountpoint, err)
	}
	return detachHelper(mountpoint, lazy)
}

// unmount calls umount2(2). The kernel itself uses a mount for a moment after
// its last file was closed, so busy means something only if it lasts.
func unmount(dir string, flags int) (err error) {
	for wait := time.Millisecond; wait < 100*time.Millisecond; wait *= 2 {
		if err = syscall.Unmount(dir, flags); !errors.Is(err, syscall.EBUSY) {
			return err
		}
		time.Sleep(wait)
	}
	return err
}

func detachHelper(dir string, lazy bool) error {
	bin, err := helper()
	if err != nil {
		return err
	}
	args := []string{"-u"}
	if lazy {
		args = append(args, "-z")
	}
	err = runHelper(exec.Command(bin, append(args, "--", dir)...))
	if err != nil && strings.Contains(err.Error(), "busy") { // all that it tells
		return fmt.Errorf("%w: %w", err, syscall.EBUSY)
	}
	return err
}
