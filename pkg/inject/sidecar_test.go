package inject

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

// withSidecar returns a cluster with the pod p, which waits for its sidecar, and the injector for it.
func withSidecar(t *testing.T, status corev1.ContainerStatus) (*fakecluster.Cluster, *Injector) {
	t.Helper()
	text := must.Get(json.Marshal(api.Config{Version: api.ConfigVersion, Sidecar: true, TrustDomain: "cluster.local", Mode: api.Strict, OnFailure: api.FailClosed}))(t)
	pod := fakecluster.NewPod("p")
	fakecluster.AddSidecar(pod, string(text), status)
	c := fakecluster.New(t, pod)
	return c, newInjector(t, c)
}

var running = corev1.ContainerStatus{State: fakecluster.Running(nil, nil)}

// TestEnableCertifiesASidecar of a pod whose other containers wait for it, and adds no container.
func TestEnableCertifiesASidecar(t *testing.T) {
	c, in := withSidecar(t, running)
	u := newUncertified(in)
	named := api.Coverage{Exclude: []netip.Prefix{netip.MustParsePrefix("10.244.7.0/24")}}
	u.status.Sidecar, u.status.Mode, u.status.Capture.Named = true, api.Strict, named
	result := in.Enable(t.Context(), c.Pod("p"))
	if result.Err != nil || result.Action != Enabled || result.Container != "kube-gateway" || len(c.Added()) != 0 || len(u.issued) != 1 {
		t.Fatalf("%+v, %d containers, %d certificates", result, len(c.Added()), len(u.issued))
	}
	// Its own settings count, and not those of whoever certifies it.
	for _, warning := range result.Warnings {
		t.Errorf("warning: %s", warning)
	}
	want := &api.FirstSettings{Cover: api.Cover{Coverage: in.Survey.For(c.Pod("p"), named), Named: named, Seen: named.Fingerprint()}}
	expect.Equal(t, "first settings", want, u.issued[0].First)
	if again := in.Enable(t.Context(), c.Pod("p")); again.Err != nil || again.Action != Unchanged || len(u.issued) != 1 || len(c.Added()) != 0 {
		t.Errorf("again: %+v", again)
	}
}

// TestEnableWaitsForASidecar whose container has not started: the pod cannot become ready without a certificate.
func TestEnableWaitsForASidecar(t *testing.T) {
	c, in := withSidecar(t, corev1.ContainerStatus{})
	u := newUncertified(in)
	u.status.Sidecar, u.status.Mode = true, api.Strict
	pod := c.Pod("p")
	done := make(chan Result, 1)
	go func() { done <- in.Enable(t.Context(), pod) }()
	c.AwaitWatch()
	now := c.Pod("p")
	now.Status.InitContainerStatuses[0].State = running.State
	c.Update(now)
	if result := <-done; result.Err != nil || result.Action != Enabled || len(c.Added()) != 0 || len(u.issued) != 1 {
		t.Errorf("%+v, %d containers, %d certificates", result, len(c.Added()), len(u.issued))
	}

	// What never starts is told with the time that it had.
	c, in = withSidecar(t, corev1.ContainerStatus{})
	in.Options.Timeout = time.Millisecond
	if result := in.Enable(t.Context(), c.Pod("p")); !errors.Is(result.Err, errTimeout) || !strings.Contains(api.Hint(result.Err), "kubectl describe pod") {
		t.Errorf("a sidecar that does not start: %+v", result)
	}
}

// TestSidecarGetsWhatIsDeclared with its first certificate.
func TestSidecarGetsWhatIsDeclared(t *testing.T) {
	c, in := withSidecar(t, running)
	u := newUncertified(in)
	u.status.Sidecar, u.status.Mode, u.status.Rules = true, api.Permissive, api.Rules{Allow: []string{"ns/a/sa/b"}}
	named, source := api.Coverage{Exclude: []netip.Prefix{netip.MustParsePrefix("10.244.7.0/24")}}, api.Source{From: netip.MustParsePrefix("10.9.0.0/16")}
	u.status.Capture.Named = named
	seen := named.Fingerprint()
	in.Options.Declared = func(c *api.Config) {
		c.Mode, c.Named.PlaintextFrom = api.Strict, []api.Source{source}
	}
	if result := in.Enable(t.Context(), c.Pod("p")); result.Err != nil || len(u.issued) != 1 {
		t.Fatalf("%+v, %d certificates", result, len(u.issued))
	}
	named.PlaintextFrom = []api.Source{source}
	want := &api.FirstSettings{Cover: api.Cover{Coverage: in.Survey.For(c.Pod("p"), named), Named: named, Seen: seen},
		Mode: api.Strict, Rules: &api.Rules{Allow: []string{"ns/a/sa/b"}}, Log: api.LogConnections}
	expect.Equal(t, "first settings", want, u.issued[0].First)
}

