// Package disable ends gateways and proves that nothing of them is left.
//
// Disabler.Disable is the path of one pod. It looks at the pod, takes the step
// that state.go says is next, and looks again, until there is none: what was
// interrupted is continued by the next Disable, and two of them join.
//
//	state.go  what there is to do about a pod
//	end.go    a gateway that runs: drain it and wait for its end;
//	          one that has died: remove what it left
package disable

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

const (
	// DefaultDrainTimeout is how long connections may go on once nothing is
	// captured any more: the grace period that pods have by default.
	DefaultDrainTimeout = 30 * time.Second
	// DefaultTimeout is how long one pod may take besides the draining.
	DefaultTimeout = 60 * time.Second
	// maxSteps bounds what is done about one pod whose gateways change meanwhile.
	maxSteps = 10
)

// Options are what the user decides. Times are as they are given: zero is zero.
type Options struct {
	DrainTimeout time.Duration
	// Timeout bounds one pod, besides DrainTimeout.
	Timeout time.Duration
	// Image and PullPolicy are for a container that cleans up after a gateway which
	// died. An empty PullPolicy is the cluster's default.
	Image      string
	PullPolicy corev1.PullPolicy
	DryRun     installed.DryRun
}

// Disabler ends the gateways of pods. It is safe for concurrent use.
type Disabler struct {
	Client   kubernetes.Interface
	Gateways *remote.Client
	Options  Options
	// Progress, if not nil, is called with a line about a pod that takes long.
	// Calls may overlap.
	Progress func(pod *corev1.Pod, line string)
}

// Action is what Disable did.
type Action string

const (
	Disabled Action = "disabled"
	// Unchanged is a pod without a gateway, or with one that was disabled before.
	Unchanged Action = "unchanged"
	Failed    Action = "failed"
)

// Result is the outcome for one pod.
type Result struct {
	Pod    *corev1.Pod
	Action Action
	// Container is the gateway that ended last, empty if the pod has none.
	Container string
	// Report is the gateway's account of its end. It is nil if that was not
	// received, or the gateway had died.
	Report *api.DisableReport
	// Sidecar says that the container came with the pod, and stays until that is replaced.
	Sidecar bool
	// Died says that a gateway had ended by itself, and left nothing.
	Died bool
	// Cleaner is the container that cleaned up after a gateway which had died.
	Cleaner string
	// Secrets counts those that were deleted. SecretsUnknown says that the user may
	// not look for them.
	Secrets        int
	SecretsUnknown bool
	Elapsed        time.Duration
	// Err is why something may be left. Its words may come from anybody in the
	// cluster: clean them before they reach a terminal.
	Err error
}

var (
	// errTimeout is the cause of a context that ended by Options.Timeout.
	errTimeout = errors.New("timeout")
	// errInterrupted stands for a context that the caller has ended.
	errInterrupted = errors.New("interrupted")
)

// Disable ends the gateways of pod, and returns when nothing of them is left:
// running or still starting, draining already, or dead with a capture that stays.
// It can be repeated, after an error and after success.
func (d *Disabler) Disable(ctx context.Context, pod *corev1.Pod) Result {
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, d.Options.DrainTimeout+d.Options.Timeout, errTimeout)
	defer cancel()
	result := Result{Pod: pod, Action: Unchanged}
	if err := d.steps(ctx, pod, &result); err != nil {
		result.Action, result.Err = Failed, d.inTime(ctx, &result, err)
	}
	result.Elapsed = time.Since(start)
	return result
}

func (d *Disabler) steps(ctx context.Context, pod *corev1.Pod, result *Result) error {
	// Containers that did not come to run.
	inert := map[string]bool{}
	for range maxSteps {
		now, err := installed.Reread(ctx, d.Client, pod)
		if err != nil {
			return err
		}
		step, gateway := next(now, inert, d.kernel(ctx, now))
		if gateway.Name != "" {
			result.Container, result.Sidecar = gateway.Name, gateway.Sidecar
		}
		if step != nothing {
			result.Action = Disabled
		}
		if d.Options.DryRun != installed.DryRunNone {
			return d.dryRun(ctx, now, step, gateway, result)
		}
		switch step {
		case nothing, died:
			result.Died = step == died
			return d.deleteSecrets(ctx, now, result)
		case awaitStart:
			err = d.awaitStart(ctx, now, gateway, inert)
		case end:
			err = d.end(ctx, now, gateway, result)
		case clean:
			err = d.clean(ctx, now, gateway, result)
		}
		if err != nil {
			return err
		}
	}
	return api.WithHint(errors.New("the pod's gateways change all the time"), "is somebody enabling it?")
}

// awaitStart waits until gateway runs, so that it can be told to end. One that
// does not come to run needs no end. Nor does one that would clean up with another image,
// which its node cannot pull: that may stay so.
func (d *Disabler) awaitStart(ctx context.Context, pod *corev1.Pod, gateway installed.Gateway, inert map[string]bool) error {
	if installed.Cleans(pod, gateway.Name) && gateway.Pulls() && gateway.Image != d.Options.Image {
		inert[gateway.Name] = true
		return nil
	}
	_, err := installed.WaitUntil(ctx, installed.EachPod(d.Client), pod, gateway.Name, func(g installed.Gateway) bool {
		// The kubelet starts a sidecar that died again.
		return g.Phase == installed.Running || g.Phase == installed.Terminated && (!g.Sidecar || g.Disabled())
	})
	if err == nil || ctx.Err() != nil || errors.Is(err, installed.ErrReplaced) {
		return err
	}
	inert[gateway.Name] = true
	return nil
}

// deleteSecrets is the last step: the Secret of a gateway that still starts must
// not be missing.
func (d *Disabler) deleteSecrets(ctx context.Context, pod *corev1.Pod, result *Result) (err error) {
	result.Secrets, err = installed.DeleteSecrets(ctx, d.Client, pod)
	if errors.Is(err, installed.ErrSecretsUnseen) {
		result.SecretsUnknown = true
		return nil
	}
	return err
}

func (d *Disabler) dryRun(ctx context.Context, pod *corev1.Pod, step step, gateway installed.Gateway, result *Result) error {
	if step != clean {
		return nil
	}
	container, err := installed.Cleaner(pod, gateway.Name, d.Options.Image, d.Options.PullPolicy)
	if err != nil {
		return err
	}
	result.Cleaner = container.Name
	if d.Options.DryRun == installed.DryRunServer {
		_, err = installed.AddContainer(ctx, d.Client, pod, container, true)
	}
	return err
}

// again says how to go on after an end that came too early.
func again(pod *corev1.Pod) string {
	return fmt.Sprintf("'kubectl gateway disable pod/%s -n %s' again goes on where this one stopped", pod.Name, pod.Namespace)
}

// inTime puts errors that come from the end of ctx into the user's terms.
func (d *Disabler) inTime(ctx context.Context, result *Result, err error) error {
	if ctx.Err() == nil {
		return err
	}
	what := ""
	if result.Container != "" {
		what = fmt.Sprintf("; container %s may be on its way to its end", result.Container)
	}
	if errors.Is(context.Cause(ctx), errTimeout) {
		return api.WithHint(fmt.Errorf("%w: not done %s after the drain timeout%s", errTimeout, d.Options.Timeout, what),
			again(result.Pod)+"; --timeout waits longer")
	}
	return api.WithHint(fmt.Errorf("%w%s", errInterrupted, what), again(result.Pod))
}
