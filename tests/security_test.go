package tests

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// asOther runs a program as the ordinary user.
func asOther(t *testing.T, name string, args ...string) result {
	t.Helper()
	return runCommand(t, asUser, name, args...)
}

func TestMountIsNosuidNodevAndPrivateUnlessAsked(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		flags     []string
		has, lack []string
		others    bool
	}{
		{nil, []string{"nosuid", "nodev", "default_permissions"}, []string{"allow_other"}, false},
		{[]string{"-o", "allow_other"}, []string{"nosuid", "nodev", "default_permissions", "allow_other"}, nil, true},
		{[]string{"-o", "suid,allow_other"}, []string{"nodev", "default_permissions", "allow_other"}, []string{"nosuid"}, true},
		{[]string{"-o", "dev"}, []string{"nosuid", "default_permissions"}, []string{"nodev", "allow_other"}, false},
	} {
		_, dir := newMount(t, c.flags...)
		openWay(t, dir)
		options := strings.Split(strings.Fields(mountLine(t, dir))[3], ",")
		for _, o := range c.has {
			if !slices.Contains(options, o) {
				t.Errorf("mount %q has %q, want %s", c.flags, options, o)
			}
		}
		for _, o := range c.lack {
			if slices.Contains(options, o) {
				t.Errorf("mount %q has %q, and nobody asked for %s", c.flags, options, o)
			}
		}
		writeFile(t, filepath.Join(dir, "public"), "text")
		must(t, os.WriteFile(filepath.Join(dir, "private"), []byte("secret"), 0o600))
		if r := asOther(t, "cat", filepath.Join(dir, "public")); (r.code == 0) != c.others {
			t.Errorf("mount %q: another user reads: exit %d, %s", c.flags, r.code, r.stderr)
		}
		if r := asOther(t, "cat", filepath.Join(dir, "private")); r.code == 0 {
			t.Errorf("mount %q: another user reads what is mine alone", c.flags)
		}
		dcfs(t, "umount", dir)
	}
}

