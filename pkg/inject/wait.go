package inject

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

// GatewayClient talks to gateways; *remote.Client does it by exec.
type GatewayClient interface {
	// Status returns once the gateway is ready or waits for a certificate, or
	// after wait (then in whatever state it is), or with an error.
	Status(ctx context.Context, namespace, pod, container string, wait time.Duration) (*api.Status, error)
	// Renew gives the gateway the certificate that sign makes for its request.
	Renew(ctx context.Context, namespace, pod, container string, sign remote.Sign) (*api.Status, error)
	// ResetExisting resets plaintext connections that the gateway does not carry.
	ResetExisting(ctx context.Context, namespace, pod, container string) (*api.Status, error)
}

const (
	// answerMargin is left for the gateway's answer to travel before a timeout,
	// so that it can say itself what it waits for.
	answerMargin = time.Second
	// askAttempts and askInterval bound how often an exec that failed in itself
	// is tried again; kubelets refuse some in the first moments of a container.
	askAttempts = 3
	askInterval = 500 * time.Millisecond
)

var (
	// errTimeout is the cause of a context that ended by Options.Timeout.
	errTimeout = errors.New("timeout")
	// errInterrupted stands for a context that the caller has ended.
	errInterrupted = errors.New("interrupted")
	// errAnswered is the cause of a context that ended because the gateway answered.
	errAnswered = errors.New("answered")
)

// answer is what came of waiting for a gateway.
type answer struct {
	status *api.Status
	// delivered says that the gateway got its first certificate meanwhile.
	delivered bool
	err       error
}

// wait follows pod until the gateway called name says that it is ready, or
// cannot become so. It gives a gateway without a certificate its first one. It
// fails with *installed.FailedError in the container's own words.
func (in *Injector) wait(ctx context.Context, pod *corev1.Pod, name string) answer {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var answers chan answer
	last, err := installed.Follow(ctx, in.Client, pod, name, func(now *corev1.Pod, gateway installed.Gateway) (bool, error) {
		switch {
		case installed.Leaving(now):
			return false, installed.ErrReplaced
		case gateway.Phase != installed.Running || answers != nil || installed.Cleans(now, name):
			return false, nil
		}
		if err := checkAddresses(now, name); err != nil {
			return false, err
		}
		answers = make(chan answer, 1)
		go func() {
			answers <- in.ask(ctx, pod, name)
			cancel(errAnswered)
		}()
		return false, nil
	})
	switch {
	case errors.Is(err, errAnswered):
		return <-answers
	case ctx.Err() != nil:
		err = in.unfinished(ctx, pod, last)
	}
	return answer{err: err}
}

// ask waits for a gateway whose container runs.
func (in *Injector) ask(ctx context.Context, pod *corev1.Pod, name string) (a answer) {
	for attempt := 1; ; attempt++ {
		a.err = in.askOnce(ctx, pod, name, &a)
		switch {
		case a.err == nil && a.status.State == api.Draining:
			// It ends, and then another one can follow: the container tells.
			<-ctx.Done()
			a.err = in.unfinished(ctx, pod, installed.Gateway{Name: name, Phase: installed.Running, Reason: string(api.Draining)})
			return a
		case a.err == nil:
			a.err = in.checkStatus(pod, name, a.status)
			return a
		case ctx.Err() != nil:
			a.err = in.unfinished(ctx, pod, installed.Gateway{Name: name, Phase: installed.Running})
			return a
		case attempt == askAttempts, errors.Is(a.err, remote.ErrForbidden), errors.Is(a.err, remote.ErrPodGone), errors.Is(a.err, installed.ErrReplaced):
			return a
		}
		select {
		case <-ctx.Done():
		case <-time.After(askInterval):
		}
	}
}

// askOnce asks the gateway how it is, after giving it a certificate if it has none.
func (in *Injector) askOnce(ctx context.Context, pod *corev1.Pod, name string, a *answer) (err error) {
	for {
		patience := time.Minute
		if deadline, ok := ctx.Deadline(); ok {
			patience = max(time.Until(deadline)-answerMargin, time.Millisecond).Round(time.Millisecond)
		}
		if a.status, err = in.Gateways.Status(ctx, pod.Namespace, pod.Name, name, patience); err != nil {
			return fmt.Errorf("asking %s whether it is ready: %w", name, err)
		}
		// Never sign for what somebody else's gateway asks.
		if err := checkPodOf(a.status, pod, name); err != nil {
			return err
		}
		if a.status.State != api.Uncertified || a.delivered || in.Options.DryRun != installed.DryRunNone {
			return nil
		}
		if err := in.deliver(ctx, pod, name); err != nil {
			return err
		}
		a.delivered = true
	}
}

func (in *Injector) checkStatus(pod *corev1.Pod, name string, status *api.Status) error {
	if err := checkPodOf(status, pod, name); err != nil {
		return err
	}
	if status.State == api.Ready || status.State == api.Uncertified && in.Options.DryRun != installed.DryRunNone {
		return nil
	}
	err := fmt.Errorf("%s is not ready after %s but %s", name, in.Options.Timeout, status.State)
	if status.Reason != "" {
		err = fmt.Errorf("%w: %s", err, installed.OneLine(status.Reason))
	}
	return api.WithHint(err, fmt.Sprintf("'kubectl logs %s -c %s -n %s' shows its log", pod.Name, name, pod.Namespace))
}

func checkPodOf(status *api.Status, pod *corev1.Pod, name string) error {
	if status.Pod.UID != string(pod.UID) {
		return fmt.Errorf("what answers in container %s serves another pod", name)
	}
	return nil
}

// unfinished says in what state a gateway was when ctx ended.
func (in *Injector) unfinished(ctx context.Context, pod *corev1.Pod, gateway installed.Gateway) error {
	if !errors.Is(context.Cause(ctx), errTimeout) {
		return errInterrupted
	}
	state := strings.ToLower(string(gateway.Phase))
	if gateway.Reason != "" {
		state += " (" + gateway.Reason + ")"
	}
	return api.WithHint(fmt.Errorf("%w: container %s is not ready after %s, it is %s", errTimeout, gateway.Name, in.Options.Timeout, state),
		fmt.Sprintf("'kubectl describe pod %s -n %s' shows the events of the pod; --timeout waits longer", pod.Name, pod.Namespace))
}
