// Package fakecluster is an API server with kubelets for tests: a fake clientset that
// knows what gateways meet of both.
package fakecluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	restfake "k8s.io/client-go/rest/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
)

// Pods is the resource of pods.
var Pods = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// Cluster is an API server with one kubelet.
type Cluster struct {
	*fake.Clientset
	t testing.TB
	// Kubelet decides what becomes of an ephemeral container that was added.
	Kubelet func(pod *corev1.Pod, container *corev1.EphemeralContainer) corev1.ContainerState
	// BeforePatch, if not nil, runs before a patch is looked at; its error is the answer.
	BeforePatch func(dryRun bool) error
	// Denied holds what the user may not do, as "verb resource" or
	// "verb resource/subresource".
	Denied map[string]bool
	// Plain holds answers of the server, in JSON, to plain requests by path and query. It
	// knows no others. Reactors to lists see the requests, and can forbid them.
	Plain map[string]string

	mu    sync.Mutex
	added []corev1.EphemeralContainer
}

// Running, Waiting and Terminated are states of containers.
func Running(*corev1.Pod, *corev1.EphemeralContainer) corev1.ContainerState {
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
}

// Waiting is as Running.
func Waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

// Terminated is as Running.
func Terminated(code int32, message string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Error", Message: message}}
}

// NewPod returns a pod of namespace shop that runs on node-1, with the UID uid-NAME.
func NewPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), ResourceVersion: "1"},
		Spec: corev1.PodSpec{
			NodeName: "node-1", ServiceAccountName: "web",
			Containers: []corev1.Container{{Name: "app", Image: "app"}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.244.1.7",
			PodIPs: []corev1.PodIP{{IP: "10.244.1.7"}, {IP: "fd00:10:244:1::7"}},
		},
	}
}

// AddGateway gives pod its next gateway, with config, in the given state, and returns the
// container.
func AddGateway(pod *corev1.Pod, config string, state corev1.ContainerState) *corev1.EphemeralContainer {
	name := "kube-gateway"
	if n := len(pod.Spec.EphemeralContainers); n > 0 {
		name = fmt.Sprintf("kube-gateway-%d", n+1)
	}
	pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: name, Image: "gateway:v1", Env: []corev1.EnvVar{{Name: api.EnvConfig, Value: config}}}})
	pod.Status.EphemeralContainerStatuses = append(pod.Status.EphemeralContainerStatuses, corev1.ContainerStatus{Name: name, State: state})
	return &pod.Spec.EphemeralContainers[len(pod.Spec.EphemeralContainers)-1]
}

// AddSidecar gives pod a gateway that came with it, with config, in the given state, before which its other
// containers wait.
func AddSidecar(pod *corev1.Pod, config string, status corev1.ContainerStatus) {
	status.Name = "kube-gateway"
	pod.Spec.InitContainers = append([]corev1.Container{{
		Name: status.Name, Image: "gateway:v1", Env: []corev1.EnvVar{{Name: api.EnvConfig, Value: config}},
		RestartPolicy: new(corev1.ContainerRestartPolicyAlways),
	}}, pod.Spec.InitContainers...)
	pod.Status.InitContainerStatuses = append(pod.Status.InitContainerStatuses, status)
	pod.Status.Phase = corev1.PodPending
}

// New returns a cluster with objects, whose containers come to run at once.
func New(t testing.TB, objects ...runtime.Object) *Cluster {
	c := &Cluster{Clientset: fake.NewClientset(objects...), t: t, Kubelet: Running, Denied: map[string]bool{}}
	c.PrependReactor("create", "selfsubjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview).DeepCopy()
		a := review.Spec.ResourceAttributes
		review.Status.Allowed = !c.Denied[strings.TrimSuffix(a.Verb+" "+a.Resource+"/"+a.Subresource, "/")]
		return true, review, nil
	})
	c.PrependReactor("patch", "pods", c.Patch)
	c.PrependReactor("list", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		return c.list(action.(clienttesting.ListAction))
	})
	c.PrependWatchReactor("pods", func(action clienttesting.Action) (bool, watch.Interface, error) {
		stream, err := c.watch(action.(clienttesting.WatchActionImpl))
		return true, stream, err
	})
	return c
}

