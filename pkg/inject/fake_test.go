package inject

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// patience bounds what a test waits for; it decides nothing.
const patience = 30 * time.Second

var pods = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// cluster is an API server with one kubelet, as far as enable meets them.
type cluster struct {
	*fake.Clientset
	t *testing.T
	// kubelet decides what becomes of a container that was added.
	kubelet func(pod *corev1.Pod, container *corev1.EphemeralContainer) corev1.ContainerState
	// beforePatch runs before a patch is looked at.
	beforePatch func(dryRun bool) error
	// denied is what the user may not do.
	denied map[string]bool

	mu      sync.Mutex
	patches []Patch
}

func running(*corev1.Pod, *corev1.EphemeralContainer) corev1.ContainerState {
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
}

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func terminated(code int32, message string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Error", Message: message}}
}

func testPod(name string) *corev1.Pod {
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

func newCluster(t *testing.T, objects ...runtime.Object) *cluster {
	c := &cluster{Clientset: fake.NewClientset(objects...), t: t, kubelet: running, denied: map[string]bool{}}
	c.PrependReactor("create", "selfsubjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview).DeepCopy()
		a := review.Spec.ResourceAttributes
		review.Status.Allowed = !c.denied[permission{a.Verb, a.Resource, a.Subresource}.String()]
		return true, review, nil
	})
	c.PrependReactor("patch", "pods", c.patch)
	c.PrependReactor("list", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		return c.list(action.(clienttesting.ListAction))
	})
	c.PrependWatchReactor("pods", func(action clienttesting.Action) (bool, watch.Interface, error) {
		selector := action.(clienttesting.WatchAction).GetWatchRestrictions().Fields
		all, err := c.Tracker().Watch(pods, action.GetNamespace())
		if err != nil {
			return true, nil, err
		}
		return true, watch.Filter(all, func(e watch.Event) (watch.Event, bool) {
			return e, selector == nil || selector.Matches(fields.Set{"metadata.name": e.Object.(*corev1.Pod).Name})
		}), nil
	})
	return c
}

// list knows field selectors, which the fake client does not.
func (c *cluster) list(action clienttesting.ListAction) (bool, runtime.Object, error) {
	object, err := c.Tracker().List(pods, corev1.SchemeGroupVersion.WithKind("Pod"), action.GetNamespace())
	if err != nil {
		return true, nil, err
	}
	list := object.(*corev1.PodList).DeepCopy()
	list.ResourceVersion = "1"
	if selector := action.GetListRestrictions().Fields; selector != nil {
		var kept []corev1.Pod
		for _, pod := range list.Items {
			if selector.Matches(fields.Set{"metadata.name": pod.Name}) {
				kept = append(kept, pod)
			}
		}
		list.Items = kept
	}
	return true, list, nil
}

// patch does what the API server does with a patch of pods/ephemeralcontainers.
func (c *cluster) patch(action clienttesting.Action) (bool, runtime.Object, error) {
	p := action.(clienttesting.PatchActionImpl)
	if p.GetSubresource() != "ephemeralcontainers" || p.GetPatchType() != types.StrategicMergePatchType {
		c.t.Errorf("a %s patch of pods/%s", p.GetPatchType(), p.GetSubresource())
	}
	dryRun := len(p.PatchOptions.DryRun) > 0
	if c.beforePatch != nil {
		if err := c.beforePatch(dryRun); err != nil {
			return true, nil, err
		}
	}
	var body Patch
	if err := json.Unmarshal(p.GetPatch(), &body); err != nil {
		return true, nil, err
	}
	if _, err := c.Tracker().Get(pods, p.GetNamespace(), p.GetName()); err != nil {
		return true, nil, err
	}
	pod := c.pod(p.GetName())
	if body.Metadata.ResourceVersion != pod.ResourceVersion {
		return true, nil, apierrors.NewConflict(pods.GroupResource(), pod.Name, ErrOvertaken)
	}
	added := body.Spec.EphemeralContainers[0]
	pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, added)
	if dryRun {
		return true, pod, nil
	}
	c.mu.Lock()
	c.patches = append(c.patches, body)
	c.mu.Unlock()
	c.update(pod)
	c.setState(pod.Name, added.Name, c.kubelet(pod, &added))
	return true, pod, nil
}

