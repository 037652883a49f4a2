package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// # The control protocol, version 1
//
// A connection to STORE/control carries one request. It is one line of JSON,
// and so is the reply. The server answers its own user and root; who asks is
// told by the kernel (SO_PEERCRED). Four requests take more than one reply:
//
//	mount  ──▶  server reserves the view     ◀──  {"ok":true,"state":"go"}
//	{"v":1,"dev":"0:57"} with the descriptor of /dev/fuse (SCM_RIGHTS)
//	       ──▶  server answers the kernel    ◀──  {"ok":true}
//
//	watch  ──▶  the mount is known           ◀──  {"ok":true,"state":"watching"}
//	            it has ended                 ◀──  {"ok":true,"state":"ended"}
//	            its data is safe, and the store is unlocked if it was the
//	            last mount                   ◀──  {"ok":true}
//
//	gc, scrub
//	       ──▶  goes on, once a second       ◀──  {"ok":true,"state":"progress","result":{...}}
//	            is done                      ◀──  {"ok":true,"result":{...}}
//
// A reply that is not ok is the last, and names a code and a text.

const (
	protocolVersion = 1
	controlName     = "control"

	maxRequestBytes = 64 << 10
	maxReplyBytes   = 64 << 20

	// maxAsking is how many connections are listened to before they have said
	// what they want; those after them wait in the kernel.
	maxAsking = 256

	// A client that is slower than this to say what it wants is cut off.
	requestTimeout = 10 * time.Second
	// What a client may take to mount once its view is reserved: fusermount3
	// has /etc/mtab to lock, and a debugger may sit in between.
	mountTimeout = 60 * time.Second
)

// The operations.
const (
	opMount           = "mount"
	opRemount         = "remount" // change what of Options can be changed
	opWatch           = "watch"
	opSync            = "sync"
	opStatus          = "status"
	opGC              = "gc"
	opScrub           = "scrub"
	opSnapshotCreate  = "snapshot.create"
	opSnapshotList    = "snapshot.list"
	opSnapshotRename  = "snapshot.rename"
	opSnapshotDelete  = "snapshot.delete"
	opSnapshotFrees   = "snapshot.frees" // what deleting Names would free
	opSnapshotHold    = "snapshot.hold"
	opSnapshotRelease = "snapshot.release"
	opSnapshotExpire  = "snapshot.expire"
	opForkCreate      = "fork.create"
	opForkList        = "fork.list"
	opForkRename      = "fork.rename"
	opForkDelete      = "fork.delete"
	opForkExpire      = "fork.expire"
	opRetentionSet    = "retention.set"
	opRetentionShow   = "retention.show"
	opRetentionApply  = "retention.apply"
)

// A request names a view, either by a mount and a path in it, or from the
// volume's first fork on, and what to do there.
type request struct {
	Version int    `json:"v"`
	Op      string `json:"op"`

	Dev      string `json:"dev,omitempty"`      // a mount, by its device number
	Path     string `json:"path,omitempty"`     // ... and a path in its view
	Fork     string `json:"fork,omitempty"`     // without Dev: a fork's path name
	Snapshot string `json:"snapshot,omitempty"` // ... and a snapshot of it

	Name string `json:"name,omitempty"` // of what is made, renamed or deleted
	To   string `json:"to,omitempty"`   // its new name

	TTL time.Duration `json:"ttl,omitempty"` // of what is made, or is to expire; nanoseconds
	Tag string        `json:"tag,omitempty"` // of a hold

	Policy string `json:"policy,omitempty"` // for automatic snapshots
	DryRun bool   `json:"dryRun,omitempty"` // only tell what it would do

	Names []string `json:"names,omitempty"` // of several
	Sizes bool     `json:"sizes,omitempty"` // list sizes too
	Count bool     `json:"count,omitempty"` // ... those that take long to count as well

	Recursive bool `json:"recursive,omitempty"` // delete what is listed below too

	Wait     bool                        `json:"wait,omitempty"` // for the reclamation
	Rate     int64                       `json:"rate,omitempty"` // bytes a second; 0: no limit
	progress func(json.RawMessage) error // the client's

	Mountpoint string        `json:"mountpoint,omitempty"`
	Source     string        `json:"source,omitempty"`
	Options    *mountOptions `json:"options,omitempty"`
}

