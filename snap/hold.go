package snap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"dcfs/dcdb"
)

// Holds are those of ZFS: a tag says for whom a snapshot is held, a tag holds it
// once, and while one is left the snapshot can't be deleted, nor the fork that
// has it. Two who hold the same snapshot can so not release each other's hold.

// DefaultTag is the tag of who names none.
const DefaultTag = "keep"

// maxTags is how many tags may hold a snapshot: they are in one small record.
const maxTags = 16

// Errors of holds; match them with errors.Is.
var (
	ErrHeld      = errors.New("the snapshot is held")
	ErrHold      = errors.New("the snapshot is held by this tag already")
	ErrNoHold    = errors.New("the snapshot is not held by this tag")
	ErrManyHolds = fmt.Errorf("a snapshot is held by at most %d tags", maxTags)
)

// HeldError is ErrHeld, and says which snapshot stands in the way.
type HeldError struct {
	Fork, Snapshot string
	Tags           []string
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("snapshot %q of fork %q is held (%q)", e.Snapshot, e.Fork, strings.Join(e.Tags, ", "))
}

// Is makes errors.Is find ErrHeld.
func (e *HeldError) Is(err error) bool { return err == ErrHeld }

// held returns a HeldError if the snapshot is held. Space.mu is held.
func (v *Volume) held(sn *snapshot) error {
	if len(sn.tags) == 0 {
		return nil
	}
	return &HeldError{v.pathName(sn.fork), sn.name, sn.tags}
}

// holding returns a HeldError if a snapshot of one of the forks is held. Space.mu
// is held.
func (v *Volume) holding(forks []*fork) error {
	for _, f := range forks {
		for _, sn := range f.snaps {
			if err := v.held(sn); err != nil {
				return err
			}
		}
	}
	return nil
}

// Hold keeps a snapshot from being deleted until the tag is released. It returns
// when that is durable.
func (v *Volume) Hold(ctx context.Context, w *View, name, tag string) error {
	return v.changeTags(ctx, "hold", w, name, tag, func(tags []string, i int, has bool) ([]string, error) {
		switch {
		case has:
			return nil, ErrHold
		case len(tags) == maxTags:
			return nil, ErrManyHolds
		}
		return slices.Insert(tags, i, tag), nil
	})
}

// Release takes a tag off a snapshot; with the last one it may be deleted again.
func (v *Volume) Release(ctx context.Context, w *View, name, tag string) error {
	return v.changeTags(ctx, "release", w, name, tag, func(tags []string, i int, has bool) ([]string, error) {
		if !has {
			return nil, ErrNoHold
		}
		return slices.Delete(tags, i, i+1), nil
	})
}

// changeTags replaces the tags of a snapshot by what change makes of a copy; a tag
// stands or would stand at place i.
func (v *Volume) changeTags(ctx context.Context, what string, w *View, name, tag string, change func(tags []string, i int, has bool) ([]string, error)) error {
	if err := CheckName(tag); err != nil {
		return fmt.Errorf("tag %q: %w", tag, err)
	}
	err := v.space.Meta(ctx, true, func(m *dcdb.Meta) error {
		sn, err := v.namedLocked(w, name)
		if err != nil {
			return err
		}
		i, has := slices.BinarySearch(sn.tags, tag)
		tags, err := change(slices.Clone(sn.tags), i, has)
		if err != nil {
			return err
		}
		sn.tags = tags
		k := key(keyHold, sn.fork.id, sn.counter)
		if len(tags) == 0 {
			m.Delete(k)
			v.wakeClock() // it may have expired
		} else {
			m.Put(k, encodeTags(tags))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s snapshot %q: %w", what, name, err)
	}
	return nil
}

// Tags returns what holds a snapshot, in order; nothing holds a live view.
func (w *View) Tags() (tags []string) {
	if w.snap != nil {
		w.v.space.Locked(func() { tags = w.snap.tags })
	}
	return tags
}

func encodeTags(tags []string) []byte {
	b := encode(uint64(len(tags)))
	for _, t := range tags {
		b = appendStr(b, t)
	}
	return b
}

// decodeTags reads the tags of a hold: at least one, in order, each once.
func decodeTags(val []byte) ([]string, error) {
	r := newReader(val)
	n := r.num()
	if n == 0 || n > maxTags {
		r.fail()
	}
	var tags []string
	for range n {
		t := r.str()
		if r.err != nil {
			break
		}
		if CheckName(t) != nil || len(tags) > 0 && tags[len(tags)-1] >= t {
			r.fail()
		}
		tags = append(tags, t)
	}
	return tags, r.end()
}

func (v *Volume) loadTags(ctx context.Context) error {
	return scan(ctx, v.st, key(keyHold), func(k, val []byte) error {
		n, err := keyNums(k, 2)
		if err != nil {
			return err
		}
		sn := v.forks[n[0]].named(n[1])
		if sn == nil {
			return fmt.Errorf("%w: hold of snapshot %d of fork %d, which does not exist", dcdb.ErrCorrupt, n[1], n[0])
		}
		if sn.tags, err = decodeTags(val); err != nil {
			return fmt.Errorf("hold of snapshot %d of fork %d: %w", n[1], n[0], err)
		}
		return nil
	})
}

// named returns the snapshot of f at a counter, nil if there is none that has a
// name. f may be nil.
func (f *fork) named(counter uint64) *snapshot {
	if f == nil {
		return nil
	}
	if sn := f.at(counter); sn != nil && sn.name != "" {
		return sn
	}
	return nil
}
