package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dcfs/dcdb"
	"dcfs/fs"
	"dcfs/inode"
	"dcfs/snap"
)

const (
	// A server that nobody mounts from ends after this.
	idleTimeout = 30 * time.Second
	// A server that is told to end waits this long for programs that use a
	// mount, once everything is durable.
	stopTimeout = 5 * time.Second
	// Closing the store may take this long once the volume is closed: its
	// engine tries for ever what it can't write.
	closeTimeout = 30 * time.Second
	// ... and whatever is still to be written, where the store is gone.
	goneTimeout = 5 * time.Second
	// Replies about the end of the store are still sent after it.
	lingerTimeout = 2 * time.Second
)

// server serves one store: its mounts, and the requests on its control
// socket.
type server struct {
	*volume  // immutable
	log      *logger
	o        serverOptions // immutable
	started  time.Time
	place    os.FileInfo // of the store's directory; immutable
	l        *net.UnixListener
	conns    sync.WaitGroup // connections that are being answered, and accept
	clock    *snap.Clock    // immutable
	endClock func()         // immutable

	done     chan struct{} // closed when the store is closed
	closeErr error         // what went wrong with that; read after done
	lost     atomic.Bool   // writing was given up

	mu       sync.Mutex
	mounts   map[*served]struct{} // guarded by mu
	deleting map[*snap.View]int   // guarded by mu: forks that are being deleted, by how many
	busy     int                  // guarded by mu: requests in work, rule (3)
	closing  bool                 // guarded by mu: nobody is let in any more
	stopping bool                 // guarded by mu: told to end, the same for who asks
	idle     *time.Timer          // guarded by mu
}

// served is a mount of a view, or the place that is kept for it while its
// client mounts.
type served struct {
	view       *snap.View
	suffix     string // [@FORK][%SNAPSHOT]
	mountpoint string
	source     string
	options    mountOptions
	since      time.Time
	ended      chan struct{} // closed when the kernel has let go and all is durable
	endErr     error         // what went wrong with that; read after ended

	// Set once, under server.mu, when the client has mounted.
	dev string
	srv *fs.Server
}

// newServer opens the store and listens.
func newServer(ctx context.Context, dir string, mode openMode, o serverOptions, log *logger) (*server, error) {
	v, err := openVolume(ctx, dir, mode, o, log.printf)
	if err != nil {
		return nil, err
	}
	var l *net.UnixListener
	place, err := os.Stat(dir)
	if err == nil {
		l, err = listen(dir)
	}
	if err != nil {
		v.close(ctx)
		return nil, err
	}
	s := &server{
		volume: v, log: log, o: o, started: time.Now(), place: place, l: l,
		done: make(chan struct{}), mounts: map[*served]struct{}{}, deleting: map[*snap.View]int{},
	}
	s.startClock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = time.AfterFunc(idleTimeout, func() { s.leave(0) })
	return s, nil
}

// serve answers requests until the store is closed.
func (s *server) serve() error {
	s.conns.Add(1)
	go s.accept()
	<-s.done
	answered := make(chan struct{})
	go func() { s.conns.Wait(); close(answered) }()
	select {
	case <-answered:
	case <-time.After(lingerTimeout):
	}
	return s.closeErr
}

// accept takes connections. It counts among them, so that there is no moment
// at which none is counted and one comes.
func (s *server) accept() {
	defer s.conns.Done()
	asking := make(chan struct{}, maxAsking)
	for {
		asking <- struct{}{}
		asked := sync.OnceFunc(func() { <-asking })
		u, err := s.l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // descriptors ran out: they come back
			s.log.printf("control socket: %v", err)
			asked()
			time.Sleep(100 * time.Millisecond)
			continue
		}
		s.conns.Add(1)
		go func() {
			defer s.conns.Done()
			defer asked()
			c := &conn{UnixConn: u}
			defer c.Close()
			s.answer(c, asked)
		}()
	}
}

