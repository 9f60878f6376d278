package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// rotatingCluster is a cluster with an authority, and gateways that can be
// renewed.
type rotatingCluster struct {
	apiServer
	t     *testing.T
	dir   string
	flags []string

	// renewing is not the lock of objects, which the other side asks for meanwhile.
	renewing sync.Mutex
	certs    map[string]fakegateway.Material // by pod
	dead     string                          // the gateway that does not answer
	old      string                          // the gateway that does not know revocation
	told     map[string]map[string]int64     // the numbers of the lists that gateways have, by pod
}

func newRotatingCluster(t *testing.T, names ...string) *rotatingCluster {
	t.Helper()
	c := &rotatingCluster{t: t, dir: filepath.Join(t.TempDir(), "authority"), certs: map[string]fakegateway.Material{}, told: map[string]map[string]int64{}}
	c.objects = map[string]string{"/api/v1/namespaces/kube-system": kubeSystem}
	c.fleet = c
	c.flags = c.kubeconfig(t)
	t.Setenv(authority.EnvDir, c.dir)
	c.mustRun("init-ca")
	a := c.authority()
	for _, name := range names {
		c.pods = append(c.pods, podWithGateway("demo", name, gatewayRuns()))
		leaf := must.Get(a.Issue(ca.LeafRequest{Identity: identity.ID{TrustDomain: a.TrustDomain(), Namespace: "demo", ServiceAccount: "default"}, Pod: api.PodRef{UID: "uid-" + name}}))(t)
		c.certs[name] = fakegateway.Material{Chain: fakegateway.Certificates(leaf.CertPEM), Roots: fakegateway.Certificates(a.Bundle())}
	}
	return c
}

func (c *rotatingCluster) authority() *ca.Authority {
	c.t.Helper()
	a := must.Get(authority.LoadDir(c.dir))(c.t)
	return a
}

func (c *rotatingCluster) run(args ...string) (code int, stdout, stderr string) {
	code, stdout, stderr = execute(c.t, append(args, c.flags...)...)
	if strings.Contains(stdout+stderr, "PRIVATE") {
		c.t.Errorf("%q prints a key", args)
	}
	return code, stdout, stderr
}

func (c *rotatingCluster) mustRun(args ...string) (stdout, stderr string) {
	c.t.Helper()
	code, stdout, stderr := c.run(args...)
	if code != 0 {
		c.t.Fatalf("%q: exit code %d: %s", args, code, stderr)
	}
	return stdout, stderr
}

// Answer does what the command of a gateway does that is asked for.
func (c *rotatingCluster) Answer(_ context.Context, call *fakegateway.Call) (any, error) {
	if call.Pod == c.dead {
		return nil, fakegateway.Refuse("the gateway is \x1b[2Jaway")
	}
	c.renewing.Lock()
	defer c.renewing.Unlock()
	has := c.certs[call.Pod]
	var err error
	switch call.Op() {
	case "renew":
		has, err = call.Renew()
	case "trust":
		var bundle api.TrustBundle
		err = call.Read(&bundle)
		has.Roots = fakegateway.Certificates([]byte(bundle.Bundle))
		if revoked, refused := ca.ReadableRevocations(bundle.Revoked, has.Roots, "cluster.local"); refused == 0 && call.Pod != c.old {
			c.told[call.Pod] = revoked.Numbers()
		}
	}
	if err != nil {
		return nil, err
	}
	c.certs[call.Pod] = has
	status := &api.Status{State: api.Ready, Pod: api.PodRef{UID: "uid-" + call.Pod}, Cert: has.Certificate()}
	status.Cert.Revocations = c.told[call.Pod]
	if status.Cert.Issuer == "" {
		return nil, fakegateway.Refuse("the certificate leads to none of the roots")
	}
	return status, nil
}