func (c *cluster) pod(name string) *corev1.Pod {
	object, err := c.Tracker().Get(pods, "shop", name)
	if err != nil {
		c.t.Error(err)
		return &corev1.Pod{}
	}
	return object.(*corev1.Pod).DeepCopy()
}

func (c *cluster) update(pod *corev1.Pod) {
	version, _ := strconv.Atoi(pod.ResourceVersion)
	pod.ResourceVersion = strconv.Itoa(version + 1)
	if err := c.Tracker().Update(pods, pod, pod.Namespace); err != nil {
		c.t.Error(err)
	}
}

// setState is the kubelet's report about a container.
func (c *cluster) setState(pod, container string, state corev1.ContainerState) {
	object := c.pod(pod)
	status := corev1.ContainerStatus{Name: container, State: state}
	for i := range object.Status.EphemeralContainerStatuses {
		if s := &object.Status.EphemeralContainerStatuses[i]; s.Name == container {
			*s = status
			c.update(object)
			return
		}
	}
	object.Status.EphemeralContainerStatuses = append(object.Status.EphemeralContainerStatuses, status)
	c.update(object)
}

// secrets returns the Secrets there are, by way of the tracker.
func (c *cluster) secrets() []corev1.Secret {
	c.t.Helper()
	object, err := c.Tracker().List(schema.GroupVersionResource{Version: "v1", Resource: "secrets"},
		corev1.SchemeGroupVersion.WithKind("Secret"), "")
	if err != nil {
		c.t.Fatal(err)
	}
	return object.(*corev1.SecretList).Items
}

// gateways answers for all gateways of a cluster.
type gateways func(ctx context.Context, pod, container string) (*api.Status, error)

func (g gateways) Status(ctx context.Context, _, pod, container string, _ time.Duration) (*api.Status, error) {
	return g(ctx, pod, container)
}

func (gateways) Renew(context.Context, string, string, string, remote.Sign) (*api.Status, error) {
	return nil, errors.New("this gateway was not to be renewed")
}

func (gateways) ResetExisting(context.Context, string, string, string) (*api.Status, error) {
	return nil, errors.New("nothing was to be reset")
}

// readyWith is the answer of a gateway that trusts authority.
func readyWith(authority *ca.Authority) gateways {
	return func(_ context.Context, pod, _ string) (*api.Status, error) {
		return &api.Status{State: api.Ready, Pod: api.PodRef{UID: "uid-" + pod}, Cert: api.Certificate{
			NotAfter: time.Now().Add(time.Hour), Authorities: []string{authority.Fingerprint()},
		}}, nil
	}
}

func ready(_ context.Context, pod, _ string) (*api.Status, error) {
	return &api.Status{State: api.Ready, Pod: api.PodRef{UID: "uid-" + pod}}, nil
}

// silent never answers.
func silent(ctx context.Context, _, _ string) (*api.Status, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func newAuthority(t *testing.T) *ca.Authority {
	t.Helper()
	authority, err := ca.New(ca.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return authority
}

func newInjector(t *testing.T, c *cluster) *Injector {
	t.Helper()
	authority := newAuthority(t)
	return &Injector{
		Client:    c,
		Authority: authority,
		Gateways:  readyWith(authority),
		Cluster: &Cluster{Ranges: Ranges{
			Capture:      []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
			Services:     []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
			Exclude:      []netip.Prefix{netip.MustParsePrefix("10.244.9.9/32")},
			ExcludePorts: []uint16{53},
			Nodes:        []netip.Addr{netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("192.168.1.2")},
			NodePorts:    api.DefaultNodePorts(),
		}},
		Options: Options{
			Image: "gateway:v1", PullPolicy: corev1.PullIfNotPresent,
			Mode: api.Permissive, OnFailure: api.FailOpen, Wire: api.WireAuto, Allow: []string{"ns/shop/sa/*"},
			PlaintextFrom: prefixes("10.9.0.0/16"), Timeout: patience,
		},
	}
}
