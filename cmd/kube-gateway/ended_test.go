//go:build linux

package main

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestEndedGatewayStaysEnded: the kubelet starts the container of a gateway again when the
// runtime has forgotten it. A gateway that was disabled, that a newer one has replaced, or that
// died ends at once.
func TestEndedGatewayStaysEnded(t *testing.T) {
	l := newLab(t)
	numbered := func(n int) gatewaylab.Spec {
		return with(l.spec(l.a), func(c *api.Config) { c.Number = n })
	}
	startedAgain := func(what string, s gatewaylab.Spec, last string) {
		t.Helper()
		g := must.Get(gatewaylab.Launch(s))(t)
		t.Cleanup(g.Stop)
		if err := ended(t, g); (err == nil) != (last == api.DisabledMessage) {
			t.Errorf("%s: %v\n%s", what, err, g.Output())
		}
		if words, err := g.LastWords(); err != nil || !strings.HasPrefix(words, last) {
			t.Errorf("%s: last words %q, %v", what, words, err)
		}
		if !strings.Contains(g.Output(), "started again") {
			t.Errorf("%s: the log does not say why: %s", what, g.Output())
		}
	}
	staysEnded := func(what string, s gatewaylab.Spec) { t.Helper(); startedAgain(what, s, api.DisabledMessage) }

	disable(t, l.a, l.gateway(numbered(1)), time.Minute)
	staysEnded("a disabled gateway", numbered(1))
	uncertified := numbered(1)
	uncertified.Uncertified = true
	staysEnded("a disabled gateway without a certificate", uncertified)

	g := l.gateway(numbered(2))
	must.Do(t, g.Signal(syscall.SIGKILL))
	<-g.Done()
	staysEnded("a gateway that was replaced", numbered(1))
	startedAgain("a gateway that died", numbered(2), "the gateway died, and the kubelet has started its container again")
	l.talk(l.a, l.b.Addr(portEcho))

	// A plugin that gives no number knows nothing of all this.
	disable(t, l.a, l.gateway(numbered(0)), time.Minute)
	disable(t, l.a, l.gateway(numbered(0)), time.Minute)

	// A gateway that is disabled before its first certificate is disabled, too.
	uncertified = numbered(3)
	uncertified.Uncertified = true
	ask[api.DisableReport](t, l.gateway(uncertified), "disable")
	staysEnded("a gateway that never had a certificate", numbered(3))
}

// TestCleanedGatewayStaysEnded: who cleans up after a dead gateway does not want it back.
func TestCleanedGatewayStaysEnded(t *testing.T) {
	l := newLab(t)
	spec := strict(with(l.spec(l.a), func(c *api.Config) { c.Number = 1 }))
	g := l.gateway(spec)
	g.Stop()
	l.refused(l.a, l.b.Addr(portEcho), "closed")
	if out, words, err := l.clean(l.a, 1); err != nil {
		t.Fatalf("%v: %s %s", err, out, words)
	}
	again := must.Get(gatewaylab.Launch(spec))(t)
	t.Cleanup(again.Stop)
	if err := ended(t, again); err != nil {
		t.Errorf("%v\n%s", err, again.Output())
	}
	l.talk(l.a, l.b.Addr(portEcho))
}
