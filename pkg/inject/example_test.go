package inject_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// A pod gets a gateway, which is ready when Enable returns. A second Enable leaves it alone.
func ExampleInjector_Enable() {
	authority, err := ca.New(ca.Options{})
	if err != nil {
		panic(err)
	}
	cluster := fakecluster.New(&testing.T{}, fakecluster.NewPod("web"))
	injector := inject.Injector{
		Client: cluster,
		// A real one is remote.NewClient, and a real survey that of survey.Run.
		Gateways: fakegateway.Gateways(func(_ context.Context, call *fakegateway.Call) (any, error) {
			return &api.Status{State: api.Ready, Pod: api.PodRef{UID: "uid-" + call.Pod}, Cert: api.Certificate{
				NotAfter: time.Now().Add(time.Hour), Authorities: authority.Roots()}}, nil
		}).Client(cluster),
		Survey:    &survey.Survey{Found: api.Coverage{Capture: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}},
		Authority: authority,
		Options: inject.Options{Image: "gateway:v1", Mode: api.Strict, OnFailure: api.FailClosed,
			TTL: 24 * time.Hour, Timeout: inject.DefaultTimeout},
	}
	for range 2 {
		result := injector.Enable(context.Background(), cluster.Pod("web"))
		fmt.Println(result.Action, result.Container, result.Status.State, result.Err, result.Warnings)
	}
	// Output:
	// enabled kube-gateway ready <nil> []
	// unchanged kube-gateway ready <nil> []
}
