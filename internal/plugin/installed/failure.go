package installed

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// FailedError says that a gateway's container has ended or will not start, in the
// words of the kubelet or of the gateway.
type FailedError struct{ error }

func (e *FailedError) Unwrap() error { return e.error }

// find returns gateway as pod has it now. A list from a cache may show pod as
// it was before the container was added.
func find(pod *corev1.Pod, gateway Gateway) Gateway {
	for _, g := range Gateways(pod) {
		if g.Name == gateway.Name {
			return g
		}
	}
	return gateway
}

// outlook is what may still become of a gateway that does not work.
type outlook int

const (
	// hopeless will never work, or only once somebody has changed something.
	hopeless outlook = iota
	// doubtful may work soon, and otherwise never.
	doubtful
	// late is a container that the kubelet tries to start again until it succeeds.
	late
)

// failure returns why gateway does not work, nil if nothing keeps it from that, and its outlook
// then.
func failure(pod *corev1.Pod, gateway Gateway) (outlook, error) {
	if gateway.Phase == Terminated && gateway.Sidecar && !gateway.Disabled() {
		return late, Ended(pod, gateway)
	}
	if gateway.Phase == Terminated {
		return hopeless, Ended(pod, gateway)
	}
	if gateway.Phase != Waiting {
		return hopeless, nil
	}
	hint := fmt.Sprintf("'kubectl describe pod %s -n %s' shows the events of the pod", pod.Name, pod.Namespace)
	words := OneLine(gateway.Message)
	chance := hopeless
	switch gateway.Reason {
	case "ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed":
		hint = "check --image; a private registry also needs imagePullSecrets in the pod or its service account"
		if says(words, registryWords()) {
			chance = late
		}
	case "InvalidImageName":
		hint = "check --image"
	case "ErrImageNeverPull":
		hint = "load the image into the node, or use --image-pull-policy=IfNotPresent"
	case "CreateContainerConfigError":
		switch {
		case says(words, kubeletWords()):
			chance = late
		case strings.Contains(strings.ToLower(words), "secret"):
			chance = doubtful
		}
	case "CreateContainerError":
		if says(words, runtimeWords()) {
			chance = late
		}
	case "RunContainerError":
		// The kubelet does not start an ephemeral container twice, but the runtime may be at it.
		if says(words, runtimeWords()) {
			chance = doubtful
		}
	case "PreCreateHookError", "PreStartHookError", "PostStartHookError":
	default:
		return hopeless, nil
	}
	err := fmt.Errorf("container %s cannot start: %s", gateway.Name, gateway.Reason)
	if words != "" {
		err = fmt.Errorf("%w: %s", err, words)
	}
	return chance, api.WithHint(err, hint)
}

// kubeletWords are the kubelet's about what it has not read yet of the API server.
func kubeletWords() []string {
	return []string{
		"failed to sync secret cache", "failed to sync configmap cache", "timed out waiting for the condition",
		// The kubelet does not know yet that the pod names the object.
		"not registered",
		"services have not yet been read at least once",
		"context deadline exceeded",
	}
}

// runtimeWords are the kubelet's about a container runtime that is slow, or starts again.
func runtimeWords() []string {
	return []string{
		"context deadline exceeded", "deadlineexceeded", "operation timeout",
		// The runtime still works on what the kubelet has given up to wait for.
		"is reserved", "kubelet may be retrying requests",
		"code = unavailable", "connection refused", "connection reset",
	}
}

// registryWords are those of a registry, or of the way to it, which may be in order again soon.
func registryWords() []string {
	return []string{
		"toomanyrequests", "too many requests", "pull qps exceeded",
		"internal server error", "bad gateway", "service unavailable", "gateway timeout",
		"i/o timeout", "tls handshake timeout", "timeout exceeded while awaiting headers", "unexpected eof",
		"temporary failure in name resolution", "server misbehaving",
		"context deadline exceeded", "deadlineexceeded", "code = unavailable", "connection refused", "connection reset",
	}
}

// says reports whether text has one of words, which are in lower case.
func says(text string, words []string) bool {
	text = strings.ToLower(text)
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(text, w) })
}

// Ended turns the last words of a gateway, and the hint below them, into an error.
func Ended(pod *corev1.Pod, gateway Gateway) error {
	text, hint, hinted := strings.Cut(gateway.Message, "\nhint: ")
	if lines := strings.Split(strings.TrimSpace(text), "\n"); !hinted {
		// Without last words of its own, these are the end of its log.
		text = lines[len(lines)-1]
	}
	return api.WithHint(fmt.Errorf("container %s ended with exit code %d: %s", gateway.Name, gateway.ExitCode, NameContainers(pod, cmp.Or(OneLine(text), gateway.Reason))),
		cmp.Or(OneLine(hint), fmt.Sprintf("'kubectl logs %s -c %s -n %s' shows its log", pod.Name, gateway.Name, pod.Namespace)))
}

// Hopeful reports whether a gateway works, as far as the kubelet knows, or may
// be on its way because another plugin is adding it just now.
func Hopeful(pod *corev1.Pod, gateway Gateway) bool {
	chance, err := failure(pod, gateway)
	// A failed Enable deletes its Secret for good.
	return err == nil || chance != hopeless && !strings.Contains(gateway.Message, "not found")
}

// Pulls reports whether gateway has not started because its image has not been pulled.
func (g *Gateway) Pulls() bool {
	return g.Phase == Waiting && slices.Contains([]string{"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"}, g.Reason)
}

// unseen reports whether the kubelet has not come to gateway, or is pulling its image.
func (g *Gateway) unseen() bool {
	return g.Phase == Waiting && slices.Contains([]string{"", "ContainerCreating", "PodInitializing"}, g.Reason)
}

// Ahead returns the ephemeral container of pod, a gateway or not, that keeps the kubelet from
// gateway: it starts them one after another, and waits for the pull of each one's image.
func Ahead(pod *corev1.Pod, gateway Gateway) (Gateway, bool) {
	if !gateway.unseen() {
		return Gateway{}, false
	}
	for _, container := range pod.Spec.EphemeralContainers {
		if container.Name == gateway.Name {
			break
		}
		ahead := Gateway{Name: container.Name, Image: container.Image, Phase: Waiting}
		for _, status := range pod.Status.EphemeralContainerStatuses {
			if status.Name == container.Name {
				ahead.observe(status.State)
			}
		}
		if ahead.unseen() || ahead.Pulls() {
			return ahead, true
		}
	}
	return Gateway{}, false
}

// OneLine puts a text of several lines into one.
func OneLine(text string) string {
	return strings.Join(strings.Fields(text), " ")
}

// NameContainers puts the names of pod's containers in the place of their IDs in text. A gateway
// knows the others by their cgroups alone.
func NameContainers(pod *corev1.Pod, text string) string {
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses) {
		if _, id, ok := strings.Cut(status.ContainerID, "://"); ok && id != "" {
			text = strings.ReplaceAll(text, id, status.Name)
		}
	}
	return text
}

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
