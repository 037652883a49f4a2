package fs

import (
	"encoding/binary"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// wireFS is a file system whose requests wait on demand.
type wireFS struct {
	fuse.RawFileSystem
	gate    chan struct{} // LOOKUP of "wait" waits until it is closed
	waiting atomic.Int32
	forgot  atomic.Int64
	written atomic.Int64
	ended   chan struct{}
	wire    *wire        // for LOOKUP of "tell", which says that it waits, and then does
	stays   atomic.Int32 // such whose reader did not go away
	crooked atomic.Int32 // buffers of data that do not begin with a page
}

// page notes where data begins.
func (f *wireFS) page(b []byte) {
	if uintptr(unsafe.Pointer(&b[0]))%4096 != 0 {
		f.crooked.Add(1)
	}
}

func (f *wireFS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if name == "wait" {
		f.waiting.Add(1)
		<-f.gate
	}
	if name == "tell" {
		f.wire.waits(h.Unique)
		if f.wire.holds(h.Unique) {
			f.stays.Add(1)
		}
		f.waiting.Add(1)
		<-f.gate
	}
	out.NodeId = 7
	return fuse.OK
}

func (f *wireFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Ino = in.NodeId
	return fuse.OK
}

func (f *wireFS) CopyFileRange(cancel <-chan struct{}, _ *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	f.waiting.Add(1)
	<-cancel
	return 0, fuse.EINTR
}

func (f *wireFS) Writev(_ <-chan struct{}, _ *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	f.page(data[0])
	for i, c := range data[0] {
		if c != byte(i>>12) {
			return 0, fuse.EIO
		}
	}
	f.written.Add(int64(len(data[0])))
	return uint32(len(data[0])), fuse.OK
}

func (f *wireFS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f.page(buf)
	for i := range buf {
		buf[i] = 'r'
	}
	return inPlace(buf), fuse.OK
}

func (f *wireFS) Forget(_, n uint64) { f.forgot.Add(int64(n)) }
func (f *wireFS) OnUnmount()         { close(f.ended) }

// testKernel is the kernel's end of a wire. A socket of packets behaves as
// /dev/fuse does.
type testKernel struct {
	t    *testing.T
	fd   int
	last uint64
	buf  []byte
}

// newWirePair starts a wire and returns the other end.
func newWirePair(t *testing.T) (*testKernel, *wireFS, *wire) {
	t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range pair {
		for _, opt := range []int{syscall.SO_SNDBUF, syscall.SO_RCVBUF} {
			syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, opt, 8<<20)
		}
	}
	tv := syscall.Timeval{Sec: 20}
	if err := syscall.SetsockoptTimeval(pair[0], syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &tv); err != nil {
		t.Fatal(err)
	}
	k := &testKernel{t: t, fd: pair[0], buf: make([]byte, bufferBytes)}
	f := &wireFS{RawFileSystem: fuse.NewDefaultRawFileSystem(), gate: make(chan struct{}), ended: make(chan struct{})}
	init := make([]byte, 64)
	binary.NativeEndian.PutUint32(init[0:], 7)
	binary.NativeEndian.PutUint32(init[4:], 31)
	k.send(26, 0, init)
	w, err := newWire(pair[1], f, &fuse.MountOptions{MaxWrite: maxRequestBytes}, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	if _, st, _ := k.receive(); st != 0 {
		t.Fatalf("INIT: %v", st)
	}
	f.wire = w
	go w.Serve()
	t.Cleanup(func() {
		syscall.Close(k.fd)
		select {
		case <-f.ended:
		case <-time.After(20 * time.Second):
			t.Error("the mount was gone, and Serve did not end")
		}
	})
	return k, f, w
}

// send sends a request and returns its number.
func (k *testKernel) send(op uint32, node uint64, body []byte) uint64 {
	k.t.Helper()
	k.last += 2
	h := fuse.InHeader{Length: uint32(inHeaderBytes + len(body)), Opcode: op, Unique: k.last, NodeId: node}
	b := append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&h)), inHeaderBytes)...)
	if _, err := syscall.Write(k.fd, append(b, body...)); err != nil {
		k.t.Fatal(err)
	}
	return k.last
}

