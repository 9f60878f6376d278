package installed

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/klog/v2"
)

// follow returns what becomes of pod, beginning with its present state; gone is
// closed if it has none. Call stop when done with it.
func follow(kube kubernetes.Interface, pod *corev1.Pod) (events <-chan watch.Event, gone <-chan struct{}, stop func()) {
	client := kube.CoreV1().Pods(pod.Namespace)
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, pod.Name).String()
	// Lists again when its watch expires. The logger is empty: errors of the
	// connection show as a timeout here, not as lines between the results.
	present, informer, watcher, done := watchtools.NewIndexerInformerWatcherWithLogger(klog.Logger{}, cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = selector
			return client.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = selector
			return client.Watch(ctx, options)
		},
	}, kube), &corev1.Pod{})
	ended, absent := make(chan struct{}), make(chan struct{})
	go func() {
		if cache.WaitForCacheSync(ended, informer.HasSynced) && len(present.List()) == 0 {
			close(absent)
		}
	}()
	return watcher.ResultChan(), absent, func() {
		close(ended)
		watcher.Stop()
		<-done
	}
}

// observed returns the pod in an event of follow. It is ErrReplaced if pod is gone.
func observed(event watch.Event, pod *corev1.Pod) (*corev1.Pod, error) {
	now, ok := event.Object.(*corev1.Pod)
	switch {
	case !ok:
		return nil, fmt.Errorf("watching the pod: %v", event.Type)
	case event.Type == watch.Deleted || now.UID != pod.UID:
		return nil, ErrReplaced
	}
	return now, nil
}

// secretGrace is how long a kubelet may fail to read a Secret: the API
// server's node authorizer learns of the new container a little later than
// the kubelet does, which then tries again.
const secretGrace = 10 * time.Second

// lateness tells a kubelet that is late from one that will never succeed.
type lateness struct {
	grace   <-chan time.Time
	pending error
}

// judge returns why gateway will never work, if that is so. What the kubelet may
// get over becomes pending, and final when grace ends.
func (p *lateness) judge(pod *corev1.Pod, gateway Gateway) error {
	final, curable := failure(pod, gateway)
	switch {
	case curable == nil:
		p.grace = nil
	case p.grace == nil:
		p.grace = time.After(secretGrace)
	}
	p.pending = curable
	if final != nil {
		return &FailedError{final}
	}
	return nil
}

// Follow calls each with pod and its gateway called name whenever one of them has
// changed, beginning with their present state, until each is done or fails, and
// returns the gateway as it was last seen. The error is that of each, ErrReplaced if
// the pod is gone, a *FailedError if the container has ended or cannot start, or the
// cause of ctx's end.
func Follow(ctx context.Context, kube kubernetes.Interface, pod *corev1.Pod, name string, each func(*corev1.Pod, Gateway) (done bool, err error)) (Gateway, error) {
	events, gone, stop := follow(kube, pod)
	defer stop()
	last := find(pod, Gateway{Name: name, Phase: Waiting})
	var kubelet lateness
	for {
		select {
		case event := <-events:
			now, err := observed(event, pod)
			if err != nil {
				return last, err
			}
			last = find(now, last)
			if done, err := each(now, last); done || err != nil {
				return last, err
			}
			if err := kubelet.judge(now, last); err != nil {
				return last, err
			}
		case <-gone:
			return last, ErrReplaced
		case <-kubelet.grace:
			return last, &FailedError{kubelet.pending}
		case <-ctx.Done():
			return last, context.Cause(ctx)
		}
	}
}

// WaitUntil is Follow until the gateway called name is as wanted.
func WaitUntil(ctx context.Context, kube kubernetes.Interface, pod *corev1.Pod, name string, wanted func(Gateway) bool) (Gateway, error) {
	return Follow(ctx, kube, pod, name, func(_ *corev1.Pod, gateway Gateway) (bool, error) { return wanted(gateway), nil })
}
