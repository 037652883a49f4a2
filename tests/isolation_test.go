package tests

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// outside is in each name and text that a fork by itself must not show.
const outside = "outside"

// prison is a volume with a fork, in which all may be seen, beside what must not.
// Its paths are in the mount of the whole volume.
func prison(t *testing.T) (store, dir, fork string) {
	t.Helper()
	store, dir = newMount(t, "-o", "allow_other")
	openWay(t, dir)
	fork = filepath.Join(dir, ".forks/try")
	shell(t, `
cd "$1"
mkdir sub; echo shared >sub/shared; ln -s ../../../../outside/x sub/link
mkdir .snapshots/before .forks/try .forks/outside-fork
echo outside >outside; mkdir outside-dir; echo outside >outside-dir/f; echo outside >sub/outside; echo outside >sub/shared
echo outside >.forks/outside-fork/outside
mkdir .snapshots/outside-snapshot .snapshots/outside-snapshot/.forks/outside-too
cd .forks/try
echo mine >sub/mine; mkdir .snapshots/mine .forks/child; echo more >.forks/child/more; mkdir .snapshots/mine/.forks/child2`, dir)
	return store, dir, fork
}

// walkPast walks a tree through all of its virtual directories, too, and fails
// where something from outside shows. It returns how many files it read.
func walkPast(t *testing.T, dir string) (files int) {
	t.Helper()
	var walk func(dir string, depth int)
	walk = func(dir string, depth int) {
		names := append(list(t, dir), ".snapshots", ".forks")
		for _, name := range names {
			path := filepath.Join(dir, name)
			files += look(t, path)
			if fi, err := os.Lstat(path); err == nil && fi.IsDir() && depth < 10 {
				walk(path, depth+1)
			}
		}
	}
	walk(dir, 0)
	return files
}

// look fails if a path, or what is there, is from outside.
func look(t *testing.T, path string) (files int) {
	t.Helper()
	if strings.Contains(path, outside) {
		t.Errorf("%s is found", path)
	}
	if fi, err := os.Lstat(path); err != nil || !fi.Mode().IsRegular() {
		return 0
	}
	if b, err := os.ReadFile(path); err != nil || strings.Contains(string(b), outside) {
		t.Errorf("%s: %q, %v", path, b, err)
	}
	return 1
}

// handlesOf returns file handles of all that a tree has, virtual directories
// among it.
func handlesOf(t *testing.T, dir string) (handles []unix.FileHandle) {
	t.Helper()
	add := func(path string) {
		if h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0); err == nil {
			handles = append(handles, h)
		}
	}
	out := shell(t, `cd "$1"; for d in . .snapshots/* .forks/* .forks/*/.snapshots/* .forks/*/.forks/*; do find -L "$d" -maxdepth 3 2>/dev/null || :; echo "$d/.snapshots"; echo "$d/.forks"; done`, dir)
	for path := range strings.Lines(out) {
		add(filepath.Join(dir, strings.TrimSpace(path)))
	}
	if len(handles) < 20 {
		t.Fatalf("%d handles", len(handles))
	}
	return handles
}

// forged makes handles like those that a tree has, of all doors and inodes that
// a small volume could have.
func forged(like []unix.FileHandle) (handles []unix.FileHandle) {
	generations := map[uint32]bool{}
	for _, h := range like {
		generations[binary.NativeEndian.Uint32(h.Bytes()[8:])] = true
	}
	const passing, virtual, standIn = 1 << 23, 1 << 39, 1 << 38
	for g := range generations {
		for _, door := range []uint64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, passing, passing + 1} {
			for ino := range uint64(24) {
				for _, bits := range []uint64{0, virtual, virtual | standIn} {
					b := make([]byte, 12)
					node := door<<40 | bits | ino
					binary.NativeEndian.PutUint32(b, uint32(node>>32))
					binary.NativeEndian.PutUint32(b[4:], uint32(node))
					binary.NativeEndian.PutUint32(b[8:], g)
					handles = append(handles, unix.NewFileHandle(like[0].Type(), b))
				}
			}
		}
	}
	return handles
}

