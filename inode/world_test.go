package inode

import (
	"fmt"
	"maps"
	"slices"
	"sort"

	"dcfs/dcdb"
	"dcfs/snap"
)

// line is a fork by the model: its live view, its snapshots and the forks
// that it lists.
type line struct {
	name  string
	live  *refFS
	snaps []*refSnap // by time
	forks []*line
	given map[uint64]bool // inode numbers ever given out; a crash takes none back
	view  *snap.View
}

type refSnap struct {
	name string
	fs   *refFS
	view *snap.View
}

// clone copies the line as deep as the model goes.
func (l *line) clone() *line {
	c := &line{name: l.name, live: l.live.clone(), given: l.given, view: l.view}
	for _, s := range l.snaps {
		c.snaps = append(c.snaps, &refSnap{s.name, s.fs, s.view}) // snapshots do not change
	}
	for _, f := range l.forks {
		c.forks = append(c.forks, f.clone())
	}
	return c
}

// all returns l and every line below it.
func (l *line) all() []*line {
	lines := []*line{l}
	for _, f := range l.forks {
		lines = append(lines, f.all()...)
	}
	return lines
}

func (l *line) fork(name string) *line {
	for _, f := range l.forks {
		if f.name == name {
			return f
		}
	}
	return nil
}

func (l *line) snapshot(name string) *refSnap {
	for _, s := range l.snaps {
		if s.name == name {
			return s
		}
	}
	return nil
}

// branch returns the fork that is made of a view of l.
func (l *line) branch(name string, of *refFS) *line {
	return &line{name: name, live: of.clone(), given: maps.Clone(l.given)}
}

// bind finds the views of l and all below it in a volume that was opened
// again, and compares the listings.
func (l *line) bind(vol *snap.Volume, view *snap.View) error {
	l.view = view
	if got, want := viewNames(vol.Snapshots(view)), refSnapNames(l.snaps); !slices.Equal(got, want) {
		return fmt.Errorf("snapshots of %q: got %q, want %q", l.name, got, want)
	}
	for _, s := range l.snaps {
		v, err := vol.Snapshot(view, s.name)
		if err != nil {
			return fmt.Errorf("snapshot %q of %q: %w", s.name, l.name, err)
		}
		s.view = v
	}
	got, want := len(vol.Forks(view)), len(l.forks)
	if got != want {
		return fmt.Errorf("%q lists %d forks, want %d", l.name, got, want)
	}
	for _, f := range l.forks {
		v, err := vol.Fork(view, f.name)
		if err != nil {
			return fmt.Errorf("fork %q of %q: %w", f.name, l.name, err)
		}
		if err := f.bind(vol, v); err != nil {
			return err
		}
	}
	return nil
}

func viewNames(views []*snap.View) []string {
	var names []string
	for _, v := range views {
		names = append(names, v.Name())
	}
	return names
}

func refSnapNames(snaps []*refSnap) []string {
	var names []string
	for _, s := range snaps {
		names = append(names, s.name)
	}
	return names
}

// dumpView writes a real view down as refFS.dump does the model's.
func dumpView(f *FS, v *snap.View) ([]string, error) {
	d := &dumper{f: f, v: v, seen: map[uint64]bool{snap.RootIno: true}, todo: []uint64{snap.RootIno}}
	if err := d.orphans(); err != nil {
		return nil, err
	}
	for len(d.todo) > 0 {
		ino := d.todo[0]
		d.todo = d.todo[1:]
		line, err := d.inode(ino)
		if err != nil {
			return nil, fmt.Errorf("inode %d: %w", ino, err)
		}
		d.lines = append(d.lines, fmt.Sprintf("%08d", ino)+line)
	}
	sort.Strings(d.lines)
	return d.lines, nil
}

type dumper struct {
	f     *FS
	v     *snap.View
	seen  map[uint64]bool
	todo  []uint64
	lines []string
	buf   [64 * refBlock]byte
}

func (d *dumper) visit(ino uint64) {
	if !d.seen[ino] {
		d.seen[ino] = true
		d.todo = append(d.todo, ino)
	}
}

func (d *dumper) orphans() error {
	frozen, err := d.f.space.Freeze(bg, d.v.Key(snap.OrphanIno))
	if err != nil {
		return err
	}
	defer frozen.Close()
	var bad error
	err = frozen.Ascend(bg, dcdb.KindDirent, "", func(_ string, val []byte) bool {
		e, err := decodeDirent(val)
		bad = err
		d.visit(e.ino)
		return err == nil
	})
	if err != nil {
		return err
	}
	return bad
}

func (d *dumper) inode(ino uint64) (string, error) {
	a, err := d.f.Getattr(bg, d.v, ino)
	if err != nil {
		return "", err
	}
	xs, err := d.xattrs(ino)
	if err != nil {
		return "", err
	}
	line := dumpAttr(a) + dumpXattrs(xs)
	switch {
	case isDir(a.Mode):
		list, err := d.listing(ino)
		return line + fmt.Sprintf(" %q", list), err
	case isReg(a.Mode):
		h, err := d.hash(ino, a.Size)
		return line + " " + h, err
	case a.Size > 0:
		text, err := d.f.Readlink(bg, d.v, ino)
		return line + fmt.Sprintf(" %q", text), err
	}
	return line, nil
}

func (d *dumper) xattrs(ino uint64) (map[string]string, error) {
	list, err := d.f.Listxattr(bg, d.v, ino)
	if err != nil {
		return nil, err
	}
	xs := map[string]string{}
	for _, name := range splitNames(list) {
		val, err := d.f.Getxattr(bg, d.v, ino, name)
		if err != nil {
			return nil, err
		}
		xs[name] = string(val)
	}
	return xs, nil
}

func (d *dumper) listing(ino uint64) ([]string, error) {
	dir, err := d.f.OpenDir(bg, d.v, ino)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var list []string
	err = dir.Read(bg, 0, func(e Dirent) bool {
		list = append(list, direntLine(e))
		if e.Name != "." && e.Name != ".." {
			d.visit(e.Ino)
		}
		return true
	})
	return list, err
}

func direntLine(e Dirent) string { return fmt.Sprintf("%s %d %o", e.Name, e.Ino, e.Mode) }

// hash reads the stretches of data that Seek finds.
func (d *dumper) hash(ino, size uint64) (string, error) {
	h := newBlockHash()
	for off := uint64(0); off < size; {
		data, err := d.f.Seek(bg, d.v, ino, off, SeekData)
		if isErr(err, ErrNXIO) {
			break
		}
		if err != nil {
			return "", err
		}
		hole, err := d.f.Seek(bg, d.v, ino, data, SeekHole)
		if err != nil {
			return "", err
		}
		if data < off || hole <= data || hole > size {
			return "", fmt.Errorf("seek from %d: data %d, hole %d, size %d", off, data, hole, size)
		}
		for off = data - data%refBlock; off < hole; {
			n, err := d.f.Read(bg, d.v, ino, d.buf[:], off)
			if err != nil || n == 0 {
				return "", fmt.Errorf("read at %d: %d, %w", off, n, err)
			}
			for i := 0; i < n; i += refBlock {
				h.add((off+uint64(i))/refBlock, d.buf[i:min(n, i+refBlock)])
			}
			off += uint64(n)
		}
	}
	return h.String(), nil
}
