//go:build e2e

package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// secrets returns the Secrets of gateways in a namespace.
func secrets(t *testing.T, ns string) []corev1.Secret {
	t.Helper()
	list := get[corev1.SecretList](t, "-n", ns, "secrets", "-l", "app.kubernetes.io/managed-by=kubectl-gateway")
	return list.Items
}

// noSecrets fails the test if a gateway's Secret is left in a namespace.
func noSecrets(t *testing.T, ns string) {
	t.Helper()
	if left := secrets(t, ns); len(left) != 0 {
		t.Errorf("%d Secrets are left", len(left))
	}
}

// TestSecret looks at the Secret that --keep-secret keeps, and at its end.
func TestSecret(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, nil, b)
	noSecrets(t, ns)

	enable(t, []string{"--keep-secret", "--cert-ttl=2h"}, a)
	kept := secrets(t, ns)
	if len(kept) != 1 {
		t.Fatalf("%d Secrets were kept", len(kept))
	}
	secret := kept[0]
	if secret.Immutable == nil || !*secret.Immutable || secret.Type != corev1.SecretTypeTLS {
		t.Errorf("immutable %v, type %s", secret.Immutable, secret.Type)
	}
	if len(secret.OwnerReferences) != 1 || string(secret.OwnerReferences[0].UID) != a.uid {
		t.Errorf("owners are %+v", secret.OwnerReferences)
	}
	if len(secret.Data) != 3 {
		t.Errorf("the Secret holds %d entries", len(secret.Data))
	}
	leaf := parseCertificate(t, secret.Data["tls.crt"])
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(secret.Data["ca.crt"])
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("the certificate: %v", err)
	}
	id, err := identity.FromCertificate(leaf)
	if want := (identity.ID{TrustDomain: "cluster.local", Namespace: ns, ServiceAccount: "default"}); err != nil || id != want {
		t.Errorf("identity is %v (%v), want %v", id, err, want)
	}
	if len(leaf.IPAddresses) != len(a.ips) {
		t.Errorf("the certificate names %v, the pod has %v", leaf.IPAddresses, a.ips)
	}
	if life := time.Until(leaf.NotAfter); life > 2*time.Hour {
		t.Errorf("the certificate lives for another %v", life)
	}

	kubectl(t, "-n", ns, "delete", "pod", a.name)
	await(t, "the Secret goes with its pod", func() bool { return len(secrets(t, ns)) == 0 })
}

func parseCertificate(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("not PEM: %q", text)
	}
	cert := must.Get(x509.ParseCertificate(block.Bytes))(t)
	return cert
}

// TestAuthorityKeyStaysOnTheLaptop searches the whole cluster for the key.
func TestAuthorityKeyStaysOnTheLaptop(t *testing.T) {
	var key []byte
	err := filepath.WalkDir(os.Getenv("XDG_DATA_HOME"), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			if strings.Contains(block.Type, "PRIVATE KEY") {
				key = block.Bytes
			}
		}
		return err
	})
	if err != nil || key == nil {
		t.Fatalf("the authority's key is not on the laptop: %v", err)
	}
	all := get[corev1.SecretList](t, "-A", "secrets")
	for _, s := range all.Items {
		for name, value := range s.Data {
			for block, rest := pem.Decode(value); block != nil; block, rest = pem.Decode(rest) {
				if bytes.Equal(block.Bytes, key) {
					t.Errorf("Secret %s/%s holds the authority's key in %s", s.Namespace, s.Name, name)
				}
			}
		}
	}
	bundle := get[corev1.ConfigMap](t, "-n", "kube-system", "configmap", "kube-gateway-trust")
	if text := bundle.Data["ca.crt"]; !strings.Contains(text, "CERTIFICATE") || strings.Contains(text, "KEY") {
		t.Errorf("the trust bundle is %q", text)
	}
}

// TestEnableAgain shows that enabling twice changes nothing.
func TestEnableAgain(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a := startPods(t, ns, podSpec("a", node1))[0]
	enable(t, nil, a)
	out := enable(t, nil, a)
	if !strings.Contains(out.stdout+out.stderr, "already enabled") {
		t.Errorf("the second time says %q %q", out.stdout, out.stderr)
	}
	object := get[corev1.Pod](t, "-n", ns, "pod", a.name)
	if n := len(object.Spec.EphemeralContainers); n != 1 {
		t.Errorf("the pod has %d gateways", n)
	}
}

