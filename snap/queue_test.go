package snap

import (
	"context"
	"fmt"
	"testing"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// queued is a volume whose store counts the marks of deleted records that scans
// walk through, and calls.
type queued struct {
	history
	marks *store.Marks
	count *store.Counting
	m     *View
}

func newQueued(t *testing.T, interval time.Duration) *queued {
	q := &queued{history: history{t: t, ctx: context.Background()}}
	q.marks = store.NewMarks(store.NewMemory(store.Superblock{Version: store.FormatVersion, UUID: store.NewUUID()}))
	q.count = store.NewCounting(q.marks)
	v, err := Open(q.ctx, q.count, Options{CommitInterval: interval, Log: t.Logf})
	q.must(err)
	q.v, q.m = v, v.Main()
	t.Cleanup(func() { q.must(v.Close(q.ctx)) })
	return q
}

// each runs fn for n inodes, several in a transaction.
func (q *queued) each(n int, fn func(tx *dcdb.Tx, i int) error) {
	q.t.Helper()
	const some = 16
	for i := 0; i < n; i += some {
		q.must(q.v.space.Update(q.ctx, func(tx *dcdb.Tx) error {
			for k := i; k < min(i+some, n); k++ {
				if err := fn(tx, k); err != nil {
					return err
				}
			}
			return nil
		}))
	}
}

// empty makes n files without data.
func (q *queued) empty(w *View, n int) (inos []uint64) {
	q.each(n, func(tx *dcdb.Tx, _ int) error {
		inos = append(inos, w.NewIno())
		tx.Create(w.Key(inos[len(inos)-1]), dcdb.Attr{Mode: 0o100644, Nlink: 1})
		return nil
	})
	return inos
}

func (q *queued) touch(w *View, inos []uint64) {
	q.t.Helper()
	for i := 0; i < len(inos); i += 16 {
		some := inos[i:min(i+16, len(inos))]
		q.must(q.v.space.Update(q.ctx, func(tx *dcdb.Tx) error {
			var dbs []*dcdb.DB
			for _, ino := range some {
				db, err := tx.DB(w.Key(ino))
				if err != nil {
					return err
				}
				dbs = append(dbs, db)
			}
			for _, db := range dbs {
				db.Edit().Flags++
			}
			return nil
		}))
	}
}

// TestQueuesAreReadFromWhereTheyBegin: to take n records out of a queue costs a
// walk through a few times n marks, however many steps it takes.
func TestQueuesAreReadFromWhereTheyBegin(t *testing.T) {
	for _, test := range []struct {
		name string
		less int                                  // marks that it leaves at least
		make func(q *queued) (begin func() error) // begin deletes
	}{
		{"cut", 40_000, func(q *queued) func() error {
			q.empty(q.fork(q.m, "f"), 20_000)
			return func() error { return q.v.DeleteFork(q.ctx, q.m, "f") }
		}},
		{"snapshot", 30_000, func(q *queued) func() error {
			inos := q.empty(q.m, 20_000)
			q.snapshot(q.m, "s")
			q.touch(q.m, inos)
			return func() error { return q.v.DeleteSnapshot(q.ctx, q.m, "s") }
		}},
		{"snapshots", 1000, func(q *queued) func() error {
			inos := q.empty(q.m, 200)
			for i := range inos {
				q.snapshot(q.m, fmt.Sprint("s", i))
				q.touch(q.m, inos[i:])
			}
			return func() error {
				for i := range inos {
					if err := q.v.DeleteSnapshot(q.ctx, q.m, fmt.Sprint("s", i)); err != nil {
						return err
					}
				}
				return nil
			}
		}},
		{"trees", 1000, func(q *queued) func() error {
			inos := q.empty(q.m, 1000)
			for _, ino := range inos {
				for r := range uint64(40) {
					_, err := q.v.space.Write(q.ctx, q.m.Key(ino), make([]byte, 100), func(*dcdb.DB) uint64 { return r * dcdb.RecordBytes }, func(*dcdb.DB) error { return nil })
					q.must(err)
				}
			}
			return func() error {
				for _, ino := range inos {
					q.remove(q.m, ino)
				}
				return nil
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := newQueued(t, time.Millisecond)
			begin := test.make(q)
			q.must(q.v.WaitIdle(q.ctx))
			before, had := q.marks.Walked()
			q.must(begin())
			q.must(q.v.WaitIdle(q.ctx))
			walked, marks := q.marks.Walked()
			walked -= before
			t.Logf("%d marks, walked through %d", marks-had, walked)
			if marks-had < int64(test.less) {
				t.Errorf("only %d records were deleted", marks-had)
			}
			if walked > 4*(marks-had)+20_000 {
				t.Errorf("%d records were deleted, and scans walked through %d marks", marks-had, walked)
			}
		})
	}
}
