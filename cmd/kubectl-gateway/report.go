package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/announce"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
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
	// failures are the pods among those that have failed.
	failures []types.NamespacedName
	// mu keeps lines apart.
	mu sync.Mutex
	// namespaces makes the lines tell pods of several namespaces apart.
	namespaces bool
	outErr     error
}

func newReport(a *app, format string) *report {
	return &report{
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

// leavingWords say of a pod that it is installed.Leaving.
const leavingWords = "it has finished or is being deleted"

// skips reports whether pod has nothing left to protect, or no gateway although gateways
// are wanted, and says so: a selector takes what matches. ending takes in pods that are being deleted.
func (r *report) skips(pod *corev1.Pod, gateways, ending bool) bool {
	why := ""
	gateway, ok := installed.Current(pod)
	switch {
	case installed.Leaving(pod) && !ending:
		why = leavingWords
	case gateways && !ok:
		why = "it has no gateway"
	case gateways && gateway.Disabled():
		why = "its gateway was disabled"
	default:
		return false
	}
	r.skip(pod, why)
	return true
}

func (r *report) skip(pod *corev1.Pod, why string) {
	fmt.Fprintf(r.errOut, "%s: skipped, %s\n", r.name(pod), why)
}

// missing reports the named pods that are not there, one error each.
func (r *report) missing(err error) {
	for _, err := range targets.Errors(err) {
		r.total++
		r.fail("", err)
	}
}

// outcome is what there is to tell about one pod.
type outcome struct {
	pod *corev1.Pod
	// done says what was done with it, command is a command to run, notes say what else happened.
	done     string
	command  string
	notes    []string
	warnings []string
	err      error
	// left says that the pod has ended meanwhile, or is about to, and err is no failure therefore.
	left bool
	// event is the reason of the event that the pod is to have, which says what was done, or, as announce.Failed,
	// why not. Empty is none.
	event announce.Reason
	// mode is that of the pod's gateway, empty if it has none any more, and nil if nothing is known of it.
	mode *api.Mode
}

// add reports what became of a pod.
func (r *report) add(o outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !o.left {
		r.total++
	}
	switch {
	case o.left:
		r.skip(o.pod, leavingWords)
	case o.err != nil:
		r.failPod(o.pod, o.err)
	default:
		switch {
		case o.done != "":
			r.done(o.pod, o.done)
		case o.command != "" && r.format == "":
			r.print(o.command + "\n")
		}
		for _, note := range o.notes {
			r.note(o.pod, note)
		}
	}
	r.warn(r.name(o.pod)+": ", o.warnings)
}

// progress reports that something goes on about a pod, while others are added.
func (r *report) progress(pod *corev1.Pod, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note(pod, text)
}

func (r *report) note(pod *corev1.Pod, text string) {
	fmt.Fprintf(r.errOut, "%s: %s\n", r.name(pod), line(text))
}

// done reports what was done with a pod. Where results are printed as a whole, it is
// progress.
func (r *report) done(pod *corev1.Pod, what string) {
	switch r.format {
	case "":
		r.print(r.name(pod) + " " + line(what) + "\n")
	case "name":
		r.print("pod/" + pod.Name + "\n")
	default:
		fmt.Fprintf(r.errOut, "%s %s\n", r.name(pod), line(what))
	}
}

// failPod reports what went wrong with a pod. That the user has ended the command is
// no failure of it.
func (r *report) failPod(pod *corev1.Pod, err error) {
	if errors.Is(err, context.Canceled) {
		r.failed++
		fmt.Fprintf(r.errOut, "%s: interrupted\n", r.name(pod))
		return
	}
	r.failures = append(r.failures, types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
	r.fail(r.name(pod)+": ", err)
}

func (r *report) fail(who string, err error) {
	r.failed++
	what, hint := told(err)
	fmt.Fprintf(r.errOut, "%s%s %s\n", who, r.style.Paint(terminal.Bad, "error:"), what)
	if !r.hints[hint] {
		r.hints[hint] = true
		fmt.Fprintf(r.errOut, "hint: %s\n", hint)
	}
}

func (r *report) warn(who string, warnings []string) {
	for _, warning := range warnings {
		fmt.Fprintf(r.errOut, "%s%s %s\n", who, r.style.Paint(terminal.Caution, "warning:"), line(warning))
	}
}

// summary ends the report. It returns errReported if a pod has failed. Of a single
// pod everything has been said.
func (r *report) summary() error {
	if r.outErr != nil {
		return fmt.Errorf("printing the results: %w", r.outErr)
	}
	if r.failed == 0 {
		return nil
	}
	if r.total > 1 {
		fmt.Fprintf(r.errOut, "%s %d of %d pods failed\nhint: %s\n", r.style.Paint(terminal.Bad, "error:"), r.failed, r.total,
			next(r.failures, "the same command can be run again at any time"))
	}
	return errReported
}

// namedAtMost is how many pods a command in a hint names.
const namedAtMost = 5

// next says what to do when some pods have failed; again, how to try it again.
func next(failed []types.NamespacedName, again string) string {
	var names []string
	for _, pod := range failed {
		if pod.Namespace != failed[0].Namespace || len(names) == namedAtMost {
			return again
		}
		names = append(names, "pod/"+pod.Name)
	}
	if len(names) == 0 {
		return again
	}
	slices.Sort(names)
	return fmt.Sprintf("'kubectl gateway check %s -n %s' looks for what is wrong; %s", strings.Join(names, " "), failed[0].Namespace, again)
}

func (r *report) print(text string) {
	if _, err := io.WriteString(r.out, text); err != nil && r.outErr == nil {
		r.outErr = err
	}
}

// dryRunWords says in a line of a result that nothing happened.
func dryRunWords(dryRun installed.DryRun) string {
	return map[installed.DryRun]string{installed.DryRunClient: " (dry run)", installed.DryRunServer: " (server dry run)"}[dryRun]
}
