package snap

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
	"dcfs/spill"
)

// sound fails the test unless Check finds nothing. A volume that changes all the
// time can't be checked.
func sound(t *testing.T, v *Volume, o CheckOptions) CheckReport {
	t.Helper()
	r, err := v.Check(context.Background(), o)
	if errors.Is(err, ErrBusy) {
		t.Log("busy")
		return r
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Problems) > 0 {
		t.Fatalf("check finds in a sound volume:\n%s", strings.Join(r.Problems, "\n"))
	}
	return r
}

// littleMemory has nearly all that a check gathers go through a file.
var littleMemory = spill.Options{Bytes: 500}

// checkTwice checks a store with much memory and with little, and wants the same.
func checkTwice(t *testing.T, st store.Store) CheckReport {
	t.Helper()
	r, err := check(context.Background(), st, CheckOptions{Contents: true})
	if err != nil {
		t.Fatal(err)
	}
	o := CheckOptions{Contents: true, Spill: littleMemory}
	o.Spill.Dir = t.TempDir()
	spilled, err := check(context.Background(), st, o)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(r, spilled) {
		t.Fatalf("with little memory check finds\n%+v\nwith much\n%+v", spilled, r)
	}
	if left, err := os.ReadDir(o.Spill.Dir); err != nil || len(left) > 0 {
		t.Fatalf("files are left: %v, %v", left, err)
	}
	return r
}

