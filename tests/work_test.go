package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// This file does in a mount what people do in a file system: unpack, build,
// keep versions, keep data, compare, copy, clean up. All of it is real; with
// DCFS_LONG=1 it is also large.

func long() bool { return os.Getenv("DCFS_LONG") != "" }

// sourceTree returns a directory of Go's own sources and which parts of it a
// test copies.
func sourceTree(t *testing.T) (dir string, parts []string) {
	t.Helper()
	dir = filepath.Join(strings.TrimSpace(shell(t, "go env GOROOT")), "src")
	if _, err := os.Stat(filepath.Join(dir, "fmt")); err != nil {
		t.Skipf("SKIPPED: no sources of Go in %s", dir)
	}
	if long() {
		return dir, []string{"."}
	}
	return dir, []string{"fmt", "go", "io", "net", "os"}
}

// unpack copies the source tree to a directory with tar.
func unpack(t *testing.T, to string) {
	t.Helper()
	dir, parts := sourceTree(t)
	shell(t, `src=$1 dst=$2; shift 2; mkdir -p "$dst"; tar -C "$src" -cf - -- "$@" | tar -C "$dst" -xf -`, append([]string{dir, to}, parts...)...)
}

// sameTree fails unless two trees have the same names, contents, types, modes
// and link targets.
func sameTree(t *testing.T, what, a, b string) {
	t.Helper()
	r := runCommand(t, nil, "bash", "-euo", "pipefail", "-c", `
list() { (cd "$1"; find . -type d -printf '%p %y %m\n' -o -printf '%p %y %m %s %l\n' | LC_ALL=C sort); }
diff -r --no-dereference "$1" "$2" && diff <(list "$1") <(list "$2")`, "bash", a, b)
	if out := r.stdout + r.stderr; r.code != 0 {
		t.Fatalf("%s: %s and %s differ:\n%.2000s", what, a, b, out)
	}
}

// change changes some 500 files of a tree in every way; the same tree and
// seed are changed in the same way.
const changeScript = `
cd "$1"; seed=$2
find . -type f | LC_ALL=C sort | awk -v s=$seed 'NR % 2 == s % 2 && n++ < 450' >"$3"
i=0
while read -r f; do
  case $((i++ % 9)) in
  0) rm "$f" ;;
  1) mv "$f" "$f.moved" ;;
  2) : >"$f" ;;
  3) ln "$f" "$f.link"; echo "linked $seed" >>"$f" ;;
  4) cp "$f" "$f.new"; mv "$f.new" "$f" ;;
  5) chmod 600 "$f"; echo "// $seed" >"$f" ;;
  6) printf "%s" "in the middle $seed" | dd of="$f" bs=1 seek=5000 conv=notrunc status=none ;;
  *) echo "// changed by $seed" >>"$f" ;;
  esac
done <"$3"
for i in $(seq 50); do mkdir -p "new$seed/$((i % 5))"; echo "$i" >"new$seed/$((i % 5))/$i"; ln -s "$i" "new$seed/$((i % 5))/l$i"; done
`

func change(t *testing.T, tree string, seed int) {
	t.Helper()
	shell(t, changeScript, tree, strconv.Itoa(seed), filepath.Join(t.TempDir(), "list"))
}

