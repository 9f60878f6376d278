package admission

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
)

func options() Options {
	return Options{
		Image: "registry.example/kube-gateway:v1", PullPolicy: corev1.PullIfNotPresent,
		Config: api.Config{
			TrustDomain: "cluster.local", Mode: api.Strict, OnFailure: api.FailClosed,
			Rules: api.Rules{Allow: []string{"ns/shop/sa/*"}},
			Named: api.Coverage{Exclude: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}, NodePorts: api.DefaultNodePorts()},
		},
		Roots: []string{"aa11"}, StartupTimeout: time.Minute,
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
		},
		Exempt: []string{"infra"},
	}
}

func wanted(t *testing.T, change func(*Options)) Objects {
	t.Helper()
	o := options()
	if change != nil {
		change(&o)
	}
	return must.Get(Wanted(o))(t)
}

// cluster serves admission policies.
func cluster() *fake.Clientset {
	c := fake.NewClientset()
	c.Resources = []*metav1.APIResourceList{{
		GroupVersion: admissionv1.SchemeGroupVersion.String(), APIResources: []metav1.APIResource{{Name: Resource}},
	}}
	return c
}

// TestObjects compares both objects with the golden file, which the end-to-end tests have the server evaluate.
func TestObjects(t *testing.T) {
	var text strings.Builder
	for _, change := range []func(*Options){nil, func(o *Options) {
		o.Config.Mode, o.Config.OnFailure, o.Resources, o.PullPolicy = api.Permissive, "", corev1.ResourceRequirements{}, ""
	}} {
		for _, object := range Plain(wanted(t, change)) {
			text.WriteString("---\n" + string(must.Get(yaml.Marshal(object))(t)))
		}
	}
	golden.Check(t, "objects.yaml", text.String())
}

func TestOptionsAreChecked(t *testing.T) {
	for words, change := range map[string]func(*Options){
		"trust domain": func(o *Options) { o.Config.TrustDomain = "" },
		"metrics":      func(o *Options) { o.Config.MetricsAddr = "10.1.2.3:18445" },
		"for good":     func(o *Options) { o.Loosen, o.StartupTimeout = declared.FromAll, 0 },
	} {
		o := options()
		change(&o)
		if _, err := Wanted(o); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", words, err)
		}
	}
}

func TestText(t *testing.T) {
	for text, want := range map[string]string{
		"plain": `"plain"`, `say "<no>"`: `"say \"<no>\""`, "two\nlines": `"two\nlines"`, `c:\dir`: `"c:\\dir"`,
	} {
		expect.Equal(t, text, want, celText(text))
	}
}

func TestSummarize(t *testing.T) {
	expect.Equal(t, "summary", Summary{
		Image: "registry.example/kube-gateway:v1", Mode: api.Strict, Exempt: []string{"infra", "kube-gateway", "kube-system"}, Refuses: true,
	}, Summarize(wanted(t, nil).Policy))
	for _, mode := range []api.Mode{api.Strict, api.Permissive} {
		for _, loosen := range []declared.From{declared.FromNobody, declared.FromNamespaces, declared.FromAll} {
			s := Summarize(wanted(t, func(o *Options) { o.Config.Mode, o.Config.OnFailure, o.Loosen = mode, "", loosen }).Policy)
			if s.Mode != mode || s.Loosen != loosen && !(mode == api.Strict && s.Loosen == "" && loosen == declared.FromNobody) {
				t.Errorf("%s loosened by %s: %+v", mode, loosen, s)
			}
		}
	}
	expect.Equal(t, "of another's", Summary{}, Summarize(&admissionv1.MutatingAdmissionPolicy{
		Spec: admissionv1.MutatingAdmissionPolicySpec{FailurePolicy: new(admissionv1.Ignore), Mutations: []admissionv1.Mutation{{}}},
	}))
}

// TestInstall installs, looks again, upgrades and removes.
func TestInstall(t *testing.T) {
	c := cluster()
	install := func(change func(*Options), dryRun installed.DryRun, want Done) {
		t.Helper()
		_, done, err := Install(t.Context(), c, wanted(t, change), dryRun)
		if err != nil {
			t.Fatal(err)
		}
		expect.Equal(t, "what was done", want, done)
	}
	newer := func(o *Options) { o.Image = "registry.example/kube-gateway:v2" }
	install(nil, installed.DryRunClient, Done{Created, Created})
	expect.Equal(t, "objects behind a dry run", Objects{}, must.Get(Read(t.Context(), c))(t))
	install(nil, installed.DryRunNone, Done{Created, Created})
	install(nil, installed.DryRunNone, Done{Unchanged, Unchanged})

	// What others say about the objects stays.
	live := must.Get(Read(t.Context(), c))(t)
	live.Policy.Annotations = map[string]string{"team": "mesh"}
	must.Get(c.AdmissionregistrationV1().MutatingAdmissionPolicies().Update(t.Context(), live.Policy, metav1.UpdateOptions{}))(t)
	live = must.Get(Read(t.Context(), c))(t)
	diff := must.Get(Diff(live, wanted(t, newer)))(t)
	if !strings.Contains(diff, "-            image: \"registry.example/kube-gateway:v1\"") || !strings.Contains(diff, "v2\"") || strings.Contains(diff, "team") {
		t.Errorf("what would change:\n%s", diff)
	}
	install(newer, installed.DryRunNone, Done{Updated, Unchanged})
	live = must.Get(Read(t.Context(), c))(t)
	expect.Equal(t, "what would change", "", must.Get(Diff(live, wanted(t, newer)))(t))
	expect.Equal(t, "annotations", map[string]string{"team": "mesh"}, live.Policy.Annotations)

	must.Get(Remove(t.Context(), c, installed.DryRunClient))(t)
	for _, want := range []Done{{Deleted, Deleted}, {Absent, Absent}} {
		done := must.Get(Remove(t.Context(), c, installed.DryRunNone))(t)
		expect.Equal(t, "what was removed", want, done)
	}
}

func TestForeignObjectsStay(t *testing.T) {
	c := cluster()
	foreign := &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: Name}}
	must.Get(c.AdmissionregistrationV1().MutatingAdmissionPolicies().Create(t.Context(), foreign, metav1.CreateOptions{}))(t)
	if _, _, err := Install(t.Context(), c, wanted(t, nil), installed.DryRunNone); !errors.Is(err, ErrForeign) {
		t.Errorf("install: %v", err)
	}
	if _, err := Remove(t.Context(), c, installed.DryRunNone); !errors.Is(err, ErrForeign) {
		t.Errorf("remove: %v", err)
	}
}

func TestNotServed(t *testing.T) {
	c := fake.NewClientset()
	c.Resources = []*metav1.APIResourceList{{GroupVersion: admissionv1.SchemeGroupVersion.String()}}
	_, err := Read(t.Context(), c)
	if !errors.Is(err, ErrNotServed) || !strings.Contains(api.Hint(err), "1.36") {
		t.Errorf("%v, %s", err, api.Hint(err))
	}
}

// TestRightsNameTheObjects keeps the table of rights to the objects that there are.
func TestRightsNameTheObjects(t *testing.T) {
	for _, right := range rights.Of(rights.Admission) {
		if right.Verb != "create" && right.Name != Name {
			t.Errorf("%s is not about %s", right, Name)
		}
	}
}
