package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOptionsOfMount: what mount(8) may ask of any file system.
func TestOptionsOfMount(t *testing.T) {
	needRoot(t)
	store, dir := newMount(t, "-o", "allow_other,suid,dev")
	p := func(name string) string { return filepath.Join(dir, name) }
	openWay(t, dir)
	shell(t, `cd "$1"; printf '#!/bin/sh\nexit 0\n' >script; chmod 755 script; cp "$(command -v id)" id; chmod 4755 id; mknod null c 1 3; chmod 666 null; echo text >f`, dir)
	again := func(options string) {
		t.Helper()
		dcfs(t, "umount", dir)
		dcfs(t, "mount", "-o", options, store, dir)
	}
	effective := func() string {
		return strings.TrimSpace(runCommand(t, asUser, p("id"), "-u").stdout)
	}
	exec := func() int {
		return runCommand(t, nil, "sh", "-c", `"$0"`, p("script")).code
	}
	if got := effective(); got != "0" {
		t.Errorf("suid: a program of root says %s", got)
	}
	must(t, openErr(p("null"), unix.O_WRONLY))
	if got := exec(); got != 0 {
		t.Errorf("exec: exit %d", got)
	}
	again("allow_other,noexec")
	if got := exec(); got != 126 {
		t.Errorf("noexec: exit %d, want 126", got)
	}
	fails(t, "nodev: open", openErr(p("null"), unix.O_WRONLY), syscall.EACCES)
	again("allow_other")
	if got := effective(); got != fmt.Sprint(ordinaryUser) {
		t.Errorf("nosuid: a program of root says %s", got)
	}

	// Reading moves atime with strictatime only.
	must(t, os.Mkdir(p("d"), 0o755))
	must(t, os.Symlink("f", p("l")))
	moves := func(name string, read func(path string) error) bool {
		t.Helper()
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, p(name), []unix.Timespec{{Sec: 1000}, {Sec: 2000}}, unix.AT_SYMLINK_NOFOLLOW))
		must(t, read(p(name)))
		var st unix.Stat_t
		must(t, unix.Lstat(p(name), &st))
		return st.Atim.Sec != 1000
	}
	atime := func(options string, want bool) {
		t.Helper()
		if got := moves("f", func(path string) error { wants(t, path, "text\n"); return nil }); got != want {
			t.Errorf("%s: atime moves by reading: %v, want %v", options, got, want)
		}
		if got := moves("d", func(path string) error { _, err := os.ReadDir(path); return err }); got != want {
			t.Errorf("%s: atime moves by listing: %v, want %v", options, got, want)
		}
	}
	link := func(path string) error { _, err := os.Readlink(path); return err }
	for options, want := range map[string]bool{"defaults": false, "noatime": false, "relatime": false, "strictatime": true} {
		again(options)
		atime(options, want)
		for range 2 { // the kernel may not keep it
			if got := moves("l", link); got != want {
				t.Errorf("%s: atime moves by readlink: %v, want %v", options, got, want)
			}
		}
	}

	// The same by remount; what it does not speak of stays. A word of the
	// kernel's list of mounts says each but the strict one, which is none.
	again("defaults")
	for _, r := range []struct {
		options, shown string
		moves          bool
	}{
		{"strictatime", "", true},
		{"ro", "", false}, {"rw", "", true},
		{"noatime", "noatime", false},
		{"ro", "noatime", false}, {"rw", "noatime", false},
		{"relatime", "relatime", false},
		{"noatime,strictatime", "", true},
		{"nostrictatime", "relatime", false},
		{"noatime", "noatime", false},
		{"atime", "relatime", false},
	} {
		dcfs(t, "mount", "-o", "remount,"+r.options, dir)
		shown := ""
		for _, o := range strings.Split(strings.Fields(mountLine(t, dir))[3], ",") {
			if strings.HasSuffix(o, "atime") {
				shown += o
			}
		}
		if shown != r.shown {
			t.Errorf("after remount,%s: the mount shows %q, want %q", r.options, shown, r.shown)
		}
		if r.options != "ro" {
			atime("remount,"+r.options, r.moves)
		}
	}

	// ro, and there and back by remount; not while something is being written.
	again("ro")
	fails(t, "write with ro", openErr(p("f"), unix.O_WRONLY), syscall.EROFS)
	fails(t, "mkdir with ro", unix.Mkdir(p("new"), 0o755), syscall.EROFS)
	fails(t, "snapshot with ro", unix.Mkdir(p(".snapshots/s"), 0o755), syscall.EROFS)
	for range 3 {
		dcfs(t, "mount", "-o", "remount,rw", dir)
		f, err := os.OpenFile(p("f"), os.O_RDWR, 0)
		must(t, err)
		if r := runCommand(t, nil, dcfsBinary(t), "mount", "-o", "remount,ro", dir); r.code == 0 {
			t.Error("remount,ro while a file is open to write")
		}
		m, err := unix.Mmap(int(f.Fd()), 0, 5, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		must(t, err)
		m[0] = 'T'
		must(t, unix.Munmap(m))
		must(t, f.Close())
		dcfs(t, "mount", "-o", "remount,ro", dir)
		fails(t, "write after remount,ro", openErr(p("f"), unix.O_WRONLY), syscall.EROFS)
		wants(t, p("f"), "Text\n")
	}
}

