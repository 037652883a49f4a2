package store

import "fmt"

// recordOverhead is what each record of a batch counts beside its key and
// value, see Limits.
const recordOverhead = 32

// CheckBatch verifies b against what every implementation demands of it: the
// fence, a group above last and not below first, and the limits.
func CheckBatch(b *Batch, fence, last, first uint64, l Limits) error {
	if b.Fence != fence {
		return fmt.Errorf("commit group %d with fence %d, not %d: %w", b.Group, b.Fence, fence, ErrConflict)
	}
	if err := CheckGroup(b.Group, last, first); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if n := len(b.Puts) + len(b.Deletes); n > l.BatchRecords {
		return fmt.Errorf("commit group %d: %d records, at most %d: %w", b.Group, n, l.BatchRecords, ErrTooBig)
	}
	bytes := 0
	for _, r := range b.Puts {
		if err := checkKey(r.Key, l); err != nil {
			return fmt.Errorf("commit group %d: %w", b.Group, err)
		}
		if len(r.Value) > l.ValueBytes {
			return fmt.Errorf("commit group %d: record %x of %d bytes, at most %d: %w", b.Group, r.Key, len(r.Value), l.ValueBytes, ErrTooBig)
		}
		bytes += len(r.Key) + len(r.Value) + recordOverhead
	}
	for _, k := range b.Deletes {
		if err := checkKey(k, l); err != nil {
			return fmt.Errorf("commit group %d: %w", b.Group, err)
		}
		bytes += len(k) + recordOverhead
	}
	if bytes > l.BatchBytes {
		return fmt.Errorf("commit group %d: %d bytes, at most %d: %w", b.Group, bytes, l.BatchBytes, ErrTooBig)
	}
	return nil
}

func checkKey(k []byte, l Limits) error {
	if len(k) == 0 {
		return fmt.Errorf("empty key")
	}
	if len(k) > l.KeyBytes {
		return fmt.Errorf("key of %d bytes, at most %d: %w", len(k), l.KeyBytes, ErrTooBig)
	}
	return nil
}

// CheckGroup verifies that group may still be written to.
func CheckGroup(group, last, first uint64) error {
	if group <= last || group < first {
		return fmt.Errorf("group %d: it is spent, the last one is %d and the first free one was %d", group, last, first)
	}
	return nil
}

// Made returns what PutMade needs to put parts that are there already.
func Made(parts [][]byte) (sizes []int, made func(i int, id ID) []byte) {
	sizes = make([]int, len(parts))
	for i, p := range parts {
		sizes[i] = len(p)
	}
	return sizes, func(i int, _ ID) []byte { return parts[i] }
}

// CheckSizes verifies what PutMade gets.
func CheckSizes(group, last, first uint64, sizes []int, l Limits) error {
	if err := CheckGroup(group, last, first); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	for i, n := range sizes {
		if n == 0 {
			return fmt.Errorf("put in group %d: part %d is empty", group, i)
		}
		if n > l.ObjectBytes {
			return fmt.Errorf("put in group %d: part %d of %d bytes, at most %d: %w", group, i, n, l.ObjectBytes, ErrTooBig)
		}
	}
	return nil
}
