package declared

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
)

// Workload is what a pod belongs to, whose own annotations count for its pods without a rollout.
type Workload struct {
	// Kind is Deployment, StatefulSet, DaemonSet or Job.
	Kind, Namespace, Name string
}

// Kinds returns all kinds of a Workload.
func Kinds() []string { return []string{"Deployment", "StatefulSet", "DaemonSet", "Job"} }

// String is the name of w as a Place.
func (w Workload) String() string { return strings.ToLower(w.Kind) + "/" + w.Name }

// WorkloadOf returns the workload of pod, false if it has none of those kinds. The ReplicaSet of a Deployment is
// named after that and the hash of the template.
func WorkloadOf(pod *corev1.Pod) (Workload, bool) {
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return Workload{}, false
	}
	w := Workload{owner.Kind, pod.Namespace, owner.Name}
	switch group, _, _ := strings.Cut(owner.APIVersion, "/"); group + " " + owner.Kind {
	case "apps StatefulSet", "apps DaemonSet", "batch Job":
		return w, true
	case "apps ReplicaSet":
		hash := pod.Labels["pod-template-hash"]
		name, ok := strings.CutSuffix(owner.Name, "-"+hash)
		w.Kind, w.Name = "Deployment", name
		return w, ok && hash != ""
	}
	return Workload{}, false
}

// Places returns where the settings of pod can be declared, the pod first. The annotations of its workload and of its
// namespace are nil where there are none.
func Places(pod *corev1.Pod, workload, namespace map[string]string) []Place {
	places := []Place{{"pod", pod.Annotations}}
	if w, ok := WorkloadOf(pod); ok {
		places = append(places, Place{w.String(), workload})
	}
	return append(places, Place{"namespace/" + pod.Namespace, namespace})
}

// Reader reads what is declared about pods: each object once.
type Reader struct {
	namespaces func(string) answer
	workloads  func(Workload) answer
}

type answer struct {
	annotations map[string]string
	err         error
}

// NewReader returns a Reader of what client has, until ctx ends.
func NewReader(ctx context.Context, client kubernetes.Interface) *Reader {
	get := func(object metav1.Object, err error, what string) answer {
		switch {
		case apierrors.IsNotFound(err):
			return answer{}
		case err != nil:
			return answer{err: fmt.Errorf("reading the annotations of %s: %w", what, err)}
		}
		return answer{annotations: object.GetAnnotations()}
	}
	return &Reader{
		namespaces: parallel.Once(func(name string) answer {
			object, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
			return get(object, err, "namespace/"+name)
		}),
		workloads: parallel.Once(func(w Workload) answer {
			var object metav1.Object
			var err error
			switch apps := client.AppsV1(); w.Kind {
			case "Deployment":
				object, err = apps.Deployments(w.Namespace).Get(ctx, w.Name, metav1.GetOptions{})
			case "StatefulSet":
				object, err = apps.StatefulSets(w.Namespace).Get(ctx, w.Name, metav1.GetOptions{})
			case "DaemonSet":
				object, err = apps.DaemonSets(w.Namespace).Get(ctx, w.Name, metav1.GetOptions{})
			default:
				object, err = client.BatchV1().Jobs(w.Namespace).Get(ctx, w.Name, metav1.GetOptions{})
			}
			return get(object, err, w.String()+" -n "+w.Namespace)
		}),
	}
}

// Read returns what is declared about the gateway of pod. What may not be read is left out, and unread says what that is.
func (r *Reader) Read(pod *corev1.Pod) (settings Settings, unread []error) {
	read := func(a answer) map[string]string {
		if a.err != nil {
			unread = append(unread, a.err)
		}
		return a.annotations
	}
	var workload map[string]string
	if w, ok := WorkloadOf(pod); ok {
		workload = read(r.workloads(w))
	}
	return Resolve(Places(pod, workload, read(r.namespaces(pod.Namespace)))...), unread
}
