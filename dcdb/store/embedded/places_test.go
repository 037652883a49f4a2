package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"dcfs/dcdb/store"
)

// mountOf mounts a file system of a kind, of some 400 MiB.
func mountOf(t *testing.T, kind string) string {
	t.Helper()
	dir := t.TempDir()
	mount := func(source, at, kind, data string) {
		t.Helper()
		if err := unix.Mount(source, at, kind, 0, data); err != nil {
			t.Skipf("SKIPPED: mounting %s: %v", kind, err)
		}
		t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
	}
	switch kind {
	case "tmpfs":
		mount("tmpfs", dir, "tmpfs", "size=400m")
	case "overlay":
		below := t.TempDir()
		mount("tmpfs", below, "tmpfs", "size=400m")
		for _, sub := range []string{"lower", "upper", "work"} {
			must(0, os.Mkdir(filepath.Join(below, sub), 0o700))(t)
		}
		mount("overlay", dir, "overlay", fmt.Sprintf("lowerdir=%s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", below))
	default:
		image := filepath.Join(t.TempDir(), "image")
		must(0, os.WriteFile(image, nil, 0o600))(t)
		must(0, os.Truncate(image, 400<<20))(t)
		if out, err := exec.Command("mkfs."+kind, "-q", image).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED: mkfs.%s: %v: %s", kind, err, out)
		}
		if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED: mounting %s: %v: %s", kind, err, out)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	}
	return dir
}

// TestFileSystems has stores on file systems that punch holes, allocate and map
// files each in their own way: the space of what is deleted comes back on all.
func TestFileSystems(t *testing.T) {
	for _, kind := range []string{"tmpfs", "overlay", "ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			o := small(t)
			o.ReserveBytes = 32 << 20
			dir := filepath.Join(mountOf(t, kind), "store")
			s := must(Create(dir, o))(t)
			commit(t, s, 1, "first", "1")
			barrier(t, s)
			before := must(s.Usage(ctx))(t)
			var ids []store.ID
			for g := uint64(2); g < 50; g++ {
				ids = append(ids, must(s.Put(ctx, g, store.KindContent, [][]byte{data(byte(g), 1<<20), data(byte(g), 3000)}))(t)...)
				commit(t, s, g, fmt.Sprint("key", g), string(data(byte(g), 2000)))
			}
			barrier(t, s)
			if lines, _ := scrubbed(t, s); lines != "" {
				t.Errorf("scrub: %s", lines)
			}
			if err := s.Delete(ctx, ids[2:]); err != nil {
				t.Fatal(err)
			}
			commit(t, s, 50, "last", "50")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = must(Open(dir, o))(t)
			defer s.Close()
			p := make([]byte, ids[0].Len)
			if err := s.Read(ctx, ids[0], store.KindContent, 0, p); err != nil || p[1] != data(2, 2)[1] {
				t.Errorf("read: %v", err)
			}
			if vs := must(s.Get(ctx, []byte("first"), []byte("key49"), []byte("last")))(t); string(vs[0]) != "1" || string(vs[1]) != string(data(49, 2000)) || string(vs[2]) != "50" {
				t.Errorf("records: %.20q", vs)
			}
			after := must(s.Usage(ctx))(t)
			if after.UsedBytes > before.UsedBytes+16<<20 {
				t.Errorf("%d MiB used before, %d MiB when 48 MiB were written and deleted", before.UsedBytes>>20, after.UsedBytes>>20)
			}
		})
	}
}

// TestCopyOfAnOpenStore copies a store file by file while it is written to. The copy
// is refused, or it is the store after some group, and a scrub finds it whole.
func TestCopyOfAnOpenStore(t *testing.T) {
	dir := t.TempDir()
	s := must(Create(dir, small(t)))(t)
	defer s.Close()
	var writer sync.WaitGroup
	stop := make(chan struct{})
	writer.Go(func() {
		for g := uint64(1); ; g++ {
			select {
			case <-stop:
				return
			default:
			}
			b := &store.Batch{Group: g, Fence: s.Fence()}
			for k := range 20 {
				b.Puts = append(b.Puts, store.Record{Key: fmt.Append(nil, "key", k), Value: fmt.Append(data(byte(k), 5000), g)})
			}
			_, err := s.Put(ctx, g, store.KindContent, [][]byte{data(byte(g), 30_000)})
			if err == nil {
				err = s.Commit(ctx, b)
			}
			if err == nil {
				err = s.Barrier(ctx)
			}
			if err != nil {
				t.Errorf("group %d: %v", g, err)
				return
			}
		}
	})
	opened, refused := 0, 0
	for range 8 {
		copied := filepath.Join(t.TempDir(), "copy")
		if err := copyAnyhow(dir, copied); err != nil {
			t.Fatal(err)
		}
		c, err := Open(copied, small(t))
		if err != nil {
			refused++
			if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrNoVolume) {
				t.Errorf("open of the copy: %v", err)
			}
			continue
		}
		opened++
		groups := map[string]bool{}
		for k := range 20 {
			vs, err := c.Get(ctx, fmt.Append(nil, "key", k))
			if err != nil {
				t.Errorf("key%d: %v", k, err)
			} else if vs[0] != nil {
				groups[string(vs[0][5000:])] = true
			} else {
				groups["none"] = true
			}
		}
		if len(groups) != 1 || !groups["none"] && !groups[fmt.Sprint(c.LastGroup())] {
			t.Errorf("of groups %v of a store at group %d", groups, c.LastGroup())
		}
		if lines, _ := scrubbed(t, c); strings.Contains(lines, "record") {
			t.Errorf("scrub: %s", lines)
		}
		c.Close()
	}
	close(stop)
	writer.Wait()
	t.Logf("%d copies opened, %d were refused", opened, refused)
}

// copyAnyhow copies the files that there are, in any order, as far as they still
// are when their turn comes.
func copyAnyhow(from, to string) error {
	var names []string
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			names = append(names, path)
		}
		return nil // gone meanwhile
	})
	if err != nil {
		return err
	}
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		rel, _ := filepath.Rel(from, name)
		copied := filepath.Join(to, rel)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(copied), 0o700)
		}
		if err == nil {
			err = os.WriteFile(copied, b, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
