//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/test/wire"
)

// apiServerIP and apiServerPort are the API server's own, behind Service kubernetes.
const (
	apiServerIP   = "172.30.0.1"
	apiServerPort = 6443
)

// toAPIServer filters the packets of a pod to the API server, and newToAPIServer those that
// begin a connection.
func toAPIServer(p *pod) string {
	return fmt.Sprintf("src host %v and dst host %s and tcp dst port %d", p.ips[0], apiServerIP, apiServerPort)
}

func newToAPIServer(p *pod) string { return toAPIServer(p) + " and tcp[tcpflags] & tcp-syn != 0" }

// signalProgram sends a signal to a program of a pod.
func signalProgram(t *testing.T, p *pod, program string, signal syscall.Signal) {
	t.Helper()
	found := processesIn(t, p, "comm", func(name string) bool { return strings.TrimSpace(name) == program })
	if len(found) != 1 {
		t.Fatalf("%s has %d processes of %s", p, len(found), program)
	}
	must.Do(t, syscall.Kill(found[0], signal))
}

// awaitRestart waits until the container of a pod runs for the second time.
func awaitRestart(t *testing.T, p *pod) {
	t.Helper()
	eventually(t, p.String()+" runs again", func() error {
		object := get[corev1.Pod](t, "-n", p.namespace, "pod", p.name)
		if s := object.Status.ContainerStatuses[0]; s.RestartCount == 0 || s.State.Running == nil {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

// warns fails the test unless text names a warning.
func warns(t *testing.T, what, text, warning string) {
	t.Helper()
	if !strings.Contains(text, warning) {
		t.Errorf("%s does not say %q:\n%s", what, warning, text)
	}
}

// startDNS runs the cluster's own CoreDNS as a pod of kube-system, behind a Service whose
// label makes it the cluster's DNS. It returns the addresses of that Service with the port.
func startDNS(t *testing.T) (*pod, []string) {
	t.Helper()
	const ns, name, image = "kube-system", "e2e-dns", "localhost/e2e-coredns:latest"
	loadImage(t, image, "coredns")
	// No gateway of another test may know the Service.
	atEnd(t, "-n", ns, "delete", "--ignore-not-found",
		"pod/"+name, "service/"+name, "configmap/"+name, "serviceaccount/"+name, "clusterrolebinding/"+name)
	apply(t, ns, fmt.Sprintf(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: %[1]s}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: coredns}
subjects:
- {kind: ServiceAccount, name: %[1]s, namespace: kube-system}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: %[1]s}
data:
  Corefile: |
    . {
        errors
        kubernetes cluster.local {
            ttl 0
        }
    }
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, labels: {k8s-app: kube-dns}}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: %[1]s}
  ports:
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, protocol: TCP}
`, name))
	spec := podSpec(name, node1)
	spec.Spec.ServiceAccountName = name
	spec.Spec.Containers[0].Image, spec.Spec.Containers[0].Command = image, []string{"/coredns", "-conf", "/etc/coredns/Corefile"}
	spec.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "config", MountPath: "/etc/coredns"}}
	spec.Spec.Volumes = []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}}}
	p := startPods(t, ns, spec)[0]
	var services []string
	for _, ip := range get[corev1.Service](t, "-n", ns, "service", name).Spec.ClusterIPs {
		services = append(services, netip.AddrPortFrom(netip.MustParseAddr(ip), 53).String())
	}
	return p, services
}

// TestStrictDNS makes the cluster's DNS strict, a CoreDNS that watches the API server. It
// goes on to learn of Services and to answer everybody, over UDP and over TCP. The test runs
// alone: every gateway has to know of a DNS Service.
func TestStrictDNS(t *testing.T) {
	ns := namespace(t)
	dns, services := startDNS(t)
	host := podSpec("host", node2)
	host.Spec.HostNetwork, host.Spec.Containers[0].Command = true, []string{"/app", "sleep"}
	pods := startPods(t, ns, podSpec("plain", node2), host, podSpec("permissive", node2), podSpec("strict", node2))
	plain, permissive, strict := pods[0], pods[2], pods[3]

	full := func(service string) string { return service + "." + ns + ".svc.cluster.local." }
	newService := func(name string) string {
		kubectl(t, "-n", ns, "create", "service", "clusterip", name, "--tcp=80")
		return get[corev1.Service](t, "-n", ns, "service", name).Spec.ClusterIP
	}
	// resolves has clients ask servers for a Service, over both transports.
	resolves := func(when, service, want string, clients []*pod, servers ...string) {
		t.Helper()
		eventually(t, when+": "+service+" can be resolved", func() error {
			if r := clients[0].app("lookup", "udp", full(service), servers[0]); r.Received != want {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
		for _, p := range clients {
			for _, network := range []string{"udp", "tcp"} {
				r := p.app(append([]string{"lookup", network, full(service)}, servers...)...)
				if r.Error != "" || r.Received != want {
					t.Errorf("%s: %s over %s: %+v, not %s", when, p, network, r, want)
				}
			}
		}
	}
	// Neither a pod nor a node, but with a route.
	strangerConnects := func() bool {
		connect := "exec 3<>/dev/tcp/" + strings.Replace(dns.addr(53), ":", "/", 1)
		out := runCommand(t.Context(), t, "", os.Getenv(wire.ClusterVariable), "exec", "control-plane", "--", "timeout", "10", "bash", "-c", connect)
		return out.code == 0
	}
	resolves("before", "early", newService("early"), []*pod{plain}, append(services, dns.addr(53))...)
	if !strangerConnects() {
		t.Fatal("the stranger does not reach the DNS server before it is strict")
	}

	// With --block-udp: what is refused then is no DNS.
	enable(t, []string{"--mode=strict", "--block-udp"}, strict)
	enable(t, nil, permissive)
	resolves("strict clients", "next", newService("next"), []*pod{strict, permissive}, services...)

	packets := record(t, dns)
	out := enable(t, []string{"--mode=strict", "--block-udp"}, dns)
	warns(t, "enable", out.stdout+out.stderr, "it serves the cluster's DNS (Service kube-system/e2e-dns): strict mode accepts plaintext of pods and nodes at port 53")
	resolves("strict", "late", newService("late"), pods, append(services, dns.addr(53))...)
	apply(t, ns, manyEndpoints("many", manyAddresses))
	for _, p := range pods {
		eventually(t, p.String()+" gets a large answer", func() error {
			if r := p.app("lookup", "udp", full("many"), services[0]); r.Error != "" || r.Count != manyAddresses {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
	}
	packets.stop()
	if n := packets.count(newToAPIServer(dns)); n != 0 || packets.count(toAPIServer(dns)) == 0 {
		t.Errorf("the DNS server's watch: %d new connections to the API server, %d packets", n, packets.count(toAPIServer(dns)))
	}
	for _, network := range []string{"udp", "tcp"} {
		if packets.count(fmt.Sprintf("%s port 53 and host %v", network, strict.ips[0])) == 0 {
			t.Errorf("no DNS over %s on the wire", network)
		}
	}
	if strangerConnects() {
		t.Error("the strict DNS server accepts the connection of a stranger")
	}
	if c := dns.status().Capture; c.UDP != 0 || c.UDPRefused != 0 || c.PlaintextAllowed == 0 {
		t.Errorf("the gateway of the DNS server counts %+v", c.CaptureCounts)
	}
	for _, server := range services {
		if pass := strict.status().Capture.Coverage.Pass; !slices.Contains(pass, netip.MustParseAddrPort(server)) {
			t.Errorf("%s does not pass: %v", server, pass)
		}
	}

	// At the pod's own address there is a gateway.
	newService("canary-direct")
	packets = record(t, dns)
	for _, p := range []*pod{strict, permissive} {
		awaitApp(t, p.String()+" has an answer over TCP from the pod's address", p.app, "lookup", "tcp", full("canary-direct"), dns.addr(53))
	}
	packets.stop()
	if packets.contains("canary-direct") || packets.count(tlsData) == 0 {
		t.Errorf("DNS over TCP between gateways: readable %v, %d TLS records", packets.contains("canary-direct"), packets.count(tlsData))
	}

	// Its next process opens its watch in strict mode.
	signalProgram(t, dns, "coredns", syscall.SIGKILL)
	awaitRestart(t, dns)
	resolves("restarted", "later", newService("later"), []*pod{plain, strict}, services[0])
}

// manyAddresses do not fit into one datagram of DNS.
const manyAddresses = 120

// manyEndpoints is a headless Service with n addresses.
func manyEndpoints(name string, n int) string {
	var endpoints strings.Builder
	for i := range n {
		fmt.Fprintf(&endpoints, "- {addresses: [10.255.0.%d], conditions: {ready: true}}\n", i+1)
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{port: 80, protocol: TCP}]
endpoints:
%[2]s`, name, endpoints.String())
}

