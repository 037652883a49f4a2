package snap

import (
	"fmt"
	"testing"
	"time"
)

// TestDeletingASnapshotCostsWhatChanged deletes one of many snapshots between which
// few files changed: how many others there are makes no difference.
func TestDeletingASnapshotCostsWhatChanged(t *testing.T) {
	const snapshots, changed = 100, 10
	cost := func(files int) (read, written, calls int64) {
		q := newQueued(t, time.Hour)
		inos := q.empty(q.m, files)
		for i := range snapshots {
			q.snapshot(q.m, fmt.Sprint(i))
			var some []uint64
			for k := range changed {
				some = append(some, inos[k*files/changed])
			}
			q.touch(q.m, some)
		}
		q.must(q.v.WaitIdle(q.ctx))
		sum := func() (int64, int64, int64) {
			c := &q.count.Counters
			return c.KeysGot.Load() + c.RecordsScanned.Load(), c.RecordsPut.Load() + c.RecordsDeleted.Load(), c.Calls()
		}
		r, w, n := sum()
		q.must(q.v.DeleteSnapshot(q.ctx, q.m, fmt.Sprint(snapshots/2)))
		q.must(q.v.WaitIdle(q.ctx))
		read, written, calls = sum()
		return read - r, written - w, calls - n
	}
	fewRead, fewWritten, fewCalls := cost(1000)
	read, written, calls := cost(100_000)
	t.Logf("of 1000 files: %d records read, %d written, %d calls; of 100,000: %d, %d, %d", fewRead, fewWritten, fewCalls, read, written, calls)
	if read > fewRead+5 || written > fewWritten+5 || calls > fewCalls+5 {
		t.Error("it costs more where there are more files")
	}
	if written < 2*changed {
		t.Errorf("only %d records written: what %d files had is still there", written, changed)
	}
	if most := int64(12 * changed); read > most || written > most {
		t.Errorf("%d files changed: more than %d records", changed, most)
	}
}

// TestASnapshotThatManyOutlivedGoesInFewGroups: what it alone still showed went
// at many times, and is not removed in a group for each.
func TestASnapshotThatManyOutlivedGoesInFewGroups(t *testing.T) {
	const snapshots = 40
	q := newQueued(t, time.Hour)
	inos := q.empty(q.m, snapshots)
	for i, ino := range inos {
		q.snapshot(q.m, fmt.Sprint(i))
		q.touch(q.m, []uint64{ino})
	}
	for i := range snapshots - 1 {
		q.must(q.v.DeleteSnapshot(q.ctx, q.m, fmt.Sprint(i+1)))
	}
	q.must(q.v.WaitIdle(q.ctx))
	before := q.count.Counters.Commits.Load()
	q.must(q.v.DeleteSnapshot(q.ctx, q.m, "0"))
	q.must(q.v.WaitIdle(q.ctx))
	if n := q.count.Counters.Commits.Load() - before; n > 10 {
		t.Errorf("%d commits: a group for each of %d times", n, snapshots)
	}
	q.must(scan(q.ctx, q.v.st, key(keyDead), func(k, _ []byte) error { return fmt.Errorf("a dead list has %x still", k) }))
}
