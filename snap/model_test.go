package snap

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// The model: a volume as a naive one that copies every view deeply. A world is
// replaced, never changed, so that a crash can go back to an earlier one.
type (
	mfile struct {
		data  []byte
		attrs map[string]string
	}
	mview map[uint64]*mfile // by inode number
	mfork struct {
		live  mview
		snaps map[string]mview
	}
	world map[string]*mfork // by path, main is ""
)

func (w world) clone() world {
	c := maps.Clone(w)
	for p, f := range c {
		c[p] = &mfork{maps.Clone(f.live), maps.Clone(f.snaps)}
	}
	return c
}

func (f *mfile) with(change func(f *mfile)) *mfile {
	c := &mfile{slices.Clone(f.data), maps.Clone(f.attrs)}
	change(c)
	return c
}

func (f *mfile) resize(n int) {
	if n <= len(f.data) {
		f.data = f.data[:n]
	} else {
		f.data = append(f.data, make([]byte, n-len(f.data))...)
	}
}

func (f *mfile) String() string {
	var attrs []string
	for _, k := range slices.Sorted(maps.Keys(f.attrs)) {
		attrs = append(attrs, fmt.Sprintf("%s=%08x", k, crc32.ChecksumIEEE([]byte(f.attrs[k]))))
	}
	return fmt.Sprintf("%d bytes %08x %s", len(f.data), crc32.ChecksumIEEE(f.data), strings.Join(attrs, ","))
}

// dump is all that a world shows, as text.
func (w world) dump() string {
	var b strings.Builder
	for _, p := range slices.Sorted(maps.Keys(w)) {
		dump := func(name string, v mview) {
			fmt.Fprintf(&b, "%q:\n", name)
			for _, ino := range slices.Sorted(maps.Keys(v)) {
				fmt.Fprintf(&b, "  %d %v\n", ino, v[ino])
			}
		}
		dump(p, w[p].live)
		for _, s := range slices.Sorted(maps.Keys(w[p].snaps)) {
			dump(p+"%"+s, w[p].snaps[s])
		}
	}
	return b.String()
}

// modelTest runs the volume beside the world.
type modelTest struct {
	t    *testing.T
	ctx  context.Context
	rnd  *rand.Rand
	st   *store.Memory
	v    *Volume
	now  world
	past []world // states since the last durable one, that one first
	inos map[uint64]bool
	log  []string
	o    Options

	checks int // that no commit came into
}

func (m *modelTest) fatalf(format string, args ...any) {
	m.t.Helper()
	n := max(0, len(m.log)-40)
	m.t.Fatalf("%s\nlast operations:\n%s", fmt.Sprintf(format, args...), strings.Join(m.log[n:], "\n"))
}

func (m *modelTest) open() {
	v, err := Open(m.ctx, m.st, m.o)
	if err != nil {
		m.fatalf("open: %v", err)
	}
	m.v = v
}

func (m *modelTest) view(path string) *View {
	w := m.v.Main()
	if path == "" {
		return w
	}
	for _, name := range strings.Split(path, "/") {
		var err error
		if w, err = m.v.Fork(w, name); err != nil {
			m.fatalf("fork %q: %v", path, err)
		}
	}
	return w
}

func (m *modelTest) readFile(w *View, ino uint64) (*mfile, error) {
	f := &mfile{attrs: map[string]string{}}
	err := m.v.Space().View(m.ctx, func(tx *dcdb.Tx) error {
		clear(f.attrs)
		db, err := tx.DB(w.Key(ino))
		if err != nil {
			return err
		}
		f.data = make([]byte, db.Attr().Size)
		return db.Ascend(dcdb.KindXattr, "", func(k string, val []byte) bool {
			f.attrs[k] = string(val)
			return true
		})
	})
	if err != nil {
		return nil, err
	}
	n, err := m.v.Space().Read(m.ctx, w.Key(ino), f.data, 0)
	if err != nil || n != len(f.data) {
		return nil, fmt.Errorf("read %d of %d bytes: %w", n, len(f.data), err)
	}
	return f, nil
}

