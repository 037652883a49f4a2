package fs

import (
	"errors"
	"fmt"
	"log"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"dcfs/inode"
	"dcfs/snap"
)

const (
	// maxRequestBytes is the most data that the kernel asks for or sends at a
	// time: the most it can.
	maxRequestBytes = 1 << 20

	// maxBackground bounds the read-ahead, direct I/O and mmap write-back
	// that the kernel has under way. Its default of 12 is for slow servers.
	maxBackground = 64

	// inflightBytes is the default of Options.InflightBytes, minInflightBytes the
	// least of it.
	inflightBytes    = 128 << 20
	minInflightBytes = 16 * maxRequestBytes

	// longTimeout is how long the kernel may keep what only it changes.
	longTimeout = time.Hour

	// virtualTimeout is how long it may keep the attributes of a virtual
	// directory. Owner and mode change only through the kernel; what may be
	// late is the time of a snapshot that somebody else took.
	virtualTimeout = time.Second
)

// Closed, as Options.SnapDir or ForkDir, closes these doors: the name is
// nothing special.
const Closed = "none"

// Wire, as Options.Transport, has requests read by a loop of our own instead of
// go-fuse's server.
const Wire = "wire"

// Options are what a mount can choose.
type Options struct {
	// SnapDir and ForkDir are the names of the virtual directories, ".snapshots"
	// and ".forks" if empty. See Closed.
	SnapDir, ForkDir string

	// NoACL keeps the kernel from asking for POSIX ACLs: it checks modes alone,
	// and they can be neither read nor set. They are handed down, and follow
	// chmod, all the same.
	NoACL bool

	// NoExport has file handles of what the kernel has forgotten be stale. An
	// overlayfs of which this is a layer needs it since Linux 6.16: a dentry
	// that comes from a handle looks outdated to it.
	NoExport bool

	// NoXattr is for who has no use for extended attributes: the kernel is told
	// that there are none, and asks no more. Without it, it asks for
	// security.capability before the first write of a file and before each
	// chown, since it may have forgotten. Those that there are stay as they
	// are, but that a file's capabilities go with a change of it, as they must:
	// that is seen to here, not in the kernel. There are no ACLs either then.
	NoXattr bool

	// EntryTimeout and AttrTimeout are how long the kernel keeps names and
	// attributes of a view: an hour if 0, not at all if negative.
	EntryTimeout, AttrTimeout time.Duration

	// Transport is Wire, or "" for go-fuse's server.
	Transport string

	// InflightBytes bounds the memory of requests being answered by go-fuse's
	// server, each of which may hold 1 MiB: those of writers that wait, above
	// all. The default is 128 MiB.
	InflightBytes int64

	// Mountpoint is where Unmount unmounts, if this process sees it.
	Mountpoint string

	// Dev is the mount's device number as /proc/self/mountinfo has it, "" if it
	// is not known: then what concerns one mount of dcfs is taken for all.
	Dev string

	// Log gets what no user can be told: each input/output error with its
	// cause. If nil, package log does.
	Log func(format string, args ...any)

	// Debug logs every request and answer.
	Debug bool
}

func (o *Options) setDefaults() {
	name := func(s, def string) string {
		switch s {
		case "":
			return def
		case Closed:
			return ""
		}
		return s
	}
	o.SnapDir, o.ForkDir = name(o.SnapDir, ".snapshots"), name(o.ForkDir, ".forks")
	timeout := func(d time.Duration) time.Duration {
		if d == 0 {
			return longTimeout
		}
		return max(d, 0)
	}
	o.NoACL = o.NoACL || o.NoXattr
	o.EntryTimeout, o.AttrTimeout = timeout(o.EntryTimeout), timeout(o.AttrTimeout)
	if o.InflightBytes == 0 {
		o.InflightBytes = inflightBytes
	}
	o.InflightBytes = max(o.InflightBytes, minInflightBytes)
	if o.Log == nil {
		o.Log = log.Printf
	}
}

