package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	polling "k8s.io/apimachinery/pkg/util/wait"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	appsinformers "k8s.io/client-go/informers/apps/v1"
	batchinformers "k8s.io/client-go/informers/batch/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

// byController indexes pods by the UID of what controls them, byWorkload by their declared.Workload.
const (
	byController = "controller"
	byWorkload   = "workload"
)

// sources are the caches of what decisions depend on. Those that are not needed,
// or that the user may not read, are nil.
type sources struct {
	pods       cache.SharedIndexInformer
	namespaces cache.SharedIndexInformer
	// owners hold what stands between a pod and what was named: ReplicaSets for
	// a Deployment, Jobs for a CronJob.
	owners map[string]cache.SharedIndexInformer
	// workloads hold what can declare settings, by kind.
	workloads map[string]cache.SharedIndexInformer
	// surveyed hold what a survey reads besides pods.
	surveyed []cache.SharedIndexInformer
}

func (s *sources) all() []cache.SharedIndexInformer {
	list := slices.AppendSeq(slices.AppendSeq(slices.Clone(s.surveyed), maps.Values(s.owners)), maps.Values(s.workloads))
	for _, informer := range []cache.SharedIndexInformer{s.pods, s.namespaces} {
		if informer != nil {
			list = append(list, informer)
		}
	}
	return list
}

// newSources prepares the caches, and finds out which of them can be had.
func (w *Watcher) newSources(ctx context.Context) (*sources, error) {
	core, namespace := w.Client.CoreV1(), w.Options.Namespace
	s := &sources{owners: map[string]cache.SharedIndexInformer{}, workloads: map[string]cache.SharedIndexInformer{}}
	// Gateways are added to running pods, and sidecars run in pending ones: those that have ended need not be
	// known.
	alive := func(o *metav1.ListOptions) {
		o.LabelSelector = w.Options.Selector
		o.FieldSelector = fields.AndSelectors(
			fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
			fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed))).String()
	}
	s.pods = coreinformers.NewFilteredPodInformer(w.Client, namespace, 0, cache.Indexers{
		cache.NamespaceIndex: cache.MetaNamespaceIndexFunc, byController: controllerUID, byWorkload: workloadKey,
	}, alive)
	err := w.prepare(ctx, s.pods, "pods", tried(core.Pods(namespace).List, alive), cache.ResourceEventHandlerFuncs{
		AddFunc: func(now any) {
			w.enqueue(now)
			w.podChanged(nil, now.(*corev1.Pod))
		},
		UpdateFunc: func(was, now any) {
			w.enqueue(now)
			w.podChanged(was.(*corev1.Pod), now.(*corev1.Pod))
			w.upgradeAnnotationChanged(was, now)
		},
		DeleteFunc: func(gone any) {
			w.enqueue(gone)
			if pod, ok := gone.(*corev1.Pod); !ok || len(survey.HostPorts(pod)) > 0 {
				w.clusterChanged()
			}
		},
	})
	if err != nil {
		return nil, err
	}
	named := func(o *metav1.ListOptions) {
		if namespace != "" {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, namespace).String()
		}
	}
	s.namespaces = coreinformers.NewFilteredNamespaceInformer(w.Client, 0, nil, named)
	err = w.prepare(ctx, s.namespaces, "namespaces", tried(core.Namespaces().List, named), cache.ResourceEventHandlerFuncs{
		AddFunc: w.enqueueNamespace,
		UpdateFunc: func(was, now any) {
			if !maps.Equal(ours(was), ours(now)) {
				w.enqueueNamespace(now)
			}
			w.upgradeAnnotationChanged(was, now)
		},
		DeleteFunc: w.enqueueNamespace,
	})
	if apierrors.IsForbidden(err) {
		s.namespaces = nil
		w.report(Event{Action: Noticed, Warnings: []string{"namespaces may not be read: only the annotations of pods count"}})
	} else if err != nil {
		return nil, err
	}
	if err := w.addSurveyed(ctx, s); err != nil {
		return nil, err
	}
	if err := w.addWorkloads(ctx, s); err != nil {
		return nil, err
	}
	return s, w.addOwners(ctx, s)
}

