package check

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiversion "k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
)

func TestAllGood(t *testing.T) {
	for name, objects := range map[string][]runtime.Object{"pods": {appPod("web"), appPod("db")}, "no pods": nil} {
		w := newWorld(t, objects...).withAuthority(t, 0)
		w.TestImage = true
		report := must.Get(w.Run(t.Context(), 0))(t)
		for _, item := range report.Checks {
			if item.Result == Warning || item.Result == Error {
				t.Errorf("%s: %+v", name, item)
			}
		}
		if report.Result != OK || report.Count(OK) < 20 {
			t.Errorf("%s: %s, %d ok", name, report.Result, report.Count(OK))
		}
		if !strings.Contains(w.progress.String(), "testing image registry.example/gateway:v1") {
			t.Errorf("%s: the test of the image is not told: %q", name, &w.progress)
		}
		for _, action := range w.Actions() {
			if action.GetVerb() == "delete-collection" || action.GetVerb() == "update" {
				t.Errorf("%s: a check did %s %s", name, action.GetVerb(), action.GetResource().Resource)
			}
		}
		if left, err := w.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{LabelSelector: labelCheck}); err != nil || len(left.Items) > 0 {
			t.Errorf("%s: %d pods of the test are left, %v", name, len(left.Items), err)
		}
	}
}

