package inject

import (
	"cmp"
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
)

// rehearsalAge is how long the server's consent to a dry run for one pod counts for the other
// pods of the same workload.
const rehearsalAge = time.Minute

// maxRehearsals bounds those that are remembered.
const maxRehearsals = 1000

// Shared is what need not be done for each of many pods. It is safe for concurrent use, and may
// be shared by injectors of one cluster.
type Shared struct {
	pods      installed.Pods
	leftovers *installed.Leftovers
	mu        sync.Mutex
	// rehearsals are those of workloads.
	rehearsals map[workload]*parallel.Recent[struct{}]
}

// NewShared returns what injectors share that follow pods by way of pods.
func NewShared(client kubernetes.Interface, pods installed.Pods) *Shared {
	return &Shared{pods: pods, leftovers: installed.NewLeftovers(client), rehearsals: map[workload]*parallel.Recent[struct{}]{}}
}

// shared is what in shares with others, or shares with nobody.
func (in *Injector) shared() *Shared {
	return cmp.Or(in.Shared, NewShared(in.Client, installed.EachPod(in.Client)))
}

// workload is what makes pods so much alike that the server judges them alike: their
// controller, and the revision of its template.
type workload struct{ namespace, controller, revision, image string }

// workloadOf returns the workload of pod with a gateway, false if it has none.
func workloadOf(pod *corev1.Pod, container *corev1.EphemeralContainer) (workload, bool) {
	owner := metav1.GetControllerOf(pod)
	if owner == nil || len(pod.Spec.EphemeralContainers) > 0 {
		return workload{}, false
	}
	revision := cmp.Or(pod.Labels["pod-template-hash"], pod.Labels["controller-revision-hash"], pod.Labels["pod-template-generation"])
	return workload{pod.Namespace, string(owner.UID), revision, container.Image}, true
}

// rehearse returns pod as it is now. The server tries the patch, unless it has just done so for another pod of the
// workload. Only a Secret would be made in vain, and removed, if it then refuses this pod.
// Pods that come at the same time wait for the first of them. What was refused, each asks
// for itself.
func (in *Injector) rehearse(ctx context.Context, pod *corev1.Pod, container *corev1.EphemeralContainer) (*corev1.Pod, error) {
	var tried *corev1.Pod
	try := func() (_ struct{}, err error) {
		tried, err = installed.AddContainer(ctx, in.Client, pod, container, true)
		return struct{}{}, err
	}
	of, ok := workloadOf(pod, container)
	if !ok || in.Shared == nil {
		_, err := try()
		return tried, err
	}
	in.Shared.mu.Lock()
	r := in.Shared.rehearsals[of]
	if r == nil {
		if len(in.Shared.rehearsals) >= maxRehearsals {
			clear(in.Shared.rehearsals)
		}
		r = new(parallel.Recent[struct{}])
		in.Shared.rehearsals[of] = r
	}
	in.Shared.mu.Unlock()
	if _, err := r.Get(rehearsalAge, try); err != nil || tried != nil {
		return tried, err
	}
	// The pod may have been listed minutes ago, and a certificate is made next.
	return installed.Present(ctx, in.Client, in.Shared.pods, pod)
}
