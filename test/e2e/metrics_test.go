//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// metric reads the metrics of a pod and returns the value of one sample, or an error
// if it is not there.
func (p *pod) metric(name string, labels map[string]string) (float64, error) {
	p.t.Helper()
	text := gateway(p.t, "-n", p.namespace, "metrics", p.String(), "-o", "json").stdout
	for _, f := range parse[api.Metrics](p.t, text).Families {
		for _, s := range f.Samples {
			if f.Name == name && maps.Equal(s.Labels, labels) {
				return s.Value, nil
			}
		}
	}
	return 0, fmt.Errorf("there is no %s%v in %s", name, labels, text)
}

// TestMetrics: a pod that talks to one with a gateway, and to one without, says so in
// its metrics, which come without a port.
func TestMetrics(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	pods := startPods(t, ns, podSpec("a", node1), podSpec("b", node2), podSpec("plain", node2))
	a, b, plain := pods[0], pods[1], pods[2]
	enable(t, nil, a, b)
	a.talk(b.addr(portEcho), "encrypted")
	a.talk(b.addr(portEcho), "encrypted")
	a.talk(plain.addr(portEcho), "plaintext")
	connections := func(direction, result string) map[string]string {
		return map[string]string{"direction": direction, "result": result}
	}
	for _, c := range []struct {
		of     *pod
		name   string
		labels map[string]string
		want   float64
	}{
		{a, "kube_gateway_connections_total", connections(api.Outbound, "encrypted"), 2},
		{a, "kube_gateway_connections_total", connections(api.Outbound, "plaintext"), 1},
		{a, "kube_gateway_connections_total", connections(api.Outbound, "refused"), 0},
		{b, "kube_gateway_connections_total", connections(api.Inbound, "encrypted"), 2},
		{a, "kube_gateway_captured_connections_total", nil, 3},
		{a, "kube_gateway_state", map[string]string{"state": string(api.Ready)}, 1},
		{a, "kube_gateway_existing_connections", map[string]string{"direction": api.Outbound}, 0},
		{a, "kube_gateway_certificate_not_after_timestamp_seconds", nil, float64(a.status().Cert.NotAfter.Unix())},
	} {
		eventually(t, c.name, func() error {
			if got, err := c.of.metric(c.name, c.labels); err != nil || got != c.want {
				return fmt.Errorf("%s: %s%v is %v instead of %v (%v)", c.of, c.name, c.labels, got, c.want, err)
			}
			return nil
		})
	}
	text := gateway(t, "-n", ns, "metrics", "a").stdout
	if !strings.Contains(text, "\nkube_gateway_connections_total{direction=\"outbound\",result=\"encrypted\"} 2\n") {
		t.Errorf("the metrics are\n%s", text)
	}
	if out := kubectl(t, "-n", ns, "get", "pod", "a", "-o", "jsonpath={.spec.ephemeralContainers[*].ports}"); out != "" {
		t.Errorf("the gateway declares ports: %s", out)
	}
}
