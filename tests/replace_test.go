package tests

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// crashReplacer replaces one file again and again as editors do: it writes another
// one beside it and renames that over it. After any crash the file is one of them,
// whole, whatever was synced; ext4 calls that auto_da_alloc.
type crashReplacer struct {
	name              string // of the directory
	syncFile, syncDir bool

	base    int       // the version that the round began with
	renames []crashOp // of versions base+1 and so on; names unused
	tried   int       // the last version that was begun
	acked   int       // the last version that an fsync has promised
}

const replaced, replacement = "doc", "doc.new"

// newReplacers makes one for each way to be careful, with a first version, and
// leaves it to the caller to have that durable.
func newReplacers(t *testing.T, dir string) []*crashReplacer {
	t.Helper()
	var all []*crashReplacer
	for i := range 4 {
		p := &crashReplacer{name: fmt.Sprint("r", i), syncFile: i&1 != 0, syncDir: i&2 != 0}
		must(t, os.Mkdir(filepath.Join(dir, p.name), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, p.name, replaced), p.version(0), 0o644))
		all = append(all, p)
	}
	return all
}

// version returns the content of a version, which says which one it is.
func (p *crashReplacer) version(k int) []byte {
	line := fmt.Appendf(nil, "%s version %d\n", p.name, k)
	return bytes.Repeat(line, 1+k*7919%9000)
}

// replace makes the next version, and reports that the mount is still alive.
func (r *crashRound) replace(t *testing.T, p *crashReplacer) bool {
	dir := filepath.Join(r.dir, p.name)
	k := p.base + len(p.renames) + 1
	p.tried = k
	var began int64
	err := func() error {
		f, err := os.Create(filepath.Join(dir, replacement))
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Write(p.version(k)); err != nil {
			return err
		}
		if p.syncFile {
			if err := f.Sync(); err != nil {
				return err
			}
			p.acked = k - 1
		}
		if err := f.Close(); err != nil {
			return err
		}
		began = r.clock.Add(1)
		return os.Rename(filepath.Join(dir, replacement), filepath.Join(dir, replaced))
	}()
	if err != nil {
		r.failed(t, "replace "+dir, err)
		return false
	}
	p.renames = append(p.renames, crashOp{began: began, ended: r.clock.Add(1)})
	if p.syncDir {
		if err := syncPath(dir); err != nil {
			r.failed(t, "fsync "+dir, err)
			return false
		}
		p.acked = k
	}
	return true
}

// verify wants a view to show a version, whole: none older than what had been
// renamed when it was asked for, none renamed after it was done.
func (p *crashReplacer) verify(t *testing.T, what, root string, asked, done int64) {
	t.Helper()
	k, err := p.found(root)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	least, most := p.base, p.tried
	for i, o := range p.renames {
		if o.ended < asked {
			least = p.base + i + 1
		}
		if o.began > done {
			most = min(most, p.base+i)
		}
	}
	if k < least || k > most {
		t.Errorf("%s: %s/%s is version %d, want %d to %d", what, p.name, replaced, k, least, most)
	}
}

// found returns which version a view shows.
func (p *crashReplacer) found(root string) (k int, err error) {
	path := filepath.Join(root, p.name, replaced)
	got, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	if _, err := fmt.Sscanf(string(got[:min(len(got), 64)]), p.name+" version %d\n", &k); err != nil || !bytes.Equal(got, p.version(k)) {
		return 0, fmt.Errorf("%s: %d bytes that begin with %.40q are no version", path, len(got), got)
	}
	return k, nil
}

// again looks at what was acknowledged to p by itself, begins another round with
// what is there, and returns how many versions outlived this one.
func (p *crashReplacer) again(t *testing.T, dir string) int {
	t.Helper()
	k, err := p.found(dir)
	if err != nil {
		t.Error(err)
		return 0
	}
	if k < p.acked {
		t.Errorf("%s/%s is version %d, but version %d was synced", p.name, replaced, k, p.acked)
	}
	n := k - p.base
	if err := os.Remove(filepath.Join(dir, p.name, replacement)); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	p.base, p.renames, p.tried, p.acked = k, nil, k, 0
	return n
}
