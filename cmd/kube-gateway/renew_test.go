//go:build linux

package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// sign answers a certificate request.
type sign func(csr []byte) (*api.IssuedCertificate, error)

// signer issues what belongs to a gateway, changed by change if not nil, together
// with the roots of the given authorities, or its own.
func signer(a *ca.Authority, s gatewaylab.Spec, change func(*ca.LeafRequest), trusted ...*ca.Authority) sign {
	return func(csr []byte) (*api.IssuedCertificate, error) {
		about := s.Leaf()
		if change != nil {
			change(&about)
		}
		leaf, err := a.Sign(csr, about)
		if err != nil {
			return nil, err
		}
		if len(trusted) == 0 {
			trusted = []*ca.Authority{a}
		}
		return &api.IssuedCertificate{Certificate: string(leaf.CertPEM), Bundle: bundleOf(trusted...)}, nil
	}
}

func bundleOf(authorities ...*ca.Authority) string {
	var text string
	for _, a := range authorities {
		text += string(a.Bundle())
	}
	return text
}

// renewWith runs 'kube-gateway ctl renew' as the plugin does: its input stays open.
func renewWith(t *testing.T, g *gatewaylab.Gateway, answer sign) (*api.Status, error) {
	t.Helper()
	stdin, toStdin := io.Pipe()
	fromStdout, stdout := io.Pipe()
	defer toStdin.Close()
	var stderr bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- run([]string{"ctl", "renew", "-o", "json", "--control-socket", g.Socket()}, stdin, stdout, &stderr)
		stdout.Close()
	}()
	lines := bufio.NewReader(fromStdout)
	var request api.CertificateRequest
	if line, err := lines.ReadBytes('\n'); err == nil {
		if err := json.Unmarshal(line, &request); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		issued := must.Get(answer([]byte(request.CSR)))(t)
		must.Do(t, json.NewEncoder(toStdin).Encode(issued))
	}
	text := must.Get(io.ReadAll(lines))(t)
	if code := <-ended; code != 0 {
		return nil, errors.New(stderr.String())
	}
	var s api.Status
	if err := json.Unmarshal(text, &s); err != nil || bytes.Count(text, []byte("\n")) != 1 {
		t.Fatalf("%v in %q", err, text)
	}
	return &s, nil
}

// renew renews the certificate of a gateway, which must succeed.
func renew(t *testing.T, g *gatewaylab.Gateway, answer sign) *api.Status {
	t.Helper()
	s, err := renewWith(t, g, answer)
	if err != nil {
		t.Fatalf("renewing: %v\n%s", err, g.Output())
	}
	return s
}

// trustWith runs 'kube-gateway ctl trust' with the bundle of authorities.
func trustWith(t *testing.T, g *gatewaylab.Gateway, authorities ...*ca.Authority) (*api.Status, error) {
	t.Helper()
	return sendTrust(t, g, api.TrustBundle{Bundle: bundleOf(authorities...)})
}

func sendTrust(t *testing.T, g *gatewaylab.Gateway, bundle api.TrustBundle) (*api.Status, error) {
	t.Helper()
	line := must.Get(json.Marshal(bundle))(t)
	stdin, toStdin := io.Pipe()
	defer toStdin.Close()
	go func() { _, _ = toStdin.Write(append(line, '\n')) }()
	return tryAsk[api.Status](t, g, stdin, "trust")
}

func trust(t *testing.T, g *gatewaylab.Gateway, authorities ...*ca.Authority) {
	t.Helper()
	s, err := trustWith(t, g, authorities...)
	if err != nil {
		t.Fatalf("changing the trust: %v\n%s", err, g.Output())
	}
	var want []string
	for _, a := range authorities {
		want = append(want, a.Fingerprint())
	}
	if !slices.Equal(s.Cert.Authorities, want) {
		t.Errorf("it trusts %q, want %q", s.Cert.Authorities, want)
	}
}

