package main

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pair returns the two ends of a connection.
func pair(t *testing.T) (a, b *conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	end := func(fd int) *conn {
		f := os.NewFile(uintptr(fd), "socket")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return &conn{UnixConn: c.(*net.UnixConn)}
	}
	return end(fds[0]), end(fds[1])
}

func TestLinesArriveWholeAndWithTheirDescriptor(t *testing.T) {
	a, b := pair(t)
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := a.send(request{Version: 1, Op: "one"}, -1); err != nil {
		t.Fatal(err)
	}
	if err := a.send(request{Version: 1, Op: "two"}, int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"one", "two"} {
		line, err := b.readLine(maxRequestBytes)
		if err != nil {
			t.Fatal(err)
		}
		var r request
		if err := json.Unmarshal(line, &r); err != nil || r.Op != want {
			t.Fatalf("got %s, %v, want %s", line, err, want)
		}
	}
	fd, err := b.takeFd()
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := checkFuse(fd); err == nil {
		t.Error("/dev/null passes for /dev/fuse")
	}
	if _, err := b.takeFd(); err == nil {
		t.Error("one descriptor came out twice")
	}
}

func TestALineHasABound(t *testing.T) {
	a, b := pair(t)
	go a.Write([]byte(strings.Repeat("x", 300<<10)))
	b.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := b.readLine(maxRequestBytes); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestWhoSaysNothingIsGivenUp(t *testing.T) {
	a, _ := pair(t)
	a.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := a.readLine(maxRequestBytes); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}

func TestAReplyThatIsNotOKIsAnErrorWithItsCode(t *testing.T) {
	a, b := pair(t)
	go func() {
		b.readLine(maxRequestBytes)
		b.send(errorReply(coded(codeBusy, "in use")), -1)
	}()
	_, err := a.ask(&request{Op: opSync})
	if codeOf(err) != codeBusy || err.Error() != "in use" {
		t.Errorf("got %v with code %s", err, codeOf(err))
	}
}

func TestTheSocketIsReachedInADirectoryOfAnyLength(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 60))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(dir); err != errNotServed {
		t.Fatalf("no server: got %v", err)
	}
	l, err := listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(dir, controlName)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v, want mode 0600", fi.Mode(), err)
	}
	c, err := dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	l.Close()
	if _, err := dial(dir); err != errNotServed {
		t.Errorf("dead server: got %v, want errNotServed", err)
	}
	l, err = listen(dir) // the dead server's socket is in the way
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := removeSocket(dir); err != nil {
		t.Error(err)
	}
}

func FuzzRequest(f *testing.F) {
	for _, line := range []string{
		`{"v":1,"op":"mount","fork":"a/b","mountpoint":"/m","source":"s","options":{"readOnly":true,"snapDir":"x"}}`,
		`{"v":1,"op":"snapshot.create","dev":"0:57","path":"a/.forks/b","name":"n","ttl":60000000000}`,
		`{"v":1,"op":"snapshot.hold","snapshot":"s","name":"n","tag":"t"}`,
		`{"v":1,"op":"snapshot.frees","names":["a","b"],"count":true}`,
		`{"v":1,"op":"retention.set","policy":"24h7d","dryRun":true}`,
		`{"v":1,"op":"fork.rename","name":"a","to":"b"}`, `{"v":1,"op":"gc","wait":true}`, `{"v":2}`, `null`, "{\"v\":1,\"name\":\"\xff\"}",
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := decodeRequest(line)
		if err != nil {
			if code := codeOf(err); code != codeInvalid && code != codeVersion {
				t.Errorf("%q: %v has code %s", line, err, code)
			}
			return
		}
		if err := r.check(); err != nil {
			t.Errorf("%q: what arrived could not have been sent: %v", line, err)
		}
		p, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeRequest(p)
		if err != nil || !reflect.DeepEqual(r, again) {
			t.Errorf("%q does not survive: %q, %v", line, p, err)
		}
	})
}