// TestWorkSnapshotsAndForksOfATree is the life of a source tree: unpacked,
// snapshotted, changed, forked, changed on both sides, remounted; each view
// stays what it was.
func TestWorkSnapshotsAndForksOfATree(t *testing.T) {
	store, dir := newMount(t)
	ref := t.TempDir() // the same on a plain file system
	live, snap, fork := filepath.Join(dir, "src"), filepath.Join(dir, ".snapshots/one/src"), filepath.Join(dir, ".forks/try/src")
	refOld, refLive, refFork := filepath.Join(ref, "old"), filepath.Join(ref, "live"), filepath.Join(ref, "fork")
	unpack(t, refOld)
	unpack(t, live)
	sameTree(t, "unpacked", live, refOld)

	shell(t, `mkdir "$1/.snapshots/one"; cp -a "$2" "$3"`, dir, refOld, refLive)
	change(t, live, 1)
	change(t, refLive, 1)
	sameTree(t, "snapshot after changes", snap, refOld)
	sameTree(t, "live after changes", live, refLive)

	shell(t, `mkdir "$1/.forks/try"; cp -a "$2" "$3"`, dir, refLive, refFork)
	for i, tree := range []string{live, refLive, fork, refFork} {
		change(t, tree, 2+i/2)
	}
	views := func(when string) {
		t.Helper()
		sameTree(t, "snapshot "+when, snap, refOld)
		sameTree(t, "live "+when, live, refLive)
		sameTree(t, "fork "+when, fork, refFork)
	}
	views("after the fork")
	dcfs(t, "umount", dir)
	dcfs(t, "mount", store, dir)
	views("after a remount")

	alone := mountAt(t, store+"%one")
	sameTree(t, "snapshot mounted alone", filepath.Join(alone, "src"), refOld)
	dcfs(t, "umount", alone)
	shell(t, `rmdir "$1/.snapshots/one"`, dir)
	sameTree(t, "live without the snapshot", live, refLive)
	sameTree(t, "fork without the snapshot", fork, refFork)
	dcfs(t, "umount", dir)
	dcfs(t, "check", "--data", store)
}

// TestWorkToolsBetweenLiveAndSnapshot compares and restores with the tools
// that people have.
func TestWorkToolsBetweenLiveAndSnapshot(t *testing.T) {
	needTool(t, "rsync")
	store, dir := newMount(t)
	live, snap, out := filepath.Join(dir, "src"), filepath.Join(dir, ".snapshots/x/src"), t.TempDir()
	old := filepath.Join(out, "old")
	unpack(t, live)
	unpack(t, old)
	shell(t, `mkdir "$1/.snapshots/x"`, dir)
	change(t, live, 1)

	shell(t, `
live=$1 snap=$2 out=$3 old=$4
fail() { echo "$*" >&2; exit 1; }
# cp -a, rsync -a and tar, out of the snapshot and out of the mount
cp -a "$snap" "$out/cp"
rsync -a "$snap/" "$out/rsync/"
[ -z "$(rsync -ai --delete "$snap/" "$out/rsync/")" ] || fail "the second rsync transfers something"
tar -C "$snap" -cf "$out/snap.tar" .; mkdir "$out/tar"; tar -C "$out/tar" -xf "$out/snap.tar"
for d in cp rsync tar; do diff -r --no-dereference "$old" "$out/$d" || fail "$d"; done
# ... of both in one archive: the snapshot's files are no links to the live ones
tar -C "$live/.." -cf "$out/both.tar" src .snapshots/x/src; mkdir "$out/both"; tar -C "$out/both" -xf "$out/both.tar"
diff -r --no-dereference "$out/both/src" "$live" || fail "live half of the archive"
diff -r --no-dereference "$out/both/.snapshots/x/src" "$old" || fail "snapshot half of the archive"
# different files are different, to each tool
while read -r f; do
  [ -f "$snap/$f" ] && ! cmp -s "$old/$f" "$live/$f" && break
done < <(cd "$live"; find . -type f -size +0 | LC_ALL=C sort)
[ -n "$f" ] || fail "no changed file found"
! cmp -s "$live/$f" "$snap/$f" || fail "cmp calls $f equal"
! diff -q "$live/$f" "$snap/$f" >/dev/null || fail "diff calls $f equal"
[ "$(stat -c %i "$live/$f")" != "$(stat -c %i "$snap/$f")" ] || fail "one inode number in two views"
[ -n "$(rsync -ain --delete "$snap/" "$live/")" ] || fail "rsync sees no difference"
# find sees the same names in both, as the trees are
[ "$(cd "$snap"; find . | LC_ALL=C sort | md5sum)" = "$(cd "$old"; find . | LC_ALL=C sort | md5sum)" ] || fail "find in the snapshot"
# restore: one file, a directory with cp -a, the rest with rsync
cp "$snap/$f" "$live/$f"
cmp "$live/$f" "$old/$f"
d=$(dirname "$f"); rm -rf "$live/$d"; cp -a "$live/.snapshots/x/$d" "$live/$d"
diff -r --no-dereference "$live/$d" "$old/$d" || fail "cp -a back"
rsync -ac --delete "$snap/" "$live/"
diff -r --no-dereference "$live" "$old" || fail "rsync back"
`, live, snap, out, old)
	dcfs(t, "umount", dir)
	dcfs(t, "check", "--data", store)
}

