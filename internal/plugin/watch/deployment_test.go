package watch

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	clienttesting "k8s.io/client-go/testing"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/announce"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// grant is a rule of one of the example's roles.
type grant struct {
	// namespace is empty for a ClusterRole.
	namespace string
	rbacv1.PolicyRule
	// used holds what was done by it.
	used map[string]bool
}

// example is what the Kustomize base asks for, which is made from the chart.
type example struct {
	grants     []*grant
	deployment appsv1.Deployment
	mu         sync.Mutex
	denied     []string
}

func readExample(t *testing.T) *example {
	t.Helper()
	text := must.Get(os.ReadFile("../../../install/kustomize/watch/watch.yaml"))(t)
	e := &example{}
	var bound, roles []string
	reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		must.Do(t, err)
		var kind struct{ Kind string }
		must.Do(t, sigsyaml.Unmarshal(document, &kind))
		strict := func(into any) {
			t.Helper()
			if err := sigsyaml.UnmarshalStrict(document, into); err != nil {
				t.Fatalf("%s: %v", kind.Kind, err)
			}
		}
		switch kind.Kind {
		case "ClusterRole", "Role":
			var role rbacv1.ClusterRole
			strict(&role)
			roles = append(roles, kind.Kind+" "+role.Namespace+"/"+role.Name)
			for _, rule := range role.Rules {
				e.grants = append(e.grants, &grant{role.Namespace, rule, map[string]bool{}})
			}
		case "ClusterRoleBinding", "RoleBinding":
			var binding rbacv1.RoleBinding
			strict(&binding)
			bound = append(bound, binding.RoleRef.Kind+" "+binding.Namespace+"/"+binding.RoleRef.Name)
			if s := binding.Subjects; len(s) != 1 || s[0].Name != "kube-gateway-watch" || s[0].Namespace != "kube-gateway" {
				t.Errorf("%s %s binds %v", kind.Kind, binding.Name, s)
			}
		case "Deployment":
			strict(&e.deployment)
		case "ServiceAccount":
			strict(&corev1.ServiceAccount{})
		default:
			t.Errorf("a %s is nothing that is expected", kind.Kind)
		}
	}
	if slices.Sort(bound); len(bound) == 0 || !slices.Equal(bound, slices.Sorted(slices.Values(roles))) {
		t.Errorf("there are %q, bound are %q", roles, bound)
	}
	return e
}

// use notes that something is done, and reports whether it is allowed.
func (e *example) use(verb, group, resource, namespace, name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, g := range e.grants {
		if (g.namespace == "" || g.namespace == namespace) && slices.Contains(g.Verbs, verb) && slices.Contains(g.APIGroups, group) &&
			slices.Contains(g.Resources, resource) && (len(g.ResourceNames) == 0 || slices.Contains(g.ResourceNames, name)) {
			g.used[verb+" "+resource] = true
			return true
		}
	}
	if what := verb + " " + resource; !slices.Contains(e.denied, what) {
		e.denied = append(e.denied, what)
	}
	return false
}

// guard makes client refuse what the example does not allow.
func (e *example) guard(client *fakecluster.Cluster) {
	check := func(action clienttesting.Action) error {
		resource := action.GetResource()
		what := resource.Resource
		if action.GetSubresource() != "" {
			what += "/" + action.GetSubresource()
		}
		name := ""
		switch a := action.(type) {
		case interface{ GetName() string }:
			name = a.GetName()
		case clienttesting.UpdateAction:
			if o, ok := a.GetObject().(metav1.Object); ok {
				name = o.GetName()
			}
		}
		namespace := action.GetNamespace()
		if what == "namespaces" {
			// A request for one of them is in it.
			namespace = name
		}
		// Everybody may ask for the version.
		if what == "version" || e.use(action.GetVerb(), resource.Group, what, namespace, name) {
			return nil
		}
		return apierrors.NewForbidden(schema.GroupResource{Group: resource.Group, Resource: what}, name, errors.New("no rule"))
	}
	client.PrependReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		err := check(action)
		return err != nil, nil, err
	})
	client.PrependWatchReactor("*", func(action clienttesting.Action) (bool, apiwatch.Interface, error) {
		err := check(action)
		return err != nil, nil, err
	})
}