// real is what the volume shows, in the form of world.dump.
func (m *modelTest) real() string {
	w := world{}
	var walk func(path string, live *View)
	read := func(view *View) mview {
		v := mview{}
		for ino := range m.inos {
			f, err := m.readFile(view, ino)
			if errors.Is(err, dcdb.ErrNotExist) {
				continue
			}
			if err != nil {
				m.fatalf("inode %d in %q: %v", ino, view.Name(), err)
			}
			v[ino] = f
		}
		return v
	}
	walk = func(path string, live *View) {
		f := &mfork{live: read(live), snaps: map[string]mview{}}
		for _, s := range m.v.Snapshots(live) {
			f.snaps[s.Name()] = read(s)
		}
		w[path] = f
		for _, g := range m.v.Forks(live) {
			walk(strings.TrimPrefix(path+"/"+g.fork.name, "/"), g)
		}
	}
	walk("", m.v.Main())
	return w.dump()
}

func (m *modelTest) compare() {
	m.t.Helper()
	if got, want := m.real(), m.now.dump(); got != want {
		m.fatalf("volume shows\n%s\nwant\n%s", got, want)
	}
}

// check verifies all that the store has.
func (m *modelTest) check() {
	m.t.Helper()
	o := CheckOptions{}
	if m.rnd.IntN(4) == 0 {
		o.Spill.Bytes = 1000
	}
	r, err := m.v.Check(m.ctx, o)
	if errors.Is(err, ErrBusy) {
		return // with reclamation
	}
	if err != nil || len(r.Problems) > 0 {
		m.fatalf("check: %v:\n%s", err, strings.Join(r.Problems, "\n"))
	}
	m.checks++
}

// durable notes that all up to now is acknowledged.
func (m *modelTest) durable() { m.past = []world{m.now.clone()} }

func (m *modelTest) update(fn func(tx *dcdb.Tx) error) {
	m.t.Helper()
	if err := m.v.Space().Update(m.ctx, fn); err != nil {
		m.fatalf("update: %v", err)
	}
	m.past = append(m.past, m.now.clone())
}

func pick[K comparable, V any](r *rand.Rand, m map[K]V, less func(a, b K) int) (k K, ok bool) {
	if len(m) == 0 {
		return k, false
	}
	keys := slices.SortedFunc(maps.Keys(m), less)
	return keys[r.IntN(len(keys))], true
}

func (m *modelTest) pickFork() string {
	p, _ := pick(m.rnd, m.now, strings.Compare)
	return p
}

func (m *modelTest) pickFile(p string) (uint64, bool) {
	return pick(m.rnd, m.now[p].live, func(a, b uint64) int { return int(a) - int(b) })
}

func (m *modelTest) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.rnd.Uint32())
	}
	return b
}

const modelFileBytes = 3*dcdb.RecordBytes + 5000

func (m *modelTest) step() {
	p := m.pickFork()
	f := m.now[p]
	note := func(format string, args ...any) {
		m.log = append(m.log, fmt.Sprintf("%q: ", p)+fmt.Sprintf(format, args...))
	}
	switch n := m.rnd.IntN(100); {
	case n < 12:
		if len(f.live) < 12 {
			m.create(p, note)
		}
	case n < 45:
		if ino, ok := m.pickFile(p); ok {
			m.write(p, ino, note)
		}
	case n < 52:
		if ino, ok := m.pickFile(p); ok {
			m.truncate(p, ino, note)
		}
	case n < 57:
		if ino, ok := m.pickFile(p); ok {
			m.punch(p, ino, note)
		}
	case n < 67:
		if ino, ok := m.pickFile(p); ok {
			m.xattr(p, ino, note)
		}
	case n < 70:
		if ino, ok := m.pickFile(p); ok {
			m.clone(p, ino, note)
		}
	case n < 74:
		if ino, ok := m.pickFile(p); ok {
			note("delete %d", ino)
			delete(f.live, ino)
			k := m.view(p).Key(ino)
			m.update(func(tx *dcdb.Tx) error {
				db, err := tx.DB(k)
				if err == nil {
					db.Delete()
				}
				return err
			})
		}
	case n < 80:
		m.snapshot(p, note)
	case n < 86:
		m.deleteSnapshot(p, note)
	case n < 90:
		m.fork(p, note)
	case n < 91:
		m.deleteFork(p, note)
	case n < 94:
		m.succeed(note)
	case n < 96:
		note("sync")
		if err := m.v.Space().SyncAll(m.ctx); err != nil {
			m.fatalf("sync: %v", err)
		}
		m.durable()
	case n < 98:
		note("remount")
		if err := m.v.Close(m.ctx); err != nil {
			m.fatalf("close: %v", err)
		}
		m.durable()
		m.st = m.st.Reopen()
		m.open()
	default:
		note("crash")
		m.crash()
	}
}

