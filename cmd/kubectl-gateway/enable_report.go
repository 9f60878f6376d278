package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// enableReport tells the user what enable does: progress and failures on the
// error stream as they come, results on the output stream.
type enableReport struct {
	report
	dryRun installed.DryRun
}

func newEnableReport(a *app, format string, dryRun installed.DryRun) *enableReport {
	return &enableReport{report: newReport(a, format), dryRun: dryRun}
}

// add reports the result of one pod.
func (r *enableReport) add(result inject.Result) {
	r.total++
	name := r.name(result.Pod)
	if result.Err != nil {
		r.failPod(result.Pod, result.Err)
		r.warn(name+": ", result.Warnings)
		return
	}
	what := "enabled"
	if result.Action == inject.Unchanged {
		what = "already enabled"
	}
	r.done(result.Pod, fmt.Sprintf("gateway %s (%s, %.1fs)%s", what, result.Container, result.Elapsed.Seconds(), dryRunWords(r.dryRun)))
	if result.Reset > 0 {
		fmt.Fprintf(r.errOut, "%s: connections from before that were reset: %d\n", name, result.Reset)
	}
	r.warn(name+": ", result.Warnings)
}

// finish prints what is printed as a whole, in the order of results, and returns
// errReported if a pod has failed.
func (r *enableReport) finish(results []inject.Result) error {
	if r.format == "json" || r.format == "yaml" {
		text, err := r.document(results)
		if err != nil {
			return fmt.Errorf("encoding the results: %w", err)
		}
		r.print(text)
	}
	return r.summary()
}

// enableItem is the machine-readable result of one pod.
type enableItem struct {
	Namespace string        `json:"namespace"`
	Pod       string        `json:"pod"`
	Action    inject.Action `json:"action"`
	Container string        `json:"container,omitempty"`
	// Seconds is how long it took.
	Seconds  float64    `json:"seconds"`
	Identity string     `json:"identity,omitempty"`
	Mode     api.Mode   `json:"mode,omitempty"`
	NotAfter *time.Time `json:"certificateNotAfter,omitempty"`
	// Existing describes the connections from before the gateway, and Reset counts
	// those that were reset.
	Existing *api.ExistingConnections `json:"existing,omitempty"`
	Reset    int                      `json:"reset,omitempty"`
	Warnings []string                 `json:"warnings,omitempty"`
	Error    string                   `json:"error,omitempty"`
	Hint     string                   `json:"hint,omitempty"`
}

// document returns the results as a list, or for a dry run the objects that
// would be sent.
func (r *enableReport) document(results []inject.Result) (string, error) {
	items := []any{}
	for _, result := range results {
		switch {
		case r.dryRun == installed.DryRunNone:
			items = append(items, newEnableItem(result))
		case result.Patch != nil && result.Err == nil:
			if result.Secret != nil {
				items = append(items, result.Secret)
			}
			items = append(items, result.Patch)
		}
	}
	list := map[string]any{"items": items}
	if r.dryRun != installed.DryRunNone {
		list["apiVersion"], list["kind"] = "v1", "List"
	}
	if r.format == "json" {
		text, err := json.MarshalIndent(list, "", "  ")
		return string(terminal.CleanJSON(text)) + "\n", err
	}
	if r.dryRun == installed.DryRunNone {
		text, err := yaml.Marshal(list)
		return string(text), err
	}
	var documents []string
	for _, item := range items {
		text, err := yaml.Marshal(item)
		if err != nil {
			return "", err
		}
		documents = append(documents, string(text))
	}
	return strings.Join(documents, "---\n"), nil
}

func newEnableItem(result inject.Result) enableItem {
	item := enableItem{
		Namespace: result.Pod.Namespace,
		Pod:       result.Pod.Name,
		Action:    result.Action,
		Container: result.Container,
		Seconds:   result.Elapsed.Seconds(),
		Warnings:  result.Warnings,
	}
	if result.Err != nil {
		item.Error, item.Hint = told(result.Err)
	}
	if s := result.Status; s != nil && result.Err == nil {
		item.Identity, item.Mode, item.NotAfter = s.Identity, s.Mode, &s.Cert.NotAfter
		item.Existing, item.Reset = s.Existing, result.Reset
	}
	return item
}