// Discovery is that of the clientset. Its plain client knows Plain, if there is any.
func (c *Cluster) Discovery() discovery.DiscoveryInterfaces {
	if c.Plain == nil {
		return c.Clientset.Discovery()
	}
	return &plainDiscovery{c.Clientset.Discovery(), &restfake.RESTClient{
		NegotiatedSerializer: scheme.Codecs.WithoutConversion(),
		Client:               restfake.CreateHTTPClient(c.plain),
	}}
}

// plain answers a plain request, after the reactors have seen it as a list.
func (c *Cluster) plain(request *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	words := strings.Split(strings.TrimPrefix(request.URL.Path, "/apis/"), "/")
	if len(words) == 3 {
		resource := schema.GroupVersionResource{Group: words[0], Version: words[1], Resource: words[2]}
		_, err := c.Invokes(clienttesting.NewRootListAction(resource, schema.GroupVersionKind{}, metav1.ListOptions{}), nil)
		if status := apierrors.APIStatus(nil); apierrors.IsForbidden(err) && errors.As(err, &status) {
			text, err := json.Marshal(status.Status())
			if err != nil {
				return nil, err
			}
			w.WriteHeader(http.StatusForbidden)
			w.Write(text)
			return w.Result(), nil
		}
	}
	if answer, ok := c.Plain[request.URL.RequestURI()]; ok {
		w.WriteString(answer)
	} else {
		w.WriteHeader(http.StatusNotFound)
	}
	return w.Result(), nil
}

// plainDiscovery is a discovery client with a client for plain requests.
type plainDiscovery struct {
	discovery.DiscoveryInterfaces
	plain rest.Interface
}

func (d *plainDiscovery) RESTClient() rest.Interface { return d.plain }

// fieldsOf are the fields of pod that selectors of ours are about.
func fieldsOf(pod *corev1.Pod) fields.Set {
	return fields.Set{"metadata.name": pod.Name, "status.phase": string(pod.Status.Phase)}
}

// watch knows field selectors, which the fake client does not.
func (c *Cluster) watch(action clienttesting.WatchActionImpl) (watch.Interface, error) {
	stream, err := c.Tracker().Watch(Pods, action.GetNamespace(), action.ListOptions)
	if err != nil {
		return nil, err
	}
	events := make(chan watch.Event)
	w := watch.NewProxyWatcher(events)
	go func() {
		defer close(events)
		defer stream.Stop()
		for {
			var event watch.Event
			select {
			case event = <-stream.ResultChan():
			case <-w.StopChan():
				return
			}
			pod := event.Object.(*corev1.Pod).DeepCopy()
			if !action.GetWatchRestrictions().Fields.Matches(fieldsOf(pod)) {
				continue
			}
			select {
			case events <- watch.Event{Type: event.Type, Object: pod}:
			case <-w.StopChan():
				return
			}
		}
	}()
	return w, nil
}

// Forbid has the server refuse verb on resource.
func (c *Cluster) Forbid(verb, resource string) {
	c.PrependReactor(verb, resource, func(action clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(action.GetResource().GroupResource(), "", errors.New("no role"))
	})
}

// list is as watch.
func (c *Cluster) list(action clienttesting.ListAction) (bool, runtime.Object, error) {
	object, err := c.Tracker().List(Pods, corev1.SchemeGroupVersion.WithKind("Pod"), action.GetNamespace())
	if err != nil {
		return true, nil, err
	}
	list := object.(*corev1.PodList).DeepCopy()
	list.Items = slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool {
		return !action.GetListRestrictions().Fields.Matches(fieldsOf(&pod))
	})
	return true, list, nil
}

