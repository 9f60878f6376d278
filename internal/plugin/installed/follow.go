package installed

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	informers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// grace is how long what is doubtful may take: the API server's node authorizer learns of
// the new container a little later than the kubelet does, which then tries again to read
// the Secret.
const grace = 30 * time.Second

// lateness tells a kubelet that is late from one that will never succeed.
type lateness struct {
	grace   <-chan time.Time
	pending error
	// pulls is set while the kubelet pauses between two pulls, for a reason that passes.
	pulls bool
}

// judge returns why gateway will never work, if that is so. What is doubtful becomes
// pending, and final when grace ends.
func (p *lateness) judge(pod *corev1.Pod, gateway Gateway) error {
	chance, err := failure(pod, gateway)
	// Kubelets before 1.32 do not repeat there why the pull failed.
	if gateway.Reason == "ImagePullBackOff" && p.pulls {
		chance = late
	}
	p.pulls = err != nil && chance == late && gateway.Pulls()
	p.pending = err
	switch {
	case err == nil || chance == late:
		p.grace = nil
	case chance == hopeless:
		return &FailedError{err}
	case p.grace == nil:
		p.grace = time.After(grace)
	}
	return nil
}

// Follow calls each with pod and its gateway called name whenever one of them has
// changed, beginning with their present state, until each is done or fails, and
// returns the gateway as it was last seen. The error is that of each, ErrReplaced if
// the pod is gone, a *FailedError if the container has ended or cannot start, or the
// cause of ctx's end.
func Follow(ctx context.Context, kube kubernetes.Interface, pod *corev1.Pod, name string, each func(*corev1.Pod, Gateway) (done bool, err error)) (Gateway, error) {
	changes, absent, stop := follow(ctx, kube, pod)
	defer stop()
	last := find(pod, Gateway{Name: name, Phase: Waiting})
	var kubelet lateness
	for {
		select {
		case now := <-changes:
			if now == nil || now.UID != pod.UID {
				return last, ErrReplaced
			}
			last = find(now, last)
			if done, err := each(now, last); done || err != nil {
				return last, err
			}
			if err := kubelet.judge(now, last); err != nil {
				return last, err
			}
		case <-absent:
			return last, ErrReplaced
		case <-kubelet.grace:
			return last, &FailedError{kubelet.pending}
		case <-ctx.Done():
			return last, context.Cause(ctx)
		}
	}
}

// follow returns the states of pod, beginning with the present one; nil stands for its
// deletion. absent is closed if there is no such pod. Call stop when done with it.
func follow(ctx context.Context, kube kubernetes.Interface, pod *corev1.Pod) (changes <-chan *corev1.Pod, absent <-chan struct{}, stop func()) {
	// Errors of the connection show as a timeout, not as log lines between the results.
	ctx, cancel := context.WithCancel(klog.NewContext(ctx, klog.Logger{}))
	informer := informers.NewFilteredPodInformer(kube, pod.Namespace, 0, nil, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, pod.Name).String()
	})
	states, none := make(chan *corev1.Pod), make(chan struct{})
	send := func(now *corev1.Pod) {
		select {
		case states <- now:
		case <-ctx.Done():
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(now any) { send(now.(*corev1.Pod)) },
		UpdateFunc: func(_, now any) { send(now.(*corev1.Pod)) },
		DeleteFunc: func(any) { send(nil) },
	})
	utilruntime.Must(err) // only one that runs already refuses
	var running sync.WaitGroup
	running.Go(func() { informer.RunWithContext(ctx) })
	running.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) && len(informer.GetStore().List()) == 0 {
			close(none)
		}
	})
	return states, none, func() {
		cancel()
		running.Wait()
	}
}

// WaitUntil is Follow until the gateway called name is as wanted.
func WaitUntil(ctx context.Context, kube kubernetes.Interface, pod *corev1.Pod, name string, wanted func(Gateway) bool) (Gateway, error) {
	return Follow(ctx, kube, pod, name, func(_ *corev1.Pod, gateway Gateway) (bool, error) { return wanted(gateway), nil })
}