// enter counts a request that is being worked on; it fails when the server is
// about to end.
func (s *server) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.stopping {
		return coded(codeClosing, "the server is about to end")
	}
	s.busy++
	return nil
}

// leave ends n requests, and with the last of them, if nothing is mounted,
// the server.
func (s *server) leave(n int) {
	s.mu.Lock()
	s.busy -= n
	last := s.busy == 0 && len(s.mounts) == 0 && !s.closing
	if last {
		s.closing = true
		s.idle.Stop()
	}
	s.mu.Unlock()
	if last {
		s.shut()
	}
}

// shut ends the service: rule (3) says in which order. It is called once, by
// who has set closing.
func (s *server) shut() {
	if !s.gone() { // else it may be another's
		if err := removeSocket(s.dir); err != nil {
			s.log.printf("removing the control socket: %v", err)
		}
	}
	s.l.Close()
	s.endClock()
	err := s.limited(0, func() error { return s.vol.Close(context.Background()) })
	if cerr := s.limited(closeTimeout, s.store.Close); err == nil {
		err = cerr
	}
	if err != nil {
		s.closeErr = fmt.Errorf("closing store %s: %w", s.dir, err)
		s.log.printf("%v", s.closeErr)
	}
	close(s.done)
}

var (
	errGone = errors.New("the store's directory is gone, and with it what was not written yet")
	errLost = errors.New("writing to the store was given up")
)

// limited runs fn, which writes to the store. It gives up after limit, if that
// is not 0, and sooner where the store is gone; then nothing is run any more.
func (s *server) limited(limit time.Duration, fn func() error) error {
	if s.lost.Load() {
		return errLost
	}
	done := make(chan error, 1)
	go func() { done <- fn() }()
	t := time.NewTicker(goneTimeout / 10)
	defer t.Stop()
	for begun := time.Now(); ; {
		select {
		case err := <-done:
			return err
		case <-t.C:
		}
		since := time.Since(begun)
		if since > goneTimeout && s.gone() {
			s.lost.Store(true)
			return errGone
		}
		if limit > 0 && since > limit {
			s.lost.Store(true)
			return fmt.Errorf("it is not done after %v: given up", limit)
		}
	}
}

// gone reports whether the store is not where it was when it was opened.
func (s *server) gone() bool {
	fi, err := os.Stat(s.dir)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	if !os.SameFile(fi, s.place) {
		return true
	}
	for _, name := range []string{"lock", "records", "segments"} {
		if _, err := os.Lstat(filepath.Join(s.dir, name)); errors.Is(err, os.ErrNotExist) {
			return true
		}
	}
	return false
}

// answer reads a request, calls asked, and answers it.
func (s *server) answer(c *conn, asked func()) {
	if err := peerAllowed(c.UnixConn); err != nil {
		c.send(errorReply(err), -1)
		return
	}
	c.SetReadDeadline(time.Now().Add(requestTimeout))
	line, err := c.readLine(maxRequestBytes)
	if err != nil {
		return
	}
	c.SetReadDeadline(time.Time{})
	asked()
	req, err := decodeRequest(line)
	if err != nil {
		c.send(errorReply(err), -1)
		return
	}
	s.log.debugf("request %s %s%s %s", req.Op, req.Fork, req.Snapshot, req.Name)
	result, err := s.dispatch(c, req)
	if err != nil {
		s.log.debugf("request %s: %v", req.Op, err)
		c.send(errorReply(err), -1)
		return
	}
	c.send(okReply("", result), -1)
}

func errorReply(err error) *reply {
	return &reply{Version: protocolVersion, Code: codeOf(err), Error: err.Error()}
}

func okReply(state string, result any) *reply {
	r := &reply{Version: protocolVersion, OK: true, State: state}
	if result != nil {
		r.Result, _ = json.Marshal(result) // plain structs: can't fail
	}
	return r
}

