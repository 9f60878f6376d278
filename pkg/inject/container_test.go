package inject

import (
	"bytes"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

func TestPatchesAsTheyAreSent(t *testing.T) {
	in := newInjector(t, fakecluster.New(t))
	for file, secret := range map[string]string{"patch.yaml": "kube-gateway-web-0-abc", "patch-csr.yaml": ""} {
		pod := fakecluster.NewPod("web-0")
		container := must.Get(in.container("kube-gateway", secret, in.configFor(pod)))(t)
		golden.CheckYAML(t, file, installed.NewPatch(pod, container))
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, *container)
		config := must.Get(installed.ConfigOf(pod, "kube-gateway"))(t)
		want := in.configFor(pod)
		want.Number = 1
		expect.Equal(t, "the configuration, by way of the pod", want, config)
	}
}

func TestSecretAsItIsSent(t *testing.T) {
	in := newInjector(t, fakecluster.New(t))
	secret := in.newSecret(fakecluster.NewPod("web-0"), "kube-gateway-web-0-abc", "kube-gateway", []byte("the certificate"), []byte("the key"))
	if !bytes.Equal(secret.Data["ca.crt"], in.Authority.Bundle()) {
		t.Error("the trust bundle is another one")
	}
	secret.Data["ca.crt"] = []byte("the trust bundle")
	golden.CheckYAML(t, "secret.yaml", secret)
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

func TestNothingToCaptureIsRefused(t *testing.T) {
	in := newInjector(t, fakecluster.New(t))
	in.Survey = &survey.Survey{}
	pod := fakecluster.NewPod("web-0")
	if _, err := in.container("kube-gateway", "s", in.configFor(pod)); err == nil {
		t.Error("a gateway that captures nothing was described")
	}
}
