//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/check"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
)

// portHook is where the pods of TestStrictHooks listen, with TLS.
const portHook = 8443

// policyName is the validating webhook's.
const policyName = "policy.e2e.example"

// hooks are all that the API server connects to pods for: the pod "hook" validates
// ConfigMaps of its namespace, and the pod "api" converts widgets and serves an API.
type hooks struct {
	t *testing.T
	// group is that of the widgets.
	ns, group  string
	hook, api  *pod
	apiService string
}

func startHooks(t *testing.T) *hooks {
	t.Helper()
	h := &hooks{t: t, ns: namespace(t)}
	h.group, h.apiService = h.ns+".example", "v1.api."+h.ns+".example"
	certificate, key := h.certificate()
	secret := corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Name: "tls"},
		Type: corev1.SecretTypeTLS, Data: map[string][]byte{corev1.TLSCertKey: certificate, corev1.TLSPrivateKeyKey: key}}
	apply(t, h.ns, mustYAML(t, secret), hookService("hook"), hookService("api"))
	var specs []*corev1.Pod
	for _, name := range []string{"hook", "api"} {
		spec := podSpec(name, node1)
		c := &spec.Spec.Containers[0]
		c.Command = []string{"/app", "hook", "/tls/" + corev1.TLSCertKey, "/tls/" + corev1.TLSPrivateKeyKey}
		c.VolumeMounts = []corev1.VolumeMount{{Name: "tls", MountPath: "/tls"}}
		spec.Spec.Volumes = []corev1.Volume{{Name: "tls", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "tls"}}}}
		specs = append(specs, spec)
	}
	pods := startPods(t, h.ns, specs...)
	h.hook, h.api = pods[0], pods[1]
	// Other tests need an API server that works.
	atEnd(t, "delete", "--ignore-not-found", "--wait=false",
		"validatingwebhookconfiguration/"+h.ns, "crd/widgets."+h.group, "apiservice/"+h.apiService)
	h.register(base64.StdEncoding.EncodeToString(certificate))
	return h
}

func hookService(name string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  selector: {app: %[1]s}
  ports: [{port: 443, targetPort: %[2]d}]
`, name, portHook)
}

// certificate makes one for both Services, which is its own authority.
func (h *hooks) certificate() (certificate, key []byte) {
	private := must.Get(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(h.t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"hook." + h.ns + ".svc", "api." + h.ns + ".svc"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der := must.Get(x509.CreateCertificate(rand.Reader, template, template, private.Public(), private))(h.t)
	pkcs8 := must.Get(x509.MarshalPKCS8PrivateKey(private))(h.t)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// register tells the API server of the pods, and waits until it uses them.
func (h *hooks) register(bundle string) {
	h.t.Helper()
	apply(h.t, h.ns, fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: %[1]s}
webhooks:
- name: %[2]s
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  timeoutSeconds: 5
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[1]s}}
  rules: [{apiGroups: [""], apiVersions: [v1], resources: [configmaps], operations: [CREATE, UPDATE]}]
  clientConfig: {caBundle: %[3]s, service: {namespace: %[1]s, name: hook, path: /validate}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.%[4]s}
spec:
  group: %[4]s
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}
  - {name: v1alpha1, served: true, storage: false, schema: {openAPIV3Schema: {type: object}}}
  conversion:
    strategy: Webhook
    webhook:
      conversionReviewVersions: [v1]
      clientConfig: {caBundle: %[3]s, service: {namespace: %[1]s, name: api, path: /convert}}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: %[5]s}
spec:
  group: api.%[4]s
  version: v1
  groupPriorityMinimum: 1000
  versionPriority: 1
  caBundle: %[3]s
  service: {namespace: %[1]s, name: api}
`, h.ns, policyName, bundle, h.group, h.apiService))
	widget := fmt.Sprintf(`{"apiVersion": "%s/v1", "kind": "Widget", "metadata": {"name": "w"}}`, h.group)
	eventually(h.t, "there is a widget", func() error {
		if out := runCommand(h.t.Context(), h.t, widget, "kubectl", "-n", h.ns, "apply", "-f", "-"); out.code != 0 {
			return errors.New(out.stderr)
		}
		return nil
	})
	eventually(h.t, "the webhook works", func() error { return h.write("before") })
	eventually(h.t, "the API and the conversion work", h.read)
}

