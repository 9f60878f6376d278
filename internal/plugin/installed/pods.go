package installed

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	informers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
)

// Pods is where the states of pods come from: a watch for each pod (EachPod), one for all pods
// of a namespace where many of them are followed (ManyPods), or a cache that somebody else keeps
// (Cached).
type Pods interface {
	// see begins to look at pod. ctx bounds that, but for the caller's stop.
	see(ctx context.Context, pod *corev1.Pod) (*sight, error)
	// shown returns pod as a watch of many pods shows it, nil if there is none that does.
	shown(ctx context.Context, pod *corev1.Pod) *corev1.Pod
}

// Present returns pod as it is now, and asks the API server only if no watch of many pods shows it as it was read before. The
// error is ErrOvertaken if its gateways or its addresses are others by now, and ErrReplaced if it is gone.
//
// A watch can be behind. Whoever acts on what it shows has the server compare the resource version, as [AddContainer] does.
func Present(ctx context.Context, kube kubernetes.Interface, pods Pods, pod *corev1.Pod) (*corev1.Pod, error) {
	if now := pods.shown(ctx, pod); now != nil && now.UID == pod.UID && !overtaken(pod, now) {
		return now, nil
	}
	now, err := Reread(ctx, kube, pod)
	if err == nil && overtaken(pod, now) {
		return nil, ErrOvertaken
	}
	return now, err
}

// sight is what is seen of one pod.
type sight struct {
	// changed has a token when there may be something new, the present state to begin with.
	changed <-chan struct{}
	// now returns the pod, nil if there is none, and false while nothing is known.
	now  func() (*corev1.Pod, bool)
	stop func()
}

// Cached returns the pods of informer, which others run. It adds a handler to it.
func Cached(informer cache.SharedIndexInformer) (Pods, error) {
	c := &cached{informer: informer, followed: map[string]map[chan struct{}]bool{}}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    c.signal,
		UpdateFunc: func(_, now any) { c.signal(now) },
		DeleteFunc: c.signal,
	})
	return c, err
}

type cached struct {
	informer cache.SharedIndexInformer
	mu       sync.Mutex
	// followed are signalled when the pod of a key has changed.
	followed map[string]map[chan struct{}]bool
}

func (c *cached) signal(object any) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for changed := range c.followed[key] {
		wake(changed)
	}
}

func wake(changed chan struct{}) {
	select {
	case changed <- struct{}{}:
	default: // it will look anyway
	}
}

func (c *cached) see(ctx context.Context, pod *corev1.Pod) (*sight, error) {
	key, changed := pod.Namespace+"/"+pod.Name, make(chan struct{}, 1)
	c.mu.Lock()
	if c.followed[key] == nil {
		c.followed[key] = map[chan struct{}]bool{}
	}
	c.followed[key][changed] = true
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		// Only then it is known that there is no such pod.
		if cache.WaitForCacheSync(ctx.Done(), c.informer.HasSynced) {
			wake(changed)
		}
	}()
	return &sight{changed: changed, now: func() (*corev1.Pod, bool) { return c.get(key) }, stop: func() {
		cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		if delete(c.followed[key], changed); len(c.followed[key]) == 0 {
			delete(c.followed, key)
		}
	}}, nil
}

// get returns the pod of a key, nil if there is none, and false while nothing is known.
func (c *cached) get(key string) (*corev1.Pod, bool) {
	object, exists, err := c.informer.GetStore().GetByKey(key)
	if err != nil || !exists {
		return nil, err == nil && c.informer.HasSynced()
	}
	return object.(*corev1.Pod), true
}

func (c *cached) shown(ctx context.Context, pod *corev1.Pod) *corev1.Pod {
	if !cache.WaitForCacheSync(ctx.Done(), c.informer.HasSynced) {
		return nil
	}
	now, _ := c.get(pod.Namespace + "/" + pod.Name)
	return now
}

// EachPod watches every pod that is followed by itself.
func EachPod(kube kubernetes.Interface) Pods { return eachPod{kube} }

type eachPod struct{ kube kubernetes.Interface }

func (e eachPod) see(ctx context.Context, pod *corev1.Pod) (*sight, error) {
	pods, stop, err := watchPods(ctx, e.kube, pod.Namespace, pod.Name)
	if err != nil {
		return nil, err
	}
	seen, err := pods.see(ctx, pod)
	if err != nil {
		stop()
		return nil, err
	}
	unsee := seen.stop
	seen.stop = func() {
		unsee()
		stop()
	}
	return seen, nil
}

func (eachPod) shown(context.Context, *corev1.Pod) *corev1.Pod { return nil }

// watchPods watches the pods of a namespace, or the one called name, until ctx ends or the
// returned function is called, which waits for the end.
func watchPods(ctx context.Context, kube kubernetes.Interface, namespace, name string) (Pods, func(), error) {
	informer := informers.NewFilteredPodInformer(kube, namespace, 0, nil, func(o *metav1.ListOptions) {
		if name != "" {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
		}
	})
	pods, err := Cached(informer)
	if err != nil {
		return nil, nil, err
	}
	// Errors of the connection show as a timeout, not as log lines between the results.
	ctx, cancel := context.WithCancel(klog.NewContext(ctx, klog.Logger{}))
	var running sync.WaitGroup
	running.Go(func() { informer.RunWithContext(ctx) })
	return pods, func() {
		cancel()
		running.Wait()
	}, nil
}

const (
	// manyPods is how many pods of a namespace have to be followed for one watch of them all.
	manyPods = 16
	// worthwhile is how many pods it may then have for each of those.
	worthwhile = 8
)

// ManyPods watches all pods of a namespace at once where many of them are to be followed, which
// are those. The watches last until ctx ends.
func ManyPods(ctx context.Context, kube kubernetes.Interface, those []corev1.Pod) Pods {
	counts := map[string]int{}
	for i := range those {
		counts[those[i].Namespace]++
	}
	return manyOf(parallel.Once(func(namespace string) Pods {
		n := counts[namespace]
		if n < manyPods {
			return eachPod{kube}
		}
		// Whatever fails, pods can be watched one by one.
		some, err := kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{Limit: 1})
		if err == nil && (some.RemainingItemCount == nil || *some.RemainingItemCount <= int64(n*worthwhile)) {
			if pods, _, err := watchPods(ctx, kube, namespace, ""); err == nil {
				return pods
			}
		}
		return eachPod{kube}
	}))
}

// manyOf returns where the states of the pods of a namespace come from.
type manyOf func(namespace string) Pods

func (of manyOf) see(ctx context.Context, pod *corev1.Pod) (*sight, error) {
	return of(pod.Namespace).see(ctx, pod)
}

func (of manyOf) shown(ctx context.Context, pod *corev1.Pod) *corev1.Pod {
	return of(pod.Namespace).shown(ctx, pod)
}