// TestCheckFindsNothingInASoundVolume checks a volume between random operations,
// with reclamation unfinished and finished. DCFS_MODEL_SEEDS makes it longer.
func TestCheckFindsNothingInASoundVolume(t *testing.T) {
	for seed := range uint64(envInt("DCFS_MODEL_SEEDS", 6)) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			m := &modelTest{
				t: t, ctx: context.Background(), rnd: rand.New(rand.NewPCG(seed, 2)), inos: map[uint64]bool{},
				st:  store.NewMemory(store.Superblock{Version: store.FormatVersion, UUID: store.NewUUID()}),
				now: world{"": &mfork{mview{}, map[string]mview{}}},
				o:   Options{CommitInterval: 5 * time.Millisecond, Log: t.Logf},
			}
			m.open()
			m.durable()
			for i := range 200 {
				m.step()
				if i%5 == 0 {
					sound(t, m.v, CheckOptions{Spill: []spill.Options{{}, littleMemory}[i/5%2]})
				}
			}
			if err := m.v.WaitIdle(m.ctx); err != nil {
				t.Fatal(err)
			}
			r := sound(t, m.v, CheckOptions{Contents: true})
			if got := checkTwice(t, m.st); !reflect.DeepEqual(got, r) {
				t.Fatalf("check of the store finds %+v, of the volume %+v", got, r)
			}
			if r.Forks < len(m.now) || r.Heads == 0 || r.Objects == 0 || r.Bytes == 0 {
				t.Fatalf("the report counts %+v", r)
			}
			if err := m.v.Close(m.ctx); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// damaged is a volume's store for a test to damage. Its forks: main; a, listed in
// it, which has snapshot 1 and is live; dead, of which only an origin is kept,
// that of alive and its twin.
type damaged struct {
	t     *testing.T
	ctx   context.Context
	st    *store.Memory
	group uint64
	file  uint64 // in main: one content, changed since snapshot 1
	other uint64 // a clone of it
	table uint64 // in main: a tree with a table node
	inA   uint64 // own inode of a
	dead  uint64 // number of the fork without live state
	a     uint64
}

func newDamaged(t *testing.T) *damaged {
	h := newHistory(t)
	m := h.v.Main()
	d := &damaged{t: t, ctx: h.ctx}
	d.file, d.other, d.table = h.create(m, "A"), h.create(m, "x"), h.create(m, "t")
	for i := range uint64(1200) {
		_, err := h.v.space.Write(h.ctx, m.Key(d.table), make([]byte, 1000), func(*dcdb.DB) uint64 { return i * dcdb.RecordBytes }, func(*dcdb.DB) error { return nil })
		h.must(err)
	}
	h.must(h.v.space.SyncAll(h.ctx))
	h.clone(m, d.file, m, d.other)
	h.snapshot(m, "1")
	h.write(m, d.file, "B")
	gone := h.create(m, "gone")
	h.snapshot(m, "2")
	h.remove(m, gone)
	a := h.fork(m, "a")
	d.a = a.fork.id
	h.write(a, d.file, "C")
	h.remove(a, d.other)
	d.inA = h.create(a, "D")
	h.snapshot(a, "1")
	h.write(a, d.inA, "E")
	f := h.fork(m, "dead")
	d.dead = f.fork.id
	in := h.create(f, "F")
	origin := h.snapshot(f, "origin")
	alive := h.fork(origin, "alive")
	h.fork(origin, "twin") // so that dead is not merged with alive
	for _, name := range [...]string{"alive", "twin"} {
		h.must(h.v.RenameFork(h.ctx, f, name, m, name))
	}
	h.write(f, in, "G")
	h.write(alive, in, "H")
	h.dropFork(m, "dead")
	h.must(h.v.WaitIdle(h.ctx))
	sound(t, h.v, CheckOptions{Contents: true})
	h.must(h.v.Close(h.ctx))
	d.st = h.st
	return d
}

// again returns d with a store of its own.
func (d *damaged) again(t *testing.T) *damaged {
	c := *d
	c.t, c.st = t, d.st.Reopen()
	c.group = c.st.FirstGroup()
	return &c
}

func (d *damaged) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// put changes a record; a nil value deletes it.
func (d *damaged) put(key, val []byte) {
	d.t.Helper()
	b := &store.Batch{Group: d.group, Fence: d.st.Fence()}
	d.group++
	if val == nil {
		b.Deletes = [][]byte{key}
	} else {
		b.Puts = []store.Record{{Key: key, Value: val}}
	}
	d.must(d.st.Commit(d.ctx, b))
}

func (d *damaged) get(key []byte) []byte {
	d.t.Helper()
	v, err := d.st.Get(d.ctx, key)
	d.must(err)
	if v[0] == nil {
		d.t.Fatalf("there is no record %x", key)
	}
	return v[0]
}

// first returns the first record of a kind in a fork.
func (d *damaged) first(kind byte, fork uint64) store.Record {
	d.t.Helper()
	recs, err := d.st.Scan(d.ctx, key(kind, fork), after(key(kind, fork)), 1)
	d.must(err)
	if len(recs) == 0 {
		d.t.Fatalf("there is no record %q of fork %d", kind, fork)
	}
	return recs[0]
}

// firstCounter returns the lowest kept counter of a fork, its origin aside.
func (d *damaged) firstCounter(fork uint64) uint64 {
	d.t.Helper()
	n, err := keyNums(d.first(keySnap, fork).Key, 2)
	d.must(err)
	return n[1]
}

// entries returns a dead list's record that has an entry of a kind.
func (d *damaged) entries(fork uint64, kind byte) (k []byte, es []entry, at int) {
	d.t.Helper()
	d.must(scan(d.ctx, d.st, key(keyDead, fork), func(key, val []byte) error {
		got, err := decodeEntries(val)
		if i := slices.IndexFunc(got, func(e entry) bool { return e.kind == kind }); i >= 0 {
			k, es, at = key, got, i
		}
		return err
	}))
	if k == nil {
		d.t.Fatalf("the dead list of fork %d has no entry of kind %d", fork, kind)
	}
	return k, es, at
}

func (d *damaged) head(fork, ino uint64, change func(h *dcdb.Head)) {
	d.t.Helper()
	k := key(keyHead, fork, ino)
	h, err := dcdb.DecodeHead(d.get(k))
	d.must(err)
	change(h)
	d.put(k, dcdb.EncodeHead(h))
}

func (d *damaged) forkRecord(id uint64, change func(f *fork)) {
	d.t.Helper()
	f, parent, err := decodeFork(id, d.get(key(keyFork, id)))
	d.must(err)
	if parent != 0 {
		f.parent = &fork{id: parent}
	}
	change(f)
	d.put(key(keyFork, id), f.encode())
}

// refs returns the references of a live head.
func (d *damaged) refs(fork, ino uint64, kind store.Kind) (ids []store.ID) {
	d.t.Helper()
	h, err := dcdb.DecodeHead(d.get(key(keyHead, fork, ino)))
	d.must(err)
	d.must(dcdb.CheckHead(d.ctx, d.st, h, func(string) {}, func(r dcdb.Ref) {
		if r.Kind == kind {
			ids = append(ids, r.ID)
		}
	}))
	if len(ids) == 0 {
		d.t.Fatalf("inode %d of fork %d refers to no object of kind %d", ino, fork, kind)
	}
	return ids
}

func TestCheckFindsDamage(t *testing.T) {
	base := newDamaged(t)
	tests := []struct {
		name   string
		damage func(d *damaged)
		want   string
	}{
		{"unknown record", func(d *damaged) { d.put([]byte("zzz"), []byte{1}) }, "(0) record 7a7a7a is of an unknown kind"},
		{"no volume record", func(d *damaged) { d.put(key(keyVolume), nil) }, "(0) volume record"},
		{"record of no fork", func(d *damaged) { d.put(key(keyHead, 99, 1), d.get(key(keyHead, 1, 1))) }, "is of fork 99, which does not exist"},
		{"bad fork record", func(d *damaged) { d.put(key(keyFork, d.a), []byte{1, 2}) }, "(0) record 66"},
		{"version", func(d *damaged) { d.put(key(keyFork, d.a), []byte{9, 2}) }, "version 9"},
		{"corrupt record", func(d *damaged) { d.st.CorruptRecord(key(keyHead, 1, d.file), 20) }, "(0) records from"},
		{"corrupt dead list", func(d *damaged) { d.st.CorruptRecord(d.first(keyDead, 1).Key, 4) }, "(0) records from 64"},
		{"no origin", func(d *damaged) { d.put(d.first(keySnap, d.dead).Key, nil) }, fmt.Sprintf("is not kept in fork %d", base.dead)},
		{"no parent", func(d *damaged) { d.put(key(keyFork, d.dead), nil) }, fmt.Sprintf("its parent %d does not exist or descends from it", base.dead)},
		{"counter below origin", func(d *damaged) { d.forkRecord(d.a, func(f *fork) { f.counter = f.origin }) }, "is not above its origin"},
		{"unnamed snapshot", func(d *damaged) { d.put(key(keySnap, 1, 1), (&snapshot{created: time.Unix(0, 0)}).encode()) }, "has no name, 0 forks begin there"},
		{"bytes of a snapshot", func(d *damaged) {
			r := d.first(keySnap, d.a)
			sn, err := decodeSnapshot(&fork{}, 0, r.Value)
			d.must(err)
			sn.refer, sn.counted = 7, true
			d.put(r.Key, sn.encode())
		}, "bytes, its record says 7"},
		{"snapshot after the counter", func(d *damaged) { d.put(key(keySnap, d.a, 99), d.first(keySnap, d.a).Value) }, "not between the origin"},
		{"name twice", func(d *damaged) { d.forkRecord(d.a, func(f *fork) { f.name = "alive" }) }, `are both called "alive"`},
		{"listed in itself", func(d *damaged) { d.forkRecord(d.a, func(f *fork) { f.place = f.id }) }, "is listed below itself"},
		{"listed nowhere", func(d *damaged) { d.forkRecord(d.a, func(f *fork) { f.place = d.dead }) }, "is listed in one that has no live state"},
		{"view number twice", func(d *damaged) { d.forkRecord(d.a, func(f *fork) { f.number = 1 }) }, "view number 1 is that of"},
		{"view number in use and free", func(d *damaged) { d.put(key(keyViews, 77), encode(1)) }, "view number 1 is that of"},
		{"dead fork with a name", func(d *damaged) { d.forkRecord(d.dead, func(f *fork) { f.name = "x" }) }, "has no live state, but name"},
		{"inode numbers", func(d *damaged) { d.forkRecord(d.a, func(f *fork) { f.reserved = f.first }) }, "inode numbers are reserved up to"},
		{"no root", func(d *damaged) { d.put(key(keyHead, 1, RootIno), nil) }, "(0) inode 1 of fork 1 does not exist"},
		{"entry not needed", func(d *damaged) {
			k, es, _ := d.entries(1, entryRef)
			d.put(append(append(key(keyDead, 1, 3, 3), 0, 0, 0, 0, 0, 0, 0, 1), 0, 0, 0, 0), encodeEntries(es))
			d.put(k, nil)
		}, "(1) dead list of fork 1, [3, 3)"},
		{"entry lost", func(d *damaged) { d.put(d.first(keyDead, 1).Key, nil) }, "(7) fork 1"},
		{"reference lost", func(d *damaged) {
			k, es, i := d.entries(d.a, entryRef)
			d.put(k, encodeEntries(slices.Delete(es, i, i+1)))
		}, "(2) object"},
		{"reference of nothing", func(d *damaged) {
			k, es, i := d.entries(d.a, entryRef)
			es[i].id.Group = 1
			d.put(k, encodeEntries(es))
		}, "is on the dead list, and no state shows it"},
		{"saved head not listed", func(d *damaged) {
			k, es, i := d.entries(d.a, entryHead)
			d.put(k, encodeEntries(slices.Delete(es, i, i+1)))
		}, "is saved and not on the dead list"},
		{"saved head listed twice", func(d *damaged) {
			k, es, i := d.entries(d.a, entryHead)
			d.put(k, encodeEntries(append(es, es[i])))
		}, "is on the dead list twice"},
		{"saved head lost", func(d *damaged) { d.put(d.first(keySaved, d.a).Key, nil) }, "is on the dead list and not saved"},
		{"inherited head not listed", func(d *damaged) {
			k, es, i := d.entries(d.a, entryInherited)
			d.put(k, encodeEntries(slices.Delete(es, i, i+1)))
		}, "is not on the dead list"},
		{"inherited head listed twice", func(d *damaged) {
			k, es, i := d.entries(d.a, entryInherited)
			d.put(k, encodeEntries(append(es, es[i])))
		}, "as inherited twice"},
		{"count too high", func(d *damaged) {
			d.must(scan(d.ctx, d.st, key(keyExtra), func(k, val []byte) error { d.put(k, encode(9)); return nil }))
		}, "has 2 references, want 10"},
		{"count of nothing", func(d *damaged) { d.put(store.ID{Group: 1, Len: 5}.Append(key(keyExtra)), encode(1)) }, "(2) object 1.0.0+5 has 0 references, want 2"},
		{"count lost", func(d *damaged) {
			d.must(scan(d.ctx, d.st, key(keyExtra), func(k, val []byte) error { d.put(k, nil); return nil }))
		}, "has 2 references, want 1"},
		{"referenced and free", func(d *damaged) {
			id := d.refs(1, d.file, store.KindContent)[0]
			d.put(append(dcdb.FreePrefix(), make([]byte, 12)...), id.Append([]byte{1, 1}))
		}, "is free, but has 1 references"},
		{"freed twice", func(d *damaged) {
			id := store.ID{Group: 1, Len: 5}
			d.put(append(dcdb.FreePrefix(), make([]byte, 12)...), id.Append(id.Append([]byte{1, 2})))
		}, "was freed twice"},
		{"content lost", func(d *damaged) { d.must(d.st.Delete(d.ctx, d.refs(1, d.file, store.KindContent)[:1])) }, "is referred to and does not exist"},
		{"page lost", func(d *damaged) { d.must(d.st.Delete(d.ctx, d.refs(1, d.table, store.KindPage)[:1])) }, "missing from the store"},
		{"table node lost", func(d *damaged) { d.must(d.st.Delete(d.ctx, d.refs(1, d.table, store.KindTable)[:1])) }, "missing from the store"},
		{"page damaged", func(d *damaged) { d.st.CorruptObject(d.refs(1, d.table, store.KindPage)[2], 100) }, "corrupt"},
		{"content damaged", func(d *damaged) { d.st.CorruptObject(d.refs(1, d.file, store.KindContent)[0], 5000) }, "(0) content"},
		{"object of nobody", func(d *damaged) {
			_, err := d.st.Put(d.ctx, d.group, store.KindContent, [][]byte{{1}})
			d.must(err)
			d.put(key(keyViews, 77), encode(2))
			d.put(key(keyViews, 77), nil)
		}, "has 0 references, want 1"},
		{"dead fork goes on", func(d *damaged) {
			d.put(key(keyHead, d.dead, RootIno), dcdb.EncodeHead(&dcdb.Head{Changed: 99, Attr: dcdb.Attr{Born: 1}}))
		}, "(4) inode 1 of fork"},
		{"death after the end", func(d *damaged) {
			k := append(key(keyDead, d.dead, 99, 1), make([]byte, 12)...)
			d.put(k, encodeEntries([]entry{{kind: entryRef, id: store.ID{Group: 1, Len: 5}}}))
		}, "(3) dead list of fork"},
		{"deleted alone", func(d *damaged) {
			k := key(keyHead, d.a, d.inA+1)
			d.put(k, dcdb.EncodeHead(&dcdb.Head{Changed: 5, Attr: dcdb.Attr{Born: 5}, Deleted: true}))
		}, "(5) inode"},
		{"no index", func(d *damaged) { d.put(d.first(keyIndex, d.a).Key, nil) }, "has no index record"},
		{"index of nothing", func(d *damaged) { d.put(key(keyIndex, d.a, 2, 2), []byte{}) }, "(6) inode 2 of fork"},
		{"wrong sum", func(d *damaged) { d.put(d.first(keySum, 1).Key, encode(1, 2)) }, "(7) fork 1"},
		{"sum of nothing", func(d *damaged) { d.put(key(keySum, 1, 9, 1), encode(1, 2)) }, "the sum says 1 entries of 2 bytes, the dead list has 0"},
		{"bad dropped tree", func(d *damaged) {
			d.put(append(key(keyBulk, 1, 5), 0, 0, 0, 1), (&bulk{death: 3, head: dcdb.EncodeHead(&dcdb.Head{Changed: 2})}).encode())
		}, "makes no sense"},
		{"blocks", func(d *damaged) { d.head(1, d.file, func(h *dcdb.Head) { h.Alloc++ }) }, "(5) 65537 bytes allocated"},
		{"data after the end", func(d *damaged) { d.head(1, d.file, func(h *dcdb.Head) { h.Size = 5 }) }, "(6) record 0 has data up to 65536"},
		{"used before it was born", func(d *damaged) { d.head(1, d.other, func(h *dcdb.Head) { h.Born = h.Changed + 1 }) }, "(3) changed at"},
		{"hold of no snapshot", func(d *damaged) { d.put(key(keyHold, d.dead, d.firstCounter(d.dead)), encodeTags([]string{"keep"})) }, "(8) a hold of counter"},
		{"expiry of no snapshot", func(d *damaged) { d.put(key(keyExpiry, 1, 99), encodeExpiry(time.Unix(1, 0))) }, "(8) an expiry of counter 99"},
		{"expiry of main", func(d *damaged) { d.put(key(keyExpiry, 1, 0), encodeExpiry(time.Unix(1, 0))) }, "(8) an expiry of counter 0"},
		{"expiry of a dead fork", func(d *damaged) { d.put(key(keyExpiry, d.dead, 0), encodeExpiry(time.Unix(1, 0))) }, "(8) an expiry of counter 0"},
		{"policy of a dead fork", func(d *damaged) { d.put(key(keyPolicy, d.dead), Policy{1}.encode()) }, "(8) a retention policy of fork"},
		{"no policy", func(d *damaged) { d.put(key(keyPolicy, 1), Policy{}.encode()) }, "(0) record 70"},
		{"bad hold", func(d *damaged) { d.put(key(keyHold, 1, 1), encodeTags([]string{"b", "a"})) }, "(0) record 6b"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := base.again(t)
			test.damage(d)
			r := checkTwice(t, d.st)
			if !slices.ContainsFunc(r.Problems, func(p string) bool { return strings.Contains(p, test.want) }) {
				t.Fatalf("check finds\n%s\nwant %q", strings.Join(r.Problems, "\n"), test.want)
			}
		})
	}
}