// check refuses names of the virtual directories that can't be names.
func (o *Options) check() error {
	for _, s := range []string{o.SnapDir, o.ForkDir} {
		if s == "." || s == ".." || strings.ContainsAny(s, "/\x00") || len(s) > inode.MaxName {
			return fmt.Errorf("%q can't be the name of a directory", s)
		}
	}
	if o.Transport != "" && o.Transport != Wire {
		return fmt.Errorf("there is no transport %q: %s is one", o.Transport, Wire)
	}
	if o.SnapDir != "" && o.SnapDir == o.ForkDir {
		return fmt.Errorf("snapshots and forks can't both be in %q", o.SnapDir)
	}
	return nil
}

// Server answers the requests of one mount.
type Server struct {
	m *mount
}

// mount is what the requests of one mount are answered from. Its exported
// methods are those of fuse.RawFileSystem, in the files named for what they
// are about.
type mount struct {
	fuse.RawFileSystem // what the kernel does not send us: see Access

	fs      *inode.FS                   // immutable
	vol     *snap.Volume                // immutable
	own     *door                       // immutable; to the view that is mounted
	opts    Options                     // immutable
	log     func(f string, args ...any) // immutable
	kernel  transport                   // immutable once requests come
	entryTo timeout                     // immutable
	attrTo  timeout                     // immutable
	keeps   bool                        // immutable; the kernel may keep what it knows for long

	nodes    nodeTable
	doors    *doorTable
	writers  writerTable
	standIns standInTable
	dirs     dirTable
	settle   settling
	orphans  orphanQueue
	done     chan struct{} // closed when all is ended
}

// timeout is a time in the form of the protocol.
type timeout struct {
	sec  uint64
	nsec uint32
}

func newTimeout(d time.Duration) timeout {
	return timeout{uint64(d / time.Second), uint32(d % time.Second)}
}

// Serve answers on fd, which Attach gave, with view v of the volume that f is
// for. It takes fd over, also when it fails; then the mount is dead and must
// be detached. A live view is served by one mount at a time: snap.ErrBusy if
// another one does, see Served.
func Serve(fd int, f *inode.FS, v *snap.View, o Options) (*Server, error) {
	o.setDefaults()
	m, err := newMount(f, v, o)
	if err != nil {
		syscall.Close(fd)
		return nil, err
	}
	if m.kernel, err = m.newTransport(fd); err != nil {
		m.end()
		return nil, fmt.Errorf("answer the kernel: %w", err)
	}
	m.register()
	go m.kernel.Serve()
	return &Server{m}, nil
}

func newMount(f *inode.FS, v *snap.View, o Options) (*mount, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	m := &mount{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		fs:            f,
		vol:           v.Volume(),
		own:           &door{view: v, root: snap.RootIno, generation: viewGeneration(v)},
		opts:          o,
		log:           o.Log,
		entryTo:       newTimeout(o.EntryTimeout),
		attrTo:        newTimeout(o.AttrTimeout),
		keeps:         min(o.EntryTimeout, o.AttrTimeout) >= longTimeout,
		done:          make(chan struct{}),
	}
	m.doors = newDoorTable(m)
	m.settle.m = m
	m.orphans.init(m)
	if err := m.begin(); err != nil {
		m.orphans.end()
		return nil, err
	}
	return m, nil
}

// begin claims the view and makes it ready.
func (m *mount) begin() error {
	v := m.own.view
	if o := server(v); o != nil && o != m {
		o.yield(v)
	}
	if err := claim(v, m); err != nil {
		return err
	}
	if err := m.fs.CleanOrphans(background, v); err != nil {
		unclaim(v, m)
		return err
	}
	return nil
}

// register makes m one that hears of deleted views. The kernel is there now.
func (m *mount) register() {
	process.mu.Lock()
	defer process.mu.Unlock()
	process.mounts[m] = true
}

