package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	peerFiles = 1000 // of each small task
	heavyEach = 5    // rounds for one, the last, of the tasks that take seconds
)

// peer is a file system to measure, as a directory.
type peer struct {
	name string
	dir  string
	end  func() error
	old  string // what the last round left, removed before the next
}

// peers measures dcfs, with its own transport and with go-fuse's, beside
// go-fuse's loopback example on the same disk, and the disk itself. The peers
// take turns, so that what else the machine does hits all alike; the last
// columns are ratios of one round.
func peers(c *config) (t *table, err error) {
	all, err := c.newPeers()
	defer func() {
		for _, p := range all {
			err = errors.Join(err, p.end())
		}
	}()
	if err != nil {
		return nil, err
	}
	tarball := filepath.Join(c.dir, "src.tar")
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env GOROOT: %w", err)
	}
	if out, err := exec.Command("tar", "-C", filepath.Join(strings.TrimSpace(string(root)), "src"), "-cf", tarball, ".").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("tar: %v: %s", err, out)
	}
	t = &table{}
	for _, p := range all {
		t.Columns = append(t.Columns, p.name)
	}
	ratios := [][2]int{{1, 0}, {2, 0}, {3, 0}}
	for _, r := range ratios {
		t.Columns = append(t.Columns, fmt.Sprintf("%s / %s", all[r[0]].name, all[r[1]].name))
	}
	tasks := peerTasks(tarball)
	times := make([][][]float64, len(tasks)) // by task, peer and round
	for i := range times {
		times[i] = make([][]float64, len(all))
	}
	for round := range c.rounds {
		for k := range all {
			i := (round + k) % len(all)
			if err := all[i].round(round, tasks, func(task int, d time.Duration) {
				times[task][i] = append(times[task][i], float64(d)/float64(time.Millisecond))
			}); err != nil {
				return nil, fmt.Errorf("%s: %w", all[i].name, err)
			}
		}
	}
	for i, task := range tasks {
		var fs []figure
		for k := range all {
			fs = append(fs, figureOf("ms", times[i][k]))
		}
		for _, r := range ratios {
			var v []float64
			for n := range times[i][r[0]] {
				v = append(v, times[i][r[0]][n]/times[i][r[1]][n])
			}
			fs = append(fs, figureOf("x", v))
		}
		t.add(task.name, fs...)
	}
	return t, nil
}

// newPeers makes the peers. Those it returns must be ended, also after an error.
func (c *config) newPeers() (all []*peer, err error) {
	for _, o := range []struct{ name, transport string }{{"dcfs wire", "wire"}, {"dcfs", "gofuse"}} {
		v, err := c.newVolume("peer-"+o.transport, "-o", "transport="+o.transport)
		if err != nil {
			return all, err
		}
		all = append(all, &peer{name: o.name, dir: v.mnt, end: v.remove})
	}
	loop, err := c.loopback()
	if err != nil {
		return all, err
	}
	native := filepath.Join(c.dir, "native")
	return append(all, loop, &peer{name: "native", dir: native, end: func() error { return nil }}), os.Mkdir(native, 0o755)
}

// loopback builds and mounts go-fuse's example.
func (c *config) loopback() (*peer, error) {
	bin, base := filepath.Join(c.dir, "loopback"), filepath.Join(c.dir, "peer-loopback")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/hanwen/go-fuse/v2/example/loopback").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building go-fuse's loopback: %v\n%s", err, out)
	}
	mnt, orig := filepath.Join(base, "mnt"), filepath.Join(base, "orig")
	if err := errors.Join(os.MkdirAll(mnt, 0o755), os.MkdirAll(orig, 0o755)); err != nil {
		return nil, err
	}
	var before, now syscall.Stat_t
	if err := syscall.Stat(mnt, &before); err != nil {
		return nil, err
	}
	cmd := exec.Command(bin, "-q", mnt, orig)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end := func() error {
		err := syscall.Unmount(mnt, syscall.MNT_DETACH)
		return errors.Join(err, cmd.Wait())
	}
	for range 500 {
		if syscall.Stat(mnt, &now) == nil && now.Dev != before.Dev {
			return &peer{name: "loopback", dir: mnt, end: end}, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	cmd.Process.Kill()
	return nil, errors.Join(errors.New("go-fuse's loopback does not mount"), end())
}

// peerTask is something to time in a directory of its own. What heavy tasks
// make is there for those after them.
type peerTask struct {
	name  string
	heavy bool
	run   func(dir string) error
}

func each(n int, fn func(i int) error) error {
	for i := range n {
		if err := fn(i); err != nil {
			return err
		}
	}
	return nil
}

func command(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %v: %s", name, err, out[:min(len(out), 500)])
	}
	return nil
}

