package installed

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// closedBy returns the gateway that died and keeps the pod closed, and false if there is none.
func closedBy(pod *corev1.Pod) (Gateway, bool) {
	for _, gateway := range slices.Backward(Gateways(pod)) {
		switch {
		case gateway.Phase == Running || gateway.Disabled():
			return Gateway{}, false
		case gateway.Phase != Terminated || gateway.ExitCode == api.ExitUnserved:
			continue
		}
		config, err := ConfigOf(pod, gateway.Name)
		if err == nil && config.OnFailure == api.FailClosed {
			return gateway, true
		}
	}
	return Gateway{}, false
}

// WhileClosed adds to the server's refusal of a container what that means for a pod whose gateway
// died and fails closed, and another way out.
func WhileClosed(pod *corev1.Pod, err error) error {
	dead, ok := closedBy(pod)
	if !ok || !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) {
		return err
	}
	hint := fmt.Sprintf("'kubectl delete pod %s -n %s' helps as well: a pod that replaces it has no gateway", pod.Name, pod.Namespace)
	if first := api.Hint(err); first != "" {
		hint = first + ", and again; " + hint
	}
	return api.WithHint(fmt.Errorf("%s died and fails closed, and the pod's connections are refused until another container can take over or clean up: %w", dead.Name, err), hint)
}
