package tail

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/resend"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
)

// cursor is how far the log of one container has been read.
type cursor struct {
	container string
	// started is when the container started, zero if unknown.
	started time.Time
	// last is the kubelet's time of the newest line, zero before the first, and
	// atLast how many lines of that very time were read.
	last   time.Time
	atLast int
	// opened is when the first stream was opened.
	opened time.Time
	// fromStart reads the whole log, as for a gateway that started while others were
	// followed.
	fromStart bool
	// final is set once the container has ended: the rest is read without waiting for
	// more.
	final bool
	// partial is the beginning of a line whose rest has not arrived.
	partial []byte
	// read counts lines.
	read int
	// reported is the last report of a stream that broke.
	reported string
	// numbers are those of the last lines of each process.
	numbers map[string]uint64
	// claim, if not nil, reports whether the log of another container of the pod is this
	// cursor's to read: nobody reads it yet.
	claim func(container string) bool
}

// errIdle ends a stream that has been silent for long.
var errIdle = errors.New("the stream is silent")

// follow prints the log of pod's gateway from at on. With Options.Follow it reopens
// streams that break (proxies end idle ones), and goes on with a successor.
func (t *Tailer) follow(ctx context.Context, pod *corev1.Pod, at *cursor) error {
	retry := t.Retry
	t.reportLevel(pod, at)
	for {
		before := at.read
		cause := t.stream(ctx, pod, at)
		switch {
		case ctx.Err() != nil:
			return nil
		case !t.Options.Follow, errors.Is(cause, errOutput), apierrors.IsForbidden(cause):
			return cause
		case at.read > before:
			retry, at.reported = t.Retry, ""
		}
		if errors.Is(cause, errIdle) {
			continue
		}
		final := at.final
		ended, err := t.look(ctx, pod, at, cause)
		switch {
		case ended || err != nil:
			return err
		case at.final && !final:
			continue // the rest is there already
		case retry.Steps > 0:
		case at.final:
			return fmt.Errorf("the gateway has ended, and the rest of its log cannot be read: %w", cause)
		case t.Join == nil:
			return errors.New("the log stream keeps breaking")
		}
		if err := resend.Pause(ctx, retry.Step()); err != nil {
			return nil
		}
	}
}

// reportLevel says that the gateway was told not to log every connection.
func (t *Tailer) reportLevel(pod *corev1.Pod, at *cursor) {
	config, err := installed.ConfigOf(pod, at.container)
	if err == nil && config.Log.OrDefault() != api.LogConnections {
		t.report(pod, event, fmt.Sprintf("the gateway was started with --log=%s", config.Log),
			fmt.Sprintf("'kubectl gateway log pod/%s -n %s connections' has it log all connections", pod.Name, pod.Namespace))
	}
}

// look finds out why a stream ended, with the error cause or nil, and reports it. It
// returns true if no more lines will follow.
func (t *Tailer) look(ctx context.Context, pod *corev1.Pod, at *cursor, cause error) (bool, error) {
	current, err := t.Kube.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	switch {
	case ctx.Err() != nil:
		return true, nil
	case apierrors.IsNotFound(err) || err == nil && current.UID != pod.UID:
		// The log is gone, too.
		if err := t.printLine(pod, at, at.partial); err != nil {
			return true, err
		}
		t.report(pod, event, "the pod is gone", "")
		return true, nil
	case err != nil:
		text, _ := t.explain(err)
		at.report(t, pod, warning, "the log stream broke, and the pod cannot be read: "+text)
		return false, nil
	}
	gateway, ok := installed.Current(current)
	// One whose place another gateway took still drains, and writes of what ends.
	over := !ok || gateway.Phase == installed.Terminated || gateway.Name != at.container && !runs(current, at.container)
	switch {
	case over && (!at.final || cause != nil):
		// A stream may break before the last lines have arrived.
		at.final = true
		return false, nil
	case over && ok && gateway.Name != at.container && at.claim != nil && !at.claim(gateway.Name):
		return true, nil
	case over && ok && gateway.Name != at.container:
		t.report(pod, event, fmt.Sprintf("the gateway has a successor, following %s", gateway.Name), "")
		*at = cursor{container: gateway.Name, started: gateway.StartedAt, fromStart: true, claim: at.claim}
		return false, nil
	case over:
		t.reportEnd(current, gateway)
		at.started = gateway.StartedAt
		return true, nil
	}
	at.final = false
	if cause != nil {
		text, _ := t.explain(cause)
		at.report(t, pod, warning, "the log stream broke, trying again: "+text)
	} else {
		at.report(t, pod, event, "the log stream ended, reading on")
	}
	return false, nil
}

// runs reports whether the gateway of pod called container runs.
func runs(pod *corev1.Pod, container string) bool {
	return slices.ContainsFunc(installed.Gateways(pod), func(g installed.Gateway) bool { return g.Name == container && g.Phase == installed.Running })
}

