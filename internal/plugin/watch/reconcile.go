package watch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

// reconcile takes one step about one pod. It returns true if there may be another
// one at once; otherwise it has seen to it that the pod comes back in time.
func (w *Watcher) reconcile(ctx context.Context, key types.NamespacedName) bool {
	pod, ok := cachedObject(w.sources.pods, key.String()).(*corev1.Pod)
	if !ok {
		w.forget(key)
		return false
	}
	cached := pod
	d, s := w.decide(key, pod)
	if d.step == toEnable && s.refused != nil && equality.Semantic.DeepEqual(s.refused, cached) {
		// A cache may have another object for the same state of the pod.
		return false
	}
	if d.step != rest && d.step != wait {
		if until := w.pausing(key, pod, d.step); until > 0 {
			w.queue.AddAfter(key, until)
			return false
		}
	}
	if d.step.changes() {
		// What was decided from the cache is only a suspicion.
		now, err := w.Client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		switch {
		case ctx.Err() != nil:
			return false
		case apierrors.IsNotFound(err) || err == nil && now.UID != pod.UID:
			w.forget(key)
			return false
		case err != nil:
			w.failed(key, pod, attempt{step: d.step}, Outcome{Err: fmt.Errorf("reading the pod: %w", err)})
			return false
		}
		pod = now
		d, s = w.decide(key, pod)
	}
	w.note(key, pod, d, s)
	switch d.step {
	case rest:
		return false
	case wait:
		w.queue.AddAfter(key, time.Until(d.at))
		return false
	}
	again := w.act(ctx, key, pod, d.step, s)
	w.mu.Lock()
	defer w.mu.Unlock()
	if r := w.records[key]; r != nil && r.refused != nil {
		r.refused = cached
	}
	return again
}

// decide asks [decide] with all that is known of pod.
func (w *Watcher) decide(key types.NamespacedName, pod *corev1.Pod) (decision, situation) {
	s := situation{pod: pod, image: w.Actions.Image()}
	var trouble error
	s.want, trouble = w.wantOf(pod)
	gateway, _ := installed.Current(pod)
	w.mu.Lock()
	if r := w.records[key]; r != nil && r.uid == pod.UID {
		s.ended, s.refused = r.ended, r.refused
		if r.gateway == gateway.Name {
			s.status, s.askAt, s.renewed = r.status, r.askAt, r.renewed
		}
	}
	w.mu.Unlock()
	s.settings = w.settingsOf(pod)
	if s.status != nil {
		inPlace, replaced := s.settings.Missing(declared.InForce(s.status))
		s.apart, s.otherwise = len(inPlace) > 0, len(replaced) > 0
	}
	s.older = w.older(pod, gateway, &s)
	s.open = s.older && w.rollout.open(key, pod, false)
	s.behind = s.status != nil && !w.Actions.Covered(pod, s.status)
	d := decide(s, time.Now())
	if d.trouble == nil {
		d.trouble = trouble
	}
	if d.trouble == nil && (s.want == wanted || s.want == named || gateway.Phase == installed.Running) {
		d.trouble = s.settings.Err()
	}
	return d, s
}

// note remembers where pod stands now, for Counts, and reports trouble that
// nothing is done about.
func (w *Watcher) note(key types.NamespacedName, pod *corev1.Pod, d decision, s situation) {
	gateway, has := installed.Current(pod)
	runs := has && gateway.Phase == installed.Running
	on := s.want == wanted || s.want == named
	// One that has not started and has no gateway is nothing to wait for.
	early := !has && pod.Status.Phase != corev1.PodRunning
	if d.step == rest && !runs && (!on || early) && d.trouble == nil {
		w.forget(key)
		return
	}
	w.mu.Lock()
	r := w.recordOf(key, pod)
	trouble := ""
	if d.trouble != nil {
		trouble = d.trouble.Error()
	}
	news := trouble != "" && trouble != r.trouble && trouble != r.reported
	r.trouble, r.older = trouble, s.older
	switch {
	case !runs:
		r.seen = seen{}
	case s.status != nil:
		r.seen = seen{cert: s.status.Cert, older: w.Actions.Outdated(gateway, s.status), behind: s.behind,
			permissive: on && w.Options.Mode == api.Strict && s.status.Mode != api.Strict}
	}
	switch {
	case trouble != "":
		r.phase = failed
	case d.step == rest && s.ended != "" && s.ended == gateway.Name:
		// The pod does not show yet what is known already.
		r.phase = off
	case d.step != rest && d.step != wait:
		// Failures stay visible until something else succeeds.
		if r.phase != failed {
			r.phase = working
		}
	case runs && s.status != nil && s.status.State == api.Ready:
		r.phase = ready
		r.renewAt, _ = RenewAt(s.status.Cert, string(pod.UID))
	case r.phase != failed:
		r.phase = working
	}
	w.mu.Unlock()
	if news {
		event := eventOf(pod, Failed)
		if errors.Is(d.trouble, declared.ErrAnnotation) {
			event.Action = Refused
		}
		event.Container, event.Err = gateway.Name, d.trouble
		w.report(event)
	}
}

func eventOf(pod *corev1.Pod, action Action) Event {
	return Event{Namespace: pod.Namespace, Pod: pod.Name, UID: pod.UID, Action: action}
}

// recordOf returns the record of pod, a new one if there is none. w.mu is held.
func (w *Watcher) recordOf(key types.NamespacedName, pod *corev1.Pod) *record {
	r := w.records[key]
	if r == nil || r.uid != pod.UID {
		r = &record{uid: pod.UID}
		w.records[key] = r
	}
	return r
}

func (w *Watcher) forget(key types.NamespacedName) {
	w.retries.Forget(key)
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.records, key)
}

