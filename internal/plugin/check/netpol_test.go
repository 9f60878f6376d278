package check

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// policy reads the spec of a network policy from YAML.
func policy(t *testing.T, name, spec string) *networkingv1.NetworkPolicy {
	t.Helper()
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	must.Do(t, yaml.UnmarshalStrict([]byte(spec), &p.Spec))
	return p
}

const (
	webOnly  = "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]}"
	webAlso  = "{podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: 18443}]}]}"
	outside  = "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}], ports: [{port: 80}]}]}"
	webOther = "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: x}}}], ports: [{port: 18443}]}]}"
)

func TestNetworkPolicies(t *testing.T) {
	for _, c := range []struct {
		name     string
		policies []string
		// bad are those of policies, by number, that filter, loose those whose ports do not bind.
		bad, loose []string
	}{
		{"none", nil, nil, nil},
		{"one port", []string{webOnly}, []string{"p0"}, nil},
		{"the port for the same peers", []string{webOnly, webAlso}, nil, []string{"p0"}},
		{"the port for other peers", []string{webOnly, webOther}, []string{"p0"}, nil},
		{"the port for everybody", []string{webOnly, "{podSelector: {}, ingress: [{ports: [{port: 18443, protocol: TCP}]}]}"}, nil, []string{"p0"}},
		{"everything for the same peers", []string{webOnly, "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}"}, nil, nil},
		{"everything for everybody", []string{webOnly, "{podSelector: {}, ingress: [{}]}"}, nil, nil},
		{"from outside, and the port", []string{outside, "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}], ports: [{port: 18443}]}]}"}, nil, nil},
		{"other pods, and the port", []string{"{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]}", webAlso}, nil, nil},
		{"the port of other pods", []string{webOnly, "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 18443}]}]}"}, []string{"p0"}, nil},
		{"everything", []string{"{podSelector: {}, ingress: [{}]}"}, nil, nil},
		{"all ports", []string{"{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}"}, nil, nil},
		{"a range of ports", []string{"{podSelector: {}, ingress: [{ports: [{port: 18000, endPort: 19000}]}]}"}, nil, []string{"p0"}},
		{"a range below", []string{"{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 18442}]}]}"}, []string{"p0"}, nil},
		{"the port, but of UDP", []string{"{podSelector: {}, ingress: [{ports: [{port: 80}, {port: 18443, protocol: UDP}]}]}"}, []string{"p0"}, nil},
		{"a named port", []string{"{podSelector: {}, ingress: [{ports: [{port: http}]}]}"}, []string{"p0"}, nil},
		{"nobody at all", []string{"{podSelector: {}, policyTypes: [Ingress]}"}, nil, nil},
		{"nobody, and one port", []string{"{podSelector: {}, policyTypes: [Ingress]}", webOnly}, []string{"p1"}, nil},
		{"other pods", []string{"{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 80}]}]}"}, nil, nil},
		{"from outside", []string{outside}, nil, nil},
		{"from everywhere", []string{"{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: 80}]}]}"}, []string{"p0"}, nil},
		{"out to one port", []string{"{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}], ports: [{port: 5432}]}]}"}, []string{"p0"}, nil},
		{"out, by default types", []string{"{podSelector: {}, egress: [{ports: [{port: 5432}]}]}"}, []string{"p0"}, nil},
		{"out to names", []string{"{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 53, protocol: UDP}, {port: 53}]}]}"}, nil, nil},
		{"out over UDP", []string{"{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 4433, protocol: UDP}]}]}"}, nil, nil},
		{"in is not out", []string{"{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 5432}]}]}", webAlso}, []string{"p0"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			objects := []runtime.Object{appPod("web")}
			for i, spec := range c.policies {
				objects = append(objects, policy(t, "p"+string(rune('0'+i)), spec))
			}
			w := newWorld(t, objects...)
			var bad, loose []string
			for _, item := range w.run(t, "network-policies") {
				if item.Result == OK {
					continue
				}
				if strings.Contains(item.Detail, "reach every port") {
					loose = append(loose, strings.Fields(item.Detail)[2])
					continue
				}
				if item.Result != Warning || item.Objects[0] != "pod/web -n shop" || !strings.Contains(item.Hint, "--wire=inband") {
					t.Errorf("%+v", item)
				}
				bad = append(bad, strings.Fields(item.Detail)[2])
				w.follow(t, item.Command)
			}
			if strings.Join(bad, " ") != strings.Join(c.bad, " ") {
				t.Errorf("%v filter, want %v", bad, c.bad)
			}
			if strings.Join(loose, " ") != strings.Join(c.loose, " ") {
				t.Errorf("the ports of %v do not bind, want %v", loose, c.loose)
			}
			// With the port for gateways, the other ports do not bind.
			for _, item := range w.run(t, "network-policies") {
				if item.Result != OK && !strings.Contains(item.Detail, "reach every port") {
					t.Errorf("after the advice: %+v", item)
				}
			}
		})
	}
}

