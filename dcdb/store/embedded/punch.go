package embedded

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"dcfs/dcdb/store"
)

// erase gives back the space of objects in segments. Neighbours are punched
// together: a call costs 75 us and more, whatever its length.
func (s *segments) erase(ids []store.ID) error {
	bySegment := map[uint32][]extent{}
	for _, id := range ids {
		bySegment[id.Seg] = append(bySegment[id.Seg], extent{id.Off, blocksFor(int(id.Len))})
	}
	for num, es := range bySegment {
		if err := s.eraseIn(num, mergeExtents(es)); err != nil {
			return fmt.Errorf("erase in %s: %w", segmentName(num), err)
		}
	}
	return nil
}

func (s *segments) eraseIn(num uint32, es []extent) error {
	f, err := s.files.get(num)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range es {
		if err = punch(f.File, e); err != nil {
			break
		}
	}
	// A hole that a power cut fills again is an object that nobody knows: by
	// then the records don't say any more that it was to be erased.
	if err == nil {
		err = unix.Fdatasync(int(f.Fd()))
	}
	s.files.put(f)
	if err == nil {
		s.removeIfEmpty(num)
	}
	return err
}

// punch makes a hole of e.
func punch(f *os.File, e extent) error {
	for {
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
			int64(e.off)*store.BlockBytes, int64(e.n)*store.BlockBytes)
		if err != unix.EINTR {
			return err
		}
	}
}

func sortSegs(segs []segState) {
	slices.SortFunc(segs, func(a, b segState) int { return int(int64(a.num) - int64(b.num)) })
}