// revoke has a gateway refuse the certificate that another one has now, and returns its status.
func (l *lab) revoke(g, of *gatewaylab.Gateway) *api.Status {
	l.t.Helper()
	now := time.Now()
	revoked := must.Get(l.authority.Revoke(nil, []ca.Revocation{{
		Serial: status(l.t, of).Cert.Serial, At: now, Until: now.Add(time.Hour),
	}}, now))(l.t)
	s := must.Get(sendTrust(l.t, g, api.TrustBundle{Bundle: bundleOf(l.authority), Revoked: revoked.Encode()}))(l.t)
	expect.Equal(l.t, "revocations", revoked.Numbers(), s.Cert.Revocations)
	return s
}

// shown returns the serial number of the certificate that the gateway of a pod
// shows to a peer, which is elsewhere in the lab.
func (l *lab) shown(of, peer *netlab.Node) string {
	l.t.Helper()
	conn := must.Get(peer.Dial("tcp", of.Addr(api.PeerPort)))(l.t)
	client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{api.ALPN}})
	defer client.Close()
	must.Do(l.t, client.SetDeadline(time.Now().Add(patience)))
	// It asks for a certificate, too, but notices only afterwards that there is none.
	must.Do(l.t, client.Handshake())
	return client.ConnectionState().PeerCertificates[0].SerialNumber.Text(16)
}

// witness stands for the gateway of a pod and notes who connects.
type witness struct {
	mu      sync.Mutex
	serials []string
}

func (w *witness) saw() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.serials)
}

func (l *lab) witness(n *netlab.Node) *witness {
	l.t.Helper()
	spec := gatewaylab.Spec{Node: n}
	leaf := must.Get(l.authority.Issue(spec.Leaf()))(l.t)
	pair := must.Get(tls.X509KeyPair(leaf.CertPEM, leaf.KeyPEM))(l.t)
	ln := must.Get(n.Listen("tcp", n.Addr(api.PeerPort)))(l.t)
	l.t.Cleanup(func() { ln.Close() })
	w := &witness{}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			server := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{api.ALPN},
				ClientAuth: tls.RequireAnyClientCert})
			if server.Handshake() == nil {
				w.mu.Lock()
				w.serials = append(w.serials, server.ConnectionState().PeerCertificates[0].SerialNumber.Text(16))
				w.mu.Unlock()
			}
			server.Close()
		}
	}()
	return w
}

func strict(s gatewaylab.Spec) gatewaylab.Spec {
	s.Mode = api.Strict
	return s
}

// TestRenewal renews both certificates several times: connections that are open
// go on, new ones use the new certificate in both directions, and the worker
// stays.
func TestRenewal(t *testing.T) {
	l := newLabOf(t, 3)
	c := l.net.Node(2)
	sa, sb := strict(l.spec(l.a)), strict(l.spec(l.b))
	ga, gb := l.gateway(sa), l.gateway(sb)
	witness := l.witness(c)
	open := []*held{l.hold(l.a, l.b.Addr(portEcho)), l.hold(l.b, l.a.Addr(portEcho))}
	before := status(t, ga)
	if before.Time.IsZero() || before.Cert.Issuer != l.authority.Fingerprint() {
		t.Errorf("the status is %+v", before)
	}
	seen := []string{before.Cert.Serial}
	for i := range 3 {
		after := renew(t, ga, signer(l.authority, sa, nil))
		renew(t, gb, signer(l.authority, sb, nil))
		serial := after.Cert.Serial
		if slices.Contains(seen, serial) || after.Cert.Issuer != l.authority.Fingerprint() || after.State != api.Ready {
			t.Fatalf("after renewal %d: %+v", i, after)
		}
		seen = append(seen, serial)
		if got := l.shown(l.a, l.b); got != serial {
			t.Errorf("renewal %d: peers are shown %s, want %s", i, got, serial)
		}
		// The witness answers nothing, so the application is turned away.
		l.client(l.a, l.a.AppCgroup, "talk", c.Addr(portEcho), "hello")
		eventually(t, "a peer that is dialled sees the new certificate", func() error {
			if got := witness.saw(); !slices.Contains(got, serial) || slices.Contains(got, seen[0]) {
				return fmt.Errorf("it saw %q", got)
			}
			return nil
		})
		for _, h := range open {
			h.say(fmt.Sprintf("after renewal %d", i))
		}
		l.talk(l.a, l.b.Addr(portEcho))
		l.talk(l.b, l.a.Addr(portEcho))
	}
	if s := status(t, ga); s.Worker.PID != before.Worker.PID || s.Traffic.Outbound.Plaintext != 0 {
		t.Errorf("afterwards %+v", s)
	}
	// Nobody keeps the keys of earlier certificates.
	for pid, want := range map[int]int{ga.Pid: 1, before.Worker.PID: 0} {
		if n := materialFiles(t, pid); n != want {
			t.Errorf("process %d has %d files with keys, want %d", pid, n, want)
		}
	}
	// The next worker has what is in force, not what the gateway was started with.
	killWorker(t, ga)
	if got, want := l.shown(l.a, l.b), seen[3]; got != want {
		t.Errorf("after a restart of the worker peers are shown %s, want %s", got, want)
	}
	l.talk(l.a, l.b.Addr(portEcho))
	l.talk(l.b, l.a.Addr(portEcho))
	if text := ga.Output(); strings.Contains(text, "PRIVATE KEY") || strings.Contains(text, "CERTIFICATE REQUEST") {
		t.Errorf("the log holds a key or a request: %s", text)
	}
}

