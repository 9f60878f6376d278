package inject

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// says is what a gateway answers when it is asked for its status.
type says func(ctx context.Context, pod, container string) (*api.Status, error)

// gateways are told nothing, and say what they are asked for.
func gateways(status says) *remote.Client {
	return fakegateway.Gateways(func(ctx context.Context, call *fakegateway.Call) (any, error) {
		if call.Op() != "status" {
			return nil, fmt.Errorf("a gateway was told %q", call.Words)
		}
		answer, err := status(ctx, call.Pod, call.Container)
		if answer == nil {
			return nil, err
		}
		return answer, err
	}).Client(nil)
}

// readyWith is the answer of a gateway that trusts authority.
func readyWith(authority ca.Issuer) says {
	return func(_ context.Context, pod, _ string) (*api.Status, error) {
		return &api.Status{State: api.Ready, Pod: api.PodRef{UID: "uid-" + pod}, Cert: api.Certificate{
			NotAfter: time.Now().Add(time.Hour), Authorities: authority.Roots(),
		}}, nil
	}
}

func ready(_ context.Context, pod, _ string) (*api.Status, error) {
	return &api.Status{State: api.Ready, Pod: api.PodRef{UID: "uid-" + pod}}, nil
}

// silent never answers.
func silent(ctx context.Context, _, _ string) (*api.Status, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func newAuthority(t *testing.T) *ca.Authority {
	t.Helper()
	return must.Get(ca.New(ca.Options{}))(t)
}

// but changes what a gateway says.
func but(before says, change func(*api.Status)) says {
	return func(ctx context.Context, pod, container string) (*api.Status, error) {
		status, err := before(ctx, pod, container)
		change(status)
		return status, err
	}
}

// newCluster returns a cluster with the pod p, and the injector for it.
func newCluster(t *testing.T) (*fakecluster.Cluster, *Injector) {
	t.Helper()
	c := fakecluster.New(t, fakecluster.NewPod("p"))
	return c, newInjector(t, c)
}

func newInjector(t *testing.T, c *fakecluster.Cluster) *Injector {
	t.Helper()
	authority := newAuthority(t)
	return &Injector{
		Client:    c,
		Authority: authority,
		Gateways:  gateways(readyWith(authority)),
		Survey: &survey.Survey{Found: api.Coverage{
			Capture:  []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
			Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
			Nodes:    []netip.Addr{netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("192.168.1.2")},
		}},
		Options: Options{
			Image: "gateway:v1", PullPolicy: corev1.PullIfNotPresent,
			Mode: api.Permissive, OnFailure: api.FailOpen, Wire: api.WireAuto, Rules: api.Rules{Allow: []string{"ns/shop/sa/*"}},
			Named: api.Coverage{
				Exclude:       []netip.Prefix{netip.MustParsePrefix("10.244.9.9/32")},
				ExcludePorts:  []uint16{53},
				NodePorts:     api.DefaultNodePorts(),
				PlaintextFrom: []api.Source{{From: netip.MustParsePrefix("10.9.0.0/16")}},
			},
			Timeout: expect.Patience,
		},
	}
}