// decodeRequest reads the line of a request. JSON would replace what is no UTF-8,
// and so make another name of it. What names and the like may be, their users
// know; a line's length bounds them all.
func decodeRequest(line []byte) (*request, error) {
	if !utf8.Valid(line) {
		return nil, coded(codeInvalid, "the request is not UTF-8")
	}
	var req request
	if err := json.Unmarshal(line, &req); err != nil {
		return nil, coded(codeInvalid, "the request makes no sense: %v", err)
	}
	if req.Version != protocolVersion {
		return nil, coded(codeVersion, "the server of this store speaks version %d of the control protocol, not %d", protocolVersion, req.Version)
	}
	return &req, nil
}

// check refuses names that would not arrive as they are.
func (r *request) check() error {
	for _, name := range append([]string{r.Name, r.To, r.Tag, r.Policy, r.Fork, r.Snapshot}, r.Names...) {
		if !utf8.ValidString(name) {
			return coded(codeInvalid, "%q: a name is UTF-8", name)
		}
	}
	return nil
}

// A mounted message comes with the descriptor of a mount that was made.
type mounted struct {
	Version int    `json:"v"`
	Dev     string `json:"dev"`
}

// reply answers a request.
type reply struct {
	Version int             `json:"v"`
	OK      bool            `json:"ok"`
	State   string          `json:"state,omitempty"`
	Code    string          `json:"code,omitempty"`
	Error   string          `json:"error,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
}

// The codes of errors, for programs; the text is for people.
const (
	codeClosing   = "closing" // ask again: the server is about to end
	codeLocked    = "locked"  // another process has the store open
	codeVersion   = "version"
	codeBusy      = "busy"
	codeExist     = "exists"
	codeNotExist  = "not-found"
	codeNotEmpty  = "not-empty"
	codeInvalid   = "invalid"
	codeReadOnly  = "read-only"
	codeForbidden = "forbidden"
	codeOther     = "error"
)

// controlError is an error that has a code. It crosses the socket.
type controlError struct {
	code string
	text string
}

func (e *controlError) Error() string { return e.text }

func coded(code, format string, args ...any) error {
	return &controlError{code, fmt.Sprintf(format, args...)}
}

// codeOf returns an error's code.
func codeOf(err error) string {
	var ce *controlError
	if errors.As(err, &ce) {
		return ce.code
	}
	return codeOther
}

// conn is either side of a connection: lines, of which one may bring a
// descriptor with it.
type conn struct {
	*net.UnixConn
	buf []byte
	fds []int // received and not yet taken
}

// readLine reads a line of at most limit bytes.
func (c *conn) readLine(limit int) ([]byte, error) {
	for {
		if i := bytes.IndexByte(c.buf, '\n'); i >= 0 {
			line := c.buf[:i]
			c.buf = c.buf[i+1:]
			return line, nil
		}
		if len(c.buf) > limit {
			return nil, fmt.Errorf("a message of more than %d bytes", limit)
		}
		p, oob := make([]byte, 16<<10), make([]byte, unix.CmsgSpace(4*4))
		n, oobn, _, _, err := c.ReadMsgUnix(p, oob)
		if fds, ferr := parseFds(oob[:oobn]); ferr == nil {
			c.fds = append(c.fds, fds...)
		}
		c.buf = append(c.buf, p[:max(n, 0)]...) // n is -1 with an error
		if len(c.fds) > 1 {
			return nil, fmt.Errorf("%d descriptors came, not one", len(c.fds))
		}
		if n == 0 && err == nil {
			err = errClosed
		}
		if err != nil {
			return nil, err
		}
	}
}

// errClosed: the other side hung up.
var errClosed = errors.New("the connection was closed")

func parseFds(oob []byte) ([]int, error) {
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range msgs {
		if got, err := syscall.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds, nil
}

// takeFd returns the one descriptor that came, or an error.
func (c *conn) takeFd() (int, error) {
	if len(c.fds) != 1 {
		return -1, fmt.Errorf("%d descriptors came, not one", len(c.fds))
	}
	fd := c.fds[0]
	c.fds = nil
	return fd, nil
}

// send writes v as a line, with fd if it is not negative.
func (c *conn) send(v any, fd int) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if fd < 0 {
		_, err = c.Write(line)
		return err
	}
	_, _, err = c.WriteMsgUnix(line, syscall.UnixRights(fd), nil)
	return err
}

// Close closes the connection and what came over it unasked.
func (c *conn) Close() error {
	for _, fd := range c.fds {
		syscall.Close(fd)
	}
	c.fds = nil
	return c.UnixConn.Close()
}

// socketPath returns a path by which the socket in dir can be reached
// whatever the length of dir's name: a socket's address holds 108 bytes. It
// is good until done is called.
func socketPath(dir string) (path string, done func(), err error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", fd, controlName), func() { unix.Close(fd) }, nil
}

// errNotServed: no process serves the store.
var errNotServed = errors.New("the store is not being served")

// dial connects to the server of a store. It returns errNotServed if there
// is none.
func dial(store string) (*conn, error) {
	path, done, err := socketPath(store)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, errNotServed
		}
		return nil, fmt.Errorf("store %s: %w", store, plainErr(err))
	}
	defer done()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	switch {
	case err == nil:
		return &conn{UnixConn: c}, nil
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return nil, errNotServed
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return nil, coded(codeForbidden, "store %s belongs to %s: only they and root may ask for this", store, ownerName(store))
	}
	return nil, fmt.Errorf("asking the server of %s: %w", store, err)
}

// ownerName says whose a file is.
func ownerName(path string) string {
	var st syscall.Stat_t
	if syscall.Stat(path, &st) != nil {
		return "another user"
	}
	return fmt.Sprintf("user %d", st.Uid)
}

// ask sends a request and returns the first reply. The connection stays open.
func (c *conn) ask(req *request) (*reply, error) {
	if err := req.check(); err != nil {
		return nil, err
	}
	req.Version = protocolVersion
	if err := c.send(req, -1); err != nil {
		return nil, hungUp(err)
	}
	return c.next()
}

// next returns the next reply; one that is not ok is an error.
func (c *conn) next() (*reply, error) {
	line, err := c.readLine(maxReplyBytes)
	if err != nil {
		return nil, hungUp(err)
	}
	var r reply
	if err := json.Unmarshal(line, &r); err != nil {
		return nil, fmt.Errorf("the server's reply makes no sense: %v", err)
	}
	if r.Version != protocolVersion {
		return nil, coded(codeVersion, "the store is served by another version of dcfs: unmount it with that, then mount it with this")
	}
	if !r.OK {
		return nil, &controlError{r.Code, r.Error}
	}
	return &r, nil
}

// hungUp explains why there is no reply. A server that is about to end closes
// its connections: the next one is asked then.
func hungUp(err error) error {
	if errors.Is(err, errClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return coded(codeClosing, "the server ended before it answered; its log (dcfs.log in the store) may say why")
	}
	return fmt.Errorf("asking the server: %w", err)
}

// listen makes the control socket. Rule (1): the store's lock is held.
func listen(store string) (*net.UnixListener, error) {
	path, done, err := socketPath(store)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing the control socket of a dead server: %w", err)
	}
	// The socket must not be anyone's between bind and chmod.
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("making the control socket in %s: %w", store, err)
	}
	l.SetUnlinkOnClose(false) // by then path leads nowhere; removeSocket does it
	return l, nil
}

func removeSocket(store string) error {
	return os.Remove(filepath.Join(store, controlName))
}

// peerAllowed reports whether the process at the other end runs as the
// server's user or root.
func peerAllowed(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if cerr != nil {
		return cerr
	}
	if cred.Uid != 0 && cred.Uid != uint32(os.Geteuid()) {
		return coded(codeForbidden, "user %d may not manage this store", cred.Uid)
	}
	return nil
}
