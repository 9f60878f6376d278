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
	podFlags
	timeout  time.Duration
	existing api.Existing
}

func (o *changeOptions) addFlags(f *pflag.FlagSet) {
	o.podFlags.addFlags(f)
	addTimeout(f, &o.timeout, change.DefaultTimeout, "how long one pod may take")
	flags.Choice(f, &o.existing, "existing", "", api.ExistingLeave, "what happens to open connections that are forbidden from then on", []flags.Word[api.Existing]{
		{Value: api.ExistingLeave, Meaning: "they stay"},
		{Value: api.ExistingReset, Meaning: "they are reset"},
	})
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
		podFlags: &o.podFlags, question: question, gateways: true,
		begin: func(_ context.Context, _ *report, config *rest.Config, client kubernetes.Interface) (func(context.Context, *corev1.Pod) change.Result, error) {
			changer := change.Changer{Gateways: remote.NewClient(config, client), Timeout: o.timeout}
			return func(ctx context.Context, pod *corev1.Pod) change.Result { return changer.Change(ctx, pod, wanted) }, nil
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
	podItem
	Container string   `json:"container,omitempty"`
	Mode      api.Mode `json:"mode,omitempty"`
	api.Rules
	// Reset counts the open connections that the change forbade and that were reset.
	Reset int `json:"reset,omitempty"`
	itemEnd
}

func newChangeItem(result change.Result) changeItem {
	item := changeItem{podItem: podItemOf(result.Pod), Container: result.Container, itemEnd: itemEndOf(result.Warnings, result.Err)}
	if result.Err == nil {
		item.Mode, item.Rules, item.Reset = result.Status.Mode, result.Status.Rules, result.Status.Reset
	}
	return item
}
