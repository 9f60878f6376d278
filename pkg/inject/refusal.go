package inject

import corev1 "k8s.io/api/core/v1"

// Refusal returns why pod cannot have a gateway in the state it is in, nil if it
// can.
func (c *Cluster) Refusal(pod *corev1.Pod) error {
	return checkPod(pod, c.nodes[pod.Spec.NodeName])
}
