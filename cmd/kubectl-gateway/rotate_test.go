package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// rotatingCluster is a cluster with an authority, and gateways that can be
// renewed. Pods are those of apiServer, the rest is kept in an objectServer.
type rotatingCluster struct {
	t       *testing.T
	pods    apiServer
	objects objectServer
	dir     string
	url     string

	mu    sync.Mutex
	certs map[string]*api.IssuedCertificate // by pod
	dead  string                            // the gateway that does not answer
}

func newRotatingCluster(t *testing.T, names ...string) *rotatingCluster {
	t.Helper()
	c := &rotatingCluster{t: t, dir: filepath.Join(t.TempDir(), "authority"), certs: map[string]*api.IssuedCertificate{}}
	c.objects.objects = map[string][]byte{"/api/v1/namespaces/kube-system": []byte(
		`{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"kube-system","uid":"11111111-2222-3333-4444-555555555555"}}`)}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	c.url = server.URL
	t.Setenv(authority.EnvDir, c.dir)
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	c.mustRun("init-ca")
	a := c.authority()
	for _, name := range names {
		c.pods.pods = append(c.pods.pods, podWithGateway("demo", name, gatewayRuns()))
		leaf := must.Get(a.Issue(ca.LeafRequest{Identity: identity.ID{TrustDomain: a.TrustDomain(), Namespace: "demo", ServiceAccount: "default"}}))(t)
		c.certs[name] = &api.IssuedCertificate{Certificate: string(leaf.CertPEM), Bundle: string(a.Bundle())}
	}
	return c
}

func (c *rotatingCluster) authority() *ca.Authority {
	c.t.Helper()
	a := must.Get(authority.LoadDir(c.dir))(c.t)
	return a
}

func (c *rotatingCluster) run(args ...string) (code int, stdout, stderr string) {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	var out, errOut bytes.Buffer
	code = run(ctx, genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &errOut}, append(args, "--server="+c.url, "-n=demo"))
	if strings.Contains(out.String()+errOut.String(), "PRIVATE") {
		c.t.Errorf("%q prints a key", args)
	}
	return code, out.String(), errOut.String()
}

func (c *rotatingCluster) mustRun(args ...string) (stdout, stderr string) {
	c.t.Helper()
	code, stdout, stderr := c.run(args...)
	if code != 0 {
		c.t.Fatalf("%q: exit code %d: %s", args, code, stderr)
	}
	return stdout, stderr
}

func (c *rotatingCluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/api/v1/namespaces/kube-system") {
		c.objects.ServeHTTP(w, r)
		return
	}
	parts := strings.Split(r.URL.Path, "/")
	if parts[len(parts)-1] != "exec" {
		c.pods.ServeHTTP(w, r)
		return
	}
	c.pods.exec(w, r, func(stdin io.Reader, stdout, stderr io.Writer) int {
		c.mu.Lock()
		defer c.mu.Unlock()
		if err := c.gateway(parts[len(parts)-2], r.URL.Query()["command"], stdin, stdout); err != nil {
			fmt.Fprintf(stderr, "error: %v\n", err)
			return 1
		}
		return 0
	})
}

// gateway does what the command of a gateway does that is asked for.
func (c *rotatingCluster) gateway(pod string, command []string, stdin io.Reader, stdout io.Writer) error {
	if pod == c.dead {
		return errors.New("the gateway is \x1b[2Jaway")
	}
	has := c.certs[pod]
	switch command[2] {
	case "renew":
		key, err := ca.NewKey()
		if err != nil {
			return err
		}
		csr, err := ca.NewRequest(key, identity.ID{}, nil)
		if err != nil {
			return err
		}
		if err := json.NewEncoder(stdout).Encode(api.CertificateRequest{CSR: string(csr)}); err != nil {
			return err
		}
		if err := readLine(stdin, has); err != nil {
			return err
		}
	case "trust":
		var bundle api.TrustBundle
		if err := readLine(stdin, &bundle); err != nil {
			return err
		}
		has.Bundle = bundle.Bundle
	}
	material := fakegateway.Material{Chain: parsePEM(has.Certificate), Roots: parsePEM(has.Bundle)}
	status := api.Status{State: api.Ready, Pod: api.PodRef{UID: "uid-" + pod}, Cert: material.Certificate()}
	if status.Cert.Issuer == "" {
		return errors.New("the certificate leads to none of the roots")
	}
	return json.NewEncoder(stdout).Encode(status)
}

func readLine(r io.Reader, to any) error {
	text, err := bufio.NewReader(r).ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(text, to)
}

func parsePEM(text string) []*x509.Certificate { return fakegateway.Certificates([]byte(text)) }

func TestRotate(t *testing.T) {
	c := newRotatingCluster(t, "web", "db")
	before := parsePEM(c.certs["web"].Certificate)[0].SerialNumber.Text(16)
	stdout, _ := c.mustRun("rotate", "web", "-o", "json", "--cert-ttl=2h")
	var result struct{ Items []rotateItem }
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || len(result.Items) != 1 {
		t.Fatalf("%s: %v", stdout, err)
	}
	now := parsePEM(c.certs["web"].Certificate)[0]
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
	if c.authority().Fingerprint() != first.Fingerprint() {
		t.Error("switched before all trust the new one")
	}
	c.dead = ""
	stdout, stderr = c.mustRun("rotate", "--ca")
	next := c.authority()
	if next.Fingerprint() != result.Other || !strings.HasPrefix(stdout, "authority/"+result.Other[:16]+" rotated (valid until 20") ||
		!strings.Contains(stderr, "a rotation is under way") || !strings.Contains(stderr, "old authority kept as "+c.dir) {
		t.Errorf("%q, %q", stdout, stderr)
	}
	for pod, cert := range c.certs {
		roots := parsePEM(cert.Bundle)
		if len(roots) != 1 || ca.Fingerprint(roots[0]) != next.Fingerprint() || parsePEM(cert.Certificate)[0].CheckSignatureFrom(roots[0]) != nil {
			t.Errorf("%s has %d roots", pod, len(roots))
		}
	}
}

func TestRotateMakesNoSense(t *testing.T) {
	c := newRotatingCluster(t, "web")
	before := c.certs["web"].Certificate
	fails(t, c.run, 1, map[string]string{
		"rotate": "no pod is named", "rotate --ca web": "use one of them", "rotate --ca --all": "use one of them", "rotate --ca -A": "use one of them",
		"rotate --ca -l a=b": "use one of them", "rotate web --dry-run": "need --ca", "rotate web --cert-ttl=x": "--cert-ttl",
		"rotate --ca --ttl=x": "--ttl", "rotate web -o wide": "unknown", "rotate web --timeout=0s": "not positive",
		"rotate web --parallel=0": "not positive", "rotate --ca --from-cert=/x": "from-key", "rotate --all": "--yes",
		"rotate --ca --from-cert=/nonexistent --from-key=/x": "--from-cert",
	})
	if c.certs["web"].Certificate != before {
		t.Error("a certificate was renewed")
	}
}
