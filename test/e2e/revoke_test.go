//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// TestRevoke takes a certificate back while its connections are open: they end, there are no others, also
// after the death of the worker that was told, and a new certificate lets the pod in again. All gateways of
// the cluster are told, so that no other test runs meanwhile.
func TestRevoke(t *testing.T) {
	ns := namespace(t)
	a, b := twoPods(t, ns)
	other := startPods(t, ns, podSpec("other", node1))[0]
	enable(t, []string{"--mode=strict"}, a, b, other)
	l := startLoad(a, b.addr(portTraffic))
	good := startLoad(other, b.addr(portTraffic))
	// Pods of an earlier test may be about to go: only those of this one count.
	out := tryGateway(t, "-n", ns, "revoke", "pod/a")
	for _, p := range []*pod{a, b, other} {
		if len(p.status().Cert.Revocations) != 1 {
			t.Fatalf("%s was not told: %s%s", p, out.stdout, out.stderr)
		}
	}
	if !a.status().Cert.Revoked || b.status().Cert.Revoked {
		t.Error("whose certificate is revoked is unclear")
	}
	b.traffic("the reset of open connections", func(got api.Traffic) bool { return got.Inbound.Reset > 0 })
	refused := func(when string) {
		t.Helper()
		eventually(t, "a refusal "+when, func() error {
			if r := a.app("talk", b.addr(portEcho), "revoked"); r.Error == "" {
				return fmt.Errorf("it received %q", r.Received)
			}
			return nil
		})
	}
	refused("after the revocation")
	eventually(t, "the reason", func() error {
		for _, c := range b.status().Unencrypted {
			if c.Reason == "revoked" && c.Connections > 0 {
				return nil
			}
		}
		return errors.New("nothing was refused for it")
	})
	l.stop()
	good.more(10)
	good.stopClean()

	before := b.status().Worker
	kill(t, processesOf(t, b, "worker")...)
	eventually(t, "a new worker", func() error {
		if s := b.status(); s.State != api.Ready || s.Worker.PID == before.PID {
			return fmt.Errorf("%s, %+v", s.State, s.Worker)
		}
		return nil
	})
	if len(b.status().Cert.Revocations) != 1 {
		t.Error("the list is lost with the worker")
	}
	refused("by a new worker")

	// Somebody takes the list away from gateways that are still to come: who takes over gets it from the one before.
	kubectl(t, "-n", "kube-system", "patch", "configmap", "kube-gateway-trust", "--type=json",
		`--patch=[{"op": "remove", "path": "/data/revoked.json"}]`)
	enable(t, []string{"--replace", "--wire=port"}, b)
	if s := b.status(); len(s.Cert.Revocations) != 1 || s.Wire != api.WirePort {
		t.Errorf("the gateway that took over is %+v", s)
	}
	refused("by a gateway that took over")

	gateway(t, "-n", ns, "rotate", "pod/a")
	awaitApp(t, "a new certificate is good", a.app, "talk", b.addr(portEcho), "rotated")
}
