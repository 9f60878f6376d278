package inject

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
)

// compare compares object with a file that a reviewer can read.
func compare(t *testing.T, name string, object any) {
	t.Helper()
	got, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, name, string(got))
}

func TestPatchAsItIsSent(t *testing.T) {
	in := newInjector(t, newCluster(t))
	pod := testPod("web-0")
	container, err := in.container("kube-gateway", "kube-gateway-web-0-abc", in.configFor(pod, PodIPs(pod)))
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "patch.yaml", newPatch(pod, container))

	pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, *container)
	config, err := ConfigOf(pod, "kube-gateway")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in.configFor(pod, PodIPs(pod)), config, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("the configuration does not survive the way through the pod:\n%s", diff)
	}
}

func TestSecretAsItIsSent(t *testing.T) {
	in := newInjector(t, newCluster(t))
	secret := in.newSecret(testPod("web-0"), "kube-gateway-web-0-abc", "kube-gateway", []byte("the certificate"), []byte("the key"))
	if !bytes.Equal(secret.Data["ca.crt"], in.Authority.Bundle()) {
		t.Error("the trust bundle is another one")
	}
	secret.Data["ca.crt"] = []byte("the trust bundle")
	compare(t, "secret.yaml", secret)
}

func TestMintedCertificateNamesThePod(t *testing.T) {
	in := newInjector(t, newCluster(t))
	for account, want := range map[string]string{"web": "web", "": "default"} {
		pod := testPod("web-0")
		pod.Spec.ServiceAccountName = account
		leaf, err := in.mint(pod, PodIPs(pod))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(leaf.CertPEM)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		id, err := identity.FromCertificate(cert)
		if err != nil || id != (identity.ID{TrustDomain: in.Authority.TrustDomain(), Namespace: "shop", ServiceAccount: want}) {
			t.Errorf("identity %v, %v", id, err)
		}
		if len(cert.IPAddresses) != 2 || cert.IPAddresses[0].String() != "10.244.1.7" || cert.IPAddresses[1].String() != "fd00:10:244:1::7" {
			t.Errorf("addresses %v", cert.IPAddresses)
		}
	}
}

func TestSecretNames(t *testing.T) {
	seen := map[string]bool{}
	for _, pod := range []string{"web-0", "a", strings.Repeat("a", 253), strings.Repeat("a.", 126) + "a", strings.Repeat("a-", 126) + "a"} {
		for range 20 {
			name := secretName(pod)
			if problems := validation.IsDNS1123Subdomain(name); len(problems) != 0 {
				t.Errorf("secretName(%q) = %q: %v", pod, name, problems)
			}
			if seen[name] {
				t.Errorf("%q comes twice", name)
			}
			seen[name] = true
		}
	}
	if name := secretName("web-0"); !strings.HasPrefix(name, "kube-gateway-web-0-") {
		t.Error(name)
	}
}

func TestDefaultImageIsAValidReference(t *testing.T) {
	if got := DefaultImage("v1.2.3+dirty"); got != "ghcr.io/kubectl-gateway/kube-gateway:v1.2.3-dirty" {
		t.Error(got)
	}
}

func TestNothingToCaptureIsRefused(t *testing.T) {
	in := newInjector(t, newCluster(t))
	in.Cluster = &Cluster{}
	pod := testPod("web-0")
	if _, err := in.container("kube-gateway", "s", in.configFor(pod, PodIPs(pod))); err == nil {
		t.Error("a gateway that captures nothing was described")
	}
}

func TestStale(t *testing.T) {
	in := newInjector(t, newCluster(t))
	pod := testPod("p")
	for _, name := range []string{"kube-gateway", "kube-gateway-2", "kube-gateway-3", "kube-gateway-4"} {
		container, err := in.container(name, "of-"+name, in.configFor(pod, PodIPs(pod)))
		if err != nil {
			t.Fatal(err)
		}
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, *container)
	}
	pod.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{
		{Name: "kube-gateway", State: terminated(1, "")},
		{Name: "kube-gateway-2", State: waiting("ImagePullBackOff", "")},
		{Name: "kube-gateway-3", State: running(nil, nil)},
		{Name: "kube-gateway-4", State: waiting("ContainerCreating", "")},
	}
	for _, test := range []struct {
		secret, container string
		keep, want        bool
	}{
		{secret: "of-kube-gateway", container: "kube-gateway", want: true},
		{secret: "of-kube-gateway-2", container: "kube-gateway-2", want: true},
		{secret: "of-kube-gateway-3", container: "kube-gateway-3", want: true},
		{secret: "of-kube-gateway-3", container: "kube-gateway-3", keep: true},
		{secret: "of-kube-gateway-4", container: "kube-gateway-4"},
		{secret: "too-late", container: "kube-gateway-4", want: true},
		{secret: "on-its-way", container: "kube-gateway-5"},
	} {
		in.Options.KeepSecret = test.keep
		secret := in.newSecret(pod, test.secret, test.container, nil, nil)
		if got := stale(secret, pod); got != test.want {
			t.Errorf("%+v: stale is %v", test, got)
		}
	}
}