// receive returns an answer, or what was told unasked.
func (k *testKernel) receive() (unique uint64, st int32, body []byte) {
	k.t.Helper()
	n, err := syscall.Read(k.fd, k.buf)
	if err != nil {
		k.t.Fatalf("no answer: %v", err)
	}
	if got := int(binary.NativeEndian.Uint32(k.buf)); got != n {
		k.t.Fatalf("an answer of %d bytes says that it has %d", n, got)
	}
	return binary.NativeEndian.Uint64(k.buf[8:]), int32(binary.NativeEndian.Uint32(k.buf[4:])), k.buf[16:n]
}

// getattr asks for attributes and wants just that answered.
func (k *testKernel) getattr() {
	k.t.Helper()
	want := k.send(3, 5, make([]byte, 16))
	if got, st, _ := k.receive(); got != want || st != 0 {
		k.t.Fatalf("answer to %d (status %d), want one to %d", got, st, want)
	}
}

func (f *wireFS) wantWaiting(t *testing.T, n int32) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); f.waiting.Load() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%d requests wait, want %d", f.waiting.Load(), n)
		}
	}
}

// wantRest waits until no request is being answered, and wants few readers left. A
// reader is done a moment after its answer is there.
func (w *wire) wantRest(t *testing.T) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		hot, spare, away, slow := len(w.hot), len(w.spare), w.away, len(w.slow)
		w.mu.Unlock()
		if hot >= 1 && hot <= w.most && spare <= maxSpare && away == 0 && slow == 0 {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%d readers, %d spare, %d away, %d slow requests", hot, spare, away, slow)
		}
	}
}

func TestRequestsAreAnsweredWhileOthersWait(t *testing.T) {
	k, f, w := newWirePair(t)
	const n = 50 // more than there may be readers that are quick
	open := make(map[uint64]bool)
	for i := range n {
		node := uint64(1)
		if i%2 == 0 {
			node |= virtualBit // these have a goroutine of their own
		}
		open[k.send(opLookup, node, []byte("wait\x00"))] = true
		k.getattr()
	}
	f.wantWaiting(t, n)
	time.Sleep(50 * time.Millisecond) // the watchdog goes to sleep
	k.getattr()
	close(f.gate)
	for range n {
		unique, st, body := k.receive()
		if !open[unique] || st != 0 || binary.NativeEndian.Uint64(body) != 7 {
			t.Fatalf("answer to %d, status %d, node %d", unique, st, binary.NativeEndian.Uint64(body))
		}
		delete(open, unique)
	}
	for range 100 {
		k.getattr()
	}
	w.wantRest(t)
}

// holds reports whether one of the hot readers is with a request.
func (w *wire) holds(unique uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.hot) == 0 || slices.ContainsFunc(w.hot, func(r *reader) bool { return r.unique.Load() == unique })
}

func TestReaderOfARequestThatWaitsGoesAway(t *testing.T) {
	k, f, w := newWirePair(t)
	const n = maxAway + 50
	open := make(map[uint64]bool)
	for range n {
		open[k.send(opLookup, 1, []byte("tell\x00"))] = true
	}
	f.wantWaiting(t, maxAway+1) // the last one keeps its reader
	if got := f.stays.Load(); got != 1 {
		t.Errorf("%d requests of %d kept their reader, want 1", got, maxAway+1)
	}
	close(f.gate)
	for range n {
		unique, st, _ := k.receive()
		if !open[unique] || st != 0 {
			t.Fatalf("answer to %d, status %d", unique, st)
		}
		delete(open, unique)
	}
	for range 100 {
		k.getattr()
	}
	w.wantRest(t)
}

func TestInterruptReachesARequest(t *testing.T) {
	k, f, _ := newWirePair(t)
	unique := k.send(opCopyFileRange, 1, make([]byte, 56))
	f.wantWaiting(t, 1)
	k.send(opInterrupt, 0, binary.NativeEndian.AppendUint64(nil, unique))
	if got, st, _ := k.receive(); got != unique || st != -int32(syscall.EINTR) {
		t.Errorf("answer to %d, status %d, want %d to be interrupted", got, st, unique)
	}
	// One that is not there any more is asked for again by the kernel.
	gone := k.send(opInterrupt, 0, binary.NativeEndian.AppendUint64(nil, unique))
	if got, st, _ := k.receive(); got != gone || st != -int32(syscall.EAGAIN) {
		t.Errorf("answer to %d, status %d, want EAGAIN for %d", got, st, gone)
	}
}

