package disable

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

// patience bounds what a test waits for; it decides nothing.
const patience = 30 * time.Second

// attempts is how often a gateway is told to end.
const attempts = 3

var pods = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// cluster is an API server with a kubelet, and with one pod: p in namespace shop.
type cluster struct {
	*fake.Clientset
	t *testing.T
	// kubelet decides what becomes of a container that was added.
	kubelet func(container corev1.EphemeralContainer) corev1.ContainerState
	patch   error
	denied  string

	mu    sync.Mutex
	tried int
}

func running() corev1.ContainerState {
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
}

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func ended(code int32, message string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Completed", Message: message}}
}

func disabledState() corev1.ContainerState { return ended(0, api.DisabledMessage) }

// gateway is one that a pod has.
type gateway struct {
	onFailure api.OnFailure
	state     corev1.ContainerState
	command   string
}

func podWith(gateways ...gateway) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p", UID: "uid-p", ResourceVersion: "1"},
		Spec:       corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "app"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.0.0.7"}}},
	}
	for _, g := range gateways {
		name := installed.NextName(pod)
		config := "broken"
		if g.onFailure != "" {
			config = fmt.Sprintf(`{"version":1,"pod":{"namespace":"shop","name":"p","uid":"uid-p","serviceAccount":"default"},
				"podIPs":["10.0.0.7"],"trustDomain":"td","mode":"strict","onFailure":%q,"capture":["10.0.0.0/8"]}`, g.onFailure)
		}
		command := "supervise"
		if g.command != "" {
			command = g.command
		}
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, corev1.EphemeralContainer{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name, Image: "gateway:v1", ImagePullPolicy: corev1.PullNever,
				Args: []string{command}, Env: []corev1.EnvVar{{Name: api.EnvConfig, Value: config}}}})
		pod.Status.EphemeralContainerStatuses = append(pod.Status.EphemeralContainerStatuses, corev1.ContainerStatus{Name: name, State: g.state})
	}
	return pod
}

// secretOf is one that a killed plugin has left for pod.
func secretOf(pod *corev1.Pod, name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: name,
		Labels:      map[string]string{installed.LabelManagedBy: installed.ManagedBy, installed.LabelPodUID: string(pod.UID)},
		Annotations: map[string]string{installed.AnnotationKeep: "true"}}}
}

func newCluster(t *testing.T, objects ...runtime.Object) *cluster {
	c := &cluster{Clientset: fake.NewClientset(objects...), t: t}
	c.kubelet = func(corev1.EphemeralContainer) corev1.ContainerState { return disabledState() }
	c.PrependReactor("create", "selfsubjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview).DeepCopy()
		review.Status.Allowed = review.Spec.ResourceAttributes.Subresource != c.denied || c.denied == ""
		return true, review, nil
	})
	c.PrependWatchReactor("pods", func(clienttesting.Action) (bool, watch.Interface, error) {
		w, err := c.watch()
		return true, w, err
	})
	c.PrependReactor("patch", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if c.patch != nil {
			return true, nil, c.patch
		}
		p := action.(clienttesting.PatchActionImpl)
		var body installed.Patch
		if err := json.Unmarshal(p.GetPatch(), &body); err != nil {
			return true, nil, err
		}
		added := body.Spec.EphemeralContainers[0]
		if len(p.PatchOptions.DryRun) > 0 {
			c.mu.Lock()
			c.tried++
			c.mu.Unlock()
			return true, c.pod(), nil
		}
		c.change(func(pod *corev1.Pod) { pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, added) })
		c.set(added.Name, c.kubelet(added))
		return true, c.pod(), nil
	})
	return c
}

func (c *cluster) pod() *corev1.Pod {
	object, err := c.Tracker().Get(pods, "shop", "p")
	if err != nil {
		c.t.Error(err)
		return &corev1.Pod{}
	}
	return object.(*corev1.Pod).DeepCopy()
}

