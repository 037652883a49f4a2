package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// chainForks is how deep forks of forks go.
const chainForks = 100

// many measures what a volume with many snapshots and forks makes of the next
// one, against what it made of the first.
func many(c *config) (*table, error) {
	t := &table{Columns: []string{"the first", fmt.Sprintf("of %d", c.many)}}
	v, err := c.newVolume("many")
	if err != nil {
		return nil, err
	}
	err = v.many(t, c.many)
	if rerr := v.remove(); err == nil {
		err = rerr
	}
	return t, err
}

func (v *volume) many(t *table, n int) error {
	const files = 1000
	if err := v.fill(files); err != nil {
		return err
	}
	t.add("memory of the server", v.memory())
	// Something changes before each snapshot.
	snapshots, err := v.repeat(n, func(i int) error {
		return change(v.file(i % files))
	}, func(i int) error {
		return os.Mkdir(v.snapshot(i), 0o755)
	})
	if err != nil {
		return err
	}
	t.add("snapshot", v.ends(snapshots)...)
	forks, err := v.repeat(n, nil, func(i int) error { return os.Mkdir(v.fork(i), 0o755) })
	if err != nil {
		return err
	}
	t.add("fork", v.ends(forks)...)
	chain, err := v.repeat(chainForks, nil, func(i int) error { return os.Mkdir(v.chain(i), 0o755) })
	if err != nil {
		return err
	}
	t.add(fmt.Sprintf("fork of a fork, %d deep", chainForks), v.ends(chain)...)
	t.add("memory of the server", v.memory())
	if err := v.lists(t); err != nil {
		return err
	}
	for _, l := range []struct {
		name        string
		first, last string
	}{
		{"uncached lookup in a snapshot", v.snapshot(0), v.snapshot(n - 1)},
		{"uncached lookup in a fork", v.fork(0), v.fork(n - 1)},
		{fmt.Sprintf("uncached lookup in a fork of a fork, %d deep", chainForks), v.chain(0), v.chain(chainForks - 1)},
	} {
		for _, dir := range []string{l.first, l.last} {
			if err := v.uncached(t, l.name, dir); err != nil {
				return err
			}
		}
	}
	for _, l := range []struct {
		name string
		path func(int) string
		n    int
	}{{"delete a snapshot", v.snapshot, n}, {"delete a fork", v.fork, n}} {
		times, err := v.repeat(l.n, nil, func(i int) error { return os.Remove(l.path(i)) })
		if err != nil {
			return err
		}
		t.add(l.name, v.ends(times)...)
	}
	begun := time.Now()
	if _, err := v.command("gc", "--wait", v.mnt); err != nil {
		return err
	}
	t.add("gc --wait afterwards", figure{}, timesOf([]time.Duration{time.Since(begun)}))
	return nil
}

func (v *volume) snapshot(i int) string {
	return filepath.Join(v.mnt, ".snapshots", fmt.Sprintf("s%05d", i+1))
}
func (v *volume) fork(i int) string {
	return filepath.Join(v.mnt, ".forks", fmt.Sprintf("f%05d", i+1))
}
func (v *volume) chain(i int) string { return v.mnt + strings.Repeat("/.forks/c", i+1) }

// repeat does something n times, each time after something that is not measured.
func (v *volume) repeat(n int, before, fn func(i int) error) ([]time.Duration, error) {
	times := make([]time.Duration, 0, n)
	for i := range n {
		if before != nil {
			if err := before(i); err != nil {
				return nil, err
			}
		}
		begun := time.Now()
		if err := fn(i); err != nil {
			return nil, err
		}
		times = append(times, time.Since(begun))
	}
	return times, nil
}

// ends are the first and the last times of many.
func (v *volume) ends(times []time.Duration) []figure {
	k := min(v.c.rounds, len(times)/2)
	return []figure{timesOf(times[:k]), timesOf(times[len(times)-k:])}
}

// lists measures what lists cost that have all there is.
func (v *volume) lists(t *table) error {
	for _, l := range []struct {
		name string
		list func() error
	}{
		{"ls .snapshots", func() error { return list(filepath.Join(v.mnt, ".snapshots")) }},
		{"ls .forks", func() error { return list(filepath.Join(v.mnt, ".forks")) }},
		{"dcfs snapshot list --names", func() error { _, err := v.command("snapshot", "list", "--names", v.mnt); return err }},
		{"dcfs snapshot list, for the first time", func() error { _, err := v.command("snapshot", "list", v.mnt); return err }},
		{"dcfs snapshot list, again", func() error { _, err := v.command("snapshot", "list", v.mnt); return err }},
		{"dcfs fork list --names", func() error { _, err := v.command("fork", "list", "--names", v.mnt); return err }},
		{"dcfs fork list", func() error { _, err := v.command("fork", "list", v.mnt); return err }},
	} {
		begun := time.Now()
		if err := l.list(); err != nil {
			return err
		}
		t.add(l.name, figure{}, timesOf([]time.Duration{time.Since(begun)}))
	}
	return nil
}

func list(dir string) error {
	_, err := os.ReadDir(dir)
	return err
}

// uncached measures a stat of an old file in a view, just after a mount.
func (v *volume) uncached(t *table, name, dir string) error {
	var times []time.Duration
	for i := range v.c.rounds {
		if err := v.umount(); err != nil {
			return err
		}
		if err := v.mount(); err != nil {
			return err
		}
		path := filepath.Join(dir, strings.TrimPrefix(v.file(i), v.mnt))
		begun := time.Now()
		if _, err := os.Stat(path); err != nil {
			return err
		}
		times = append(times, time.Since(begun))
	}
	t.add(name, timesOf(times))
	return nil
}

// memory is what the server has in memory.
func (v *volume) memory() figure {
	var st struct{ PID int }
	out, err := v.command("status", "--json", v.store)
	if err != nil || json.Unmarshal(out, &st) != nil {
		return figure{}
	}
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", st.PID))
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "RssAnon:" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			return figureOf("MiB", []float64{kib / 1024})
		}
	}
	return figure{}
}
