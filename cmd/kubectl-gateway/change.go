package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/change"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
)

// changeOptions are the flags of the verbs that change running gateways.
type changeOptions struct {
	targets  targets.Flags
	confirm  confirmation
	output   string
	timeout  time.Duration
	parallel int
}

func (o *changeOptions) addFlags(f *pflag.FlagSet) {
	o.targets.AddFlags(f)
	o.targets.AddAllNamespacesFlag(f)
	o.confirm.addFlag(f)
	addResults(f, &o.output)
	addTimeout(f, &o.timeout, change.DefaultTimeout, "how long one pod may take")
	addParallel(f, &o.parallel)
}

// run changes the gateways of the pods that flags and args select.
func (o *changeOptions) run(ctx context.Context, a *app, wanted change.Change, args []string) error {
	if err := o.confirm.check(a, &o.targets); err != nil {
		return err
	}
	found, missing := a.find(ctx, &o.targets, args)
	if len(found.Pods) == 0 {
		return missing
	}
	config, client, err := a.kubernetes()
	if err != nil {
		return err
	}
	report := &changeReport{report: newReport(a, o.output), wanted: wanted}
	report.namespaces = several(found.Pods)
	pods := sift(found, func(pods []corev1.Pod) []corev1.Pod { return report.skipWithoutGateway(report.skipLeaving(pods)) })
	if len(pods) == 0 && missing == nil {
		return api.WithHint(errors.New("none of the selected pods has a gateway"), "'kubectl gateway enable pod/NAME' adds one")
	}
	if err := o.confirm.ask(ctx, a, &o.targets, report.question(), pods); err != nil {
		return err
	}
	report.missing(missing)
	changer := change.Changer{Gateways: remote.NewClient(config, client), Parallel: o.parallel, Timeout: o.timeout}
	results := changer.ChangeAll(ctx, pods, wanted, report.add)
	report.ofWorkloads(found.Workloads)
	err = finish(&report.report, results, newChangeItem)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// changeReport tells the user what became of a change.
type changeReport struct {
	report
	wanted change.Change
}

// add reports the result of one pod.
func (r *changeReport) add(result change.Result) {
	r.total++
	if result.Err != nil {
		r.failPod(result.Pod, result.Err)
		return
	}
	r.done(result.Pod, "gateway "+r.what())
	r.warn(r.name(result.Pod)+": ", result.Warnings)
}

// what says what was changed, in the words of the command line.
func (r *changeReport) what() string {
	switch {
	case r.wanted.Mode != "":
		return "mode " + string(r.wanted.Mode)
	case len(r.wanted.Allow) == 0:
		return "allows everyone in the trust domain"
	}
	return "allows " + strings.Join(r.wanted.Allow, " ")
}

// question is what to ask before many gateways are changed, up to how many.
func (r *changeReport) question() string {
	if r.wanted.Mode != "" {
		return "set mode " + string(r.wanted.Mode) + " for"
	}
	return "change who may connect to"
}

// changeItem is the machine-readable result of one pod.
type changeItem struct {
	Namespace string   `json:"namespace"`
	Pod       string   `json:"pod"`
	Container string   `json:"container,omitempty"`
	Mode      api.Mode `json:"mode,omitempty"`
	// Allow is empty if everyone in the trust domain may connect.
	Allow    []string `json:"allow,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	Error    string   `json:"error,omitempty"`
	Hint     string   `json:"hint,omitempty"`
}

func newChangeItem(result change.Result) changeItem {
	item := changeItem{Namespace: result.Pod.Namespace, Pod: result.Pod.Name, Container: result.Container, Warnings: result.Warnings}
	if result.Err != nil {
		item.Error, item.Hint = told(result.Err)
		return item
	}
	item.Mode, item.Allow = result.Status.Mode, result.Status.Allow
	return item
}