// TestFailedEnable shows that a failure is told at once and in the container's
// own words, that it leaves no Secret, that it stops no other pod, and that
// enabling can be tried again.
func TestFailedEnable(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)

	out := tryGateway(t, "-n", ns, "enable", "pod/a", "--image=localhost/no-such-image:v1", "--image-pull-policy=Never")
	if out.code != 1 || !strings.Contains(out.stderr, "ErrImageNeverPull") || !strings.Contains(out.stderr, "hint:") {
		t.Errorf("a missing image: exit %d, %s", out.code, out.stderr)
	}
	// The test application's image has no gateway in it: the container cannot start.
	out = tryGateway(t, "-n", ns, "enable", "pod/a", "pod/no-such-pod", "pod/b", "--image="+appImage, "--image-pull-policy=Never")
	if out.code != 1 || !strings.Contains(out.stderr, "no-such-pod") {
		t.Errorf("a wrong image: exit %d, %s", out.code, out.stderr)
	}
	noSecrets(t, ns)

	// One pod that cannot be enabled does not stop the other.
	hostNetwork := podSpec("host", node2)
	hostNetwork.Spec.HostNetwork = true
	hostNetwork.Spec.Containers[0].Command = []string{"/app", "sleep"}
	apply(t, ns, mustYAML(t, hostNetwork))
	await(t, "the host network pod runs", func() bool {
		return kubectl(t, "-n", ns, "get", "pod", "host", "-o", "jsonpath={.status.phase}") == "Running"
	})
	out = tryGateway(t, "-n", ns, "enable", "--all", "--yes")
	if out.code != 1 || !strings.Contains(out.stderr, "hostNetwork") {
		t.Errorf("with one impossible pod: exit %d, %s", out.code, out.stderr)
	}
	for _, p := range []*pod{a, b} {
		if s := p.status(); s.State != api.Ready {
			t.Errorf("%s is %s", p, s.State)
		}
	}
	noSecrets(t, ns)
}

// TestDryRun prints what would be done, without a key, and does nothing.
func TestDryRun(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a := startPods(t, ns, podSpec("a", node1))[0]
	for _, where := range []string{"client", "server"} {
		out := enable(t, []string{"--dry-run=" + where, "-o", "yaml"}, a)
		if strings.Contains(out.stdout+out.stderr, "PRIVATE KEY") || strings.Contains(out.stdout, "LS0tLS1CRUdJTiB") {
			t.Errorf("--dry-run=%s prints key material", where)
		}
		if !strings.Contains(out.stdout, "kube-gateway") {
			t.Errorf("--dry-run=%s prints %q", where, out.stdout)
		}
	}
	object := get[corev1.Pod](t, "-n", ns, "pod", a.name)
	if len(object.Spec.EphemeralContainers) != 0 || len(secrets(t, ns)) != 0 {
		t.Error("a dry run changed the cluster")
	}
}

// TestCtrlC interrupts an enable that waits, which ends at once and leaves no
// Secret.
func TestCtrlC(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	startPods(t, ns, podSpec("a", node1))
	// An image that is never there, and a pull policy that keeps trying, would
	// fail fast: so the gateway's own container is kept from starting by a
	// registry that does not answer.
	r := start(t, "kubectl", "gateway", "-n", ns, "enable", "pod/a", "--image=192.0.2.1/gateway:v1", "--image-pull-policy=Always", "--timeout=5m")
	await(t, "the Secret is there", func() bool { return len(secrets(t, ns)) > 0 })
	if err := r.interrupt(); err == nil {
		t.Error("an interrupted enable succeeded")
	}
	noSecrets(t, ns)
}

// TestStatusAndTail reads the gateways as an operator does.
func TestStatusAndTail(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, nil, a, b)
	r := a.talk(b.addr(portEcho), "hello")

	table := gateway(t, "-n", ns, "status").stdout
	for _, want := range []string{"a", "b", a.ips[0].String(), node2, "ready", "permissive", "spiffe://cluster.local/ns/" + ns + "/sa/default"} {
		if !strings.Contains(table, want) {
			t.Errorf("the table lacks %q:\n%s", want, table)
		}
	}
	status := a.status()
	if status.State != api.Ready || status.Worker.PID == 0 || len(status.Capture.Programs) == 0 || status.Pod.UID != a.uid {
		t.Errorf("status is %+v", status)
	}

	eventually(t, "the connection's line", func() error {
		lines := gateway(t, "-n", ns, "tail", "pod/a", "pod/b", "--no-follow", "-o", "json").stdout
		for _, want := range []string{`"direction":"outbound"`, `"direction":"inbound"`, `"encrypted":true`, `"source":"` + r.Local + `"`} {
			if !strings.Contains(lines, want) {
				return fmt.Errorf("%q is missing in %s", want, lines)
			}
		}
		return nil
	})
}

// TestWorkerHasNoPrivilege reads what the kernel says of the process that
// touches the network and the key.
func TestWorkerHasNoPrivilege(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a := startPods(t, ns, podSpec("a", node1))[0]
	enable(t, nil, a)
	ids := strings.TrimSpace(strings.Repeat(strconv.Itoa(api.WorkerID)+" ", 4))
	for _, pid := range processesOf(t, a, "worker") {
		text := must.Get(os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)))(t)
		fields := map[string]string{}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			fields[name] = strings.Join(strings.Fields(value), " ")
		}
		for name, want := range map[string]string{
			"Uid": ids, "Gid": ids, "Groups": "", "NoNewPrivs": "1", "Seccomp": "2",
			"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
		} {
			if fields[name] != want {
				t.Errorf("%s is %q, want %q", name, fields[name], want)
			}
		}
	}
}

const none = "0000000000000000"
