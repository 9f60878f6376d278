package chart

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	release "helm.sh/helm/v4/pkg/release/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/admission"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/watch"
)

const (
	chartDir = "../../install/chart"
	baseDir  = "../../install/kustomize"
	// home is the namespace of the base.
	home = admission.WatchNamespace
)

var update = flag.Bool("update", false, "write the Kustomize base anew")

// values are those that a user gives, by their paths.
type values map[string]any

// nested returns v as Helm has it.
func (v values) nested() map[string]any {
	all := map[string]any{}
	for path, value := range v {
		at := all
		words := strings.Split(path, ".")
		for _, word := range words[:len(words)-1] {
			if at[word] == nil {
				at[word] = map[string]any{}
			}
			at = at[word].(map[string]any)
		}
		at[words[len(words)-1]] = value
	}
	return all
}

// render does what "helm template" does.
func render(t *testing.T, namespace, version string, v values) (*release.Release, error) {
	t.Helper()
	c, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	install := action.NewInstall(action.NewConfiguration())
	install.DryRunStrategy, install.Replace, install.ReleaseName, install.Namespace = action.DryRunClient, true, "kube-gateway", namespace
	if install.KubeVersion, err = common.ParseKubeVersion(version); err != nil {
		t.Fatal(err)
	}
	made, err := install.Run(c, v.nested())
	if err != nil {
		return nil, err
	}
	return made.(*release.Release), nil
}

// current is a Kubernetes that has all that the chart may need.
const current = "v1.37.0"

func manifest(t *testing.T, namespace string, v values) string {
	t.Helper()
	r, err := render(t, namespace, current, v)
	if err != nil {
		t.Fatal(err)
	}
	return r.Manifest
}

// objects reads a manifest. The result is by kind, namespace and name.
func objects(t *testing.T, manifest string) map[string]*unstructured.Unstructured {
	t.Helper()
	all := map[string]*unstructured.Unstructured{}
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(&object.Object); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if len(object.Object) == 0 {
			continue
		}
		key := object.GetKind() + " " + object.GetNamespace() + "/" + object.GetName()
		if all[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		all[key] = object
	}
}

// as converts the object called key.
func as[T any](t *testing.T, all map[string]*unstructured.Unstructured, key string) *T {
	t.Helper()
	if all[key] == nil {
		t.Fatalf("there is no %s", key)
	}
	text, err := sigsyaml.Marshal(all[key].Object)
	if err != nil {
		t.Fatal(err)
	}
	object := new(T)
	if err := sigsyaml.UnmarshalStrict(text, object); err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return object
}

func equal(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// everything turns everything on.
func everything() values {
	return values{
		"image.digest": digest, "gateway.image.digest": digest, "gateway.mode": "strict", "gateway.metricsAddr": ":18445",
		"imagePullSecrets": []any{"registry"}, "extraArgs": []any{"--cert-ttl=24h"}, "nodeSelector": map[string]any{"a": "b"},
		"tolerations": []any{map[string]any{"operator": "Exists"}}, "priorityClassName": "system-cluster-critical",
		"affinity":               map[string]any{"nodeAffinity": map[string]any{}},
		"monitoring.podMonitors": true, "monitoring.alerts": true, "monitoring.labels": map[string]any{"release": "prometheus"},
		"admission.enabled": true, "authority": "signer",
	}
}

var digest = "sha256:" + strings.Repeat("0123456789abcdef", 4)

func TestLint(t *testing.T) {
	for name, v := range map[string]values{"defaults": nil, "everything": everything()} {
		lint := action.NewLint()
		lint.Strict, lint.Namespace = true, home
		lint.KubeVersion, _ = common.ParseKubeVersion(current)
		result := lint.Run([]string{chartDir}, v.nested())
		for _, m := range result.Messages {
			// A chart of ours has no icon.
			if !strings.Contains(m.Error(), "icon is recommended") {
				t.Errorf("%s: %s", name, m.Error())
			}
		}
		if result.TotalChartsLinted != 1 {
			t.Errorf("%s: %+v", name, result)
		}
	}
}

// TestValues: what cannot work is refused before anything is installed, by the name of the value.
func TestValues(t *testing.T) {
	for _, c := range []struct {
		v    values
		want string
	}{
		{values{"authority": "laptop"}, "authority"},
		{values{"gateway.mode": "off"}, "gateway/mode"},
		{values{"gateway.metricsAddr": "18445"}, "metricsAddr"},
		{values{"gateway.modes": "strict"}, "modes"},
		{values{"image.digest": "0123"}, "digest"},
		{values{"image.repository": "ghcr.io/x@sha256:0"}, "repository"},
		{values{"replicas": 0}, "replicas"},
		{values{"extraArgs": []any{"mode=strict"}}, "extraArgs"},
		{values{"resources.request": map[string]any{}}, "request"},
		{values{"admission.roots": []any{"ab"}}, "roots"},
		{values{"admission.startupTimeout": "60"}, "startupTimeout"},
		{values{"nonesuch": 1}, "nonesuch"},
	} {
		if _, err := render(t, home, current, c.v); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c.v, err)
		}
	}
	if _, err := render(t, home, "v1.35.2", values{"admission.enabled": true}); err == nil || !strings.Contains(err.Error(), "Kubernetes 1.36") {
		t.Errorf("admission of an old server: %v", err)
	}
	if _, err := render(t, home, "v1.35.2", nil); err != nil {
		t.Errorf("an old server: %v", err)
	}
}

