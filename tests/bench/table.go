package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A figure is a quantity that was measured: its median, and its spread.
type figure struct {
	Unit   string  `json:"unit"` // "ms", "bytes", "records" ...
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Rounds int     `json:"rounds"`
}

// figureOf makes a figure of what the rounds gave.
func figureOf(unit string, values []float64) figure {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 0 {
		return figure{Unit: unit}
	}
	return figure{unit, v[len(v)/2], v[0], v[len(v)-1], len(v)}
}

func timesOf(ds []time.Duration) figure {
	var ms []float64
	for _, d := range ds {
		ms = append(ms, float64(d)/float64(time.Millisecond))
	}
	return figureOf("ms", ms)
}

func (f figure) String() string {
	if f.Rounds == 0 {
		return "" // not measured
	}
	if f.Unit == "ms" {
		return fmt.Sprintf("%.2f ms (%.2f to %.2f)", f.Median, f.Min, f.Max)
	}
	if f.Unit == "x" {
		return fmt.Sprintf("%.2f (%.2f to %.2f)", f.Median, f.Min, f.Max)
	}
	if f.Min == f.Max {
		return fmt.Sprintf("%.0f %s", f.Median, f.Unit)
	}
	return fmt.Sprintf("%.0f %s (%.0f to %.0f)", f.Median, f.Unit, f.Min, f.Max)
}

// A table is what a workload found: a row for each thing that was measured, a
// column for each size or system.
type table struct {
	Name    string   `json:"name"`
	What    string   `json:"what"`
	Columns []string `json:"columns"`
	Rows    []*row   `json:"rows"`
}

type row struct {
	Name    string   `json:"name"`
	Figures []figure `json:"figures"`
}

// add appends figures to the row called name.
func (t *table) add(name string, fs ...figure) {
	for _, r := range t.Rows {
		if r.Name == name {
			r.Figures = append(r.Figures, fs...)
			return
		}
	}
	t.Rows = append(t.Rows, &row{name, fs})
}

// print prints the table in the form of Markdown.
func (t *table) print() {
	fmt.Printf("%s: %s\n\n", t.Name, t.What)
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 1, ' ', 0)
	fmt.Fprintf(w, "| \t| %s\t|\n", strings.Join(t.Columns, "\t| "))
	fmt.Fprintf(w, "| ---\t%s|\n", strings.Repeat("| ---\t", len(t.Columns)))
	for _, r := range t.Rows {
		fmt.Fprintf(w, "| %s", r.Name)
		for _, f := range r.Figures {
			fmt.Fprintf(w, "\t| %v", f)
		}
		fmt.Fprintf(w, "\t|\n")
	}
	w.Flush()
	fmt.Println()
}
