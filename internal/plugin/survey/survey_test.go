package survey

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
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
	apiServer := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"},
		Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.43.0.1", "fd00:43::1"}, Ports: []corev1.ServicePort{{Port: 443}}}}
	headless := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "headless"},
		Spec: corev1.ServiceSpec{ClusterIPs: []string{corev1.ClusterIPNone}}}
	external := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec:   corev1.ServiceSpec{ClusterIPs: []string{"10.96.3.3"}, ExternalIPs: []string{"192.0.2.7"}, Ports: []corev1.ServicePort{{Port: 80}, {Port: 53, Protocol: corev1.ProtocolUDP}}},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "198.51.100.7"}, {Hostname: "lb.example"}}}}}
	ported := podAt("ported", "10.244.0.8")
	ported.Spec.NodeName = "a"
	ported.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080}, {ContainerPort: 81, HostPort: 8081, HostIP: "192.168.1.77"},
		{ContainerPort: 53, HostPort: 53, Protocol: corev1.ProtocolUDP}, {ContainerPort: 82}}

	for name, test := range map[string]struct {
		objects   []runtime.Object
		targets   []*corev1.Pod
		named     api.Coverage
		forbidden []string
		want      api.Coverage
		warnings  int
		err       string
	}{
		"nodes and ServiceCIDRs tell all": {
			objects: []runtime.Object{
				node("a", "192.168.1.1", "10.244.0.0/24", "fd00:10:244::/64"), node("b", "192.168.1.2", "10.244.1.0/24", "fd00:10:244:1::/64"),
				serviceCIDR("10.96.0.0/12", "fd00:96::/112")},
			targets: []*corev1.Pod{podAt("p", "10.244.1.7", "fd00:10:244:1::7")},
			want: api.Coverage{Capture: prefixes("10.244.0.0/23", "fd00:10:244::/63"),
				Services: prefixes("10.96.0.0/12", "fd00:96::/112")},
		},
		"a node inside of a captured range is excluded, one outside is not captured anyway": {
			objects: []runtime.Object{node("a", "10.244.0.200", "10.244.0.0/24"), node("b", "10.96.0.9", "10.244.2.0/24"),
				node("c", "192.168.1.2", "10.244.4.0/24"), serviceCIDR("10.96.0.0/16")},
			targets: []*corev1.Pod{podAt("p", "10.244.0.7")},
			want: api.Coverage{Capture: prefixes("10.244.0.0/24", "10.244.2.0/24", "10.244.4.0/24"), Services: prefixes("10.96.0.0/16"),
				Exclude: prefixes("10.96.0.9/32", "10.244.0.200/32")},
		},
		"a node's word about what belongs to others is not taken": {
			objects: []runtime.Object{node("a", "10.244.2.9", "10.244.0.0/24"), node("b", "10.244.0.8", "10.244.2.0/24"),
				ported, serviceCIDR("10.96.0.0/16")},
			targets: []*corev1.Pod{podAt("p", "10.244.0.7")},
			want: api.Coverage{Capture: prefixes("10.244.0.0/24", "10.244.2.0/24"), Services: prefixes("10.96.0.0/16"),
				Endpoints: endpointsOf("192.168.1.77:8081")},
		},
		"a pod that has finished has no ports, until it is gone": {
			objects: []runtime.Object{node("a", "192.168.1.1", "10.244.0.0/24"), finished(ported), serviceCIDR("10.96.0.0/16")},
			targets: []*corev1.Pod{podAt("p", "10.244.0.7")},
			want:    api.Coverage{Capture: prefixes("10.244.0.0/24"), Services: prefixes("10.96.0.0/16")},
		},
		"nodes announce nothing": {
			objects: []runtime.Object{node("a", "10.0.5.200"), podAt("p", "10.0.5.7", "fd00:5::7"), podAt("q", "10.0.9.8"), hostNetwork,
				serviceCIDR("172.20.0.0/16")},
			targets:  []*corev1.Pod{podAt("p", "10.0.5.7", "fd00:5::7")},
			want:     api.Coverage{Capture: prefixes("10.0.5.0/24", "10.0.9.0/24", "fd00:5::/64"), Services: prefixes("172.20.0.0/16"), Exclude: prefixes("10.0.5.200/32")},
			warnings: 1,
		},
		"a pod outside of what nodes announce": {
			objects:  []runtime.Object{node("a", "192.168.1.1", "10.244.0.0/24"), podAt("p", "10.9.3.7"), podAt("q", "10.244.0.5"), serviceCIDR("10.96.0.0/16")},
			targets:  []*corev1.Pod{podAt("p", "10.9.3.7")},
			want:     api.Coverage{Capture: prefixes("10.9.3.0/24", "10.244.0.0/24"), Services: prefixes("10.96.0.0/16")},
			warnings: 1,
		},
		"a virtual node need not announce anything": {
			objects: []runtime.Object{node("a", "192.168.1.1", "10.244.0.0/24"), serviceCIDR("10.96.0.0/16"),
				&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "v", Labels: map[string]string{"type": "virtual-kubelet"}}}},
			targets: []*corev1.Pod{podAt("p", "10.244.0.7")},
			want:    api.Coverage{Capture: prefixes("10.244.0.0/24"), Services: prefixes("10.96.0.0/16")},
		},
		"no ServiceCIDRs": {
			objects:  []runtime.Object{node("a", "192.168.1.1", "10.42.0.0/24"), apiServer, headless},
			targets:  []*corev1.Pod{podAt("p", "10.42.0.7")},
			want:     api.Coverage{Capture: prefixes("10.42.0.0/24"), Services: prefixes("10.43.0.0/16", "fd00:43::/108"), Pass: endpointsOf("10.43.0.1:443", "[fd00:43::1]:443")},
			warnings: 1,
		},
		"ServiceCIDRs forbidden": {
			objects:   []runtime.Object{node("a", "192.168.1.1", "10.42.0.0/24"), apiServer, serviceCIDR("10.43.0.0/20")},
			targets:   []*corev1.Pod{podAt("p", "10.42.0.7")},
			forbidden: []string{"servicecidrs"},
			want:      api.Coverage{Capture: prefixes("10.42.0.0/24"), Services: prefixes("10.43.0.0/16", "fd00:43::/108"), Pass: endpointsOf("10.43.0.1:443", "[fd00:43::1]:443")},
			warnings:  1,
		},
		"what leads to pods, and what passes": {
			objects: []runtime.Object{node("a", "192.168.1.1", "10.244.0.0/24"), serviceCIDR("10.96.0.0/16"), dnsService(), external, apiServerSlice("10.244.0.250"), ported},
			targets: []*corev1.Pod{podAt("p", "10.244.0.7")},
			want: api.Coverage{Capture: prefixes("10.244.0.0/24"), Services: prefixes("10.96.0.0/16"),
				Endpoints: endpointsOf("192.0.2.7:80", "192.168.1.1:8080", "192.168.1.77:8081", "198.51.100.7:80"),
				Pass:      endpointsOf("10.96.0.10:53", "10.244.0.250:6443")},
		},
		"a Service's and a pod's word about addresses of pods is not taken": {
			objects: []runtime.Object{node("a", "192.168.1.1", "10.244.0.0/24"), node("b", "10.244.1.200", "10.244.1.0/24"), serviceCIDR("10.96.0.0/16"),
				podAt("victim", "10.9.0.8"), outsider("evil", 80, "10.9.0.8", "10.244.0.7", "10.244.0.9", "10.244.1.200", "192.0.2.8"),
				hostPorted("10.244.0.7"), apiServerSlice("10.9.0.8", "192.168.1.1")},
			targets: []*corev1.Pod{podAt("p", "10.244.0.7")},
			named:   api.Coverage{Capture: prefixes("10.0.0.0/8")},
			want: api.Coverage{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.96.0.0/16"), Exclude: prefixes("10.244.1.200/32"),
				Endpoints: endpointsOf("10.244.1.200:80", "192.0.2.8:80"), Pass: endpointsOf("192.168.1.1:6443")},
			warnings: 1,
		},
		"named by hand": {
			objects: []runtime.Object{node("a", "10.1.0.1", "10.244.0.0/24"), serviceCIDR("10.96.0.0/16")},
			targets: []*corev1.Pod{podAt("p", "10.9.0.7")},
			named: api.Coverage{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.43.0.0/16"),
				Exclude: prefixes("10.7.0.0/16"), ExcludePorts: []uint16{53, 22, 53}, Outside: api.OutsideRefuse},
			want: api.Coverage{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.43.0.0/16"),
				Exclude: prefixes("10.1.0.1/32", "10.7.0.0/16"), ExcludePorts: []uint16{22, 53}, Outside: api.OutsideRefuse},
		},
		"node ports": {
			objects: []runtime.Object{node("a", "10.244.0.200", "10.244.0.0/24"), node("b", "192.168.1.2", "10.244.2.0/24"), serviceCIDR("10.96.0.0/16")},
			targets: []*corev1.Pod{podAt("p", "10.244.0.7")},
			named:   api.Coverage{Exclude: prefixes("10.244.2.9/32"), NodePorts: [2]uint16{30000, 30100}},
			want: api.Coverage{Capture: prefixes("10.244.0.0/24", "10.244.2.0/24"), Services: prefixes("10.96.0.0/16"),
				Exclude: prefixes("10.244.2.9/32"), NodePorts: [2]uint16{30000, 30100},
				Nodes: []netip.Addr{netip.MustParseAddr("10.244.0.200"), netip.MustParseAddr("192.168.1.2")}},
		},
		"nodes forbidden": {
			targets: []*corev1.Pod{podAt("p", "10.9.0.7")}, forbidden: []string{"nodes"}, err: "listing nodes",
		},
		"all forbidden but ranges named": {
			targets:   []*corev1.Pod{podAt("p", "10.9.0.7")},
			named:     api.Coverage{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.43.0.0/16")},
			forbidden: []string{"nodes", "pods", "services", "servicecidrs", "endpointslices"},
			want:      api.Coverage{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.43.0.0/16")},
			warnings:  3,
		},
		"all pods forbidden": {
			objects: []runtime.Object{node("a", "192.168.1.1")}, targets: []*corev1.Pod{podAt("p", "10.9.0.7")},
			forbidden: []string{"pods"}, err: "listing all pods",
		},
		"Services forbidden": {
			objects: []runtime.Object{node("a", "192.168.1.1", "10.9.0.0/24")}, targets: []*corev1.Pod{podAt("p", "10.9.0.7")},
			forbidden: []string{"services"}, err: "listing Services",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := fakecluster.New(t, test.objects...)
			for _, resource := range test.forbidden {
				c.Forbid("list", resource)
			}
			var targets []corev1.Pod
			for _, pod := range test.targets {
				targets = append(targets, *pod)
			}
			got, err := Run(t.Context(), c, targets, test.named)
			expect.Error(t, err, test.err)
			if err != nil || test.err != "" {
				return
			}
			expect.Equal(t, "coverage", test.want, got.For(&targets[0], test.named), cmpopts.EquateEmpty())
			if len(got.Warnings) != test.warnings {
				t.Errorf("warnings: %q", got.Warnings)
			}
		})
	}
}