// openAll opens handles in a mount, and fails where something from outside comes
// out. It returns how many could be opened.
func openAll(t *testing.T, dir string, handles []unix.FileHandle) (opened int) {
	t.Helper()
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(root)
	for _, h := range handles {
		fd, err := unix.OpenByHandleAt(root, h, unix.O_RDONLY|unix.O_NOFOLLOW)
		if err != nil {
			if err != unix.ESTALE && err != unix.ELOOP {
				t.Errorf("handle %x: %v, want ESTALE", h.Bytes(), err)
			}
			continue
		}
		opened++
		f := os.NewFile(uintptr(fd), "handle")
		var got string
		if st, err := f.Stat(); err == nil && st.IsDir() {
			names, _ := f.Readdirnames(-1)
			got = strings.Join(names, " ")
			up, err := unix.Openat(fd, "..", unix.O_RDONLY|unix.O_DIRECTORY, 0)
			if err == nil {
				d := os.NewFile(uintptr(up), "..")
				if st, err := d.Stat(); err == nil && st.Sys().(*syscall.Stat_t).Dev == stat(t, dir).Dev {
					names, _ = d.Readdirnames(-1)
					got += " .. " + strings.Join(names, " ")
				}
				d.Close()
			}
		} else {
			b, _ := io.ReadAll(f)
			got = string(b)
		}
		if strings.Contains(got, outside) {
			t.Errorf("handle %x opens %q", h.Bytes(), got)
		}
		f.Close()
	}
	return opened
}

// asksFor makes control requests through a path that must not reach what lies
// outside of it.
func asksFor(t *testing.T, path string) {
	t.Helper()
	if out := dcfs(t, "fork", "list", path); strings.Contains(out, outside) || !strings.Contains(out, "child") {
		t.Errorf("fork list %s: %q", path, out)
	}
	if out := dcfs(t, "snapshot", "list", path); strings.Contains(out, outside) || !strings.Contains(out, "mine") {
		t.Errorf("snapshot list %s: %q", path, out)
	}
	for _, args := range [][]string{
		{"snapshot", "delete", path, "outside-snapshot"}, {"snapshot", "hold", path, "outside-snapshot"},
		{"snapshot", "rename", path, "outside-snapshot", "x"}, {"snapshot", "rename", path, "mine", "../x"},
		{"snapshot", "create", path, "../x"}, {"snapshot", "create", path, "../../.snapshots/x"},
		{"fork", "delete", path, "outside-fork"}, {"fork", "delete", path, "../outside-fork"}, {"fork", "delete", path, "try"},
		{"fork", "delete", path, ".."}, {"fork", "delete", path, "child/../../outside-fork"}, {"fork", "delete", path, "/outside-fork"},
		{"fork", "rename", path, "child", "../child"}, {"fork", "rename", path, "child", "outside-fork/child"},
		{"fork", "rename", path, "../outside-fork", "x"}, {"fork", "expire", "--ttl", "1h", path, "../outside-fork"},
	} {
		if r := runCommand(t, nil, dcfsBinary(t), args...); r.code == 0 {
			t.Errorf("dcfs %s succeeds", strings.Join(args, " "))
		}
	}
}

func TestForkMountedAloneReachesNothingOutside(t *testing.T) {
	needRoot(t)
	store, dir, _ := prison(t)
	handles := handlesOf(t, dir)
	alone := mountAt(t, store+"@try")
	if n := walkPast(t, alone); n < 10 {
		t.Errorf("a walk reads %d files", n)
	}
	for _, name := range []string{
		".snapshots/outside-snapshot", ".forks/outside-fork", ".forks/outside-too", ".snapshots/before", ".forks/try", ".forks/main",
		".snapshots/mine/.snapshots", ".snapshots/mine/.forks/outside-too", "sub/.forks", "sub/.snapshots/outside-snapshot",
		".snapshots/../.snapshots/before", ".forks/../.forks/outside-fork", ".forks/try/outside", "%outside-snapshot", "@outside-fork",
		".forks/@", ".snapshots/outside-snapshot@try", ".forks/child/.forks/outside-fork", "control", "records", "lock",
	} {
		if _, err := os.Lstat(alone + "/" + name); !os.IsNotExist(err) {
			t.Errorf("%s: %v, want that it does not exist", name, err)
		}
	}
	for _, op := range []func(from, to string) error{os.Rename, os.Link} {
		fails(t, "out", op(filepath.Join(alone, "sub/mine"), filepath.Join(dir, "x")), syscall.EXDEV)
		fails(t, "in", op(filepath.Join(dir, "outside"), filepath.Join(alone, "x")), syscall.EXDEV)
		fails(t, "a fork out", op(filepath.Join(alone, ".forks/child"), filepath.Join(dir, ".forks/x")), syscall.EXDEV)
	}
	if n := openAll(t, alone, handlesOf(t, alone)); n < 20 {
		t.Errorf("%d of the fork's own handles can be opened", n)
	}
	openAll(t, alone, handles)
	openAll(t, alone, forged(append(handlesOf(t, alone), handles...)))
	dcfs(t, "umount", alone)
	alone = mountAt(t, store+"@try")
	openAll(t, alone, forged(handles)) // while the kernel knows nothing
	asksFor(t, alone)

	// So does a snapshot by itself.
	dcfs(t, "umount", alone)
	past := mountAt(t, store+"@try%mine")
	walkPast(t, past)
	openAll(t, past, handles)
	openAll(t, past, forged(handles))
	dcfsFails(t, "a snapshot", "snapshot", "list", past)
	wantFile(t, filepath.Join(dir, outside), "outside\n")
}

