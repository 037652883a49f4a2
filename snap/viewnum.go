package snap

import (
	"context"
	"errors"

	"dcfs/dcdb"
	"dcfs/dcdb/store"
)

// maxView is the highest view number: 23 bits above an inode number's 40 make a
// positive 64-bit number.
const maxView = 1<<23 - 1

// errViews: as many views as there are numbers.
var errViews = errors.New("too many snapshots and forks")

// viewsUnused is how many numbers rest before the first of them is given again.
// What a user's backup or index remembers of a deleted view's inode numbers is
// then long out of date.
const viewsUnused = 1 << 14

// viewNumbers are the numbers that deleted views gave back, the longest unused
// first. They are given again when viewsUnused of them rest, or no fresh one is
// left.
type viewNumbers struct {
	queue []freeView
	seq   uint64
}

type freeView struct {
	seq    uint64
	number uint32
}

func (q *viewNumbers) load(ctx context.Context, st store.Store) error {
	return scan(ctx, st, key(keyViews), func(k, val []byte) error {
		n, err := keyNums(k, 1)
		if err != nil {
			return err
		}
		r := newReader(val)
		q.queue = append(q.queue, freeView{n[0], r.u32()})
		q.seq = n[0] + 1
		return r.end()
	})
}

// takeView returns a view number for a new view.
func (v *Volume) takeView(m *dcdb.Meta) (uint32, error) {
	if v.nextView <= maxView && len(v.views.queue) < viewsUnused {
		v.nextView++
		v.putVolume(m)
		return v.nextView - 1, nil
	}
	if len(v.views.queue) == 0 {
		return 0, errViews
	}
	f := v.views.queue[0]
	v.views.queue = v.views.queue[1:]
	m.Delete(key(keyViews, f.seq))
	return f.number, nil
}

// giveView takes the number of a deleted view back. Main's is never given again.
func (v *Volume) giveView(m *dcdb.Meta, number uint32) {
	if number == 0 {
		return
	}
	f := freeView{v.views.seq, number}
	v.views.seq++
	v.views.queue = append(v.views.queue, f)
	m.Put(key(keyViews, f.seq), encode(uint64(number)))
}
