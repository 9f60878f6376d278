//go:build linux

package main

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// sidecar is a gateway that comes with its pod, and captures nothing that it was not told to.
func (l *lab) sidecar(mode api.Mode) gatewaylab.Spec {
	l.t.Helper()
	spec := with(l.spec(l.a), func(c *api.Config) {
		c.Sidecar, c.Number, c.Coverage = true, 1, api.Coverage{}
	})
	spec.Mode, spec.Uncertified = mode, true
	return spec
}

// started runs the startup probe of a sidecar, and returns what it says when it fails.
func started(t *testing.T, g *gatewaylab.Gateway, flags ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	args := slices.Concat([]string{"ctl", "started", "--control-socket", g.Socket()}, flags)
	if code := run(args, strings.NewReader(""), &stdout, &stderr); code != 0 {
		return stderr.String()
	}
	return ""
}

// first certifies a sidecar, whose Named has the fingerprint seen, for the network of the lab.
func first(l *lab, spec gatewaylab.Spec, seen string) sign {
	issue := signer(l.authority, spec, nil)
	return func(csr []byte) (*api.IssuedCertificate, error) {
		issued, err := issue(csr)
		if err == nil {
			issued.First = &api.FirstSettings{Cover: api.Cover{Seen: seen, Coverage: api.Coverage{
				Capture: []netip.Prefix{netip.PrefixFrom(spec.Node.IP4, 24).Masked(), netip.PrefixFrom(spec.Node.IP6, 64).Masked()},
			}}}
		}
		return issued, err
	}
}

// TestSidecar: the containers behind a sidecar start when it captures, what was changed outlives its death, and
// once it was disabled nothing brings it back.
func TestSidecar(t *testing.T) {
	l := newLab(t)
	spec := l.sidecar(api.Strict)
	g := l.gateway(spec)
	unnamed := new(api.Coverage).Fingerprint()
	if said := started(t, g); !strings.Contains(said, "waits for its first certificate") || !strings.Contains(said, "kubectl gateway watch") {
		t.Errorf("without a certificate the probe says %q", said)
	}
	s := status(t, g)
	expect.Equal(t, "pod", api.PodRef{Namespace: "lab", Name: l.a.IP4.String(), UID: l.a.UID, ServiceAccount: "pod-" + l.a.IP4.String()}, s.Pod)
	expect.Equal(t, "addresses", []netip.Addr{l.a.IP4, l.a.IP6}, s.PodIPs)

	// A certificate alone would leave the pod open.
	if _, err := renewWith(t, g, signer(l.authority, spec, nil)); err == nil || !strings.Contains(err.Error(), "has to capture") {
		t.Errorf("a certificate alone: %v", err)
	}
	if _, err := renewWith(t, g, first(l, spec, "another")); err == nil || !strings.Contains(err.Error(), "changed meanwhile") {
		t.Errorf("for another coverage: %v", err)
	}
	if said := started(t, g); said == "" {
		t.Error("the probe passes although nothing is captured")
	}
	issue, rules := first(l, spec, unnamed), api.Rules{MaxPerPeer: 7}
	if s := renew(t, g, func(csr []byte) (*api.IssuedCertificate, error) {
		issued, err := issue(csr)
		if err == nil {
			issued.First.Rules, issued.First.Log = &rules, api.LogNone
		}
		return issued, err
	}); s.State != api.Ready || len(s.Capture.Capture) != 2 || !s.Sidecar || s.Mode != api.Strict || !s.Rules.Equal(rules) || s.Log.Level != api.LogNone {
		t.Errorf("with a certificate it is %+v", s)
	}
	if said := started(t, g); said != "" {
		t.Errorf("the probe of a gateway that is ready says %q", said)
	}
	peer := l.gateway(l.spec(l.b))
	l.talk(l.a, l.b.Addr(portEcho))
	ask[api.Status](t, g, "allow", "ns/lab/sa/nobody")
	ask[api.Status](t, g, "log", "refused")

	// It dies: the pod is closed until the next one in the container has a certificate.
	must.Do(t, g.Signal(syscall.SIGKILL))
	<-g.Done()
	l.refused(l.a, l.b.Addr(portEcho), "without a gateway")
	g = l.gateway(spec)
	s = status(t, g)
	if s.State != api.Uncertified || !slices.Equal(s.Allow, []string{"ns/lab/sa/nobody"}) || s.Log.Level != api.LogRefused {
		t.Errorf("started again it is %+v", s)
	}
	l.refused(l.a, l.b.Addr(portEcho), "without a certificate")
	renew(t, g, first(l, spec, unnamed))
	l.talk(l.a, l.b.Addr(portEcho))

	// Disabled for the rest of the pod's life.
	disable(t, l.a, g, time.Minute)
	peer.Stop()
	l.talk(l.a, l.b.Addr(portEcho))
	g = must.Get(gatewaylab.Launch(spec))(t)
	t.Cleanup(g.Stop)
	awaitState(t, g, api.Disabled)
	if said := started(t, g); said != "" {
		t.Errorf("the probe of a gateway that was disabled says %q", said)
	}
	if _, err := tryAsk[api.Status](t, g, nil, "mode", "permissive"); err == nil || !strings.Contains(err.Error(), "was disabled") {
		t.Errorf("a change of a gateway that was disabled: %v", err)
	}
	expect.Equal(t, "report", &api.DisableReport{}, ask[api.DisableReport](t, g, "disable"))
	l.talk(l.a, l.b.Addr(portEcho))
	must.Do(t, g.End())
	if words := must.Get(g.LastWords())(t); words != api.DisabledMessage {
		t.Errorf("its last words are %q", words)
	}
}

