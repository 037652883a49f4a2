package inode

import (
	"context"
	"fmt"
	"sync"
	"syscall"

	"dcfs/dcdb"
	"dcfs/snap"
)

// Dirent is an entry as Dir lists it.
type Dirent struct {
	Name   string
	Ino    uint64
	Mode   uint32 // S_IFMT bits only
	Cookie uint64 // where a read continues after this entry
}

const (
	windowEntries = 256 // read from the frozen version at a time
	pastWindows   = 8   // remembered, for cookies that come back
)

// Dir is an open directory. It lists one frozen version of the directory,
// that of the last read from the start, in the order of the names. It holds
// the version only until it has read the last of it: what is held cannot be
// erased, and programs keep directories open for days.
//
// A cookie is that of an entry and says: after this one. A read at the cookie
// of an entry that the version has continues there, wherever the cookie comes
// from: the same handle, another one, another mount. If the entry is gone,
// its name, and so its place, is known only if this handle has listed it
// lately; then the read goes on at the first name after. For a cookie that
// means nothing any more the listing begins anew: an entry may be seen twice,
// none that was there all the time is missed.
type Dir struct {
	fs   *FS        // immutable
	view *snap.View // immutable
	ino  uint64     // immutable

	// mu is held while pages are loaded and the caller's function runs: reads
	// of one handle are one after another by nature.
	mu     sync.Mutex
	frozen *dcdb.Frozen // guarded by mu; nil before the first read and when all is read
	parent uint64       // guarded by mu; where ".." leads to; 0 before the first read
	win    window       // guarded by mu; what was read last
	past   []window     // guarded by mu; what was read before that, of earlier versions too
	index  *cookieIndex // guarded by mu; of frozen, nil until it is needed
}

// window is a stretch of a listing.
type window struct {
	before  uint64   // the cookie in front of entries
	entries []Dirent // in order
	last    bool     // nothing follows
}

// after returns the position in w that follows the cookie.
func (w *window) after(cookie uint64) (int, bool) {
	if cookie == w.before {
		return 0, w.entries != nil
	}
	i, ok := w.find(cookie)
	return i + 1, ok
}

func (w *window) find(cookie uint64) (int, bool) {
	for i := range w.entries {
		if w.entries[i].Cookie == cookie {
			return i, true
		}
	}
	return 0, false
}