// widgets is the path of all widgets in a version.
func (h *hooks) widgets(version string) string {
	return "/apis/" + h.group + "/" + version + "/namespaces/" + h.ns + "/widgets"
}

// write has the API server ask the webhook about two ConfigMaps, of which one is denied.
func (h *hooks) write(name string) error {
	create := func(key string) output {
		return runCommand(h.t.Context(), h.t, "", "kubectl", "-n", h.ns, "create", "configmap", name+"-"+key, "--from-literal="+key+"=x")
	}
	if out := create("forbidden"); !strings.Contains(out.stderr, `denied the request: "forbidden" is not allowed`) {
		kubectl(h.t, "-n", h.ns, "delete", "configmap", name+"-forbidden", "--ignore-not-found")
		return errors.New(out.stdout + out.stderr)
	}
	if out := create("allowed"); out.code != 0 {
		return errors.New(out.stderr)
	}
	return nil
}

// read has the API server ask for a conversion, and pass a request on.
func (h *hooks) read() error {
	for path, want := range map[string]string{
		h.widgets("v1alpha1") + "/w":   `"apiVersion":"` + h.group + `/v1alpha1"`,
		"/apis/api." + h.group + "/v1": `"groupVersion":"api.` + h.group + `/v1"`,
	} {
		if out := runCommand(h.t.Context(), h.t, "", "kubectl", "get", "--raw", path); !strings.Contains(out.stdout, want) {
			return fmt.Errorf("%s: %s%s", path, out.stdout, out.stderr)
		}
	}
	return nil
}

// remarks returns what check says of strict mode about a pod.
func (h *hooks) remarks(p *pod) string {
	h.t.Helper()
	var list []string
	for _, i := range report(h.t, "-n", h.ns, p.String(), "--image-test=false").Checks {
		if i.ID == "peers-strict" && i.Result == check.Warning {
			list = append(list, i.Detail+"; "+i.Hint)
		}
	}
	return strings.Join(list, "\n")
}

// limited returns the flag of a user who may do all that enable needs, except to find the API
// server. Many clusters keep it to themselves.
func (h *hooks) limited() string {
	h.t.Helper()
	user := h.ns + "@example.org"
	meta := metav1.ObjectMeta{Name: h.ns}
	role := rbacv1.ClusterRole{TypeMeta: metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRole"}, ObjectMeta: meta}
	for _, r := range rights.Of(rights.Enable, rights.Endpoints, rights.Servers, rights.Secrets, rights.Status) {
		if r.Resource == "endpointslices" {
			continue
		}
		rule := rbacv1.PolicyRule{Verbs: []string{r.Verb}, APIGroups: []string{r.Group}, Resources: []string{r.Resource}}
		if r.Subresource != "" {
			rule.Resources[0] += "/" + r.Subresource
		}
		role.Rules = append(role.Rules, rule)
	}
	binding := rbacv1.ClusterRoleBinding{TypeMeta: metav1.TypeMeta{APIVersion: role.APIVersion, Kind: "ClusterRoleBinding"}, ObjectMeta: meta,
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: role.Kind, Name: role.Name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}}}
	atEnd(h.t, "delete", "clusterrole/"+h.ns, "clusterrolebinding/"+h.ns)
	apply(h.t, h.ns, mustYAML(h.t, role), mustYAML(h.t, binding))
	awaitKubectl(h.t, "the role counts", "auth", "can-i", "list", "apiservices.apiregistration.k8s.io", "--as="+user)
	return "--as=" + user
}