// TestMountAgainAtOnce: an unmount has let go of the store when it returns.
func TestMountAgainAtOnce(t *testing.T) {
	store, dir := newMount(t)
	for i := range 20 {
		writeFile(t, filepath.Join(dir, "f"), fmt.Sprint(i))
		dcfs(t, "umount", dir)
		if isMounted(t, dir) {
			t.Fatal("still mounted")
		}
		dcfs(t, "mount", store, dir)
		wantFile(t, filepath.Join(dir, "f"), fmt.Sprint(i))
	}
	dcfs(t, "umount", dir)
	dcfs(t, "check", "--data", store)
}

// TestOverlay: dcfs below an overlayfs, as the layer that is changed and as
// one that is not, also when it is a snapshot.
func TestOverlay(t *testing.T) {
	needRoot(t)
	needTool(t, "setfattr", "python3")
	store, dir := newMount(t, "-o", "suid,dev")
	merged := mountPoint(t)
	shell(t, `
cd "$1"; merged=$2
mkdir -p lower/sub/deep upper work; echo low >lower/f; echo x >lower/sub/g; echo y >lower/sub/deep/h; ln lower/f lower/hard; ln -s f lower/l
setfattr -n user.x -v y lower/f
mkdir .snapshots/s
rm -r lower/sub/deep
for layer in "$1/lower" "$1/.snapshots/s/lower"; do
  for more in "" ,userxattr ,redirect_dir=on ,index=on,redirect_dir=on; do
    rm -rf upper work; mkdir upper work
    mount -t overlay overlay -o lowerdir="$layer",upperdir="$1/upper",workdir="$1/work$more" "$merged"
    (
      cd "$merged"
      [ "$(cat f)" = low ]; [ "$(cat l)" = low ]; [ -e sub/g ]
      echo high >>f; [ "$(cat f)" = $'low\nhigh' ]; [ "$(getfattr --only-values -n user.x f)" = y ]
      rm sub/g; [ ! -e sub/g ]; [ "$(ls sub | grep -c g)" = 0 ]
      mkdir new; echo z >new/z; mv new newer; ln newer/z newer/zz
      mv sub sub2; [ ! -e sub ]; mkdir sub; [ -z "$(ls sub)" ]      # opaque
      mv newer/z f; [ "$(cat f)" = z ]
      mv hard hard2; [ ! -e hard ]                                # a whiteout by rename
      rm -r sub sub2 l; chmod 600 f; touch -d @5 f
      python3 -c 'import os; os.close(os.open(".", os.O_TMPFILE | os.O_RDWR))' || exit 1
      [ "$(ls | tr '\n' ' ')" = "f hard2 newer " ]
    )
    [ "$(find upper -type c | wc -l)" -ge 2 ] || [ -n "${more#,userxattr}" ] || { ls -lR upper >&2; exit 1; }
    umount "$merged"
    mount -t overlay overlay -o lowerdir="$layer",upperdir="$1/upper",workdir="$1/work$more" "$merged"
    [ "$(ls "$merged" | tr '\n' ' ')" = "f hard2 newer " ]; [ "$(stat -c '%a %Y' "$merged/f")" = "600 5" ]
    umount "$merged"
  done
done
[ "$(cat lower/f)" = low ]
`, dir, merged)
	dcfs(t, "umount", dir)
	dcfs(t, "check", "--data", store)
}

// TestOverlayAfterARemount: with noexport, what an overlayfs has copied up is
// there when the kernel knows nothing of the layers any more. (With file
// handles, Linux since 6.16 says ESTALE, from the second look on.)
func TestOverlayAfterARemount(t *testing.T) {
	needRoot(t)
	store, dir := newMount(t, "-o", "suid,dev,noexport")
	merged := mountPoint(t)
	const mount = `cd "$1"; mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work "$2"; cd "$2"; `
	shell(t, `cd "$1"; mkdir -p lower/d upper work; echo low >lower/f; echo low >lower/d/g; ln lower/d/g lower/h; `+
		mount+`echo high >>f; echo high >>d/g; ln f f2; cd /; umount "$2"`, dir, merged)
	dcfs(t, "umount", dir)
	dcfs(t, "mount", "-o", "suid,dev,noexport", store, dir)
	shell(t, mount+`
for i in 1 2 3; do
  for f in f f2 d/g; do [ "$(cat $f)" = $'low\nhigh' ]; [ "$(stat -c %s $f)" = 9 ]; done
  [ "$(cat h)" = low ]; [ "$(ls)" = $'d\nf\nf2\nh' ]
done
mv f f3; rm d/g; cd /; umount "$2"`, dir, merged)
}