// addWorkloads adds what can declare settings of its pods, as far as that may be read.
func (w *Watcher) addWorkloads(ctx context.Context, s *sources) error {
	if w.Options.Declared != "" && w.Options.Declared != declared.FromAll {
		return nil
	}
	apps, batch, namespace := w.Client.AppsV1(), w.Client.BatchV1(), w.Options.Namespace
	var unread []string
	for _, source := range []struct {
		kind, what string
		informer   cache.SharedIndexInformer
		list       func(context.Context) error
	}{
		{"Deployment", "deployments", appsinformers.NewDeploymentInformer(w.Client, namespace, 0, nil), tried(apps.Deployments(namespace).List, nil)},
		{"StatefulSet", "statefulsets", appsinformers.NewStatefulSetInformer(w.Client, namespace, 0, nil), tried(apps.StatefulSets(namespace).List, nil)},
		{"DaemonSet", "daemonsets", appsinformers.NewDaemonSetInformer(w.Client, namespace, 0, nil), tried(apps.DaemonSets(namespace).List, nil)},
		{"Job", "jobs", batchinformers.NewJobInformer(w.Client, namespace, 0, nil), tried(batch.Jobs(namespace).List, nil)},
	} {
		enqueue := func(object any) { w.enqueueIndexed(byWorkload, keyOf(source.kind, metaOf(object))) }
		err := w.prepare(ctx, source.informer, source.what, source.list, cache.ResourceEventHandlerFuncs{
			AddFunc: func(now any) {
				if len(ours(now)) > 0 {
					enqueue(now)
				}
			},
			UpdateFunc: func(was, now any) {
				if !maps.Equal(ours(was), ours(now)) {
					enqueue(now)
				}
			},
		})
		switch {
		case err == nil:
			s.workloads[source.kind] = source.informer
		case apierrors.IsForbidden(err):
			unread = append(unread, source.what)
		default:
			return err
		}
	}
	if len(unread) > 0 {
		w.report(Event{Action: Noticed, Warnings: []string{strings.Join(unread, ", ") + " may not be read: their annotations do not count, those of pods and namespaces do"}})
	}
	return nil
}

// ours are the annotations of an object that are about gateways.
func ours(object any) map[string]string {
	all := maps.Clone(metaOf(object).GetAnnotations())
	maps.DeleteFunc(all, func(key, _ string) bool { return key != Annotation && !strings.HasPrefix(key, api.AnnotationPrefix) })
	return all
}

func keyOf(kind string, object metav1.Object) string {
	return kind + "/" + object.GetNamespace() + "/" + object.GetName()
}

func workloadKey(object any) ([]string, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	if w, ok := declared.WorkloadOf(pod); ok {
		return []string{w.Kind + "/" + w.Namespace + "/" + w.Name}, nil
	}
	return nil, nil
}

// settingsOf returns what is declared about the gateway of pod.
func (w *Watcher) settingsOf(pod *corev1.Pod) declared.Settings {
	var workload, namespace map[string]string
	if of, ok := declared.WorkloadOf(pod); ok {
		workload = metaOf(cachedObject(w.sources.workloads[of.Kind], of.Namespace+"/"+of.Name)).GetAnnotations()
	}
	if object := w.namespaceOf(pod); object != nil {
		namespace = object.Annotations
	}
	return w.Options.Declared.Resolve(declared.Places(pod, workload, namespace)...)
}

// addSurveyed adds what a survey reads besides pods. What the user may not watch, or
// the server does not have, is looked at now and then.
func (w *Watcher) addSurveyed(ctx context.Context, s *sources) error {
	apiServer := func(o *metav1.ListOptions) { o.LabelSelector = discoveryv1.LabelServiceName + "=kubernetes" }
	nodes, services, cidrs := w.Client.CoreV1().Nodes(), w.Client.CoreV1().Services(metav1.NamespaceAll), w.Client.NetworkingV1().ServiceCIDRs()
	apiServers := w.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	for _, source := range []struct {
		what     string
		informer cache.SharedIndexInformer
		list     func(context.Context) error
		watch    func(context.Context, metav1.ListOptions) (apiwatch.Interface, error)
	}{
		{"nodes", coreinformers.NewNodeInformer(w.Client, 0, nil), tried(nodes.List, nil), nodes.Watch},
		{"services", coreinformers.NewServiceInformer(w.Client, metav1.NamespaceAll, 0, nil), tried(services.List, nil), services.Watch},
		{"servicecidrs", networkinginformers.NewServiceCIDRInformer(w.Client, 0, nil), tried(cidrs.List, nil), cidrs.Watch},
		{"endpointslices", discoveryinformers.NewFilteredEndpointSliceInformer(w.Client, metav1.NamespaceDefault, 0, nil, apiServer), tried(apiServers.List, apiServer), apiServers.Watch},
	} {
		try := func(ctx context.Context) error {
			if err := source.list(ctx); err != nil {
				return err
			}
			stream, err := source.watch(ctx, metav1.ListOptions{TimeoutSeconds: new(int64(1))})
			if err == nil {
				stream.Stop()
			}
			return err
		}
		err := w.prepare(ctx, source.informer, source.what, try, cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { w.clusterChanged() },
			UpdateFunc: func(was, now any) {
				if surveyedChanged(was, now) {
					w.clusterChanged()
				}
			},
			DeleteFunc: func(any) { w.clusterChanged() },
		})
		switch {
		case err == nil:
			s.surveyed = append(s.surveyed, source.informer)
		case !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err):
			return err
		}
	}
	return nil
}