// materialFiles counts the memory files with material that a process has open.
func materialFiles(t *testing.T, pid int) int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	entries := must.Get(os.ReadDir(dir))(t)
	n := 0
	for _, e := range entries {
		if to, err := os.Readlink(dir + e.Name()); err == nil && strings.Contains(to, "kube-gateway-material") {
			n++
		}
	}
	return n
}

// TestRefusedRenewal: what is not the gateway's certificate changes nothing.
func TestRefusedRenewal(t *testing.T) {
	l := newLab(t)
	sa := strict(l.spec(l.a))
	ga := l.gateway(sa)
	l.gateway(strict(l.spec(l.b)))
	other := must.Get(gatewaylab.NewAuthority())(t)
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	older := must.Get(ca.New(ca.Options{TrustDomain: gatewaylab.TrustDomain, Now: ago(48 * time.Hour)}))(t)
	open := l.hold(l.a, l.b.Addr(portEcho))
	before := status(t, ga)
	for name, c := range map[string]struct {
		sign sign
		text string
	}{
		"wrong identity": {signer(l.authority, sa, func(r *ca.LeafRequest) { r.Identity.ServiceAccount = "admin" }), "sa/admin"},
		"wrong address":  {signer(l.authority, sa, func(r *ca.LeafRequest) { r.IPs = r.IPs[:1] }), "address " + l.a.IP6.String()},
		"other root":     {signer(l.authority, sa, nil, other), "does not lead to the trust bundle"},
		"expired":        {signer(older, sa, func(r *ca.LeafRequest) { r.Now, r.TTL = ago(3*time.Hour), time.Hour }), "this node's clock says"},
		"not yet valid":  {signer(l.authority, sa, func(r *ca.LeafRequest) { r.Now = ago(-time.Hour) }), "hint: compare the clocks"},
		"wrong key": {func([]byte) (*api.IssuedCertificate, error) {
			leaf, err := l.authority.Issue(sa.Leaf())
			return &api.IssuedCertificate{Certificate: string(leaf.CertPEM), Bundle: bundleOf(l.authority)}, err
		}, "no key of this gateway"},
		"nothing": {func([]byte) (*api.IssuedCertificate, error) { return nil, nil }, "no certificate in PEM form"},
	} {
		if s, err := renewWith(t, ga, c.sign); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %+v, %v; want %q", name, s, err, c.text)
		}
		if after := status(t, ga); after.Cert.Serial != before.Cert.Serial || !slices.Equal(after.Cert.Authorities, before.Cert.Authorities) ||
			after.Worker.PID != before.Worker.PID || l.shown(l.a, l.b) != before.Cert.Serial {
			t.Errorf("%s: before %+v, after %+v", name, before.Cert, after.Cert)
		}
		open.say(name)
		l.talk(l.a, l.b.Addr(portEcho))
	}
}

