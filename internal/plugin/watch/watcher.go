package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
)

// Retries of one pod pause this long at first and twice as long each time, up to
// maxDelay. While the API server cannot be reached the pauses grow no longer than
// outageDelay, so that work goes on soon after it is back.
const (
	retryDelay  = time.Second
	outageDelay = 15 * time.Second
)

// Actions are what a Watcher does about pods. Calls about different pods come at
// the same time, never two about one pod. Each ends soon after its context, and
// bounds its own time.
type Actions interface {
	// Image is what new gateways run.
	Image() string
	// Enable gives pod a gateway that is ready, or makes the one that is on its
	// way ready. annotated says that an annotation asks for it, and settings are what is declared about it.
	Enable(ctx context.Context, pod *corev1.Pod, annotated bool, settings declared.Settings) Outcome
	// Disable ends the gateway of pod, or removes what a dead one has left.
	Disable(ctx context.Context, pod *corev1.Pod) Outcome
	// Renew gives the gateway called container a new certificate.
	Renew(ctx context.Context, pod *corev1.Pod, container string) Outcome
	// Ask returns the status of the gateway called container.
	Ask(ctx context.Context, pod *corev1.Pod, container string) (*api.Status, error)
	// Outdated reports whether gateway, which has answered with status, is older than what Upgrade
	// would put in its place.
	Outdated(gateway installed.Gateway, status *api.Status) bool
	// Upgrade puts a gateway with settings in the place of that of pod, which has answered with status: one with Image
	// if that is newer.
	Upgrade(ctx context.Context, pod *corev1.Pod, status *api.Status, settings declared.Settings) Outcome
	// Apply changes the gateway of pod to those of settings that change in place.
	Apply(ctx context.Context, pod *corev1.Pod, settings declared.Settings) Outcome
	// Survey looks at the cluster, of which pods are known, and returns once Covered goes by that.
	// Without pods nobody needs one, and what the last one found is forgotten: it gets old.
	Survey(ctx context.Context, pods []corev1.Pod) error
	// Covered reports whether the gateway of pod, which has answered with status, captures what the
	// last survey found. It is true while that is not known.
	Covered(pod *corev1.Pod, status *api.Status) bool
	// Known reports whether the last survey knows where pod is.
	Known(pod *corev1.Pod) bool
	// Refresh brings the gateway called container what the last survey found. status is its last
	// answer.
	Refresh(ctx context.Context, pod *corev1.Pod, container string, status *api.Status) Outcome
	// ClusterChanged says that what a survey reads has changed.
	ClusterChanged()
	// FollowSigner brings all gateways of the cluster what the signer of their certificates is trusted by, if
	// that has changed. changed reports whether it had to, and warnings name gateways that are in the way.
	FollowSigner(ctx context.Context) (changed bool, warnings []string, err error)
	// Follow says where the states of pods come from, before anything else is asked for.
	Follow(pods installed.Pods)
}

// Options say what is watched.
type Options struct {
	// Namespace is empty for all namespaces.
	Namespace string
	// Selector is a label selector for pods, empty for all.
	Selector string
	// Names are enabled without an annotation. They need a Namespace.
	Names []Name
	// Declared says whose annotations say how gateways are to be. Empty means all.
	Declared declared.From
	// Replace replaces gateways for what is declared and does not change in place.
	Replace bool
	// Parallel is how many pods of one namespace are worked on at a time, parallel.Default if zero. Where all
	// namespaces are watched, a quarter more are in all.
	Parallel int
	// Mode is that of new gateways, for Metrics; empty compares none with it.
	Mode api.Mode
}

// Watcher does the work. Its fields must not change once it runs.
type Watcher struct {
	Client  kubernetes.Interface
	Actions Actions
	Options Options
	// Report is called with every event; calls do not overlap.
	Report func(Event)

	reportMu sync.Mutex
	mu       sync.Mutex
	records  map[types.NamespacedName]*record
	tally    tally
	// outage is true while the API server cannot be reached.
	outage bool
	synced atomic.Bool
	// changed has a token if the cluster is to be surveyed, and idle says that this waits for
	// the first gateway.
	changed chan struct{}
	idle    atomic.Bool
	rollout rollout
	// once says that nobody works off the queue.
	once    bool
	sources *sources
	queue   workqueue.TypedRateLimitingInterface[types.NamespacedName]
	shares  shares
	retries workqueue.TypedRateLimiter[types.NamespacedName]
}

// record is what is remembered of a pod between two looks at it. It holds nothing
// that could not be found out again.
type record struct {
	uid types.UID
	// gateway is the container that status, askAt and renewed are about.
	gateway string
	status  *api.Status
	askAt   time.Time
	renewed time.Time
	// ended is the container that was disabled successfully.
	ended string
	// tried is what failed last, and retryAt when it may be tried again.
	tried   attempt
	retryAt time.Time
	// reported is the last failure that was told, and trouble what only others
	// can end; the same is not told again.
	reported, trouble string
	// refused is the state of the pod that was refused.
	refused *corev1.Pod
	phase   phase
	renewAt time.Time
	// older says that the gateway is to be upgraded, or to be replaced for its settings.
	older bool
	seen  seen
}

// attempt tells one thing that was tried from another, which need not wait for
// the pause after the first one's failure.
type attempt struct {
	step    step
	gateway string
}

