package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// filesPerDir is how the volumes of growth are laid out.
const filesPerDir = 1000

// growth measures snapshots, forks and the first change after a snapshot on
// volumes of several sizes.
func growth(c *config) (*table, error) {
	t := &table{}
	for _, n := range c.files {
		t.Columns = append(t.Columns, fmt.Sprintf("%d files", n))
		v, err := c.newVolume(fmt.Sprint("growth", n))
		if err != nil {
			return nil, err
		}
		err = v.growth(t, n)
		if rerr := v.remove(); err == nil {
			err = rerr
		}
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (v *volume) file(i int) string {
	return filepath.Join(v.mnt, fmt.Sprintf("d%d", i/filesPerDir), fmt.Sprintf("f%d", i))
}

// fill makes n small files.
func (v *volume) fill(n int) error {
	for i := range n {
		if i%filesPerDir == 0 {
			if err := os.Mkdir(filepath.Dir(v.file(i)), 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(v.file(i), fmt.Appendf(nil, "this is file %d\n", i), 0o644); err != nil {
			return err
		}
	}
	return v.sync()
}

func (v *volume) growth(t *table, n int) error {
	begun := time.Now()
	if err := v.fill(n); err != nil {
		return err
	}
	t.add("filling it", figureOf("files/s", []float64{float64(n) / time.Since(begun).Seconds()}))
	// A mount that nothing has happened in: what comes then is the snapshot's.
	if err := v.umount(); err != nil {
		return err
	}
	if err := v.mount(); err != nil {
		return err
	}
	for _, dir := range []struct{ dir, what string }{{".snapshots", "snapshot"}, {".forks", "fork"}} {
		if err := v.growthOf(t, dir.dir, dir.what); err != nil {
			return err
		}
	}
	return v.firstChange(t, n)
}

// growthOf measures mkdir in a virtual directory of a volume that is at rest.
func (v *volume) growthOf(t *table, dir, what string) error {
	var times []time.Duration
	disk, err := v.diskBytes()
	if err != nil {
		return err
	}
	_, _, bytes, err := v.written(func() error {
		for i := range v.c.rounds {
			begun := time.Now()
			if err := os.Mkdir(filepath.Join(v.mnt, dir, fmt.Sprint("bench", i)), 0o755); err != nil {
				return err
			}
			times = append(times, time.Since(begun))
		}
		return v.sync()
	})
	if err != nil {
		return err
	}
	diskAfter, err := v.diskBytes()
	if err != nil {
		return err
	}
	rounds := float64(v.c.rounds)
	t.add(what, timesOf(times))
	t.add(what+": bytes to the store, each", figureOf("bytes", []float64{bytes / rounds}))
	t.add(what+": growth of the disk space, each", figureOf("bytes", []float64{(diskAfter - disk) / rounds}))
	return nil
}

// firstChange measures what the first and the second change of a file after a
// snapshot write.
func (v *volume) firstChange(t *table, n int) error {
	type changes struct{ records, objects, bytes, ms []float64 }
	var first, second changes
	for i := range v.c.rounds {
		if err := os.Mkdir(filepath.Join(v.mnt, ".snapshots", fmt.Sprint("change", i)), 0o755); err != nil {
			return err
		}
		file := v.file(i * n / v.c.rounds)
		for _, c := range []*changes{&first, &second} {
			var took time.Duration
			records, objects, bytes, err := v.written(func() error {
				begun := time.Now()
				defer func() { took = time.Since(begun) }()
				return change(file)
			})
			if err != nil {
				return err
			}
			c.records, c.objects, c.bytes = append(c.records, records), append(c.objects, objects), append(c.bytes, bytes)
			c.ms = append(c.ms, float64(took)/float64(time.Millisecond))
		}
	}
	for _, c := range []struct {
		name string
		*changes
	}{{"first change after it, with fsync", &first}, {"second change", &second}} {
		t.add(c.name, figureOf("ms", c.ms))
		t.add(c.name+": records", figureOf("records", c.records))
		t.add(c.name+": objects", figureOf("objects", c.objects))
		t.add(c.name+": bytes to the store", figureOf("bytes", c.bytes))
	}
	return nil
}

// change overwrites the first bytes of a file and makes that durable.
func change(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("THIS"), 0); err != nil {
		return err
	}
	return f.Sync()
}
