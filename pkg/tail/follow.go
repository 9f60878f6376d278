package tail

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// cursor is how far the log of one container has been read.
type cursor struct {
	container string
	// last is the kubelet's time of the last line, zero before the first.
	last time.Time
	// fromStart reads everything, as of a gateway that came while following.
	fromStart bool
	// read counts lines, those of the same time as one.
	read int
}

// follow prints the log of pod's newest gateway. When following, it takes up
// streams that break (proxies end idle ones), and goes on with a successor.
func (t *Tailer) follow(ctx context.Context, pod *corev1.Pod) error {
	gateway, ok := inject.Current(pod)
	if !ok {
		return api.WithHint(errors.New("the pod has no gateway"),
			fmt.Sprintf("kubectl gateway enable pod/%s -n %s", pod.Name, pod.Namespace))
	}
	at := cursor{container: gateway.Name}
	retry := t.Retry
	for {
		before := at.read
		err := t.stream(ctx, pod, &at)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errOutput):
			return err
		case !t.Options.Follow:
			return err
		case at.read > before:
			retry = t.Retry
		}
		ended, err := t.look(ctx, pod, &at, err)
		if ended || err != nil {
			return err
		}
		if retry.Steps <= 0 {
			return errors.New("the log stream keeps breaking")
		}
		if err := pause(ctx, &retry); err != nil {
			return nil
		}
	}
}

// look finds out why a stream ended, with which error or nil, and reports it.
// It returns true if no more lines are to come.
func (t *Tailer) look(ctx context.Context, pod *corev1.Pod, at *cursor, cause error) (bool, error) {
	if apierrors.IsForbidden(cause) {
		return true, cause
	}
	current, err := t.Kube.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) || err == nil && current.UID != pod.UID:
		t.report(pod, "the pod is gone", "")
		return true, nil
	case err != nil:
		t.report(pod, fmt.Sprintf("the log stream broke, and the pod cannot be read: %v", err), "")
		return false, nil
	}
	gateway, ok := inject.Current(current)
	switch {
	case !ok:
		t.report(pod, "the gateway is gone", "")
		return true, nil
	case gateway.Phase == inject.Terminated && gateway.Name == at.container:
		text := fmt.Sprintf("the gateway ended with exit code %d", gateway.ExitCode)
		if gateway.Message != "" {
			text += ": " + gateway.Message
		}
		t.report(pod, text, fmt.Sprintf("kubectl gateway enable pod/%s -n %s", pod.Name, pod.Namespace))
		return true, nil
	case gateway.Name != at.container:
		t.report(pod, fmt.Sprintf("the gateway has a successor, following %s", gateway.Name), "")
		*at = cursor{container: gateway.Name, fromStart: true}
		return false, nil
	case cause != nil:
		t.report(pod, fmt.Sprintf("the log stream broke, trying again: %v", cause), "")
	default:
		t.report(pod, "the log stream ended, taking it up again", "")
	}
	return false, nil
}

// stream prints one stream of log lines until it ends.
func (t *Tailer) stream(ctx context.Context, pod *corev1.Pod, at *cursor) error {
	options := &corev1.PodLogOptions{Container: at.container, Follow: t.Options.Follow, Timestamps: true}
	resumed := !at.last.IsZero()
	switch {
	case resumed:
		// The server knows only whole seconds: what it repeats is left out below.
		options.SinceTime = &metav1.Time{Time: at.last}
	case !at.fromStart:
		if t.Options.Since > 0 {
			seconds := int64((t.Options.Since + time.Second - 1) / time.Second)
			options.SinceSeconds = &seconds
		}
		if t.Options.Lines >= 0 {
			options.TailLines = &t.Options.Lines
		}
	}
	body, err := t.Kube.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, options).Stream(ctx)
	if err != nil {
		return explain(pod, err)
	}
	defer body.Close()
	seen := at.last
	source := Source{Namespace: pod.Namespace, Pod: pod.Name}
	err = readLines(body, func(line []byte) error {
		stamp, line := splitTime(line)
		if resumed && !stamp.IsZero() && !stamp.After(seen) {
			return nil
		}
		// Lines without a time are the kubelet's own complaints: no progress.
		if stamp.After(at.last) {
			at.last = stamp
			at.read++
		}
		return t.print(t.Formatter.Format(source, line))
	})
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	return nil
}

func explain(pod *corev1.Pod, err error) error {
	wrapped := fmt.Errorf("opening the log: %w", err)
	if apierrors.IsForbidden(err) {
		return api.WithHint(wrapped, fmt.Sprintf("ask for a role with verb get on pods/log in namespace %s", pod.Namespace))
	}
	return wrapped
}

func pause(ctx context.Context, retry *wait.Backoff) error {
	timer := time.NewTimer(retry.Step())
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