// inmate is who is shut up in a directory. He tries to get out of it by way of
// "..", and by the file handles that he is told.
const inmate = `
import ctypes, errno, os, sys
os.chroot(sys.argv[1]); os.chdir("/")
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
top = os.stat("/")
for p in "", ".snapshots/", ".snapshots/mine/", ".forks/", ".forks/child/", "sub/.snapshots/mine/":
    if os.path.exists("/" + p):
        for n in range(8):
            up = "/" + p + "../" * (n + p.count("/"))
            if not os.path.samestat(os.stat(up), top):
                print(up, "is not the top")
libc = ctypes.CDLL(None, use_errno=True)
root = os.open("/", os.O_RDONLY)
refused = 0
for line in sys.stdin:
    kind, data = line.split()
    data = bytes.fromhex(data)
    handle = len(data).to_bytes(4, sys.byteorder) + int(kind).to_bytes(4, sys.byteorder, signed=True) + data
    if libc.open_by_handle_at(root, handle, os.O_RDONLY) >= 0:
        print("opened", line)
    elif ctypes.get_errno() == errno.EPERM:
        refused += 1
print(refused, "refused")
`

// TestBindMountOfAForkReachesNothingOutside: but for root with file handles, which
// are of the whole file system for whoever may open them (CAP_DAC_READ_SEARCH).
func TestBindMountOfAForkReachesNothingOutside(t *testing.T) {
	needRoot(t)
	needTool(t, "python3")
	_, dir, fork := prison(t)
	handles := append(handlesOf(t, dir), forged(handlesOf(t, fork))...)
	for _, from := range []string{fork, filepath.Join(fork, "sub")} {
		bind := mountPoint(t)
		openWay(t, bind)
		must(t, unix.Mount(from, bind, "", unix.MS_BIND, ""))
		t.Cleanup(func() { unix.Unmount(bind, unix.MNT_DETACH) })
		if n := walkPast(t, bind); n < 4 {
			t.Errorf("%s: a walk reads %d files", from, n)
		}
		asksFor(t, bind)
		for _, op := range []func(from, to string) error{os.Rename, os.Link} {
			fails(t, "out", op(filepath.Join(fork, "sub/mine"), filepath.Join(bind, "x")), syscall.EXDEV)
			fails(t, "in", op(filepath.Join(dir, "outside"), filepath.Join(bind, "x")), syscall.EXDEV)
		}
		// Who lives in it alone, as in a container, finds no way up.
		cmd := exec.Command("python3", "-c", inmate, bind, fmt.Sprint(ordinaryUser))
		var in bytes.Buffer
		for _, h := range handles {
			fmt.Fprintf(&in, "%d %x\n", h.Type(), h.Bytes())
		}
		cmd.Stdin = &in
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != fmt.Sprintf("%d refused\n", len(handles)) {
			t.Errorf("inside of %s: %v\n%s", from, err, out)
		}
	}
	// What is made there is the fork's.
	bind := mountPoint(t)
	must(t, unix.Mount(filepath.Join(fork, "sub"), bind, "", unix.MS_BIND, ""))
	t.Cleanup(func() { unix.Unmount(bind, unix.MNT_DETACH) })
	must(t, os.Mkdir(filepath.Join(bind, ".snapshots/made"), 0o755))
	dcfs(t, "snapshot", "create", bind, "made2")
	for _, name := range []string{"made", "made2"} {
		if _, err := os.Stat(filepath.Join(fork, ".snapshots", name)); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, ".snapshots", name)); !os.IsNotExist(err) {
			t.Errorf("%s is a snapshot of the volume: %v", name, err)
		}
	}
}
