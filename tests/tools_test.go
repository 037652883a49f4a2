package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// plantAll makes a tree with all that an archive can keep: links, times, modes,
// owners, ACLs, xattrs, capabilities, holes, special files and odd names.
const plantAll = `
mkdir -p "$1/d/e" "$1/empty"; cd "$1"
echo one >f; ln f d/hard; ln -s ../f d/sym; ln -s nowhere d/dangling
head -c 300000 /dev/urandom >d/random; : >nothing; echo x >$'d/a name\nof two lines'; echo y >"d/$(printf '\303\244\377')"
truncate -s 10M d/sparse; printf data | dd of=d/sparse bs=1 seek=5000000 conv=notrunc status=none
setfattr -n user.text -v "some text" f; setfattr -n user.bin -v 0x00ff01 d; head -c 3000 /dev/zero | tr '\0' v >.v; setfattr -n user.big -v "$(cat .v)" d/random; rm .v
setfacl -m u:1000:rw,g:50:r,m::rw f; setfacl -m u:1001:rwx d; setfacl -d -m u:1002:rx d/e
mkfifo p; chmod 4755 d/random; chmod 1777 empty; chmod 2750 d/e
if [ "$(id -u)" = 0 ]; then chown 1234:567 f d/e; chown -h 77:88 d/sym; mknod c c 1 3; setcap cap_net_raw+ep d/random; fi
touch -d '2001-02-03 04:05:06.789012345' f d/random; find . -type l -o -type p -o -type c | xargs touch -h -d '1999-01-01 00:00:00.5'; touch -d '2040-05-06 07:08:09' d/e empty d
`

// listAll prints everything about a tree.
const listAll = `
list() { (
  cd "$1"
  find . -mindepth 1 -printf '%P %y %m %U:%G %n %T@ %l\n' | LC_ALL=C sort
  find . -mindepth 1 -type f -printf '%P %s\n' -exec md5sum {} + | LC_ALL=C sort
  find . -mindepth 1 ! -type l -print0 | LC_ALL=C sort -z | xargs -0 getfattr -h -d -m - -e hex 2>&1
  find . -mindepth 1 ! -type l -print0 | LC_ALL=C sort -z | xargs -0 getfacl -p -n 2>&1
); }
same() { diff <(list "$1") <(list "$2") >&2 || { echo "$3: $1 and $2 differ" >&2; exit 1; }; }
holes() { [ "$(du -k "$1" | cut -f1)" -lt 1000 ] || { echo "$1 has lost its holes" >&2; exit 1; }; }
`

// TestToolsCopyEverything: tar, rsync and cp take a tree into a mount, within
// it, out of a snapshot and out of the mount, and nothing is lost on the way.
func TestToolsCopyEverything(t *testing.T) {
	needRoot(t)
	needTool(t, "tar", "rsync", "getfattr", "getfacl", "setcap")
	store, dir := newMount(t, "-o", "allow_other,suid,dev")
	out := t.TempDir()
	shell(t, plantAll, filepath.Join(out, "orig"))
	shell(t, listAll+`
cd "$1"; out=$2
pack() { tar --xattrs --xattrs-include='*' --acls -S -C "$1" -cf - .; }
unpack() { mkdir "$1"; tar --xattrs --xattrs-include='*' --acls -S -C "$1" -xpf -; }
again() { [ -z "$(rsync -aHAXSi --delete "$1/" "$2/")" ] || { echo "a second rsync of $1 to $2 transfers" >&2; rsync -aHAXSin --delete "$1/" "$2/" >&2; exit 1; }; }
pack "$out/orig" | unpack tar;        same "$out/orig" tar "tar into the mount"; holes tar/d/sparse
rsync -aHAXS "$out/orig/" rsync/;     same "$out/orig" rsync "rsync into the mount"; holes rsync/d/sparse; again "$out/orig" rsync
cp -a "$out/orig" cp;                 same "$out/orig" cp "cp into the mount"; holes cp/d/sparse
mkdir .snapshots/s .forks/f
pack .snapshots/s/tar | unpack tar2;  same "$out/orig" tar2 "tar out of a snapshot"; holes tar2/d/sparse
cp -a .snapshots/s/cp cp2;            same "$out/orig" cp2 "cp out of a snapshot"; holes cp2/d/sparse
rsync -aHAXS .snapshots/s/rsync/ .forks/f/rsync2/; same "$out/orig" .forks/f/rsync2 "rsync from a snapshot to a fork"; again .snapshots/s/rsync .forks/f/rsync2
pack tar2 | unpack "$out/tar";        same "$out/orig" "$out/tar" "tar out of the mount"
rsync -aHAXS tar2/ "$out/rsync/";     same "$out/orig" "$out/rsync" "rsync out of the mount"; again tar2 "$out/rsync"
cp -a cp2 "$out/cp";                  same "$out/orig" "$out/cp" "cp out of the mount"
mv cp2 "$out/mv";                     same "$out/orig" "$out/mv" "mv out of the mount"; [ ! -e cp2 ]
`, dir, out)
	dcfs(t, "umount", dir)
	dcfs(t, "mount", "-o", "allow_other,suid,dev", store, dir)
	shell(t, listAll+`same "$2/orig" "$1/tar" "after a remount"`, dir, out)
	dcfs(t, "umount", dir)
	dcfs(t, "check", "--data", store)
}

