package tail

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	informers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/resend"
)

// Join chooses the pods that are followed as soon as they have a gateway.
type Join struct {
	// Namespaces are watched; metav1.NamespaceAll stands for all.
	Namespaces []string
	// LabelSelector and FieldSelector choose among their pods.
	LabelSelector, FieldSelector string
	// Belongs chooses among the pods that the selectors match. Nil chooses all.
	Belongs func(context.Context, *corev1.Pod) (bool, error)
}

// crowd is the pods that are followed while others come and go. Each gateway has one stream
// at a time, each pod one more only while a gateway drains whose place another one took, and no
// line of a gateway is read twice.
type crowd struct {
	t          *Tailer
	group      *errgroup.Group
	incomplete *atomic.Bool
	// stop ends the watch for new pods.
	stop context.CancelFunc

	mu      sync.Mutex
	members map[types.UID]*member
	// stores hold the latest state of the pods that are watched.
	stores []cache.Store
	active int
	closed bool
}

// member is a pod that is followed, was followed, or will never be.
type member struct {
	// stranger is set if the pod does not belong.
	stranger bool
	// streams is how many of its gateways are followed, and claimed which ever were.
	streams int
	claimed map[string]bool
	// crowded is set once the user knows that there are too many pods to follow this one.
	crowded bool
	// at is how far the log of the last gateway was read. It has no container before the
	// first.
	at cursor
}

// run starts to follow pods, and watches for new ones. It returns at once. The group
// ends when nothing is left to do.
func (c *crowd) run(ctx context.Context, pods []corev1.Pod) {
	watching, stop := context.WithCancel(ctx)
	c.stop = stop
	c.group.Go(func() error {
		<-watching.Done()
		return nil
	})
	for i := range pods {
		pod := &pods[i]
		c.members[pod.UID] = &member{}
		if _, ok := installed.Current(pod); !ok {
			c.t.report(pod, event, "the pod has no gateway yet", enableHint(pod))
			continue
		}
		c.see(ctx, pod, false)
	}
	for _, namespace := range c.t.Join.Namespaces {
		informer := informers.NewFilteredPodInformer(c.t.Kube, namespace, 0, nil, func(options *metav1.ListOptions) {
			options.LabelSelector, options.FieldSelector = c.t.Join.LabelSelector, c.t.Join.FieldSelector
		})
		c.mu.Lock()
		c.stores = append(c.stores, informer.GetStore())
		c.mu.Unlock()
		// Both fail only for an informer that has been started before.
		_ = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
			if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
				c.leaveAlone(err)
			}
		})
		_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(object any) { c.see(ctx, object.(*corev1.Pod), true) },
			UpdateFunc: func(_, object any) { c.see(ctx, object.(*corev1.Pod), true) },
		})
		go informer.RunWithContext(watching)
	}
}

// leaveAlone goes on with the pods that are known.
func (c *crowd) leaveAlone(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	c.stop()
	text, hint := c.t.explain(err)
	c.t.say(warning+"new pods are not followed: "+text, cmp.Or(hint, "ask for a role that may list and watch pods"))
}

// see starts to follow a pod that belongs and has a gateway whose log was not read yet.
// The log of a pod that came later is read from its start.
func (c *crowd) see(ctx context.Context, pod *corev1.Pod, later bool) {
	gateway, ok := installed.Current(pod)
	if !ok || gateway.Phase == installed.Waiting || ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	m := c.members[pod.UID]
	c.mu.Unlock()
	if m == nil {
		m = &member{stranger: !c.belongs(ctx, pod)}
		if ctx.Err() != nil {
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members[pod.UID] = m
	switch {
	case m.stranger || c.closed:
		return
	case m.streams > 0:
		if before, both := installed.Predecessor(pod, gateway); both && m.claimed[before.Name] && !m.claimed[gateway.Name] && c.active < c.t.Options.Parallel {
			c.t.report(pod, event, fmt.Sprintf("%s is to take the place of %s, following both", gateway.Name, before.Name), "")
			c.start(ctx, pod, m, cursor{container: gateway.Name, started: gateway.StartedAt, fromStart: true})
		}
		return
	case m.at.container == gateway.Name && !gateway.StartedAt.After(m.at.started):
		// A container that has ended runs again only after its node has restarted.
		return
	case c.active >= c.t.Options.Parallel:
		if !m.crowded {
			c.t.report(pod, warning, fmt.Sprintf("not followed: that would be more than %d logs at a time", c.t.Options.Parallel), "raise --max-log-requests")
		}
		m.crowded = true
		return
	}
	fromStart := later || c.t.Options.whole()
	at := cursor{container: gateway.Name, started: gateway.StartedAt, fromStart: fromStart}
	if m.at.container == gateway.Name {
		// The lines before these were read.
		at.last, at.atLast = m.at.last, m.at.atLast
	}
	if later {
		c.t.report(pod, event, "has a gateway, following it", "")
	}
	m.crowded = false
	c.start(ctx, pod, m, at)
	if before, both := installed.Predecessor(pod, gateway); both && !m.claimed[before.Name] && c.active < c.t.Options.Parallel {
		c.start(ctx, pod, m, cursor{container: before.Name, started: before.StartedAt, fromStart: fromStart})
	}
}

// start follows the log of one gateway of m from at on. c.mu is held.
func (c *crowd) start(ctx context.Context, pod *corev1.Pod, m *member, at cursor) {
	m.claim(at.container)
	m.streams++
	c.active++
	at.claim = func(container string) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return m.claim(container)
	}
	c.group.Go(func() error {
		err := c.t.conclude(ctx, pod, c.t.follow(ctx, pod, &at), c.incomplete)
		c.left(ctx, m, at)
		return err
	})
}

// claim reports whether nobody has followed container, which the caller follows then.
func (m *member) claim(container string) bool {
	if m.claimed[container] {
		return false
	}
	if m.claimed == nil {
		m.claimed = map[string]bool{}
	}
	m.claimed[container] = true
	return true
}

// belongs calls Belongs until it succeeds, as often as Retry allows.
func (c *crowd) belongs(ctx context.Context, pod *corev1.Pod) bool {
	if c.t.Join.Belongs == nil {
		return true
	}
	for retry := c.t.Retry; ; {
		belongs, err := c.t.Join.Belongs(ctx, pod)
		switch {
		case err == nil:
			return belongs
		case retry.Steps <= 0:
			text, hint := c.t.explain(err)
			c.t.report(pod, warning, "not followed: whether it is one of those named is unknown: "+text, hint)
			return false
		case resend.Pause(ctx, retry.Step()) != nil:
			return false
		}
	}
}

// left makes room for others, and looks again at the pods that had to wait and at the
// one that was followed.
func (c *crowd) left(ctx context.Context, m *member, at cursor) {
	c.mu.Lock()
	if m.at.container == "" || !at.started.Before(m.at.started) {
		m.at = at
	}
	m.streams--
	c.active--
	stores := c.stores
	c.mu.Unlock()
	for _, store := range stores {
		for _, object := range store.List() {
			pod := object.(*corev1.Pod)
			c.mu.Lock()
			known := c.members[pod.UID]
			again := known == m || known != nil && known.crowded
			c.mu.Unlock()
			if again {
				c.see(ctx, pod, true)
			}
		}
	}
}