// outsider is a Service of a namespace with external addresses.
func outsider(namespace string, port int32, addresses ...string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "outsider"},
		Spec: corev1.ServiceSpec{ExternalIPs: addresses, Ports: []corev1.ServicePort{{Port: port}}}}
}

// finished is pod when all its containers have ended, and it is still listed.
func finished(pod *corev1.Pod) *corev1.Pod {
	pod = pod.DeepCopy()
	pod.Status.Phase = corev1.PodSucceeded
	return pod
}

// hostPorted is a pod that has a port at an address of its choice.
func hostPorted(address string) *corev1.Pod {
	pod := podAt("host-ported", "10.244.0.99")
	pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 81, HostPort: 81, HostIP: address}}
	return pod
}

// TestUselessHostIPs: an address that leads nowhere from other pods does not spoil the coverage of all.
func TestUselessHostIPs(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "fe80::1%eth0"} {
		s := must.Get(Run(t.Context(), fakecluster.New(t, node("a", "192.168.1.1", "10.244.0.0/24"), serviceCIDR("10.96.0.0/16"), hostPorted(address)),
			nil, api.Coverage{}))(t)
		c := s.For(podAt("p", "10.244.0.7"), api.Coverage{})
		if err := c.Validate(); err != nil || len(c.Endpoints) != 0 {
			t.Errorf("%s: %v, endpoints %v", address, err, c.Endpoints)
		}
	}
}

