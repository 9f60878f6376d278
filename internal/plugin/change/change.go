// Package change changes the settings of gateways that run, many at a time.
package change

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

// DefaultTimeout bounds how long one gateway may take. It gives a worker
// more than twice the time after which the gateway gives it up.
const DefaultTimeout = 15 * time.Second

// Change is what is to be changed: either the mode, or the identity rules.
type Change struct {
	// Mode is empty for a change of the rules.
	Mode api.Mode
	// Allow holds the rules; none of them allow everyone in the trust domain.
	Allow []string
}

// Result is the outcome for one pod.
type Result struct {
	Pod       *corev1.Pod
	Container string
	// Status is what the gateway says after the change, nil if it failed.
	Status *api.Status
	// Warnings are for the user, one line each.
	Warnings []string
	// Err is why the gateway was not changed, or why that is not known. Its
	// words may be the gateway's: clean them before they reach a terminal.
	Err error
}

// Changer changes gateways. It is safe for concurrent use.
type Changer struct {
	Gateways *remote.Client
	// Parallel and Timeout are parallel.Default and DefaultTimeout, which
	// they become if zero.
	Parallel int
	Timeout  time.Duration
}

// ChangeAll changes the newest gateway of every pod, and calls report with the
// result of each as it comes; calls do not overlap. One pod's failure is no
// concern of the others. Results are in the order of pods.
func (c *Changer) ChangeAll(ctx context.Context, pods []corev1.Pod, change Change, report func(Result)) []Result {
	return parallel.Each(cmp.Or(max(c.Parallel, 0), parallel.Default), pods, func(pod *corev1.Pod) Result {
		return c.change(ctx, pod, change)
	}, report)
}

func (c *Changer) change(ctx context.Context, pod *corev1.Pod, change Change) Result {
	result := Result{Pod: pod}
	gateway, err := installed.RunningGateway(pod)
	result.Container = gateway.Name
	if err != nil {
		result.Err = err
		return result
	}
	timeout := cmp.Or(c.Timeout, DefaultTimeout)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	status, err := apply(ctx, c.Gateways.Gateway(pod, gateway.Name), change)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		result.Err = api.WithHint(fmt.Errorf("no answer within %v, and the change may have been made", timeout), "'kubectl gateway status' tells; --timeout waits longer")
	case errors.Is(err, context.Canceled):
		result.Err = errors.New("interrupted, and the change may have been made")
	case err != nil:
		result.Err = err
	default:
		result.Status, result.Warnings = status, warnings(change, status)
	}
	return result
}

// apply makes change, which the gateway has confirmed then.
func apply(ctx context.Context, gateway *remote.Conn, change Change) (*api.Status, error) {
	if change.Mode != "" {
		return gateway.SetMode(ctx, change.Mode)
	}
	return gateway.SetAllow(ctx, change.Allow)
}

func warnings(change Change, status *api.Status) []string {
	var list []string
	if change.Mode == api.Strict && status.OnFailure == api.FailOpen {
		list = append(list, "on-failure stays open: without its gateway the pod would connect in plaintext, until it is replaced and enabled with --mode=strict")
	}
	if status.State != api.Ready {
		list = append(list, fmt.Sprintf("the gateway is %.40q; the change holds once it works again", status.State))
	}
	return list
}
