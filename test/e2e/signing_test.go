//go:build e2e

package e2e

import (
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// withCertificate gives the application of a pod a certificate of a signer, in a volume.
func withCertificate(spec *corev1.Pod, signer string) *corev1.Pod {
	spec.Spec.Volumes = []corev1.Volume{{Name: "certificate", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
		PodCertificate: &corev1.PodCertificateProjection{SignerName: signer, KeyType: "ECDSAP256", CredentialBundlePath: "bundle.pem"},
	}}}}}}
	spec.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "certificate", MountPath: "/certificate"}}
	return spec
}

// TestSignBesideSidecar: a pod that is created with a gateway starts with a volume for its application, too. Its kubelet
// asks for that before the pod has an address.
func TestSignBesideSidecar(t *testing.T) {
	const signer, bundle = "e2e.example.com/volume", "e2e.example.com:volume:kube-gateway-trust"
	ns := namespace(t)
	installAdmission(t)
	spec := asking(withCertificate(podSpec("a", node1), signer), "true")
	awaitSidecars(t, "the policy is in force", ns, spec)
	atEnd(t, "delete", "clustertrustbundle", bundle, "--ignore-not-found")
	w := start(t, "kubectl-gateway", "watch", "-n", ns, "--sign="+signer, "--sign-for=ns/"+ns+"/sa/default")
	w.says("watching")
	p := startPods(t, ns, spec)[0]
	if s := p.status(); s.State != api.Ready || !s.Sidecar {
		t.Errorf("the gateway says %+v", s)
	}
	w.says(ns + "/a signed (podcertificaterequest/")
}

