package fs

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// transport carries requests and answers between the kernel and a
// fuse.RawFileSystem, and what we tell the kernel unasked. There are two: wire,
// below, and go-fuse's own server.
type transport interface {
	// Serve answers until the mount has ended, then calls OnUnmount.
	Serve()
	InodeNotify(node uint64, off, length int64) fuse.Status
	EntryNotify(parent uint64, name string) fuse.Status
}

// newTransport takes fd over and agrees on the protocol with the kernel. The
// descriptor is blocking and stays so.
func (m *mount) newTransport(fd int) (transport, error) {
	if m.opts.Transport == Wire {
		return newWire(fd, m, m.fuseOptions(), m.log)
	}
	return fuse.NewServer(m, fmt.Sprintf("/dev/fd/%d", fd), m.fuseOptions())
}

// wire is a transport over go-fuse's protocol layer. Two system calls and two
// wake-ups are most of what a short request costs, so it makes no more of them:
// one goroutine, the hot reader, reads a request, answers it itself and reads
// the next. Four things keep a request that takes long from holding up others:
//
//   - What is known to take long, or to need further requests of the kernel
//     before it ends (a snapshot has the kernel write back what was changed by
//     mmap), is answered in a goroutine of its own: see takesLong. There is no
//     bound on these, so the readers never wait for one of them.
//   - A request that is about to wait, for the store or for a commit group, says
//     so: see waits. Its reader goes its own way, and another takes its place.
//   - A watchdog looks each watchTick. It does the same with a reader that has
//     been with one request from one look to the next.
//   - If none was left, or at a look requests wait and no reader is free, there is
//     one reader more, up to maxReaders; and one less when that was not so for a
//     while.
//
// The watchdog sleeps while nothing is asked.
type wire struct {
	fd   int                           // immutable
	fs   fuse.RawFileSystem            // immutable
	ps   *fuse.ProtocolServer          // immutable
	log  func(format string, a ...any) // immutable
	most int                           // immutable; see maxReaders

	live    sync.WaitGroup // readers, and requests that take long
	readers atomic.Int32   // len(hot), to be looked at without mu
	want    atomic.Int32   // how many readers there should be
	dead    atomic.Bool    // the mount has ended

	asleep atomic.Bool   // the watchdog is
	wake   chan struct{} // of the watchdog; holds one

	mu    sync.Mutex
	hot   []*reader           // guarded by mu; those that read, or answer and then read
	spare []*reader           // guarded by mu; those that wait to be needed
	away  int                 // guarded by mu; readers that are with a request that takes long
	slow  map[uint64]struct{} // guarded by mu; requests that take long, by their unique number

	notifyMu sync.RWMutex // held for writing to close fd, for reading while telling the kernel something
	closed   bool         // guarded by notifyMu
}

const (
	// watchTick is how often the watchdog looks.
	watchTick = 500 * time.Microsecond
	// calmTicks is after how many looks that found enough readers one is
	// given up, and after how many that found nothing to do the watchdog sleeps.
	calmTicks = 64
	// maxSpare is how many readers are kept with their buffers.
	maxSpare = 16
	// maxAway bounds the memory of readers that are away. None of them waits
	// for a request that is not read yet, so it can't come to a standstill.
	maxAway = 128
	// bufferBytes has room for a request or answer of maxRequestBytes that
	// begins at requestAt or answerAt.
	bufferBytes = maxRequestBytes + 16<<10
	// The kernel copies to and from a page at a time. So what is written, and
	// what is read, begins with a page of ours: behind the headers of WRITE, and
	// of an answer.
	requestAt = 4096 - int(unsafe.Sizeof(fuse.WriteIn{}))
	answerAt  = 12288 - int(unsafe.Sizeof(fuse.OutHeader{}))
	// shortBytes has room for the answer to a request that reaches to where
	// answers are.
	shortBytes = 512
	// slowBytes is the most that a request that takesLong, or its answer, has:
	// two names.
	slowBytes = 2048
)

