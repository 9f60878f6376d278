package remote

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

const (
	// maxSocketName is the longest name of an abstract Unix socket (sun_path without its leading
	// zero byte, unix(7)).
	maxSocketName = 107
	// minToken is the least length of a token, in bytes.
	minToken = 16
	// servingTimeout bounds the question which of two gateways serves.
	servingTimeout = 10 * time.Second
)

// Serving returns the gateway that answers for pod, as installed.Current does. Only while one
// waits to take the place of another one, or has taken it and the other one drains, it asks which
// of them that is.
func (c *Client) Serving(ctx context.Context, pod *corev1.Pod) (installed.Gateway, bool) {
	gateway, ok := installed.Current(pod)
	if !ok || gateway.Phase != installed.Running {
		return gateway, ok
	}
	if before, both := installed.Predecessor(pod, gateway); both && c.waits(ctx, pod, gateway.Name, before.Name) {
		return before, true
	}
	return gateway, true
}

// waits reports whether the gateway called newer has not taken the place of the one called older.
func (c *Client) waits(ctx context.Context, pod *corev1.Pod, newer, older string) bool {
	ctx, cancel := context.WithTimeout(ctx, servingTimeout)
	defer cancel()
	if status, err := c.Gateway(pod, newer).Status(ctx); err == nil {
		return !serves(status)
	}
	// It may not have come so far, or it may be stuck.
	status, err := c.Gateway(pod, older).Status(ctx)
	return err != nil || status.State != api.Draining
}

// serves reports whether a gateway with status has begun to serve.
func serves(status *api.Status) bool {
	return status.State != api.Standby && status.State != api.Starting && status.State != api.Uncertified && status.State != api.Disabled
}

// Running is installed.RunningGateway of the gateway that Serving returns.
func (c *Client) Running(ctx context.Context, pod *corev1.Pod) (installed.Gateway, error) {
	gateway, err := installed.RunningGateway(pod)
	if err == nil {
		gateway, _ = c.Serving(ctx, pod)
	}
	return gateway, err
}

// Ask calls ask, as InTime does, with the gateway that Running returns, and returns its container.
func (c *Client) Ask(ctx context.Context, pod *corev1.Pod, timeout time.Duration, done string, ask func(context.Context, *Conn) error) (container string, err error) {
	gateway, err := c.Running(ctx, pod)
	if err == nil {
		_, err = InTime(ctx, timeout, done, func(ctx context.Context) (any, error) { return nil, ask(ctx, c.Gateway(pod, gateway.Name)) })
		err = c.Ended(ctx, pod, err)
	}
	return gateway.Name, err
}

// Ended returns err, or what Running says now if err is that the gateway which it has returned does not run any more.
func (c *Client) Ended(ctx context.Context, pod *corev1.Pod, err error) error {
	if !errors.Is(err, ErrNotRunning) {
		return err
	}
	if now, rereadErr := installed.Reread(ctx, c.Kube, pod); rereadErr == nil {
		if _, ended := installed.RunningGateway(now); ended != nil {
			return ended
		}
	}
	return err
}

// HandOver has the gateway wait half a minute for another one to take its place, in place of one
// that it waited for. Nothing changes until that comes. Connections that are open then have
// drain to end.
func (g *Conn) HandOver(ctx context.Context, drain time.Duration) (*api.Handover, error) {
	offer, err := get(ctx, g, nil, checkHandover, "hand-over", "--drain-timeout="+drain.String())
	if errors.Is(err, errTooOld) {
		return nil, api.WithHint(errors.New("the gateway is too old to hand over to another one"),
			fmt.Sprintf("'kubectl gateway disable pod/%s -n %s', then enable it again; connections meanwhile are not encrypted", g.pod.Name, g.pod.Namespace))
	}
	return offer, err
}

func checkHandover(offer *api.Handover) error {
	if offer.Socket == "" || len(offer.Socket) > maxSocketName || len(offer.Token) < minToken {
		return errors.New("its answer does not say how to take over from it")
	}
	return nil
}

// TakeOver has the gateway, which is in api.Standby, take the place of the one that offer is
// from, and returns its status then. It is tried once: an error may have come behind the change,
// and the gateway's status tells. If the gateway refuses in its own words, it ends.
func (g *Conn) TakeOver(ctx context.Context, offer *api.Handover) (*api.Status, error) {
	line, err := jsonLine(offer)
	if err != nil {
		return nil, fmt.Errorf("sending what another gateway offers: %w", err)
	}
	once := &Conn{client: &Client{Kube: g.client.Kube, Runner: g.client.Runner}, pod: g.pod, container: g.container}
	return once.tell(ctx, line, "take-over")
}