// TestRenewalOfStuckWorker: a worker that does not take the certificate is
// replaced by one with the certificate that was in force.
func TestRenewalOfStuckWorker(t *testing.T) {
	l := newLab(t)
	spec := l.spec(l.a)
	g := l.gateway(spec)
	before := status(t, g)
	pause(t, before.Worker.PID)
	if s, err := renewWith(t, g, signer(l.authority, spec, nil)); err == nil || !strings.Contains(err.Error(), "try again") {
		t.Errorf("a stopped worker took it: %+v, %v", s, err)
	}
	awaitStatus(t, g, "another worker serves", func(s *api.Status) bool {
		return s.State == api.Ready && s.Worker.PID != before.Worker.PID && s.Cert.Serial == before.Cert.Serial
	})
	if got := l.shown(l.a, l.b); got != before.Cert.Serial {
		t.Errorf("peers are shown %s, want %s", got, before.Cert.Serial)
	}
	if s := renew(t, g, signer(l.authority, spec, nil)); l.shown(l.a, l.b) != s.Cert.Serial {
		t.Errorf("the second attempt: %+v", s)
	}
}

// TestNewAuthority replaces the authority of two gateways step by step. At every
// step both reach each other, and at the end the old authority is worth nothing.
func TestNewAuthority(t *testing.T) {
	l := newLabOf(t, 3)
	c := l.net.Node(2)
	old := l.authority
	next := must.Get(gatewaylab.NewAuthority())(t)
	sa, sb := strict(l.spec(l.a)), strict(l.spec(l.b))
	ga, gb, gc := l.gateway(sa), l.gateway(sb), l.gateway(strict(l.spec(c)))
	open := []*held{l.hold(l.a, l.b.Addr(portEcho)), l.hold(l.b, l.a.Addr(portEcho)), l.hold(c, l.b.Addr(portEcho))}
	step := func(name string) {
		t.Helper()
		for _, h := range open {
			h.say(name)
		}
		l.talk(l.a, l.b.Addr(portEcho))
		l.talk(l.b, l.a.Addr(portEcho))
	}
	if s, err := trustWith(t, ga, next); err == nil || !strings.Contains(err.Error(), "hint: renew") {
		t.Errorf("without its own root: %+v, %v", s, err)
	}
	step("refused")
	for _, g := range []*gatewaylab.Gateway{ga, gb, gc} {
		trust(t, g, old, next)
	}
	step("both")
	for _, g := range []struct {
		*gatewaylab.Gateway
		gatewaylab.Spec
	}{{ga, sa}, {gb, sb}} {
		if s := renew(t, g.Gateway, signer(next, g.Spec, nil, old, next)); s.Cert.Issuer != next.Fingerprint() || len(s.Cert.Authorities) != 2 {
			t.Errorf("renewed: %+v", s.Cert)
		}
		step("renewed " + g.Node.IP4.String())
	}
	// This leaves a session that could be resumed.
	l.talk(c, l.b.Addr(portEcho))
	trust(t, ga, next)
	step("one without the old")
	trust(t, gb, next)
	step("none with the old")
	l.refused(c, l.b.Addr(portEcho), "a client with a certificate of the old authority")
	l.refused(l.b, c.Addr(portEcho), "a server with a certificate of the old authority")
	killWorker(t, gb)
	l.refused(c, l.b.Addr(portEcho), "after a restart of the worker")
	l.talk(l.a, l.b.Addr(portEcho))
}

