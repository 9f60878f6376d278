package signing

import (
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// request is one that is to be answered.
type request struct {
	kind, key string
	// asker is the namespace that it comes from, or the user, which has a space in front.
	asker string
}

// requestOf returns that of an object of a kind. The asker is never what a request says of itself.
func requestOf(kind string, object any) (request, error) {
	key, err := cache.MetaNamespaceKeyFunc(object)
	r := request{kind: kind, key: key}
	switch o := object.(type) {
	case *certificatesv1.PodCertificateRequest:
		r.asker = o.Namespace
	case *certificatesv1.CertificateSigningRequest:
		r.asker = " " + o.Spec.Username
		if account, found := strings.CutPrefix(o.Spec.Username, accountPrefix); found {
			r.asker, _, _ = strings.Cut(account, ":")
		}
	}
	return r, err
}

func newQueue() workqueue.TypedRateLimitingInterface[request] {
	order := workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[request]{Queue: &turns{waiting: make(map[string][]request)}})
	return workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[request](retryDelay, maxDelay),
		workqueue.TypedRateLimitingQueueConfig[request]{
			DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[request]{Queue: order}),
		})
}

// turns is a [workqueue.Queue] in which askers take turns: many requests of one hold up nobody else's. A
// request is in it once at most, so that it holds no more than the API server does.
type turns struct {
	// waiting are the requests of each asker that has any, and askers those, the next one first.
	waiting map[string][]request
	askers  []string
	n       int
}

// Touch is part of [workqueue.Queue].
func (*turns) Touch(request) {}

// Len is part of [workqueue.Queue].
func (t *turns) Len() int { return t.n }

// Push is part of [workqueue.Queue].
func (t *turns) Push(r request) {
	if len(t.waiting[r.asker]) == 0 {
		t.askers = append(t.askers, r.asker)
	}
	t.waiting[r.asker] = append(t.waiting[r.asker], r)
	t.n++
}

// Pop is part of [workqueue.Queue].
func (t *turns) Pop() request {
	asker := t.askers[0]
	r, left := t.waiting[asker][0], t.waiting[asker][1:]
	t.askers = slices.Delete(t.askers, 0, 1)
	if len(left) == 0 {
		delete(t.waiting, asker)
	} else {
		t.waiting[asker] = left
		t.askers = append(t.askers, asker)
	}
	t.n--
	return r
}
