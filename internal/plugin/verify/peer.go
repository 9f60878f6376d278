package verify

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

// ChoosePeer returns a pod to verify pod with: one of its namespace in which a
// gateway runs, on another node if there is one.
func ChoosePeer(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) (*corev1.Pod, error) {
	list, err := client.CoreV1().Pods(pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("looking for another pod with a gateway: %w", err)
	}
	var chosen *corev1.Pod
	for i := range list.Items {
		peer := &list.Items[i]
		if _, err := addressFor(pod, peer); err != nil || !installed.Runs(peer) || peer.UID == pod.UID || installed.Leaving(peer) {
			continue
		}
		if peer.Spec.NodeName != pod.Spec.NodeName {
			return peer, nil
		}
		if chosen == nil {
			chosen = peer
		}
	}
	if chosen == nil {
		return nil, api.WithHint(fmt.Errorf("no other pod of namespace %s has a gateway that runs", pod.Namespace),
			"name the pod to talk to: kubectl gateway verify pod/"+pod.Name+" pod/NAME")
	}
	return chosen, nil
}
