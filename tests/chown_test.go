package tests

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestChownToNobodyNew: chown(-1, -1) is a chown as any other. It takes set-id
// bits away, also from root, and moves ctime.
func TestChownToNobodyNew(t *testing.T) {
	_, dir := newMount(t, "-o", "allow_other,suid")
	path := filepath.Join(dir, "f")
	for _, c := range []struct{ mode, want uint32 }{
		{0o644, 0o644}, {0o4755, 0o755}, {0o6775, 0o775}, {0o2755, 0o755},
		{0o2745, 0o2745}, // no program: root is in any group, and keeps the bit
	} {
		writeFile(t, path, "text")
		must(t, unix.Chmod(path, c.mode))
		before := stat(t, path)
		must(t, os.Lchown(path, -1, -1))
		after := stat(t, path)
		if got := after.Mode &^ syscall.S_IFMT; os.Getuid() == 0 && got != c.want {
			t.Errorf("mode %o becomes %o, want %o", c.mode, got, c.want)
		}
		if after.Ctim == before.Ctim {
			t.Errorf("mode %o: ctime stays", c.mode)
		}
		if after.Uid != before.Uid || after.Gid != before.Gid || after.Mtim != before.Mtim {
			t.Errorf("mode %o: more than mode and ctime changed: %+v, %+v", c.mode, before, after)
		}
		must(t, os.Remove(path))
	}
	// Others may not take them away: ext4 says EPERM, here it is no change.
	path = filepath.Join(dir, "program")
	writeFile(t, path, "text")
	must(t, unix.Chmod(path, 0o6755))
	if os.Getuid() == 0 {
		d, err := os.Open(dir) // which another user can't reach by its path
		must(t, err)
		defer d.Close()
		runtime.LockOSThread()
		unix.SetfsuidRetUid(1000) // of this thread; takes the capabilities along
		err = unix.Fchownat(int(d.Fd()), "program", -1, -1, 0)
		unix.SetfsuidRetUid(0)
		runtime.UnlockOSThread()
		if err != nil && err != unix.EPERM {
			t.Errorf("chown(-1, -1) by another user: %v", err)
		}
		if st := stat(t, path); st.Mode&0o7777 != 0o6755 {
			t.Errorf("another user makes mode 6755 %o", st.Mode&0o7777)
		}
	}
	// On a directory they mean something else, and stay.
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	must(t, unix.Chmod(filepath.Join(dir, "d"), 0o6775))
	must(t, os.Lchown(filepath.Join(dir, "d"), -1, -1))
	if st := stat(t, filepath.Join(dir, "d")); st.Mode&0o7777 != 0o6775 {
		t.Errorf("a directory of mode 6775 becomes %o", st.Mode&0o7777)
	}
}
