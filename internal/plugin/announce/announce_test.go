package announce

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// requests counts the requests of c with a verb about a resource.
func requests(c *fakecluster.Cluster, verb, resource string) int {
	n := 0
	for _, a := range c.Actions() {
		if a.Matches(verb, resource) {
			n++
		}
	}
	return n
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fakecluster.New(t)
		p := NewPoster(c)
		p.Post("shop", "p", "uid-p", Enabled, "enabled (kube-gateway)")
		p.Post("shop", "q", "uid-q", Refused, strings.Repeat("\u20ac\n", 1000))
		p.Close()
		list := must.Get(c.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{}))(t).Items
		if len(list) != 2 || len(list[1].Message) > maxMessage {
			t.Fatalf("%d events: %+v", len(list), list)
		}
		e := list[0]
		expect.Equal(t, "about", corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: "shop", Name: "p", UID: "uid-p"}, e.InvolvedObject)
		expect.Equal(t, "event", "GatewayEnabled Normal enabled (kube-gateway) of kubectl-gateway", fmt.Sprintf("%s %s %s of %s", e.Reason, e.Type, e.Message, e.Source.Component))
		expect.Equal(t, "type of a refusal", corev1.EventTypeWarning, list[1].Type)
	})
}

// TestEventsAreBounded: neither many pods nor a missing right make many requests.
func TestEventsAreBounded(t *testing.T) {
	for right, most := range map[bool]int{true: burst + 2, false: 1} {
		synctest.Test(t, func(t *testing.T) {
			c := fakecluster.New(t)
			if !right {
				c.Forbid("create", "events")
			}
			p := NewPoster(c)
			for i := range 10 * burst {
				p.Post("shop", fmt.Sprintf("p-%d", i), "uid", Renewed, "renewed")
			}
			p.Close()
			if n := requests(c, "create", "events"); n == 0 || n > most {
				t.Errorf("right %v: %d requests, want %d at most", right, n, most)
			}
		})
	}
}

func TestLabel(t *testing.T) {
	c := fakecluster.New(t, fakecluster.NewPod("p"))
	m := NewMarker(c)
	for _, mode := range []api.Mode{api.Strict, api.Strict, "evil=x", api.Permissive, "", ""} {
		m.Label(t.Context(), c.Pod("p"), mode)
		want := string(mode)
		if mode == "evil=x" {
			want = string(api.Strict)
		}
		expect.Equal(t, "label", want, c.Pod("p").Labels[api.LabelMode])
	}
	if n := requests(c, "patch", "pods"); n != 3 {
		t.Errorf("%d requests for three changes", n)
	}
	patch := must.Get(lastPatch(c))(t)
	if !strings.Contains(patch, `"uid":"uid-p"`) {
		t.Errorf("the patch %s may hit another pod of the name", patch)
	}
	c.Forbid("patch", "pods")
	for range 3 {
		m.Label(t.Context(), c.Pod("p"), api.Strict)
	}
	if n := requests(c, "patch", "pods"); n != 4 {
		t.Errorf("%d requests, want one more without the right", n)
	}
	(*Marker)(nil).Label(t.Context(), c.Pod("p"), api.Strict)
}

func lastPatch(c *fakecluster.Cluster) (text string, err error) {
	err = fmt.Errorf("no patch")
	for _, a := range c.Actions() {
		if p, ok := a.(clienttesting.PatchAction); ok {
			text, err = string(p.GetPatch()), nil
		}
	}
	return text, err
}
