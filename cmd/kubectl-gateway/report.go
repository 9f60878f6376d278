package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/targets"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/terminal"
)

// report tells the user what a verb does with many pods: progress and failures
// on the error stream as they come, results on the output stream.
type report struct {
	out, errOut io.Writer
	style       *terminal.Style
	format      string
	// hints that were printed; hundreds of pods may fail for one reason.
	hints         map[string]bool
	total, failed int
	// namespaces makes the lines tell pods of several namespaces apart.
	namespaces bool
	outErr     error
}

func newReport(a *app, format string) report {
	return report{
		out: a.Out, errOut: a.ErrOut, style: terminal.For(a.ErrOut, os.Getenv),
		format: format, hints: map[string]bool{},
	}
}

// name is what a pod is called in a line, with its namespace if that matters.
func (r *report) name(pod *corev1.Pod) string {
	if r.namespaces {
		return fmt.Sprintf("pod/%s -n %s", pod.Name, pod.Namespace)
	}
	return "pod/" + pod.Name
}

// ofWorkloads says that what was done is not done with the pods to come.
func (r *report) ofWorkloads(workloads []targets.Workload) {
	for _, w := range workloads {
		text := "new pods of " + w.Name + " get no gateway by themselves"
		if w.Watch != "" {
			text += ": " + w.Watch
		}
		fmt.Fprintln(r.errOut, line(text))
	}
}

// skipLeaving returns pods without those that have nothing left to protect.
func (r *report) skipLeaving(pods []corev1.Pod) []corev1.Pod {
	var stay []corev1.Pod
	for i := range pods {
		if inject.Leaving(&pods[i]) {
			fmt.Fprintf(r.errOut, "%s: skipped, it has finished or is being deleted\n", r.name(&pods[i]))
			continue
		}
		stay = append(stay, pods[i])
	}
	return stay
}

// missing reports the named pods that are not there, one error each.
func (r *report) missing(err error) {
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

func (r *report) fail(who string, err error) {
	r.failed++
	fmt.Fprintf(r.errOut, "%s%s %s\n", who, r.style.Paint(terminal.Bad, "error:"), line(err.Error()))
	if hint := cmp.Or(advice(err), adviceOnPod); !r.hints[hint] {
		r.hints[hint] = true
		fmt.Fprintf(r.errOut, "hint: %s\n", line(hint))
	}
}

func (r *report) warn(who string, warnings []string) {
	for _, warning := range warnings {
		fmt.Fprintf(r.errOut, "%s%s %s\n", who, r.style.Paint(terminal.Caution, "warning:"), line(warning))
	}
}

// summary ends the report. It returns errReported if a pod has failed.
func (r *report) summary() error {
	if r.outErr != nil {
		return fmt.Errorf("printing the results: %w", r.outErr)
	}
	if r.failed == 0 {
		return nil
	}
	fmt.Fprintf(r.errOut, "%s %d of %d pods failed\n", r.style.Paint(terminal.Bad, "error:"), r.failed, r.total)
	return errReported
}

func (r *report) print(text string) {
	if _, err := io.WriteString(r.out, text); err != nil && r.outErr == nil {
		r.outErr = err
	}
}

// line makes one harmless line of text that may come from anybody.
func line(text string) string {
	return terminal.Clean(strings.Join(strings.Fields(text), " "))
}
