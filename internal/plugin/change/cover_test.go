package change

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

// twoNodes is the survey of a cluster that node-2 has joined.
func twoNodes(t *testing.T) *survey.Survey {
	t.Helper()
	node := func(name, address, pods string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: []string{pods}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}}}
	}
	c := fakecluster.New(t, node("node-1", "192.168.1.1", "10.244.1.0/24"), node("node-2", "192.168.1.2", "10.244.2.0/24"),
		&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}})
	return must.Get(survey.Run(t.Context(), c, nil, api.Coverage{}))(t)
}

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// old is the coverage of gateways from before node-2.
func old() api.Coverage {
	return api.Coverage{Capture: prefixes("10.244.1.0/24"), Services: prefixes("10.96.0.0/16")}
}

func fleet(status api.Status) (*fakegateway.Fleet, *Changer) {
	var f fakegateway.Fleet
	f.Set("web", status)
	return &f, &Changer{Gateways: fakegateway.Gateways(f.Answer).Client(nil)}
}

func TestRefresh(t *testing.T) {
	joined := []survey.Part{{What: survey.PartPods, Range: "10.244.2.0/24", Node: "node-2"}}
	for name, test := range map[string]struct {
		was   api.Capture
		named func(*api.Coverage)
		dry   bool
		want  Covered
		// now is what the gateway captures then.
		now   api.Capture
		asked string
	}{
		"a node joined": {was: api.Capture{Coverage: old()}, want: Covered{Changed: true, Added: joined},
			now: api.Capture{Coverage: api.Coverage{Capture: prefixes("10.244.1.0/24", "10.244.2.0/24"), Services: prefixes("10.96.0.0/16")}}, asked: "status cover"},
		"a dry run": {was: api.Capture{Coverage: old()}, dry: true, want: Covered{Changed: true, Added: joined},
			now: api.Capture{Coverage: old()}, asked: "status"},
		"nothing new": {was: api.Capture{Coverage: api.Coverage{Capture: prefixes("10.244.1.0/24", "10.244.2.0/24"), Services: prefixes("10.96.0.0/16")}},
			now: api.Capture{Coverage: api.Coverage{Capture: prefixes("10.244.1.0/24", "10.244.2.0/24"), Services: prefixes("10.96.0.0/16")}}, asked: "status"},
		"what was named stays": {was: api.Capture{Coverage: api.Coverage{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.96.0.0/16")},
			Named: api.Coverage{Capture: prefixes("10.0.0.0/8")}},
			now: api.Capture{Coverage: api.Coverage{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.96.0.0/16")},
				Named: api.Coverage{Capture: prefixes("10.0.0.0/8")}}, asked: "status"},
		"what was named is forgotten": {was: api.Capture{Coverage: api.Coverage{Capture: prefixes("10.244.1.0/24", "10.9.0.0/16"), Services: prefixes("10.96.0.0/16")},
			Named: api.Coverage{Capture: prefixes("10.244.1.0/24", "10.9.0.0/16")}},
			named: func(c *api.Coverage) { c.Capture = nil },
			want:  Covered{Changed: true, Added: joined, Removed: []survey.Part{{What: survey.PartPods, Range: "10.9.0.0/16"}}},
			now:   api.Capture{Coverage: api.Coverage{Capture: prefixes("10.244.1.0/24", "10.244.2.0/24"), Services: prefixes("10.96.0.0/16")}}, asked: "status cover"},
		"an exclusion is named": {was: api.Capture{Coverage: old()},
			named: func(c *api.Coverage) { c.Exclude, c.Outside = prefixes("10.244.2.7/32"), api.OutsideRefuse },
			want: Covered{Changed: true, Added: []survey.Part{joined[0], {What: survey.PartExclusion, Range: "10.244.2.7/32"},
				{What: survey.PartOutside, Range: "refuse"}}},
			now: api.Capture{Coverage: api.Coverage{Capture: prefixes("10.244.1.0/24", "10.244.2.0/24"), Services: prefixes("10.96.0.0/16"), Exclude: prefixes("10.244.2.7/32"), Outside: api.OutsideRefuse},
				Named: api.Coverage{Exclude: prefixes("10.244.2.7/32"), Outside: api.OutsideRefuse}}, asked: "status cover"},
	} {
		t.Run(name, func(t *testing.T) {
			f, c := fleet(api.Status{Capture: test.was})
			result := c.Refresh(t.Context(), new(podWith("web", runs())), &Cover{Survey: twoNodes(t), Name: test.named, DryRun: test.dry})
			if result.Err != nil {
				t.Fatal(result.Err)
			}
			expect.Equal(t, "outcome", &test.want, result.Covered)
			test.now.Fingerprint = test.now.Coverage.Fingerprint()
			expect.Equal(t, "the gateway", test.now, f.Status("web").Capture)
			expect.Equal(t, "asked", test.asked, strings.ReplaceAll(strings.Join(f.Asked(), " "), "web ", ""))
		})
	}
}

// TestRefreshWhileSomebodyNames: a gateway whose named ranges change between question and
// answer is asked again, once.
func TestRefreshWhileSomebodyNames(t *testing.T) {
	for _, times := range []int{1, 2} {
		f, c := fleet(api.Status{Capture: api.Capture{Coverage: old()}})
		left := times
		c.Gateways = fakegateway.Gateways(func(ctx context.Context, call *fakegateway.Call) (any, error) {
			answer, err := f.Answer(ctx, call)
			if call.Op() == "status" && left > 0 {
				f.Set("web", api.Status{Capture: api.Capture{Coverage: old(), Named: api.Coverage{ExcludePorts: []uint16{uint16(left)}}}})
				left--
			}
			return answer, err
		}).Client(nil)
		result := c.Refresh(t.Context(), new(podWith("web", runs())), &Cover{Survey: twoNodes(t)})
		if got := strings.Count(strings.Join(f.Asked(), " "), "cover"); got != 2 || (result.Err == nil) != (times == 1) {
			t.Errorf("%d times: covered %d times, %v", times, got, result.Err)
		}
		if ports := f.Status("web").Capture.ExcludePorts; times == 1 && len(ports) != 1 {
			t.Errorf("the port that was named is lost: %v", ports)
		}
	}
}

// TestRefreshOfOldGateway says that it cannot be.
func TestRefreshOfOldGateway(t *testing.T) {
	c := &Changer{Gateways: setters{"web": good}.client()}
	for _, dry := range []bool{true, false} {
		result := c.Refresh(t.Context(), new(podWith("web", runs())), &Cover{Survey: twoNodes(t), DryRun: dry})
		expect.Error(t, result.Err, "cannot change what it captures")
	}
}

// TestCarriedAlong: strict mode comes after what makes it harmless, and rules come first.
func TestCarriedAlong(t *testing.T) {
	for want, change := range map[string]Change{
		"status cover mode": {Mode: api.Strict},
		"mode":              {Mode: api.Permissive},
		"allow cover":       {Existing: api.ExistingReset, Rules: api.Rules{Allow: []string{"ns/prod/sa/*"}}},
	} {
		f, c := fleet(api.Status{Mode: api.Permissive, Capture: api.Capture{Coverage: old()}})
		c.Carry = &Cover{Survey: twoNodes(t)}
		result := c.Change(t.Context(), new(podWith("web", runs())), change)
		if got := strings.ReplaceAll(strings.Join(f.Asked(), " "), "web ", ""); got != want || result.Err != nil {
			t.Errorf("asked %q, want %q; %v", got, want, result.Err)
		}
		if covered := result.Covered; strings.Contains(want, "cover") && (covered == nil || covered.String() != "1 added: 10.244.2.0/24 (pods of node node-2)") {
			t.Errorf("%s: %+v", want, covered)
		}
		if change.Existing == api.ExistingReset && result.Status.Reset != 3 {
			t.Errorf("%s: how many connections were reset is lost", want)
		}
		if result.Status.Capture.Fingerprint != f.Status("web").Capture.Fingerprint {
			t.Errorf("%s: the status is from before", want)
		}
	}
}

// TestNotCarriedAlong: a change goes on although the coverage cannot be brought along.
func TestNotCarriedAlong(t *testing.T) {
	f, c := fleet(api.Status{Capture: api.Capture{Coverage: old()}})
	c.Gateways = fakegateway.Gateways(func(ctx context.Context, call *fakegateway.Call) (any, error) {
		if call.Op() == "cover" {
			return nil, fakegateway.Refuse("no room")
		}
		return f.Answer(ctx, call)
	}).Client(nil)
	c.Carry = &Cover{Survey: twoNodes(t)}
	result := c.Change(t.Context(), new(podWith("web", runs())), Change{Mode: api.Strict})
	if result.Err != nil || len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], "not refreshed: no room") {
		t.Errorf("%q, %v", result.Warnings, result.Err)
	}
}