// TestTooManyEndpoints: a namespace that has too many leaves room for those of others.
func TestTooManyEndpoints(t *testing.T) {
	var many []string
	for i := range maxEndpoints + 1 {
		many = append(many, fmt.Sprintf("192.0.%d.%d", i/250, i%250+1))
	}
	s := must.Get(Run(t.Context(), fakecluster.New(t, node("a", "192.168.1.1", "10.244.0.0/24"), serviceCIDR("10.96.0.0/16"),
		outsider("evil", 80, many...), outsider("shop", 443, "203.0.113.7", "203.0.113.8")), nil, api.Coverage{}))(t)
	if n := len(s.Found.Endpoints); n != maxEndpoints || len(s.Warnings) != 1 {
		t.Errorf("%d endpoints, %q", n, s.Warnings)
	}
	expect.Equal(t, "the last", endpointsOf("203.0.113.7:443", "203.0.113.8:443"), s.Found.Endpoints[maxEndpoints-2:])
}

func endpointsOf(list ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, text := range list {
		out = append(out, netip.MustParseAddrPort(text))
	}
	return out
}

func TestNodeAddressKnownFromThePodAlone(t *testing.T) {
	c := fakecluster.New(t)
	c.Forbid("list", "nodes")
	pod := podAt("p", "10.9.0.7")
	pod.Status.HostIPs = []corev1.HostIP{{IP: "10.1.2.3"}}
	named := api.Coverage{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.43.0.0/16")}
	s := must.Get(Run(t.Context(), c, []corev1.Pod{*pod}, named))(t)
	expect.Equal(t, "excluded", prefixes("10.1.2.3/32"), s.For(pod, named).Exclude)
}

func TestTooManyNodesForNodePorts(t *testing.T) {
	named := api.Coverage{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.96.0.0/12"), NodePorts: api.DefaultNodePorts()}
	for n, want := range map[int]int{maxNodes: maxNodes, maxNodes + 1: 0} {
		var objects []runtime.Object
		for i := range n {
			objects = append(objects, node(fmt.Sprint(i), fmt.Sprintf("192.168.%d.%d", i/250, i%250+1)))
		}
		s := must.Get(Run(t.Context(), fakecluster.New(t, objects...), nil, named))(t)
		if got := s.For(podAt("p", "10.9.0.7"), named); len(got.Nodes) != want || (want == 0) != (len(s.Warnings) == 1) {
			t.Errorf("%d of %d nodes, %q", len(got.Nodes), n, s.Warnings)
		} else if d := s.Drift(podAt("p", "10.9.0.7"), &api.Capture{Coverage: got, Named: named, Fingerprint: got.Fingerprint()}); len(d.Lacks)+len(d.Extra) > 0 {
			t.Errorf("with %d nodes it drifts: %d, %d", n, len(d.Lacks), len(d.Extra))
		}
	}
}

// TestPlaintextFrom: a kubelet probes from its node's addresses, of all families, and from
// those of no other node. It reaches what the pod has it probe.
func TestPlaintextFrom(t *testing.T) {
	mine := node("node-1", "192.168.1.1")
	mine.Status.Addresses = append(mine.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "fd00::1"},
		corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "203.0.113.7"})
	s := must.Get(Run(t.Context(), fakecluster.New(t, mine, node("node-2", "192.168.1.2")), nil,
		api.Coverage{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.96.0.0/12")}))(t)
	pod := fakecluster.NewPod("p")
	pod.Spec.NodeName = "node-1"
	pod.Status.HostIP, pod.Status.HostIPs = "192.168.1.1", []corev1.HostIP{{IP: "192.168.1.1"}, {IP: "fd00::99"}}
	given := []api.Source{{From: netip.MustParsePrefix("10.9.0.0/16")}, {From: netip.MustParsePrefix("192.168.1.1/32"), Ports: api.Ports{{First: 9, Last: 9}}}}
	from := func() string { return fmt.Sprint(s.For(pod, api.Coverage{PlaintextFrom: given}).PlaintextFrom) }
	expect.Equal(t, "plaintext without probes from", "[10.9.0.0/16 192.168.1.1/32:9]", from())
	c := &pod.Spec.Containers[0]
	c.Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}
	c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("web")}}}
	c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8081)}}}
	c.StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 9000}}}
	c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(9001)}},
		PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{}}}
	expect.Equal(t, "plaintext from", "[10.9.0.0/16 192.168.1.1/32:9,8080-8081,9000-9001 203.0.113.7/32:8080-8081,9000-9001 fd00::1/128:8080-8081,9000-9001 fd00::99/128:8080-8081,9000-9001]", from())
}

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
		"ports on loopback": {change: func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: api.CapturePort}, {ContainerPort: api.InbandPort}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var cluster Survey
			if test.node != nil {
				cluster.nodes = map[string]*corev1.Node{"node-1": test.node}
			}
			pod := fakecluster.NewPod("p")
			if test.change != nil {
				test.change(pod)
			}
			expect.Error(t, cluster.Refusal(pod), test.want)
		})
	}
}

// TestRefusalBeforeASidecarRuns does not send anybody to wait for what needs a certificate first.
func TestRefusalBeforeASidecarRuns(t *testing.T) {
	for sidecar, want := range map[bool]string{false: "kubectl wait", true: "kubectl gateway enable pod/p -n shop"} {
		pod := fakecluster.NewPod("p")
		pod.Status.Phase = corev1.PodPending
		if sidecar {
			fakecluster.AddSidecar(pod, "{}", corev1.ContainerStatus{})
		}
		err := new(Survey).Refusal(pod)
		if err == nil || !strings.Contains(api.Hint(err), want) || strings.Contains(api.Hint(err), "kubectl wait") == sidecar {
			t.Errorf("sidecar %v: %v, %s", sidecar, err, api.Hint(err))
		}
	}
}
