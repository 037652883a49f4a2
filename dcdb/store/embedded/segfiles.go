package embedded

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"dcfs/dcdb/store"
)

// openSegments is how many segments are kept open for reading: the descriptors
// of a 256 GiB volume.
const openSegments = 256

// segmentFiles opens segments to read and punch, and keeps some of them open.
type segmentFiles struct {
	dir string // immutable

	mu   sync.Mutex
	open map[uint32]*segmentFile // guarded by mu
}

type segmentFile struct {
	*os.File
	num     uint32
	users   int  // guarded by segmentFiles.mu
	dropped bool // guarded by segmentFiles.mu; closed by its last user
}

// get returns a segment's file, ErrNotFound if it does not exist. put gives
// it back.
func (c *segmentFiles) get(num uint32) (*segmentFile, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.open[num]; f != nil {
		f.users++
		return f, nil
	}
	// With the lock held: opening is quick, and nobody opens a file twice.
	osf, err := os.OpenFile(filepath.Join(c.dir, segmentName(num)), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, store.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	f := &segmentFile{File: osf, num: num, users: 1}
	c.open[num] = f
	c.evictLocked()
	return f, nil
}

func (c *segmentFiles) evictLocked() {
	for num, f := range c.open { // in random order, which is as good as any
		if len(c.open) <= openSegments {
			return
		}
		if f.users == 0 {
			f.Close()
			delete(c.open, num)
		}
	}
}

func (c *segmentFiles) put(f *segmentFile) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.users--
	if f.dropped && f.users == 0 {
		f.Close()
	}
}

// drop forgets a removed segment.
func (c *segmentFiles) drop(num uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.open[num]
	if f == nil {
		return
	}
	delete(c.open, num)
	f.dropped = true
	if f.users == 0 {
		f.Close()
	}
}

func (c *segmentFiles) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.open {
		f.Close()
	}
	c.open = map[uint32]*segmentFile{}
}
