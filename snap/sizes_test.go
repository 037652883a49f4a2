package snap

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// walkBytes returns what a view refers to, object by object, and how much of that
// it has had since counter origin or before.
func (m *modelTest) walkBytes(w *View, origin uint64) (all, old uint64) {
	m.t.Helper()
	for ino := range m.everyIno() {
		rec, err := (*rules)(m.v).load(m.ctx, w.Key(ino))
		if err != nil {
			m.fatalf("inode %d in %q: %v", ino, w.Name(), err)
		}
		if rec == nil {
			continue
		}
		h, err := dcdb.DecodeHead(rec)
		if err != nil {
			m.fatalf("inode %d in %q: %v", ino, w.Name(), err)
		}
		if h.Deleted {
			continue
		}
		add := func(since, bytes uint64) {
			all += bytes
			if since <= origin {
				old += bytes
			}
		}
		add(h.Changed, uint64(len(rec)))
		for from, done := uint64(0), false; !done; {
			from, done, err = dcdb.Expand(m.ctx, m.v.st, h, false, 0, from, 1000, func(d dcdb.Dropped) { add(d.Since, uint64(d.ID.Len)) })
			if err != nil {
				m.fatalf("inode %d in %q: %v", ino, w.Name(), err)
			}
		}
	}
	return all, old
}

func (m *modelTest) everyIno() map[uint64]bool {
	inos := maps.Clone(m.inos)
	inos[RootIno], inos[OrphanIno] = true, true
	return inos
}

// stored returns the bytes of all objects and heads.
func (m *modelTest) stored() (bytes uint64) {
	m.t.Helper()
	for after := (store.ID{}); ; {
		ids, err := m.st.List(m.ctx, after, 1000)
		if err != nil {
			m.fatalf("list: %v", err)
		}
		if len(ids) == 0 {
			break
		}
		for _, id := range ids {
			bytes += uint64(id.Len)
		}
		after = ids[len(ids)-1]
	}
	for _, kind := range [...]byte{keyHead, keySaved} {
		err := scan(m.ctx, m.st, key(kind), func(k, val []byte) error {
			_, deleted, err := dcdb.HeadInfo(val)
			if !deleted {
				bytes += uint64(len(val))
			}
			return err
		})
		if err != nil {
			m.fatalf("heads: %v", err)
		}
	}
	return bytes
}

func show(n *uint64) string {
	if n == nil {
		return "unknown"
	}
	return fmt.Sprint(*n)
}

// sizes compares what is said of all views with what a walk finds.
func (m *modelTest) sizes() {
	m.t.Helper()
	c := m.v.Sizes(true)
	same := func(what string, got *uint64, want uint64) {
		m.t.Helper()
		if got == nil || *got != want {
			m.fatalf("%s %s bytes, want %d", what, show(got), want)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(m.now)) {
		live := m.view(p)
		snaps, err := c.Snapshots(m.ctx, live)
		if err != nil || len(snaps) != len(m.now[p].snaps) {
			m.fatalf("sizes of snapshots of %q: %d of %d, %v", p, len(snaps), len(m.now[p].snaps), err)
		}
		for _, s := range snaps {
			all, _ := m.walkBytes(s.View, 0)
			same(fmt.Sprintf("%s%%%s refers to", p, s.View.Name()), s.Refer, all)
			before := live.fork.origin
			for _, sn := range live.fork.snaps {
				if sn.counter < s.View.Counter() {
					before = sn.counter
				}
			}
			_, old := m.walkBytes(s.View, before)
			same(fmt.Sprintf("%s%%%s has written", p, s.View.Name()), s.Written, all-old)
		}
		u, err := c.Fork(m.ctx, live)
		if err != nil {
			m.fatalf("size of %q: %v", p, err)
		}
		all, old := m.walkBytes(live, live.fork.origin)
		same(fmt.Sprintf("%q refers to", p), u.Refer, all)
		same(fmt.Sprintf("%q shares", p), u.Shared, old)
		if len(live.fork.snaps) == 0 {
			same(fmt.Sprintf("%q has", p), u.Own, all-old)
		} else if u.Own == nil || *u.Own < all-old {
			m.fatalf("%q has %s bytes, want at least %d", p, show(u.Own), all-old)
		}
	}
}

// deletions deletes a few snapshots of one fork, and compares what that frees
// with what was said before.
func (m *modelTest) deletions() {
	m.t.Helper()
	p := m.pickFork()
	names := slices.Sorted(maps.Keys(m.now[p].snaps))
	if len(names) == 0 {
		return
	}
	m.rnd.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	names = names[:1+m.rnd.IntN(len(names))]
	want, err := m.v.WouldFree(m.ctx, m.view(p), names)
	if err != nil {
		m.fatalf("would free: %v", err)
	}
	snaps, err := m.v.Sizes(false).Snapshots(m.ctx, m.view(p))
	if err != nil {
		m.fatalf("sizes: %v", err)
	}
	for _, s := range snaps {
		if len(names) == 1 && s.View.Name() == names[0] && s.Used != want {
			m.fatalf("%s%%%s uses %d bytes, and deleting it would free %d", p, names[0], s.Used, want)
		}
	}
	before := m.stored()
	for _, name := range names {
		m.log = append(m.log, fmt.Sprintf("%q: delete snapshot %s", p, name))
		if err := m.v.DeleteSnapshot(m.ctx, m.view(p), name); err != nil {
			m.fatalf("delete snapshot %s: %v", name, err)
		}
		delete(m.now[p].snaps, name)
	}
	m.durable()
	m.idle()
	if got := before - m.stored(); got != want {
		m.fatalf("deleting %s of %q freed %d bytes, want %d", strings.Join(names, " "), p, got, want)
	}
}

// TestSizesAreExact runs the model's operations, and compares all sizes with what
// walks find, and what deleting frees with what was said. DCFS_MODEL_STEPS and
// DCFS_MODEL_SEEDS make it longer, DCFS_MODEL_SEED repeats one run.
func TestSizesAreExact(t *testing.T) {
	steps := envInt("DCFS_MODEL_STEPS", 300)
	first, seeds := uint64(time.Now().UnixNano()), envInt("DCFS_MODEL_SEEDS", 4)
	if seed := envInt("DCFS_MODEL_SEED", 0); seed != 0 {
		first, seeds = uint64(seed), 1
	}
	for i := range seeds {
		seed := first + uint64(i)
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			m := &modelTest{
				t: t, ctx: context.Background(), rnd: rand.New(rand.NewPCG(seed, 2)), inos: map[uint64]bool{},
				st:  store.NewMemory(store.Superblock{Version: store.FormatVersion, UUID: store.NewUUID()}),
				now: world{"": &mfork{mview{}, map[string]mview{}}},
				o:   Options{CommitInterval: 2 * time.Millisecond, Log: t.Logf},
			}
			m.open()
			m.durable()
			for i := range steps {
				m.step()
				if p := m.pickFork(); i%4 == 0 { // more clones than elsewhere
					if ino, ok := m.pickFile(p); ok {
						m.clone(p, ino, func(format string, args ...any) {
							m.log = append(m.log, fmt.Sprintf("%q: ", p)+fmt.Sprintf(format, args...))
						})
					}
				}
				if i%15 == 0 {
					m.idle()
					m.sizes()
					sound(t, m.v, CheckOptions{})
					m.deletions()
				}
			}
			m.idle()
			m.sizes()
			if err := m.v.Close(m.ctx); err != nil {
				m.fatalf("close: %v", err)
			}
		})
	}
}
