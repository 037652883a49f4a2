package snap

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// leak stores an object that nothing refers to.
func (d *damaged) leak() store.ID {
	d.t.Helper()
	ids, err := d.st.Put(d.ctx, d.group, store.KindContent, [][]byte{[]byte("nobody's")})
	d.must(err)
	d.put(key(keyViews, 77), encode(2))
	d.put(key(keyViews, 77), nil)
	return ids[0]
}

// each changes all records of a kind in all forks; a nil value deletes it.
func (d *damaged) each(kind byte, val []byte) {
	d.t.Helper()
	d.must(scan(d.ctx, d.st, key(kind), func(k, _ []byte) error { d.put(k, val); return nil }))
}

// mendable is damage that Repair mends.
var mendable = []struct {
	name   string
	damage func(d *damaged)
	did    string
}{
	{"wrong sums", func(d *damaged) { d.each(keySum, encode(1, 2)) }, "sum set to"},
	{"no sums", func(d *damaged) { d.each(keySum, nil) }, "sum set to"},
	{"sum of nothing", func(d *damaged) { d.put(key(keySum, 1, 9, 1), encode(1, 2)) }, "fork 1, [1, 9): sum set to 0 entries of 0 bytes"},
	{"no index", func(d *damaged) { d.each(keyIndex, nil) }, "index record made"},
	{"index of nothing", func(d *damaged) { d.put(key(keyIndex, d.a, 2, 2), []byte{}) }, "index record removed"},
	{"counts too high", func(d *damaged) { d.each(keyExtra, encode(9)) }, "set to 2 references"},
	{"counts lost", func(d *damaged) { d.each(keyExtra, nil) }, "set to 2 references"},
	{"count of one", func(d *damaged) {
		d.put(extraKey(d.refs(1, d.table, store.KindPage)[0]), encode(3))
	}, "set to 1 references"},
	{"count of nothing", func(d *damaged) { d.put(extraKey(store.ID{Group: 1, Len: 5}), encode(1)) }, "object 1.0.0+5: set to 1 references"},
	{"object of nobody", func(d *damaged) { d.leak() }, "freed"},
	{"object of nobody with a count", func(d *damaged) { d.put(extraKey(d.leak()), encode(2)) }, "freed"},
	{"all of it", func(d *damaged) {
		d.each(keySum, nil)
		d.each(keyExtra, nil)
		d.each(keyIndex, nil)
		d.put(extraKey(d.leak()), encode(2))
		d.leak()
		d.put(key(keyIndex, d.a, 2, 2), []byte{})
	}, "freed"},
}

// repair opens the volume in a store, has it repaired and returns what was done.
// The volume is closed, whatever comes of that.
func repair(t *testing.T, st store.Store, o CheckOptions) (CheckReport, []string, error) {
	t.Helper()
	ctx := context.Background()
	v, err := Open(ctx, st, Options{Still: true})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close(ctx)
	var did []string
	r, err := v.Repair(ctx, o, func(line string) { did = append(did, line) })
	return r, did, err
}

// erase has what was freed in a store erased.
func (d *damaged) erase(st store.Store) {
	d.t.Helper()
	v, err := Open(d.ctx, st, Options{})
	d.must(err)
	d.must(v.WaitIdle(d.ctx))
	d.must(v.Close(d.ctx))
}

// TestRepairMends wants a sound volume, with all that was in it.
func TestRepairMends(t *testing.T) {
	base := newDamaged(t)
	sound, err := check(base.ctx, base.st, CheckOptions{Contents: true})
	base.must(err)
	for _, c := range mendable {
		t.Run(c.name, func(t *testing.T) {
			d := base.again(t)
			c.damage(d)
			r, did, err := repair(t, d.st, CheckOptions{Contents: true, Spill: littleMemory})
			if err != nil || len(r.Problems) == 0 || !r.Whole || len(did) != len(r.Problems) {
				t.Fatalf("repair: %v, whole: %v, did %q for\n%s", err, r.Whole, did, strings.Join(r.Problems, "\n"))
			}
			if !strings.Contains(strings.Join(did, "\n"), c.did) {
				t.Errorf("repair did %q, want %q", did, c.did)
			}
			d.erase(d.st)
			r = checkTwice(t, d.st)
			if len(r.Problems) > 0 || r.Objects != sound.Objects || r.Heads != sound.Heads {
				t.Errorf("after the repair: %+v, want %+v", r, sound)
			}
			if _, did, err := repair(t, d.st, CheckOptions{}); err != nil || len(did) > 0 {
				t.Errorf("a second repair: did %q, %v", did, err)
			}
		})
	}
}

// TestRepairThatIsCutOff fails the store at each call of a repair. What the next
// process finds, a repair mends.
func TestRepairThatIsCutOff(t *testing.T) {
	defer func(n int) { fixesPerGroup = n }(fixesPerGroup)
	fixesPerGroup = 3
	base := newDamaged(t)
	sound, err := check(base.ctx, base.st, CheckOptions{Contents: true})
	base.must(err)
	for _, c := range mendable {
		t.Run(c.name, func(t *testing.T) {
			for n, done := 0, false; !done; n++ {
				d := base.again(t)
				c.damage(d)
				d.must(d.st.Barrier(d.ctx))
				fault := store.NewFault(d.st)
				fault.FailAfter(store.OpWrites, n, store.ErrInjected)
				_, _, err := repair(t, fault, CheckOptions{})
				done = err == nil && fault.Failed() == 0
				if done && n < 2 {
					t.Fatal("nothing was written")
				}
				groups := append([]uint64{0}, d.st.Undurable()...)
				crashed := d.st.CrashAt(groups[n%len(groups)])
				if _, _, err := repair(t, crashed, CheckOptions{}); err != nil {
					t.Fatalf("after %d calls: %v", n, err)
				}
				d.erase(crashed)
				r, err := check(d.ctx, crashed, CheckOptions{Contents: true})
				if err != nil || len(r.Problems) > 0 || r.Objects != sound.Objects || r.Heads != sound.Heads {
					t.Fatalf("after %d calls: %+v, %v, want %+v", n, r, err, sound)
				}
			}
		})
	}
}