// One thing that is wrong, and what the check for it must say.
func TestProblems(t *testing.T) {
	label := func(value string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{enforceLabel: value}}}
	}
	container := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: name}} }
	}
	class := func(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.RuntimeClassName = &name } }
	windows := testNode("node-1", "10.0", "v1.37.2")
	windows.Status.NodeInfo.OperatingSystem = "windows"
	scraped := func(p *corev1.Pod) {
		p.Annotations = map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "9090"}
	}
	const labelFix = "kubectl label namespace shop pod-security.kubernetes.io/enforce=privileged --overwrite"
	for _, c := range []struct {
		name    string
		objects []runtime.Object
		spoil   func(*world)
		id      string
		result  Result
		// What the detail, the hint and the command must hold.
		detail, hint, command string
	}{
		{name: "no kubectl", spoil: func(w *world) { w.LookPath = func(string) (string, error) { return "", errors.New("none") } },
			id: "client-kubectl", result: Warning, detail: "no kubectl"},
		{name: "server before 1.33", spoil: serverVersion("v1.32.9"), id: "cluster-version", result: Warning, detail: "1.33 or later", hint: "--delivery=csr"},
		{name: "server before 1.25", spoil: serverVersion("v1.24.9"), id: "cluster-version", result: Error, detail: "1.25 or later"},
		{name: "server behind", spoil: serverClock(-time.Hour), id: "cluster-clock", result: Error, detail: "behind"},
		{name: "server ahead", spoil: serverClock(time.Hour), id: "cluster-clock", result: Error, detail: "ahead of"},
		{name: "server a little ahead", spoil: serverClock(time.Minute), id: "cluster-clock", result: OK},
		{name: "no exec", spoil: deny("create pods/exec"), id: "permissions-status", result: Error, detail: "create pods/exec", command: "name: jane"},
		{name: "no patch", spoil: deny("patch pods/ephemeralcontainers"), id: "permissions-enable", result: Error, detail: "patch pods/ephemeralcontainers", command: "- pods/ephemeralcontainers"},
		{name: "no secrets", spoil: deny("create secrets"), id: "permissions-secret", result: Warning, detail: "create secrets", hint: "--delivery=csr", command: "- secrets"},
		{name: "no logs", spoil: deny("get pods/log"), id: "permissions-tail", result: Error, detail: "get pods/log"},
		{name: "no replicasets", spoil: deny("list replicasets"), id: "permissions-watch", result: Warning, detail: "list replicasets.apps", command: "- replicasets"},
		{name: "annotations", objects: []runtime.Object{appPod("web", declares("log", "none"))}, id: "policy-annotations", result: OK, detail: "1 say"},
		{name: "annotation that cannot be read", objects: []runtime.Object{appPod("web", declares("mode", "stric"))}, id: "policy-annotations", result: Error,
			detail: `kube-gateway.io/mode of pod: "stric" is unknown`, hint: "strict or permissive"},
		{name: "restricted", objects: []runtime.Object{label("restricted"), appPod("web")}, spoil: refuse(violation()),
			id: "policy-pod-security", result: Error, detail: "restricted", command: labelFix},
		{name: "restricted, told by the dry run of a pod", objects: []runtime.Object{label("restricted")}, spoil: func(w *world) { w.create = violation() },
			id: "policy-pod-security", result: Error, command: labelFix},
		{name: "restricted by default", objects: []runtime.Object{appPod("web")}, spoil: refuse(violation()),
			id: "policy-pod-security", result: Error, detail: "default level", command: labelFix},
		{name: "restricted, user exempt", objects: []runtime.Object{label("restricted"), appPod("web")}, id: "policy-pod-security", result: OK, detail: "restricted"},
		{name: "baseline, nothing may be tried", objects: []runtime.Object{label("baseline"), appPod("web")},
			spoil: func(w *world) {
				w.patch, w.create = forbidden(`User "jane" cannot patch resource`), forbidden(`User "jane" cannot create resource`)
			},
			id: "policy-pod-security", result: Error, command: labelFix},
		{name: "not twice", objects: []runtime.Object{appPod("web")}, spoil: refuse(violation()), id: "policy-admission", result: Skipped},
		{name: "webhook refuses", objects: []runtime.Object{appPod("web")}, spoil: refuse(forbidden(`admission webhook "guard.example" denied the request: no`)),
			id: "policy-admission", result: Error, detail: "guard.example", hint: "exception"},
		{name: "webhook cannot be asked", objects: []runtime.Object{appPod("web")}, spoil: refuse(errors.New(`admission webhook "old.example" does not support dry run`)),
			id: "policy-admission", result: Warning, detail: "dry run"},
		{name: "webhook with effects", objects: []runtime.Object{appPod("web"), webhook("pods/*", new(admissionv1.SideEffectClassUnknown))}, id: "policy-webhooks", result: Warning, detail: "not in a dry run"},
		{name: "webhook of other things", objects: []runtime.Object{appPod("web"), webhook("pods", new(admissionv1.SideEffectClassUnknown))}, id: "policy-webhooks", result: OK, detail: "none"},
		{name: "Windows", objects: []runtime.Object{windows}, id: "nodes-os", result: Warning, detail: "windows"},
		{name: "old kernel", objects: []runtime.Object{testNode("node-1", "5.4.0-generic", "v1.37.2")}, id: "nodes-kernel", result: Error, detail: "older than 5.10"},
		{name: "kernel without tcx", objects: []runtime.Object{testNode("node-1", "6.1.0-27-amd64", "v1.37.2")}, id: "nodes-kernel", result: OK, detail: "clsact"},
		{name: "kernel without number", objects: []runtime.Object{testNode("node-1", "unikernel", "v1.37.2")}, id: "nodes-kernel", result: Warning},
		{name: "cgroup unknown", objects: []runtime.Object{testNode("node-1", "6.18.1", "v1.34.0")}, id: "nodes-cgroup", result: Skipped},
		{name: "named hostNetwork pod", objects: []runtime.Object{appPod("web", func(p *corev1.Pod) { p.Spec.HostNetwork = true })},
			spoil: func(w *world) { w.Named = true }, id: "nodes-pods", result: Error, detail: "hostNetwork"},
		{name: "any hostNetwork pod", objects: []runtime.Object{appPod("web", func(p *corev1.Pod) { p.Spec.HostNetwork = true })}, id: "nodes-pods", result: Warning},
		{name: "sandbox by handler", objects: []runtime.Object{appPod("web", class("safe")), &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "safe"}, Handler: "runsc"}},
			id: "nodes-pods", result: Warning, detail: "runsc"},
		{name: "small limits", objects: []runtime.Object{appPod("web", limited("64Mi"))}, id: "nodes-limits", result: Warning, detail: "its memory limit is 64Mi", hint: "raise"},
		{name: "large limits", objects: []runtime.Object{appPod("web", limited("1Gi")), appPod("db")}, id: "nodes-limits", result: OK, detail: "1 of 2 pods with limits"},
		{name: "little memory left", objects: []runtime.Object{withGateway("web", limited("1Gi"))},
			spoil: says("web", api.Status{Memory: &api.Memory{Limit: 1 << 30, Left: 31 << 20, Room: 490}}), id: "nodes-limits", result: Warning, detail: "about 490 more"},
		{name: "enough memory left of a small limit", objects: []runtime.Object{withGateway("web", limited("80Mi"))},
			spoil: says("web", api.Status{Memory: &api.Memory{Limit: 80 << 20, Left: 70 << 20, Room: 1300}}), id: "nodes-limits", result: OK,
			detail: "in pod/web -n shop, 70.0MiB of 80.0MiB are left, enough for about 1300"},
		{name: "image missing", spoil: image(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "not found"}}),
			id: "image-pull", result: Error, detail: "ErrImagePull: not found"},
		{name: "image broken", spoil: image(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: "exec format error"}}),
			id: "image-pull", result: Error, detail: "exec format error"},
		{name: "another program", spoil: func(w *world) { w.logs = "hello\n" }, id: "image-pull", result: Error, detail: "another program"},
		{name: "image never ends", spoil: func(w *world) { w.image, w.ImageTimeout = nil, 10*time.Millisecond }, id: "image-pull", result: Error, hint: "waits longer"},
		{name: "no pods may be made", spoil: deny("create pods"), id: "image-pull", result: Skipped},
		{name: "no pods may be deleted", spoil: deny("delete pods"), id: "image-pull", result: Skipped},
		{name: "no test", spoil: func(w *world) { w.TestImage = false }, id: "image-pull", result: Skipped},
		{name: "no authority", id: "authority-found", result: Error, command: "kubectl gateway init-ca --authority-dir='"},
		{name: "guessed ranges", objects: []runtime.Object{appPod("web", func(p *corev1.Pod) { p.Status.PodIP = "192.168.5.5" })},
			id: "ranges-found", result: Warning, detail: "192.168.5.0/24"},
		{name: "Istio", objects: []runtime.Object{appPod("web", container("istio-proxy"))}, id: "mesh-pods", result: Warning, detail: "Istio", hint: "excludeOutboundPorts"},
		{name: "Linkerd", objects: []runtime.Object{appPod("web", container("linkerd-proxy"))}, id: "mesh-pods", result: Warning, detail: "Linkerd", hint: "skip-outbound-ports"},
		{name: "ambient", objects: []runtime.Object{appPod("web"), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{ambientLabel: "ambient"}}}},
			id: "mesh-pods", result: Warning, detail: "ambient"},
		{name: "Cilium", objects: []runtime.Object{&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "cilium-config"},
			Data: map[string]string{"enable-wireguard": "true"}}}, id: "mesh-cluster", result: Warning, detail: "WireGuard"},
		{name: "mute gateway", objects: []runtime.Object{withGateway("web")}, id: "gateways-state", result: Error, detail: "does not answer"},
		{name: "other version", objects: []runtime.Object{withGateway("web")}, spoil: says("web", api.Status{Version: "v0.9.0"}),
			id: "gateways-version", result: Warning, detail: "v0.9.0"},
		{name: "certificate ends", objects: []runtime.Object{withGateway("web")}, spoil: says("web", api.Status{Cert: api.Certificate{
			NotBefore: time.Now().Add(-90 * time.Hour), NotAfter: time.Now().Add(10 * time.Hour)}}),
			id: "gateways-state", result: Warning, detail: "expires in", command: "kubectl gateway rotate pod/web -n shop"},
		{name: "missing feature", objects: []runtime.Object{withGateway("web")}, spoil: says("web", api.Status{Missing: []string{"inband: no sk_lookup"}}),
			id: "gateways-state", result: Warning, detail: "sk_lookup"},
		{name: "gateway's clock", objects: []runtime.Object{withGateway("web")}, spoil: says("web", api.Status{Time: time.Now().Add(-2 * time.Hour)}),
			id: "gateways-state", result: Warning, detail: "clock"},
		{name: "a node joined", objects: []runtime.Object{withGateway("web")}, spoil: says("web", api.Status{Capture: captures("10.9.0.0/24")}),
			id: "gateways-coverage", result: Error, detail: "does not know 10.244.1.0/24 (pods of node node-1)", command: "kubectl gateway refresh pod/web -n shop"},
		{name: "no node joined", objects: []runtime.Object{withGateway("web")}, spoil: says("web", api.Status{Capture: captures("10.244.1.0/24")}),
			id: "gateways-coverage", result: OK, detail: "1 gateway"},
		{name: "nodes unread", objects: []runtime.Object{withGateway("web")}, spoil: func(w *world) {
			says("web", api.Status{Capture: captures("10.9.0.0/24")})(w)
			w.Forbid("list", "nodes")
		}, id: "gateways-coverage", result: Skipped, detail: "listing nodes"},
		{name: "plaintext", objects: []runtime.Object{withGateway("web")}, spoil: says("web", api.Status{Traffic: api.Traffic{Outbound: api.Direction{Plaintext: 3}}}),
			id: "peers-plaintext", result: Warning, detail: "3 connections out", command: "kubectl gateway tail pod/web"},
		{name: "scraped", objects: []runtime.Object{appPod("web", scraped)}, id: "peers-strict", result: Warning, detail: "Prometheus scrapes it at port 9090", hint: "--allow-plaintext-from=CIDR:9090"},
		{name: "scraped by one that is let in", objects: []runtime.Object{withGateway("web", scraped)}, spoil: says("web", api.Status{Capture: api.Capture{
			Named: api.Coverage{PlaintextFrom: []api.Source{{From: netip.MustParsePrefix("10.0.0.0/8")}}}}}), id: "peers-strict", result: OK, detail: "1 pod"},
		{name: "scraped and cannot have a gateway", objects: []runtime.Object{appPod("web", scraped, func(p *corev1.Pod) { p.Spec.HostNetwork = true })}, id: "peers-strict", result: OK},
		{name: "webhooks unread", objects: []runtime.Object{appPod("web")}, spoil: func(w *world) { w.Forbid("list", "mutatingwebhookconfigurations") }, id: "peers-strict", result: Skipped, detail: "webhooks and aggregated APIs"},
		{name: "cgroup by gateway", objects: []runtime.Object{withGateway("web"), testNode("node-1", "6.18.1", "v1.30.0")},
			spoil: says("web", api.Status{Capture: api.Capture{Cgroup: "/kubepods/pod1"}}), id: "nodes-cgroup", result: OK, detail: "1 by gateways"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.objects...)
			w.TestImage = c.id == "image-pull"
			if c.spoil != nil {
				c.spoil(w)
			}
			item := w.run(t, c.id)[0]
			if item.Result != c.result || !strings.Contains(item.Detail, c.detail) || !strings.Contains(item.Hint, c.hint) || !strings.Contains(item.Command, c.command) {
				t.Errorf("%+v", item)
			}
			if (item.Result == Error || item.Result == Warning) && item.Hint == "" && item.Command == "" && c.id != "ranges-found" {
				t.Errorf("nothing is said about what to do: %+v", item)
			}
		})
	}
}

