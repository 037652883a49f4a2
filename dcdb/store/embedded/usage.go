package embedded

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"dcfs/dcdb/store"
)

// usageFor is how long a count of the store's blocks is good for.
const usageFor = time.Second

// usageCache remembers the blocks that the store takes: those counted last, and
// those of objects put since.
type usageCache struct {
	mu   sync.Mutex
	at   time.Time // guarded by mu; its monotonic reading counts
	used uint64    // guarded by mu
}

// Usage implements store.Store.
func (s *Store) Usage(ctx context.Context) (store.Usage, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return store.Usage{}, err
	}
	defer leave()
	total, free, good, err := s.space.look(0)
	if err != nil {
		return store.Usage{}, err
	}
	u := store.Usage{TotalBytes: total, UsedBytes: s.usage.get(s.dir)}
	if good && free > s.space.margin() {
		u.FreeBytes = free - s.space.margin()
	}
	return u, nil
}

func (c *usageCache) get(dir string) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); c.at.IsZero() || now.Sub(c.at) > usageFor {
		c.used = diskUsage(dir)
		c.at = now
	}
	return c.used
}

// forget has the next get count anew.
func (c *usageCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = time.Time{}
}

// add counts what was written since the last count.
func (c *usageCache) add(bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used += uint64(bytes)
}

// diskUsage sums up the blocks of all files below dir but the ballast, which
// is not the volume's. Files that go away meanwhile don't count.
func diskUsage(dir string) (bytes uint64) {
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() == ballastName {
			return nil
		}
		if info, err := d.Info(); err == nil {
			bytes += uint64(blocksBytes(info))
		}
		return nil
	})
	return bytes
}

// blocksBytes is what a file takes on the disk: Badger's files are sparse, and
// segments have holes.
func blocksBytes(info os.FileInfo) int64 {
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}