// TestRepairFreesNothingBlindly: where something can't be read or contradicts
// itself, an object that nothing seems to refer to stays, and no count falls.
func TestRepairFreesNothingBlindly(t *testing.T) {
	base := newDamaged(t)
	for _, c := range []struct {
		name  string
		blind func(d *damaged)
	}{
		{"content damaged", func(d *damaged) { d.st.CorruptObject(d.refs(1, d.file, store.KindContent)[0], 5000) }},
		{"content lost", func(d *damaged) { d.must(d.st.Delete(d.ctx, d.refs(1, d.file, store.KindContent)[:1])) }},
		{"page damaged", func(d *damaged) { d.st.CorruptObject(d.refs(1, d.table, store.KindPage)[2], 100) }},
		{"page lost", func(d *damaged) { d.must(d.st.Delete(d.ctx, d.refs(1, d.table, store.KindPage)[:1])) }},
		{"table node lost", func(d *damaged) { d.must(d.st.Delete(d.ctx, d.refs(1, d.table, store.KindTable)[:1])) }},
		{"head damaged", func(d *damaged) { d.st.CorruptRecord(key(keyHead, 1, d.file), 20) }},
		{"head that makes no sense", func(d *damaged) { d.put(key(keyHead, 1, d.file), []byte{9}) }},
		{"saved head damaged", func(d *damaged) { d.st.CorruptRecord(d.first(keySaved, d.a).Key, 20) }},
		{"dead list damaged", func(d *damaged) { d.st.CorruptRecord(d.first(keyDead, 1).Key, 4) }},
		{"dead list that makes no sense", func(d *damaged) { d.put(d.first(keyDead, 1).Key, []byte{1, 77}) }},
		{"saved head not listed", func(d *damaged) {
			k, es, i := d.entries(d.a, entryHead)
			d.put(k, encodeEntries(slices.Delete(es, i, i+1)))
		}},
		{"blocks", func(d *damaged) { d.head(1, d.file, func(h *dcdb.Head) { h.Alloc++ }) }},
		{"record of no fork", func(d *damaged) { d.put(key(keyHead, 99, 1), d.get(key(keyHead, 1, 1))) }},
		{"unknown record", func(d *damaged) { d.put([]byte("zzz"), []byte{1}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := base.again(t)
			leaked := d.leak()
			index := d.first(keyIndex, d.a).Key
			d.put(index, nil)
			d.each(keyExtra, encode(9))
			d.put(key(keySum, 1, 9, 1), encode(1, 2))
			c.blind(d)
			before, err := d.st.List(d.ctx, store.ID{}, 1<<20)
			d.must(err)
			counts, err := d.st.Scan(d.ctx, key(keyExtra), after(key(keyExtra)), 100)
			d.must(err)
			r, did, err := repair(t, d.st, CheckOptions{Contents: true, MaxProblems: 3})
			d.must(err)
			harmless := regexp.MustCompile("index record made|set to 2 references")
			if r.Whole || len(counts) == 0 || slices.ContainsFunc(did, func(l string) bool { return !harmless.MatchString(l) }) {
				t.Errorf("whole: %v, repair did %q for\n%s", r.Whole, did, strings.Join(r.Problems, "\n"))
			}
			if v, err := d.st.Get(d.ctx, index); err != nil || v[0] == nil {
				t.Errorf("the index record is not made: %v", err)
			}
			after, err := d.st.List(d.ctx, store.ID{}, 1<<20)
			d.must(err)
			if !slices.Equal(before, after) || !slices.Contains(after, leaked) {
				t.Errorf("objects went: %d, before %d", len(after), len(before))
			}
			for _, c := range counts {
				if got := d.get(c.Key); !slices.Equal(got, encode(9)) {
					t.Errorf("count %x is %x", c.Key, got)
				}
			}
		})
	}
}

// TestRepairRaisesCountsBlindly: an object that is shared must not go with the
// first of its references, even if something else can't be read.
func TestRepairRaisesCountsBlindly(t *testing.T) {
	d := newDamaged(t).again(t)
	var shared []byte
	d.must(scan(d.ctx, d.st, key(keyExtra), func(k, _ []byte) error { shared = k; return nil }))
	d.put(shared, nil)
	d.put([]byte("zzz"), []byte{1})
	if _, did, err := repair(t, d.st, CheckOptions{}); err != nil || len(did) != 1 {
		t.Fatalf("repair did %q, %v", did, err)
	}
	if v, err := d.st.Get(d.ctx, shared); err != nil || !slices.Equal(v[0], encode(1)) {
		t.Errorf("the count is %x, %v, want 1", v, err)
	}
}

// TestRepairWantsTheVolumeForItself refuses a volume that goes on.
func TestRepairWantsTheVolumeForItself(t *testing.T) {
	h := newHistory(t)
	if _, err := h.v.Repair(h.ctx, CheckOptions{}, func(string) {}); err == nil {
		t.Error("a volume in use was repaired")
	}
	h.must(h.v.Close(h.ctx))
}
