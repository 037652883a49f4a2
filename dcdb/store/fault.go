package store

import (
	"context"
	"errors"
	"sync"
)

// ErrInjected is what a Fault fails with unless it is told another error.
var ErrInjected = errors.New("injected fault")

// Op is a method of Store that a Fault can fail or delay.
type Op uint8

// The operations, as bits: FailAfter takes a set of them.
const (
	OpPut Op = 1 << iota
	OpRead
	OpDelete
	OpList
	OpGet
	OpScan
	OpCommit
	OpBarrier

	OpAll    Op = 0xff
	OpWrites    = OpPut | OpDelete | OpCommit | OpBarrier
)

// Fault passes calls on to a Store until told to fail. A call that fails does
// so before the store sees it, or, after FailDone, when the store has done it:
// an outcome that the caller cannot know.
//
// For a crash, let a test fail a call and go on with what Memory.Crash says of
// the store below.
type Fault struct {
	Store

	mu     sync.Mutex
	plan   faultPlan // guarded by mu
	hook   func(Op)  // guarded by mu
	failed int       // guarded by mu
}

type faultPlan struct {
	ops    Op
	budget int
	err    error // nil: no plan
	once   bool
	done   bool // call the store first
}

// NewFault wraps s; nothing fails yet.
func NewFault(s Store) *Fault { return &Fault{Store: s} }

// FailAfter lets n more calls of ops pass; all later ones fail with err.
func (f *Fault) FailAfter(ops Op, n int, err error) {
	f.setPlan(faultPlan{ops: ops, budget: n, err: err})
}

// FailOnce lets n calls of ops pass, fails one with err, and passes the rest.
func (f *Fault) FailOnce(ops Op, n int, err error) {
	f.setPlan(faultPlan{ops: ops, budget: n, err: err, once: true})
}

// FailDone is FailOnce, but the store has carried out what then fails.
func (f *Fault) FailDone(ops Op, n int, err error) {
	f.setPlan(faultPlan{ops: ops, budget: n, err: err, once: true, done: true})
}

// Heal ends all failing.
func (f *Fault) Heal() { f.setPlan(faultPlan{}) }

func (f *Fault) setPlan(p faultPlan) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan = p
}

// Before sets what is called before every call, without any lock held: it may
// sleep, wait, or panic. nil is nothing.
func (f *Fault) Before(hook func(Op)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

// Failed is the number of calls that failed so far.
func (f *Fault) Failed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// do runs call, or fails it.
func (f *Fault) do(op Op, call func() error) error {
	f.mu.Lock()
	hook := f.hook
	err, done := f.spendLocked(op)
	f.mu.Unlock()
	if hook != nil {
		hook(op)
	}
	if err != nil && !done {
		return err
	}
	if callErr := call(); callErr != nil {
		return callErr
	}
	return err
}

// spendLocked takes one call of op off the budget and tells its fate.
func (f *Fault) spendLocked(op Op) (err error, done bool) {
	if f.plan.err == nil || f.plan.ops&op == 0 {
		return nil, false
	}
	if f.plan.budget > 0 {
		f.plan.budget--
		return nil, false
	}
	err, done = f.plan.err, f.plan.done
	if f.plan.once {
		f.plan = faultPlan{}
	}
	f.failed++
	return err, done
}

// Put implements Objects.
func (f *Fault) Put(ctx context.Context, group uint64, kind Kind, parts [][]byte) (ids []ID, err error) {
	sizes, made := Made(parts)
	return f.PutMade(ctx, group, kind, sizes, made)
}

// PutMade implements Objects.
func (f *Fault) PutMade(ctx context.Context, group uint64, kind Kind, sizes []int, part func(i int, id ID) []byte) (ids []ID, err error) {
	err = f.do(OpPut, func() (err error) {
		ids, err = f.Store.PutMade(ctx, group, kind, sizes, part)
		return err
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// Read implements Objects.
func (f *Fault) Read(ctx context.Context, id ID, kind Kind, off int, p []byte) error {
	return f.do(OpRead, func() error { return f.Store.Read(ctx, id, kind, off, p) })
}

// Delete implements Objects.
func (f *Fault) Delete(ctx context.Context, ids []ID) error {
	return f.do(OpDelete, func() error { return f.Store.Delete(ctx, ids) })
}

// List implements Objects.
func (f *Fault) List(ctx context.Context, after ID, limit int) (ids []ID, err error) {
	err = f.do(OpList, func() (err error) {
		ids, err = f.Store.List(ctx, after, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// Get implements Records.
func (f *Fault) Get(ctx context.Context, keys ...[]byte) (values [][]byte, err error) {
	err = f.do(OpGet, func() (err error) {
		values, err = f.Store.Get(ctx, keys...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return values, nil
}

// Scan implements Records.
func (f *Fault) Scan(ctx context.Context, from, to []byte, limit int) (rs []Record, err error) {
	err = f.do(OpScan, func() (err error) {
		rs, err = f.Store.Scan(ctx, from, to, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return rs, nil
}

// Commit implements Records.
func (f *Fault) Commit(ctx context.Context, b *Batch) error {
	return f.do(OpCommit, func() error { return f.Store.Commit(ctx, b) })
}

// Barrier implements Records.
func (f *Fault) Barrier(ctx context.Context) error {
	return f.do(OpBarrier, func() error { return f.Store.Barrier(ctx) })
}
