package snap

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
