package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// trusted is a list of ClusterTrustBundle objects, as JSON.
func trusted(t *testing.T, signer string, roots ...pki.Pair) string {
	t.Helper()
	list := certificatesv1.ClusterTrustBundleList{TypeMeta: metav1.TypeMeta{Kind: "ClusterTrustBundleList", APIVersion: "certificates.k8s.io/v1"}}
	for _, root := range roots {
		list.Items = append(list.Items, certificatesv1.ClusterTrustBundle{Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: string(root.CertPEM())}})
	}
	text := must.Get(json.Marshal(list))(t)
	return string(text)
}

func TestInitSigner(t *testing.T) {
	r, root := newInitCA(t), pki.Root(t)
	r.store.objects["/apis/certificates.k8s.io/v1/clustertrustbundles"] = trusted(t, "example.com/mesh", root)
	r.store.objects["/apis/certificates.k8s.io/v1"] = `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"certificates.k8s.io/v1","resources":[{"name":"podcertificaterequests","kind":"PodCertificateRequest"}]}`
	for args, words := range map[string]string{
		"--signer=example.com/mesh --ttl=9y": "with --signer there is none", "--signer=example.com/mesh --store=cluster": "with --signer there is none",
		"--signer=mesh": "not the name of a signer", "--trust-bundle=x": "need --signer", "--signer-request=csr": "need --signer",
		"--signer=example.com/mesh --trust-bundle=/nowhere": "reading --trust-bundle", "--signer=example.com/other": "there is no root",
	} {
		if _, _, err := r.run(strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", args, err)
		}
	}
	stdout, stderr := r.mustRun("--signer=example.com/mesh")
	if !strings.HasPrefix(stdout, "signer/example.com/mesh chosen (trust domain cluster.local, root valid until 20") || !strings.Contains(stderr, "signer.json") {
		t.Errorf("stdout %q, stderr %q", stdout, stderr)
	}
	if stdout, stderr = r.mustRun("--signer=example.com/mesh"); !strings.Contains(stdout, " unchanged ") || stderr != "" {
		t.Errorf("again: stdout %q, stderr %q", stdout, stderr)
	}
	file := filepath.Join(t.TempDir(), "roots.pem")
	must.Do(t, os.WriteFile(file, root.CertPEM(), 0o600))
	stdout, _ = r.mustRun("--signer=example.com/mesh", "--trust-bundle="+file, "--signer-request=csr", "-o", "json")
	var got signerOutput
	must.Do(t, json.Unmarshal([]byte(stdout), &got))
	want := signerOutput{Signer: "example.com/mesh", TrustDomain: "cluster.local", Request: "csr", Roots: []string{ca.Fingerprint(root.Cert)}, NotAfter: root.Cert.NotAfter.UTC(),
		File: got.File, TrustBundle: "kube-system/kube-gateway-trust", Changed: true}
	expect.Equal(t, "json", want, got)
	r.mustFail("", "--trust-domain=cluster.local")

	run := func(args ...string) (int, string, string) { return execute(t, append(args, r.flags...)...) }
	prints(t, run,
		printed{"rotate --ca --dry-run", 0, "signer/example.com/mesh followed by 0 gateways", nothing},
		printed{"rotate --ca -o name", 0, "signer/example.com/mesh\n", nothing},
		printed{"rotate --ca -o json", 0, `"done": true`, nothing},
		printed{"rotate --ca --from-cert " + file + " --from-key " + file, 1, nothing, "a signer of the cluster issues the certificates"},
		printed{"revoke abcd", 1, nothing, "certificates come from a signer of the cluster"},
	)
}
