package embedded

import (
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Many look at the space at the moment in which others fill the disk. None of
// them may be told what was free before the ballast was released.
func TestEverybodySeesTheSpaceOfAReleasedBallast(t *testing.T) {
	disk := smallDisk(t, 64)
	o := small(t)
	o.ReserveBytes = 24 << 20
	s := must(Create(filepath.Join(disk, "store"), o))(t)
	defer s.Close()
	fillDisk(t, disk, 1<<20)
	var all sync.WaitGroup
	begin := time.Now().Add(5 * time.Millisecond)
	for range 16 {
		all.Go(func() {
			time.Sleep(time.Until(begin))
			if _, free, _, err := s.space.look(0); err != nil || free < 20<<20 {
				t.Errorf("%d MiB are free, %v", free>>20, err)
			}
		})
	}
	all.Wait()
}