func declares(name, value string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { metav1.SetMetaDataAnnotation(&pod.ObjectMeta, api.AnnotationPrefix+name, value) }
}

func limited(memory string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers = []corev1.Container{{Name: "app", Resources: corev1.ResourceRequirements{
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory)}}}}
	}
}

func serverVersion(v string) func(*world) {
	return func(w *world) {
		w.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &apiversion.Info{GitVersion: v}
	}
}

func serverClock(ahead time.Duration) func(*world) {
	return func(w *world) {
		w.ServerTime = func(context.Context) (time.Time, error) { return time.Now().Add(ahead).Truncate(time.Second), nil }
	}
}

func deny(what string) func(*world) { return func(w *world) { w.Denied[what] = true } }

func refuse(err error) func(*world) { return func(w *world) { w.patch = err } }

func image(state corev1.ContainerState) func(*world) { return func(w *world) { w.image = &state } }

func says(pod string, status api.Status) func(*world) {
	return func(w *world) { w.fleet.Set(pod, status) }
}

// captures is what a gateway says that captures a range of pods, and that of Services.
func captures(pods string) api.Capture {
	c := api.Coverage{Capture: []netip.Prefix{netip.MustParsePrefix(pods)}, Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}
	return api.Capture{Coverage: c, Fingerprint: c.Fingerprint()}
}