// reportEnd reports how a gateway ended, and how to get another.
func (t *Tailer) reportEnd(pod *corev1.Pod, gateway installed.Gateway) {
	text := fmt.Sprintf("the gateway ended with exit code %d", gateway.ExitCode)
	if gateway.Message != "" {
		text += ": " + gateway.Message
	}
	hint := enableHint(pod)
	switch {
	case gateway.HandedOver:
		text, hint = "the gateway has handed over to another one", ""
	case gateway.Disabled():
		text, hint = "the gateway was disabled", ""
	case installed.Leaving(pod):
		text, hint = text+", as the pod does", ""
	}
	kind := warning
	if gateway.ExitCode == 0 {
		kind = event
	}
	t.report(pod, kind, text, hint)
}

// report reports text, unless it is the same as before.
func (at *cursor) report(t *Tailer, pod *corev1.Pod, kind, text string) {
	if text != at.reported {
		t.report(pod, kind, text, "")
	}
	at.reported = text
}

// options are those of the request that continues from at.
func (t *Tailer) options(at *cursor) *corev1.PodLogOptions {
	options := &corev1.PodLogOptions{Container: at.container, Follow: t.Options.Follow && !at.final, Timestamps: true}
	// Seconds before the request do not depend on the clocks of different machines.
	back := func(d time.Duration) {
		seconds := max(1, int64((d+time.Second-1)/time.Second))
		options.SinceSeconds = &seconds
	}
	if !at.last.IsZero() {
		// The server knows only whole seconds. stream skips what it repeats.
		options.SinceTime = &metav1.Time{Time: at.last}
		return options
	}
	if at.fromStart {
		return options
	}
	waited := time.Duration(0)
	if !at.opened.IsZero() {
		waited = time.Since(at.opened)
	}
	if t.Options.Since > 0 {
		back(t.Options.Since + waited)
	}
	switch {
	case at.opened.IsZero() && t.Options.Lines >= 0:
		options.TailLines = &t.Options.Lines
	case !at.opened.IsZero() && t.Options.Lines == 0:
		// Lines from before the first stream are not wanted.
		back(waited)
	}
	return options
}

// stream prints one stream of log lines until it ends.
func (t *Tailer) stream(ctx context.Context, pod *corev1.Pod, at *cursor) error {
	options := t.options(at)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := func() {}
	if t.Idle > 0 && options.Follow {
		timer := time.AfterFunc(t.Idle, func() { cancel(errIdle) })
		defer timer.Stop()
		silence = func() { timer.Reset(t.Idle) }
	}
	body, err := t.Kube.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, options).Stream(ctx)
	if err != nil {
		return explain(pod, err)
	}
	defer body.Close()
	if at.opened.IsZero() {
		at.opened = time.Now()
	}
	at.partial = nil
	// The lines up to the first new one were read before.
	repeated, seen, again := !at.last.IsZero(), at.last, at.atLast
	first := at.last.IsZero() && !at.fromStart && t.Options.Since > 0
	err = readLines(body, func(line []byte, whole bool) error {
		silence()
		if !whole && options.Follow {
			// The next stream has the whole line, if there is one.
			_, at.partial = splitTime(slices.Clone(line))
			return nil
		}
		stamp, line := splitTime(line)
		if !stamp.IsZero() && repeated {
			if stamp.Before(seen) {
				return nil
			}
			if stamp.Equal(seen) && again > 0 {
				again--
				return nil
			}
			repeated = false
		}
		if first && !stamp.IsZero() {
			first = false
			at.fromStart = parse(line).number.N > 1 && t.begins(ctx, pod, at, stamp)
		}
		// Lines without a time are the kubelet's own errors: no progress.
		switch {
		case stamp.IsZero():
		case stamp.After(at.last):
			at.last, at.atLast = stamp, 1
			at.read++
		default:
			if stamp.Equal(at.last) {
				at.atLast++
			}
			at.read++
		}
		return t.printLine(pod, at, line)
	})
	if errors.Is(context.Cause(ctx), errIdle) && !errors.Is(err, errOutput) {
		return errIdle
	}
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	return nil
}

// printLine prints a line of a gateway's log, if the filter keeps it. Lines that are missing are
// always reported.
func (t *Tailer) printLine(pod *corev1.Pod, at *cursor, line []byte) error {
	if len(line) == 0 {
		return nil
	}
	e := parse(line)
	t.reportMissing(pod, at, e.number)
	var made []byte
	if t.Options.Filter.keeps(&e) {
		var err error
		if made, err = t.Formatter.Format(Source{Namespace: pod.Namespace, Pod: pod.Name}, line); err != nil {
			return fmt.Errorf("%w: %w", errOutput, err)
		}
	}
	if n := e.dropped(); n > 0 && len(made) == 0 {
		t.report(pod, warning, fmt.Sprintf("the gateway has dropped %d lines of its log", n), "--limit of 'kubectl gateway log' allows more")
	}
	if level := e.newLevel(); level != "" {
		t.report(pod, event, fmt.Sprintf("from now on the log has level %s", level), "")
	}
	return t.print(made)
}

func explain(pod *corev1.Pod, err error) error {
	wrapped := fmt.Errorf("opening the log: %w", err)
	if apierrors.IsForbidden(err) {
		return api.WithHint(wrapped, rights.To("get", "pods/log", pod.Namespace))
	}
	return wrapped
}