// Served reports whether another mount of this process has live view v open,
// so that Serve would fail. A mount in which v was only seen once, as one of
// the forks there, gives it up if nothing uses it.
func Served(v *snap.View) bool {
	m := server(v)
	return m != nil && !m.yield(v)
}

// end is the end of the mount: nobody asks any more.
func (m *mount) end() {
	m.settle.end()
	m.orphans.end()
	process.mu.Lock()
	delete(process.mounts, m)
	process.mu.Unlock()
	for _, d := range append(m.doors.all(), m.own) {
		m.endDoor(d)
	}
	m.dirs.closeAll()
	close(m.done)
}

// endDoor ends what was open behind a door without a name: at unmount the
// kernel sends no FORGET.
func (m *mount) endDoor(d *door) {
	if d.view.ReadOnly() {
		return
	}
	err := m.fs.CleanOrphans(background, d.view)
	if err != nil && !errors.Is(err, inode.ErrStale) {
		m.log("inodes without a name stay until the next mount: %v", err)
	}
	unclaim(d.view, m)
}

// fuseOptions is what we agree on with the kernel.
func (m *mount) fuseOptions() *fuse.MountOptions {
	o := &fuse.MountOptions{
		Name:                    "dcfs",
		Debug:                   m.opts.Debug,
		Logger:                  log.New(logWriter(m.log), "", 0),
		MaxWrite:                maxRequestBytes,
		MaxBackground:           maxBackground,
		MaxInflightRequestBytes: int(m.opts.InflightBytes),
		// Splicing is tried for plain bytes too, and only costs then.
		DisableSplice: true,
		// The default throws away a file's whole cache when its mtime is
		// new, after every write that is.
		ExplicitDataCacheControl: true,
		EnableSymlinkCaching:     !m.fs.StrictAtime(), // for ever: a remount does not ask again
		EnableAcl:                !m.opts.NoACL,
		DisableXAttrs:            m.opts.NoXattr,
		ExtraCapabilities: fuse.CAP_READDIRPLUS_AUTO | // plain listings stay cheap
			fuse.CAP_ATOMIC_O_TRUNC |
			fuse.CAP_DONT_MASK | // default ACLs take the umask's place
			fuse.CAP_SETXATTR_EXT | // says when an ACL takes S_ISGID away
			// Without it each write asks for security.capability first.
			fuse.CAP_HANDLE_KILLPRIV_V2 |
			fuse.CAP_ASYNC_DIO |
			fuse.CAP_DIRECT_IO_ALLOW_MMAP,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH, // would make overlayfs on top impossible
	}
	if !m.opts.NoExport {
		o.ExtraCapabilities |= fuse.CAP_EXPORT_SUPPORT
	}
	return o
}

// logWriter lets package log write to a log function.
type logWriter func(format string, args ...any)

func (w logWriter) Write(p []byte) (int, error) {
	w("%s", strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// String names the file system in messages of go-fuse.
func (m *mount) String() string { return "dcfs" }

// OnUnmount is called after the last request.
func (m *mount) OnUnmount() { m.end() }

// View returns the view that is mounted.
func (s *Server) View() *snap.View { return s.m.own.view }

// SetStrictAtime has reads change the access time, or not, from now on. What
// the kernel has in its cache it answers by itself: it asks again for a file
// that is opened anew, and for a symlink if the mount began as strict.
func (s *Server) SetStrictAtime(on bool) { s.m.fs.SetStrictAtime(on) }

// Wait returns when the mount has ended, however that came about, and all
// that it was asked for is done. What was written may not be durable yet:
// that is snap.Volume's to see to.
func (s *Server) Wait() { <-s.m.done }

// Unmount unmounts Options.Mountpoint and waits. It fails if something in the
// mount is in use; see Detach.
func (s *Server) Unmount() error {
	select {
	case <-s.m.done:
		return nil
	default:
	}
	if err := Detach(s.m.opts.Mountpoint, false); err != nil {
		return err
	}
	s.Wait()
	return nil
}
