package tests

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	keyFileEnv    = "DCFS_KEY_FILE"
	passphraseEnv = "DCFS_PASSPHRASE"
)

// newKeyFile makes a key file.
func newKeyFile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "key")
	writeFile(t, name, fmt.Sprintf("a key of this test, made at %20d", time.Now().UnixNano()))
	return name
}

// useKeyFile has all commands of this test work on volumes that are sealed with a
// new key file, which it returns.
func useKeyFile(t *testing.T) string {
	t.Helper()
	name := newKeyFile(t)
	t.Setenv(keyFileEnv, name)
	return name
}

// withEnv runs dcfs with another environment: NAME=VALUE sets, NAME unsets.
func withEnv(t *testing.T, env []string, args ...string) result {
	t.Helper()
	return runCommand(t, func(cmd *exec.Cmd) {
		for _, e := range env {
			name, _, set := strings.Cut(e, "=")
			for i := 0; i < len(cmd.Env); i++ {
				if strings.HasPrefix(cmd.Env[i], name+"=") {
					cmd.Env = append(cmd.Env[:i], cmd.Env[i+1:]...)
					i--
				}
			}
			if set {
				cmd.Env = append(cmd.Env, e)
			}
		}
	}, dcfsBinary(t), args...)
}

// wantKeyError wants a command to fail, with one line.
func wantKeyError(t *testing.T, r result, want string) {
	t.Helper()
	if r.code == 0 || !strings.Contains(r.stderr, want) || strings.Count(r.stderr, "\n") != 1 || r.stdout != "" {
		t.Errorf("exit %d, got %q and %q, want one line with %q", r.code, r.stderr, r.stdout, want)
	}
}

