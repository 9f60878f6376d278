package targets

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/pager"

	"golang.org/x/sync/errgroup"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
)

var (
	// ErrNothingNamed says that a command line selects no pod at all.
	ErrNothingNamed = errors.New("no pod is named")
	// ErrNoMatch says that a selector, or a whole namespace, holds no pod.
	ErrNoMatch = errors.New("no pod found")
)

// parallelGets bounds how many named pods are read at a time.
const parallelGets = 16

// Select is Pods with the connection and the namespace already known.
func (f *Flags) Select(ctx context.Context, client kubernetes.Interface, namespace string, args []string) ([]corev1.Pod, error) {
	names, err := f.parse(args)
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		return named(ctx, client, namespace, names)
	}
	if f.AllNamespaces {
		namespace = metav1.NamespaceAll
	}
	return f.list(ctx, client, namespace)
}

func named(ctx context.Context, client kubernetes.Interface, namespace string, names []string) ([]corev1.Pod, error) {
	found := make([]*corev1.Pod, len(names))
	failed := make([]error, len(names))
	var group errgroup.Group
	group.SetLimit(parallelGets)
	for i, name := range names {
		group.Go(func() error {
			found[i], failed[i] = get(ctx, client, namespace, name)
			return nil
		})
	}
	_ = group.Wait()

	var pods []corev1.Pod
	for i, pod := range found {
		if failed[i] == nil {
			pods = append(pods, *pod)
		}
	}
	return pods, errors.Join(failed...)
}

func get(ctx context.Context, client kubernetes.Interface, namespace, name string) (*corev1.Pod, error) {
	pod, err := client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		return pod, nil
	case apierrors.IsNotFound(err):
		return nil, api.WithHint(fmt.Errorf("pod %q not found in namespace %q", name, namespace),
			fmt.Sprintf("'kubectl get pods -n %s' lists pods; -n names another namespace", namespace))
	}
	return nil, explain(fmt.Errorf("reading pod %q in namespace %q: %w", name, namespace, err))
}

func (f *Flags) list(ctx context.Context, client kubernetes.Interface, namespace string) ([]corev1.Pod, error) {
	where := fmt.Sprintf("namespace %q", namespace)
	if namespace == metav1.NamespaceAll {
		where = "any namespace"
	}
	if _, err := labels.Parse(f.Selector); err != nil {
		return nil, api.WithHint(fmt.Errorf("reading the selector %q: %w", f.Selector, err),
			"write it as for kubectl get -l, for example app=web,tier!=cache")
	}
	var pods []corev1.Pod
	// Chunks keep the memory of the server and of this program bounded in
	// namespaces with thousands of pods.
	pages := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return client.CoreV1().Pods(namespace).List(ctx, options)
	})
	err := pages.EachListItem(ctx, metav1.ListOptions{LabelSelector: f.Selector}, func(object runtime.Object) error {
		pods = append(pods, *object.(*corev1.Pod))
		return nil
	})
	if err != nil {
		return nil, explain(fmt.Errorf("listing the pods of %s: %w", where, err))
	}
	if len(pods) == 0 {
		if f.Selector != "" {
			return nil, api.WithHint(fmt.Errorf("%w: none in %s matches %q", ErrNoMatch, where, f.Selector),
				"'kubectl get pods --show-labels' shows the labels of pods; -n names another namespace")
		}
		return nil, api.WithHint(fmt.Errorf("%w in %s", ErrNoMatch, where), "-n names another namespace")
	}
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return pods, nil
}

// explain adds a hint to the errors that a user can do something about.
func explain(err error) error {
	switch {
	case apierrors.IsForbidden(err):
		return api.WithHint(err, "ask for a role that may get and list pods, or check --context and --as")
	case apierrors.IsUnauthorized(err):
		return api.WithHint(err, "the kubeconfig's credentials are refused: log in again")
	}
	return err
}
