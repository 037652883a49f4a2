package dcdb

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"testing"
	"time"
)

// fileModel is a file beside the one that it should be: bytes, and for each
// block of 4 KiB whether it is data or a hole.
type fileModel struct {
	t    *testing.T
	ts   *testSpace
	rnd  *rand.Rand
	ino  uint64
	max  int // bytes
	data []byte
	used map[int]bool
	log  []string
}

func newFileModel(t *testing.T, ts *testSpace, rnd *rand.Rand, ino uint64, limit int) *fileModel {
	ts.create(ino)
	return &fileModel{t: t, ts: ts, rnd: rnd, ino: ino, max: limit, used: map[int]bool{}}
}

func (m *fileModel) note(format string, args ...any) {
	m.log = append(m.log, fmt.Sprintf(format, args...))
}

func (m *fileModel) fatalf(format string, args ...any) {
	m.t.Helper()
	log := m.log[max(0, len(m.log)-30):]
	m.t.Errorf("%s\nlast operations on inode %d:\n%s", fmt.Sprintf(format, args...), m.ino, strings.Join(log, "\n"))
	panic(stopModel{})
}

// stopModel ends a goroutine that runs a model.
type stopModel struct{}

func recoverModel() {
	if r := recover(); r != nil {
		if _, ok := r.(stopModel); !ok {
			panic(r)
		}
	}
}

func (m *fileModel) resize(n int) {
	if n <= len(m.data) {
		m.data = m.data[:n:n]
	} else {
		m.data = append(m.data, make([]byte, n-len(m.data))...)
	}
	for b := range m.used {
		if b*blockBytes >= n {
			delete(m.used, b)
		}
	}
}

func (m *fileModel) step() {
	switch n := m.rnd.Intn(100); {
	case n < 50:
		m.write()
	case n < 60:
		m.truncate()
	case n < 72:
		m.punch()
	case n < 85:
		m.read()
	case n < 92:
		m.seek()
	default:
		m.xattr()
	}
}

// offset prefers where pieces and records meet.
func (m *fileModel) offset() int {
	off := m.rnd.Intn(m.max)
	switch m.rnd.Intn(6) {
	case 0:
		off &^= blockBytes - 1
	case 1:
		off &^= RecordBytes - 1
	case 2:
		off = len(m.data)
	case 3:
		off = max(0, off&^(blockBytes-1)-1+m.rnd.Intn(3))
	}
	return min(off, m.max-1)
}

func (m *fileModel) write() {
	off := m.offset()
	p := make([]byte, 1+m.rnd.Intn([]int{3, 1500, 9000, 300000}[m.rnd.Intn(4)]))
	p = p[:min(len(p), m.max-off)]
	m.rnd.Read(p)
	m.note("write %d +%d", off, len(p))
	n, err := m.ts.Write(context.Background(), m.ts.live(m.ino), p,
		func(*DB) uint64 { return uint64(off) }, func(*DB) error { return nil })
	if n != len(p) || err != nil {
		m.fatalf("write %d +%d: %d, %v", off, len(p), n, err)
	}
	if off+len(p) > len(m.data) {
		m.resize(off + len(p))
	}
	copy(m.data[off:], p)
	for b := off / blockBytes; b*blockBytes < off+len(p); b++ {
		m.used[b] = true
	}
}

func (m *fileModel) update(fn func(db *DB) error) {
	m.t.Helper()
	err := m.ts.Update(context.Background(), func(tx *Tx) error {
		db, err := tx.DB(m.ts.live(m.ino))
		if err != nil {
			return err
		}
		return fn(db)
	})
	if err != nil {
		m.fatalf("update: %v", err)
	}
}

func (m *fileModel) truncate() {
	size := m.offset()
	if m.rnd.Intn(4) == 0 {
		size = 0
	}
	m.note("truncate %d", size)
	m.update(func(db *DB) error { return db.Truncate(uint64(size)) })
	m.resize(size)
}

func (m *fileModel) punch() {
	off := m.offset()
	n := 1 + m.rnd.Intn([]int{100, 20000, m.max}[m.rnd.Intn(3)])
	m.note("punch %d +%d", off, n)
	m.update(func(db *DB) error { return db.Punch(uint64(off), uint64(n)) })
	end := min(off+n, len(m.data))
	if off >= end {
		return
	}
	clear(m.data[off:end])
	for b := range m.used {
		if lo, hi := b*blockBytes, min((b+1)*blockBytes, len(m.data)); lo >= off && hi <= end {
			delete(m.used, b)
		}
	}
}

