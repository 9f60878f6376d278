package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/change"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
)

// changeOptions are the flags of the verbs that change running gateways.
type changeOptions struct {
	targets  targets.Flags
	confirm  confirmation
	output   string
	timeout  time.Duration
	existing api.Existing
	parallel int
}

func (o *changeOptions) addFlags(f *pflag.FlagSet) {
	o.targets.AddFlags(f)
	o.targets.AddAllNamespacesFlag(f)
	o.confirm.addFlag(f)
	addResults(f, &o.output)
	addTimeout(f, &o.timeout, change.DefaultTimeout, "how long one pod may take")
	flags.Choice(f, &o.existing, "existing", "", api.ExistingLeave, "what happens to open connections that are forbidden from then on", []flags.Word[api.Existing]{
		{Value: api.ExistingLeave, Meaning: "they stay"},
		{Value: api.ExistingReset, Meaning: "they are reset"},
	})
	addParallel(f, &o.parallel)
}

// verb makes the change at the gateways of pods.
func (o *changeOptions) verb(wanted change.Change) *podVerb[change.Result, changeItem] {
	wanted.Existing = o.existing
	done, question := "allows everyone in the trust domain", "change who may connect to"
	switch {
	case wanted.Mode != "":
		done, question = "mode "+string(wanted.Mode), "set mode "+string(wanted.Mode)+" for"
	case len(wanted.Rules.Allow) > 0:
		done = "allows " + strings.Join(wanted.Rules.Allow, " ")
	}
	if len(wanted.Rules.Deny) > 0 {
		done += ", denies " + strings.Join(wanted.Rules.Deny, " ")
	}
	if wanted.Rules.Audit {
		done += ", and lets in and logs whom that refuses"
	}
	return &podVerb[change.Result, changeItem]{
		targets: &o.targets, confirm: &o.confirm, output: o.output, parallel: o.parallel, question: question, gateways: true,
		begin: func(_ context.Context, config *rest.Config, client kubernetes.Interface) (work[change.Result], error) {
			changer := change.Changer{Gateways: remote.NewClient(config, client), Timeout: o.timeout}
			return func(ctx context.Context, _ *report, _ []corev1.Pod) (func(*corev1.Pod) change.Result, error) {
				return func(pod *corev1.Pod) change.Result { return changer.Change(ctx, pod, wanted) }, nil
			}, nil
		},
		tell: func(result change.Result) outcome {
			told := outcome{pod: result.Pod, done: "gateway " + done, warnings: result.Warnings, err: result.Err}
			if result.Err == nil && o.existing == api.ExistingReset {
				told.notes = []string{fmt.Sprintf("open connections that were reset: %d", result.Status.Reset)}
			}
			return told
		},
		item:    newChangeItem,
		closing: func(found *targets.Selection, _ []change.Result) []string { return ofWorkloads(found.Workloads) },
	}
}

// changeItem is the machine-readable result of one pod.
type changeItem struct {
	Namespace string   `json:"namespace"`
	Pod       string   `json:"pod"`
	Container string   `json:"container,omitempty"`
	Mode      api.Mode `json:"mode,omitempty"`
	api.Rules
	// Reset counts the open connections that the change forbade and that were reset.
	Reset    int      `json:"reset,omitempty"`
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
	item.Mode, item.Rules, item.Reset = result.Status.Mode, result.Status.Rules, result.Status.Reset
	return item
}