// follow creates what a command would apply.
func (w *world) follow(t *testing.T, command string) {
	t.Helper()
	text, found := strings.CutPrefix(command, "kubectl apply -f - <<'EOF'\n")
	text, end := strings.CutSuffix(text, "EOF")
	var p networkingv1.NetworkPolicy
	if err := yaml.UnmarshalStrict([]byte(text), &p); err != nil || !found || !end {
		t.Fatalf("%v in %s", err, command)
	}
	for _, r := range p.Spec.Ingress {
		if len(r.Ports) != 1 || r.Ports[0].Port.IntVal != api.PeerPort || *r.Ports[0].Protocol != corev1.ProtocolTCP {
			t.Errorf("the advice opens more than the port: %s", command)
		}
	}
	if _, err := w.NetworkingV1().NetworkPolicies(p.Namespace).Create(t.Context(), &p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestPortRulesReplacePolicies: identity rules with ports bind where a policy's ports do not.
func TestPortRulesReplacePolicies(t *testing.T) {
	for rules, want := range map[string]Result{
		`"allow":["ns/shop/sa/*"]`: Warning, `"allow":["ns/shop/sa/web:80"]`: OK, `"deny":["ns/*/sa/*:22"]`: OK,
	} {
		gateway := withGateway("web")
		gateway.Spec.EphemeralContainers[0].Env[0].Value = `{"version":1,"pod":{"namespace":"shop","name":"web","uid":"web","serviceAccount":"default"},
			"podIPs":["10.244.1.7"],"trustDomain":"td","mode":"strict","onFailure":"closed","ranges":["10.244.0.0/16"],` + rules + `}`
		w := newWorld(t, gateway, policy(t, "p", webOnly), policy(t, "q", webAlso))
		if items := w.run(t, "network-policies"); items[0].Result != want {
			t.Errorf("%s: %+v", rules, items)
		}
	}
}

// In band, gateways need no port of their own.
func TestNetworkPoliciesInband(t *testing.T) {
	gateway := withGateway("web")
	gateway.Spec.EphemeralContainers[0].Env[0].Value = `{"version":1,"pod":{"namespace":"shop","name":"web","uid":"web","serviceAccount":"default"},
		"podIPs":["10.244.1.7"],"trustDomain":"td","mode":"strict","onFailure":"closed","wire":"inband","ranges":["10.244.0.0/16"]}`
	for _, more := range [][]runtime.Object{nil, {policy(t, "q", webAlso)}} {
		w := newWorld(t, append(more, gateway, policy(t, "p", webOnly))...)
		if items := w.run(t, "network-policies"); items[0].Result != OK {
			t.Errorf("a gateway in band: %+v", items)
		}
	}
	w := newWorld(t, appPod("web"), policy(t, "p", webOnly))
	w.Wire = api.WireInband
	if items := w.run(t, "network-policies"); items[0].Result != OK {
		t.Errorf("--wire=inband: %+v", items)
	}
}

// TestNetworkPoliciesOfOthers: a policy is about pods of its own namespace, and not about those in the
// node's network.
func TestNetworkPoliciesOfOthers(t *testing.T) {
	foreign := policy(t, "p", webOnly)
	foreign.Namespace = "kube-system"
	for name, objects := range map[string][]runtime.Object{
		"host network":      {appPod("web", func(p *corev1.Pod) { p.Spec.HostNetwork = true }), policy(t, "p", webOnly)},
		"another namespace": {appPod("web"), appPod("coredns", func(p *corev1.Pod) { p.Namespace = "kube-system" }), foreign},
	} {
		w := newWorld(t, objects...)
		w.Find = func(ctx context.Context) ([]corev1.Pod, error) {
			list, err := w.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
			return list.Items, err
		}
		if items := w.run(t, "network-policies"); len(items) != 1 || items[0].Result != OK {
			t.Errorf("%s: %+v", name, items)
		}
	}
}