// dispatch does what a request asks and returns its last reply's result.
func (s *server) dispatch(c *conn, req *request) (any, error) {
	if req.Op == opWatch { // keeps no server alive
		return nil, s.watch(c, req)
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave(1)
	ctx := context.Background()
	switch req.Op {
	case opMount:
		return nil, s.mount(c, req)
	case opRemount:
		return nil, s.remount(req)
	case opSync:
		return nil, s.vol.Space().SyncAll(ctx)
	case opStatus:
		return s.status(ctx)
	case opGC, opScrub:
		return s.serveLong(c, req)
	}
	view, err := s.viewOf(req)
	if err != nil {
		return nil, err
	}
	if req.Op == opForkDelete {
		let, err := s.holdForks(view, req)
		if err != nil {
			return nil, err
		}
		defer let()
	}
	return s.manage(ctx, view, req)
}

// holdForks sees to it that none of the forks that a request is to delete is
// mounted by itself, before let is called.
func (s *server) holdForks(view *snap.View, req *request) (let func(), err error) {
	parent, name, err := s.forkParent(view, req.Name)
	if err != nil {
		return nil, err
	}
	f, err := s.vol.Fork(parent, name)
	if err != nil {
		return func() {}, nil // deleting it fails, and says why
	}
	forks := []*snap.View{f}
	for i := 0; req.Recursive && i < len(forks); i++ {
		forks = append(forks, s.vol.Forks(forks[i])...)
	}
	limit := time.After(endNotice)
	for {
		m := s.hold(forks)
		if m == nil {
			break
		}
		busy := coded(codeBusy, "delete fork %s: %s%s is mounted at %s: unmount it first", req.Name, s.dir, m.suffix, m.mountpoint)
		if s.visible(m) {
			return nil, busy
		}
		select { // as in reserveWait
		case <-m.ended:
		case <-limit:
			return nil, busy
		}
	}
	return func() { s.unhold(forks) }, nil
}

// unhold lets forks be mounted again that hold has kept from it.
func (s *server) unhold(forks []*snap.View) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range forks {
		if s.deleting[f]--; s.deleting[f] == 0 {
			delete(s.deleting, f)
		}
	}
}

// hold keeps forks from being mounted, if none of them is; else it returns the
// mount.
func (s *server) hold(forks []*snap.View) *served {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range forks {
		if m := s.mountOfLocked(f); m != nil {
			return m
		}
	}
	for _, f := range forks {
		s.deleting[f]++
	}
	return nil
}

// viewOf returns the view that a request names: rule (4).
func (s *server) viewOf(req *request) (*snap.View, error) {
	if req.Dev == "" {
		return s.root(req.Fork, req.Snapshot)
	}
	m := s.byDev(req.Dev)
	if m == nil {
		return nil, coded(codeNotExist, "this server does not serve that mount")
	}
	if err := m.view.Err(); err != nil {
		return nil, verbError(err, "%s", m.mountpoint)
	}
	return s.descend(m.view, req.Path, &m.options)
}

func (s *server) byDev(dev string) *served {
	s.mu.Lock()
	defer s.mu.Unlock()
	for m := range s.mounts {
		if m.dev == dev && m.srv != nil {
			return m
		}
	}
	return nil
}

// mount reserves a view for the client, gets the descriptor of what it has
// mounted, and begins to answer the kernel.
func (s *server) mount(c *conn, req *request) error {
	view, err := s.root(req.Fork, req.Snapshot)
	if err != nil {
		return err
	}
	if req.Options == nil || !filepath.IsAbs(req.Mountpoint) {
		return coded(codeInvalid, "mount: the request lacks its options or mount point")
	}
	m := &served{
		view: view, suffix: viewSuffix(req.Fork, req.Snapshot), mountpoint: req.Mountpoint, source: req.Source,
		options: *req.Options, since: time.Now(), ended: make(chan struct{}),
	}
	if err := s.reserveWait(m); err != nil {
		return err
	}
	if err := s.attach(c, m); err != nil {
		s.release(m)
		return err
	}
	go s.await(m)
	s.log.debugf("mounted %s%s at %s", s.dir, m.suffix, m.mountpoint)
	return nil
}