func create(dir, kind string, data []byte) func(i int) error {
	return func(i int) error { return os.WriteFile(filepath.Join(dir, fmt.Sprint(kind, i)), data, 0o644) }
}

func peerTasks(tarball string) []peerTask {
	small := make([]byte, 4096)
	name := func(dir, kind string, i int) string { return filepath.Join(dir, fmt.Sprint(kind, i)) }
	per := fmt.Sprintf(" %d files", peerFiles)
	return []peerTask{
		{"create and close" + per, false, func(dir string) error { return each(peerFiles, create(dir, "a", nil)) }},
		{"the same in 4 threads", false, func(dir string) error {
			errs := make([]error, 4)
			var wg sync.WaitGroup
			for k := range errs {
				wg.Go(func() { errs[k] = each(peerFiles/4, create(dir, fmt.Sprint("t", k, "-"), nil)) })
			}
			wg.Wait()
			return errors.Join(errs...)
		}},
		{"stat" + per, false, func(dir string) error {
			return each(peerFiles, func(i int) error { _, err := os.Lstat(name(dir, "a", i)); return err })
		}},
		{"rename" + per, false, func(dir string) error {
			return each(peerFiles, func(i int) error { return os.Rename(name(dir, "a", i), name(dir, "r", i)) })
		}},
		{"unlink" + per, false, func(dir string) error {
			return each(peerFiles, func(i int) error { return os.Remove(name(dir, "r", i)) })
		}},
		{"create, write 4 KiB, close" + per, false, func(dir string) error { return each(peerFiles, create(dir, "w", small)) }},
		{"open, read 4 KiB, close" + per, false, func(dir string) error {
			buf := make([]byte, len(small))
			return each(peerFiles, func(i int) error {
				f, err := os.Open(name(dir, "w", i))
				if err != nil {
					return err
				}
				defer f.Close()
				_, err = io.ReadFull(f, buf)
				return err
			})
		}},
		{"write 64 MiB by 1 MiB", false, func(dir string) error {
			f, err := os.Create(filepath.Join(dir, "big"))
			if err != nil {
				return err
			}
			defer f.Close()
			mib := make([]byte, 1<<20)
			return each(64, func(i int) error { mib[0]++; _, err := f.Write(mib); return err })
		}},
		{"read 4 KiB of it 2,000 times, O_DIRECT, 16 threads", false, func(dir string) error { return randomReads(filepath.Join(dir, "big"), 2000, 16) }},
		{"write 16 MiB by 4 KiB", false, func(dir string) error {
			f, err := os.Create(filepath.Join(dir, "pieces"))
			if err != nil {
				return err
			}
			defer f.Close()
			return each(4096, func(i int) error { _, err := f.Write(small); return err })
		}},
		{"untar GOROOT/src", true, func(dir string) error { return command(dir, "tar", "xf", tarball) }},
		{"ls -lR", true, func(dir string) error { return command(dir, "ls", "-lR") }},
		{"git add", true, func(dir string) error {
			return errors.Join(command(dir, "git", "init", "-q"), command(dir, "git", "add", "net", "crypto", "go"))
		}},
		{"git status", true, func(dir string) error { return command(dir, "git", "status", "--short", "-uno") }},
	}
}

// randomReads reads pages of a file of 64 MiB, past the kernel's cache.
func randomReads(path string, n, threads int) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	errs := make([]error, threads)
	var wg sync.WaitGroup
	for k := range errs {
		wg.Go(func() {
			// O_DIRECT wants a buffer that begins with a page.
			buf, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
			if err != nil {
				errs[k] = err
				return
			}
			defer syscall.Munmap(buf)
			rnd := rand.New(rand.NewPCG(uint64(k), 0))
			errs[k] = each(n/threads, func(int) error {
				_, err := f.ReadAt(buf, rnd.Int64N(64<<20/4096)*4096)
				return err
			})
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// round runs each task once. Deleting what the round before left is not timed.
func (p *peer) round(n int, tasks []peerTask, took func(task int, d time.Duration)) error {
	if p.old != "" {
		if err := os.RemoveAll(p.old); err != nil {
			return err
		}
	}
	p.old = filepath.Join(p.dir, fmt.Sprint("round", n))
	for _, sub := range []string{"small", "tree"} {
		if err := os.MkdirAll(filepath.Join(p.old, sub), 0o755); err != nil {
			return err
		}
	}
	for i, task := range tasks {
		if task.heavy && n%heavyEach != heavyEach-1 {
			continue
		}
		dir := filepath.Join(p.old, "small")
		if task.heavy {
			dir = filepath.Join(p.old, "tree")
		}
		begun := time.Now()
		if err := task.run(dir); err != nil {
			return fmt.Errorf("%s: %w", strings.TrimSpace(task.name), err)
		}
		took(i, time.Since(begun))
	}
	return nil
}