// TestStrictHooks makes pods strict that the API server connects to. It still does, if it is
// known where from. If not, every verb says by name what will fail, and how to mend it, and
// is right.
func TestStrictHooks(t *testing.T) {
	t.Parallel()
	h := startHooks(t)
	stranger := startPods(t, h.ns, podSpec("stranger", node2))[0]
	refused := func(p *pod) bool {
		r := stranger.app("talk", p.addr(portHook), "canary-stranger")
		return r.Received == "" && strings.Contains(r.Error, "refused")
	}
	if refused(h.hook) {
		t.Fatal("the stranger does not reach the webhook before it is strict")
	}

	const accepts = ": strict mode accepts plaintext of the API server (" + apiServerIP + ") at port 8443; if that connects from elsewhere, it needs --allow-plaintext-from=CIDR:8443"
	expected := []string{"it serves webhooks (conversion of widgets." + h.group + ")" + accepts, "it serves aggregated APIs (" + h.apiService + ")" + accepts}
	packets := record(t, h.api, h.hook)
	enable(t, nil, h.api)
	if err := h.read(); err != nil {
		t.Errorf("through a permissive pod: %v", err)
	}
	rehearsed := gateway(t, "-n", h.ns, "mode", h.api.String(), "strict", "--dry-run")
	warns(t, "mode strict --dry-run", rehearsed.stdout, "nothing that was seen would be refused")
	changed := gateway(t, "-n", h.ns, "mode", h.api.String(), "strict")
	for what, said := range map[string]string{
		"mode strict --dry-run": rehearsed.stdout + rehearsed.stderr, "mode strict": changed.stdout + changed.stderr, "check": h.remarks(h.api),
	} {
		for _, warning := range expected {
			warns(t, what, said, warning)
		}
	}
	if err := h.read(); err != nil {
		t.Errorf("through a strict pod: %v", err)
	}
	if !refused(h.api) {
		t.Error("the stranger reaches a strict pod")
	}

	const refuses = "it serves webhooks (" + policyName + "): strict mode refuses the API server, whose address is not known, at port 8443; let it in with --allow-plaintext-from=CIDR:8443"
	as := h.limited()
	out := enable(t, []string{as, "--mode=strict"}, h.hook)
	warns(t, "enable", out.stdout+out.stderr, refuses)
	if err := h.write("unknown"); err == nil || !strings.Contains(err.Error(), `failed calling webhook "`+policyName+`"`) {
		t.Errorf("nothing lets the API server in, and a write ends with %v", err)
	}
	if !refused(h.hook) {
		t.Error("the stranger reaches a strict webhook")
	}
	flag := strings.Replace(regexp.MustCompile(`--allow-plaintext-from=\S+`).FindString(out.stdout+out.stderr), "CIDR", apiServerIP+"/32", 1)
	gateway(t, "-n", h.ns, as, "refresh", h.hook.String(), flag)
	eventually(t, "the webhook works again", func() error { return h.write("named") })
	if !refused(h.hook) {
		t.Errorf("with %s the stranger reaches a strict webhook", flag)
	}
	if remarks := h.remarks(h.hook); remarks != "" {
		t.Errorf("with %s check warns:\n%s", flag, remarks)
	}
	packets.stop()
	if packets.contains("canary-stranger") {
		t.Error("what the stranger sends to strict pods is on the wire")
	}
	for _, p := range []*pod{h.api, h.hook} {
		if packets.count(fmt.Sprintf("src host %s and dst host %v and tcp dst port %d and tcp[tcpflags] & tcp-syn != 0", apiServerIP, p.ips[0], portHook)) == 0 {
			t.Errorf("the API server did not connect to %s", p)
		}
		if c := p.status().Capture; c.PlaintextAllowed == 0 || c.PlaintextRefused == 0 {
			t.Errorf("the gateway of %s counts %+v", p, c.CaptureCounts)
		}
	}
}
