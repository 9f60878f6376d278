package survey

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
)

func node(name, address string, ranges ...string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.NodeSpec{PodCIDRs: ranges},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: address}, {Type: corev1.NodeHostName, Address: name},
		}},
	}
}

func serviceCIDR(ranges ...string) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: ranges}}
}

func podAt(name string, ips ...string) *corev1.Pod {
	pod := fakecluster.NewPod(name)
	pod.Status.PodIP, pod.Status.PodIPs = ips[0], nil
	for _, ip := range ips {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	return pod
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range list {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

func TestSurvey(t *testing.T) {
	hostNetwork := podAt("host", "192.168.5.9")
	hostNetwork.Spec.HostNetwork = true
	onNode := podAt("p", "10.9.0.7")
	onNode.Status.HostIPs = []corev1.HostIP{{IP: "10.1.2.3"}}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"},
		Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.43.0.1", "fd00:43::1"}}}
	headless := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "headless"},
		Spec: corev1.ServiceSpec{ClusterIPs: []string{corev1.ClusterIPNone}}}

	for name, test := range map[string]struct {
		objects   []runtime.Object
		targets   []*corev1.Pod
		given     Ranges
		forbidden string
		want      Ranges
		warnings  int
		listsPods bool
		err       string
	}{
		"nodes and ServiceCIDRs tell all": {
			objects: []runtime.Object{
				node("a", "192.168.1.1", "10.244.0.0/24", "fd00:10:244::/64"), node("b", "192.168.1.2", "10.244.1.0/24", "fd00:10:244:1::/64"),
				serviceCIDR("10.96.0.0/12", "fd00:96::/112")},
			targets: []*corev1.Pod{podAt("p", "10.244.1.7", "fd00:10:244:1::7")},
			want: Ranges{Capture: prefixes("10.244.0.0/23", "fd00:10:244::/63"),
				Services: prefixes("10.96.0.0/12", "fd00:96::/112")},
		},
		"a node inside of a captured range is excluded, one outside is not captured anyway": {
			objects: []runtime.Object{node("a", "10.244.0.200", "10.244.0.0/24"), node("b", "10.96.0.9", "10.244.2.0/24"),
				node("c", "192.168.1.2", "10.244.4.0/24"), serviceCIDR("10.96.0.0/16")},
			targets: []*corev1.Pod{podAt("p", "10.244.0.7")},
			want: Ranges{Capture: prefixes("10.244.0.0/24", "10.244.2.0/24", "10.244.4.0/24"), Services: prefixes("10.96.0.0/16"),
				Exclude: prefixes("10.96.0.9/32", "10.244.0.200/32")},
		},
		"nodes announce nothing": {
			objects: []runtime.Object{node("a", "10.0.5.200"), podAt("p", "10.0.5.7", "fd00:5::7"), podAt("q", "10.0.9.8"), hostNetwork,
				serviceCIDR("172.20.0.0/16")},
			targets:   []*corev1.Pod{podAt("p", "10.0.5.7", "fd00:5::7")},
			want:      Ranges{Capture: prefixes("10.0.5.0/24", "10.0.9.0/24", "fd00:5::/64"), Services: prefixes("172.20.0.0/16"), Exclude: prefixes("10.0.5.200/32")},
			warnings:  1,
			listsPods: true,
		},
		"a pod outside of what nodes announce": {
			objects:   []runtime.Object{node("a", "192.168.1.1", "10.244.0.0/24"), podAt("p", "10.9.3.7"), podAt("q", "10.244.0.5"), serviceCIDR("10.96.0.0/16")},
			targets:   []*corev1.Pod{podAt("p", "10.9.3.7")},
			want:      Ranges{Capture: prefixes("10.9.3.0/24", "10.244.0.0/24"), Services: prefixes("10.96.0.0/16")},
			warnings:  1,
			listsPods: true,
		},
		"a virtual node need not announce anything": {
			objects: []runtime.Object{node("a", "192.168.1.1", "10.244.0.0/24"), serviceCIDR("10.96.0.0/16"),
				&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "v", Labels: map[string]string{"type": "virtual-kubelet"}}}},
			targets: []*corev1.Pod{podAt("p", "10.244.0.7")},
			want:    Ranges{Capture: prefixes("10.244.0.0/24"), Services: prefixes("10.96.0.0/16")},
		},
		"no ServiceCIDRs": {
			objects:  []runtime.Object{node("a", "192.168.1.1", "10.42.0.0/24"), service, headless},
			targets:  []*corev1.Pod{podAt("p", "10.42.0.7")},
			want:     Ranges{Capture: prefixes("10.42.0.0/24"), Services: prefixes("10.43.0.0/16", "fd00:43::/108")},
			warnings: 1,
		},
		"ServiceCIDRs forbidden": {
			objects:   []runtime.Object{node("a", "192.168.1.1", "10.42.0.0/24"), service, serviceCIDR("10.43.0.0/20")},
			targets:   []*corev1.Pod{podAt("p", "10.42.0.7")},
			forbidden: "servicecidrs",
			want:      Ranges{Capture: prefixes("10.42.0.0/24"), Services: prefixes("10.43.0.0/16", "fd00:43::/108")},
			warnings:  1,
		},
		"given by hand": {
			objects: []runtime.Object{node("a", "10.1.0.1", "10.244.0.0/24"), serviceCIDR("10.96.0.0/16")},
			targets: []*corev1.Pod{podAt("p", "10.9.0.7")},
			given: Ranges{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.43.0.0/16"),
				Exclude: prefixes("10.7.0.0/16"), ExcludePorts: []uint16{53, 22, 53}},
			want: Ranges{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.43.0.0/16"),
				Exclude: prefixes("10.1.0.1/32", "10.7.0.0/16"), ExcludePorts: []uint16{22, 53}},
		},
		"node ports": {
			objects: []runtime.Object{node("a", "10.244.0.200", "10.244.0.0/24"), node("b", "192.168.1.2", "10.244.2.0/24"), serviceCIDR("10.96.0.0/16")},
			targets: []*corev1.Pod{podAt("p", "10.244.0.7")},
			given:   Ranges{Exclude: prefixes("10.244.2.9/32"), NodePorts: [2]uint16{30000, 30100}},
			want: Ranges{Capture: prefixes("10.244.0.0/24", "10.244.2.0/24"), Services: prefixes("10.96.0.0/16"),
				Exclude: prefixes("10.244.2.9/32"), NodePorts: [2]uint16{30000, 30100},
				Nodes: []netip.Addr{netip.MustParseAddr("10.244.0.200"), netip.MustParseAddr("192.168.1.2")}},
		},
		"nodes forbidden": {
			targets: []*corev1.Pod{podAt("p", "10.9.0.7")}, forbidden: "nodes", err: "listing nodes",
		},
		"nodes forbidden but ranges given": {
			targets:   []*corev1.Pod{podAt("p", "10.9.0.7")},
			given:     Ranges{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.43.0.0/16")},
			forbidden: "nodes",
			want:      Ranges{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.43.0.0/16")},
		},
		"a node's address is known from the pod alone": {
			targets:   []*corev1.Pod{onNode},
			given:     Ranges{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.43.0.0/16")},
			forbidden: "nodes",
			want:      Ranges{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.43.0.0/16"), Exclude: prefixes("10.1.2.3/32")},
		},
		"all pods forbidden": {
			objects: []runtime.Object{node("a", "192.168.1.1")}, targets: []*corev1.Pod{podAt("p", "10.9.0.7")},
			forbidden: "pods", listsPods: true, err: "listing all pods",
		},
		"Services forbidden": {
			objects: []runtime.Object{node("a", "192.168.1.1", "10.9.0.0/24")}, targets: []*corev1.Pod{podAt("p", "10.9.0.7")},
			forbidden: "services", err: "listing Services",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := fakecluster.New(t, test.objects...)
			listed := false
			c.PrependReactor("list", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
				listed = listed || action.GetResource().Resource == "pods"
				if action.GetResource().Resource == test.forbidden {
					return true, nil, apierrors.NewForbidden(action.GetResource().GroupResource(), "", errors.New("no"))
				}
				return false, nil, nil
			})
			var targets []corev1.Pod
			for _, pod := range test.targets {
				targets = append(targets, *pod)
			}
			got, err := Run(t.Context(), c, targets, test.given)
			expect.Error(t, err, test.err)
			if listed != test.listsPods {
				t.Errorf("all pods were listed: %v", listed)
			}
			if err != nil || test.err != "" {
				return
			}
			if diff := cmp.Diff(test.want, got.Ranges, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("ranges (-want +got):\n%s", diff)
			}
			if len(got.Warnings) != test.warnings {
				t.Errorf("warnings: %q", got.Warnings)
			}
		})
	}
}

func TestTooManyNodesForNodePorts(t *testing.T) {
	var c Survey
	c.captureNodePorts(make([]netip.Addr, maxNodes+1), api.DefaultNodePorts())
	if c.Nodes != nil || c.NodePorts != [2]uint16{} || len(c.Warnings) != 1 {
		t.Errorf("%d nodes, %v, %q", len(c.Nodes), c.NodePorts, c.Warnings)
	}
	c.captureNodePorts(make([]netip.Addr, maxNodes), api.DefaultNodePorts())
	if len(c.Nodes) != maxNodes {
		t.Errorf("%d nodes", len(c.Nodes))
	}
}

// TestPlaintextFromTheNode: a kubelet probes from its node's addresses, of all
// families, and from those of no other node.
func TestPlaintextFromTheNode(t *testing.T) {
	mine := node("node-1", "192.168.1.1")
	mine.Status.Addresses = append(mine.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "fd00::1"},
		corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "203.0.113.7"})
	cluster := Survey{nodes: map[string]*corev1.Node{"node-1": mine, "node-2": node("node-2", "192.168.1.2")}}
	given := prefixes("10.9.0.0/16", "192.168.1.1/32")
	pod := fakecluster.NewPod("p")
	pod.Spec.NodeName = "node-1"
	pod.Status.HostIP, pod.Status.HostIPs = "192.168.1.1", []corev1.HostIP{{IP: "192.168.1.1"}, {IP: "fd00::99"}}
	want := prefixes("10.9.0.0/16", "192.168.1.1/32", "203.0.113.7/32", "fd00::1/128", "fd00::99/128")
	if got := cluster.PlaintextFrom(pod, given); !slices.Equal(got, want) {
		t.Errorf("plaintext from %v, want %v", got, want)
	}
	cluster.nodes = nil // the user may not list nodes
	want = prefixes("10.9.0.0/16", "192.168.1.1/32", "fd00::99/128")
	if got := cluster.PlaintextFrom(pod, given); !slices.Equal(got, want) {
		t.Errorf("plaintext from %v, want %v", got, want)
	}
}

func TestGuessesAreNamedButNotAllOfThem(t *testing.T) {
	var c Survey
	var many []netip.Prefix
	for i := range 10 {
		many = append(many, netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/24", i)))
	}
	c.guess(many, "pod", "--capture-cidr")
	if text := strings.Join(c.Warnings, ""); !strings.Contains(text, "10.0.0.0/24") || !strings.Contains(text, "and 6 more") || !strings.Contains(text, "--capture-cidr") {
		t.Error(text)
	}
}
