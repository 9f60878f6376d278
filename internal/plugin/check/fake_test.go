package check

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiversion "k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
)

// patience bounds what a test waits for; it decides nothing.
const patience = 30 * time.Second

// world is a good cluster, which a test then spoils in one place.
type world struct {
	*fakecluster.Cluster
	*Checker
	mu sync.Mutex
	// patch is what the server thinks of the patch that adds a gateway, create
	// of a pod in a dry run.
	patch, create error
	// image becomes of the pod that tests the image; nil leaves it pending.
	image *corev1.ContainerState
	// logs are its output.
	logs string
	// fleet are the gateways.
	fleet    fakegateway.Fleet
	progress bytes.Buffer
}

func newWorld(t *testing.T, objects ...runtime.Object) *world {
	t.Helper()
	good := []runtime.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "cluster"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		testNode("node-1", "6.18.1", "v1.37.2"),
		&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}},
	}
	// What a test brings replaces what is there under that name.
	named := func(o runtime.Object) string {
		m := o.(metav1.Object)
		return m.GetNamespace() + "/" + m.GetName()
	}
	good = slices.DeleteFunc(good, func(g runtime.Object) bool {
		return slices.ContainsFunc(objects, func(o runtime.Object) bool { return named(o) == named(g) })
	})
	w := &world{Cluster: fakecluster.New(t, append(good, objects...)...), logs: "kube-gateway v1.0.0\n",
		image: &corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}
	w.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &apiversion.Info{GitVersion: "v1.37.2"}
	w.PrependReactor("create", "selfsubjectreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &authenticationv1.SelfSubjectReview{Status: authenticationv1.SelfSubjectReviewStatus{
			UserInfo: authenticationv1.UserInfo{Username: "jane"}}}, nil
	})
	w.BeforePatch = func(dryRun bool) error {
		if !dryRun {
			t.Error("a check patched a pod")
		}
		return w.patch
	}
	w.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		pod := a.(clienttesting.CreateAction).GetObject().(*corev1.Pod).DeepCopy()
		if len(a.(clienttesting.CreateActionImpl).CreateOptions.DryRun) > 0 {
			return true, pod, w.create
		}
		pod.Name = pod.GenerateName + "x"
		if w.image != nil {
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{State: *w.image}}
		}
		return true, pod, w.Tracker().Create(corev1.SchemeGroupVersion.WithResource("pods"), pod, pod.Namespace)
	})
	w.PrependReactor("get", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		return a.GetSubresource() == "log", &runtime.Unknown{Raw: []byte(w.logs)}, nil
	})
	w.Checker = &Checker{
		Client: w.Cluster, Gateways: fakegateway.Gateways(w.fleet.Answer).Client(w.Cluster), Namespace: "shop", Context: "context \"test\"", Version: "v1.0.0",
		Image: "registry.example/gateway:v1", Timeout: patience, ImageTimeout: patience, Interval: time.Millisecond,
		AuthorityDir: t.TempDir(), Now: time.Now, Progress: &w.progress,
		LookPath: func(string) (string, error) { return "/bin/kubectl", nil },
		Find: func(ctx context.Context) ([]corev1.Pod, error) {
			list, err := w.CoreV1().Pods("shop").List(ctx, metav1.ListOptions{})
			return list.Items, err
		},
	}
	return w
}

// withAuthority gives w an authority that the cluster trusts.
func (w *world) withAuthority(t *testing.T, ttl time.Duration) *world {
	t.Helper()
	must.Get(authority.Init(t.Context(), authority.InitOptions{Location: authority.Location{Client: w.Cluster, Dir: w.AuthorityDir}, Source: authority.Source{TTL: ttl}}))(t)
	return w
}

func testNode(name, kernel, kubelet string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: "10.244.1.0/24"},
		Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{OperatingSystem: "linux", OSImage: "Debian", KernelVersion: kernel,
			KubeletVersion: kubelet, ContainerRuntimeVersion: "containerd://2"}}}
}

func appPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	pod := fakecluster.NewPod(name)
	pod.Labels, pod.Status.PodIPs = map[string]string{"app": name}, pod.Status.PodIPs[:1]
	for _, c := range change {
		c(pod)
	}
	return pod
}

// run runs all checks once and returns the items of one.
func (w *world) run(t *testing.T, id string) []Item {
	t.Helper()
	report := must.Get(w.Run(t.Context(), 0))(t)
	for _, asked := range w.fleet.Asked() {
		if !strings.HasSuffix(asked, " status") {
			t.Errorf("a check told a gateway: %s", asked)
		}
	}
	return itemsOf(t, report, id)
}

func itemsOf(t *testing.T, report *Report, id string) []Item {
	t.Helper()
	var items []Item
	for _, item := range report.Checks {
		if item.ID == id {
			items = append(items, item)
		}
	}
	if len(items) == 0 {
		t.Fatalf("no check is called %s", id)
	}
	return items
}

func forbidden(text string) error {
	return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "web", errors.New(text))
}

func violation() error {
	return forbidden(`violates PodSecurity "restricted:latest": privileged (container "kube-gateway" must not set securityContext.privileged=true)`)
}
