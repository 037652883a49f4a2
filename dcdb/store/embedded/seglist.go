package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"dcfs/dcdb/store"
)

// numbers returns the numbers of the segment files there are, in order.
func (s *segments) numbers() ([]uint32, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var nums []uint32
	for _, e := range entries {
		var num uint32
		if _, err := fmt.Sscanf(e.Name(), "%d.seg", &num); err == nil && e.Name() == segmentName(num) {
			nums = append(nums, num)
		}
	}
	return nums, nil
}

// list calls found for the objects in all segments, of those whose headers
// are sound.
func (s *segments) list(u store.UUID, found func(store.ID)) error {
	nums, err := s.numbers()
	if err != nil {
		return err
	}
	for _, num := range nums {
		f, err := s.files.get(num)
		if errors.Is(err, store.ErrNotFound) {
			continue // removed meanwhile
		}
		if err == nil {
			err = listFile(f, u, found)
			s.files.put(f)
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", segmentName(num), err)
		}
	}
	return nil
}

func listFile(f *segmentFile, u store.UUID, found func(store.ID)) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil // only a hole is left
		}
		if err != nil {
			return err
		}
		at = max(at, data/store.BlockBytes*store.BlockBytes)
		id, ok := objectAt(f, u, at)
		if !ok {
			at += store.BlockBytes
			continue
		}
		found(id)
		at += int64(blocksFor(int(id.Len))) * store.BlockBytes
	}
	return nil
}

// objectAt reads the header and table at a place where an object may begin.
func objectAt(f *segmentFile, u store.UUID, at int64) (store.ID, bool) {
	b := make([]byte, store.PrefixBytes(1))
	if _, err := f.ReadAt(b, at); err != nil {
		return store.ID{}, false
	}
	h, err := store.ParseHeader(b)
	if err != nil || h.UUID != u || h.ID.Seg != f.num || h.ID.Len > objectBytes ||
		int64(h.ID.Off)*store.BlockBytes != at {
		return store.ID{}, false
	}
	b = make([]byte, store.PrefixBytes(int(h.ID.Len)))
	if _, err := f.ReadAt(b, at); err != nil {
		return store.ID{}, false
	}
	_, err = store.OpenPrefix(u, h.ID, h.Kind, b)
	return h.ID, err == nil
}

// removeFile removes the file of segment num.
func (s *segments) removeFile(num uint32) error {
	s.files.drop(num)
	return os.Remove(filepath.Join(s.dir, segmentName(num)))
}
