package inject

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

func TestCheckPod(t *testing.T) {
	no, class := false, "gvisor-strict"
	kata := "kata-qemu"
	now := metav1.Now()
	linux := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelOSStable: "linux"}}}
	node := func(labels map[string]string, taints ...corev1.Taint) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: labels}, Spec: corev1.NodeSpec{Taints: taints}}
	}
	for name, test := range map[string]struct {
		change func(*corev1.Pod)
		node   *corev1.Node
		want   string
	}{
		"ordinary":            {node: linux},
		"ordinary, no node":   {},
		"host users":          {change: func(p *corev1.Pod) { yes := true; p.Spec.HostUsers = &yes }},
		"other runtime class": {change: func(p *corev1.Pod) { runc := "runc"; p.Spec.RuntimeClassName = &runc }},
		"udp port": {change: func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: api.PeerPort, Protocol: corev1.ProtocolUDP}}
		}},
		"deleted":        {change: func(p *corev1.Pod) { p.DeletionTimestamp = &now }, want: "being deleted"},
		"succeeded":      {change: func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, want: "finished (Succeeded)"},
		"failed":         {change: func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, want: "finished (Failed)"},
		"pending":        {change: func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }, want: "does not run yet (Pending)"},
		"no phase":       {change: func(p *corev1.Pod) { p.Status.Phase = "" }, want: "does not run yet (Pending)"},
		"no address":     {change: func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil }, want: "no address"},
		"host network":   {change: func(p *corev1.Pod) { p.Spec.HostNetwork = true }, want: "hostNetwork"},
		"user namespace": {change: func(p *corev1.Pod) { p.Spec.HostUsers = &no }, want: "hostUsers: false"},
		"mirror": {change: func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		}, want: "static pod"},
		"windows by os":       {change: func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }, want: "Windows"},
		"windows by node":     {node: node(map[string]string{corev1.LabelOSStable: "windows"}), want: "Windows"},
		"windows by selector": {change: func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelOSStable: "windows"} }, want: "Windows"},
		"gvisor":              {change: func(p *corev1.Pod) { p.Spec.RuntimeClassName = &class }, want: "gVisor"},
		"kata":                {change: func(p *corev1.Pod) { p.Spec.RuntimeClassName = &kata }, want: "Kata"},
		"fargate":             {node: node(map[string]string{"eks.amazonaws.com/compute-type": "fargate"}), want: "Fargate"},
		"virtual kubelet":     {node: node(map[string]string{"type": "virtual-kubelet"}), want: "virtual node"},
		"virtual taint":       {node: node(nil, corev1.Taint{Key: "virtual-kubelet.io/provider"}), want: "virtual node"},
		"port taken": {change: func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: api.PeerPort}}
		}, want: "port 18443"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := testPod("p")
			if test.change != nil {
				test.change(pod)
			}
			expect(t, checkPod(pod, test.node), test.want)
		})
	}
}

// expect checks that err has the words wanted and a hint, or is nil for "".
func expect(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("unexpected error: %v", err)
	case want == "":
	case err == nil:
		t.Errorf("no error, want one with %q", want)
	case !strings.Contains(err.Error(), want):
		t.Errorf("error %q lacks %q", err, want)
	case api.Hint(err) == "":
		t.Errorf("error %q has no hint", err)
	}
}

func TestCheckServer(t *testing.T) {
	for text, want := range map[string]string{
		"v1.33.0": "", "v1.37.2": "", "v1.33.4-eks-1234567": "", "v1.34.1+k3s1": "", "v2.0.0": "",
		"v1.32.9": "1.33 or later", "v1.9.0": "1.33 or later", "v1.32.5-gke.100": "1.33 or later",
	} {
		c := newCluster(t)
		c.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &version.Info{GitVersion: text}
		err := CheckServer(t.Context(), c.Discovery(), DeliverySecret)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, want := range map[string]string{"v1.25.0": "", "v1.32.9": "", "v1.24.17": "1.25 or later"} {
		c := newCluster(t)
		c.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &version.Info{GitVersion: text}
		expect(t, CheckServer(t.Context(), c.Discovery(), DeliveryCSR), want)
	}
	c := newCluster(t)
	c.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &version.Info{GitVersion: "unknown"}
	if CheckServer(t.Context(), c.Discovery(), DeliverySecret) == nil {
		t.Error("a server without a version is accepted")
	}
}

func TestCheckAccessNamesAllThatIsMissing(t *testing.T) {
	c := newCluster(t)
	expect(t, CheckAccess(t.Context(), c, "shop", DeliverySecret), "")
	c.denied = map[string]bool{"patch pods/ephemeralcontainers": true, "delete secrets": true}
	expect(t, CheckAccess(t.Context(), c, "shop", DeliverySecret), `"shop": patch pods/ephemeralcontainers, delete secrets`)
	// Without Secrets the rights to them do not matter.
	delete(c.denied, "patch pods/ephemeralcontainers")
	expect(t, CheckAccess(t.Context(), c, "shop", DeliveryCSR), "")
	err := CheckAccess(t.Context(), c, "shop", DeliverySecret)
	if expect(t, err, "delete secrets"); !strings.Contains(api.Hint(err), "--delivery=csr") {
		t.Errorf("hint %q", api.Hint(err))
	}
	// What ends a gateway needs neither.
	c.denied["patch pods/ephemeralcontainers"] = true
	expect(t, CheckDisableAccess(t.Context(), c, "shop"), "")
	c.denied["create pods/exec"] = true
	expect(t, CheckDisableAccess(t.Context(), c, "shop"), "create pods/exec")
}

func TestExplainPatch(t *testing.T) {
	for text, want := range map[string]string{
		`pods "a" is forbidden: violates PodSecurity "baseline:latest": privileged (container "kube-gateway" must not set securityContext.privileged=true)`:        "kubectl label namespace shop pod-security.kubernetes.io/enforce=privileged",
		`admission webhook "validate.kyverno.svc-fail" denied the request: resource was blocked`:                                                                   "validate.kyverno.svc-fail",
		`pods "a" is forbidden: ValidatingAdmissionPolicy 'no-privileged' with binding 'everywhere' denied request: privileged containers are not allowed in here`: "no-privileged",
	} {
		if hint := api.Hint(explainPatch(errors.New(text), "shop")); !strings.Contains(hint, want) {
			t.Errorf("hint for %q is %q, want %q", text, hint, want)
		}
	}
	if explainPatch(nil, "shop") != nil {
		t.Error("success is explained")
	}
}