// storeFiles are the files of a store that have been written to, with their bytes.
func storeFiles(t *testing.T, store string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(store, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a table that a compaction took away
		}
		if err != nil || !d.Type().IsRegular() || d.Name() == "ballast" {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil {
			files[path] = b
		} else if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// secrets are words that a volume is filled with, each in another place.
var secrets = []string{
	"namesecret", "dirsecret", "smallsecret", "largesecret", "xattrnamesecret", "xattrvaluesecret", "bigxattrsecret",
	"targetsecret", "snapsecret", "forksecret", "tagsecret", "deletedsecret",
}

// fillWithSecrets writes all of secrets into a mount, and has the server log what
// has some of them.
func fillWithSecrets(t *testing.T, store, dir string) {
	t.Helper()
	must(t, os.Mkdir(filepath.Join(dir, "dirsecret"), 0o755))
	for i := range 300 { // more than a head holds
		writeFile(t, filepath.Join(dir, "dirsecret", fmt.Sprint("namesecret", i)), "smallsecret")
	}
	file := filepath.Join(dir, "dirsecret", "large")
	writeFile(t, file, strings.Repeat("largesecret", 100_000))
	must(t, unix.Setxattr(file, "user.xattrnamesecret", []byte("xattrvaluesecret"), 0))
	must(t, unix.Setxattr(file, "user.big", []byte(strings.Repeat("bigxattrsecret", 2000)), 0))
	must(t, os.Symlink("targetsecret", filepath.Join(dir, "link")))
	writeFile(t, filepath.Join(dir, "deletedsecret"), strings.Repeat("deletedsecret", 5000))
	dcfs(t, "snapshot", "create", dir, "snapsecret")
	dcfs(t, "snapshot", "hold", "--tag", "tagsecret", dir, "snapsecret")
	dcfs(t, "fork", "create", dir, "forksecret")
	must(t, os.Remove(filepath.Join(dir, "deletedsecret")))
	at := mountAt(t, store+"@forksecret")
	dcfs(t, "fork", "expire", "--ttl", "1ms", dir, "forksecret")
	eventually(t, "the log says why the fork stays", func() bool {
		b, err := os.ReadFile(filepath.Join(store, "dcfs.log"))
		return err == nil && strings.Contains(string(b), "has expired and stays for now")
	})
	dcfs(t, "fork", "expire", "--ttl", "none", dir, "forksecret")
	dcfs(t, "umount", at)
}

// secretsIn returns which secrets are in the clear in a store, and where.
func secretsIn(t *testing.T, store string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for path, b := range storeFiles(t, store) {
		for _, s := range secrets {
			if bytes.Contains(b, []byte(s)) {
				found[s] = path
			}
		}
	}
	return found
}

// TestSealedStoreHasNothingInTheClear looks through all files of a store for
// names, data, xattrs, targets of symlinks and the key, while it is served and
// after. In a store that is not sealed the same search finds them.
func TestSealedStoreHasNothingInTheClear(t *testing.T) {
	store, dir := newMount(t)
	fillWithSecrets(t, store, dir)
	dcfs(t, "umount", dir)
	if found := secretsIn(t, store); len(found) != len(secrets) {
		t.Errorf("where nothing is sealed, %d of %d secrets are found: %v", len(found), len(secrets), found)
	}

	key := useKeyFile(t)
	secret, err := os.ReadFile(key)
	must(t, err)
	store, dir = newMount(t)
	fillWithSecrets(t, store, dir)
	pid := statusOf(t, dir).PID
	for _, name := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		must(t, err)
		if bytes.Contains(b, secret) || name == "environ" && bytes.Contains(b, []byte(keyFileEnv)) {
			t.Errorf("the server's %s has the key", name)
		}
	}
	look := func(when string) {
		t.Helper()
		if found := secretsIn(t, store); len(found) > 0 {
			t.Errorf("%s, in the clear: %v", when, found)
		}
		for path, b := range storeFiles(t, store) {
			if bytes.Contains(b, secret) {
				t.Errorf("%s, the key is in %s", when, path)
			}
		}
	}
	look("while it is served")
	dcfs(t, "gc", "--wait", dir)
	look("after gc")
	dcfs(t, "scrub", "-q", "--rate=0", dir)
	dcfs(t, "umount", dir)
	dcfs(t, "check", "--data", store)
	look("after umount")

	dcfs(t, "mount", store, dir)
	wantFile(t, filepath.Join(dir, "dirsecret/namesecret7"), "smallsecret")
	wantFile(t, filepath.Join(dir, ".snapshots/snapsecret/deletedsecret"), strings.Repeat("deletedsecret", 5000))
	if st := statusOf(t, dir); !st.Sealed || st.Snapshots != 1 || st.Forks != 1 {
		t.Errorf("status: %+v", st)
	}
}

// TestSealedVolumeWantsItsKey asks with every kind of wrong key, and wants nothing
// changed.
func TestSealedVolumeWantsItsKey(t *testing.T) {
	needFUSE(t)
	key, other := newKeyFile(t), newKeyFile(t)
	dir, store := mountPoint(t), newHarmedStore(t)
	dcfs(t, "mount", "--key-file", key, store, dir)
	writeFile(t, filepath.Join(dir, "a"), "text")
	dcfs(t, "snapshot", "create", dir, "s") // who is served needs no key
	dcfs(t, "snapshot", "list", store)
	dcfs(t, "gc", dir)
	snap := mountAt(t, store+"%s")
	wantFile(t, filepath.Join(snap, "a"), "text")
	dcfs(t, "umount", snap)
	dcfsFails(t, "is mounted", "key", "change", store)
	dcfs(t, "umount", dir)
	if !ended(t, store) {
		t.Fatal("the store is still in use")
	}

	before := storeFiles(t, store)
	short := filepath.Join(t.TempDir(), "short")
	writeFile(t, short, "abc")
	for i, args := range [][]string{
		{"mount", store, dir}, {"mount", store + "%s", dir}, {"mount", "-f", store, dir}, {"status", store}, {"check", store}, {"check", "--repair", store}, {"gc", store}, {"scrub", store},
		{"snapshot", "list", store}, {"snapshot", "create", store, "t"}, {"snapshot", "delete", store, "s"},
		{"snapshot", "hold", store, "s"}, {"snapshot", "rename", store, "s", "t"}, {"fork", "create", store, "f"}, {"fork", "list", store},
		{"fork", "expire", "--ttl", "1h", store, "f"}, {"retention", "set", "2d", store}, {"retention", "show", store}, {"retention", "apply", store},
	} {
		wantKeyError(t, withEnv(t, nil, args...), "the volume is sealed")
		if i%3 == 0 { // the same code for all
			wantKeyError(t, withEnv(t, nil, append(args[:len(args):len(args)], "--key-file="+other)...), "wrong key")
		}
	}
	wantKeyError(t, withEnv(t, []string{keyFileEnv + "=" + other}, "status", store), "wrong key")
	wantKeyError(t, withEnv(t, []string{passphraseEnv + "=guess"}, "status", store), "opened by a key file, not by a passphrase")
	wantKeyError(t, withEnv(t, []string{passphraseEnv + "="}, "status", store), "the passphrase is empty")
	wantKeyError(t, withEnv(t, []string{passphraseEnv + "=x", keyFileEnv + "=" + key}, "status", store), "leave out one of them")
	wantKeyError(t, withEnv(t, nil, "status", "--key-file="+short, store), "32 to")
	wantKeyError(t, withEnv(t, nil, "mount", "--key-file="+short+".not", store, dir), "no such file")
	wantKeyError(t, withEnv(t, nil, "mount", "-o", "key-file="+other, store, dir), "wrong key")
	if isMounted(t, dir) {
		t.Error("it is mounted all the same")
	}
	after := storeFiles(t, store)
	for path, b := range after {
		if !bytes.Equal(b, before[path]) && filepath.Base(path) != "lock" {
			t.Errorf("%s has changed", path)
		}
		delete(before, path)
	}
	for path := range before {
		t.Errorf("%s is gone", path)
	}

	wantKeyError(t, withEnv(t, nil, "mount", "-v", "--key-file="+key, store, dir), "--log=FILE")
	for _, env := range []string{keyFileEnv + "=" + key, keyFileEnv + "=" + other} { // the flag counts
		if r := withEnv(t, []string{env}, "check", "--key-file="+key, store); r.code != 0 {
			t.Errorf("check with the key: exit %d, %s", r.code, r.stderr)
		}
	}
	if r := withEnv(t, nil, "mount", "-o", "ro,key-file="+key, store, dir); r.code != 0 {
		t.Fatalf("mount -o key-file: %s", r.stderr)
	}
	wantFile(t, filepath.Join(dir, "a"), "text")
	dcfs(t, "umount", dir)

	// And a key for what is not sealed.
	plain := newStore(t)
	dcfs(t, "mount", plain, dir)
	dcfs(t, "umount", dir)
	wantKeyError(t, withEnv(t, nil, "check", "--key-file="+key, plain), "is not sealed")
	wantKeyError(t, withEnv(t, []string{passphraseEnv + "=x"}, "mount", plain, dir), "is not sealed")
	wantKeyError(t, withEnv(t, []string{"DCFS_NEW_PASSPHRASE=x", keyFileEnv + "=" + key}, "key", "change", plain), "is not sealed")
}

func TestKeyChange(t *testing.T) {
	needFUSE(t)
	key, next := newKeyFile(t), newKeyFile(t)
	dir, store := mountPoint(t), newHarmedStore(t)
	dcfs(t, "mount", "--key-file", key, store, dir)
	writeFile(t, filepath.Join(dir, "a"), "text")
	dcfs(t, "umount", dir)
	if !ended(t, store) {
		t.Fatal("the store is still in use")
	}
	before := storeFiles(t, store)
	words := passphraseEnv + "=correct horse battery staple"
	wantKeyError(t, withEnv(t, nil, "key", "change", "--key-file", next, "--new-key-file", key, store), "wrong key")
	if r := withEnv(t, []string{"DCFS_NEW_PASSPHRASE=correct horse battery staple"}, "key", "change", "--key-file", key, store); r.code != 0 {
		t.Fatalf("to a passphrase: %s", r.stderr)
	}
	for path, b := range storeFiles(t, store) {
		if name := filepath.Base(path); !bytes.Equal(b, before[path]) && name != "lock" && name != "superblock" {
			t.Errorf("%s has changed", path)
		}
	}
	wantKeyError(t, withEnv(t, nil, "status", "--key-file", key, store), "opened by a passphrase")
	wantKeyError(t, withEnv(t, []string{words + "s"}, "status", store), "wrong key")
	if r := withEnv(t, []string{words}, "mount", store, dir); r.code != 0 {
		t.Fatalf("mount by passphrase: %s", r.stderr)
	}
	wantFile(t, filepath.Join(dir, "a"), "text")
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", statusOf(t, dir).PID))
	must(t, err)
	if bytes.Contains(environ, []byte("correct horse")) {
		t.Error("the server's environment has the passphrase")
	}
	dcfs(t, "umount", dir)
	if r := withEnv(t, []string{words}, "key", "change", "--new-key-file", next, store); r.code != 0 {
		t.Fatalf("to a key file: %s", r.stderr)
	}
	if r := withEnv(t, nil, "check", "--key-file", next, store); r.code != 0 {
		t.Fatalf("check: %s", r.stderr)
	}
	wantKeyError(t, withEnv(t, []string{words}, "check", store), "opened by a key file")
}

// TestDamageOfASealedVolumeIsEIO changes one byte of what a file holds.
func TestDamageOfASealedVolumeIsEIO(t *testing.T) {
	needFUSE(t)
	useKeyFile(t)
	dir, store := mountPoint(t), newHarmedStore(t)
	dcfs(t, "mount", store, dir)
	writeFile(t, filepath.Join(dir, "large"), strings.Repeat("large", 100_000))
	writeFile(t, filepath.Join(dir, "sound"), "sound")
	dcfs(t, "umount", dir)
	segs, err := filepath.Glob(filepath.Join(store, "segments/*.seg"))
	if err != nil || len(segs) != 1 {
		t.Fatalf("segments %q, %v", segs, err)
	}
	b, err := os.ReadFile(segs[0])
	must(t, err)
	b[50_000] ^= 1
	must(t, os.WriteFile(segs[0], b, 0))
	if r := runCommand(t, nil, dcfsBinary(t), "check", "--data", store); r.code != 4 {
		t.Errorf("check --data: exit %d, %s%s", r.code, r.stdout, r.stderr)
	}
	if r := runCommand(t, nil, dcfsBinary(t), "scrub", "-q", "--rate=0", store); r.code != 4 {
		t.Errorf("scrub: exit %d, %s%s", r.code, r.stdout, r.stderr)
	}
	dcfs(t, "mount", store, dir)
	if got, err := os.ReadFile(filepath.Join(dir, "large")); !errors.Is(err, syscall.EIO) {
		t.Errorf("reading it: %d bytes, %v, want EIO", len(got), err)
	}
	wantFile(t, filepath.Join(dir, "sound"), "sound")
}
