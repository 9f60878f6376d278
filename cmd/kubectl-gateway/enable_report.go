package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/terminal"
)

// enableReport tells the user what enable does: progress and failures on the
// error stream as they come, results on the output stream.
type enableReport struct {
	out, errOut io.Writer
	style       *terminal.Style
	format      string
	dryRun      inject.DryRun
	// hints that were printed; hundreds of pods may fail for one reason.
	hints         map[string]bool
	total, failed int
	outErr        error
}

func newEnableReport(a *app, format string, dryRun inject.DryRun) *enableReport {
	return &enableReport{
		out: a.Out, errOut: a.ErrOut, style: terminal.For(a.ErrOut, os.Getenv),
		format: format, dryRun: dryRun, hints: map[string]bool{},
	}
}

// skipLeaving returns pods without those that have nothing left to protect.
func (r *enableReport) skipLeaving(pods []corev1.Pod) []corev1.Pod {
	var stay []corev1.Pod
	for i := range pods {
		if inject.Leaving(&pods[i]) {
			fmt.Fprintf(r.errOut, "pod/%s: skipped, it has finished or is being deleted\n", pods[i].Name)
			continue
		}
		stay = append(stay, pods[i])
	}
	return stay
}

// missing reports the named pods that are not there, one error each.
func (r *enableReport) missing(err error) {
	if err == nil {
		return
	}
	errs := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		errs = joined.Unwrap()
	}
	for _, err := range errs {
		r.total++
		r.fail("", err)
	}
}

func (r *enableReport) fail(who string, err error) {
	r.failed++
	fmt.Fprintf(r.errOut, "%s%s %s\n", who, r.style.Paint(terminal.Bad, "error:"), line(err.Error()))
	if hint := api.Hint(err); hint != "" && !r.hints[hint] {
		r.hints[hint] = true
		fmt.Fprintf(r.errOut, "hint: %s\n", line(hint))
	}
}

func (r *enableReport) warn(who string, warnings []string) {
	for _, warning := range warnings {
		fmt.Fprintf(r.errOut, "%s%s %s\n", who, r.style.Paint(terminal.Caution, "warning:"), line(warning))
	}
}

// add reports the result of one pod.
func (r *enableReport) add(result inject.Result) {
	r.total++
	name := "pod/" + result.Pod.Name
	if result.Err != nil {
		r.fail(name+": ", result.Err)
		r.warn(name+": ", result.Warnings)
		return
	}
	trial := map[inject.DryRun]string{inject.DryRunClient: " (dry run)", inject.DryRunServer: " (server dry run)"}[r.dryRun]
	what := r.style.Paint(terminal.Good, "enabled")
	if result.Action == inject.Unchanged {
		what = "already enabled"
	}
	fmt.Fprintf(r.errOut, "%s: %s%s (%s, %.1fs)\n", name, what, trial, result.Container, result.Elapsed.Seconds())
	r.warn(name+": ", result.Warnings)
	switch r.format {
	case "":
		r.print(fmt.Sprintf("%s gateway %s%s\n", name, result.Action, trial))
	case "name":
		r.print(name + "\n")
	}
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
	if r.outErr != nil {
		return fmt.Errorf("printing the results: %w", r.outErr)
	}
	if r.failed == 0 {
		return nil
	}
	fmt.Fprintf(r.errOut, "%s %d of %d pods failed\n", r.style.Paint(terminal.Bad, "error:"), r.failed, r.total)
	return errReported
}

func (r *enableReport) print(text string) {
	if _, err := io.WriteString(r.out, text); err != nil && r.outErr == nil {
		r.outErr = err
	}
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
	Warnings []string   `json:"warnings,omitempty"`
	Error    string     `json:"error,omitempty"`
	Hint     string     `json:"hint,omitempty"`
}

// document returns the results as a list, or for a dry run the objects that
// would be sent.
func (r *enableReport) document(results []inject.Result) (string, error) {
	items := []any{}
	for _, result := range results {
		switch {
		case r.dryRun == inject.DryRunNone:
			items = append(items, newEnableItem(result))
		case result.Patch != nil && result.Err == nil:
			items = append(items, result.Secret, result.Patch)
		}
	}
	list := map[string]any{"items": items}
	if r.dryRun != inject.DryRunNone {
		list["apiVersion"], list["kind"] = "v1", "List"
	}
	if r.format == "json" {
		text, err := json.MarshalIndent(list, "", "  ")
		return string(terminal.CleanJSON(text)) + "\n", err
	}
	if r.dryRun == inject.DryRunNone {
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
		item.Error, item.Hint = result.Err.Error(), api.Hint(result.Err)
	}
	if s := result.Status; s != nil && result.Err == nil {
		item.Identity, item.Mode, item.NotAfter = s.Identity, s.Mode, &s.Cert.NotAfter
	}
	return item
}

// line makes one harmless line of text that may come from anybody.
func line(text string) string {
	return terminal.Clean(strings.Join(strings.Fields(text), " "))
}