func TestEndOfAMountInterruptsWhatRuns(t *testing.T) {
	k, f, _ := newWirePair(t)
	for range 3 {
		k.send(opCopyFileRange, 1, make([]byte, 56))
	}
	f.wantWaiting(t, 3)
	// The cleanup closes, and wants the end.
}

func TestForgetHasNoAnswer(t *testing.T) {
	k, f, _ := newWirePair(t)
	k.send(opForget, 3, binary.NativeEndian.AppendUint64(nil, 2))
	batch := binary.NativeEndian.AppendUint32(nil, 2)
	batch = binary.NativeEndian.AppendUint32(batch, 0)
	for _, v := range []uint64{3, 10, 4, 20} {
		batch = binary.NativeEndian.AppendUint64(batch, v)
	}
	k.send(opBatchForget, 0, batch)
	k.getattr()
	if got := f.forgot.Load(); got != 32 {
		t.Errorf("%d look-ups forgotten, want 32", got)
	}
}

func TestLargestRequests(t *testing.T) {
	k, f, _ := newWirePair(t)
	in := make([]byte, 40+maxRequestBytes)
	binary.NativeEndian.PutUint32(in[16:], maxRequestBytes)
	for i := range maxRequestBytes {
		in[40+i] = byte(i >> 12)
	}
	if got := k.send(16, 1, in); got != k.last {
		t.Fatal("not sent")
	}
	if _, st, body := k.receive(); st != 0 || binary.NativeEndian.Uint32(body) != maxRequestBytes {
		t.Errorf("WRITE: status %d, %d bytes", st, binary.NativeEndian.Uint32(body))
	}
	if got := f.written.Load(); got != maxRequestBytes {
		t.Errorf("%d bytes written", got)
	}
	k.send(15, 1, in[:40])
	_, st, body := k.receive()
	if st != 0 || len(body) != maxRequestBytes || strings.Trim(string(body), "r") != "" {
		t.Errorf("READ: status %d, %d bytes", st, len(body))
	}
	if n := f.crooked.Load(); n != 0 {
		t.Errorf("%d buffers of data do not begin with a page", n)
	}
	// A long request that is no WRITE.
	value := make([]byte, 8+len("user.a\x00")+64<<10)
	binary.NativeEndian.PutUint32(value, 64<<10)
	copy(value[8:], "user.a\x00")
	want := k.send(21, 1, value)
	if got, st, _ := k.receive(); got != want || st != -int32(syscall.ENOSYS) {
		t.Errorf("SETXATTR: answer to %d, status %d, want ENOSYS to %d", got, st, want)
	}
}

func TestMalformedRequestIsAnswered(t *testing.T) {
	k, _, _ := newWirePair(t)
	for _, op := range []uint32{3, 16, 99, 5000} {
		want := k.send(op, 1, nil)
		if got, st, _ := k.receive(); got != want || st >= 0 {
			t.Errorf("operation %d: answer to %d, status %d, want an error to %d", op, got, st, want)
		}
	}
	k.getattr()
}

func TestNotifications(t *testing.T) {
	k, _, w := newWirePair(t)
	if st := w.InodeNotify(5, -1, 9); !st.Ok() {
		t.Fatal(st)
	}
	u, code, body := k.receive()
	if u != 0 || code != 2 || len(body) != 24 || binary.NativeEndian.Uint64(body) != 5 ||
		int64(binary.NativeEndian.Uint64(body[8:])) != -1 || binary.NativeEndian.Uint64(body[16:]) != 9 {
		t.Errorf("InodeNotify told %d %d %x", u, code, body)
	}
	if st := w.EntryNotify(6, "name"); !st.Ok() {
		t.Fatal(st)
	}
	u, code, body = k.receive()
	if u != 0 || code != 3 || binary.NativeEndian.Uint64(body) != 6 ||
		binary.NativeEndian.Uint32(body[8:]) != 4 || string(body[16:]) != "name\x00" {
		t.Errorf("EntryNotify told %d %d %x", u, code, body)
	}
}