func TestRotate(t *testing.T) {
	c := newRotatingCluster(t, "web", "db")
	before := c.certs["web"].Chain[0].SerialNumber.Text(16)
	stdout, _ := c.mustRun("rotate", "web", "-o", "json", "--cert-ttl=2h")
	var result struct{ Items []rotateItem }
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || len(result.Items) != 1 {
		t.Fatalf("%s: %v", stdout, err)
	}
	now := c.certs["web"].Chain[0]
	item := result.Items[0]
	if item.Namespace != "demo" || item.Pod != "web" || item.Container != "kube-gateway" || item.OldSerial != before || item.Serial == before ||
		item.Serial != now.SerialNumber.Text(16) || !item.NotAfter.Equal(now.NotAfter) || item.Issuer != c.authority().Fingerprint() {
		t.Errorf("%+v", item)
	}
	if left := time.Until(now.NotAfter); left > 2*time.Hour || left < time.Hour || now.URIs[0].String() != "spiffe://cluster.local/ns/demo/sa/default" {
		t.Errorf("%v, %v", left, now.URIs)
	}
	c.dead = "db"
	code, stdout, stderr := c.run("rotate", "--all", "--yes")
	if code != 1 || !strings.HasPrefix(stdout, "pod/web certificate renewed, valid until 20") || strings.Contains(stdout, "pod/db") ||
		!strings.Contains(stderr, `the gateway is \x1b[2Jaway`) || !strings.Contains(stderr, "1 of 2 pods failed") {
		t.Errorf("exit code %d: %q, %q", code, stdout, stderr)
	}
	if stdout, _ := c.mustRun("rotate", "web", "-o", "name"); stdout != "pod/web\n" {
		t.Errorf("%q", stdout)
	}
}

func TestRotateCA(t *testing.T) {
	c := newRotatingCluster(t, "web", "db")
	first := c.authority()
	if stdout, _ := c.mustRun("rotate", "--ca", "--dry-run"); !strings.Contains(stdout, "2 gateways answer (dry run)\nnext: 1/4") ||
		c.authority().Fingerprint() != first.Fingerprint() {
		t.Errorf("dry run: %q", stdout)
	}
	c.dead = "db"
	code, stdout, stderr := c.run("rotate", "--ca", "-o", "json")
	var result authorityOutput
	if err := json.Unmarshal([]byte(stdout), &result); err != nil {
		t.Fatalf("%q: %v", stdout, err)
	}
	if code != 1 || result.Done || result.Phase != "trusting" || len(result.Blocked) != 1 || result.Blocked[0].Pod != "db" ||
		result.Other == "" || result.Error == "" || !strings.Contains(result.Hint, "rotate --ca") {
		t.Errorf("exit code %d: %+v", code, result)
	}
	if !strings.Contains(stderr, `the gateway is \x1b[2Jaway`) || !strings.Contains(stderr, "1 gateway is in the way") {
		t.Errorf("%q", stderr)
	}
	expect.Equal(t, "events", []string{"db GatewayFailed: the gateway is \\x1b["}, c.events(t))
	if c.authority().Fingerprint() != first.Fingerprint() {
		t.Error("switched before all trust the new one")
	}
	if _, stderr := c.mustRun("rotate", "web"); !strings.Contains(stderr, "gateways are given two roots, "+first.Fingerprint()[:16]+" and "+result.Other[:16]) {
		t.Errorf("a renewal meanwhile does not say that there are two roots: %q", stderr)
	}
	c.dead = ""
	stdout, stderr = c.mustRun("rotate", "--ca")
	next := c.authority()
	if next.Fingerprint() != result.Other || !strings.HasPrefix(stdout, "authority/"+result.Other[:16]+" rotated (valid until 20") ||
		!strings.Contains(stderr, "a rotation is under way") || !strings.Contains(stderr, "old authority kept as "+c.dir) {
		t.Errorf("%q, %q", stdout, stderr)
	}
	renewed := "GatewayRenewed: certificate renewed,"
	expect.Equal(t, "events", []string{"db GatewayFailed: the gateway is \\x1b[", "db " + renewed, "web " + renewed, "web " + renewed}, c.events(t))
	for pod, cert := range c.certs {
		if len(cert.Roots) != 1 || ca.Fingerprint(cert.Roots[0]) != next.Fingerprint() || cert.Chain[0].CheckSignatureFrom(cert.Roots[0]) != nil {
			t.Errorf("%s has %d roots", pod, len(cert.Roots))
		}
	}
}

func TestRotateMakesNoSense(t *testing.T) {
	c := newRotatingCluster(t, "web")
	before := c.certs["web"].Chain[0]
	fails(t, c.run, 1, map[string]string{
		"rotate": "no pod is named", "rotate --ca web": "use one of them", "rotate --ca --all": "use one of them", "rotate --ca -A": "use one of them",
		"rotate --ca -l a=b": "use one of them", "rotate web --dry-run": "need --ca", "rotate web --cert-ttl=x": "--cert-ttl",
		"rotate --ca --ttl=x": "--ttl", "rotate web -o wide": "unable to match a printer", "rotate web --timeout=0s": "not positive",
		"rotate web --parallel=0": "not positive", "rotate --ca --from-cert=/x": "from-key", "rotate --all": "--yes",
		"rotate --ca --from-cert=/nonexistent --from-key=/x": "--from-cert",
	})
	if c.certs["web"].Chain[0] != before {
		t.Error("a certificate was renewed")
	}
}
