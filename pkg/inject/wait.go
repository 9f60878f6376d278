package inject

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/klog/v2"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/remote"
)

// StatusReader asks gateways how they are; *remote.Client does it by exec.
type StatusReader interface {
	// Status returns once the gateway is ready, or after wait (then in
	// whatever state it is), or with an error.
	Status(ctx context.Context, namespace, pod, container string, wait time.Duration) (*api.Status, error)
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

// wait follows pod until the gateway called name says that it is ready, or
// cannot become so. It fails with *failedError in the container's own words.
func (in *Injector) wait(ctx context.Context, pod *corev1.Pod, name string) (*api.Status, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := in.Client.CoreV1().Pods(pod.Namespace)
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, pod.Name).String()
	// Lists again when its watch expires. The logger is empty: errors of the
	// connection show as a timeout here, not as lines between the results.
	_, _, watcher, done := watchtools.NewIndexerInformerWatcherWithLogger(klog.Logger{}, cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = selector
			return client.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = selector
			return client.Watch(ctx, options)
		},
	}, in.Client), &corev1.Pod{})
	defer func() {
		watcher.Stop()
		<-done
	}()

	type answer struct {
		status *api.Status
		err    error
	}
	var (
		answers chan answer
		grace   <-chan time.Time
		pending error
		last    = find(pod, Gateway{Name: name, Phase: Waiting})
	)
	for {
		select {
		case event, ok := <-watcher.ResultChan():
			now, isPod := event.Object.(*corev1.Pod)
			if !ok || !isPod {
				return nil, fmt.Errorf("watching the pod: %v", event.Type)
			}
			if event.Type == watch.Deleted || now.UID != pod.UID || Leaving(now) {
				return nil, &failedError{errReplaced}
			}
			last = find(now, last)
			final, curable := failure(now, last)
			if final != nil {
				return nil, &failedError{final}
			}
			switch {
			case curable == nil:
				grace = nil
			case grace == nil:
				grace = time.After(secretGrace)
			}
			pending = curable
			if last.Phase == Running && answers == nil {
				answers = make(chan answer, 1)
				go func() {
					status, err := in.ask(ctx, pod, name)
					answers <- answer{status, err}
				}()
			}
		case <-grace:
			return nil, &failedError{pending}
		case a := <-answers:
			return a.status, a.err
		case <-ctx.Done():
			return nil, in.unfinished(ctx, pod, last)
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
		return ended(pod, gateway), nil
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

// ended turns the last words of a gateway, and the hint below them, into an error.
func ended(pod *corev1.Pod, gateway Gateway) error {
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

// ask waits for the answer of a gateway whose container runs.
func (in *Injector) ask(ctx context.Context, pod *corev1.Pod, name string) (*api.Status, error) {
	for attempt := 1; ; attempt++ {
		patience := time.Minute
		if deadline, ok := ctx.Deadline(); ok {
			patience = max(time.Until(deadline)-answerMargin, time.Millisecond).Round(time.Millisecond)
		}
		status, err := in.Gateways.Status(ctx, pod.Namespace, pod.Name, name, patience)
		switch {
		case err == nil:
			return status, in.checkStatus(pod, name, status)
		case ctx.Err() != nil:
			return nil, in.unfinished(ctx, pod, Gateway{Name: name, Phase: Running})
		case attempt == askAttempts, errors.Is(err, remote.ErrForbidden), errors.Is(err, remote.ErrPodGone):
			return nil, fmt.Errorf("asking %s whether it is ready: %w", name, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(askInterval):
		}
	}
}

func (in *Injector) checkStatus(pod *corev1.Pod, name string, status *api.Status) error {
	if status.Pod.UID != string(pod.UID) {
		return fmt.Errorf("what answers in container %s serves another pod", name)
	}
	if status.State == api.Ready {
		return nil
	}
	err := fmt.Errorf("%s is not ready after %s but %s", name, in.Options.Timeout, status.State)
	if status.Reason != "" {
		err = fmt.Errorf("%w: %s", err, oneLine(status.Reason))
	}
	return api.WithHint(err, fmt.Sprintf("'kubectl logs %s -c %s -n %s' shows its log", pod.Name, name, pod.Namespace))
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
