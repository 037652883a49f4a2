package snap

import (
	"context"
	"slices"
)

// Backlog is what was deleted and is not given back to the store yet.
type Backlog struct {
	Tasks   int // deleted snapshots, and forks to be cut
	Merges  int // deleted forks to be joined with their last descendant
	Trees   int // large trees that were dropped as a whole; no more than MaxTrees are counted
	Objects int // that are free and not erased

	// Entries of dead lists that the tasks will remove, and the bytes of what
	// these name. Trees, and what deleted forks have not shared with any
	// snapshot, are not in there.
	Entries, Bytes uint64
}

// MaxTrees is how many trees a Backlog counts: each is a record to be read.
const MaxTrees = 1000

// Empty reports whether nothing is left to do.
func (b Backlog) Empty() bool { return b == Backlog{} }

// reclaiming is the tasks of one fork.
type reclaiming struct {
	f     *fork
	tasks []task
}

// Backlog tells how much background work is waiting. It reads the sums of the
// dead lists of forks with tasks, and the dropped trees.
func (v *Volume) Backlog(ctx context.Context) (Backlog, error) {
	b, forks := v.waiting()
	var err error
	if b.Trees, err = v.countTrees(ctx, MaxTrees); err != nil {
		return b, err
	}
	for _, r := range forks {
		err := v.sums(ctx, r.f, func(s span, n sum) {
			if slices.ContainsFunc(r.tasks, func(t task) bool { return t.takes(s) }) {
				b.Entries += n.count
				b.Bytes += n.bytes
			}
		})
		if err != nil {
			return b, err
		}
	}
	return b, nil
}

// waiting returns the part of the backlog that is known in memory, and the
// tasks by fork.
func (v *Volume) waiting() (b Backlog, forks []*reclaiming) {
	v.space.Locked(func() {
		of := map[*fork]*reclaiming{}
		for _, t := range v.tasks {
			r := of[t.f]
			if r == nil {
				r = &reclaiming{f: t.f}
				of[t.f] = r
				forks = append(forks, r)
			}
			r.tasks = append(r.tasks, *t)
		}
		b.Tasks = len(v.tasks)
		for _, f := range v.forks {
			if f.moving != 0 || v.mergeable(f) != nil {
				b.Merges++
			}
		}
	})
	b.Objects = v.space.Erasing()
	return b, forks
}
