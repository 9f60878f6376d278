package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

var (
	// ErrForbidden says that the user may not run commands in the pod.
	ErrForbidden = errors.New("not allowed to run commands in the pod")
	// ErrPodGone says that the pod does not exist (any more).
	ErrPodGone = errors.New("the pod is gone")
	// ErrNotRunning says that the container waits, has ended, or is unknown.
	ErrNotRunning = errors.New("the container is not running")
)

// ExitError is a command that ran and failed.
type ExitError struct {
	// Command is the program, without its arguments.
	Command string
	Code    int
	// Stderr is the beginning of what it wrote there, as it came.
	Stderr string
}

func (e *ExitError) Error() string {
	text := fmt.Sprintf("%s ended with exit code %d", e.Command, e.Code)
	if words := strings.TrimSpace(e.Stderr); words != "" {
		text += ": " + terminal.Clean(strings.ReplaceAll(words, "\n", "; "))
	}
	return text
}

// UnheardError is a command that could not be run in a container that is shown as running, in the words of the API server or
// the kubelet: one of them is away, or the container has just ended.
type UnheardError struct{ Err error }

func (e *UnheardError) Error() string { return e.Err.Error() }

func (e *UnheardError) Unwrap() error { return e.Err }

// explainTimeout bounds the extra look at a pod after a failure.
const explainTimeout = 5 * time.Second

// explain finds out why a command could not be run. The words of the server do
// not tell: depending on the runtime, a container that has ended is an internal
// error, a bad request, or not found. So look at the pod.
//
// handshake is why the WebSocket was refused, or nil; cause is the last error.
func (c *executor) explain(ctx context.Context, ref Ref, handshake, cause error) error {
	what := ref.pod()
	if refused := cmp.Or(statusOf(handshake), statusOf(cause)); refused != nil && apierrors.IsForbidden(refused) {
		return api.WithHint(fmt.Errorf("%w: %s: %s", ErrForbidden, what, oneLine(refused)),
			rights.To("create", "pods/exec", ref.Namespace))
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	pod, err := c.kube.CoreV1().Pods(ref.Namespace).Get(ctx, ref.Pod, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: %s", ErrPodGone, what)
	case err == nil:
		if state, running := stateOf(pod, ref.Container); !running {
			return notRunning(ref, state)
		}
	}
	return &UnheardError{fmt.Errorf("running a command in container %s of %s: %w", ref.Container, what, &lineError{causeOf(cause)})}
}

func (r Ref) pod() string { return fmt.Sprintf("pod %s/%s", r.Namespace, r.Pod) }

// notRunning is ErrNotRunning about a container in a state that stateOf has returned.
func notRunning(ref Ref, state string) error {
	return fmt.Errorf("%w: container %s of %s %s", ErrNotRunning, ref.Container, ref.pod(), state)
}

// statusOf returns the API server's answer in an error, or nil. The type for a
// refused upgrade has no Unwrap, so that errors.As stops there.
func statusOf(err error) error {
	if status, ok := errors.AsType[*apierrors.StatusError](causeOf(err)); ok {
		return status
	}
	return nil
}

// causeOf returns why an upgrade was refused, or err if that is something else.
func causeOf(err error) error {
	if upgrade, ok := errors.AsType[*httpstream.UpgradeFailureError](err); ok && upgrade.Cause != nil {
		return upgrade.Cause
	}
	return err
}

func stateOf(pod *corev1.Pod, container string) (words string, running bool) {
	all := slices.Concat(pod.Status.EphemeralContainerStatuses, pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses)
	var state corev1.ContainerState
	if i := slices.IndexFunc(all, func(s corev1.ContainerStatus) bool { return s.Name == container }); i >= 0 {
		state = all[i].State
	}
	switch {
	case state.Running != nil:
		return "", true
	case state.Terminated != nil:
		return fmt.Sprintf("has ended with exit code %d", state.Terminated.ExitCode), false
	case state.Waiting != nil && state.Waiting.Reason != "":
		return "waits: " + terminal.Clean(state.Waiting.Reason), false
	}
	return "has not started", false
}

// lineError makes one harmless line of an error, whose words may come from any
// proxy or kubelet on the way.
type lineError struct{ error }

func (e *lineError) Error() string { return oneLine(e.error) }

func (e *lineError) Unwrap() error { return e.error }

func oneLine(err error) string {
	return terminal.Clean(strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; "))
}