// operatorImage is the image of test/e2e/operator.
const operatorImage = "localhost/e2e-operator:latest"

// startOperator runs an operator on node-1, which finds the API server with env.
func startOperator(t *testing.T, ns, name string, env ...corev1.EnvVar) *pod {
	t.Helper()
	spec := podSpec(name, node1)
	spec.Spec.ServiceAccountName = "operator"
	c := &spec.Spec.Containers[0]
	c.Image, c.Command, c.Env = operatorImage, []string{"/operator"}, append(env, corev1.EnvVar{Name: "NAMESPACE", Value: ns})
	return startPods(t, ns, spec)[0]
}

// TestStrictOperator makes operators strict, which talk to the API server and to a pod. One
// goes by Service kubernetes, the other one by the endpoint behind it.
func TestStrictOperator(t *testing.T) {
	t.Parallel()
	loadImage(t, operatorImage, "operator")
	ns := namespace(t)
	apply(t, ns, `
apiVersion: v1
kind: ServiceAccount
metadata: {name: operator}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: operator}
rules:
- {apiGroups: [""], resources: [configmaps], verbs: [get, list, watch, update]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: operator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: operator}
subjects: [{kind: ServiceAccount, name: operator}]
`)
	lease := func() coordinationv1.LeaseSpec {
		return get[coordinationv1.Lease](t, "-n", ns, "lease", "operator").Spec
	}
	awaitLeader := func(p *pod) {
		t.Helper()
		awaitKubectl(t, "there is a lease", "-n", ns, "get", "lease", "operator")
		eventually(t, p.String()+" leads", func() error {
			if holder := lease().HolderIdentity; holder == nil || *holder != p.name {
				return fmt.Errorf("the lease is %+v", lease())
			}
			return nil
		})
	}
	peer := startPods(t, ns, podSpec("peer", node2))[0]
	service := startOperator(t, ns, "service")
	awaitLeader(service)
	endpoint := startOperator(t, ns, "endpoint",
		corev1.EnvVar{Name: "KUBERNETES_SERVICE_HOST", Value: apiServerIP}, corev1.EnvVar{Name: "KUBERNETES_SERVICE_PORT", Value: strconv.Itoa(apiServerPort)})
	// ask has the leader p talk to the peer. It has one watch, which it has opened first.
	ask := func(p *pod, text string) {
		t.Helper()
		kubectl(t, "-n", ns, "create", "configmap", text, "--from-literal=ask="+peer.addr(portEcho)+" "+text)
		var data map[string]string
		await(t, p.String()+" answers", func() bool {
			data = get[corev1.ConfigMap](t, "-n", ns, "configmap", text).Data
			return data["answer"] != ""
		})
		delete(data, "ask")
		if diff := cmp.Diff(map[string]string{"answer": text, "by": p.name, "watches": "1"}, data); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	ask(service, "canary-before")

	packets := record(t, service, peer)
	// What is refused outside of the ranges does not concern the API server, and what is reset
	// does not concern the watch.
	enable(t, []string{"--mode=strict", "--outside=refuse", "--existing=reset"}, service, endpoint, peer)
	enabled := time.Now()
	ask(service, "canary-strict")
	eventually(t, "the lease is renewed", func() error {
		if l := lease(); !l.RenewTime.After(enabled) {
			return fmt.Errorf("%+v", l)
		}
		return nil
	})
	packets.stop()
	if packets.contains("canary-") || packets.count(tlsData) == 0 {
		t.Errorf("operator and peer: readable %v, %d TLS records", packets.contains("canary-"), packets.count(tlsData))
	}
	if n := packets.count(newToAPIServer(service)); n != 0 || packets.count(toAPIServer(service)) == 0 {
		t.Errorf("the operator's watch: %d new connections to the API server, %d packets", n, packets.count(toAPIServer(service)))
	}

	// The leader hangs, so the other one leads, and then the first one again: their watches are
	// opened in strict mode. Who has lost the lease starts anew.
	for _, turn := range []struct{ from, to *pod }{{service, endpoint}, {endpoint, service}} {
		signalProgram(t, turn.from, "operator", syscall.SIGSTOP)
		awaitLeader(turn.to)
		signalProgram(t, turn.from, "operator", syscall.SIGCONT)
		awaitRestart(t, turn.from)
		ask(turn.to, "canary-"+turn.to.name)
	}
	for _, p := range []*pod{service, endpoint} {
		s := p.status()
		if c := s.Capture; c.Excluded == 0 || c.OutsideConnections != 0 || s.Traffic.Outbound.Encrypted == 0 || s.Traffic.Outbound.Refused != 0 {
			t.Errorf("the gateway of %s counts %+v and %+v", p, c.CaptureCounts, s.Traffic.Outbound)
		}
		for _, address := range []string{"10.96.0.1:443", netip.AddrPortFrom(netip.MustParseAddr(apiServerIP), apiServerPort).String()} {
			if !slices.Contains(s.Capture.Coverage.Pass, netip.MustParseAddrPort(address)) {
				t.Errorf("%s does not pass: %v", address, s.Capture.Coverage.Pass)
			}
		}
	}
}