// maxReaders is how many readers there may be of those that are quick: more
// than there are processors, because some of them read from the disk.
func maxReaders() int { return min(max(runtime.GOMAXPROCS(0)+2, 4), 16) }

// reader is a goroutine that reads requests.
type reader struct {
	// turn is the number of its request, times two; odd while it answers
	// that. Whoever swaps it from an odd number has the say: the reader, which
	// is done, or the watchdog, which sends it away.
	turn   atomic.Uint64
	seen   uint64        // guarded by wire.mu; turn, at the last look
	unique atomic.Uint64 // of the request that it answers

	resume  chan struct{}      // closed or sent to while it is spare
	buf     *[bufferBytes]byte // a request, and behind it its answer
	short   [shortBytes]byte
	request [1][]byte // in the form that go-fuse wants, kept to allocate none
	answer  [1][]byte
}

// in is where requests are read to.
func (r *reader) in() []byte { return r.buf[requestAt:] }

// out is where the answer to a request of n bytes goes.
func (r *reader) out(n int) []byte {
	if requestAt+n > answerAt {
		return r.short[:]
	}
	return r.buf[answerAt:]
}

const away = ^uint64(0) // as reader.turn

var (
	// buffers are those of readers. Few of their pages are ever touched, and
	// none is cleared again for the next reader.
	buffers = sync.Pool{New: func() any { return new([bufferBytes]byte) }}
	// slowBuffers are those of requests that take long.
	slowBuffers = sync.Pool{New: func() any { return new([2][slowBytes]byte) }}
)

// The operations that are told apart here, and what interrupts one.
const (
	opLookup        = 1
	opForget        = 2
	opMkdir         = 9
	opUnlink        = 10
	opRmdir         = 11
	opRename        = 12
	opFsync         = 20
	opFsyncDir      = 30
	opInterrupt     = 36
	opBatchForget   = 42
	opRename2       = 45
	opCopyFileRange = 47
)

const inHeaderBytes = int(unsafe.Sizeof(fuse.InHeader{}))

// headerOf returns the header of a request.
func headerOf(request []byte) *fuse.InHeader {
	return (*fuse.InHeader)(unsafe.Pointer(&request[0]))
}

// takesLong reports whether a request waits for the disk by its nature, or is
// about snapshots and forks.
func takesLong(request []byte) bool {
	if len(request) > slowBytes {
		return false
	}
	switch h := headerOf(request); h.Opcode {
	case opFsync, opFsyncDir, opCopyFileRange:
		return true
	case opLookup, opMkdir, opUnlink, opRmdir:
		return h.NodeId&virtualBit != 0
	case opRename, opRename2:
		// The new directory is the first thing after the header.
		to := request[inHeaderBytes:]
		return h.NodeId&virtualBit != 0 ||
			len(to) >= 8 && *(*uint64)(unsafe.Pointer(&to[0]))&virtualBit != 0
	}
	return false
}

// newWire answers the kernel's INIT. It owns fd, also when it fails.
func newWire(fd int, fs fuse.RawFileSystem, o *fuse.MountOptions, log func(string, ...any)) (*wire, error) {
	w := &wire{
		fd:   fd,
		fs:   fs,
		ps:   fuse.NewProtocolServer(fs, o),
		log:  log,
		most: maxReaders(),
		wake: make(chan struct{}, 1),
		slow: make(map[uint64]struct{}),
	}
	w.want.Store(1)
	r := newReader()
	defer r.free()
	n, err := w.read(r.in())
	if err == nil {
		err = w.reply(&r.request, &r.answer, r.in()[:n], r.out(n))
	}
	if err != nil {
		syscall.Close(fd)
		return nil, err
	}
	return w, nil
}

