package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// volume is a mounted volume of a workload's own.
type volume struct {
	c          *config
	store, mnt string
	flags      []string // of dcfs mount
}

// newVolume makes and mounts a volume.
func (c *config) newVolume(name string, flags ...string) (*volume, error) {
	v := &volume{c, filepath.Join(c.dir, name, "store"), filepath.Join(c.dir, name, "mnt"), flags}
	if err := os.MkdirAll(v.mnt, 0o755); err != nil {
		return nil, err
	}
	return v, v.mount()
}

func (v *volume) command(args ...string) ([]byte, error) {
	cmd := exec.Command(v.c.dcfs, args...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("dcfs %s: %s", args[0], exit.Stderr)
	}
	return out, err
}

func (v *volume) mount() error {
	_, err := v.command(append(append([]string{"mount"}, v.flags...), v.store, v.mnt)...)
	return err
}

func (v *volume) umount() error {
	_, err := v.command("umount", v.mnt)
	return err
}

// remove unmounts the volume and deletes it.
func (v *volume) remove() error {
	if err := v.umount(); err != nil {
		v.command("umount", "--lazy", v.mnt)
		return err
	}
	return os.RemoveAll(filepath.Dir(v.store))
}

// counters returns what passed between the volume and its store so far.
func (v *volume) counters() (map[string]int64, error) {
	out, err := v.command("status", "--json", v.store)
	if err != nil {
		return nil, err
	}
	var st struct{ Counters map[string]int64 }
	return st.Counters, json.Unmarshal(out, &st)
}

// written returns what the store was given while fn ran: records, objects,
// and the bytes of both.
func (v *volume) written(fn func() error) (records, objects, bytes float64, err error) {
	before, err := v.counters()
	if err != nil {
		return 0, 0, 0, err
	}
	if err := fn(); err != nil {
		return 0, 0, 0, err
	}
	after, err := v.counters()
	if err != nil {
		return 0, 0, 0, err
	}
	diff := func(name string) float64 { return float64(after[name] - before[name]) }
	return diff("recordsPut") + diff("recordsDeleted"), diff("objectsPut"), diff("recordBytesPut") + diff("objectBytesPut"), nil
}

// diskBytes returns how much disk space the store takes.
func (v *volume) diskBytes() (float64, error) {
	var blocks int64
	err := filepath.WalkDir(v.store, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err == nil { // else it went meanwhile
			blocks += st.Blocks
		}
		return nil
	})
	return float64(blocks * 512), err
}

// sync makes the volume durable, which puts all that is pending into the
// store.
func (v *volume) sync() error {
	f, err := os.Open(v.mnt)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
