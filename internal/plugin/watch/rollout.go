package watch

import (
	"cmp"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

// AnnotationUpgrade is declared.AnnotationUpgrade. Any change of it has a rollout go on that was halted.
const AnnotationUpgrade = declared.AnnotationUpgrade

// maxUpgrades bounds how many gateways are upgraded at a time: each is two in its pod meanwhile.
const maxUpgrades = 4

// rollout brings gateways to the image of watch: at most maxUpgrades at a time, one pod of a
// workload, none any more once one has failed.
type rollout struct {
	mu sync.Mutex
	// busy holds the workloads of which a pod is being upgraded.
	busy sets.Set[types.UID]
	// waiting are the pods that have to wait for others.
	waiting sets.Set[types.NamespacedName]
	// halted is why no gateway is upgraded any more.
	halted error
}

// open reports whether the gateway of pod may be upgraded. If it has to wait for others, it
// comes back. With begin it is upgraded then, until end.
func (r *rollout) open(key types.NamespacedName, pod *corev1.Pod, begin bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	workload := installed.WorkloadOf(pod)
	switch {
	case r.halted != nil:
		return false
	case r.busy.Has(workload) || r.busy.Len() >= maxUpgrades:
		r.waiting.Insert(key)
		return false
	case begin:
		r.busy.Insert(workload)
	}
	return true
}

// end makes room for others.
func (r *rollout) end(pod *corev1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.busy.Delete(installed.WorkloadOf(pod))
}

// waited returns the pods that have waited for others, once.
func (r *rollout) waited() []types.NamespacedName {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.waiting.Clear()
	return r.waiting.UnsortedList()
}

// halt ends the rollout for err, and reports whether it was going on.
func (r *rollout) halt(err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.halted
	r.halted = cmp.Or(was, err)
	return was == nil
}

// resume has it go on, and reports whether it was halted.
func (r *rollout) resume() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.halted
	r.halted = nil
	return was != nil
}

// state returns why the rollout is halted, nil if it is not.
func (r *rollout) state() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.halted
}

// older reports whether watch is to bring the gateway of pod, which has answered with the
// status of s, to its own image, or to what is declared about it.
func (w *Watcher) older(pod *corev1.Pod, gateway installed.Gateway, s *situation) bool {
	if s.status == nil || s.want != wanted && s.want != named || pod.Annotations[AnnotationUpgrade] == "false" {
		return false
	}
	if namespace := w.namespaceOf(pod); pod.Annotations[AnnotationUpgrade] == "" && namespace != nil && namespace.Annotations[AnnotationUpgrade] == "false" {
		return false
	}
	return w.Options.Replace && s.otherwise || w.Actions.Outdated(gateway, s.status)
}

// halt ends the rollout because of pod, and reports that.
func (w *Watcher) halt(pod *corev1.Pod, container string, err error) {
	if w.rollout.halt(err) {
		w.report(Event{Namespace: pod.Namespace, Pod: pod.Name, Action: Halted, Container: container, Err: err})
	}
}

// upgradeAnnotationChanged has a rollout go on that was halted, if the annotation of an object
// has changed.
func (w *Watcher) upgradeAnnotationChanged(was, now any) {
	if metaOf(was).GetAnnotations()[AnnotationUpgrade] == metaOf(now).GetAnnotations()[AnnotationUpgrade] || !w.rollout.resume() {
		return
	}
	w.report(Event{Action: Resumed})
	for _, object := range w.sources.pods.GetStore().List() {
		w.enqueue(object)
	}
}

// onceMore returns the pods that have waited for others, if it is their turn.
func (w *Watcher) onceMore() []types.NamespacedName {
	keys := w.rollout.waited()
	if w.rollout.state() != nil {
		return nil
	}
	return keys
}