func (m *fileModel) xattr() {
	name := fmt.Sprint(m.rnd.Intn(3))
	val := bytes.Repeat([]byte{'x'}, 1+m.rnd.Intn(3000))
	remove := m.rnd.Intn(2) == 0
	m.note("xattr %s, remove %t", name, remove)
	m.update(func(db *DB) error {
		if _, _, err := db.Get(KindXattr, name); err != nil {
			return err
		}
		if remove {
			db.Remove(KindXattr, name)
		} else {
			db.Put(KindXattr, name, val)
		}
		return nil
	})
}

func (m *fileModel) read() {
	off := m.offset()
	m.compare(off, m.rnd.Intn(400000))
}

func (m *fileModel) compare(off, n int) {
	m.t.Helper()
	p := bytes.Repeat([]byte{0xee}, n)
	got, err := m.ts.Read(context.Background(), m.ts.live(m.ino), p, uint64(off))
	want := m.data[min(off, len(m.data)):]
	want = want[:min(len(want), n)]
	if err != nil || got != len(want) {
		m.fatalf("read %d +%d: %d, %v; want %d bytes", off, n, got, err, len(want))
	}
	if !bytes.Equal(p[:got], want) {
		for i := range want {
			if p[i] != want[i] {
				m.fatalf("read %d +%d: byte %d is %#x, want %#x", off, n, off+i, p[i], want[i])
			}
		}
	}
}

func (m *fileModel) seek() {
	if len(m.data) == 0 {
		return
	}
	off, hole := m.rnd.Intn(len(m.data)), m.rnd.Intn(2) == 0
	want, ok := off, false
	for want < len(m.data) && m.used[want/blockBytes] == hole {
		want = (want/blockBytes + 1) * blockBytes
	}
	if want >= len(m.data) {
		want, ok = len(m.data), hole
	} else {
		ok = true
	}
	var got uint64
	var found bool
	err := m.ts.View(context.Background(), func(tx *Tx) error {
		db, err := tx.DB(m.ts.live(m.ino))
		if err == nil {
			got, found, err = db.Seek(uint64(off), hole)
		}
		return err
	})
	if err != nil || found != ok || ok && int(got) != want {
		m.fatalf("seek from %d, hole %t: %d, %t, %v; want %d, %t", off, hole, got, found, err, want, ok)
	}
}

// whole compares all of the file, and what its attributes say.
func (m *fileModel) whole() {
	m.t.Helper()
	m.compare(0, len(m.data)+1)
	var a Attr
	var excess bool
	err := m.ts.View(context.Background(), func(tx *Tx) error {
		db, err := tx.DB(m.ts.live(m.ino))
		if err == nil {
			a, excess = *db.Attr(), db.n.cur.excess
		}
		return err
	})
	if err != nil {
		m.fatalf("attributes: %v", err)
	}
	if a.Size != uint64(len(m.data)) {
		m.fatalf("size %d, want %d", a.Size, len(m.data))
	}
	if want := uint64(len(m.used) * blockBytes); a.Alloc != want && !excess {
		m.fatalf("alloc %d, want %d", a.Alloc, want)
	}
}

// TestFileIsAByteSlice changes files at random, with commits and reopenings, and
// compares each answer with a byte slice's.
func TestFileIsAByteSlice(t *testing.T) {
	for seed := range int64(16) {
		t.Run(seeded(seed), func(t *testing.T) { fileRun(t, seed) })
	}
}

func fileRun(t *testing.T, seed int64) {
	defer recoverModel()
	rnd := rand.New(rand.NewSource(seed))
	o := Options{CacheBytes: 1}
	if seed%2 == 0 {
		o = Options{DirtyBytes: 1 << 20}
	}
	ts := newTestSpace(t, o)
	limit := []int{5000, 2*RecordBytes + 777, 6 * RecordBytes}[seed%3]
	files := []*fileModel{newFileModel(t, ts, rnd, 20, limit), newFileModel(t, ts, rnd, 21, limit)}
	for i := range 400 {
		m := files[rnd.Intn(2)]
		m.step()
		switch n := rnd.Intn(100); {
		case n < 8:
			m.note("sync")
			ts.sync()
		case n < 12:
			m.note("snapshot")
			ts.snapshot()
		case n < 14:
			m.note("reopen")
			ts.reopen()
		case n < 18:
			cloneFiles(files[0], files[1], rnd)
		}
		if i%20 == 0 {
			for _, m := range files {
				m.whole()
			}
			ts.check()
		}
	}
	for _, m := range files {
		m.whole()
	}
	ts.check()
}

