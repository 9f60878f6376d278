package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
)

// selection is what a verb that only looks is to look at.
type selection struct {
	pods []corev1.Pod
	// missing joins what went wrong with named pods, nil if all were found.
	missing error
	// namespace is where was looked, empty for everywhere.
	namespace string
	chosen    *targets.Selection
}

// find returns what flags and args select. The selection is never nil.
func (a *app) find(ctx context.Context, flags *targets.Flags, args []string) (*targets.Selection, error) {
	flags.In = a.In
	return flags.Find(ctx, a.flags, args)
}

// lookAt returns the pods that flags and args select. Unlike verbs that change
// something, those that look take no selection as "whatever has a gateway".
func (a *app) lookAt(ctx context.Context, flags targets.Flags, args []string) (*selection, error) {
	namespace, err := a.namespace()
	if err != nil {
		return nil, err
	}
	nothing := flags.Empty(args)
	if nothing {
		flags.All = true
	}
	chosen, err := a.find(ctx, &flags, args)
	found := &selection{pods: chosen.Pods, namespace: namespace, chosen: chosen}
	if flags.AllNamespaces {
		found.namespace = metav1.NamespaceAll
	}
	switch {
	case nothing && errors.Is(err, targets.ErrNoMatch):
		return found, nil
	case err != nil && len(chosen.Pods) == 0:
		return nil, err
	case nothing:
		found.onlyWithGateway()
	}
	found.missing = err
	return found, nil
}

// onlyWithGateway drops the pods that never had a gateway, unless they were named.
func (s *selection) onlyWithGateway() {
	s.pods = slices.DeleteFunc(s.pods, func(pod corev1.Pod) bool {
		_, ok := installed.Current(&pod)
		return !ok && !s.chosen.IsNamed(&pod)
	})
}

// oneGateway returns the gateway that runs in the one pod that args select.
func (a *app) oneGateway(ctx context.Context, args []string) (*remote.Conn, error) {
	config, client, err := a.kubernetes()
	if err != nil {
		return nil, err
	}
	found, err := a.find(ctx, &targets.Flags{}, args)
	if err != nil {
		return nil, err
	}
	pod := &found.Pods[0]
	if len(found.Pods) != 1 {
		return nil, api.WithHint(fmt.Errorf("%s has %d pods", args[0], len(found.Pods)), "name one of them, as in pod/"+pod.Name)
	}
	gateways := remote.NewClient(config, client)
	gateway, ok := gateways.Serving(ctx, pod)
	if !ok || gateway.Phase != installed.Running {
		return nil, api.WithHint(fmt.Errorf("no gateway runs in pod %s/%s", pod.Namespace, pod.Name),
			fmt.Sprintf("'kubectl gateway enable pod/%s -n %s' adds one", pod.Name, pod.Namespace))
	}
	return gateways.Gateway(pod, gateway.Name), nil
}

// several reports whether pods are in more than one namespace.
func several(pods []corev1.Pod) bool {
	return slices.ContainsFunc(pods, func(pod corev1.Pod) bool { return pod.Namespace != pods[0].Namespace })
}

// sift returns the pods of found, in their order, without those that drop is true for.
// Pods that were named themselves stay: it is told why nothing can be done with
// them.
func sift(found *targets.Selection, drop func(*corev1.Pod) bool) []corev1.Pod {
	return slices.DeleteFunc(slices.Clone(found.Pods), func(pod corev1.Pod) bool { return !found.IsNamed(&pod) && drop(&pod) })
}

// where names the place that was looked at.
func (s *selection) where() string {
	if s.namespace == metav1.NamespaceAll {
		return "any namespace"
	}
	return fmt.Sprintf("namespace %q", s.namespace)
}