// surveyedChanged reports whether what a survey reads of an object has changed.
func surveyedChanged(was, now any) bool {
	switch b := now.(type) {
	case *corev1.Node:
		// Kubelets report every few minutes that nothing is new.
		a, ok := was.(*corev1.Node)
		return !ok || nodeChanged(a, b)
	case *corev1.Service:
		a, ok := was.(*corev1.Service)
		return !ok || !equality.Semantic.DeepEqual(a.Spec, b.Spec) || !equality.Semantic.DeepEqual(a.Status.LoadBalancer, b.Status.LoadBalancer) ||
			!maps.Equal(a.Labels, b.Labels)
	}
	return metaOf(was).GetResourceVersion() != metaOf(now).GetResourceVersion()
}

func (w *Watcher) addOwners(ctx context.Context, s *sources) error {
	namespace := w.Options.Namespace
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    w.enqueueControlled,
		UpdateFunc: func(_, now any) { w.enqueueControlled(now) },
	}
	for _, name := range w.Options.Names {
		var err error
		switch {
		case name.Kind == "Deployment" && s.owners["ReplicaSet"] == nil:
			s.owners["ReplicaSet"] = appsinformers.NewReplicaSetInformer(w.Client, namespace, 0, nil)
			err = w.prepare(ctx, s.owners["ReplicaSet"], "replicasets", tried(w.Client.AppsV1().ReplicaSets(namespace).List, nil), handler)
		case name.Kind == "CronJob" && s.owners["Job"] == nil:
			s.owners["Job"] = batchinformers.NewJobInformer(w.Client, namespace, 0, nil)
			err = w.prepare(ctx, s.owners["Job"], "jobs", tried(w.Client.BatchV1().Jobs(namespace).List, nil), handler)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tried returns what tries whether a list, with the options that narrow sets, can be read.
func tried[T any](list func(context.Context, metav1.ListOptions) (T, error), narrow func(*metav1.ListOptions)) func(context.Context) error {
	options := metav1.ListOptions{Limit: 1}
	if narrow != nil {
		narrow(&options)
	}
	return func(ctx context.Context) error {
		_, err := list(ctx, options)
		return err
	}
}

// prepare makes informer, which does not run yet, the cache of what. It fails if the
// objects cannot be listed now: later failures are retried forever, but what is not
// allowed, or a cluster that is not there, must be said at once.
func (w *Watcher) prepare(ctx context.Context, informer cache.SharedIndexInformer, what string, try func(context.Context) error, handler cache.ResourceEventHandler) error {
	if err := try(ctx); err != nil {
		err = fmt.Errorf("listing %s: %w", what, err)
		if apierrors.IsForbidden(err) {
			err = api.WithHint(err, fmt.Sprintf("ask for a role that may list and watch %s; install/kustomize/watch/watch.yaml has one", what))
		}
		return err
	}
	_, err := informer.AddEventHandler(handler)
	return errors.Join(err, informer.SetTransform(trim),
		informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) { w.disconnected(ctx, what, try, err) }))
}

// trim drops what takes much memory and is never looked at.
func trim(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.Node:
		o.Status.Images = nil
	case *appsv1.ReplicaSet:
		o.Spec.Template, o.Status = corev1.PodTemplateSpec{}, appsv1.ReplicaSetStatus{}
	case *batchv1.Job:
		o.Spec.Template, o.Status = corev1.PodTemplateSpec{}, batchv1.JobStatus{}
	case *appsv1.Deployment:
		o.Spec, o.Status = appsv1.DeploymentSpec{}, appsv1.DeploymentStatus{}
	case *appsv1.StatefulSet:
		o.Spec, o.Status = appsv1.StatefulSetSpec{}, appsv1.StatefulSetStatus{}
	case *appsv1.DaemonSet:
		o.Spec, o.Status = appsv1.DaemonSetSpec{}, appsv1.DaemonSetStatus{}
	}
	if accessor, err := meta.Accessor(object); err == nil {
		accessor.SetManagedFields(nil)
	}
	return object, nil
}