func TestDeployment(t *testing.T) {
	const key = "Deployment mesh/kube-gateway-watch"
	v := everything()
	d := as[appsv1.Deployment](t, objects(t, manifest(t, "mesh", v)), key)
	pod := d.Spec.Template.Spec
	c := pod.Containers[0]
	equal(t, "image", "ghcr.io/kubectl-gateway/kubectl-gateway@"+digest, c.Image)
	equal(t, "arguments", []string{
		"watch", "--leader-elect", "--health-addr=:8080", "--output=json", "--image=ghcr.io/kubectl-gateway/kube-gateway@" + digest,
		"--mode=strict", "--metrics-addr=:18445", "--cert-ttl=24h",
	}, c.Args)
	equal(t, "placement", corev1.PodSpec{
		NodeSelector: map[string]string{"a": "b"}, Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}, PriorityClassName: "system-cluster-critical",
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "registry"}},
	}, corev1.PodSpec{
		NodeSelector: pod.NodeSelector, Tolerations: pod.Tolerations, Affinity: pod.Affinity, PriorityClassName: pod.PriorityClassName,
		ImagePullSecrets: pod.ImagePullSecrets,
	})
	d = as[appsv1.Deployment](t, objects(t, manifest(t, "mesh", values{"image.tag": "v1.2.3", "image.repository": "registry:5000/x"})), key)
	equal(t, "image", "registry:5000/x:v1.2.3", d.Spec.Template.Spec.Containers[0].Image)
}

func TestNotes(t *testing.T) {
	for want, v := range map[string]values{
		"init-ca --store=cluster\n":                       nil,
		"init-ca --signer=NAME\n":                         {"authority": "signer"},
		"init-ca --signer=NAME --signer-request=csr\n":    {"authority": "signer-csr"},
		"New pods get their gateway as they are created,": {"admission.enabled": true},
		"as they are created. Look":                       {"admission.enabled": true, "admission.mode": "permissive"},
	} {
		r, err := render(t, "mesh", current, v)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(r.Info.Notes, want) || !strings.Contains(r.Info.Notes, "label namespace mesh ") {
			t.Errorf("%v: no %q in\n%s", v, want, r.Info.Notes)
		}
	}
}

// source is where a part of a manifest comes from.
var source = regexp.MustCompile(`(?m)^# Source: .*\n`)

// bases are what each part of the base has turned on.
func bases() map[string]values {
	return map[string]values{
		"watch/watch.yaml":           nil,
		"admission/admission.yaml":   {"admission.enabled": true},
		"monitoring/monitoring.yaml": {"monitoring.podMonitors": true, "monitoring.alerts": true},
	}
}

// TestBase compares the Kustomize base with what the chart renders. With -update it is written anew. What a value turns
// on is a part of its own.
func TestBase(t *testing.T) {
	// Helm sorts by kind, so that documents are told apart by their text.
	documents := func(v values) []string {
		var all []string
		for _, text := range strings.Split(source.ReplaceAllString(manifest(t, home, v), ""), "---\n") {
			if text = strings.TrimSpace(text); text != "" {
				all = append(all, text)
			}
		}
		return all
	}
	plain := documents(nil)
	for name, v := range bases() {
		parts := slices.DeleteFunc(documents(v), func(text string) bool { return v != nil && slices.Contains(plain, text) })
		text := "# Made from install/chart by 'make docs'.\n" + strings.Join(parts, "\n---\n") + "\n"
		path := filepath.Join(baseDir, name)
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, path+", which 'make docs' writes", text, string(got))
	}
}

