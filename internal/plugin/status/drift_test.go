package status

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/muesli/termenv"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// TestDrift: a cluster that node-2 has joined, and gateways from before and after.
func TestDrift(t *testing.T) {
	node := func(name string, pods ...string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: pods}}
	}
	ranges := func(texts ...string) api.Coverage {
		c := api.Coverage{Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}
		for _, text := range append(texts, "fd00::/64") {
			c.Capture = append(c.Capture, netip.MustParsePrefix(text))
		}
		return c
	}
	cluster := fakecluster.New(t, node("node-1", "10.0.1.0/24", "fd00::/64"), node("node-2", "10.0.2.0/24"),
		&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}})
	var fleet fakegateway.Fleet
	coverages := map[string]api.Coverage{"before": ranges("10.0.1.0/24"), "after": ranges("10.0.1.0/24", "10.0.2.0/24"),
		"named": ranges("10.0.1.0/24"), "more": ranges("10.0.0.0/22"), "draining": ranges("10.0.1.0/24")}
	var pods []corev1.Pod
	for _, name := range []string{"before", "after", "named", "more", "draining"} {
		status := api.Status{Capture: api.Capture{Coverage: coverages[name]}}
		switch name {
		case "named":
			status.Capture.Named.Capture = coverages[name].Capture
		case "draining":
			status.State = api.Draining
		}
		fleet.Set(name, status)
		pods = append(pods, pod(name, "strict", "closed", running()))
	}
	c := Collector{Gateways: fakegateway.Gateways(fleet.Answer).Client(nil), Now: clock, Client: cluster}
	list := must.Get(c.Collect(t.Context(), pods))(t)
	joined := []survey.Part{{What: survey.PartPods, Range: "10.0.2.0/24", Node: "node-2"}}
	const lacks = "the gateway does not know 10.0.2.0/24 (pods of node node-2): connections there are plaintext"
	want := map[string]struct {
		lacks    []survey.Part
		problems []Problem
	}{
		"before": {joined, []Problem{{Severity: Critical, Text: lacks, Hint: "kubectl gateway refresh pod/before -n demo"}}},
		"after":  {},
		"named":  {joined, []Problem{{Severity: Critical, Text: lacks, Hint: "kubectl gateway refresh pod/named -n demo --capture-cidr=auto"}}},
		"more": {problems: []Problem{{Severity: Warning, Text: "the gateway captures, or lets pass, what the cluster does not have: 10.0.0.0/24 (pods), 10.0.3.0/24 (pods)",
			Hint: "kubectl gateway refresh pod/more -n demo"}}},
		"draining": {problems: []Problem{{Severity: Note, Text: "the gateway is being disabled: the pod's new connections are plaintext"}}},
	}
	for _, item := range list.Items {
		if diff := cmp.Diff(want[item.Pod].lacks, item.Lacks); diff != "" {
			t.Errorf("%s lacks (-want +got):\n%s", item.Pod, diff)
		}
		if diff := cmp.Diff(want[item.Pod].problems, item.Problems, cmpopts.IgnoreUnexported(Problem{})); diff != "" {
			t.Errorf("problems of %s (-want +got):\n%s", item.Pod, diff)
		}
	}
	if text := string(must.Get(json.Marshal(list.Items[0]))(t)); !strings.Contains(text, `"lacks":[{"what":"pods","range":"10.0.2.0/24","node":"node-2"}]`) {
		t.Error(text)
	}
	var advice bytes.Buffer
	must.Do(t, list.Advice(&advice, terminal.New(&advice, false, termenv.Ascii)))
	if !strings.Contains(advice.String(), "pod/before -n demo: error: "+lacks+"\nhint: kubectl gateway refresh pod/before -n demo\n") {
		t.Error(advice.String())
	}
	// A second look soon after makes no survey of its own.
	cluster.ClearActions()
	if again := must.Get(c.Collect(t.Context(), pods))(t); len(again.Items[0].Lacks) != 1 || cluster.Did("list", "nodes") {
		t.Errorf("lacks %v, %v", again.Items[0].Lacks, cluster.Actions())
	}
}

// TestNoDriftWithoutRights: the status is there without a survey.
func TestNoDriftWithoutRights(t *testing.T) {
	cluster := fakecluster.New(t)
	cluster.Forbid("list", "nodes")
	var fleet fakegateway.Fleet
	fleet.Set("web", api.Status{Capture: api.Capture{Coverage: api.Coverage{Capture: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}})
	c := Collector{Gateways: fakegateway.Gateways(fleet.Answer).Client(nil), Now: clock, Client: cluster}
	list := must.Get(c.Collect(t.Context(), []corev1.Pod{pod("web", "strict", "closed", running())}))(t)
	if item := list.Items[0]; item.State != Ready || len(item.Problems) > 0 || !strings.Contains(list.NotCompared, "listing nodes") {
		t.Errorf("%+v, %q", item, list.NotCompared)
	}
}
