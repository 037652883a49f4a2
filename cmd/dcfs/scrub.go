package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"dcfs/dcdb/store"
)

var scrubVerb = &verb{
	name: "scrub", args: "TARGET", opens: true,
	summary: "Read everything in a store, to find what is damaged",
	long: `
All records and objects of the store are read and their checksums verified, those
that only snapshots need too, and a line is printed for each that is damaged.
Whatever is mounted stays in use meanwhile. Reading is held to --rate, so that
others get their share of the disk; an interrupt ends it, and changes nothing.

A scrub does not know which files need what is damaged, nor whether all is there
that should be: "dcfs check" does, on a store that is not mounted. In a sealed
volume it verifies the checksums of what is sealed; "dcfs check --data" opens it.

The exit status is that of "dcfs check": 0 if nothing is damaged, 4 if something
is, 8 if not everything could be read.

Example:
  dcfs scrub /mnt
  dcfs scrub --rate 200M ~/volume`,
	flags: func(fl *pflag.FlagSet) func([]string) error {
		rate := int64(defaultScrubRate)
		fl.Var(rateFlag{sizeFlag{&rate}}, "rate", "bytes to read in a second, 0 for no limit")
		asJSON := fl.Bool("json", false, "print JSON")
		quiet := fl.BoolP("quiet", "q", false, "no progress")
		return onTarget(nil, func(t target, args []string) error {
			show := &scrubLines{show: progressTo(os.Stderr, *quiet), text: !*asJSON}
			var r scrubReport
			err := callStore(t, &request{Op: opScrub, Rate: rate, progress: show.step}, &r)
			show.show.clear()
			if err != nil {
				return &statusError{exitNoCheck, err}
			}
			return r.end(show)
		})
	},
}

// defaultScrubRate is a small part of what a disk can do.
const defaultScrubRate = 64 << 20

// rateFlag makes pflag read a size that may be 0.
type rateFlag struct{ sizeFlag }

func (f rateFlag) Set(s string) (err error) {
	*f.n, err = parseSize(s)
	return err
}

// scrubReport is what a scrub found.
type scrubReport struct {
	Store    string   `json:"store"`
	Read     uint64   `json:"bytesRead"`
	Found    int      `json:"found"`    // problems
	Problems []string `json:"problems"` // the first thousand
}

// scrubProgress is how far a scrub is, and what it has found since it told last.
type scrubProgress struct {
	Read     uint64   `json:"bytesRead"`
	Used     uint64   `json:"usedBytes"` // of the store; about what there is to read
	Problems []string `json:"problems,omitempty"`
}

// scrub reads all of the store, rate bytes a second.
func (v *volume) scrub(ctx context.Context, rate int64, tell func(any) error) (*scrubReport, error) {
	u, err := v.vol.Usage(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex // guards r
	r := scrubReport{Store: v.dir, Problems: []string{}}
	told := 0
	pace := pacer{rate: rate}
	now := func() error {
		mu.Lock()
		p := scrubProgress{Read: r.Read, Used: u.UsedBytes, Problems: r.Problems[told:]}
		told = len(r.Problems)
		mu.Unlock()
		return tell(p)
	}
	err = telling(ctx, now, func(ctx context.Context) error {
		read := func(bytes int) error {
			mu.Lock()
			r.Read += uint64(bytes)
			mu.Unlock()
			return pace.wait(ctx, bytes)
		}
		return v.store.Scrub(ctx, read, func(err error) {
			mu.Lock()
			defer mu.Unlock()
			if r.Found++; r.Found <= maxLines {
				r.Problems = append(r.Problems, v.damaged(err))
			}
		})
	})
	if err == nil {
		err = now() // the last lines
	}
	if err != nil {
		return nil, verbError(err, "scrub %s", v.dir)
	}
	return &r, nil
}

// damaged makes a line of what a scrub found.
func (v *volume) damaged(err error) string {
	line := oneLine(err.Error())
	if e := (*store.RecordError)(nil); errors.As(err, &e) {
		line = v.vol.Describe(e.Key) + ": " + line
	}
	return line
}

// pacer holds what is read to a rate.
type pacer struct {
	rate  int64 // bytes a second; 0: any
	began time.Time
	bytes int64
}

// wait returns when so many bytes more may have been read.
func (p *pacer) wait(ctx context.Context, bytes int) error {
	if p.rate <= 0 {
		return ctx.Err()
	}
	if p.began.IsZero() {
		p.began = time.Now()
	}
	p.bytes += int64(bytes)
	ahead := time.Duration(float64(p.bytes)/float64(p.rate)*float64(time.Second)) - time.Since(p.began)
	if ahead < 10*time.Millisecond {
		if ahead < -time.Second { // who was held up does not make up for it
			p.began, p.bytes = time.Now(), 0
		}
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(ahead):
		return nil
	}
}

// scrubLines shows what a scrub tells.
type scrubLines struct {
	show *progress
	text bool // print problems
}

func (l *scrubLines) step(raw json.RawMessage) error {
	var p scrubProgress
	if err := json.Unmarshal(raw, &p); err != nil {
		return err
	}
	for _, line := range p.Problems {
		if l.text {
			l.show.clear()
			fmt.Println(line)
		}
	}
	l.show.line("read %s of about %s", humanBytes(p.Read), humanBytes(max(p.Read, p.Used)))
	return nil
}

// end prints what is left to say of a scrub, and makes its exit status.
func (r *scrubReport) end(l *scrubLines) error {
	if !l.text {
		if err := printJSON(r); err != nil {
			return &statusError{exitNoCheck, err}
		}
	} else if r.Found == 0 {
		fmt.Printf("%s: nothing is damaged, %s read\n", r.Store, humanBytes(r.Read))
	}
	if r.Found == 0 {
		return nil
	}
	if l.text && r.Found > maxLines {
		fmt.Println("... and more")
	}
	return &statusError{exitLeft, fmt.Errorf("%s is damaged: %s (\"dcfs check\" says what needs it)", r.Store, counted(r.Found, "problem"))}
}