// TestToolsSQLiteWAL: several processes share a database in WAL mode, whose
// index is memory that they map; snapshots of it open as after a crash.
func TestToolsSQLiteWAL(t *testing.T) {
	needTool(t, "sqlite3")
	store, dir := newMount(t)
	shell(t, `
cd "$1"
sqlite3 db 'PRAGMA journal_mode=WAL; CREATE TABLE t(who, i, x, PRIMARY KEY(who, i)); CREATE TABLE sum(n); INSERT INTO sum VALUES(0)' >/dev/null
writer() {
  for i in $(seq 40); do
    sqlite3 -cmd '.timeout 60000' db "BEGIN IMMEDIATE; INSERT INTO t VALUES($1, $i, hex(randomblob(500))); UPDATE sum SET n = n + 1; COMMIT" || return 1
  done
}
reader() {
  while [ ! -e stop ]; do
    [ "$(sqlite3 -cmd '.timeout 60000' db 'SELECT (SELECT count(*) FROM t) = (SELECT n FROM sum)')" = 1 ] || { echo "a reader sees half a transaction" >&2; return 1; }
  done
}
pids=; for w in 1 2 3; do writer $w & pids="$pids $!"; done
reader & r=$!
# a reader that stays keeps the shared memory alive
mkfifo hold; sqlite3 -cmd '.timeout 60000' db <hold >/dev/null & h=$!; exec 9>hold; echo 'BEGIN; SELECT count(*) FROM t;' >&9
for s in 1 2 3 4; do sleep 0.3; mkdir .snapshots/$s; done
for p in $pids; do wait $p; done
: >stop; wait $r; exec 9>&-; wait $h
[ "$(sqlite3 db 'PRAGMA integrity_check; SELECT count(*) FROM t; SELECT n FROM sum' | tr '\n' ' ')" = "ok 120 120 " ]
for s in 1 2 3 4; do
  mkdir .snapshots/$s/.forks/f$s
  [ "$(sqlite3 .forks/f$s/db 'PRAGMA integrity_check; SELECT (SELECT count(*) FROM t) = (SELECT n FROM sum)' | tr '\n' ' ')" = "ok 1 " ] || { echo "snapshot $s is torn" >&2; exit 1; }
done
sqlite3 db 'PRAGMA wal_checkpoint(TRUNCATE); VACUUM; PRAGMA integrity_check' | tail -1 | grep -qx ok
`, dir)
	dcfs(t, "umount", dir)
	dcfs(t, "check", "--data", store)
}

// TestToolsMake builds a C project in parallel, twice: the second has nothing
// to do, so times are right; then what one header touches.
func TestToolsMake(t *testing.T) {
	needTool(t, "make", "gcc")
	_, dir := newMount(t)
	out := shell(t, `
cd "$1"; mkdir src; cd src
for i in $(seq 12); do
  printf '#include "all.h"\n#include <stdio.h>\nint f%d(int x) { printf("%%d ", x); return x + ADD; }\n' $i >f$i.c
done
echo '#define ADD 1' >all.h; for i in $(seq 12); do echo "int f$i(int);" >>all.h; done
{ printf '#include "all.h"\n#include <stdio.h>\nint main(void) { int x = 0;\n'; for i in $(seq 12); do echo "x = f$i(x);"; done; printf 'printf("%%d\\n", x); return 0; }\n'; } >main.c
printf 'objs := $(patsubst %%.c,%%.o,$(wildcard *.c))\nall: prog lib.so\nprog: main.o lib.a\n\tgcc -o $@ main.o lib.a\nlib.a: $(filter-out main.o,$(objs))\n\tar rcs $@ $^\nlib.so: $(filter-out main.o,$(objs))\n\tgcc -shared -o $@ $^\n%%.o: %%.c all.h\n\tgcc -g -fPIC -c -o $@ $<\nclean:\n\trm -f *.o *.a *.so prog\n' >Makefile
make -s -j4; ./prog
make -q
touch f3.c; [ "$(make -j4 | grep -c -- '-c -o')" = 1 ]
sed -i 's/ADD 1/ADD 2/' all.h; [ "$(make -j4 | grep -c -- '-c -o')" = 13 ]; ./prog
make -s clean; [ "$(ls | wc -l)" = 15 ]
`, dir)
	if want := "0 1 2 3 4 5 6 7 8 9 10 11 12\n0 2 4 6 8 10 12 14 16 18 20 22 24\n"; out != want {
		t.Errorf("the program says %q, want %q", out, want)
	}
}