func controllerUID(object any) ([]string, error) {
	if owner := metav1.GetControllerOf(metaOf(object)); owner != nil {
		return []string{string(owner.UID)}, nil
	}
	return nil, nil
}

// metaOf returns the metadata of an object from an event or a cache.
func metaOf(object any) metav1.Object {
	if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = gone.Obj
	}
	if accessor, err := meta.Accessor(object); err == nil {
		return accessor
	}
	return &metav1.ObjectMeta{}
}

func (w *Watcher) enqueue(object any) {
	if o := metaOf(object); o.GetName() != "" {
		w.queue.Add(types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()})
	}
}

func (w *Watcher) enqueueNamespace(object any) {
	w.enqueueIndexed(cache.NamespaceIndex, metaOf(object).GetName())
}

// enqueueControlled is for a ReplicaSet or Job that is known later than its pods.
func (w *Watcher) enqueueControlled(object any) {
	w.enqueueIndexed(byController, string(metaOf(object).GetUID()))
}

func (w *Watcher) enqueueIndexed(index, value string) {
	pods, err := w.sources.pods.GetIndexer().ByIndex(index, value)
	if err != nil {
		return
	}
	for _, pod := range pods {
		w.enqueue(pod)
	}
}

// wantOf returns what is said about pod.
func (w *Watcher) wantOf(pod *corev1.Pod) (want, error) {
	return wantOf(pod, isNamed(w.Options.Names, pod, w.ownerOfOwner(pod)), w.namespaceOf(pod))
}

// cachedObject returns the object called key of a cache, nil if it is not there or there is no cache.
func cachedObject(informer cache.SharedIndexInformer, key string) any {
	if informer == nil {
		return nil
	}
	object, _, _ := informer.GetStore().GetByKey(key)
	return object
}

// namespaceOf returns the namespace of pod, nil if that cannot be known.
func (w *Watcher) namespaceOf(pod *corev1.Pod) *corev1.Namespace {
	namespace, _ := cachedObject(w.sources.namespaces, pod.Namespace).(*corev1.Namespace)
	return namespace
}

func (w *Watcher) ownerOfOwner(pod *corev1.Pod) *metav1.OwnerReference {
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return nil
	}
	object := metaOf(cachedObject(w.sources.owners[owner.Kind], pod.Namespace+"/"+owner.Name))
	if object.GetUID() != owner.UID {
		return nil
	}
	return metav1.GetControllerOf(object)
}

// nodeChanged reports whether what a survey reads of a node has changed.
func nodeChanged(was, now *corev1.Node) bool {
	return !slices.Equal(was.Status.Addresses, now.Status.Addresses) ||
		!slices.Equal(was.Spec.PodCIDRs, now.Spec.PodCIDRs) ||
		!maps.Equal(was.Labels, now.Labels) ||
		!slices.EqualFunc(was.Spec.Taints, now.Spec.Taints, func(a, b corev1.Taint) bool { return a.Key == b.Key })
}

// probeInterval is how often a lost API server is tried.
const probeInterval = 2 * time.Second

// disconnected notes that the cache of what lost its connection, and tries the API server
// until it answers. Watches that end or expire by themselves are no outage.
func (w *Watcher) disconnected(ctx context.Context, what string, try func(context.Context) error, err error) {
	if ctx.Err() != nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return
	}
	w.mu.Lock()
	was := w.outage
	w.outage = true
	w.mu.Unlock()
	if was {
		return
	}
	w.report(Event{Action: Disconnected, Err: fmt.Errorf("watching %s: %w", what, err)})
	go func() {
		if polling.PollUntilContextCancel(ctx, probeInterval, false, func(ctx context.Context) (bool, error) { return try(ctx) == nil, nil }) == nil {
			w.connected()
		}
	}()
}

// connected notes that the API server answers again: everything that failed is tried
// again at once.
func (w *Watcher) connected() {
	w.mu.Lock()
	w.outage = false
	w.mu.Unlock()
	w.report(Event{Action: Reconnected})
	w.retryFailed()
}

// retryFailed has everything tried again that has failed.
func (w *Watcher) retryFailed() {
	w.mu.Lock()
	var again []types.NamespacedName
	for key, r := range w.records {
		if r.phase == failed && !r.retryAt.IsZero() {
			r.retryAt = r.retryAt.Add(-maxDelay)
			again = append(again, key)
		}
	}
	w.mu.Unlock()
	for _, key := range again {
		w.retries.Forget(key)
		w.queue.Add(key)
	}
}