type noteFunc func(format string, args ...any)

func (m *modelTest) create(p string, note noteFunc) {
	w := m.view(p)
	var ino uint64
	m.now[p].live = maps.Clone(m.now[p].live)
	m.update(func(tx *dcdb.Tx) error {
		if _, err := tx.DB(w.Key(RootIno)); err != nil {
			return err
		}
		ino = w.NewIno()
		tx.Create(w.Key(ino), dcdb.Attr{Mode: 0o100644, Nlink: 1})
		m.now[p].live[ino] = &mfile{attrs: map[string]string{}}
		return nil
	})
	m.inos[ino] = true
	note("create %d", ino)
}

func (m *modelTest) write(p string, ino uint64, note noteFunc) {
	off := m.rnd.IntN(modelFileBytes)
	if m.rnd.IntN(2) == 0 {
		off &^= 4095
	}
	n := 1 + m.rnd.IntN([]int{10, 5000, 200000}[m.rnd.IntN(3)])
	n = min(n, modelFileBytes-off+1)
	data := m.bytes(n)
	note("write %d at %d +%d", ino, off, n)
	m.now[p].live[ino] = m.now[p].live[ino].with(func(f *mfile) {
		f.resize(max(len(f.data), off+n))
		copy(f.data[off:], data)
	})
	got, err := m.v.Space().Write(m.ctx, m.view(p).Key(ino), data, func(*dcdb.DB) uint64 { return uint64(off) }, func(*dcdb.DB) error { return nil })
	if err != nil || got != n {
		m.fatalf("write: %d, %v", got, err)
	}
	m.past = append(m.past, m.now.clone())
}

func (m *modelTest) truncate(p string, ino uint64, note noteFunc) {
	size := m.rnd.IntN(modelFileBytes)
	if m.rnd.IntN(3) == 0 {
		size = 0
	}
	note("truncate %d to %d", ino, size)
	m.now[p].live[ino] = m.now[p].live[ino].with(func(f *mfile) { f.resize(size) })
	k := m.view(p).Key(ino)
	m.update(func(tx *dcdb.Tx) error {
		db, err := tx.DB(k)
		if err != nil {
			return err
		}
		return db.Truncate(uint64(size))
	})
}

func (m *modelTest) punch(p string, ino uint64, note noteFunc) {
	off, n := m.rnd.IntN(modelFileBytes), 1+m.rnd.IntN(100000)
	note("punch %d at %d +%d", ino, off, n)
	m.now[p].live[ino] = m.now[p].live[ino].with(func(f *mfile) {
		if off < len(f.data) {
			clear(f.data[off:min(off+n, len(f.data))])
		}
	})
	k := m.view(p).Key(ino)
	m.update(func(tx *dcdb.Tx) error {
		db, err := tx.DB(k)
		if err != nil {
			return err
		}
		return db.Punch(uint64(off), uint64(n))
	})
}

func (m *modelTest) xattr(p string, ino uint64, note noteFunc) {
	name := fmt.Sprintf("user.%d", m.rnd.IntN(40))
	val := m.bytes([]int{3, 300, 3000}[m.rnd.IntN(3)])
	remove := m.rnd.IntN(3) == 0
	note("xattr %d %s %d bytes, remove %v", ino, name, len(val), remove)
	m.now[p].live[ino] = m.now[p].live[ino].with(func(f *mfile) {
		if remove {
			delete(f.attrs, name)
		} else {
			f.attrs[name] = string(val)
		}
	})
	k := m.view(p).Key(ino)
	m.update(func(tx *dcdb.Tx) error {
		db, err := tx.DB(k)
		if err != nil {
			return err
		}
		if _, _, err := db.Get(dcdb.KindXattr, name); err != nil {
			return err
		}
		if remove {
			db.Remove(dcdb.KindXattr, name)
		} else {
			db.Put(dcdb.KindXattr, name, val)
		}
		return nil
	})
}