// Serve implements transport.
func (w *wire) Serve() {
	w.mu.Lock()
	w.addLocked()
	w.mu.Unlock()
	watched := make(chan struct{})
	go func() { defer close(watched); w.watch() }()

	w.live.Wait() // ended by the first reader that finds the mount dead
	w.rouse()
	<-watched
	w.notifyMu.Lock()
	w.closed = true
	syscall.Close(w.fd)
	w.notifyMu.Unlock()
	w.fs.OnUnmount()
}

func newReader() *reader {
	return &reader{
		resume: make(chan struct{}, 1),
		buf:    buffers.Get().(*[bufferBytes]byte),
	}
}

func (r *reader) free() { buffers.Put(r.buf) }

// addLocked makes one more reader hot. Precondition: w.mu is held, and the
// mount lives or none of its readers has ended.
func (w *wire) addLocked() {
	var r *reader
	if n := len(w.spare); n > 0 {
		r, w.spare = w.spare[n-1], w.spare[:n-1]
		r.resume <- struct{}{}
	} else {
		r = newReader()
		w.live.Add(1)
		go w.run(r)
	}
	r.seen = r.turn.Load()
	w.hot = append(w.hot, r)
	w.readers.Store(int32(len(w.hot)))
}

// dropLocked takes r out of the hot readers. Precondition: w.mu is held.
func (w *wire) dropLocked(r *reader) {
	if i := slices.Index(w.hot, r); i >= 0 {
		w.hot = slices.Delete(w.hot, i, i+1)
		w.readers.Store(int32(len(w.hot)))
	}
}

// run reads and answers.
func (w *wire) run(r *reader) {
	defer w.live.Done()
	defer r.free()
	for turn := uint64(1); ; turn += 2 {
		n, err := w.read(r.in())
		if err == syscall.ENODEV || err == syscall.ECONNABORTED {
			w.end()
			return
		}
		if err != nil {
			// Such as ENOMEM. Who gives up here takes the mount from its users.
			w.log("reading from the kernel: %v", err)
			time.Sleep(time.Second)
			continue
		}
		request := r.in()[:n]
		if takesLong(request) {
			w.answerAside(request)
			continue
		}
		r.unique.Store(headerOf(request).Unique)
		r.turn.Store(turn)
		w.rouse()
		w.reply(&r.request, &r.answer, request, r.out(n))
		if r.turn.CompareAndSwap(turn, turn+1) && w.readers.Load() <= w.want.Load() {
			continue
		}
		if !w.stay(r, turn+1) {
			return
		}
	}
}

// stay decides about a reader that went away or may be one too many: it
// returns when it is needed, with false if it is not.
func (w *wire) stay(r *reader, turn uint64) bool {
	w.mu.Lock()
	hot := r.turn.Load() != away
	r.turn.Store(turn)
	if !hot {
		w.away--
	}
	switch {
	case w.dead.Load():
		w.mu.Unlock()
		return false
	case hot && len(w.hot) <= int(w.want.Load()):
		w.mu.Unlock()
		return true
	case !hot && len(w.hot) < int(w.want.Load()):
		r.seen = turn
		w.hot = append(w.hot, r)
		w.readers.Store(int32(len(w.hot)))
		w.mu.Unlock()
		return true
	}
	w.dropLocked(r)
	if len(w.spare) == maxSpare {
		w.mu.Unlock()
		return false
	}
	w.spare = append(w.spare, r)
	w.mu.Unlock()
	<-r.resume
	return !w.dead.Load()
}

// read reads the next request that is one.
func (w *wire) read(buf []byte) (int, error) {
	for {
		n, err := syscall.Read(w.fd, buf)
		switch {
		case err == syscall.EINTR, err == syscall.EAGAIN, err == syscall.ENOENT:
			continue // ENOENT: the request was taken back
		case err != nil:
			return 0, err
		case n == 0:
			return 0, syscall.ENODEV // in tests, where the kernel is a socket
		case n < inHeaderBytes:
			return 0, fmt.Errorf("a request of %d bytes: %w", n, syscall.EIO)
		}
		return n, nil
	}
}