// TestExampleAllowsWhatWatchDoesAndNothingElse lets watch, with what it really
// acts through, do all that it does, under the roles of the Kustomize base.
func TestExampleAllowsWhatWatchDoesAndNothingElse(t *testing.T) {
	e := readExample(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := fakecluster.New(t, annotatedNamespace(), fakecluster.NewPod("p"),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "cluster"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/16", "fd00:10:244:1::/64"}}},
		&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}})
	must.Get(authority.Init(ctx, authority.InitOptions{Location: authority.Location{Client: client, Dir: t.TempDir()}, Store: authority.StoreCluster}))(t)
	client.Plain = map[string]string{}
	e.guard(client)
	gateways := &fakegateway.Line{Pod: client.Pod, SetState: client.SetState, Before: func(call *fakegateway.Call) error {
		for _, verb := range []string{"get", "create"} {
			// A status is read by either.
			for _, resource := range []string{"pods/exec", "pods/portforward"} {
				if !e.use(verb, "", resource, call.Namespace, call.Pod) {
					t.Errorf("no rule to %s %s", verb, resource)
				}
			}
		}
		return nil
	}}
	t.Setenv(authority.EnvDir, "")
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	plugin := &Plugin{
		Client: client, Gateways: fakegateway.Gateways(gateways.Answer).Client(client),
		Options: inject.Options{Image: testImage, Mode: api.Permissive, OnFailure: api.FailOpen, Wire: api.WireAuto,
			Delivery: inject.DeliveryCSR, TTL: time.Hour, Timeout: 30 * time.Second},
		Authority: func(ctx context.Context, _ func(string)) (ca.Issuer, error) {
			return authority.Load(ctx, authority.Location{Client: client})
		},
		Warn: func(warnings []string) { t.Errorf("warned of %q", warnings) }, Marker: announce.NewMarker(client),
	}
	events, poster := make(chan Event, 100), announce.NewPoster(client)
	watcher := &Watcher{Client: client, Actions: plugin, Report: func(e Event) {
		events <- e
		poster.Post(e.Namespace, e.Pod, e.UID, announce.Enabled, string(e.Action))
	}}
	expect := func(action Action) Event {
		t.Helper()
		select {
		case e := <-events:
			if e.Action != action || e.Err != nil || len(e.Warnings) > 0 {
				t.Fatalf("got %s: %v, warnings %q; want %s", e.Action, e.Err, e.Warnings, action)
			}
			return e
		case <-ctx.Done():
			t.Fatalf("no event, want %s", action)
			return Event{}
		}
	}
	leader, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	election := &Election{Client: client, Namespace: "kube-gateway", Identity: "one"}
	go func() { ended <- election.Lead(leader, watcher.Run) }()
	w := &world{Cluster: client, t: t}

	if got := expect(Enabled); got.Pod != "p" || got.NotAfter.IsZero() {
		t.Errorf("%+v", got)
	}
	if config, err := installed.ConfigOf(w.Pod("p"), "kube-gateway"); err != nil || !config.Watched {
		t.Errorf("%+v, %v", config, err)
	}
	if out := plugin.Renew(ctx, w.Pod("p"), "kube-gateway"); out.Err != nil || !out.Changed {
		t.Errorf("renewing: %+v", out)
	}
	w.setState("p", died(time.Now(), time.Hour).state)
	expect(Replaced)
	w.annotateNamespace("")
	expect(Disabled)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	poster.Close()

	// Secrets of pods are looked for where that is allowed, and not here.
	slices.Sort(e.denied)
	for _, what := range e.denied {
		if what != "list secrets" {
			t.Errorf("watch wanted to %s", what)
		}
	}
	for _, g := range e.grants {
		for _, resource := range g.Resources {
			for _, verb := range g.Verbs {
				what := verb + " " + resource
				// Servers before 1.33 alone need it.
				if !g.used[what] && what != "list services" {
					t.Errorf("nothing needs to %s in namespace %q", what, g.namespace)
				}
			}
		}
	}
}

// TestExampleIsRestricted checks what the label of the base's namespace demands, and that
// the probes meet what the arguments start.
func TestExampleIsRestricted(t *testing.T) {
	d := readExample(t).deployment
	if d.Spec.Replicas == nil || *d.Spec.Replicas != 2 || d.Namespace != "kube-gateway" {
		t.Errorf("%v replicas in %s", d.Spec.Replicas, d.Namespace)
	}
	spec := d.Spec.Template.Spec
	if spec.ServiceAccountName != "kube-gateway-watch" || spec.HostNetwork || spec.HostPID || len(spec.Volumes) != 0 || len(spec.Containers) != 1 {
		t.Errorf("%+v", spec)
	}
	if s := spec.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%+v", s)
	}
	c := spec.Containers[0]
	s := c.SecurityContext
	if s == nil || s.Privileged != nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.ReadOnlyRootFilesystem == nil ||
		!*s.ReadOnlyRootFilesystem || s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) != 0 {
		t.Errorf("%+v", s)
	}
	if !slices.Contains(c.Args, "watch") || !slices.Contains(c.Args, "--leader-elect") || !strings.HasPrefix(c.Args[0], "watch") {
		t.Errorf("arguments %q", c.Args)
	}
	if !slices.Contains(c.Args, fmt.Sprintf("--health-addr=:%d", c.Ports[0].ContainerPort)) ||
		c.LivenessProbe.HTTPGet.Path != "/healthz" || c.ReadinessProbe.HTTPGet.Path != "/readyz" || c.LivenessProbe.HTTPGet.Port.String() != c.Ports[0].Name {
		t.Error("the probes do not meet the health address")
	}
	if c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
		t.Error("resources are missing")
	}
}
