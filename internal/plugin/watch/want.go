package watch

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Annotation is api.Annotation.
const Annotation = api.Annotation

// want is what was said about a pod.
type want int

const (
	// unsaid also ends what an annotation that is gone had asked for.
	unsaid want = iota
	wanted
	// named is wanted because of a name on the command line. Its gateway stays
	// when the command line is another one next time.
	named
	unwanted
	// unclear means that it cannot be known. What is there stays as it is.
	unclear
)

// wantOf returns what pod's annotation says, or else that it is named, or else
// what its namespace says. namespace is nil if that cannot be known. The error
// says what could not be understood.
func wantOf(pod *corev1.Pod, isNamed bool, namespace *corev1.Namespace) (want, error) {
	said, err := annotated(pod.Annotations, "the pod")
	switch {
	case said != unsaid:
		return said, err
	case isNamed:
		return named, nil
	case namespace == nil:
		return unclear, nil
	}
	return annotated(namespace.Annotations, "namespace "+namespace.Name)
}

func annotated(annotations map[string]string, whose string) (want, error) {
	value, ok := annotations[Annotation]
	switch {
	case !ok:
		return unsaid, nil
	case value == "true":
		return wanted, nil
	case value == "false":
		return unwanted, nil
	}
	return unclear, api.WithHint(fmt.Errorf("annotation %s of %s is %q", Annotation, whose, value),
		`write "true" or "false"`)
}

// Name names a pod, or what pods belong to.
type Name struct {
	// Kind is Pod, Deployment, ReplicaSet, StatefulSet, DaemonSet, Job or CronJob.
	Kind string
	Name string
}

// Words returns kubectl's words for each kind of a Name, the preferred one first.
func Words() map[string][]string {
	words := map[string][]string{}
	for kind, list := range map[string]string{
		"Pod":         "pod pods po",
		"Deployment":  "deploy deployment deployments deployment.apps deployments.apps",
		"ReplicaSet":  "rs replicaset replicasets replicaset.apps replicasets.apps",
		"StatefulSet": "sts statefulset statefulsets statefulset.apps statefulsets.apps",
		"DaemonSet":   "ds daemonset daemonsets daemonset.apps daemonsets.apps",
		"Job":         "job jobs job.batch jobs.batch",
		"CronJob":     "cj cronjob cronjobs cronjob.batch cronjobs.batch",
	} {
		words[kind] = strings.Fields(list)
	}
	return words
}

// KindOf returns the kind that a word stands for, or "".
func KindOf(word string) string {
	for kind, words := range Words() {
		if slices.Contains(words, strings.ToLower(word)) {
			return kind
		}
	}
	return ""
}

// ParseNames reads arguments like deploy/web. One without a kind is a pod.
func ParseNames(args []string) ([]Name, error) {
	var names []Name
	for _, arg := range args {
		word, name, found := strings.Cut(arg, "/")
		if !found {
			word, name = "pod", arg
		}
		kind := KindOf(word)
		if kind == "" {
			return nil, api.WithHint(fmt.Errorf("%q is of no kind that can be watched", arg),
				"name a deploy, sts, ds, rs, job, cronjob or pod, or annotate the pods' template with "+Annotation+"=true")
		}
		if name == "" || strings.Contains(name, "/") {
			return nil, api.WithHint(fmt.Errorf("%q names nothing", arg), "write it like deploy/web")
		}
		if n := (Name{kind, name}); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names, nil
}

// isNamed reports whether names name pod or what it belongs to. owner is what
// controls the controller of pod, such as the Deployment of a ReplicaSet; nil if
// nothing does.
func isNamed(names []Name, pod *corev1.Pod, owner *metav1.OwnerReference) bool {
	direct := metav1.GetControllerOf(pod)
	return slices.ContainsFunc(names, func(n Name) bool {
		return n == Name{"Pod", pod.Name} || n.is(direct) || n.is(owner)
	})
}

func (n Name) is(owner *metav1.OwnerReference) bool {
	return owner != nil && owner.Kind == n.Kind && owner.Name == n.Name
}
