package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// printJSON prints v for programs.
func printJSON(v any) error {
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printTable prints rows below their header, in columns. Nothing but the
// header is printed for no rows: a script counts lines.
func printTable(header []string, rows [][]string) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(header, "\t"))
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}

// humanBytes writes a number of bytes with three digits or so.
func humanBytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, u := float64(n), -1
	for f >= 1024 && u+1 < len(units) {
		f, u = f/1024, u+1
	}
	if f < 10 {
		return fmt.Sprintf("%.1f %ciB", f, units[u])
	}
	return fmt.Sprintf("%.0f %ciB", f, units[u])
}

// showSeconds shows on a terminal that something takes long, until stop is called.
func showSeconds(f *os.File, what string) (stop func()) {
	if fi, err := f.Stat(); err != nil || fi.Mode()&os.ModeCharDevice == 0 {
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for s := 1; ; s++ {
			select {
			case <-t.C:
				fmt.Fprintf(f, "%sdcfs: %s, %d s ", clearLine, what, s)
			case <-end:
				if s > 1 {
					fmt.Fprint(f, clearLine)
				}
				return
			}
		}
	}()
	return func() {
		close(end)
		<-ended
	}
}

// counted writes a number of things.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// localTime writes a time for people, in their zone.
func localTime(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }
