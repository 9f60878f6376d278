package installed

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

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

// failure returns why gateway does not work: final if it never will, curable if
// the kubelet may still get over it.
func failure(pod *corev1.Pod, gateway Gateway) (final, curable error) {
	if gateway.Phase == Terminated {
		return Ended(pod, gateway), nil
	}
	if gateway.Phase != Waiting {
		return nil, nil
	}
	hint := fmt.Sprintf("'kubectl describe pod %s -n %s' shows the events of the pod", pod.Name, pod.Namespace)
	words := OneLine(gateway.Message)
	getsOver := false
	switch gateway.Reason {
	case "ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed":
		hint = "check --image; a private registry also needs imagePullSecrets in the pod or its service account"
	case "InvalidImageName":
		hint = "check --image"
	case "ErrImageNeverPull":
		hint = "load the image into the node, or use --image-pull-policy=IfNotPresent"
	case "CreateContainerConfigError":
		getsOver = strings.Contains(strings.ToLower(words), "secret")
	case "CreateContainerError", "RunContainerError", "PreCreateHookError", "PreStartHookError", "PostStartHookError":
	default:
		return nil, nil
	}
	err := fmt.Errorf("container %s cannot start: %s", gateway.Name, gateway.Reason)
	if words != "" {
		err = fmt.Errorf("%w: %s", err, words)
	}
	if err = api.WithHint(err, hint); getsOver {
		return nil, err
	}
	return err, nil
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
	final, curable := failure(pod, gateway)
	// A failed Enable deletes its Secret for good.
	return final == nil && !(curable != nil && strings.Contains(gateway.Message, "not found"))
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