// clone shares a file's records with one of any view.
func (m *modelTest) clone(p string, ino uint64, note noteFunc) {
	q := m.pickFork()
	src, files := m.view(q), m.now[q].live
	if name, ok := pick(m.rnd, m.now[q].snaps, strings.Compare); ok && m.rnd.IntN(2) == 0 {
		var err error
		if src, err = m.v.Snapshot(src, name); err != nil {
			m.fatalf("snapshot %s: %v", name, err)
		}
		files = m.now[q].snaps[name]
	}
	from, ok := pick(m.rnd, files, func(a, b uint64) int { return int(a) - int(b) })
	if !ok || len(files[from].data) == 0 {
		return
	}
	data := files[from].data
	at := m.rnd.IntN(2) * dcdb.RecordBytes
	if at >= len(data) || len(m.now[p].live[ino].data) > len(data) {
		at = 0
	}
	n := len(data) - at
	if len(m.now[p].live[ino].data) > len(data) {
		n = n / dcdb.RecordBytes * dcdb.RecordBytes // the rest of dst stays
	}
	note("clone %q %d to %d at %d +%d", src.Name(), from, ino, at, n)
	m.now[p].live[ino] = m.now[p].live[ino].with(func(f *mfile) {
		f.resize(max(len(f.data), at+n))
		copy(f.data[at:], data[at:at+n])
	})
	got, err := m.v.Space().Clone(m.ctx, src.Key(from), uint64(at), m.view(p).Key(ino), uint64(at), uint64(n), func(*dcdb.DB) error { return nil })
	if err != nil || got != uint64(n) {
		m.fatalf("clone: %d, %v", got, err)
	}
	m.past = append(m.past, m.now.clone())
}

func (m *modelTest) snapshot(p string, note noteFunc) {
	name := fmt.Sprintf("s%d", m.rnd.IntN(6))
	_, exists := m.now[p].snaps[name]
	note("snapshot %s", name)
	_, err := m.v.CreateSnapshot(m.ctx, m.view(p), name)
	if exists != errors.Is(err, ErrExist) || !exists && err != nil {
		m.fatalf("snapshot %s: %v", name, err)
	}
	if !exists {
		m.now[p].snaps[name] = maps.Clone(m.now[p].live)
		m.durable()
	}
}

func (m *modelTest) deleteSnapshot(p string, note noteFunc) {
	name, ok := pick(m.rnd, m.now[p].snaps, strings.Compare)
	if !ok {
		return
	}
	note("delete snapshot %s", name)
	if err := m.v.DeleteSnapshot(m.ctx, m.view(p), name); err != nil {
		m.fatalf("delete snapshot: %v", err)
	}
	delete(m.now[p].snaps, name)
	m.durable()
}

func (m *modelTest) fork(p string, note noteFunc) {
	if len(m.now) > 6 {
		return
	}
	from, src := m.view(p), m.now[p].live
	if name, ok := pick(m.rnd, m.now[p].snaps, strings.Compare); ok && m.rnd.IntN(2) == 0 {
		var err error
		if from, err = m.v.Snapshot(from, name); err != nil {
			m.fatalf("snapshot %s: %v", name, err)
		}
		src = m.now[p].snaps[name]
		note("fork snapshot %s", name)
	}
	name := fmt.Sprintf("f%d", m.rnd.IntN(6))
	path := strings.TrimPrefix(p+"/"+name, "/")
	note("fork as %s", path)
	_, err := m.v.CreateFork(m.ctx, from, name)
	if exists := m.now[path] != nil; exists != errors.Is(err, ErrExist) || !exists && err != nil {
		m.fatalf("fork %s: %v", path, err)
	} else if !exists {
		m.now[path] = &mfork{maps.Clone(src), map[string]mview{}}
		m.durable()
	}
}