// pausing returns how long step has to wait because it has failed before. A pod
// with another gateway than then does not wait.
func (w *Watcher) pausing(key types.NamespacedName, pod *corev1.Pod, step step) time.Duration {
	gateway, _ := installed.Current(pod)
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.records[key]
	if r == nil || r.uid != pod.UID || r.tried.step != step || r.tried.gateway != "" && r.tried.gateway != gateway.Name {
		return 0
	}
	return time.Until(r.retryAt)
}

// act takes a step and remembers what came of it.
func (w *Watcher) act(ctx context.Context, key types.NamespacedName, pod *corev1.Pod, step step, s situation) bool {
	gateway, had := installed.Current(pod)
	start := time.Now()
	event := eventOf(pod, "")
	var out Outcome
	switch step {
	case toEnable:
		event.Action = Enabled
		if had && gateway.Phase == installed.Terminated && !gateway.Disabled() {
			event.Action = Replaced
			if young := gateway.FinishedAt.Sub(gateway.StartedAt) < young; young && installed.Succeeded(pod, gateway.Name) && gateway.Image == s.image {
				w.halt(pod, gateway.Name, fmt.Errorf("the gateway died soon after it was upgraded: %w", installed.Ended(pod, gateway)))
			}
		}
		out = w.Actions.Enable(ctx, pod, s.want == wanted, s.settings)
	case toDisable:
		event.Action = Disabled
		out = w.Actions.Disable(ctx, pod)
	case toUpgrade:
		if !w.rollout.open(key, pod, true) {
			return false
		}
		event.Action = Upgraded
		out = w.Actions.Upgrade(ctx, pod, s.status, s.settings)
		if out.Err != nil && ctx.Err() == nil && !unreachable(out.Err) && !installed.Left(ctx, w.Client, pod) {
			w.halt(pod, out.Container, out.Err)
		}
		w.rollout.end(pod)
		if !w.once {
			for _, waited := range w.rollout.waited() {
				w.queue.Add(waited)
			}
		}
	case toRenew:
		event.Action = Renewed
		out = w.Actions.Renew(ctx, pod, gateway.Name)
	case toRefresh:
		event.Action = Refreshed
		out = w.Actions.Refresh(ctx, pod, gateway.Name, s.status)
		event.Covered = out.Covered
	case toApply:
		event.Action = Changed
		out = w.Actions.Apply(ctx, pod, s.settings)
		event.Settings = out.Settings
	case toAsk:
		out.Container = gateway.Name
		out.Status, out.Err = w.Actions.Ask(ctx, pod, gateway.Name)
	}
	switch {
	case out.Err == nil:
	case ctx.Err() != nil:
		return false
	case installed.Left(ctx, w.Client, pod):
		w.forget(key)
		return false
	default:
		w.failed(key, pod, attempt{step: step, gateway: gateway.Name}, out)
		return false
	}
	if out.Container == "" {
		out.Container = gateway.Name
	}
	w.succeeded(key, pod, step, out)
	if step != toAsk && (out.Changed || len(out.Warnings) > 0) {
		if !out.Changed {
			event.Action = Noticed
		}
		event.Container, event.Warnings, event.Elapsed = out.Container, out.Warnings, time.Since(start)
		if out.Status != nil {
			event.NotAfter = out.Status.Cert.NotAfter
		}
		w.report(event)
	}
	return true
}

func (w *Watcher) succeeded(key types.NamespacedName, pod *corev1.Pod, step step, out Outcome) {
	w.retries.Forget(key)
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tally.count(step, "done")
	r := w.recordOf(key, pod)
	r.tried, r.retryAt, r.reported, r.refused = attempt{}, time.Time{}, "", nil
	if step == toDisable {
		r.gateway, r.status, r.ended, r.phase, r.renewAt = "", nil, out.Container, off, time.Time{}
		return
	}
	r.phase = working
	if r.gateway != out.Container {
		r.renewed = time.Time{}
	}
	if step == toRenew {
		r.renewed = now
	}
	r.gateway, r.status = out.Container, out.Status
	pause := askInterval
	if out.Status == nil {
		r.askAt = now
		return
	}
	if out.Status.State != api.Ready {
		pause = askSoon
	}
	if w.idle.Swap(false) {
		// The cluster changed while there was no gateway that would have to know.
		w.signal()
	}
	r.askAt = now.Add(time.Duration((0.8 + 0.4*spread(key.String(), now.String())) * float64(pause)))
}

// failed notes a failure, reports it if it is a new one, and has it tried again,
// unless only a change of the pod can help.
func (w *Watcher) failed(key types.NamespacedName, pod *corev1.Pod, tried attempt, out Outcome) {
	event := eventOf(pod, Failed)
	event.Container, event.Warnings, event.Err = out.Container, out.Warnings, out.Err
	var pause time.Duration
	if out.Refused {
		event.Action = Refused
	} else {
		pause = w.retries.When(key)
		if unreachable(out.Err) {
			pause = min(pause, outageDelay)
		}
		event.Again = time.Now().Add(pause)
		w.queue.AddAfter(key, pause)
	}
	w.mu.Lock()
	w.tally.count(tried.step, "failed")
	w.tally.failures[reasonOf(out)]++
	r := w.recordOf(key, pod)
	r.phase, r.tried, r.retryAt, r.renewAt, r.refused = failed, tried, event.Again, time.Time{}, nil
	if out.Refused {
		r.refused = pod
	}
	known := r.reported == out.Err.Error()
	r.reported = out.Err.Error()
	w.mu.Unlock()
	if !known {
		w.report(event)
	}
}

// unreachable reports whether err comes from an API server that is away or busy.
func unreachable(err error) bool {
	var network net.Error
	return errors.As(err, &network) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsTooManyRequests(err) || apierrors.IsInternalError(err)
}