// remount changes the options of a mount that the kernel does not see to.
func (s *server) remount(req *request) error {
	m := s.byDev(req.Dev)
	if m == nil {
		return coded(codeNotExist, "this server does not serve that mount")
	}
	if req.Options == nil {
		return coded(codeInvalid, "remount: the request lacks its options")
	}
	m.srv.SetStrictAtime(req.Options.StrictAtime)
	return nil
}

// reserveWait reserves m's view. A mount that has it and that nobody sees any
// more may just be about to end: umount(8) returns before the server knows.
func (s *server) reserveWait(m *served) error {
	limit := time.After(endNotice)
	for {
		o, err := s.reserve(m)
		if o == nil {
			return err
		}
		if s.visible(o) {
			return coded(codeBusy, "%s%s is mounted at %s already: use \"mount --bind %[3]s %s\" to have it there too",
				s.dir, m.suffix, o.mountpoint, m.mountpoint)
		}
		select {
		case <-o.ended:
		case <-limit:
			return coded(codeBusy, "%s%s was mounted at %s and is still in use, by programs or in another mount namespace: end that first",
				s.dir, m.suffix, o.mountpoint)
		}
	}
}

// visible reports whether o is still being mounted, or mounted where this
// process sees it.
func (s *server) visible(o *served) bool {
	s.mu.Lock()
	dev := o.dev
	s.mu.Unlock()
	names, err := mountsOf(dev)
	return dev == "" || err != nil || len(names) > 0
}

// reserve enters m among the mounts: rule (2). If another mount has m's view,
// it is returned.
func (s *server) reserve(m *served) (*served, error) {
	if o := s.mountOf(m.view); o != nil {
		return o, nil
	}
	// A fork may also be in use by way of another mount's .forks. Asking that
	// mount to let go of it takes time, so no lock is held.
	if !m.view.ReadOnly() && fs.Served(m.view) {
		return nil, coded(codeBusy, "%s%s is in use by way of another mount's forks: use \"mount --bind\" from there, or end that use", s.dir, m.suffix)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.mountOfLocked(m.view); o != nil {
		return o, nil
	}
	if s.deleting[m.view] > 0 {
		return nil, coded(codeBusy, "%s%s is being deleted", s.dir, m.suffix)
	}
	s.idle.Stop()
	s.mounts[m] = struct{}{}
	return nil, nil
}

// mountOf returns the mount that has a live view to itself, if there is one.
func (s *server) mountOf(view *snap.View) *served {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mountOfLocked(view)
}

// mountOfLocked is mountOf. Preconditions: s.mu is held.
func (s *server) mountOfLocked(view *snap.View) *served {
	if view.ReadOnly() {
		return nil
	}
	for o := range s.mounts {
		if o.view == view {
			return o
		}
	}
	return nil
}

func (s *server) release(m *served) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mounts, m)
}

