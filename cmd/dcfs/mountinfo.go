package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// fsType is the type that mounts of dcfs show.
const fsType = "fuse.dcfs"

// A mountEntry is a line of /proc/self/mountinfo, see proc(5). Reading it
// asks no file system anything, so it is safe with a server that hangs.
type mountEntry struct {
	ID         uint64
	Dev        string // major:minor, the same in every mount namespace
	Root       string // the part of the file system that is mounted here
	Mountpoint string
	Options    string // of this mount
	FSType     string
	Source     string
	Super      string // options of the file system
}

func (m *mountEntry) isDcfs() bool { return m.FSType == fsType }

// owner returns the user who mounted a FUSE file system.
func (m *mountEntry) owner() int {
	for _, o := range strings.Split(m.Super, ",") {
		if v, ok := strings.CutPrefix(o, "user_id="); ok {
			if uid, err := strconv.Atoi(v); err == nil {
				return uid
			}
		}
	}
	return 0
}

// alive returns an error that says what to do if nobody serves m any more.
func (m *mountEntry) alive() error {
	if isDead(m.Mountpoint) {
		return fmt.Errorf("%s: the process that served this mount is gone; \"dcfs umount %[1]s\" clears it, \"dcfs mount\" mounts anew", m.Mountpoint)
	}
	return m.present()
}

// present returns an error that says what to do if what m shows was deleted.
func (m *mountEntry) present() error {
	if _, err := os.Lstat(m.Mountpoint); errors.Is(err, syscall.ESTALE) {
		return coded(codeNotExist, "%s: the snapshot or fork that is mounted here was deleted: unmount it (\"dcfs umount %[1]s\")", m.Mountpoint)
	}
	return nil
}

// isDead reports whether path lies in a mount whose server is gone. Only
// statfs asks for sure: what stat says may come from the kernel's cache.
func isDead(path string) bool {
	var st syscall.Statfs_t
	err := syscall.Statfs(path, &st)
	return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED)
}

// readMounts returns the mounts of this mount namespace, later ones last.
func readMounts() ([]*mountEntry, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("reading the list of mounts: %w", err)
	}
	defer f.Close()
	return parseMounts(f)
}

func parseMounts(r io.Reader) ([]*mountEntry, error) {
	var ms []*mountEntry
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if m := parseMount(sc.Text()); m != nil {
			ms = append(ms, m)
		}
	}
	return ms, sc.Err()
}

// parseMount reads one line, nil if it is none:
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
func parseMount(line string) *mountEntry {
	left, right, ok := strings.Cut(line, " - ")
	l, r := strings.Fields(left), strings.SplitN(right, " ", 3)
	if !ok || len(l) < 6 || len(r) < 3 {
		return nil
	}
	id, err := strconv.ParseUint(l[0], 10, 64)
	if err != nil {
		return nil
	}
	return &mountEntry{
		ID: id, Dev: l[2], Root: unescape(l[3]), Mountpoint: unescape(l[4]), Options: l[5],
		FSType: r[0], Source: unescape(r[1]), Super: r[2],
	}
}

// unescape undoes the octal escapes of mountinfo, as \040 for a space.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountAt returns the topmost mount on path, nil if it is no mount point.
func mountAt(path string) (*mountEntry, error) {
	ms, err := readMounts()
	if err != nil {
		return nil, err
	}
	var found *mountEntry
	for _, m := range ms {
		if m.Mountpoint == path {
			found = m
		}
	}
	return found, nil
}

// mountOf returns the mount that path lies in. The kernel knows exactly; of a
// dead mount, which can't be asked, the longest mount point decides.
func mountOf(path string) (*mountEntry, error) {
	ms, err := readMounts()
	if err != nil {
		return nil, err
	}
	var stx unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &stx) == nil && stx.Mask&unix.STATX_MNT_ID != 0 {
		for _, m := range ms {
			if m.ID == stx.Mnt_id {
				return m, nil
			}
		}
	}
	var found *mountEntry
	for _, m := range ms {
		if within(path, m.Mountpoint) && (found == nil || len(m.Mountpoint) >= len(found.Mountpoint)) {
			found = m
		}
	}
	return found, nil
}

// within reports whether path is dir or lies below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// mountsOf returns the mount points of the file system with device number dev
// in this mount namespace, the last mounted first.
func mountsOf(dev string) ([]*mountEntry, error) {
	ms, err := readMounts()
	if err != nil {
		return nil, err
	}
	var found []*mountEntry
	for _, m := range ms {
		if m.Dev == dev {
			found = append([]*mountEntry{m}, found...)
		}
	}
	return found, nil
}

// # Marks
//
// The source that a mount shows leads to its store. With -o fsname= it
// does not, so such a mount leaves a mark: a symbolic link to the store,
// named by the device number, in a directory of the user who mounted. It is
// a hint only: whoever follows it asks the server there for that number.

// markDir returns where uid's marks lie.
func markDir(uid int) string {
	if uid == 0 {
		return "/run/dcfs"
	}
	if run := fmt.Sprintf("/run/user/%d", uid); isDir(run) {
		return filepath.Join(run, "dcfs")
	}
	return fmt.Sprintf("/tmp/dcfs-%d", uid)
}

// leaveMark links the device number dev to the store.
func leaveMark(dev, store string) error {
	dir := markDir(os.Geteuid())
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := ownedBy(dir, os.Geteuid()); err != nil {
		return err
	}
	link := filepath.Join(dir, dev)
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(store, link)
}

// removeMark forgets a mark, if there is one.
func removeMark(m *mountEntry) {
	os.Remove(filepath.Join(markDir(m.owner()), m.Dev))
}

// ownedBy checks that nobody else laid path there: /tmp is everyone's.
func ownedBy(path string, uid int) error {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return err
	}
	if st.Uid != uint32(uid) {
		return fmt.Errorf("%s belongs to user %d", path, st.Uid)
	}
	return nil
}

// storeOfMount returns the directory of the store that m shows.
func storeOfMount(m *mountEntry) (string, error) {
	if filepath.IsAbs(m.Source) {
		if t, err := parseStore(m.Source); err == nil && isDir(t.Store) {
			return t.Store, nil
		}
	}
	link := filepath.Join(markDir(m.owner()), m.Dev)
	if ownedBy(link, m.owner()) == nil {
		if store, err := os.Readlink(link); err == nil {
			return store, nil
		}
	}
	if t, err := parseStore(m.Source); err == nil && filepath.IsAbs(m.Source) {
		return "", fmt.Errorf("the store %s, which is mounted at %s, is not there any more", t.Store, m.Mountpoint)
	}
	return "", fmt.Errorf("%s: can't tell which store is mounted here (its source is %q); name the store instead", m.Mountpoint, m.Source)
}