func (m *modelTest) deleteFork(p string, note noteFunc) {
	if p == "" {
		return
	}
	parent, name := "", p
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		parent, name = p[:i], p[i+1:]
	}
	empty := true
	for q := range m.now {
		empty = empty && !strings.HasPrefix(q, p+"/")
	}
	to := m.pickFork()
	if !empty && m.rnd.IntN(2) == 0 && !strings.HasPrefix(to+"/", p+"/") {
		// A child that is listed elsewhere is no obstacle.
		for q := range m.now {
			if rest, ok := strings.CutPrefix(q, p+"/"); ok && !strings.Contains(rest, "/") && m.now[strings.TrimPrefix(to+"/"+rest, "/")] == nil {
				m.moveFork(p, rest, to, note)
				return
			}
		}
	}
	note("delete fork")
	err := m.v.DeleteFork(m.ctx, m.view(parent), name)
	if empty != (err == nil) || !empty && !errors.Is(err, ErrNotEmpty) {
		m.fatalf("delete fork %q: %v", p, err)
	}
	if empty {
		delete(m.now, p)
		m.durable()
	}
}

func (m *modelTest) moveFork(p, name, to string, note noteFunc) {
	note("move fork %s to %q", name, to)
	if err := m.v.RenameFork(m.ctx, m.view(p), name, m.view(to), name); err != nil {
		m.fatalf("rename fork: %v", err)
	}
	old, moved := p+"/"+name, strings.TrimPrefix(to+"/"+name, "/")
	for q, f := range maps.Clone(m.now) {
		if q == old || strings.HasPrefix(q, old+"/") {
			delete(m.now, q)
			m.now[moved+q[len(old):]] = f
		}
	}
	m.durable()
}

// succeed has a fork taken over by one that descends from it, after changes in
// both: the two are merged.
func (m *modelTest) succeed(note noteFunc) {
	change := func(p string) {
		for range m.rnd.IntN(6) {
			if ino, ok := m.pickFile(p); ok {
				m.write(p, ino, func(format string, args ...any) { note("in %q "+format, append([]any{p}, args...)...) })
			}
		}
	}
	var leaves []string // forks that main lists and that list none
	for _, p := range slices.Sorted(maps.Keys(m.now)) {
		if p != "" && !strings.Contains(p, "/") && !slices.ContainsFunc(slices.Collect(maps.Keys(m.now)), func(q string) bool { return strings.HasPrefix(q, p+"/") }) {
			leaves = append(leaves, p)
		}
	}
	if len(leaves) == 0 {
		m.fork("", note)
		return
	}
	p := leaves[0]
	if len(leaves) > 1 && len(m.now) > 6 {
		m.deleteFork(leaves[1], note) // to make room
	}
	change(p)
	m.fork(p, note)
	for _, q := range slices.Sorted(maps.Keys(m.now)) {
		rest, ok := strings.CutPrefix(q, p+"/")
		if !ok || m.now[rest] != nil {
			continue
		}
		change(p)
		change(q)
		m.moveFork(p, rest, "", note)
		m.deleteFork(p, note)
		change(rest)
		return
	}
}

// crash ends the volume without a word, and accepts any state since the last
// durable one.
func (m *modelTest) crash() {
	keep := uint64(0)
	if u := m.st.Undurable(); len(u) > 0 {
		keep = u[m.rnd.IntN(len(u))]
	}
	next := m.st.CrashAt(keep)
	m.v.Close(m.ctx) // of the old store, which nobody sees again
	m.st = next
	m.open()
	got := m.real()
	for i := len(m.past) - 1; i >= 0; i-- {
		if m.past[i].dump() == got {
			m.now = m.past[i].clone()
			m.durable()
			return
		}
	}
	m.fatalf("after a crash the volume shows no state since the last durable one:\n%s\ndurable:\n%s\nnow:\n%s", got, m.past[0].dump(), m.now.dump())
}

