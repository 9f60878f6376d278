package main

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/edges"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/status"
)

const operations = top + "/docs/OPERATIONS.md"

// section returns the part of the operations' page below a heading.
func section(t *testing.T, title string) string {
	t.Helper()
	page := must.Get(os.ReadFile(operations))(t)
	mark := strings.Repeat("#", strings.Count(title, "#"))
	_, text, found := strings.Cut("\n"+string(page), "\n"+title+"\n")
	if !found {
		t.Fatalf("%s has no section %q", operations, title)
	}
	text, _, _ = strings.Cut(text, "\n"+mark+" ")
	return text
}

// TestFieldsAreDocumented compares the fields of the outputs with the tables about
// them.
func TestFieldsAreDocumented(t *testing.T) {
	for title, value := range map[string]any{
		"## The log of a gateway":    api.Connection{},
		"## The status of a gateway": status.List{},
		"## Edges":                   edges.List{},
	} {
		text := section(t, title)
		for _, field := range fields(reflect.TypeOf(value), nil) {
			if !strings.Contains(text, "`"+field+"`") {
				t.Errorf("%s does not mention `%s`", title, field)
			}
		}
	}
}

// fields returns the JSON names of a type and of all types below it.
func fields(t reflect.Type, seen map[reflect.Type]bool) []string {
	if seen == nil {
		seen = map[reflect.Type]bool{}
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return fields(t.Elem(), seen)
	case reflect.Struct:
	default:
		return nil
	}
	if seen[t] || t == reflect.TypeFor[time.Time]() {
		return nil
	}
	seen[t] = true
	var names []string
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			names = append(names, fields(f.Type, seen)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "" || name == "-" {
			continue
		}
		names = append(append(names, name), fields(f.Type, seen)...)
	}
	return names
}

// TestReasonsAreDocumented finds every reason that a gateway can log in the runbook,
// together with its word in metrics.
func TestReasonsAreDocumented(t *testing.T) {
	text := section(t, "### Connections are in plaintext, or refused")
	for _, d := range traffic.Directions() {
		for _, r := range traffic.Reasons(d) {
			if !slices.ContainsFunc(strings.Split(text, "\n"), func(row string) bool {
				return strings.Contains(row, "`"+r.String()+"`") && strings.Contains(row, "`"+r.Word()+"`")
			}) {
				t.Errorf("the runbook has no row for %q with %q", r, r.Word())
			}
		}
	}
}

// TestStatesAreDocumented finds every state in the runbook.
func TestStatesAreDocumented(t *testing.T) {
	text := section(t, "### Status shows a problem")
	for _, state := range []status.State{status.NotEnabled, status.Waiting, status.NotAnswering, status.Crashed, status.Stopped,
		status.Disabled, status.Uncertified, status.Degraded, status.Draining} {
		if !strings.Contains(text, "`"+string(state)+"`") {
			t.Errorf("the runbook does not explain the state %q", state)
		}
	}
}

// TestMetricsAreDocumented finds every metric in the tables about them. What there is
// say the golden files of their packages.
func TestMetricsAreDocumented(t *testing.T) {
	for title, file := range map[string]string{
		"## Metrics":           "/internal/gateway/metrics/testdata/metrics.prom",
		"### Metrics of watch": "/internal/plugin/watch/testdata/metrics.prom",
	} {
		text := section(t, title)
		golden := must.Get(os.ReadFile(top + file))(t)
		found := 0
		for line := range strings.Lines(string(golden)) {
			words := strings.Fields(line)
			if len(words) != 4 || words[1] != "TYPE" {
				continue
			}
			found++
			if !strings.Contains(text, "| `"+words[2]+"` | "+words[3]+" |") {
				t.Errorf("%s has no %s %s", title, words[3], words[2])
			}
		}
		if found < 10 {
			t.Errorf("%s: only %d metrics were found", title, found)
		}
	}
}