// TestWorkWalksNeverEnterThePast: what walks a tree sees neither virtual
// directory, and what tries to empty a snapshot removes nothing.
func TestWorkWalksNeverEnterThePast(t *testing.T) {
	store, dir := newMount(t)
	shell(t, `
dir=$1
fail() { echo "$*" >&2; exit 1; }
mkdir -p $dir/d/e/empty; echo 1 >$dir/d/f; echo 2 >$dir/d/e/g; head -c 300000 /dev/urandom >$dir/d/h
before=$(find $dir | wc -l) size=$(du -s --apparent-size $dir | cut -f1)
for s in a b c; do mkdir $dir/.snapshots/$s; mkdir $dir/.forks/$s; done
[ "$(find $dir | wc -l)" = $before ] || fail "find enters .snapshots or .forks"
[ "$(du -s --apparent-size $dir | cut -f1)" = $size ] || fail "du counts them"
[ -z "$(ls -A $dir | grep -v '^d$')" ] || fail "ls -A lists them"
[ "$(grep -rl . $dir | wc -l)" = 3 ] || fail "grep -r finds more"
[ "$(tar -C $dir -cf - . | tar -tf - | wc -l)" = $before ] || fail "tar packs them"

# the past is not to be removed
[ "$(rm -rf $dir/.snapshots/a 2>&1 | grep -c 'Read-only file system')" -ge 1 ] || fail "rm -rf of a snapshot: no EROFS"
! rm -rf $dir/.snapshots/a 2>/dev/null || fail "rm -rf of a snapshot succeeds"
[ "$(find $dir/.snapshots/a | wc -l)" = $before ] || fail "rm -rf of a snapshot removed something"
! rm -rf $dir/d/.snapshots/a 2>/dev/null || fail "rm -rf of a directory's snapshot succeeds"
! rm -rf $dir/d/e/empty/.snapshots/a 2>/dev/null || fail "rm -rf of an empty directory's snapshot succeeds"
[ -d $dir/.snapshots/a ] || fail "the snapshot is gone"

rm -rf $dir/d
[ "$(find $dir | wc -l)" = 1 ] || fail "rm -rf left something"
cmp <(echo 2) $dir/.snapshots/a/d/e/g
cmp <(echo 1) $dir/.forks/b/d/f
rmdir $dir/.snapshots/a; [ ! -e $dir/.snapshots/a ] || fail "rmdir left the snapshot"
`, dir)
	dcfs(t, "umount", dir)
	dcfs(t, "check", "--data", store)
}

// TestWorkGoBuild builds a program inside the mount, with its cache there.
func TestWorkGoBuild(t *testing.T) {
	_, dir := newMount(t)
	prog := `package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func main() { json.NewEncoder(os.Stdout).Encode(map[string]string{"hello": fmt.Sprint("mount")}) }
`
	shell(t, `mkdir -p "$1"/{prog,tmp}; cd "$1/prog"; printf 'module prog\n\ngo 1.24\n' >go.mod; printf %s "$2" >main.go`, dir, prog)
	out := shell(t, `
cd "$1/prog"; export GOCACHE=$1/cache GOTMPDIR=$1/tmp GOFLAGS= CGO_ENABLED=0
go build -o hello .
./hello
go vet .
n=$(find "$GOCACHE" -type f | wc -l); [ $n -gt 100 ] || { echo "$n files in the cache" >&2; exit 1; }
go build -o hello2 . && cmp hello hello2     # from the cache
mkdir "$1/.forks/other"; cd "$1/.forks/other/prog"; GOCACHE=$1/.forks/other/cache go build -o hello3 . && ./hello3
`, dir)
	if out != strings.Repeat(`{"hello":"mount"}`+"\n", 2) {
		t.Errorf("the program says %q", out)
	}
	if long() {
		src, _ := sourceTree(t)
		shell(t, `cp -r "$2/.." "$1/go"; export GOROOT=$1/go GOCACHE=$1/cache2 GOTMPDIR=$1/tmp; cd "$GOROOT/src/cmd/gofmt"; "$GOROOT/bin/go" build -o "$1/gofmt" .; "$1/gofmt" -l "$1/prog"`, dir, src)
	}
}

