//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// report is all that a run found.
type report struct {
	Machine  machine       `json:"machine"`
	Rounds   int           `json:"rounds"`
	Duration time.Duration `json:"durationNanoseconds"`
	Took     time.Duration `json:"tookNanoseconds"`
	Lines    []*line       `json:"results"`

	sides []string
}

// line is a metric with the values of every side, one a round.
type line struct {
	Table   string               `json:"table"`
	Name    string               `json:"name"`
	Unit    string               `json:"unit"`
	Samples map[string][]float64 `json:"samples"`
	Median  map[string]float64   `json:"median"`
	// Ratio is that of the gateways, or of those in band if they are alone, to another side: the median of the ratios
	// of each round, because the machine is not the same in every round.
	Ratio map[string]float64 `json:"gatewaysTo,omitempty"`
}

func newReport(p plan) *report {
	return &report{Rounds: p.Rounds, Duration: p.Duration, sides: p.Sides}
}

func (r *report) add(side string, values []value) {
	for _, v := range values {
		l := r.line(v)
		l.Samples[side] = append(l.Samples[side], v.value)
		l.summarize()
	}
}

func (r *report) line(v value) *line {
	for _, l := range r.Lines {
		if l.Table == v.table && l.Name == v.name {
			return l
		}
	}
	l := &line{Table: v.table, Name: v.name, Unit: v.unit, Samples: map[string][]float64{}}
	r.Lines = append(r.Lines, l)
	slices.SortStableFunc(r.Lines, func(a, b *line) int { return lineOrder(a) - lineOrder(b) })
	return l
}

func lineOrder(l *line) int { return slices.Index(allTables(), l.Table) }

func (l *line) summarize() {
	l.Median, l.Ratio = map[string]float64{}, map[string]float64{}
	for side, samples := range l.Samples {
		l.Median[side] = median(samples)
	}
	name := measured(slices.Collect(maps.Keys(l.Samples)))
	ours := l.Samples[name]
	for side, theirs := range l.Samples {
		if side != name && len(ours) > 0 && len(theirs) == len(ours) {
			var ratios []float64
			for i := range ours {
				// A few connections may take no further page.
				if theirs[i] != 0 {
					ratios = append(ratios, ours[i]/theirs[i])
				}
			}
			if len(ratios) > 0 {
				l.Ratio[side] = median(ratios)
			}
		}
	}
}

// measured is the side that the others are compared with.
func measured(sides []string) string {
	for _, side := range []string{gateways, service} {
		if slices.Contains(sides, side) {
			return side
		}
	}
	return inband
}

// median returns the middle value, or the mean of the two in the middle.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func (r *report) printJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r *report) printText(w io.Writer) error {
	style := terminal.For(w, os.Getenv)
	if _, err := fmt.Fprintf(w, "%s\n%d rounds of %v, %v in all; medians, and medians of each round's ratios\n",
		r.Machine, r.Rounds, r.Duration, r.Took.Round(time.Second)); err != nil {
		return err
	}
	ours := measured(r.sides)
	others := slices.DeleteFunc(slices.Clone(r.sides), func(side string) bool { return side == ours })
	for _, name := range allTables() {
		t := terminal.Table{Header: []string{strings.ToUpper(name), "UNIT"}}
		for _, side := range r.sides {
			t.Header = append(t.Header, strings.ToUpper(side))
		}
		for _, side := range others {
			t.Header = append(t.Header, strings.ToUpper(ours+"/"+side))
		}
		for _, l := range r.Lines {
			if l.Table != name {
				continue
			}
			row := []terminal.Cell{{Text: l.Name}, {Text: l.Unit}}
			for _, side := range r.sides {
				row = append(row, terminal.Cell{Text: optional(l.Median, side)})
			}
			for _, side := range others {
				row = append(row, terminal.Cell{Text: optional(l.Ratio, side)})
			}
			t.Rows = append(t.Rows, row)
		}
		if len(t.Rows) == 0 {
			continue
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		if err := t.Print(w, style); err != nil {
			return err
		}
	}
	return nil
}

func optional(values map[string]float64, side string) string {
	v, ok := values[side]
	if !ok {
		return ""
	}
	return format(v)
}

// format returns v with three digits, or all of its whole ones.
func format(v float64) string {
	digits := 2
	for limit := 10.0; digits > 0 && (v >= limit || v <= -limit); limit *= 10 {
		digits--
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}