// TestSign: who has the authority signs for an operator who has not, and for a pod without a gateway that has a rule, and rotates
// the authority under their traffic.
func TestSign(t *testing.T) {
	if publishedRoots(t) > 1 {
		gateway(t, "rotate", "--ca", "--yes") // a test that was killed has begun it
	}
	const signer, bundle = "e2e.example.com/own", "e2e.example.com:own:kube-gateway-trust"
	owner := append(os.Environ(), "KUBE_GATEWAY_AUTHORITY_DIR="+os.Getenv("KUBE_GATEWAY_AUTHORITY_DIR"))
	ns := namespace(t)
	kubectl(t, "-n", ns, "create", "serviceaccount", "asker")
	watch := []string{"kubectl-gateway", "watch", "-n", ns, "--sign=" + signer, "--sign-for=ns/" + ns + "/sa/asker"}
	atEnd(t, "delete", "clustertrustbundle", bundle, "--ignore-not-found")
	w := start(t, watch[0], watch[1:]...)
	published := func() string {
		return get[certificatesv1.ClusterTrustBundle](t, "clustertrustbundle", bundle).Spec.TrustBundle
	}
	trusted := func() string {
		return get[corev1.ConfigMap](t, "-n", "kube-system", "configmap", "kube-gateway-trust").Data["ca.crt"]
	}
	awaitKubectl(t, "the roots are published", "get", "clustertrustbundle", bundle)
	root := trusted()
	if now := published(); now != root {
		t.Errorf("published is %s, trusted is %s", now, root)
	}

	// Another operator chooses the signer, and needs no key.
	t.Setenv("KUBE_GATEWAY_AUTHORITY_DIR", filepath.Join(t.TempDir(), "other"))
	gateway(t, "init-ca", "--signer="+signer)
	if now := trusted(); now != root {
		t.Errorf("the trust bundle has become %s", now)
	}
	a, b := twoPods(t, ns)
	enable(t, []string{"--mode=strict"}, a, b)
	w.says(ns + "/a signed (podcertificaterequest/kube-gateway-a-")
	follows := func(what, root string) {
		t.Helper()
		block, _ := pem.Decode([]byte(root))
		want := ca.Fingerprint(must.Get(ca.ParseCertificates(pem.EncodeToMemory(block)))(t)[0])
		for _, p := range []*pod{a, b} {
			if cert := p.status().Cert; cert.Issuer != want || len(cert.Authorities) != 1 || cert.Authorities[0] != want {
				t.Errorf("%s: %s: %+v, want %.16s", what, p, cert, want)
			}
		}
	}
	follows("enabled", root)
	l := startLoad(a, b.addr(portTraffic), b.clusterIP())
	gateway(t, "check", "-n", ns)

	// Kubelets ask for pods.
	holder := func(name, account string) *corev1.Pod {
		p := withCertificate(podSpec(name, node2), signer)
		p.Spec.ServiceAccountName = account
		return p
	}
	startPods(t, ns, holder("asker", "asker"))
	createPods(t, ns, holder("stranger", "default"))
	said := func(pod string) (*metav1.Condition, error) {
		for _, r := range get[certificatesv1.PodCertificateRequestList](t, "-n", ns, "podcertificaterequests").Items {
			if r.Spec.PodName == pod && len(r.Status.Conditions) == 1 {
				return &r.Status.Conditions[0], nil
			}
		}
		return nil, errors.New("no request was answered")
	}
	eventually(t, "a pod gets a certificate by its rule, and one without a rule hears why not", func() error {
		given, err := said("asker")
		if err != nil {
			return fmt.Errorf("asker: %w", err)
		}
		denied, err := said("stranger")
		if err != nil {
			return fmt.Errorf("stranger: %w", err)
		}
		if given.Type != "Issued" || denied.Type != "Denied" || denied.Reason != "NoGateway" || !strings.Contains(denied.Message, "--sign-for='ns/"+ns+"/sa/default'") {
			t.Fatalf("%+v, %+v", given, denied)
		}
		return nil
	})
	w.says(ns + "/stranger denied: NoGateway")
	kubectl(t, "-n", ns, "delete", "pod", "stranger", "--wait=false")

	// By the older object, which watch approves.
	before := a.status().Cert.Serial
	gateway(t, "init-ca", "--signer="+signer, "--signer-request=csr")
	gateway(t, "-n", ns, "rotate", "pod/a")
	w.says(ns + "/a signed (certificatesigningrequest/kube-gateway-a-")
	if after := a.status().Cert.Serial; after == before {
		t.Error("the certificate was not renewed")
	}
	gateway(t, "init-ca", "--signer="+signer, "--signer-request=auto")

	// Requests wait while nobody signs.
	must.Do(t, w.interrupt())
	waits := start(t, "kubectl-gateway", "-n", ns, "rotate", "pod/b")
	eventually(t, "a request waits", func() error {
		for _, r := range get[certificatesv1.PodCertificateRequestList](t, "-n", ns, "podcertificaterequests").Items {
			if len(r.Status.Conditions) == 0 {
				return nil
			}
		}
		return errors.New("none does")
	})
	// Two may sign at once.
	restart := func() *running {
		r := start(t, "env", append([]string{owner[len(owner)-1]}, watch...)...)
		r.says("watching")
		return r
	}
	w, second := restart(), restart()
	must.Do(t, waits.wait())
	l.more(10)

	// Who has the key rotates the authority, for all.
	if out := tryGateway(t, "rotate", "--ca", "--yes"); out.code == 0 || !strings.Contains(out.stderr, "whose key is elsewhere") {
		t.Errorf("without the key: exit %d, %s", out.code, out.stderr)
	}
	rotate := exec.CommandContext(t.Context(), "kubectl-gateway", "rotate", "--ca", "--yes")
	rotate.Env = owner
	if out, err := rotate.CombinedOutput(); err != nil {
		t.Fatalf("rotating the authority: %v\n%s", err, out)
	}
	next := trusted()
	eventually(t, "the new root alone is published", func() error {
		if now := published(); next == root || now != next {
			return fmt.Errorf("published is %s, trusted is %s", now, next)
		}
		return nil
	})
	follows("rotated", next)
	l.more(10)
	gateway(t, "-n", ns, "rotate", "pod/a", "pod/b")
	follows("renewed", next)
	l.more(10)
	must.Do(t, w.interrupt())
	must.Do(t, second.interrupt())
	l.stopClean(b)
	checkNoKey(t, ns)
}
