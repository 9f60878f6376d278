package installed

import (
	"fmt"
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
	words := OneLine(gateway.Message)
	say := func(hint, what string) error {
		err := fmt.Errorf("container %s %s: %s", gateway.Name, what, gateway.Reason)
		if words != "" {
			err = fmt.Errorf("%w: %s", err, words)
		}
		return api.WithHint(err, hint)
	}
	describe := fmt.Sprintf("'kubectl describe pod %s -n %s' shows the events of the pod", pod.Name, pod.Namespace)
	if gateway.Phase == Terminated {
		return Ended(pod, gateway), nil
	}
	if gateway.Phase != Waiting {
		return nil, nil
	}
	switch gateway.Reason {
	case "ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed":
		return say("check --image; a private registry also needs imagePullSecrets in the pod or its service account",
			"cannot start"), nil
	case "InvalidImageName":
		return say("check --image", "cannot start"), nil
	case "ErrImageNeverPull":
		return say("load the image into the node, or use --image-pull-policy=IfNotPresent", "cannot start"), nil
	case "CreateContainerConfigError":
		err := say(describe, "cannot start")
		if strings.Contains(strings.ToLower(words), "secret") {
			return nil, err
		}
		return err, nil
	case "CreateContainerError", "RunContainerError", "PreCreateHookError", "PreStartHookError", "PostStartHookError":
		return say(describe, "cannot start"), nil
	}
	return nil, nil
}

// Ended turns the last words of a gateway, and the hint below them, into an error.
func Ended(pod *corev1.Pod, gateway Gateway) error {
	text, hint, hinted := strings.Cut(gateway.Message, "\nhint: ")
	if lines := strings.Split(strings.TrimSpace(text), "\n"); !hinted {
		// Without last words of its own, these are the end of its log.
		text = lines[len(lines)-1]
	}
	hint = OneLine(hint)
	if hint == "" {
		hint = fmt.Sprintf("'kubectl logs %s -c %s -n %s' shows its log", pod.Name, gateway.Name, pod.Namespace)
	}
	what := fmt.Sprintf("container %s ended with exit code %d", gateway.Name, gateway.ExitCode)
	if text = OneLine(text); text == "" {
		text = gateway.Reason
	}
	return api.WithHint(fmt.Errorf("%s: %s", what, text), hint)
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
