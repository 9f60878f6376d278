//go:build linux

package main

import (
	"bytes"
	"maps"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
)

// metric returns the value of one sample.
func metric(t *testing.T, g *gatewaylab.Gateway, name string, labels map[string]string) float64 {
	t.Helper()
	all := ask[api.Metrics](t, g, "metrics").Families
	for _, f := range all {
		for _, s := range f.Samples {
			if f.Name == name && maps.Equal(s.Labels, labels) {
				return s.Value
			}
		}
	}
	t.Fatalf("there is no %s%v in %v", name, labels, all)
	return 0
}

// TestMetrics: what a gateway carries, falls back from and restarts is in its metrics.
func TestMetrics(t *testing.T) {
	l := newLabOf(t, 3)
	plain := l.net.Node(2)
	g := l.gateway(l.spec(l.a))
	l.gateway(l.spec(l.b))
	l.talk(l.a, l.b.Addr(portEcho))
	l.talk(l.a, l.b.Addr(portEcho))
	l.talk(l.a, plain.Addr(portEcho))
	killWorker(t, g)
	for _, c := range []struct {
		name   string
		labels map[string]string
		want   float64
	}{
		{"kube_gateway_connections_total", map[string]string{"direction": "outbound", "result": "encrypted"}, 2},
		{"kube_gateway_connections_total", map[string]string{"direction": "outbound", "result": "plaintext"}, 1},
		{"kube_gateway_connections_total", map[string]string{"direction": "inbound", "result": "encrypted"}, 0},
		{"kube_gateway_unencrypted_connections_total", map[string]string{"direction": "outbound", "reason": "peer_refused"}, 1},
		{"kube_gateway_unencrypted_connections_total", map[string]string{"direction": "outbound", "reason": "peer_silent"}, 0},
		{"kube_gateway_captured_connections_total", nil, 3},
		{"kube_gateway_worker_restarts_total", nil, 1},
		{"kube_gateway_state", map[string]string{"state": "ready"}, 1},
		{"kube_gateway_state", map[string]string{"state": "degraded"}, 0},
		{"kube_gateway_certificate_not_after_timestamp_seconds", nil, float64(status(t, g).Cert.NotAfter.Unix())},
	} {
		if got := metric(t, g, c.name, c.labels); got != c.want {
			t.Errorf("%s%v is %v instead of %v", c.name, c.labels, got, c.want)
		}
	}

	var stdout, stderr bytes.Buffer
	if code := run([]string{"ctl", "metrics", "--control-socket", g.Socket()}, nil, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d, %s", code, stderr.String())
	}
	for _, f := range ask[api.Metrics](t, g, "metrics").Families {
		if !strings.Contains(stdout.String(), "# TYPE "+f.Name+" "+f.Type+"\n") {
			t.Errorf("there is no %s in\n%s", f.Name, stdout.String())
		}
	}
}