func withGateway(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	return appPod(name, append(change, func(p *corev1.Pod) { fakecluster.AddGateway(p, "{}", fakecluster.Running(nil, nil)) })...)
}

func webhook(resource string, effects *admissionv1.SideEffectClass) runtime.Object {
	return &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "guard"}, Webhooks: []admissionv1.ValidatingWebhook{{
		Name: "guard.example", SideEffects: effects, Rules: []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{admissionv1.Update},
			Rule: admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{resource}}}}}}}
}

// TestGatewayThatTrustsTooMuch has one that was enabled while the authority was replaced, and not
// renewed since.
func TestGatewayThatTrustsTooMuch(t *testing.T) {
	w := newWorld(t, withGateway("web"), withGateway("db")).withAuthority(t, 0)
	own := must.Get(authority.LoadDir(w.AuthorityDir))(t).Fingerprint()
	w.fleet.Set("web", api.Status{Cert: api.Certificate{Authorities: []string{own, "0123456789abcdef0123"}}})
	w.fleet.Set("db", api.Status{Cert: api.Certificate{Authorities: []string{own}}})
	items := w.run(t, "gateways-trust")
	if len(items) != 1 || items[0].Result != Warning || !strings.Contains(items[0].Detail, "authority 0123456789abcdef,") || items[0].Command != "kubectl gateway rotate pod/web -n shop" {
		t.Errorf("%+v", items)
	}
	w.fleet.Set("web", api.Status{Cert: api.Certificate{Authorities: []string{own}}})
	if items := w.run(t, "gateways-trust"); len(items) != 1 || items[0].Result != OK {
		t.Errorf("%+v", items)
	}
}