// TestKustomize builds the base with Kustomize: its objects are those of the chart, and their namespace.
func TestKustomize(t *testing.T) {
	plain := objects(t, manifest(t, home, nil))
	for name, v := range bases() {
		dir := filepath.Dir(name)
		built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(baseDir, dir))
		if err != nil {
			t.Fatal(err)
		}
		text, err := built.AsYaml()
		if err != nil {
			t.Fatal(err)
		}
		got, want := objects(t, string(text)), objects(t, manifest(t, home, v))
		if v == nil {
			ns := as[corev1.Namespace](t, got, "Namespace /"+home)
			equal(t, "labels", map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}, ns.Labels)
			delete(got, "Namespace /"+home)
		} else {
			for key := range plain {
				delete(want, key)
			}
		}
		if len(want) == 0 {
			t.Errorf("%s is empty", dir)
		}
		equal(t, dir, want, got)
	}
}

// grants returns what roles grant, by the namespace of their bindings: a line for each verb of each resource.
func grants(t *testing.T, all map[string]*unstructured.Unstructured) []string {
	t.Helper()
	var list []string
	bound := 0
	for key, object := range all {
		if !strings.HasSuffix(object.GetKind(), "Binding") || object.GroupVersionKind().Group != rbacv1.GroupName {
			continue
		}
		bound++
		binding := as[rbacv1.RoleBinding](t, all, key)
		equal(t, key, []rbacv1.Subject{{Kind: "ServiceAccount", Name: "kube-gateway-watch", Namespace: "mesh"}}, binding.Subjects)
		role := as[rbacv1.ClusterRole](t, all, binding.RoleRef.Kind+" "+binding.Namespace+"/"+binding.RoleRef.Name)
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						for _, name := range append(rule.ResourceNames, "")[:max(1, len(rule.ResourceNames))] {
							list = append(list, grant(binding.Namespace, verb, group, resource, name))
						}
					}
				}
			}
		}
	}
	if bound != 3 {
		t.Errorf("%d roles are bound", bound)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func grant(namespace, verb, group, resource, name string) string {
	return fmt.Sprintf("%q: %s %s/%s %s", namespace, verb, group, resource, name)
}

// TestRights compares the roles with the plugin's own table of rights: they grant what watch needs, and nothing else.
func TestRights(t *testing.T) {
	for who, uses := range map[string][]rights.Use{
		"secret": nil, "signer": {rights.Requests, rights.Follow}, "signer-csr": {rights.CSRs, rights.Follow},
	} {
		want := []string{
			grant("mesh", "create", "coordination.k8s.io", "leases", ""),
			grant("mesh", "get", "coordination.k8s.io", "leases", watch.LeaseName),
			grant("mesh", "update", "coordination.k8s.io", "leases", watch.LeaseName),
		}
		if who == "secret" {
			want = append(want, grant(authority.Namespace, "get", "", "secrets", authority.SecretName))
		}
		for _, r := range rights.Of(append(uses, rights.Watch, rights.Enable, rights.Endpoints, rights.Servers, rights.Announce)...) {
			// It goes by annotations, and no workload is named.
			if r.Resource == "replicasets" {
				continue
			}
			namespace := ""
			if r.Scope == rights.System {
				namespace = authority.Namespace
			}
			resource := strings.TrimSuffix(r.Resource+"/"+r.Subresource, "/")
			want = append(want, grant(namespace, r.Verb, r.Group, resource, r.Name))
			if r.Subresource == "exec" || r.Subresource == "portforward" {
				// The stream is opened with get where it is a WebSocket.
				want = append(want, grant(namespace, "get", r.Group, resource, r.Name))
			}
		}
		slices.Sort(want)
		equal(t, who, slices.Compact(want), grants(t, objects(t, manifest(t, "mesh", values{"authority": who}))))
	}
}

// TestAdmission compares the policy with that of 'kubectl gateway admission install'.
func TestAdmission(t *testing.T) {
	quantities := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	defaults := func() admission.Options {
		return admission.Options{
			Image: "ghcr.io/kubectl-gateway/kube-gateway:dev",
			Config: api.Config{
				TrustDomain: "cluster.local", Mode: api.Strict, OnFailure: api.FailClosed, Wire: api.WireAuto,
				Named:     api.Coverage{NodePorts: api.DefaultNodePorts(), Outside: api.OutsideCount},
				LogConfig: api.LogConfig{Log: api.LogConnections, LogLimit: api.DefaultLogLimit},
			},
			Roots: []string{}, StartupTimeout: time.Minute, Resources: corev1.ResourceRequirements{Requests: quantities("10m", "32Mi")},
		}
	}
	root := strings.Repeat("0123456789abcdef", 4)
	for name, c := range map[string]struct {
		namespace string
		v         values
		change    func(*admission.Options)
	}{
		"defaults": {home, nil, func(*admission.Options) {}},
		"permissive": {home, values{"admission.mode": "permissive", "admission.startupTimeout": "1m30s"}, func(o *admission.Options) {
			o.Config.Mode, o.Config.OnFailure, o.StartupTimeout = api.Permissive, "", 90*time.Second
		}},
		"namespaces loosen": {home, values{"admission.annotations": "namespaces"}, func(o *admission.Options) {
			o.Config.OnFailure, o.Loosen = "", declared.FromNamespaces
		}},
		"all loosen": {home, values{"admission.annotations": "all", "admission.startupTimeout": "2m0s"}, func(o *admission.Options) {
			o.Config.OnFailure, o.StartupTimeout, o.Loosen = "", 2*time.Minute, declared.FromAll
		}},
		"all": {"mesh", values{
			"gateway.image.repository": "registry:5000/x", "gateway.image.digest": digest, "gateway.metricsAddr": ":18445", "gateway.mode": "permissive",
			"admission.trustDomain": "example.org", "admission.roots": []any{root, strings.Replace(root, "0", "f", 1)},
			"admission.resources":        map[string]any{"requests": map[string]any{"cpu": "1m", "memory": "16Mi"}, "limits": map[string]any{"cpu": 2, "memory": "1Gi"}},
			"admission.exemptNamespaces": []any{"team-b", "dev"},
		}, func(o *admission.Options) {
			o.Image, o.Config.MetricsAddr, o.Config.TrustDomain = "registry:5000/x@"+digest, ":18445", "example.org"
			o.Roots, o.Exempt = []string{root, strings.Replace(root, "0", "f", 1)}, []string{"mesh", "team-b", "dev"}
			o.Resources = corev1.ResourceRequirements{Requests: quantities("1m", "16Mi"), Limits: quantities("2", "1Gi")}
		}},
	} {
		o := defaults()
		c.change(&o)
		want, err := admission.Wanted(o)
		if err != nil {
			t.Fatal(err)
		}
		v := values{"admission.enabled": true}
		for path, value := range c.v {
			v[path] = value
		}
		all := objects(t, manifest(t, c.namespace, v))
		equal(t, name+": policy", want.Policy, as[admissionv1.MutatingAdmissionPolicy](t, all, "MutatingAdmissionPolicy /"+admission.Name))
		equal(t, name+": binding", want.Binding, as[admissionv1.MutatingAdmissionPolicyBinding](t, all, "MutatingAdmissionPolicyBinding /"+admission.Name))
	}
}

// TestMonitoring: objects have the labels by which the operator's Prometheus selects them, and the alerts are those of the file.
func TestMonitoring(t *testing.T) {
	v := everything()
	all := objects(t, manifest(t, "mesh", v))
	for _, key := range []string{"PodMonitor mesh/kube-gateway", "PodMonitor mesh/kube-gateway-watch", "PrometheusRule mesh/kube-gateway"} {
		if all[key] == nil {
			t.Errorf("there is no %s", key)
			continue
		}
		equal(t, key, map[string]string{"release": "prometheus"}, all[key].GetLabels())
	}
	text, err := os.ReadFile(filepath.Join(chartDir, "files", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]any
	if err := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096).Decode(&file); err != nil {
		t.Fatal(err)
	}
	if rule := all["PrometheusRule mesh/kube-gateway"]; rule != nil {
		equal(t, "alerts", any(file), rule.Object["spec"])
	}
}
