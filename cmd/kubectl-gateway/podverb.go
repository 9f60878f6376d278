package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/announce"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
)

// podFlags are the flags of the verbs that change many pods.
type podFlags struct {
	targets  targets.Flags
	yes      bool
	output   string
	parallel int
}

func (o *podFlags) addFlags(f *pflag.FlagSet) {
	o.targets.AddFlags(f)
	f.BoolVarP(&o.yes, "yes", "y", false, "do not ask for a confirmation of --all and -A")
	addOutput(f, &o.output, "", "name", "json", "yaml", "kyaml")
	addParallel(f, &o.parallel)
}

// podItem begins the machine-readable result of one pod.
type podItem struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
}

func podItemOf(pod *corev1.Pod) podItem { return podItem{pod.Namespace, pod.Name} }

// itemEnd ends it.
type itemEnd struct {
	Warnings []string `json:"warnings,omitempty"`
	Error    string   `json:"error,omitempty"`
	Hint     string   `json:"hint,omitempty"`
}

func itemEndOf(warnings []string, err error) itemEnd {
	end := itemEnd{Warnings: warnings}
	if err != nil {
		end.Error, end.Hint = told(err)
	}
	return end
}

// job is what a podVerb works with: the cluster, its gateways, and where it tells of pods.
type job struct {
	*report
	client   kubernetes.Interface
	gateways *remote.Client
}

// authority says where the authority is, and has warnings about the trust bundle printed.
func (j *job) authority(dir string) authority.Location {
	return authority.Location{Client: j.client, Dir: dir, Remark: func(text string) { j.warn("", []string{text}) }}
}

// worker does the work of a verb with one pod.
type worker[R any] func(context.Context, *corev1.Pod) R

// podVerb is a verb that does one thing with each of many pods: it selects them, leaves
// out what it is nothing for, asks, works on some at a time, tells the result of each in
// a line, and prints them as a whole where a program reads them. R is the result of one
// pod, I its machine-readable form.
type podVerb[R, I any] struct {
	*podFlags
	// question is what to ask before all that is there is changed, up to how many. It is
	// empty in a dry run.
	question string
	// gateways leaves out the pods that have no gateway, and ending takes in those that are being deleted.
	gateways, ending bool
	// begin reads what the verb needs before anything is asked or done, and returns what
	// is done with a pod.
	begin func(context.Context, *job) (worker[R], error)
	// survey, if not nil, looks at the cluster before anything is done with pods.
	survey func(ctx context.Context, j *job, pods []corev1.Pod) error
	// uses are the rights that are asked for once in each namespace, refuse is the
	// result of a pod where one is missing.
	uses   []rights.Use
	refuse func(*corev1.Pod, error) R
	tell   func(R) outcome
	item   func(R) I
	// document, if not nil, replaces the list of items.
	document func(results []R) (string, error)
	// group, if not nil, names the pods of which one is worked on at a time. When one has failed,
	// the others of its group are left alone.
	group func(*corev1.Pod) types.UID
	// closing, if not nil, returns lines that follow those of the pods.
	closing func(found *targets.Selection, results []R) []string
}

// run does the verb with the pods that args and flags select. The error is errReported
// if one of them has failed.
func (v *podVerb[R, I]) run(ctx context.Context, a *app, args []string) error {
	if v.question != "" {
		if err := v.checkConfirmation(a); err != nil {
			return err
		}
	}
	found, missing := a.find(ctx, &v.targets, args)
	if len(found.Pods) == 0 {
		return missing
	}
	config, client, err := a.kubernetes()
	if err != nil {
		return err
	}
	return v.on(ctx, a, client, remote.NewClient(config, client), found, missing)
}

// on is run with what was found. missing joins the errors of named pods that are not
// there.
func (v *podVerb[R, I]) on(ctx context.Context, a *app, client kubernetes.Interface, gateways *remote.Client, found *targets.Selection, missing error) error {
	r := newReport(a, v.output)
	j := &job{r, client, gateways}
	r.namespaces = several(found.Pods)
	pods := sift(found, func(pod *corev1.Pod) bool { return r.skips(pod, v.gateways, v.ending) })
	if v.gateways && len(pods) == 0 && missing == nil {
		return api.WithHint(errors.New("none of the selected pods has a gateway"), "'kubectl gateway enable pod/NAME' adds one")
	}
	do, err := v.begin(ctx, j)
	if err != nil {
		return err
	}
	if v.question != "" {
		if err := v.confirm(ctx, a, v.question, pods); err != nil {
			return err
		}
	}
	r.missing(missing)
	if v.survey != nil && len(pods) > 0 {
		if err := v.survey(ctx, j, pods); err != nil {
			return err
		}
	}
	shown := newAnnouncer(client)
	// One pod's failure is no concern of the others.
	allowed := parallel.Once(func(namespace string) error { return rights.Preflight(ctx, client, namespace, v.uses...) })
	results := v.each(pods, func(pod *corev1.Pod) finished[R] {
		if err := allowed(pod.Namespace); err != nil {
			return v.finished(v.refuse(pod, cmp.Or(ctx.Err(), err)))
		}
		end := v.finished(do(ctx, pod))
		if ctx.Err() == nil {
			end.left = end.err != nil && !found.IsNamed(pod) && installed.Left(ctx, client, pod)
			shown.outcome(ctx, end.outcome)
		}
		return end
	}, func(end finished[R]) { r.add(end.outcome) })
	shown.close()
	var stayed []R
	for _, end := range results {
		if !end.left {
			stayed = append(stayed, end.result)
		}
	}
	err = v.finish(r, found, stayed)
	if ctx.Err() != nil {
		// What was left is said; main says that the command was interrupted.
		return ctx.Err()
	}
	return err
}

