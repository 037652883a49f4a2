package snap

import (
	"errors"
	"fmt"
	"time"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// What can't be reclaimed because something in the store can't be read is set
// aside, and tried again after the next open. All else goes on.

// stuck is a fork of which some work is set aside.
type stuck struct {
	err   error
	tasks bool // none of its tasks may go on: its records are at two places
}

// stepError is an error of one step of background work.
type stepError struct {
	what string
	put  func() // sets the work aside; Space.mu is held
	err  error
}

func (e *stepError) Error() string { return e.what + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// unreadable reports whether an error will be the same next time.
func unreadable(err error) bool {
	return errors.Is(err, store.ErrCorrupt) || errors.Is(err, dcdb.ErrVersion) || errors.Is(err, dcdb.ErrIO)
}

// inTree makes an error that of a dropped tree, after which at is where the next
// one may be. Its fork is not cut: that is for when its trees are gone.
func (v *Volume) inTree(fork uint64, at []byte, err error) error {
	if err == nil {
		return nil
	}
	return &stepError{fmt.Sprintf("dropped tree of fork %d", fork), func() {
		v.trees.skip(fork, at)
		v.setStuck(fork, stuck{err: err})
	}, err}
}

// inTask makes an error that of a task.
func (v *Volume) inTask(t *task, err error) error {
	if err == nil {
		return nil
	}
	return &stepError{fmt.Sprintf("task %d of fork %d", t.seq, t.f.id), func() { t.err = err }, err}
}

// inMerge makes an error that of a merge of a fork with its parent.
func (v *Volume) inMerge(f *fork, err error) error {
	if err == nil {
		return nil
	}
	return &stepError{fmt.Sprintf("merge of fork %d", f.id), func() { v.setStuck(f.id, stuck{err, true}) }, err}
}

func (v *Volume) setStuck(fork uint64, s stuck) {
	s.tasks = s.tasks || v.stuck[fork].tasks
	v.stuck[fork] = s
}

// trouble handles the error of a step, and reports whether to go on at once.
func (v *Volume) trouble(err error) bool {
	var step *stepError
	if errors.As(err, &step) && unreadable(err) {
		v.space.Exclusive(step.put)
		v.log("reclaim: %v; it is left until the volume is opened again", err)
		return true
	}
	v.stepErrors.Log(v.log, "reclaim: %v", err)
	return false
}

// retryPause is how long the reclaimer waits after an error that may pass.
const retryPause = time.Second

// nextTask returns the first task that may go on, nil if there is none. Space.mu
// is held.
func (v *Volume) nextTask() *task {
	for _, t := range v.tasks {
		s, is := v.stuck[t.f.id]
		if t.err == nil && (!is || t.kind == taskSnapshot && !s.tasks) {
			return t
		}
	}
	return nil
}

// reclaimed reports whether nothing is left that can be reclaimed, and why
// something is left all the same.
func (v *Volume) reclaimed() (done bool, left error) {
	trees := v.trees.empty()
	v.space.Locked(func() {
		done = trees && v.nextTask() == nil
		for _, f := range v.forks {
			done = done && !v.moves(f) && v.mergeable(f) == nil
		}
		for _, t := range v.tasks {
			if t.err != nil {
				left = t.err
			}
		}
		for _, s := range v.stuck {
			left = s.err
		}
	})
	if left != nil {
		left = fmt.Errorf("something can't be reclaimed (\"dcfs check\" tells more): %w", left)
	}
	return done, left
}

// moves reports whether a fork's records are to be moved. Space.mu is held.
func (v *Volume) moves(f *fork) bool { return f.moving != 0 && v.stuck[f.id].err == nil }
