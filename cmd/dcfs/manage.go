package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// callStore asks the server of t's store, or, where nobody serves it, opens
// the store and does what is asked itself. The reply's result goes to result,
// if that is not nil.
func callStore(t target, req *request, result any) error {
	if t.Mount != nil {
		req.Dev, req.Path = t.Mount.Dev, t.Path
	} else {
		req.Fork, req.Snapshot = t.Fork, t.Snapshot
	}
	w := newWaiter(t.Store)
	for {
		raw, err := callOnce(t, req)
		if err == nil {
			if result == nil || raw == nil {
				return nil
			}
			return json.Unmarshal(raw, result)
		}
		if !w.again(err) {
			return err
		}
	}
}

func callOnce(t target, req *request) (json.RawMessage, error) {
	c, err := dial(t.Store)
	if errors.Is(err, errNotServed) {
		return callLocal(t, req)
	}
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r, err := c.ask(req)
	for err == nil && r.State == stateProgress {
		if err = req.progress(r.Result); err == nil {
			r, err = c.next()
		}
	}
	if err != nil {
		return nil, err
	}
	return r.Result, nil
}

// callLocal answers a request as the server would, with a store that nobody
// serves.
func callLocal(t target, req *request) (json.RawMessage, error) {
	if t.Mount != nil {
		return nil, fmt.Errorf("%s: its store %s is not being served from here", t.Mount.Mountpoint, t.Store)
	}
	ctx := context.Background()
	mode := openExisting
	if req.Op == opStatus || req.Op == opScrub {
		mode = openStill
	}
	v, err := openVolume(ctx, t.Store, mode, serverOptions{}, logToStderr)
	if err != nil {
		return nil, err
	}
	result, err := answerLocal(ctx, v, req)
	if cerr := v.close(ctx); err == nil {
		err = cerr
	}
	if err != nil || result == nil {
		return nil, err
	}
	return json.Marshal(result)
}

func answerLocal(ctx context.Context, v *volume, req *request) (any, error) {
	switch req.Op {
	case opStatus:
		return v.status(ctx)
	case opGC, opScrub:
		return v.long(ctx, req, func(p any) error {
			raw, err := json.Marshal(p)
			if err != nil {
				return err
			}
			return req.progress(raw)
		})
	}
	view, err := v.root(req.Fork, req.Snapshot)
	if err != nil {
		return nil, err
	}
	return v.manage(ctx, view, req)
}

func logToStderr(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "dcfs: %s\n", oneLine(fmt.Sprintf(format, args...)))
}

// onTarget makes the run function of a verb that has a TARGET and then wants
// the named arguments.
func onTarget(names []string, fn func(t target, args []string) error) func([]string) error {
	return func(args []string) error {
		if err := wantArgs(args, append([]string{"TARGET"}, names...)...); err != nil {
			return err
		}
		t, err := parseTarget(args[0])
		if err != nil {
			return err
		}
		return fn(t, args[1:])
	}
}

// onAllNames makes the run function of a verb that has a TARGET and then one name
// or more.
func onAllNames(fn func(t target, names []string) error) func([]string) error {
	return func(args []string) error {
		if len(args) < 2 {
			return wantArgs(args, "TARGET", "NAME")
		}
		t, err := parseTarget(args[0])
		if err != nil {
			return err
		}
		return fn(t, args[1:])
	}
}

// onNames is onAllNames for a verb that does the same to each, in their order.
func onNames(fn func(t target, name string) error) func([]string) error {
	return onAllNames(func(t target, names []string) error {
		for _, n := range names {
			if err := fn(t, n); err != nil {
				return err
			}
		}
		return nil
	})
}