// TestFirstDelivery starts a gateway without a certificate: it touches nothing
// until it has one.
func TestFirstDelivery(t *testing.T) {
	l := newLab(t)
	l.gateway(l.spec(l.b))
	spec := strict(l.spec(l.a))
	spec.Uncertified = true
	g := l.gateway(spec)
	before := status(t, g)
	if before.State != api.Uncertified || before.Worker.PID != 0 || before.Identity != spec.Leaf().Identity.String() || before.Cert.Serial != "" {
		t.Errorf("it begins as %+v", before)
	}
	l.talk(l.a, l.b.Addr(portEcho))
	l.talk(l.b, l.a.Addr(portEcho))
	if conn, err := l.b.Dial("tcp", l.a.Addr(api.PeerPort)); err == nil {
		conn.Close()
		t.Error("peers would wait for a gateway that cannot answer")
	}
	if s, err := g.Call(t.Context(), control.Request{Op: control.OpMode, Mode: api.Permissive}); err == nil {
		t.Errorf("it changed its mode: %+v", s)
	}
	if _, err := renewWith(t, g, signer(l.authority, spec, func(r *ca.LeafRequest) { r.Identity.ServiceAccount = "admin" })); err == nil {
		t.Error("it took the identity of another")
	}
	if s := status(t, g); s.State != api.Uncertified {
		t.Errorf("after a refusal it is %+v", s)
	}
	serial := renew(t, g, signer(l.authority, spec, nil)).Cert.Serial
	s, err := g.Call(t.Context(), control.Request{Op: control.OpStatus, Wait: patience})
	if err != nil || s.State != api.Ready || s.Cert.Serial != serial || s.Cert.Issuer != l.authority.Fingerprint() {
		t.Fatalf("it does not get ready: %+v, %v\n%s", s, err, g.Output())
	}
	l.talk(l.a, l.b.Addr(portEcho))
	connection(t, g, "the connection", func(c *api.Connection) bool { return c.Encrypted })
	killWorker(t, g)
	if got := l.shown(l.a, l.b); got != serial {
		t.Errorf("the next worker shows %s, want %s", got, serial)
	}
	l.talk(l.a, l.b.Addr(portEcho))
	if err := g.End(); err != nil {
		t.Errorf("its end: %v\n%s", err, g.Output())
	}
}

// TestDeliveryAtOnce: a request may come before the gateway listens for it, and is answered
// when the gateway is ready.
func TestDeliveryAtOnce(t *testing.T) {
	l := newLab(t)
	spec := l.spec(l.a)
	spec.Uncertified = true
	g := must.Get(gatewaylab.Launch(spec))(t)
	t.Cleanup(g.Stop)
	if s := renew(t, g, signer(l.authority, spec, nil)); s.State != api.Ready {
		t.Errorf("it answers as %+v\n%s", s, g.Output())
	}
}

// TestNoDelivery: a gateway that nobody brings a certificate ends, and leaves
// nothing. So does one that is asked to end, or is disabled.
func TestNoDelivery(t *testing.T) {
	l := newLab(t)
	spec := l.spec(l.a)
	spec.Uncertified, spec.CertificateTimeout = true, time.Millisecond
	l.fails("without a delivery", spec, "no certificate was delivered within 1ms", "hint:")
	spec.CertificateTimeout = 0
	if err := l.gateway(spec).End(); err != nil {
		t.Errorf("asked to end: %v", err)
	}
	g := l.gateway(spec)
	var stdout, stderr bytes.Buffer
	if code := run([]string{"ctl", "disable", "-o", "json", "--control-socket", g.Socket()}, nil, &stdout, &stderr); code != 0 ||
		stdout.String() != `{"drained":0,"aborted":0}`+"\n" {
		t.Errorf("disabled: exit code %d, %q, %q", code, stdout.String(), stderr.String())
	}
	if err := g.Wait(); err != nil {
		t.Errorf("disabled: %v\n%s", err, g.Output())
	}
	l.talk(l.a, l.b.Addr(portEcho))
}

// TestRenewalAfterExpiry: a strict gateway whose certificate has expired
// refuses connections, until it is renewed.
func TestRenewalAfterExpiry(t *testing.T) {
	l := newLab(t)
	spec := strict(l.spec(l.a))
	spec.TTL = 2 * time.Second
	g := l.gateway(spec)
	l.gateway(l.spec(l.b))
	awaitStatus(t, g, "the certificate expires", func(s *api.Status) bool { return s.Time.After(s.Cert.NotAfter) })
	l.refused(l.a, l.b.Addr(portEcho), "with an expired certificate")
	if s := status(t, g); s.Cert.Issuer != l.authority.Fingerprint() {
		t.Errorf("its issuer is %q", s.Cert.Issuer)
	}
	renew(t, g, signer(l.authority, spec, func(r *ca.LeafRequest) { r.TTL = time.Hour }))
	l.talk(l.a, l.b.Addr(portEcho))
}