// TestNoSidecarIsCertifiedForAForeignAddress: another pod has it. That is so for the first certificate and for a later
// one, as the kubelet may say something else by then, and for the gateway that takes its place.
func TestNoSidecarIsCertifiedForAForeignAddress(t *testing.T) {
	for name, config := range map[string]string{
		"as admission makes it": `{"version":1,"sidecar":true,"trustDomain":"cluster.local","mode":"strict","onFailure":"closed"}`,
		"no configuration":      "{",
		"with addresses": `{"version":1,"pod":{"namespace":"shop","name":"p","uid":"uid-p"},"podIPs":["10.244.1.7","fd00:10:244:1::7"],` +
			`"trustDomain":"cluster.local","mode":"strict","onFailure":"closed","ranges":["10.244.0.0/16"]}`,
	} {
		t.Run(name, func(t *testing.T) { testForeignAddress(t, config) })
	}
}

func testForeignAddress(t *testing.T, config string) {
	c, in := withSidecar(t, running)
	pod := c.Pod("p")
	pod.Spec.InitContainers[0].Env[0].Value = config
	c.Update(pod)
	u := newUncertified(in)
	u.status.Sidecar = true
	rival := fakecluster.NewPod("q")
	rival.Spec.NodeName = "node-2"
	must.Do(t, c.Tracker().Add(rival))
	for _, name := range []string{"node-1", "node-2"} {
		must.Do(t, c.Tracker().Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	}
	tries := map[string]func() error{
		"enable": func() error { return in.Enable(t.Context(), c.Pod("p")).Err },
		"renew": func() error {
			_, err := in.Gateways.Gateway(c.Pod("p"), "kube-gateway").Renew(t.Context(), in.Authority, 0)
			return err
		},
		"replace": func() error { return in.Replace(t.Context(), c.Pod("p")).Err },
	}
	for name, try := range tries {
		expect.Refusal(t, name, try(), nil, "pod/q in namespace shop has the address 10.244.1.7 as well, on node-2", "delete that pod")
	}
	if len(u.issued) != 0 || len(c.Added()) != 0 {
		t.Errorf("%d certificates, %d containers", len(u.issued), len(c.Added()))
	}
	// Once it is gone they are the pod's own.
	must.Do(t, c.Tracker().Delete(fakecluster.Pods, "shop", "q"))
	must.Do(t, tries["enable"]())
	must.Do(t, tries["renew"]())
	expect.Equal(t, "certificates", 2, len(u.issued))
}

// TestEnableBehindADisabledSidecar adds a gateway: the one that came with the pod is idle, whether the pod's status
// still shows why or not.
func TestEnableBehindADisabledSidecar(t *testing.T) {
	shown := running
	shown.LastTerminationState = fakecluster.Terminated(0, api.DisabledMessage)
	for name, status := range map[string]corev1.ContainerStatus{"shown": shown, "forgotten": running} {
		c, in := withSidecar(t, status)
		pod := c.Pod("p")
		pod.Status.Phase = corev1.PodRunning
		c.Update(pod)
		next := readyWith(in.Authority)
		in.Gateways = gateways(func(ctx context.Context, pod, container string) (*api.Status, error) {
			if container == "kube-gateway" {
				return &api.Status{State: api.Disabled, Sidecar: true, Pod: api.PodRef{UID: "uid-" + pod}}, nil
			}
			return next(ctx, pod, container)
		})
		result := in.Enable(t.Context(), c.Pod("p"))
		if result.Err != nil || result.Action != Enabled || result.Container != "kube-gateway-2" || len(c.Added()) != 1 {
			t.Errorf("%s: %+v, %d containers", name, result, len(c.Added()))
		}
		config := must.Get(installed.ConfigOf(c.Pod("p"), "kube-gateway-2"))(t)
		if config.Sidecar || config.Number != 2 {
			t.Errorf("%s: its configuration is %+v", name, config)
		}
	}
}

// TestReplaceASidecar puts an ephemeral container in its place.
func TestReplaceASidecar(t *testing.T) {
	c, in := withSidecar(t, running)
	pod := c.Pod("p")
	pod.Status.Phase = corev1.PodRunning
	c.Update(pod)
	line := &fakegateway.Line{Pod: c.Pod, SetState: c.SetState, Roots: in.Authority.Roots()}
	in.Gateways = fakegateway.Gateways(line.Answer).Client(c)
	in.Options.Image = "gateway:v2"
	line.Status("p", "kube-gateway", func(s *api.Status) { s.State = api.Ready })
	result := in.Replace(t.Context(), c.Pod("p"))
	if result.Err != nil || result.Action != Replaced || result.Container != "kube-gateway-2" || result.Predecessor != "kube-gateway" {
		t.Fatalf("%+v", result)
	}
	config := must.Get(installed.ConfigOf(c.Pod("p"), "kube-gateway-2"))(t)
	if config.Sidecar || config.Replaces != "kube-gateway" || config.Mode != api.Strict {
		t.Errorf("the new gateway has %+v", config)
	}
}
