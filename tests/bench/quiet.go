package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A volume of quiet has --contents contents of quietBytes in large files, and a head
// and a content for each of as many small files as a tenth of that. As many as 10
// GiB have in records of 128 KiB, of less bytes: what reclaiming costs is counted
// in contents and heads.
//
// They are written anew in quietParts parts, with a snapshot before each. Deleting
// the snapshots, the oldest first, frees one part after the other; between two
// there is nothing to reclaim. So both are measured in turns of seconds, and what
// else the machine does is the same for both.
const (
	quietParts   = 20
	quietBytes   = 16 << 10
	recordBytes  = 128 << 10
	perLargeFile = 1000

	quietSettle  = 3 * time.Second        // for the disk, after a volume was filled
	quietWindow  = 2 * time.Second        // of foreground work before each deletion
	quietLonger  = 3 * time.Minute        // the most while one is reclaimed
	quietThreads = 2                      // of the foreground
	quietPace    = 2 * time.Millisecond   // between two files of one, if paced
	quietPoll    = 200 * time.Millisecond // for the end of the reclamation
)

// quiet measures what foreground work feels of a reclamation: the times of
// create+write+close.
func quiet(c *config) (*table, error) {
	t := &table{Columns: []string{"1000 files/s", "as many as can be"}}
	for _, pace := range []time.Duration{quietPace, 0} {
		v, err := c.newVolume(fmt.Sprint("quiet", pace))
		if err != nil {
			return nil, err
		}
		err = v.quiet(t, pace)
		if rerr := v.remove(); err == nil {
			err = rerr
		}
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

// quiet adds a column.
func (v *volume) quiet(t *table, pace time.Duration) error {
	if err := v.quietFill(); err != nil {
		return err
	}
	g := startForeground(filepath.Join(v.mnt, "foreground"), pace)
	err := v.quietTurns(t, g)
	if ferr := g.end(); err == nil {
		err = ferr
	}
	return err
}

func (v *volume) quietTurns(t *table, g *foreground) error {
	var calm, busy waits
	var took []float64
	time.Sleep(time.Second) // to get going
	for i := range quietParts {
		g.takeWaits()
		time.Sleep(quietWindow)
		calm.add(g.takeWaits())
		begun := time.Now()
		if err := v.reclaimWhile(fmt.Sprint("quiet", i)); err != nil {
			return err
		}
		took = append(took, float64(time.Since(begun))/float64(time.Millisecond))
		busy.add(g.takeWaits())
	}
	for _, w := range []struct {
		name string
		*waits
	}{{"nothing to reclaim", &calm}, {"while a snapshot is reclaimed", &busy}} {
		t.add(w.name+": median", figureOf("ms", w.p50))
		t.add(w.name+": p99", figureOf("ms", w.p99))
		t.add(w.name+": p99 of all turns", figureOf("ms", []float64{w.all(0.99)}))
		t.add(w.name+": longest", figureOf("ms", w.most))
		t.add(w.name+": files", figureOf("files/s", w.rate))
	}
	t.add("p99 of all turns grows to", figureOf("%", []float64{100 * busy.all(0.99) / calm.all(0.99)}))
	t.add("reclaiming one takes", figureOf("ms", took))
	return nil
}

// waits are quantiles of times of windows, in ms, and all these times.
type waits struct {
	p50, p99, most, rate []float64
	times                []time.Duration
}

func (w *waits) all(q float64) float64 {
	slices.Sort(w.times)
	return quantile(w.times, q)
}

// quantile of times in order, in ms.
func quantile(times []time.Duration, q float64) float64 {
	return float64(times[min(len(times)-1, int(q*float64(len(times))))]) / float64(time.Millisecond)
}

// window is what one window has measured.
type window struct {
	times []time.Duration
	took  time.Duration
}

func (w *waits) add(win window) {
	if len(win.times) == 0 {
		return
	}
	slices.Sort(win.times)
	w.times = append(w.times, win.times...)
	w.p50 = append(w.p50, quantile(win.times, 0.5))
	w.p99 = append(w.p99, quantile(win.times, 0.99))
	w.most = append(w.most, quantile(win.times, 1))
	w.rate = append(w.rate, float64(len(win.times))/win.took.Seconds())
}

// quietFill makes the snapshots, and waits until the volume is at rest.
func (v *volume) quietFill() error {
	for i := range quietParts {
		if err := v.quietWrite(i); err != nil {
			return err
		}
	}
	for i := range quietParts {
		if err := os.Mkdir(filepath.Join(v.mnt, ".snapshots", fmt.Sprint("quiet", i)), 0o755); err != nil {
			return err
		}
		if err := v.quietWrite(i); err != nil {
			return err
		}
	}
	if _, err := v.command("gc", "--wait", v.mnt); err != nil {
		return err
	}
	d, err := os.Open(v.store)
	if err != nil {
		return err
	}
	defer d.Close()
	err = unix.Syncfs(int(d.Fd()))
	time.Sleep(quietSettle)
	return err
}

// quietWrite writes the files of a part.
func (v *volume) quietWrite(part int) error {
	dir := filepath.Join(v.mnt, fmt.Sprint("part", part))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	data := make([]byte, 100<<10)
	for i := range data {
		data[i] = byte(i * i >> 8)
	}
	contents := max(v.c.pieces/quietParts, 10)
	for i := 0; i < contents; i += perLargeFile {
		err := overwrite(filepath.Join(dir, fmt.Sprint("large", i)), func(f *os.File) error {
			for r := range int64(min(perLargeFile, contents-i)) {
				if _, err := f.WriteAt(data[:quietBytes], r*recordBytes); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for i := range contents / 10 {
		err := overwrite(filepath.Join(dir, fmt.Sprint("small", i)), func(f *os.File) error {
			_, err := f.Write(data[:4<<10+i*7919%(96<<10)])
			return err
		})
		if err != nil {
			return err
		}
	}
	return v.sync()
}

// overwrite opens a file to be written anew in place.
func overwrite(name string, write func(f *os.File) error) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	err = write(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// reclaimWhile deletes a snapshot and returns when it is reclaimed.
func (v *volume) reclaimWhile(name string) error {
	if err := os.Remove(filepath.Join(v.mnt, ".snapshots", name)); err != nil {
		return err
	}
	for end := time.Now().Add(quietLonger); time.Now().Before(end); time.Sleep(quietPoll) {
		out, err := v.command("status", "--json", v.store)
		if err != nil {
			return err
		}
		var st struct{ Backlog map[string]int64 }
		if err := json.Unmarshal(out, &st); err != nil {
			return err
		}
		if !slices.ContainsFunc([]string{"tasks", "merges", "trees", "objects"}, func(k string) bool { return st.Backlog[k] > 0 }) {
			return nil
		}
	}
	return fmt.Errorf("the reclamation does not end in %v", quietLonger)
}

// foreground is threads that make small files.
type foreground struct {
	stop    chan struct{}
	threads sync.WaitGroup

	mu    sync.Mutex
	since time.Time       // guarded by mu
	times []time.Duration // guarded by mu
	err   error           // guarded by mu
}

// startForeground begins to make files below dir, one every pace in each thread;
// 0 is without a pause.
func startForeground(dir string, pace time.Duration) *foreground {
	g := &foreground{stop: make(chan struct{}), since: time.Now()}
	for i := range quietThreads {
		g.threads.Add(1)
		go g.run(fmt.Sprintf("%s-%d", dir, i), pace)
	}
	return g
}

func (g *foreground) run(dir string, pace time.Duration) {
	defer g.threads.Done()
	data := make([]byte, 4<<10)
	next := time.Now()
	for i := 0; ; i++ {
		select {
		case <-g.stop:
			return
		default:
		}
		next = next.Add(pace)
		time.Sleep(time.Until(next))
		if behind := time.Now(); next.Before(behind) {
			next = behind
		}
		name := filepath.Join(dir, fmt.Sprint(i/filesPerDir), fmt.Sprint(i))
		var err error
		if i%filesPerDir == 0 {
			err = os.MkdirAll(filepath.Dir(name), 0o755)
		}
		begun := time.Now()
		if err == nil {
			err = os.WriteFile(name, data, 0o644)
		}
		took := time.Since(begun)
		g.mu.Lock()
		g.times = append(g.times, took)
		if err != nil {
			g.err = err
		}
		g.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// takeWaits returns the times since the last call.
func (g *foreground) takeWaits() window {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	w := window{g.times, now.Sub(g.since)}
	g.times, g.since = nil, now
	return w
}

func (g *foreground) end() error {
	close(g.stop)
	g.threads.Wait()
	return g.err
}
