package targets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/pages"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
)

// list returns the pods that the flags select.
func (f *Flags) list(ctx context.Context, c *connection) ([]corev1.Pod, error) {
	namespace, where := c.namespace, fmt.Sprintf("namespace %q", c.namespace)
	if f.AllNamespaces {
		namespace, where = metav1.NamespaceAll, "any namespace"
	}
	if _, err := labels.Parse(f.Selector); err != nil {
		return nil, api.WithHint(fmt.Errorf("reading the selector %q: %w", f.Selector, err),
			"write it as for kubectl get -l, for example app=web,tier!=cache")
	}
	if _, err := fields.ParseSelector(f.FieldSelector); err != nil {
		return nil, api.WithHint(fmt.Errorf("reading the field selector %q: %w", f.FieldSelector, err),
			"write it as for kubectl get --field-selector, for example status.phase=Running")
	}
	pods, err := c.pods(ctx, namespace, metav1.ListOptions{LabelSelector: f.Selector, FieldSelector: f.FieldSelector})
	switch {
	case apierrors.IsBadRequest(err) && f.FieldSelector != "":
		return nil, api.WithHint(err, "pods can be selected by metadata.name, metadata.namespace, spec.nodeName, spec.serviceAccountName, "+
			"spec.restartPolicy, spec.schedulerName, spec.hostNetwork, status.phase, status.podIP and status.nominatedNodeName")
	case err != nil:
		return nil, err
	case len(pods) > 0:
		return pods, nil
	case f.selects():
		selectors := slices.DeleteFunc([]string{f.Selector, f.FieldSelector}, func(s string) bool { return s == "" })
		return nil, api.WithHint(fmt.Errorf("%w: none in %s matches %q", ErrNoMatch, where, strings.Join(selectors, " and ")),
			"'kubectl get pods --show-labels' shows the labels of pods; -n names another namespace")
	}
	return nil, api.WithHint(fmt.Errorf("%w in %s", ErrNoMatch, where), "-n names another namespace")
}

// pods lists pods, by namespace and name.
func (c *connection) pods(ctx context.Context, namespace string, options metav1.ListOptions) ([]corev1.Pod, error) {
	var pods []corev1.Pod
	err := pages.Each(ctx, options, c.client.CoreV1().Pods(namespace).List, func(pod *corev1.Pod) { pods = append(pods, *pod) })
	if err != nil {
		where := fmt.Sprintf("namespace %q", namespace)
		if namespace == metav1.NamespaceAll {
			where = "all namespaces"
		}
		return nil, explain(fmt.Errorf("listing the pods of %s: %w", where, err))
	}
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return pods, nil
}

func (c *connection) pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod, err := c.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		return pod, nil
	case apierrors.IsNotFound(err):
		return nil, api.WithHint(fmt.Errorf("pod %q not found in namespace %q", name, namespace),
			fmt.Sprintf("'kubectl get pods -n %s' lists pods; -n names another namespace", namespace))
	}
	return nil, explain(fmt.Errorf("reading pod %q in namespace %q: %w", name, namespace, err))
}

// explain adds advice to err.
func explain(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case apierrors.IsForbidden(err):
		return api.WithHint(err, cmp.Or(rights.Hint(err.Error()), "ask for a role that may get and list pods and the workloads that are named")+", or check --context and --as")
	}
	return err
}