// createVerb makes a verb that names something new in TARGET's view.
func createVerb(name, summary, long, op string) *verb {
	return &verb{name: name, args: "TARGET NAME", opens: true, summary: summary, long: long,
		flags: func(fl *pflag.FlagSet) func([]string) error {
			var ttl time.Duration
			addTTL(fl, &ttl)
			asJSON := fl.Bool("json", false, "print JSON")
			return onTarget([]string{"NAME"}, func(t target, args []string) error {
				var info viewInfo
				if err := callStore(t, &request{Op: op, Name: args[0], TTL: ttl}, &info); err != nil {
					return err
				}
				if *asJSON {
					return printJSON(info)
				}
				return nil
			})
		}}
}

// listVerb makes a verb that lists what is in TARGET's view, with sizes, and more
// columns.
func listVerb(name, summary, long, op string, sizes []string, more ...column) *verb {
	return &verb{name: name, args: "TARGET", opens: true, summary: summary, long: long,
		flags: func(fl *pflag.FlagSet) func([]string) error {
			asJSON := fl.Bool("json", false, "print JSON")
			names := fl.Bool("names", false, "no sizes, which take time to count")
			count := fl.Bool("count", false, "count the sizes that are not known yet, however long that takes")
			return onTarget(nil, func(t target, args []string) error {
				list := []viewInfo{}
				stop := showSeconds(os.Stderr, "counting")
				err := callStore(t, &request{Op: op, Sizes: !*names, Count: *count}, &list)
				stop()
				if err != nil {
					return err
				}
				if *asJSON {
					return printJSON(list)
				}
				header := []string{"NAME", "CREATED"}
				if !*names {
					header = append(header, sizes...)
				}
				for _, c := range more {
					header = append(header, c.name)
				}
				var rows [][]string
				for _, i := range list {
					row := []string{i.Name, localTime(i.Created)}
					for _, n := range i.sizes(op == opForkList) {
						switch {
						case *names:
						case n == nil:
							row = append(row, "-")
						default:
							row = append(row, humanBytes(*n))
						}
					}
					for _, c := range more {
						row = append(row, orDash(c.of(&i)))
					}
					rows = append(rows, row)
				}
				return printTable(header, rows)
			})
		}}
}

// column is one of a table of views.
type column struct {
	name string
	of   func(i *viewInfo) string
}

var holdsColumn = column{"HOLDS", func(i *viewInfo) string { return strings.Join(i.Holds, ",") }}

// orDash makes a cell of a table: one that is empty would shift what follows for
// who reads columns.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// renameVerb makes a verb that gives something in TARGET's view a new name.
func renameVerb(name, summary, long, op string) *verb {
	return &verb{name: name, args: "TARGET NAME NEWNAME", opens: true, summary: summary, long: long,
		flags: func(fl *pflag.FlagSet) func([]string) error {
			return onTarget([]string{"NAME", "NEWNAME"}, func(t target, args []string) error {
				return callStore(t, &request{Op: op, Name: args[0], To: args[1]}, nil)
			})
		}}
}

// deleteVerb makes a verb that deletes things of TARGET's view, in the order
// in which they are named. frees, if it is not empty, asks what that would free;
// else they may list others, to be deleted with them.
func deleteVerb(name, summary, long, op, frees string) *verb {
	return &verb{name: name, args: "TARGET NAME...", opens: true, summary: summary, long: long,
		flags: func(fl *pflag.FlagSet) func([]string) error {
			dry, recursive := new(bool), new(bool)
			if frees != "" {
				dry = fl.BoolP("dry-run", "n", false, "only say what it would free")
			} else {
				recursive = fl.BoolP("recursive", "r", false, "with all that are listed below them")
			}
			return onAllNames(func(t target, names []string) error {
				if *dry {
					var f freed
					if err := callStore(t, &request{Op: frees, Names: names}, &f); err != nil {
						return err
					}
					fmt.Printf("would free %s (%d bytes)\n", humanBytes(f.Bytes), f.Bytes)
					return nil
				}
				for _, n := range names {
					if err := callStore(t, &request{Op: op, Name: n, Recursive: *recursive}, nil); err != nil {
						return err
					}
				}
				return nil
			})
		}}
}