// Patch does what the API server does with a patch of pods/ephemeralcontainers, and leaves that of a pod itself to
// the tracker.
func (c *Cluster) Patch(action clienttesting.Action) (bool, runtime.Object, error) {
	p := action.(clienttesting.PatchActionImpl)
	if p.GetSubresource() == "" && p.GetPatchType() == types.MergePatchType {
		return false, nil, nil // of labels
	}
	if p.GetSubresource() != "ephemeralcontainers" || p.GetPatchType() != types.StrategicMergePatchType {
		c.t.Errorf("a %s patch of pods/%s", p.GetPatchType(), p.GetSubresource())
	}
	dryRun := len(p.PatchOptions.DryRun) > 0
	if c.BeforePatch != nil {
		if err := c.BeforePatch(dryRun); err != nil {
			return true, nil, err
		}
	}
	var body corev1.Pod
	if err := json.Unmarshal(p.GetPatch(), &body); err != nil {
		return true, nil, err
	}
	object, err := c.Tracker().Get(Pods, p.GetNamespace(), p.GetName())
	if err != nil {
		return true, nil, err
	}
	pod := object.(*corev1.Pod).DeepCopy()
	if body.ResourceVersion != pod.ResourceVersion {
		return true, nil, apierrors.NewConflict(Pods.GroupResource(), pod.Name, errors.New("the object has been modified"))
	}
	added := body.Spec.EphemeralContainers[0]
	pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, added)
	if dryRun {
		return true, pod, nil
	}
	c.mu.Lock()
	c.added = append(c.added, added)
	c.mu.Unlock()
	c.Update(pod)
	c.SetState(pod.Name, added.Name, c.Kubelet(pod, &added))
	return true, pod, nil
}

// Pod returns a copy of the pod called name in namespace shop.
func (c *Cluster) Pod(name string) *corev1.Pod {
	object, err := c.Tracker().Get(Pods, "shop", name)
	if err != nil {
		c.t.Error(err)
		return &corev1.Pod{}
	}
	return object.(*corev1.Pod).DeepCopy()
}

// Update stores pod as its next version.
func (c *Cluster) Update(pod *corev1.Pod) {
	version, _ := strconv.Atoi(pod.ResourceVersion)
	pod.ResourceVersion = strconv.Itoa(version + 1)
	if err := c.Tracker().Update(Pods, pod, pod.Namespace); err != nil {
		c.t.Error(err)
	}
}

// SetState is the kubelet's report about a container.
func (c *Cluster) SetState(pod, container string, state corev1.ContainerState) {
	object := c.Pod(pod)
	status := corev1.ContainerStatus{Name: container, State: state}
	for i := range object.Status.InitContainerStatuses {
		if s := &object.Status.InitContainerStatuses[i]; s.Name == container {
			// The kubelet starts it again.
			s.State, s.LastTerminationState = state, s.State
			c.Update(object)
			return
		}
	}
	for i := range object.Status.EphemeralContainerStatuses {
		if s := &object.Status.EphemeralContainerStatuses[i]; s.Name == container {
			*s = status
			c.Update(object)
			return
		}
	}
	object.Status.EphemeralContainerStatuses = append(object.Status.EphemeralContainerStatuses, status)
	c.Update(object)
}

// Secrets returns the Secrets there are, by way of the tracker.
func (c *Cluster) Secrets() []corev1.Secret {
	c.t.Helper()
	object, err := c.Tracker().List(schema.GroupVersionResource{Version: "v1", Resource: "secrets"},
		corev1.SchemeGroupVersion.WithKind("Secret"), "")
	if err != nil {
		c.t.Fatal(err)
	}
	return object.(*corev1.SecretList).Items
}

// Did reports whether somebody did verb on resource.
func (c *Cluster) Did(verb, resource string) bool {
	return slices.ContainsFunc(c.Actions(), func(a clienttesting.Action) bool { return a.Matches(verb, resource) })
}

// AwaitWatch waits until somebody watches pods.
func (c *Cluster) AwaitWatch() {
	c.t.Helper()
	expect.Eventually(c.t, "the pod is watched", func() bool { return c.Did("watch", "pods") })
}

// Added returns the ephemeral containers that patches have added to all pods.
func (c *Cluster) Added() []corev1.EphemeralContainer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.added)
}