// TestWorkGit keeps versions in the mount.
func TestWorkGit(t *testing.T) {
	needTool(t, "git")
	_, dir := newMount(t)
	unpack(t, filepath.Join(dir, "repo"))
	shell(t, `
export HOME=$1 GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
cd "$1/repo"
git init -q -b main; git add -A; git commit -qm one
for i in 1 2 3; do echo $i >>fmt/doc.go; git commit -qam "change $i"; done
git checkout -qb side; git mv fmt/doc.go fmt/moved.go; git commit -qm move; git checkout -q main; git merge -q side
git gc -q --prune=now; git fsck --full --strict 2>&1 | grep -v '^dangling' | grep . && exit 1
[ -z "$(git status --porcelain)" ] || { git status >&2; exit 1; }
git clone -q "$1/repo" "$1/clone"; git clone -q --no-local "$1/repo" "$1/clone2"; git clone -q --shared "$1/repo" "$1/clone3"
for c in clone clone2 clone3; do diff -r -x .git "$1/repo" "$1/$c"; git -C "$1/$c" fsck --full; done >/dev/null 2>&1
git worktree add -q "$1/tree" HEAD~2; diff <(git show HEAD~2:fmt/doc.go) "$1/tree/fmt/doc.go"
mkdir "$1/.snapshots/s"; git rm -rqf . ; git commit -qm nothing
[ "$(git -C "$1/.snapshots/s/repo" --git-dir="$1/.snapshots/s/repo/.git" rev-parse HEAD)" = "$(git rev-parse HEAD~1)" ]
`, dir)
}

// TestWorkSQLite keeps a database in the mount, snapshots it between
// transactions, and finds it whole in each view.
func TestWorkSQLite(t *testing.T) {
	needTool(t, "sqlite3")
	store, dir := newMount(t)
	shell(t, `
cd "$1"
transactions() { for i in $(seq $1 $2); do echo "BEGIN; INSERT INTO t VALUES($i, hex(randomblob(50))); UPDATE sum SET n = n + $i; COMMIT;"; done; }
check() { [ "$(sqlite3 -readonly "$1" 'PRAGMA integrity_check; SELECT count(*) FROM t; SELECT n FROM sum;' | tr '\n' ' ')" = "ok $2 $3 " ] || { echo "$1 is wrong: $(sqlite3 -readonly "$1" 'PRAGMA integrity_check; SELECT count(*) FROM t; SELECT n FROM sum;' 2>&1)" >&2; exit 1; }; }
sqlite3 db 'CREATE TABLE t(i INTEGER PRIMARY KEY, x); CREATE INDEX ix ON t(x); CREATE TABLE sum(n); INSERT INTO sum VALUES(0);'
transactions 1 500 | sqlite3 db
mkdir .snapshots/half
transactions 501 1000 | sqlite3 db
check db 1000 500500
cp .snapshots/half/db old; check old 500 125250
mkdir .snapshots/half/.forks/half
(cd .forks/half; transactions 501 600 | sqlite3 db; check db 600 180300)
check db 1000 500500
(echo 'PRAGMA journal_mode=WAL;'; transactions 1001 1200) | sqlite3 db >/dev/null; check db 1200 720600
`, dir)
	dcfs(t, "umount", dir)
	dcfs(t, "mount", store, dir)
	shell(t, `cd "$1"; [ "$(sqlite3 db 'PRAGMA integrity_check; SELECT count(*) FROM t')" = $'ok\n1200' ]; [ "$(sqlite3 .forks/half/db 'PRAGMA integrity_check; SELECT count(*) FROM t')" = $'ok\n600' ]`, dir)
	dcfs(t, "umount", dir)
	dcfs(t, "check", "--data", store)
}