// TestSidecarKeepsRevocations: who was revoked stays refused when the container is started again, although nobody tells
// the next gateway in it.
func TestSidecarKeepsRevocations(t *testing.T) {
	l := newLab(t)
	spec := l.sidecar(api.Strict)
	g, peer := l.gateway(spec), l.gateway(strict(l.spec(l.b)))
	issue := first(l, spec, new(api.Coverage).Fingerprint())
	renew(t, g, issue)
	l.talk(l.a, l.b.Addr(portEcho))
	told := l.revoke(g, peer)
	for range 2 {
		must.Do(t, g.Signal(syscall.SIGKILL))
		<-g.Done()
		g = l.gateway(spec)
		s := renew(t, g, issue)
		expect.Equal(t, "revocations", told.Cert.Revocations, s.Cert.Revocations)
		l.refused(l.a, l.b.Addr(portEcho), "out of the pod")
		l.refused(l.b, l.a.Addr(portEcho), "into the pod")
	}
	renew(t, peer, signer(l.authority, l.spec(l.b), nil))
	l.talk(l.a, l.b.Addr(portEcho))
}

// awaitState waits until a gateway that was launched is in a state.
func awaitState(t *testing.T, g *gatewaylab.Gateway, state api.State) {
	t.Helper()
	eventually(t, "it is "+string(state), func() error {
		s, err := g.Status(t.Context())
		if err == nil && s.State != state {
			t.Logf("it is %s", s.State)
		}
		return err
	})
}

// TestSidecarDisabledWithoutCertificate: one that is disabled before it serves removes what the one before has left.
func TestSidecarDisabledWithoutCertificate(t *testing.T) {
	l := newLab(t)
	spec := l.sidecar(api.Strict)
	g := l.gateway(spec)
	renew(t, g, first(l, spec, new(api.Coverage).Fingerprint()))
	must.Do(t, g.Signal(syscall.SIGKILL))
	<-g.Done()
	g = l.gateway(spec)
	l.refused(l.a, l.b.Addr(portEcho), "without a certificate")
	ask[api.DisableReport](t, g, "disable")
	<-g.Done()
	l.talk(l.a, l.b.Addr(portEcho))
}

// TestPermissiveSidecar keeps the pod waiting for a while.
func TestPermissiveSidecar(t *testing.T) {
	l := newLab(t)
	spec := l.sidecar(api.Permissive)
	g := l.gateway(spec)
	if said := started(t, g, "--pass-after=1h"); !strings.Contains(said, "waits for its first certificate") {
		t.Errorf("before the time is over the probe says %q", said)
	}
	if said := started(t, g, "--wait=1h", "--pass-after=1ms"); said != "" {
		t.Errorf("when it is over the probe says %q", said)
	}
	if s := status(t, g); s.State != api.Uncertified {
		t.Errorf("it is %s", s.State)
	}

	// Somebody wants it to be strict before it has served: its programs are, too.
	issue := first(l, spec, new(api.Coverage).Fingerprint())
	if s := renew(t, g, func(csr []byte) (*api.IssuedCertificate, error) {
		issued, err := issue(csr)
		if err == nil {
			issued.First.Mode = api.Strict
		}
		return issued, err
	}); s.State != api.Ready || s.Mode != api.Strict {
		t.Errorf("with a certificate it is %+v", s)
	}
	l.refused(l.b, l.a.Addr(portEcho), "in plaintext from a pod without a gateway")
}
