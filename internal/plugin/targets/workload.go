package targets

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/pages"
)

// relation is how objects of a kind relate to pods.
type relation int

const (
	noPods relation = iota
	itself
	// owner owns its pods, ownerOfOwners the ReplicaSets that own them.
	owner
	ownerOfOwners
	// schedule owns Jobs, which own the pods.
	schedule
	// service owns no pods: it selects them.
	service
	// custom is a kind outside of Kubernetes. It may own pods or ReplicaSets.
	custom
)

func kindOf(kind schema.GroupKind) relation {
	switch kind {
	case podKind:
		return itself
	case schema.GroupKind{Group: "apps", Kind: "Deployment"}:
		return ownerOfOwners
	case schema.GroupKind{Group: "apps", Kind: "StatefulSet"}, schema.GroupKind{Group: "apps", Kind: "DaemonSet"},
		schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}, schema.GroupKind{Group: "batch", Kind: "Job"},
		schema.GroupKind{Kind: "ReplicationController"}:
		return owner
	case schema.GroupKind{Group: "batch", Kind: "CronJob"}:
		return schedule
	case schema.GroupKind{Kind: "Service"}:
		return service
	}
	if builtin(kind.Group) {
		return noPods
	}
	return custom
}

// hasTemplate reports whether an object has a pod template.
func hasTemplate(object *unstructured.Unstructured) bool {
	_, ok, err := unstructured.NestedMap(object.Object, "spec", "template", "spec")
	return ok && err == nil
}

// podsOf returns the pods of t, ErrNoMatch if there are none.
func (c *connection) podsOf(ctx context.Context, t target) ([]corev1.Pod, error) {
	relation := kindOf(t.kind)
	if relation == itself {
		pod, err := c.pod(ctx, t.namespace, t.name)
		if err != nil {
			return nil, err
		}
		return []corev1.Pod{*pod}, nil
	}
	if relation == noPods || !t.namespaced {
		return nil, withoutPods(t)
	}
	object, err := c.dynamic.Resource(t.resource).Namespace(t.namespace).Get(ctx, t.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, api.WithHint(fmt.Errorf("%s not found in namespace %q", t, t.namespace),
			fmt.Sprintf("'kubectl get %s -n %s' lists what there is; -n names another namespace", strings.TrimSuffix(t.String(), "/"+t.name), t.namespace))
	case err != nil:
		return nil, explain(fmt.Errorf("reading %s in namespace %q: %w", t, t.namespace, err))
	case relation == custom && !hasTemplate(object):
		return nil, withoutPods(t)
	}
	var pods []corev1.Pod
	if relation == schedule {
		pods, err = c.podsOfJobs(ctx, object)
	} else {
		pods, err = c.podsOfObject(ctx, t, relation, object)
	}
	if err != nil {
		return nil, err
	}
	if len(pods) == 0 {
		hint := fmt.Sprintf("'kubectl get pods -n %s' lists the namespace's pods", t.namespace)
		if watch := t.watch(); watch != "" {
			hint = fmt.Sprintf("'%s' adds gateways to the pods to come", watch)
		}
		return nil, api.WithHint(fmt.Errorf("%w: %s in namespace %q has none at present", ErrNoMatch, t, t.namespace), hint)
	}
	return pods, nil
}

// watch is the command that adds gateways to later pods, "" where the owner of a pod does
// not identify the workload.
func (t target) watch() string {
	switch {
	case kindOf(t.kind) == owner && t.kind.Group != "", kindOf(t.kind) == ownerOfOwners, kindOf(t.kind) == schedule:
		return fmt.Sprintf("kubectl gateway watch %s -n %s", t, t.namespace)
	}
	return ""
}

func withoutPods(t target) error {
	return api.WithHint(fmt.Errorf("%s is neither a pod nor a workload with pods", t),
		"name a pod, deploy/NAME, sts/NAME, ds/NAME, rs/NAME, job/NAME, cronjob/NAME or svc/NAME, or select pods by -l")
}

// podsOfObject returns the pods of an object with a selector, ordered by name.
func (c *connection) podsOfObject(ctx context.Context, t target, relation relation, object *unstructured.Unstructured) ([]corev1.Pod, error) {
	selector, err := selectorOf(object)
	if err != nil {
		return nil, fmt.Errorf("reading the selector of %s: %w", t, err)
	}
	// An empty selector selects nothing here: some kinds have no selector, and the
	// endpoints of a Service without one are set by something else.
	if selector.Empty() {
		return nil, api.WithHint(fmt.Errorf("%s has no selector, and so no pods of its own", t), "select the pods by -l")
	}
	pods, err := c.pods(ctx, t.namespace, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil || relation == service {
		return pods, err
	}
	owners := map[types.UID]bool{object.GetUID(): true}
	if relation == ownerOfOwners || relation == custom {
		// During a rollout the ReplicaSets of former revisions have pods as well.
		err := pages.Each(ctx, metav1.ListOptions{LabelSelector: selector.String()}, c.client.AppsV1().ReplicaSets(t.namespace).List, func(set *appsv1.ReplicaSet) {
			if metav1.IsControlledBy(set, object) {
				owners[set.GetUID()] = true
			}
		})
		if err != nil {
			return nil, explain(fmt.Errorf("listing the ReplicaSets of %s: %w", t, err))
		}
	}
	return ownedBy(pods, owners), nil
}

// podsOfJobs returns the pods of the Jobs that a CronJob has.
func (c *connection) podsOfJobs(ctx context.Context, cronJob *unstructured.Unstructured) ([]corev1.Pod, error) {
	namespace := cronJob.GetNamespace()
	owners := map[types.UID]bool{}
	err := pages.Each(ctx, metav1.ListOptions{}, c.client.BatchV1().Jobs(namespace).List, func(job *batchv1.Job) {
		if metav1.IsControlledBy(job, cronJob) {
			owners[job.GetUID()] = true
		}
	})
	if err != nil {
		return nil, explain(fmt.Errorf("listing the Jobs of cronjob/%s: %w", cronJob.GetName(), err))
	}
	if len(owners) == 0 {
		return nil, nil
	}
	// Labels may not identify the Job of a pod. The owner does.
	pods, err := c.pods(ctx, namespace, metav1.ListOptions{})
	return ownedBy(pods, owners), err
}

func ownedBy(pods []corev1.Pod, owners map[types.UID]bool) []corev1.Pod {
	return slices.DeleteFunc(pods, func(pod corev1.Pod) bool {
		controller := metav1.GetControllerOf(&pod)
		return controller == nil || !owners[controller.UID]
	})
}

// selectorOf returns the selector of an object: a map of labels, as Services and
// ReplicationControllers have it, or one with expressions. Without any it is empty.
func selectorOf(object *unstructured.Unstructured) (labels.Selector, error) {
	fields, _, err := unstructured.NestedMap(object.Object, "spec", "selector")
	if err != nil {
		return nil, err
	}
	if object.GroupVersionKind().Group == "" {
		simple, _, err := unstructured.NestedStringMap(object.Object, "spec", "selector")
		return labels.SelectorFromSet(simple), err
	}
	var selector metav1.LabelSelector
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &selector); err != nil {
		return nil, err
	}
	return metav1.LabelSelectorAsSelector(&selector)
}