// end is what a reader does that found the mount dead: it sees to it that all
// others end. What may still run and can be interrupted is.
func (w *wire) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead.Swap(true) {
		return
	}
	for _, r := range w.spare {
		close(r.resume)
	}
	w.spare = nil
	w.live.Add(1)
	go func() {
		defer w.live.Done()
		w.interruptAll()
	}()
}

// interruptAll ends requests that can be interrupted, until there is none that
// takes long. One that was read and has not begun can't be yet.
func (w *wire) interruptAll() {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		w.mu.Lock()
		var all []uint64
		for unique := range w.slow {
			all = append(all, unique)
		}
		w.mu.Unlock()
		if len(all) == 0 {
			return
		}
		for _, unique := range all {
			in := fuse.InterruptIn{Unique: unique}
			in.Opcode, in.Length = opInterrupt, uint32(unsafe.Sizeof(in))
			request := unsafe.Slice((*byte)(unsafe.Pointer(&in)), in.Length)
			w.ps.HandleRequest([][]byte{request}, [][]byte{make([]byte, slowBytes)})
		}
		time.Sleep(wait)
	}
}

// answerAside answers a request in a goroutine of its own.
func (w *wire) answerAside(request []byte) {
	b := slowBuffers.Get().(*[2][slowBytes]byte)
	n := copy(b[0][:], request)
	unique := headerOf(request).Unique
	w.mu.Lock()
	w.slow[unique] = struct{}{}
	w.mu.Unlock()
	w.live.Add(1)
	go func() {
		defer w.live.Done()
		var in, out [1][]byte
		w.reply(&in, &out, b[0][:n], b[1][:])
		w.mu.Lock()
		delete(w.slow, unique)
		w.mu.Unlock()
		slowBuffers.Put(b)
	}()
}

// reply answers a request. in and out are room for the form that go-fuse wants.
func (w *wire) reply(in, out *[1][]byte, request, buf []byte) error {
	in[0], out[0] = request, buf
	n, st := w.ps.HandleRequest(in[:], out[:])
	if !st.Ok() {
		n = refuse(headerOf(request), st, buf)
	}
	if n == 0 {
		return nil // a request without an answer
	}
	var err error
	for {
		if _, err = syscall.Write(w.fd, buf[:n]); err != syscall.EINTR {
			break
		}
	}
	switch {
	case err == nil:
	case err == syscall.ENOENT, err == syscall.ENODEV, w.dead.Load():
		// Nobody waits any more.
	default:
		w.log("answering operation %d: %v", headerOf(request).Opcode, err)
	}
	return err
}

// refuse answers a request that go-fuse can make nothing of: whoever waits for
// it would wait for ever.
func refuse(h *fuse.InHeader, st fuse.Status, buf []byte) int {
	if h.Opcode == opForget || h.Opcode == opBatchForget {
		return 0
	}
	const n = int(unsafe.Sizeof(fuse.OutHeader{}))
	*(*fuse.OutHeader)(unsafe.Pointer(&buf[0])) = fuse.OutHeader{Length: uint32(n), Status: -int32(st), Unique: h.Unique}
	return n
}

// rouse wakes the watchdog. A reader has set its turn before, and the watchdog
// looks once more after it said that it sleeps: one of them sees the other.
func (w *wire) rouse() {
	if w.asleep.Load() && w.asleep.CompareAndSwap(true, false) {
		w.wake <- struct{}{}
	}
}

// watch is the watchdog.
func (w *wire) watch() {
	tick := syscall.NsecToTimespec(int64(watchTick))
	idle, calm := 0, 0
	for !w.dead.Load() {
		busy, enough := w.look()
		idle, calm = idle+1, calm+1
		if busy {
			idle = 0
		}
		if !enough {
			calm = 0
		}
		if calm >= calmTicks {
			calm = 0
			w.want.Store(max(1, w.want.Load()-1))
		}
		if idle >= calmTicks {
			idle = 0
			w.want.Store(1)
			w.asleep.Store(true)
			if busy, _ := w.look(); busy || w.dead.Load() {
				w.rouse()
			}
			<-w.wake
			continue
		}
		// Not time.Sleep: the runtime rounds it up to a millisecond.
		syscall.Nanosleep(&tick, nil)
	}
}

