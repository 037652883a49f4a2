package snap

import "time"

// places says which fork lists which others, and under what names.
type places map[uint64]map[string]*fork

func (p places) put(f *fork) {
	if p[f.place] == nil {
		p[f.place] = map[string]*fork{}
	}
	p[f.place][f.name] = f
}

func (p places) drop(f *fork) {
	delete(p[f.place], f.name)
	if len(p[f.place]) == 0 {
		delete(p, f.place)
	}
}

// place is where a fork is listed.
type place struct {
	in   uint64
	name string
}

// touch notes when something came into or out of a listing.
func (f *fork) touch(d Door, t time.Time) {
	if t.After(f.touched[d]) {
		f.touched[d] = t
	}
}

// touchListed notes when all that is listed came into being.
func (v *Volume) touchListed() {
	for _, f := range v.forks {
		if in := v.forks[f.place]; in != nil {
			in.touch(DoorForks, f.created)
		}
		for _, sn := range f.names {
			f.touch(DoorSnapshots, sn.created)
		}
	}
}

// Listed returns when what a door lists changed last. Renames and deletions
// before the volume was opened are not known any more.
func (w *View) Listed(d Door) time.Time {
	t := w.Created()
	if w.snap != nil {
		return t
	}
	w.v.space.Locked(func() {
		if l := w.fork.touched[d]; l.After(t) {
			t = l
		}
	})
	return t
}