// Run watches until ctx ends; the error is nil then. It returns when all that was
// begun has ended.
func (w *Watcher) Run(ctx context.Context) error {
	stop, err := w.start(ctx)
	if err != nil {
		return unlessEnded(ctx, err)
	}
	defer stop()
	var workers sync.WaitGroup
	workers.Go(func() { w.followCluster(ctx) })
	workers.Go(func() { w.followSigner(ctx) })
	count := w.parallel()
	if w.Options.Namespace == "" {
		count += reserve(count)
	}
	for range count {
		workers.Go(func() { w.work(ctx) })
	}
	<-ctx.Done()
	w.queue.ShutDown()
	workers.Wait()
	return nil
}

// Once looks at every pod until nothing is left to do about it now, and returns
// how many are not as they are wanted.
func (w *Watcher) Once(ctx context.Context) (failures int, err error) {
	w.once = true
	stop, err := w.start(ctx)
	if err != nil {
		return 0, unlessEnded(ctx, err)
	}
	defer stop()
	w.survey(ctx)
	if words, _ := w.askSigner(ctx); len(words) > 0 {
		w.report(Event{Action: Noticed, Warnings: words})
	}
	var keys []types.NamespacedName
	for _, key := range w.sources.pods.GetIndexer().ListKeys() {
		namespace, name, _ := cache.SplitMetaNamespaceKey(key)
		keys = append(keys, types.NamespacedName{Namespace: namespace, Name: name})
	}
	// Those that had to wait for others come again.
	for len(keys) > 0 && ctx.Err() == nil {
		parallel.Each(w.parallel(), keys, func(key *types.NamespacedName) struct{} {
			// Each step leads to the next: enable, then nothing; or ask, renew.
			for range maxSteps {
				if ctx.Err() != nil || !w.reconcile(ctx, *key) {
					break
				}
			}
			return struct{}{}
		}, nil)
		keys = w.onceMore()
	}
	counts := w.Counts()
	return counts.Failed + counts.Working, ctx.Err()
}

// maxSteps bounds the steps of Once about one pod.
const maxSteps = 8

func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (w *Watcher) parallel() int { return cmp.Or(max(w.Options.Parallel, 0), parallel.Default) }

// start fills the caches. The returned function ends what feeds them.
func (w *Watcher) start(ctx context.Context) (stop func(), err error) {
	if len(w.Options.Names) > 0 && w.Options.Namespace == "" {
		return nil, errors.New("names need a namespace")
	}
	w.mu.Lock()
	w.records, w.tally = map[types.NamespacedName]*record{}, newTally()
	w.rollout.busy, w.rollout.waiting = sets.New[types.UID](), sets.New[types.NamespacedName]()
	w.mu.Unlock()
	w.changed = make(chan struct{}, 1)
	w.retries = workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](retryDelay, maxDelay)
	w.queue = workqueue.NewTypedRateLimitingQueue(w.retries)
	if w.sources, err = w.newSources(ctx); err != nil {
		w.queue.ShutDown()
		return nil, err
	}
	pods, err := installed.Cached(w.sources.pods)
	if err != nil {
		w.queue.ShutDown()
		return nil, err
	}
	w.Actions.Follow(pods)
	// The libraries' own log would tear the output apart; what matters of it is
	// reported as events.
	feed, cancel := context.WithCancel(klog.NewContext(ctx, klog.Logger{}))
	var feeding sync.WaitGroup
	var filled []cache.DoneChecker
	for _, informer := range w.sources.all() {
		feeding.Go(func() { informer.RunWithContext(feed) })
		filled = append(filled, informer.HasSyncedChecker())
	}
	stop = func() {
		cancel()
		w.queue.ShutDown()
		feeding.Wait()
	}
	if !cache.WaitFor(feed, "", filled...) {
		stop()
		return nil, fmt.Errorf("reading the pods: %w", context.Cause(ctx))
	}
	w.synced.Store(true)
	return stop, nil
}

// Synced reports whether all pods are known.
func (w *Watcher) Synced() bool { return w.synced.Load() }

// work works off the queue. Each namespace has its share of the workers.
func (w *Watcher) work(ctx context.Context) {
	for {
		key, down := w.queue.Get()
		if down {
			return
		}
		if !w.shares.enter(key, w.parallel()) {
			w.queue.Done(key)
			continue
		}
		if ctx.Err() == nil && w.reconcile(ctx, key) {
			w.queue.Add(key)
		}
		w.queue.Done(key)
		if next, ok := w.shares.leave(key.Namespace); ok {
			w.queue.Add(next)
		}
	}
}

// Counts returns where everything stands.
func (w *Watcher) Counts() Counts {
	w.mu.Lock()
	defer w.mu.Unlock()
	counts := Counts{Connected: !w.outage, Halted: w.rollout.state()}
	for _, r := range w.records {
		switch r.phase {
		case off:
			continue
		case ready:
			counts.Ready++
		case failed:
			counts.Failed++
		case working:
			counts.Working++
		}
		counts.Watched++
		if r.older {
			counts.Outdated++
		}
		if !r.renewAt.IsZero() && (counts.NextRenewal.IsZero() || r.renewAt.Before(counts.NextRenewal)) {
			counts.NextRenewal = r.renewAt
		}
	}
	return counts
}

func (w *Watcher) report(e Event) {
	e.Time = time.Now()
	w.reportMu.Lock()
	defer w.reportMu.Unlock()
	w.Report(e)
}
