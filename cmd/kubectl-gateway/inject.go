package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/announce"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// injecting returns what enable and upgrade have in common: pods to which do, of an injector with
// Options, adds a gateway.
func injecting(flags *podFlags, injector *inject.Injector, keeper *authorityFlags, question string, do worker[inject.Result]) *podVerb[inject.Result, injectItem] {
	v := &podVerb[inject.Result, injectItem]{
		podFlags: flags,
		begin: func(ctx context.Context, j *job) (_ worker[inject.Result], err error) {
			injector.Client, injector.Gateways = j.client, j.gateways
			if injector.Authority, err = authority.Open(ctx, keeper.open(ctx, j.authority(keeper.authorityDir))); err != nil {
				return nil, fmt.Errorf("loading the authority: %w", err)
			}
			return do, nil
		},
		refuse: func(pod *corev1.Pod, err error) inject.Result {
			return inject.Result{Pod: pod, Action: inject.Failed, Err: err}
		},
	}
	if injector.Options.DryRun == installed.DryRunNone {
		v.question = question
	} else {
		v.document = func(results []inject.Result) (string, error) { return dryRunObjects(results, flags.output) }
	}
	return v
}

// injected begins what is told about a pod.
func injected(result inject.Result, options *inject.Options) outcome {
	told := outcome{pod: result.Pod, warnings: result.Warnings, err: result.Err}
	if options.DryRun != installed.DryRunNone {
		return told
	}
	told.mode = modeIn(result.Status)
	switch result.Action {
	case inject.Unchanged:
	case inject.Replaced:
		told.event = announce.Replaced
	default:
		told.event = announce.Enabled
	}
	return told
}

// replacedWords says which gateway took the place of another one, and what becomes of that.
func replacedWords(result inject.Result, word string, drain time.Duration) (done string, notes []string) {
	versions := ""
	if was, is := result.Was.Version, result.Status.Version; was != is {
		versions = fmt.Sprintf(" from %s to %s", was, is)
	}
	done = fmt.Sprintf("gateway %s%s (%s by %s, %.1fs)", word, versions, result.Predecessor, result.Container, result.Elapsed.Seconds())
	if n := result.Was.Traffic.Inbound.Active + result.Was.Traffic.Outbound.Active; n > 0 {
		notes = []string{fmt.Sprintf("connections that stay with %s for at most %s: about %d", result.Predecessor, drain, n)}
	}
	return done, notes
}

// injectItem is the machine-readable result of one pod.
type injectItem struct {
	podItem
	Action    inject.Action `json:"action"`
	Container string        `json:"container,omitempty"`
	// Predecessor is the container whose place the gateway took.
	Predecessor string `json:"predecessor,omitempty"`
	// OldVersion and Version are told by upgrade.
	OldVersion string `json:"oldVersion,omitempty"`
	Version    string `json:"version,omitempty"`
	// Seconds is how long it took.
	Seconds float64 `json:"seconds"`
	// Identity, Existing and Reset are told by enable. Existing describes the connections from
	// before the gateway, and Reset counts those that were reset.
	Identity string                   `json:"identity,omitempty"`
	Mode     api.Mode                 `json:"mode,omitempty"`
	NotAfter *time.Time               `json:"certificateNotAfter,omitempty"`
	Existing *api.ExistingConnections `json:"existing,omitempty"`
	Reset    int                      `json:"reset,omitempty"`
	itemEnd
}

// injectItemOf has what enable and upgrade tell alike.
func injectItemOf(result inject.Result) injectItem {
	item := injectItem{podItem: podItemOf(result.Pod), Action: result.Action, Container: result.Container, Predecessor: result.Predecessor,
		Seconds: result.Elapsed.Seconds(), itemEnd: itemEndOf(result.Warnings, result.Err)}
	if s := result.Status; s != nil && result.Err == nil {
		item.Mode, item.NotAfter = s.Mode, &s.Cert.NotAfter
	}
	return item
}

// dryRunObjects returns the objects that enable would send, in a format.
func dryRunObjects(results []inject.Result, format string) (string, error) {
	var objects []any
	for _, result := range results {
		if result.Patch == nil || result.Err != nil {
			continue
		}
		if result.Secret != nil {
			objects = append(objects, result.Secret)
		}
		objects = append(objects, result.Patch)
	}
	return encodeObjects(objects, format)
}
