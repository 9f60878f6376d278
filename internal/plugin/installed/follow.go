package installed

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
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
// cause of ctx's end. States that follow one another closely may be one.
func Follow(ctx context.Context, pods Pods, pod *corev1.Pod, name string, each func(*corev1.Pod, Gateway) (done bool, err error)) (Gateway, error) {
	last := find(pod, Gateway{Name: name, Phase: Waiting})
	seen, err := pods.see(ctx, pod)
	if err != nil {
		return last, err
	}
	defer seen.stop()
	var kubelet lateness
	for {
		select {
		case <-seen.changed:
			now, known := seen.now()
			switch {
			case !known:
				continue
			case now == nil || now.UID != pod.UID:
				return last, ErrReplaced
			}
			last = find(now, last)
			if done, err := each(now, last); done || err != nil {
				return last, err
			}
			if err := kubelet.judge(now, last); err != nil {
				return last, err
			}
		case <-kubelet.grace:
			return last, &FailedError{kubelet.pending}
		case <-ctx.Done():
			return last, context.Cause(ctx)
		}
	}
}

// WaitUntil is Follow until the gateway called name is as wanted.
func WaitUntil(ctx context.Context, pods Pods, pod *corev1.Pod, name string, wanted func(Gateway) bool) (Gateway, error) {
	return Follow(ctx, pods, pod, name, func(_ *corev1.Pod, gateway Gateway) (bool, error) { return wanted(gateway), nil })
}
