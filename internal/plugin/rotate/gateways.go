package rotate

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// DefaultTimeout bounds how long one gateway may take.
const DefaultTimeout = 30 * time.Second

// gateway is one container.
type gateway struct {
	pod  *corev1.Pod
	name string
}

func holdsAll(list, wanted []string) bool {
	return !slices.ContainsFunc(wanted, func(w string) bool { return !slices.Contains(list, w) })
}

func sameSet(a, b []string) bool { return holdsAll(a, b) && holdsAll(b, a) }
