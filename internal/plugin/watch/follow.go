package watch

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/resend"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

const (
	// refreshPause is the least time between two surveys of a cluster that changes: what
	// changes meanwhile is part of the next one.
	refreshPause = 2 * time.Second
	// surveyRetry is the pause after a survey that failed.
	surveyRetry = 15 * time.Second
)

// clusterChanged notes that the gateways that run may have to know something new.
func (w *Watcher) clusterChanged() {
	w.Actions.ClusterChanged()
	w.signal()
}

func (w *Watcher) signal() {
	select {
	case w.changed <- struct{}{}:
	default: // there will be a survey already
	}
}

// followCluster surveys the cluster whenever it has changed, and now and then, and has all
// gateways compared with it.
func (w *Watcher) followCluster(ctx context.Context) {
	w.signal()
	for told := ""; ; {
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
		case <-time.After(surveyAge):
			w.Actions.ClusterChanged()
		}
		pause, words := refreshPause, ""
		if err := w.survey(ctx); err != nil && ctx.Err() == nil {
			pause, words = surveyRetry, err.Error()
			w.signal()
		}
		if words != told && words != "" {
			w.report(Event{Action: Noticed, Warnings: []string{"gateways are not brought up to date: " + words}})
		}
		told = words
		if resend.Pause(ctx, pause) != nil {
			return
		}
	}
}

// survey surveys the cluster for the gateways that run, if any does, and has them looked at.
func (w *Watcher) survey(ctx context.Context) (err error) {
	defer func() {
		if err == nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.tally.synced = time.Now()
		}
	}()
	var pods []corev1.Pod
	running := false
	for _, object := range w.sources.pods.GetStore().List() {
		pod := object.(*corev1.Pod)
		running = running || installed.Runs(pod)
		pods = append(pods, *pod)
	}
	if !running {
		w.idle.Store(true)
		return w.Actions.Survey(ctx, nil)
	}
	if err := w.Actions.Survey(ctx, pods); err != nil {
		return err
	}
	for i := range pods {
		w.enqueue(&pods[i])
	}
	return nil
}

// podChanged notes a pod that a survey would find something new about. was is nil for one that
// is new.
func (w *Watcher) podChanged(was, now *corev1.Pod) {
	if now.Spec.HostNetwork || was != nil && samePlace(was, now) {
		return
	}
	if len(survey.HostPorts(now)) > 0 || !w.Actions.Known(now) {
		w.clusterChanged()
	}
}

func samePlace(a, b *corev1.Pod) bool {
	return a.UID == b.UID && a.Spec.NodeName == b.Spec.NodeName && len(a.Status.PodIPs) == len(b.Status.PodIPs) && a.Status.PodIP == b.Status.PodIP
}