// A fork that takes over a merged one becomes parent of older forks, whose
// numbers are lower than its own.
func TestCheckKnowsThatAParentMayBeYoungerThanItsForks(t *testing.T) {
	h := newHistory(t)
	main := h.v.Main()
	a := h.fork(main, "a")
	h.create(a, "one")
	older := h.fork(a, "older")
	h.create(a, "two")
	younger := h.fork(a, "younger")
	for _, name := range []string{"older", "younger"} {
		h.must(h.v.RenameFork(h.ctx, a, name, main, name))
	}
	h.dropFork(main, "a")
	h.must(h.v.WaitIdle(h.ctx))
	if older.fork.parent != younger.fork {
		t.Fatal("the forks were not merged")
	}
	sound(t, h.v, CheckOptions{Contents: true})
}

// TestCheckEndsAtMaxProblems: a volume that is damaged all over must not fill the
// memory with complaints.
func TestCheckEndsAtMaxProblems(t *testing.T) {
	d := newDamaged(t)
	d = d.again(t)
	for ino := range uint64(50) {
		d.put(key(keyIndex, 1, 1, 100+ino), []byte{})
	}
	r, err := check(d.ctx, d.st, CheckOptions{MaxProblems: 7})
	if err != nil || len(r.Problems) != 7 {
		t.Fatalf("check: %d problems, %v; want 7", len(r.Problems), err)
	}
}
