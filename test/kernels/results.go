//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// state is how a test ended in a guest.
type state string

const (
	passed  state = "PASS"
	failed  state = "FAIL"
	skipped state = "SKIP" // a failure, too: nothing is left out but by the plan
	missing state = "none" // the guest has not said how it ended
)

type outcome struct {
	State state
	Took  time.Duration
}

// test is one test in one guest.
type test struct{ Kernel, Group, Name string }

// results are those of all guests.
type results struct {
	outcomes map[test]outcome
	ended    map[[2]string]bool // by kernel and group
	broken   []string           // what else went wrong
}

func newResults() *results {
	return &results{outcomes: make(map[test]outcome), ended: make(map[[2]string]bool)}
}

// expect notes the tests of a guest, none of which has ended.
func (r *results) expect(kernel string, steps []step) {
	for _, s := range steps {
		for _, name := range s.Tests {
			r.outcomes[test{kernel, s.Group.Dir, name}] = outcome{State: missing}
		}
	}
}

func (r *results) breakage(format string, args ...any) {
	r.broken = append(r.broken, fmt.Sprintf(format, args...))
}

// count returns how many tests passed and how many did not.
func (r *results) count() (ok, notOK int) {
	for _, o := range r.outcomes {
		if o.State == passed {
			ok++
		} else {
			notOK++
		}
	}
	return ok, notOK
}

// What guests say: lines of their script, and of tests. A test's line begins with a
// mark that ends whatever else was written there before (-test.v=test2json).
var (
	kernelLine = regexp.MustCompile(`^== kernel (.+)$`)
	beginLine  = regexp.MustCompile(`^== begin (\S+) (\S+)$`)
	endLine    = regexp.MustCompile(`^== end (\S+) (\d+) (\S+)$`)
	runLine    = regexp.MustCompile("\x16=== RUN +([^/\\s]+)$")
	testLine   = regexp.MustCompile("\x16--- (PASS|FAIL|SKIP): ([^/\\s]+) \\(([0-9.]+)s\\)$")
)

// outputLines bounds what is shown of a test that failed. The log has it all.
const outputLines = 80

// follow reads what a guest says to its end and notes how tests ended.
func (r *results) follow(kernel string, from io.Reader, progress io.Writer) error {
	group, begun := "", time.Duration(0)
	var output []string // of the test that runs
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		if m := kernelLine.FindStringSubmatch(line); m != nil {
			fmt.Fprintf(progress, "%s\tLinux %s\n", kernel, m[1])
		} else if m := beginLine.FindStringSubmatch(line); m != nil {
			group, begun, output = m[1], seconds(m[2]), nil
		} else if m := endLine.FindStringSubmatch(line); m != nil {
			r.ended[[2]string{kernel, m[1]}] = true
			if r.summarize(kernel, m[1], seconds(m[3])-begun, progress) && m[2] != "0" {
				r.breakage("%s: all tests of %s passed, and ended with exit code %s", kernel, m[1], m[2])
				show(progress, output)
			}
			output = nil
		} else if m := testLine.FindStringSubmatch(line); m != nil {
			o := outcome{state(m[1]), seconds(m[3])}
			r.outcomes[test{kernel, group, m[2]}] = o
			fmt.Fprintf(progress, "%s\t%s\t%s\t%s\t%.1fs\n", kernel, group, o.State, m[2], o.Took.Seconds())
			if o.State != passed {
				show(progress, output)
			}
			output = nil
		} else if runLine.MatchString(line) {
			output = nil
		} else {
			output = append(output, strings.ReplaceAll(line, "\x16", ""))
		}
		if err == io.EOF {
			if group != "" && !r.ended[[2]string{kernel, group}] {
				show(progress, output)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// seconds reads a guest's number of seconds. What is none is 0: it is only shown.
func seconds(text string) time.Duration {
	n, _ := strconv.ParseFloat(text, 64)
	return time.Duration(n * float64(time.Second))
}

// unfinished is an error that names the groups whose end a guest has not seen.
func (r *results) unfinished(kernel string, steps []step) error {
	var left []string
	for _, s := range steps {
		if !r.ended[[2]string{kernel, s.Group.Dir}] {
			left = append(left, s.Group.Dir)
		}
	}
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("the guest died before the end of %s", strings.Join(left, ", "))
}

// show prints the end of what a test wrote.
func show(w io.Writer, output []string) {
	if left := len(output) - outputLines; left > 0 {
		fmt.Fprintf(w, "    [%d lines are in the log]\n", left)
		output = output[left:]
	}
	for _, line := range output {
		fmt.Fprintln(w, "   ", line)
	}
}

// summarize prints a line like that of go test for the tests of a package in one guest,
// and returns whether all passed.
func (r *results) summarize(kernel, group string, took time.Duration, w io.Writer) bool {
	word := "ok  "
	for t, o := range r.outcomes {
		if t.Kernel == kernel && t.Group == group && o.State != passed {
			word = "FAIL"
		}
	}
	fmt.Fprintf(w, "%s\t%s on Linux %s\t%.1fs\n", word, group, kernel, took.Seconds())
	return word == "ok  "
}

// report prints how everything ended, and returns whether all is well.
func (r *results) report(w io.Writer, kernels []kernel) bool {
	columns := make([]string, 0, len(kernels))
	for _, k := range kernels {
		columns = append(columns, k.Name)
	}
	r.table(w, columns)
	for _, text := range r.broken {
		fmt.Fprintln(w, "FAIL\t"+text)
	}
	ok, notOK := r.count()
	fmt.Fprintf(w, "%d passed, %d failed\n", ok, notOK)
	return notOK == 0 && len(r.broken) == 0
}

// table prints all outcomes: a line for each test, a column for each kernel.
func (r *results) table(w io.Writer, columns []string) {
	rows := make(map[[2]string]bool)
	width := 0
	for t := range r.outcomes {
		rows[[2]string{t.Group, t.Name}] = true
		width = max(width, len(t.Group), len(t.Name)+2)
	}
	sorted := make([][2]string, 0, len(rows))
	for row := range rows {
		sorted = append(sorted, row)
	}
	slices.SortFunc(sorted, func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	group := ""
	for _, row := range sorted {
		if row[0] != group {
			group = row[0]
			fmt.Fprintf(w, "%-*s", width, group)
			for _, c := range columns {
				fmt.Fprintf(w, "%10s", c)
			}
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%-*s", width, "  "+row[1])
		for _, c := range columns {
			fmt.Fprintf(w, "%10s", r.cell(test{c, row[0], row[1]}))
		}
		fmt.Fprintln(w)
	}
}

// cell is the time of a test that passed, and how it ended otherwise.
func (r *results) cell(t test) string {
	switch o, ok := r.outcomes[t]; {
	case !ok:
		return "-"
	case o.State != passed:
		return string(o.State)
	default:
		return fmt.Sprintf("%.1fs", o.Took.Seconds())
	}
}
