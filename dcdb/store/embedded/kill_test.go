package embedded

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"dcfs/dcdb/store"
)

const (
	killedDirEnv      = "DCFS_TEST_KILLED_DIR"
	killedCompactsEnv = "DCFS_TEST_KILLED_COMPACTS" // if set, the child compacts all the while
)

// TestKilledChild is the process that TestKilledProcessLosesNothing kills.
func TestKilledChild(t *testing.T) {
	dir := os.Getenv(killedDirEnv)
	if dir == "" {
		t.Skip("runs only as a child of TestKilledProcessLosesNothing")
	}
	s := must(OpenOrCreate(dir, small(t)))(t)
	if os.Getenv(killedCompactsEnv) != "" {
		go func() {
			for s.Compact(ctx) == nil {
			}
			panic("Compact failed")
		}()
	}
	for g := s.FirstGroup(); ; g++ {
		ids := must(s.Put(ctx, g, store.KindContent, [][]byte{data(byte(g), 300), data(byte(g), 20_000)}))(t)
		ahead := must(s.Put(ctx, g+1, store.KindPage, [][]byte{data(1, 50), data(2, 30_000)}))(t)
		_ = ahead // of the next group, and referenced by nobody
		kv := []string{"last", fmt.Sprint(g)}
		for i := range 40 {
			kv = append(kv, fmt.Sprintf("batch/%d", i), fmt.Sprint(g))
		}
		for i, id := range ids {
			kv = append(kv, fmt.Sprintf("object/%d/%d", g, i), string(id.Append(nil)))
		}
		commit(t, s, g, kv...)
		barrier(t, s)
		fmt.Printf("acked %d\n", g)
	}
}

// killChild lets a child work on dir for a while, kills it and returns the
// last group that it had acknowledged.
func killChild(t *testing.T, dir string, after time.Duration, env ...string) (acked uint64) {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run", "^TestKilledChild$", "-test.v")
	c.Env = append(os.Environ(), append(env, killedDirEnv+"="+dir)...)
	out := must(c.StdoutPipe())(t)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var timer *time.Timer
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if n, ok := strings.CutPrefix(lines.Text(), "acked "); ok {
			acked = must(strconv.ParseUint(n, 10, 64))(t)
			if timer == nil {
				timer = time.AfterFunc(after, func() { c.Process.Kill() })
			}
		} else if timer == nil {
			t.Log(lines.Text())
		}
	}
	c.Wait()
	if acked == 0 {
		t.Fatal("the child acknowledged nothing")
	}
	return acked
}

func TestKilledProcessLosesNothing(t *testing.T) {
	killRounds(t)
}

func TestKilledCompactionLosesNothing(t *testing.T) {
	killRounds(t, killedCompactsEnv+"=1")
}

func killRounds(t *testing.T, env ...string) {
	dir := t.TempDir()
	for round := range 4 {
		acked := killChild(t, dir, time.Duration(rand.IntN(600))*time.Millisecond, env...)
		s := must(Open(dir, small(t)))(t)
		last := s.LastGroup()
		if last < acked || last > acked+1 {
			t.Errorf("round %d: group %d was acknowledged, the last is %d", round, acked, last)
		}
		wantBatch(t, s, last)
		wantReferencedOnly(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// wantBatch checks that group's batch is there whole.
func wantBatch(t *testing.T, s *Store, group uint64) {
	t.Helper()
	keys := [][]byte{[]byte("last")}
	for i := range 40 {
		keys = append(keys, fmt.Appendf(nil, "batch/%d", i))
	}
	for i, v := range must(s.Get(ctx, keys...))(t) {
		if string(v) != fmt.Sprint(group) {
			t.Fatalf("%s is of group %q, the last is %d", keys[i], v, group)
		}
	}
}

// wantReferencedOnly checks that the objects there are those that the records
// name, and sound.
func wantReferencedOnly(t *testing.T, s *Store) {
	t.Helper()
	named := map[string]bool{}
	for _, r := range must(s.Scan(ctx, []byte("object/"), []byte("object0"), 1<<20))(t) {
		named[string(r.Value)] = true
	}
	ids := must(s.List(ctx, store.ID{}, 1<<20))(t)
	unnamed := 0
	for _, id := range ids {
		p := make([]byte, id.Len)
		err := s.Read(ctx, id, store.KindContent, 0, p)
		if errors.Is(err, store.ErrCorrupt) {
			err = s.Read(ctx, id, store.KindPage, 0, p)
			unnamed++ // put ahead for a group that was then committed
		} else if !named[string(id.Append(nil))] {
			t.Errorf("%v is named by nothing", id)
		}
		if err != nil {
			t.Errorf("read %v: %v", id, err)
		}
		if id.Group > s.LastGroup() {
			t.Errorf("%v is of a group after the last one, %d", id, s.LastGroup())
		}
	}
	if got := len(ids) - unnamed; got != len(named) {
		t.Errorf("%d objects are there, %d are named", got, len(named))
	}
}

// TestLogThatWasBeingMadeWhenTheProcessDied is opened over: it has not a byte, and
// Badger gives up on it.
func TestLogThatWasBeingMadeWhenTheProcessDied(t *testing.T) {
	dir := t.TempDir()
	s := must(Create(dir, small(t)))(t)
	g := s.FirstGroup()
	commit(t, s, g, "a", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"00098", "00099"} {
		if err := os.WriteFile(filepath.Join(dir, recordsName, n+memSuffix), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = must(Open(dir, small(t)))(t)
	if v := must(s.Get(ctx, []byte("a")))(t); string(v[0]) != "1" || s.LastGroup() != g {
		t.Errorf("got %q of group %d", v[0], s.LastGroup())
	}
	commit(t, s, s.FirstGroup(), "b", "2")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