// TestWorkMemoryStaysBounded: many small files come and go; the server's
// memory does not follow.
func TestWorkMemoryStaysBounded(t *testing.T) {
	needFUSE(t)
	bin, err := buildCommand(false) // the race detector has a memory of its own
	if err != nil {
		t.Fatal(err)
	}
	files := 100_000
	if raceEnabled && !long() {
		files = 30_000 // this process is slow then; scripts/bench and the plain tests do all
	}
	dir, store := mountPoint(t), newStore(t)
	if r := runCommand(t, nil, bin, "mount", store, dir); r.code != 0 {
		t.Fatal(r.stderr)
	}
	pid := statusOf(t, store).PID
	text := []byte(strings.Repeat("small file ", 40))
	path := func(i int) string { return filepath.Join(dir, fmt.Sprintf("d%d", i/1000), fmt.Sprintf("file%d", i)) }
	for i := range files {
		if i%1000 == 0 {
			if err := os.Mkdir(filepath.Dir(path(i)), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path(i), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i := range files {
		if got, err := os.ReadFile(path(i)); err != nil || len(got) != len(text) {
			t.Fatalf("%s: %d bytes, %v", path(i), len(got), err)
		}
	}
	for i := range files {
		if err := os.Remove(path(i)); err != nil {
			t.Fatal(err)
		}
	}
	now, high := rssBytes(t, pid)
	t.Logf("%d files created, read and deleted: resident %d MiB, at most %d MiB", files, now>>20, high>>20)
	if high > 512<<20 {
		t.Errorf("the server had %d MiB resident, more than 512", high>>20)
	}
}

// TestWorkLargeFile: a small synced write into a large file costs the store
// little.
func TestWorkLargeFile(t *testing.T) {
	size := int64(64 << 20)
	if long() {
		size = 1 << 30
	}
	store, dir := newMount(t)
	path := filepath.Join(dir, "large")
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 2654435761 >> 13)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off := int64(0); off < size; off += int64(len(block)) {
		if _, err := f.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	before := statusOf(t, store).Counters
	for i := range int64(8) {
		if _, err := f.WriteAt([]byte(strings.Repeat("w", 4096)), (size/8*i)&^4095); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	after := statusOf(t, store).Counters
	written := after["recordBytesPut"] + after["objectBytesPut"] - before["recordBytesPut"] - before["objectBytesPut"]
	t.Logf("a 4 KiB write with fsync: %d bytes to the store", written/8)
	if written/8 > 64<<10 {
		t.Errorf("a 4 KiB write with fsync writes %d bytes to the store, more than 64 KiB", written/8)
	}
}

// TestWorkOnCachedDataAsksNothingOfTheStore: between commit groups, operations
// on live data that is in memory make no call to the store.
func TestWorkOnCachedDataAsksNothingOfTheStore(t *testing.T) {
	store, dir := newMount(t, "--commit=5m")
	shell(t, `cd "$1"; mkdir -p a/b; for i in $(seq 200); do echo "$i" >a/$i; done; mkdir .snapshots/s; sync a a/b`, dir)
	before := statusOf(t, store).Counters
	shell(t, `
cd "$1"
for i in $(seq 200); do
  [ "$(<a/$i)" = $i ]; echo "$i again" >>a/$i; echo new >a/b/$i
done
ls -lR a >/dev/null; find . -newer a/1 >/dev/null
for i in $(seq 100); do mv a/$i a/b/moved$i; ln a/b/$i a/link$i; chmod 600 a/b/$i; done
head -c 1000000 /dev/zero >a/large; truncate -s 500000 a/large; ln -s x a/sym; readlink a/sym >/dev/null
rm a/b/moved*; mkdir a/c; rmdir a/c; touch a/sym`, dir)
	after := statusOf(t, store).Counters
	for name, n := range after {
		if n != before[name] {
			t.Errorf("%d %s while everything was cached", n-before[name], name)
		}
	}
}

// TestWorkProgramsRunFromTheMount: what is executed and mapped.
func TestWorkProgramsRunFromTheMount(t *testing.T) {
	_, dir := newMount(t)
	prog := filepath.Join(dir, "prog")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	shell(t, `cp "$1" "$2"; mkdir "$3/.snapshots/s"`, self, prog, dir)
	for _, p := range []string{prog, filepath.Join(dir, ".snapshots/s/prog")} {
		out, err := exec.Command(p, "-test.list", "^TestWorkProgramsRunFromTheMount$").CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "TestWorkProgramsRunFromTheMount") {
			t.Errorf("%s: %v, %q", p, err, out)
		}
	}
}