// attach lets the client mount and takes the descriptor.
func (s *server) attach(c *conn, m *served) error {
	if err := c.send(okReply("go", nil), -1); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(mountTimeout))
	line, err := c.readLine(maxRequestBytes)
	if err != nil {
		return err
	}
	c.SetReadDeadline(time.Time{})
	var msg mounted
	if err := json.Unmarshal(line, &msg); err != nil {
		return coded(codeInvalid, "mount: the message makes no sense: %v", err)
	}
	fd, err := c.takeFd()
	if err != nil {
		return coded(codeInvalid, "mount: %v", err)
	}
	if err := checkFuse(fd); err != nil {
		syscall.Close(fd)
		return err
	}
	srv, err := fs.Serve(fd, inode.New(s.vol, inode.Options{StrictAtime: m.options.StrictAtime}), m.view, s.fsOptions(m, msg.Dev))
	if err != nil {
		return fmt.Errorf("serving %s: %w", m.mountpoint, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m.dev, m.srv = msg.Dev, srv
	return nil
}

// fsOptions are the options of m, whose device number is dev, that concern
// package fs.
func (s *server) fsOptions(m *served, dev string) fs.Options {
	return fs.Options{
		NoACL: m.options.NoACL, NoExport: m.options.NoExport, NoXattr: m.options.NoXattr, SnapDir: m.options.SnapDir, ForkDir: m.options.ForkDir,
		Transport: m.options.Transport, InflightBytes: 2 * s.o.Dirty, Mountpoint: m.mountpoint, Dev: dev, Debug: s.log.debug, Log: s.log.printf,
	}
}

// checkFuse makes sure that a descriptor is one of /dev/fuse.
func checkFuse(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(10, 229) {
		return coded(codeInvalid, "mount: the descriptor is not of /dev/fuse")
	}
	unix.CloseOnExec(fd)
	return nil
}

// await waits for the end of a mount, makes what it brought durable, and
// forgets it.
func (s *server) await(m *served) {
	m.srv.Wait()
	s.log.debugf("unmounted %s%s from %s", s.dir, m.suffix, m.mountpoint)
	m.endErr = s.syncAll()
	if errors.Is(m.endErr, dcdb.ErrClosed) {
		m.endErr = nil // abandoned: closing the store has made it durable, or says why not
	}
	if m.endErr != nil {
		s.log.printf("writing back after unmount of %s: %v", m.mountpoint, m.endErr)
	}
	s.mu.Lock()
	delete(s.mounts, m)
	last := s.busy == 0 && len(s.mounts) == 0 && !s.closing
	if last { // decided before m.ended tells, so who watches knows
		s.closing = true
	}
	s.mu.Unlock()
	close(m.ended)
	s.clock.Wake() // m's fork may have waited for this
	if last {
		s.shut()
	}
}

// syncAll makes everything durable, at the end of a mount or of the server.
func (s *server) syncAll() error {
	return s.limited(0, func() error { return s.vol.Space().SyncAll(context.Background()) })
}

// watch tells a client when a mount has ended and its data is safe.
func (s *server) watch(c *conn, req *request) error {
	m := s.byDev(req.Dev)
	if m == nil {
		return coded(codeNotExist, "this server does not serve that mount")
	}
	if err := c.send(okReply("watching", nil), -1); err != nil {
		return err
	}
	gone := make(chan struct{})
	go func() { // a client that hangs up is waited for no longer
		c.Read(make([]byte, 1))
		close(gone)
	}()
	select {
	case <-m.ended:
	case <-gone:
		return errClosed
	}
	if err := c.send(okReply("ended", nil), -1); err != nil {
		return err
	}
	s.mu.Lock()
	closing := s.closing
	s.mu.Unlock()
	if closing {
		<-s.done
		if s.closeErr != nil {
			return s.closeErr
		}
	}
	return m.endErr
}

// stop ends everything: first all is made durable, then the mounts are taken
// away, lazily where they are in use. What is still in use after stopTimeout
// gets errors from then on.
func (s *server) stop(sig os.Signal) {
	s.log.debugf("%v: unmounting everything", sig)
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return
	}
	s.stopping = true
	s.busy++ // the server stays until here all is done
	s.mu.Unlock()
	defer s.leave(1)

	if err := s.syncAll(); err != nil {
		s.log.printf("writing back: %v", err)
	}
	detached := map[*served]bool{}
	for limit := time.Now().Add(stopTimeout); ; time.Sleep(10 * time.Millisecond) {
		left, attached := s.mountsLeft()
		if left == 0 {
			return
		}
		if time.Now().After(limit) {
			for _, m := range attached {
				s.log.printf("%s is still in use; its programs get errors from now on", m.mountpoint)
			}
			s.abandon()
			return
		}
		for _, m := range attached {
			if !detached[m] {
				detached[m] = true
				s.detach(m)
			}
		}
	}
}