// finished is the result of one pod, and what there is to tell about it.
type finished[R any] struct {
	outcome
	result R
}

func (v *podVerb[R, I]) finished(result R) finished[R] { return finished[R]{v.tell(result), result} }

// announcer makes outcomes visible at their pods for kubectl, as far as the user may do that.
type announcer struct {
	poster *announce.Poster
	marker *announce.Marker
}

func newAnnouncer(client kubernetes.Interface) *announcer {
	return &announcer{announce.NewPoster(client), announce.NewMarker(client)}
}

// close waits a moment for what is still to be written.
func (s *announcer) close() { s.poster.Close() }

func (s *announcer) outcome(ctx context.Context, o outcome) {
	if o.left {
		return
	}
	reason, text := o.event, o.done
	if o.err != nil && reason != "" {
		what, hint := told(o.err)
		reason, text = announce.Failed, what+"; "+hint
	}
	if reason != "" {
		s.poster.Post(o.pod.Namespace, o.pod.Name, o.pod.UID, reason, text)
	}
	if o.err == nil && o.mode != nil {
		s.marker.Label(ctx, o.pod, *o.mode)
	}
}

// modeIn is the mode in status, nil if there is none.
func modeIn(status *api.Status) *api.Mode {
	if status == nil {
		return nil
	}
	return &status.Mode
}

// each calls do for pods, group by group if there are groups, and report with each result, one at a time. It
// returns the results in the order of pods.
func (v *podVerb[R, I]) each(pods []corev1.Pod, do func(*corev1.Pod) finished[R], report func(finished[R])) []finished[R] {
	if v.group == nil {
		return parallel.Each(v.parallel, pods, do, report)
	}
	var groups [][]int
	at := map[types.UID]int{}
	for i := range pods {
		name := v.group(&pods[i])
		n, ok := at[name]
		if !ok {
			n = len(groups)
			at[name], groups = n, append(groups, nil)
		}
		groups[n] = append(groups[n], i)
	}
	results := make([]finished[R], len(pods))
	var reporting sync.Mutex
	parallel.Each(v.parallel, groups, func(group *[]int) struct{} {
		var failed *corev1.Pod
		for _, i := range *group {
			pod := &pods[i]
			if failed != nil {
				results[i] = v.finished(v.refuse(pod, api.WithHint(fmt.Errorf("left as it is, because pod/%s of the same workload has failed", failed.Name), "solve that first; or name this pod alone")))
			} else if results[i] = do(pod); results[i].err != nil && !results[i].left {
				failed = pod
			}
			reporting.Lock()
			report(results[i])
			reporting.Unlock()
		}
		return struct{}{}
	}, nil)
	return results
}

// finish prints what is told about all pods, and results as a whole, in their order.
func (v *podVerb[R, I]) finish(r *report, found *targets.Selection, results []R) error {
	if v.closing != nil {
		for _, text := range v.closing(found, results) {
			fmt.Fprintln(r.errOut, line(text))
		}
	}
	if r.format != "" && r.format != "name" {
		document := v.document
		if document == nil {
			document = v.list
		}
		text, err := document(results)
		if err != nil {
			return err
		}
		r.print(text)
	}
	return r.summary()
}

func (v *podVerb[R, I]) list(results []R) (string, error) {
	return encode(map[string]any{"items": append([]I{}, lists.Map(results, v.item)...)}, v.output)
}

// ofWorkloads says that what was done is not done with the pods to come.
func ofWorkloads(workloads []targets.Workload) (lines []string) {
	for _, w := range workloads {
		text := "new pods of " + w.Name + " get no gateway by themselves"
		if w.Watch != "" {
			text += ": " + w.Watch
		}
		lines = append(lines, text)
	}
	return lines
}
