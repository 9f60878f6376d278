package inject

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
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
	// secretGrace is how long a kubelet may fail to read a Secret: the API
	// server's node authorizer learns of the new container a little later than
	// the kubelet does, which then tries again.
	secretGrace = 10 * time.Second
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
)

// failedError is a container that has ended or will not start.
type failedError struct{ error }

func (e *failedError) Unwrap() error { return e.error }

// answer is what came of waiting for a gateway.
type answer struct {
	status *api.Status
	// delivered says that the gateway got its first certificate meanwhile.
	delivered bool
	err       error
}

// wait follows pod until the gateway called name says that it is ready, or
// cannot become so. It gives a gateway without a certificate its first one. It
// fails with *failedError in the container's own words.
func (in *Injector) wait(ctx context.Context, pod *corev1.Pod, name string) answer {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, gone, stop := follow(in.Client, pod)
	defer stop()
	var (
		answers chan answer
		kubelet lateness
		last    = find(pod, Gateway{Name: name, Phase: Waiting})
	)
	for {
		select {
		case event := <-events:
			now, err := observed(event, pod)
			switch {
			case errors.Is(err, ErrReplaced) || err == nil && Leaving(now):
				return answer{err: &failedError{ErrReplaced}}
			case err != nil:
				return answer{err: err}
			}
			last = find(now, last)
			if final := kubelet.judge(now, last); final != nil {
				return answer{err: &failedError{final}}
			}
			if last.Phase != Running || answers != nil || Cleans(now, name) {
				continue
			}
			if err := checkAddresses(now, name); err != nil {
				return answer{err: err}
			}
			answers = make(chan answer, 1)
			go func() { answers <- in.ask(ctx, pod, name) }()
		case <-gone:
			return answer{err: &failedError{ErrReplaced}}
		case <-kubelet.grace:
			return answer{err: &failedError{kubelet.pending}}
		case a := <-answers:
			return a
		case <-ctx.Done():
			return answer{err: in.unfinished(ctx, pod, last)}
		}
	}
}

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
	words := oneLine(gateway.Message)
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
	hint = oneLine(hint)
	if hint == "" {
		hint = fmt.Sprintf("'kubectl logs %s -c %s -n %s' shows its log", pod.Name, gateway.Name, pod.Namespace)
	}
	what := fmt.Sprintf("container %s ended with exit code %d", gateway.Name, gateway.ExitCode)
	if text = oneLine(text); text == "" {
		text = gateway.Reason
	}
	return api.WithHint(fmt.Errorf("%s: %s", what, text), hint)
}

// ask waits for a gateway whose container runs.
func (in *Injector) ask(ctx context.Context, pod *corev1.Pod, name string) (a answer) {
	for attempt := 1; ; attempt++ {
		a.err = in.askOnce(ctx, pod, name, &a)
		switch {
		case a.err == nil && a.status.State == api.Draining:
			// It ends, and then another one can follow: the container tells.
			<-ctx.Done()
			a.err = in.unfinished(ctx, pod, Gateway{Name: name, Phase: Running, Reason: string(api.Draining)})
			return a
		case a.err == nil:
			a.err = in.checkStatus(pod, name, a.status)
			return a
		case ctx.Err() != nil:
			a.err = in.unfinished(ctx, pod, Gateway{Name: name, Phase: Running})
			return a
		case attempt == askAttempts, errors.Is(a.err, remote.ErrForbidden), errors.Is(a.err, remote.ErrPodGone), errors.Is(a.err, ErrReplaced):
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
		if a.status.State != api.Uncertified || a.delivered || in.Options.DryRun != DryRunNone {
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
	if status.State == api.Ready || status.State == api.Uncertified && in.Options.DryRun != DryRunNone {
		return nil
	}
	err := fmt.Errorf("%s is not ready after %s but %s", name, in.Options.Timeout, status.State)
	if status.Reason != "" {
		err = fmt.Errorf("%w: %s", err, oneLine(status.Reason))
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
func (in *Injector) unfinished(ctx context.Context, pod *corev1.Pod, gateway Gateway) error {
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

func oneLine(text string) string {
	return strings.Join(strings.Fields(text), " ")
}