// cloneFiles makes b share records of a.
func cloneFiles(a, b *fileModel, rnd *rand.Rand) {
	if len(a.data) == 0 {
		return
	}
	at := rnd.Intn(len(a.data)) &^ (RecordBytes - 1)
	n := len(a.data) - at
	if len(b.data) > len(a.data) {
		n &^= RecordBytes - 1 // the end of b stays
	}
	if n == 0 {
		return
	}
	a.note("cloned from: %d +%d", at, n)
	b.note("cloned to: %d +%d", at, n)
	got, err := a.ts.Clone(context.Background(), a.ts.live(a.ino), uint64(at), b.ts.live(b.ino), uint64(at), uint64(n), func(*DB) error { return nil })
	if err != nil || got != uint64(n) {
		b.fatalf("clone %d +%d: %d, %v", at, n, got, err)
	}
	b.resize(max(len(b.data), at+n))
	copy(b.data[at:], a.data[at:at+n])
	for blk := at / blockBytes; blk*blockBytes < at+n; blk++ {
		delete(b.used, blk)
		if a.used[blk] {
			b.used[blk] = true
		}
	}
}

// TestFilesInParallel runs several files' models at once over one Space, with a
// cache and a bound of dirty data that are always too small.
func TestFilesInParallel(t *testing.T) {
	ts := newTestSpace(t, Options{Interval: 2 * time.Millisecond, DirtyBytes: 1 << 20, CacheBytes: 64 << 10})
	var wg sync.WaitGroup
	for i := range 6 {
		m := newFileModel(t, ts, rand.New(rand.NewSource(int64(i))), 20+uint64(i), 3*RecordBytes)
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer recoverModel()
			for j := range 150 {
				m.step()
				if j%30 == 0 {
					m.whole()
				}
				if j%50 == 0 {
					ts.Sync(context.Background(), ts.live(m.ino))
				}
			}
			m.whole()
		}()
	}
	wg.Wait()
	ts.check()
}

// TestFileOfManyRecords truncates and punches more records than one transaction
// takes.
func TestFileOfManyRecords(t *testing.T) {
	defer recoverModel()
	ts := newTestSpace(t, Options{CacheBytes: 64 << 10})
	m := newFileModel(t, ts, rand.New(rand.NewSource(1)), 20, 2*maxDrop*RecordBytes+5000)
	fill := func() {
		t.Helper()
		for off := 0; off < m.max; off += RecordBytes {
			p := []byte(fmt.Sprint("record ", off))
			if _, err := ts.Write(context.Background(), ts.live(20), p, func(*DB) uint64 { return uint64(off) }, func(*DB) error { return nil }); err != nil {
				t.Fatal(err)
			}
			if off+len(p) > len(m.data) {
				m.resize(off + len(p))
			}
			copy(m.data[off:], p)
			m.used[off/blockBytes] = true
		}
	}
	truncate := func(size int) {
		t.Helper()
		m.note("truncate %d", size)
		m.update(func(db *DB) error { return db.Truncate(uint64(size)) })
		m.resize(size)
	}
	put := func(name string, n int) {
		m.note("xattr %s %d", name, n)
		m.update(func(db *DB) error {
			if _, _, err := db.Get(KindXattr, name); err != nil {
				return err
			}
			if n == 0 {
				db.Remove(KindXattr, name)
			} else {
				db.Put(KindXattr, name, make([]byte, n))
			}
			return nil
		})
	}
	steps := []func(){
		func() { truncate(RecordBytes + 3) },
		func() { truncate(0) },
		func() { put("a", 3000); put("b", 3000); ts.sync(); truncate(0) },
		func() { put("c", 3000); put("a", 0); truncate(0); put("b", 0); put("d", 3000) },
		func() { truncate(0); put("d", 2000); truncate(5 * RecordBytes) },
		func() { truncate(5 * RecordBytes); truncate(maxDrop * RecordBytes) },
		func() { truncate(0); m.write() },
		func() {
			m.note("punch")
			m.update(func(db *DB) error { return db.Punch(10, uint64(m.max)-RecordBytes) })
			clear(m.data[10 : 10+m.max-RecordBytes])
			for b := range m.used {
				if b > 0 && (b+1)*blockBytes <= 10+m.max-RecordBytes {
					delete(m.used, b)
				}
			}
		},
	}
	for i, step := range steps {
		for _, commit := range []bool{true, false} {
			m.note("step %d, commit %t", i, commit)
			fill()
			if commit {
				ts.sync()
			}
			step()
			m.whole()
			ts.check()
			m.whole()
			truncate(0)
			ts.check()
		}
	}
	ts.update(func(tx *Tx) error {
		db, err := tx.DB(ts.live(20))
		if err == nil {
			db.Delete()
		}
		return err
	})
	ts.check()
}
