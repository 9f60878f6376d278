package watch

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Annotation asks for a gateway with the value "true" and against one with
// "false". That of a pod counts more than that of its namespace.
const Annotation = "kube-gateway.io"

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