// look sends readers away that are with the same request as at the last look,
// and sees to it that requests are read. busy: there was something to do
// since; enough: another reader was not needed.
func (w *wire) look() (busy, enough bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	free := 0
	for _, r := range slices.Clone(w.hot) {
		turn := r.turn.Load()
		switch {
		case turn&1 == 0:
			free++
			busy = busy || turn != r.seen
		case turn != r.seen:
			busy = true
		default:
			busy = true
			w.sendAwayLocked(r, turn)
		}
		r.seen = turn
	}
	switch {
	case w.dead.Load() || free > 0 || w.away >= maxAway:
		return busy, true
	case len(w.hot) == 0:
	case len(w.hot) >= w.most || !w.pending():
		return busy, true
	default:
		w.want.Store(int32(len(w.hot) + 1))
	}
	w.addLocked()
	return true, false
}

// sendAwayLocked sends r away unless it has just answered the request of that
// turn. Precondition: w.mu is held.
func (w *wire) sendAwayLocked(r *reader, turn uint64) bool {
	if w.away >= maxAway || !r.turn.CompareAndSwap(turn, away) {
		return false
	}
	w.away++
	w.dropLocked(r)
	return true
}

// waits is called for a request that is about to wait, in the goroutine that
// answers it.
func (w *wire) waits(unique uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.hot {
		if r.unique.Load() != unique {
			continue
		}
		turn := r.turn.Load()
		if turn&1 == 1 && turn != away && w.sendAwayLocked(r, turn) && len(w.hot) == 0 && !w.dead.Load() {
			// One more from now on: it spares the next ones that wait to
			// wake another, if they come soon.
			w.want.Store(min(w.want.Load()+1, int32(w.most)))
			w.addLocked()
		}
		return
	}
}

// pending reports whether a request waits to be read.
func (w *wire) pending() bool {
	p := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1 && p[0].Revents&unix.POLLIN != 0
}

// InodeNotify implements transport.
func (w *wire) InodeNotify(node uint64, off, length int64) fuse.Status {
	body := fuse.NotifyInvalInodeOut{Ino: node, Off: off, Length: length}
	return w.notify(fuse.NOTIFY_INVAL_INODE, unsafe.Slice((*byte)(unsafe.Pointer(&body)), unsafe.Sizeof(body)))
}

// EntryNotify implements transport.
func (w *wire) EntryNotify(parent uint64, name string) fuse.Status {
	body := fuse.NotifyInvalEntryOut{Parent: parent, NameLen: uint32(len(name))}
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&body)), unsafe.Sizeof(body))
	return w.notify(fuse.NOTIFY_INVAL_ENTRY, append(append(bytes[:len(bytes):len(bytes)], name...), 0))
}

// notify tells the kernel something. It may wait for locks that the kernel
// holds while it waits for answers of ours.
func (w *wire) notify(code int32, body []byte) fuse.Status {
	w.notifyMu.RLock()
	defer w.notifyMu.RUnlock()
	if w.closed {
		return fuse.Status(syscall.ENODEV)
	}
	h := fuse.OutHeader{Status: -code}
	h.Length = uint32(int(unsafe.Sizeof(h)) + len(body))
	message := append(append(make([]byte, 0, h.Length), unsafe.Slice((*byte)(unsafe.Pointer(&h)), unsafe.Sizeof(h))...), body...)
	for {
		_, err := syscall.Write(w.fd, message)
		var errno syscall.Errno
		if errors.As(err, &errno) {
			if errno == syscall.EINTR {
				continue
			}
			return fuse.Status(errno)
		}
		return fuse.OK
	}
}
