package watch

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestLoadOfRefresh counts what a node costs that joins a cluster with many gateways.
func TestLoadOfRefresh(t *testing.T) {
	const gateways = 1000
	node := func(name string, pods ...string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: pods}}
	}
	cluster := fakecluster.New(t, node("node-1", "10.244.1.0/24", "fd00:10:244:1::/64"),
		&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}})
	coverage := func(pods ...string) api.Coverage {
		c := api.Coverage{Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}
		for _, text := range append(pods, "fd00:10:244:1::/64") {
			c.Capture = append(c.Capture, netip.MustParsePrefix(text))
		}
		return c
	}
	var fleet fakegateway.Fleet
	for i := range gateways {
		pod := with(fakecluster.NewPod(fmt.Sprintf("p-%d", i)), runs())
		must.Do(t, cluster.Tracker().Create(fakecluster.Pods, pod, pod.Namespace))
		fleet.Set(pod.Name, api.Status{Capture: api.Capture{Coverage: coverage("10.244.1.0/24")}})
	}
	refreshed := make(chan Event, gateways)
	watcher := &Watcher{Client: cluster, Actions: &Plugin{Client: cluster, Gateways: fakegateway.Gateways(fleet.Answer).Client(nil)}, Report: func(e Event) {
		if e.Action != Refreshed || e.Covered == nil || e.Covered.String() != "1 added: 10.244.2.0/24 (pods of node node-2)" {
			t.Errorf("%+v", e)
		}
		refreshed <- e
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- watcher.Run(ctx) }()
	expect.Eventually(t, "all gateways are known", func() bool { return watcher.Counts().Ready == gateways })
	fleet.Asked()
	cluster.ClearActions()

	start := time.Now()
	must.Do(t, cluster.Tracker().Create(corev1.SchemeGroupVersion.WithResource("nodes"), node("node-2", "10.244.2.0/24"), ""))
	for range gateways {
		expect.Within(t, refreshed)
	}
	elapsed := time.Since(start)
	cancel()
	must.Do(t, <-done)

	requests, execs := map[string]int{}, map[string]int{}
	for _, action := range cluster.Actions() {
		requests[action.GetVerb()+" "+action.GetResource().Resource]++
	}
	for _, asked := range fleet.Asked() {
		_, op, _ := strings.Cut(asked, " ")
		execs[op]++
	}
	t.Logf("%d gateways in %v: requests %v, execs %v", gateways, elapsed, requests, execs)
	if diff := cmp.Diff(map[string]int{"cover": gateways}, execs); diff != "" {
		t.Errorf("execs (-want +got):\n%s", diff)
	}
	for what, n := range requests {
		// The last survey may have begun with the node, or be one that waited for the pause.
		if !strings.HasPrefix(what, "list ") || n > 2 {
			t.Errorf("%d requests to %s", n, what)
		}
	}
	want := coverage("10.244.1.0/24", "10.244.2.0/24")
	for i := range gateways {
		if got := fleet.Status(fmt.Sprintf("p-%d", i)).Capture.Fingerprint; got != want.Fingerprint() {
			t.Fatalf("gateway %d captures something else", i)
		}
	}
}

// TestRenewalsOfAnHour: certificates of an hour, all issued at once, are renewed one after the other, and again.
func TestRenewalsOfAnHour(t *testing.T) {
	const gateways = 200
	inWorld(t, []runtime.Object{annotatedNamespace()}, func(t *testing.T, w *world) {
		w.life = time.Hour
		w.createMany(gateways)
		w.run(Options{}, func(*Watcher) {
			// Two lives of each.
			time.Sleep(90 * time.Minute)
		})
		minutes, renewals := map[time.Time]int{}, map[string]int{}
		for _, e := range w.events {
			if e.Action == Renewed {
				minutes[e.Time.Truncate(time.Minute)]++
				renewals[e.Pod]++
			}
		}
		if len(renewals) != gateways {
			t.Errorf("%d of %d were renewed", len(renewals), gateways)
		}
		for at, n := range minutes {
			// They have twelve minutes.
			if n > gateways/4 {
				t.Errorf("%d renewals in the minute of %v", n, at)
			}
		}
		for pod, n := range renewals {
			if left := time.Until(w.certs[pod].NotAfter); n < 2 || n > 3 || left < 19*time.Minute {
				t.Errorf("%s: %d renewals, %v left", pod, n, left)
			}
		}
	})
}