// TestProgramsOfThePastGiveNoRights: in .snapshots a set-uid program is never
// run as its owner, whatever the mount's options are. There it may be one that
// was mended since.
func TestProgramsOfThePastGiveNoRights(t *testing.T) {
	needRoot(t)
	needTool(t, "id", "setcap")
	id, err := exec.LookPath("id")
	must(t, err)
	store, dir := newMount(t, "-o", "suid,allow_other")
	openWay(t, dir)
	shell(t, `
cd "$1"; mkdir bin
cp "$2" bin/plain;  chmod 755 bin/plain
cp "$2" bin/suid;   chmod 4755 bin/suid
cp "$2" bin/sgid;   chmod 2755 bin/sgid
cp "$2" bin/caps;   chmod 755 bin/caps; setcap cap_net_raw+ep bin/caps
cp "$2" bin/mandatory; chmod 2745 bin/mandatory # S_ISGID alone is no right
mkdir .snapshots/s .forks/f`, dir, id)
	alone := mountAt(t, store+"%s", "-o", "allow_other")
	openWay(t, alone)
	runs := func(path, flag, want string) {
		t.Helper()
		r := asOther(t, path, flag)
		got := strings.TrimSpace(r.stdout)
		if r.code != 0 {
			got = "denied"
		}
		if got != want {
			t.Errorf("%s %s as another user: %q, %s; want %q", path, flag, got, r.stderr, want)
		}
	}
	me := fmt.Sprint(ordinaryUser)
	// exec(3) of what can't be executed fails before there is a process.
	denied := func(path string) {
		t.Helper()
		if r := asOther(t, "sh", "-c", `exec "$0" -u`, path); r.code == 0 || !strings.Contains(r.stderr, "ermission denied") {
			t.Errorf("%s as another user: exit %d, %q, %q; want it refused", path, r.code, r.stdout, r.stderr)
		}
	}
	// In a chroot there are no libraries: what is run says that it lacks them.
	chrooted := func(want error) {
		t.Helper()
		cmd := exec.Command("/.snapshots/s/bin/suid")
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir, Credential: &syscall.Credential{Uid: ordinaryUser, Gid: ordinaryUser}}
		if err := cmd.Run(); !errors.Is(err, want) {
			t.Errorf("in a chroot: %v, want %v", err, want)
		}
	}
	chrooted(syscall.EACCES)
	for _, where := range []string{"bin", ".forks/f/bin"} { // it is what root asked for
		runs(filepath.Join(dir, where, "suid"), "-u", "0")
		runs(filepath.Join(dir, where, "sgid"), "-g", "0")
		runs(filepath.Join(dir, where, "plain"), "-u", me)
	}
	past := []string{".snapshots/s/bin", "bin/.snapshots/s", ".forks/f/.snapshots/g/bin"}
	must(t, os.Mkdir(filepath.Join(dir, ".forks/f/.snapshots/g"), 0o755))
	for _, where := range past {
		runs(filepath.Join(dir, where, "plain"), "-u", me)
		runs(filepath.Join(dir, where, "mandatory"), "-g", me)
		for _, name := range []string{"suid", "sgid", "caps"} {
			denied(filepath.Join(dir, where, name))
		}
		// Whoever copies it back finds it as it was.
		if st := stat(t, filepath.Join(dir, where, "suid")); st.Mode&07777 != 04755 {
			t.Errorf("%s/suid has mode %o", where, st.Mode&07777)
		}
	}
	// A mount that is nosuid runs them, as their user.
	runs(filepath.Join(alone, "bin/suid"), "-u", me)
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|unix.MS_NODEV, ""))
	for _, where := range append(past, "bin") {
		runs(filepath.Join(dir, where, "suid"), "-u", me)
		runs(filepath.Join(dir, where, "sgid"), "-g", me)
		runs(filepath.Join(dir, where, "caps"), "-u", me)
	}
	chrooted(syscall.ENOENT)
	// Unless another way to it is not.
	bind := mountPoint(t)
	openWay(t, bind)
	must(t, unix.Mount(dir, bind, "", unix.MS_BIND, ""))
	must(t, unix.Mount("", bind, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NODEV, ""))
	denied(filepath.Join(bind, ".snapshots/s/bin/suid"))
	runs(filepath.Join(bind, "bin/suid"), "-u", "0")
	chrooted(syscall.EACCES)
	must(t, unix.Unmount(bind, 0))
	runs(filepath.Join(dir, ".snapshots/s/bin/suid"), "-u", me)
}

// TestSnapshotsHaveTheModesOfTheirTime: what was open to others then is, what
// was not is not, whatever became of it.
func TestSnapshotsHaveTheModesOfTheirTime(t *testing.T) {
	needRoot(t)
	_, dir := newMount(t, "-o", "allow_other")
	openWay(t, dir)
	shell(t, `
cd "$1"
mkdir shut open; echo x >shut/f; echo x >open/f; chmod 700 shut
echo x >was-open; echo x >was-shut; chmod 600 was-shut
echo x >was-mine; chown "$2" was-mine; chmod 600 was-mine
echo x >now-mine; chmod 600 now-mine
mkdir .snapshots/s .forks/f
chmod 755 shut; chmod 700 open; chmod 600 was-open; chmod 644 was-shut; chown 0 was-mine; chown "$2" now-mine`, dir, fmt.Sprint(ordinaryUser))
	for path, reads := range map[string]bool{
		"shut/f": true, "open/f": false, "was-open": false, "was-shut": true, "was-mine": false, "now-mine": true,
		".snapshots/s/shut/f": false, ".snapshots/s/open/f": true, ".snapshots/s/was-open": true, ".snapshots/s/was-shut": false,
		".snapshots/s/was-mine": true, ".snapshots/s/now-mine": false, "shut/.snapshots/s/f": false,
		".forks/f/was-shut": false, ".forks/f/was-mine": true, ".forks/f/now-mine": false,
	} {
		if r := asOther(t, "cat", filepath.Join(dir, path)); (r.code == 0) != reads {
			t.Errorf("%s read by another user: exit %d, %s; want %v", path, r.code, r.stderr, reads)
		}
	}
}