// TestToolsPostgres: a cluster lives in a mount under load, is snapshotted
// meanwhile, and starts from the snapshot as after a crash. With DCFS_LONG=1.
func TestToolsPostgres(t *testing.T) {
	if !long() {
		t.Skip("SKIPPED: set DCFS_LONG=1")
	}
	needRoot(t) // to become another user: PostgreSQL refuses to run as root
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		t.Skip("SKIPPED: postgresql is not installed")
	}
	store, dir := newMount(t, "-o", "allow_other")
	openWay(t, dir)
	must(t, os.Chmod(dir, 0o777))
	must(t, os.Chmod(filepath.Join(dir, ".forks"), 0o777))
	r := runCommand(t, func(cmd *exec.Cmd) { asUser(cmd); cmd.Dir = dir }, "bash", "-euo", "pipefail", "-c", `
export PATH=$2:$PATH PGHOST=$1/run PGUSER=pg PGDATABASE=postgres; cd "$1"; mkdir run
start() { pg_ctl -w -s -D "$1/data" -l "$1/log" -o "-c listen_addresses='' -c unix_socket_directories=$PGHOST" start; }
trap 'pg_ctl -s -m immediate -D "$PWD/data" stop 2>/dev/null || :; pg_ctl -s -m immediate -D "$PWD/.forks/f/data" stop 2>/dev/null || :' EXIT
initdb -k -U pg -D data >/dev/null
start "$PWD"
pgbench -i -q -s 5 2>/dev/null
pgbench -c 4 -j 2 -T 30 >bench & b=$!
sleep 10; mkdir .forks/f
wait $b; grep -E 'processed|tps' bench
sums() { psql -At -c 'SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history), (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)'; }
[ "$(sums)" = 't|t' ]
psql -q -c 'VACUUM FULL'; psql -q -c 'REINDEX DATABASE postgres'; pg_dump >dump; [ -s dump ]
pg_ctl -w -s -m fast -D data stop
pg_checksums --check -D data >/dev/null
rm .forks/f/data/postmaster.pid
start "$PWD/.forks/f"; [ "$(sums)" = 't|t' ]; psql -At -c 'SELECT count(*) > 0 FROM pgbench_history' | grep -qx t
pg_ctl -w -s -m fast -D .forks/f/data stop
pg_checksums --check -D .forks/f/data >/dev/null
`, "bash", dir, bins[len(bins)-1])
	if r.code != 0 {
		t.Fatalf("exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	t.Log(r.stdout)
	dcfs(t, "umount", dir)
	dcfs(t, "check", "--data", store)
}

// TestToolsNpm installs a small package. With DCFS_LONG=1, and where npm
// reaches its registry.
func TestToolsNpm(t *testing.T) {
	if !long() {
		t.Skip("SKIPPED: set DCFS_LONG=1")
	}
	needTool(t, "npm", "node")
	_, dir := newMount(t)
	if r := runCommand(t, nil, "npm", "view", "is-odd", "version"); r.code != 0 {
		t.Skipf("SKIPPED: npm does not reach its registry: %s", r.stderr)
	}
	out := shell(t, `
cd "$1"; export npm_config_cache=$1/cache; mkdir p; cd p; npm init -y >/dev/null
npm install --no-audit --no-fund is-odd >/dev/null
node -e 'console.log(require("is-odd")(3))'
rm -r node_modules; npm ci --prefer-offline --no-audit --no-fund >/dev/null
node -e 'console.log(require("is-odd")(4))'
npm cache verify >/dev/null
`, dir)
	if strings.TrimSpace(out) != "true\nfalse" {
		t.Errorf("the program says %q", out)
	}
}