// OpenDir opens a directory for listing.
func (f *FS) OpenDir(ctx context.Context, v *snap.View, ino uint64) (*Dir, error) {
	err := f.read(ctx, op{"opendir", ino, ""}, v, func(tx *dcdb.Tx) error {
		_, err := getDir(tx, v, ino)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &Dir{fs: f, view: v, ino: ino}, nil
}

// Close ends the use of the handle.
func (d *Dir) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.thawLocked()
}

// Read calls fn for each entry after the cookie, until fn returns false: that
// entry is not taken, and a read at the cookie of the one before gives it
// again. Cookie 0 starts afresh, with the directory as it is now. fn may use
// the file system, but not this handle.
func (d *Dir) Read(ctx context.Context, cookie uint64, fn func(Dirent) bool) error {
	o := op{"readdir", d.ino, ""}
	if err := d.view.Err(); err != nil {
		return o.wrap(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if cookie == cookieStart {
		if err := d.fs.touchAtime(ctx, d.view, d.ino); err != nil {
			return err
		}
	}
	if cookie == cookieStart || d.parent == 0 {
		if err := d.freezeLocked(ctx); err != nil {
			return o.wrap(err)
		}
	}
	cookie, more := d.dots(cookie, fn)
	if !more {
		return nil
	}
	return o.wrap(d.listLocked(ctx, cookie, fn))
}

// freezeLocked goes over to the present version. Precondition: d.mu is held.
func (d *Dir) freezeLocked(ctx context.Context) error {
	frozen, err := d.fs.space.Freeze(ctx, d.view.Key(d.ino))
	if err != nil {
		return err
	}
	d.thawLocked()
	d.remember()
	d.frozen, d.win = frozen, window{}
	if d.parent, err = parentOf(d.ino, frozen.Attr()); err != nil {
		d.parent = d.ino // removed: there is no other place
	}
	return nil
}

// thawLocked lets go of the frozen version. Precondition: d.mu is held.
func (d *Dir) thawLocked() {
	if d.frozen != nil {
		d.frozen.Close()
		d.frozen, d.index = nil, nil
	}
}

// remember keeps the window, for a cookie of an entry that is gone later.
func (d *Dir) remember() {
	if len(d.win.entries) == 0 {
		return
	}
	if len(d.past) == pastWindows {
		d.past = append(d.past[:0], d.past[1:]...)
	}
	d.past = append(d.past, d.win)
}

// dots gives fn the two entries that every directory has, as far as they come
// after the cookie. It returns the cookie to go on at, and false if fn did
// not want more.
func (d *Dir) dots(cookie uint64, fn func(Dirent) bool) (uint64, bool) {
	if cookie == cookieStart {
		if !fn(Dirent{".", d.ino, syscall.S_IFDIR, cookieDot}) {
			return cookie, false
		}
		cookie = cookieDot
	}
	if cookie == cookieDot {
		if !fn(Dirent{"..", d.parent, syscall.S_IFDIR, cookieDotDot}) {
			return cookie, false
		}
		cookie = cookieDotDot
	}
	return cookie, true
}

// listLocked gives fn the entries after the cookie. Precondition: d.mu is
// held.
func (d *Dir) listLocked(ctx context.Context, cookie uint64, fn func(Dirent) bool) error {
	i, ok := d.win.after(cookie)
	if !ok {
		if err := d.seekLocked(ctx, cookie); err != nil {
			return err
		}
		i = 0
	}
	for {
		for ; i < len(d.win.entries); i++ {
			if !fn(d.win.entries[i]) {
				return nil
			}
		}
		if d.win.last {
			return nil
		}
		end := d.win.entries[len(d.win.entries)-1]
		if err := d.loadLocked(ctx, end.Cookie, end.Name+"\x00"); err != nil {
			return err
		}
		i = 0
	}
}

// seekLocked reads the window that follows the cookie. Precondition: d.mu is
// held.
func (d *Dir) seekLocked(ctx context.Context, cookie uint64) error {
	if d.frozen == nil {
		if err := d.freezeLocked(ctx); err != nil {
			return err
		}
	}
	from, err := d.placeLocked(ctx, cookie)
	if err != nil {
		return err
	}
	return d.loadLocked(ctx, cookie, from)
}

// loadLocked reads the window whose names are from and above, and which
// follows the cookie before. Preconditions: d.mu is held, there is a frozen
// version.
func (d *Dir) loadLocked(ctx context.Context, before uint64, from string) error {
	w := window{before: before, entries: []Dirent{}}
	err := d.ascend(ctx, from, func(e Dirent) bool {
		w.entries = append(w.entries, e)
		return len(w.entries) < windowEntries
	})
	if err != nil {
		return err
	}
	d.remember()
	d.win = w
	if d.win.last = len(w.entries) < windowEntries; d.win.last {
		d.thawLocked()
	}
	return nil
}

// ascend calls fn for the entries of the frozen version, from a name on.
func (d *Dir) ascend(ctx context.Context, from string, fn func(Dirent) bool) error {
	var bad error
	err := d.frozen.Ascend(ctx, dcdb.KindDirent, from, func(name string, val []byte) bool {
		var e dirent
		if e, bad = decodeDirent(val); bad != nil {
			bad = fmt.Errorf("directory %d, entry %q: %w", d.ino, name, bad)
			return false
		}
		return fn(Dirent{name, e.ino, e.mode, e.cookie})
	})
	if err != nil {
		return err
	}
	return bad
}

// placeLocked returns the name at which a read at the cookie continues, by
// the rule that Dir states. Precondition: d.mu is held.
func (d *Dir) placeLocked(ctx context.Context, cookie uint64) (string, error) {
	if cookie < firstCookie {
		return "", nil
	}
	for k := len(d.past) - 1; k >= 0; k-- {
		if i, ok := d.past[k].find(cookie); ok {
			return d.past[k].entries[i].Name + "\x00", nil
		}
	}
	name, ok, err := d.lookUpLocked(ctx, cookie)
	if err != nil || !ok {
		return "", err
	}
	return name + "\x00", nil
}

// lookUpLocked returns the name of the frozen version's entry that has the
// cookie. Precondition: d.mu is held.
func (d *Dir) lookUpLocked(ctx context.Context, cookie uint64) (string, bool, error) {
	if d.index == nil {
		x, err := d.indexAll(ctx)
		if err != nil {
			return "", false, err
		}
		d.index = x
	}
	from, skip, ok := d.index.find(cookie)
	if !ok {
		return "", false, nil
	}
	name := ""
	err := d.ascend(ctx, from, func(e Dirent) bool {
		name = e.Name
		skip--
		return skip >= 0
	})
	return name, true, err
}

func (d *Dir) indexAll(ctx context.Context) (*cookieIndex, error) {
	x := new(cookieIndex)
	err := d.ascend(ctx, "", func(e Dirent) bool {
		x.add(e)
		return true
	})
	x.sort()
	return x, err
}