// mountsLeft returns how many mounts there are, and those that answer: the
// others are just being made.
func (s *server) mountsLeft() (n int, attached []*served) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for m := range s.mounts {
		if m.srv != nil {
			attached = append(attached, m)
		}
	}
	return len(s.mounts), attached
}

// detach unmounts m wherever this mount namespace shows it. In another one it
// can't: there the mount is dead when the server has ended.
func (s *server) detach(m *served) {
	names, err := mountsOf(m.dev)
	if err != nil {
		s.log.printf("%v", err)
	}
	for _, n := range names {
		err := fs.Detach(n.Mountpoint, false)
		if errors.Is(err, syscall.EBUSY) {
			err = fs.Detach(n.Mountpoint, true)
		}
		if err != nil {
			s.log.printf("unmounting %s: %v", n.Mountpoint, err)
		}
	}
	removeMark(&mountEntry{Dev: m.dev, Super: fmt.Sprintf("user_id=%d", os.Geteuid())})
}

// abandon ends the server though mounts are in use: what they ask from now on
// fails.
func (s *server) abandon() {
	s.mu.Lock()
	already := s.closing
	s.closing = true
	s.mu.Unlock()
	if !already {
		s.shut()
	}
}

// stopOnSignals makes SIGTERM and SIGINT flush and unmount.
func (s *server) stopOnSignals() {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for sig := range ch {
			s.stop(sig)
		}
	}()
}

// mountStatus describes a mount in a status.
type mountStatus struct {
	View       string    `json:"view"` // [@FORK][%SNAPSHOT]
	Mountpoint string    `json:"mountpoint"`
	Source     string    `json:"source"`
	Dev        string    `json:"dev"`
	ReadOnly   bool      `json:"readOnly"`
	Since      time.Time `json:"since"`
}

// status describes a store and who serves it.
type status struct {
	Store     string           `json:"store"`
	UUID      string           `json:"uuid"`
	Sealed    bool             `json:"sealed"`
	Format    int              `json:"format"`
	Created   time.Time        `json:"created"`
	Served    bool             `json:"served"`
	PID       int              `json:"pid,omitempty"`
	Version   string           `json:"version,omitempty"` // of the server
	Since     *time.Time       `json:"since,omitempty"`   // ... and when it began
	Routines  int              `json:"goroutines,omitempty"`
	Mounts    []mountStatus    `json:"mounts"`
	UsedBytes uint64           `json:"usedBytes"`
	FreeBytes uint64           `json:"freeBytes"`
	Backlog   backlog          `json:"backlog"`   // what was deleted and still takes space
	Snapshots int              `json:"snapshots"` // of all forks
	Forks     int              `json:"forks"`     // main not counted
	Counters  map[string]int64 `json:"counters"`  // store calls since the store was opened
}

func (s *server) status(ctx context.Context) (*status, error) {
	st, err := s.volume.status(ctx)
	if err != nil {
		return nil, err
	}
	since := s.started.UTC()
	st.Served, st.PID, st.Version, st.Since = true, os.Getpid(), version, &since
	st.Routines = runtime.NumGoroutine()
	s.mu.Lock()
	defer s.mu.Unlock()
	for m := range s.mounts {
		st.Mounts = append(st.Mounts, mountStatus{
			View: m.suffix, Mountpoint: m.mountpoint, Source: m.source, Dev: m.dev,
			ReadOnly: m.options.ReadOnly || m.view.ReadOnly(), Since: m.since.UTC(),
		})
	}
	sort.Slice(st.Mounts, func(i, j int) bool { return st.Mounts[i].Mountpoint < st.Mounts[j].Mountpoint })
	return st, nil
}