func (c *cluster) change(change func(*corev1.Pod)) {
	pod := c.pod()
	change(pod)
	version, _ := strconv.Atoi(pod.ResourceVersion)
	pod.ResourceVersion = strconv.Itoa(version + 1)
	if err := c.Tracker().Update(pods, pod, pod.Namespace); err != nil {
		c.t.Error(err)
	}
}

// set is the kubelet's report about a container.
func (c *cluster) set(container string, state corev1.ContainerState) {
	c.change(func(pod *corev1.Pod) {
		for i := range pod.Status.EphemeralContainerStatuses {
			if s := &pod.Status.EphemeralContainerStatuses[i]; s.Name == container {
				s.State = state
				return
			}
		}
		pod.Status.EphemeralContainerStatuses = append(pod.Status.EphemeralContainerStatuses, corev1.ContainerStatus{Name: container, State: state})
	})
}

// watch begins with the pod as it is. The tracker forgets what comes between a
// list and a watch, which a server does not.
func (c *cluster) watch() (watch.Interface, error) {
	later, err := c.Tracker().Watch(pods, "shop")
	if err != nil {
		return nil, err
	}
	now, err := c.Tracker().Get(pods, "shop", "p")
	if err != nil {
		return later, nil
	}
	events := make(chan watch.Event, 1)
	events <- watch.Event{Type: watch.Modified, Object: now}
	w := watch.NewProxyWatcher(events)
	go func() {
		<-w.StopChan()
		later.Stop()
	}()
	go func() {
		defer close(events)
		for event := range later.ResultChan() {
			select {
			case events <- event:
			case <-w.StopChan():
				return
			}
		}
	}()
	return w, nil
}

// awaitWatch waits until somebody watches the pod.
func (c *cluster) awaitWatch() {
	eventually(c.t, "the pod is watched", func() bool {
		return slices.ContainsFunc(c.Actions(), func(a clienttesting.Action) bool { return a.Matches("watch", "pods") })
	})
}

func (c *cluster) secrets() int {
	list, err := c.Tracker().List(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}, corev1.SchemeGroupVersion.WithKind("Secret"), "shop")
	if err != nil {
		c.t.Fatal(err)
	}
	return len(list.(*corev1.SecretList).Items)
}

func (c *cluster) forbid(verb, resource string) {
	c.PrependReactor(verb, resource, func(action clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(action.GetResource().GroupResource(), "", errors.New("no role"))
	})
}

// gateways answers for all gateways of a cluster.
type gateways struct {
	mu sync.Mutex
	// asked are the containers that were told to end.
	asked   []string
	uid     string
	disable func(ctx context.Context, container string, attempt int) (*api.DisableReport, error)
}

func (g *gateways) answer(ctx context.Context, call *fakegateway.Call) (any, error) {
	switch {
	case call.Op() == "status" && g.uid == "":
		return nil, errors.New("too busy to say")
	case call.Op() == "status":
		return &api.Status{State: api.Ready, Pod: api.PodRef{UID: g.uid}}, nil
	}
	g.mu.Lock()
	g.asked = append(g.asked, call.Container)
	n := len(g.asked)
	g.mu.Unlock()
	report, err := g.disable(ctx, call.Container, n)
	if report == nil {
		return nil, err
	}
	return report, err
}

func newDisabler(c *cluster, g *gateways) *Disabler {
	return &Disabler{
		Client: c, Options: Options{DrainTimeout: time.Second, Timeout: patience},
		Gateways: &remote.Client{Kube: c, Runner: fakegateway.Gateways(g.answer), Backoff: wait.Backoff{Steps: attempts, Duration: time.Millisecond}},
	}
}

// ends has the kubelet report the end of the gateway that is told to.
func ends(c *cluster, state corev1.ContainerState, report *api.DisableReport) *gateways {
	return &gateways{uid: "uid-p", disable: func(_ context.Context, container string, _ int) (*api.DisableReport, error) {
		c.set(container, state)
		return report, nil
	}}
}