func TestAuthorityThatEndsSoon(t *testing.T) {
	w := newWorld(t).withAuthority(t, 20*24*time.Hour)
	if item := w.run(t, "authority-expiry")[0]; item.Result != Warning || !strings.HasPrefix(item.Command, "kubectl gateway rotate --ca") {
		t.Errorf("%+v", item)
	}
}

func TestNoCluster(t *testing.T) {
	w := newWorld(t)
	w.PrependReactor("get", "version", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("connection refused")
	})
	report := must.Get(w.Run(t.Context(), 0))(t)
	for _, item := range report.Checks {
		want := Skipped
		switch {
		case item.ID == idReachable:
			want = Error
		case item.Category == Client:
			want = OK
		}
		if item.Result != want {
			t.Errorf("%+v, want %s", item, want)
		}
	}
}

// Failed checks are run again, the others are not, unless they were skipped.
func TestWait(t *testing.T) {
	w := newWorld(t, appPod("web")).withAuthority(t, 0)
	w.TestImage = false
	rounds := 0
	w.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if rounds++; rounds < 3 {
			return true, nil, violation()
		}
		return true, &corev1.Pod{}, nil
	})
	report, err := w.Run(t.Context(), patience)
	if err != nil || report.Result != OK {
		t.Errorf("%v: %+v", err, report)
	}
	if itemsOf(t, report, "policy-admission")[0].Result != OK {
		t.Error("what was skipped was not looked at again")
	}
	if text := w.progress.String(); strings.Count(text, "waiting up to") != 1 || !strings.Contains(text, "policy-pod-security") {
		t.Errorf("progress: %q", text)
	}
	reviews := 0
	for _, action := range w.Actions() {
		if action.GetResource().Resource == "networkpolicies" {
			reviews++
		}
	}
	if reviews != 1 {
		t.Errorf("a check that passed was run %d times", reviews)
	}
}

func TestWaitEnds(t *testing.T) {
	w := newWorld(t)
	if report, err := w.Run(t.Context(), 20*time.Millisecond); err != nil || report.Result != Error {
		t.Errorf("%v, %+v", err, report)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.PrependReactor("list", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		cancel()
		return false, nil, nil
	})
	if _, err := w.Run(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

// The pod of the test is deleted also when somebody presses Ctrl-C.
func TestInterruptedImageTest(t *testing.T) {
	w := newWorld(t)
	w.image = nil
	w.TestImage = true
	ctx, cancel := context.WithCancel(t.Context())
	w.PrependReactor("get", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		cancel()
		return false, nil, nil
	})
	if _, err := w.Run(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if left, err := w.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}); err != nil || len(left.Items) > 0 {
		t.Errorf("%d pods are left, %v", len(left.Items), err)
	}
}
