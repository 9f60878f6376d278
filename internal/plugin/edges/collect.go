package edges

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/status"
)

// Collector asks the gateways of pods. Timeout is as in status.Collector.
type Collector struct {
	Gateways *remote.Client
	Timeout  time.Duration
	Now      func() time.Time
}

// View is what the gateway of one pod tells.
type View struct {
	Pod *corev1.Pod
	// Edges is nil if the gateway could not be asked: Err says why. Without either
	// the pod has no gateway.
	Edges *api.Edges
	Err   error
	// ahead is how far the gateway's clock is ahead of this machine's, about.
	ahead time.Duration
}

// Collect asks the gateways of pods, and returns what they say in the order of pods.
// The error is that of ctx.
func (c *Collector) Collect(ctx context.Context, pods []corev1.Pod) ([]View, error) {
	views := parallel.Each(status.DefaultParallel, pods, func(pod *corev1.Pod) View { return c.view(ctx, pod) }, nil)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("asking the gateways: %w", err)
	}
	return views, nil
}

func (c *Collector) view(ctx context.Context, pod *corev1.Pod) View {
	view := View{Pod: pod}
	gateway, ok := c.Gateways.Serving(ctx, pod)
	switch {
	case !ok || gateway.Disabled():
		return view
	case gateway.Phase != installed.Running:
		view.Err = api.WithHint(errors.New("its gateway does not run"), "'kubectl gateway status' says why")
		return view
	}
	view.Edges, view.Err = remote.InTime(ctx, cmp.Or(c.Timeout, status.DefaultTimeout), "", func(ctx context.Context) (*api.Edges, error) {
		return c.Gateways.Gateway(pod, gateway.Name).Edges(ctx)
	})
	if view.Err == nil {
		view.ahead = view.Edges.Time.Sub(c.Now())
	}
	return view
}

// own reports whether ip is an address of the view's pod. The gateway's own word
// counts for nothing here.
func (v *View) own(ip netip.Addr) bool {
	return slices.Contains(installed.PodIPs(v.Pod), ip.Unmap())
}
