// Package limits knows what a pod may use of its node: an ephemeral container cannot have resources
// of its own, so that a gateway has what the pod's other containers leave.
package limits

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// Limits are the limits of a pod as a whole; nil is none.
type Limits struct {
	// Memory and CPU are those of the pod's cgroup.
	Memory, CPU *resource.Quantity
}

// Of returns the limits of pod, by its specification.
func Of(pod *corev1.Pod) Limits {
	return Limits{
		Memory: ofCgroup(pod, corev1.ResourceMemory),
		CPU:    ofCgroup(pod, corev1.ResourceCPU),
	}
}

// ofCgroup returns the limit that the kubelet gives to the pod's cgroup: the pod's own (KEP-2837), or the
// sum of those of its containers if all have one.
func ofCgroup(pod *corev1.Pod, name corev1.ResourceName) *resource.Quantity {
	if r := pod.Spec.Resources; r != nil {
		if limit, ok := r.Limits[name]; ok {
			return &limit
		}
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if limit := c.Resources.Limits[name]; limit.IsZero() {
			return nil
		}
	}
	total := helpers.AggregateContainerLimits(pod, helpers.PodResourcesOptions{})[name]
	if total.IsZero() {
		return nil
	}
	// The overhead belongs to the pod, not to a container (KEP-688).
	total.Add(pod.Spec.Overhead[name])
	return &total
}

// Tight says in one clause that little is left of a pod's memory, by what its gateway reports; empty if
// enough is left, or there is no limit.
func Tight(m *api.Memory) string {
	switch {
	case m == nil || m.Limit == 0 || m.Left >= api.HeadRoom:
		return ""
	case m.Room == 0:
		return fmt.Sprintf("of the pod's memory limit of %s only %s are left: new connections are refused", bytes(m.Limit), bytes(m.Left))
	}
	return fmt.Sprintf("of the pod's memory limit of %s %s are left, enough for about %d more connections: others are refused", bytes(m.Limit), bytes(m.Left), m.Room)
}

// Small says in one clause that a pod without a gateway has small limits; empty if it has not. What the
// application uses is not known.
func (l Limits) Small() string {
	var clauses []string
	if m := l.Memory; m != nil && m.Value() < api.IdleMemory+api.HeadRoom {
		clauses = append(clauses, fmt.Sprintf("its memory limit is %s, of which a gateway takes %s and %s for each new connection",
			m.String(), bytes(api.IdleMemory), bytes(api.ConnectionMemory)))
	}
	if c := l.CPU; c != nil && c.MilliValue() < smallCPU {
		clauses = append(clauses, fmt.Sprintf("its CPU limit is %s, enough for about %d new connections a second and nothing else",
			c.String(), c.MilliValue()/handshakeCPU))
	}
	return strings.Join(clauses, "; ")
}

const (
	// handshakeCPU is what a new connection takes of a CPU, in milliseconds: a full handshake at one end.
	handshakeCPU = 2
	// smallCPU is in thousandths of a CPU, as much as fifty new connections a second take.
	smallCPU = 100
)

func bytes(n int64) string { return terminal.Bytes(uint64(max(n, 0))) }