// idle waits until nothing is left to reclaim.
func (m *modelTest) idle() {
	for range 10000 {
		if err := m.v.Space().SyncAll(m.ctx); err != nil {
			m.fatalf("sync: %v", err)
		}
		ok, err := m.v.Idle(m.ctx)
		if err != nil {
			m.fatalf("idle: %v", err)
		}
		if ok {
			if err := m.v.Space().SyncAll(m.ctx); err != nil {
				m.fatalf("sync: %v", err)
			}
			m.durable()
			return
		}
		time.Sleep(time.Millisecond)
	}
	m.fatalf("reclamation does not end")
}

// empty deletes everything in random order; nothing may remain.
func (m *modelTest) empty() {
	for len(m.now) > 1 || len(m.now[""].snaps) > 0 || len(m.now[""].live) > 0 {
		p := m.pickFork()
		note := func(format string, args ...any) {
			m.log = append(m.log, fmt.Sprintf("%q: ", p)+fmt.Sprintf(format, args...))
		}
		switch m.rnd.IntN(3) {
		case 0:
			m.deleteSnapshot(p, note)
		case 1:
			m.deleteFork(p, note)
		case 2:
			if ino, ok := m.pickFile(p); ok {
				note("delete %d", ino)
				delete(m.now[p].live, ino)
				k := m.view(p).Key(ino)
				m.update(func(tx *dcdb.Tx) error {
					db, err := tx.DB(k)
					if err == nil {
						db.Delete()
					}
					return err
				})
			}
		}
		if m.rnd.IntN(10) == 0 {
			m.compare()
		}
	}
	m.idle()
	m.compare()
	ids, err := m.st.List(m.ctx, store.ID{}, 100)
	if err != nil || len(ids) > 0 {
		m.fatalf("%d objects remain in an empty volume: %v, %v", len(ids), ids, err)
	}
	recs, err := m.st.Scan(m.ctx, nil, nil, 1000)
	if err != nil {
		m.fatalf("scan: %v", err)
	}
	for _, r := range recs {
		switch r.Key[0] {
		case keyVolume, keyViews:
		case keyFork:
			if len(r.Key) != 9 || r.Key[8] != mainFork {
				m.fatalf("record %x remains in an empty volume", r.Key)
			}
		case keyHead, keyIndex:
			if ino := r.Key[len(r.Key)-1]; ino != RootIno && ino != OrphanIno {
				m.fatalf("record %x remains in an empty volume", r.Key)
			}
		default:
			m.fatalf("record %x remains in an empty volume", r.Key)
		}
	}
}

func runModel(t *testing.T, seed uint64, steps int) {
	m := &modelTest{
		t: t, ctx: context.Background(), rnd: rand.New(rand.NewPCG(seed, 1)), inos: map[uint64]bool{},
		st:  store.NewMemory(store.Superblock{Version: store.FormatVersion, UUID: store.NewUUID()}),
		now: world{"": &mfork{mview{}, map[string]mview{}}},
	}
	m.o = Options{CommitInterval: 2 * time.Millisecond, Log: t.Logf}
	if m.rnd.IntN(2) == 0 {
		m.o.CacheBytes = 20 << 10
	}
	if m.rnd.IntN(2) == 0 {
		m.o.atOnce = 1 + m.rnd.IntN(5)
	}
	m.open()
	m.durable()
	for i := range steps {
		m.step()
		m.check()
		if i%20 == 0 {
			m.compare()
		}
	}
	m.compare()
	m.idle()
	m.compare()
	m.empty()
	if err := m.v.Close(m.ctx); err != nil {
		m.fatalf("close: %v", err)
	}
}

func envInt(name string, or int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return or
}

// TestModel runs random operations, snapshots, forks, remounts and crashes among
// them, beside a naive model. DCFS_MODEL_STEPS and DCFS_MODEL_SEEDS make it
// longer, DCFS_MODEL_SEED repeats one run.
func TestModel(t *testing.T) {
	steps := envInt("DCFS_MODEL_STEPS", 300)
	if seed := envInt("DCFS_MODEL_SEED", 0); seed != 0 {
		runModel(t, uint64(seed), steps)
		return
	}
	for i := range envInt("DCFS_MODEL_SEEDS", 8) {
		seed := uint64(time.Now().UnixNano()) + uint64(i)
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { runModel(t, seed, steps) })
	}
}
