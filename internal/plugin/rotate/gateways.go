package rotate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

const (
	// DefaultTimeout bounds how long one gateway may take.
	DefaultTimeout = 30 * time.Second
	// DefaultParallel is how many gateways are worked on at a time.
	DefaultParallel = 16
)

// Gateways talks to gateways; *remote.Client does it by exec.
type Gateways interface {
	Status(ctx context.Context, namespace, pod, container string, wait time.Duration) (*api.Status, error)
	Renew(ctx context.Context, namespace, pod, container string, sign remote.Sign) (*api.Status, error)
	Trust(ctx context.Context, namespace, pod, container string, bundle []byte) (*api.Status, error)
}

// Authority issues certificates. *ca.Authority is one.
type Authority interface {
	TrustDomain() string
	// Bundle returns the roots that gateways are to trust, as PEM.
	Bundle() []byte
	// Roots returns their fingerprints, that of the authority's own root first.
	Roots() []string
	Sign(csr []byte, request ca.LeafRequest) (*ca.Leaf, error)
}

// gateway is one container.
type gateway struct {
	pod  *corev1.Pod
	name string
}

// conversation is how gateways are spoken to. Every question may be asked twice:
// what was done already is done again without harm.
type conversation struct {
	Gateways
	// attempts and pause are how often a question is asked, and how long the
	// first pause is; each is four times the one before.
	attempts int
	pause    time.Duration
}

func newConversation(g Gateways) conversation {
	return conversation{Gateways: g, attempts: 3, pause: 250 * time.Millisecond}
}

// retry asks until there is an answer, or an error that stays.
func (c *conversation) retry(ctx context.Context, ask func() (*api.Status, error)) (*api.Status, error) {
	pause := c.pause
	for attempt := 1; ; attempt++ {
		status, err := ask()
		if err == nil || attempt >= c.attempts || final(err) || ctx.Err() != nil {
			return status, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
		pause *= 4
	}
}

// final reports whether asking again would lead nowhere.
func final(err error) bool {
	for _, e := range []error{remote.ErrForbidden, remote.ErrPodGone, remote.ErrNotRunning, errNotSigned} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// status asks a gateway how it is, and makes sure that it is the pod's.
func (c *conversation) status(ctx context.Context, g gateway, wait time.Duration) (*api.Status, error) {
	status, err := c.retry(ctx, func() (*api.Status, error) {
		return c.Status(ctx, g.pod.Namespace, g.pod.Name, g.name, wait)
	})
	if err != nil {
		return nil, err
	}
	return status, checkPod(g, status)
}

func (c *conversation) trust(ctx context.Context, g gateway, bundle []byte) (*api.Status, error) {
	status, err := c.retry(ctx, func() (*api.Status, error) {
		return c.Trust(ctx, g.pod.Namespace, g.pod.Name, g.name, bundle)
	})
	if err != nil {
		return nil, err
	}
	return status, checkPod(g, status)
}

// errNotSigned says that no certificate was made for a gateway's request.
var errNotSigned = errors.New("the request was not signed")

// renew gives a gateway a certificate by authority, and makes sure that it is the
// one that the gateway uses then.
func (c *conversation) renew(ctx context.Context, g gateway, authority Authority, ttl time.Duration) (*api.Status, error) {
	ips := installed.PodIPs(g.pod)
	if len(ips) == 0 {
		return nil, errors.New("the pod has no address")
	}
	// The call may end before the signing does, and an attempt that failed may
	// have signed.
	var (
		mu     sync.Mutex
		serial string
	)
	sign := func(csr []byte) (*api.IssuedCertificate, error) {
		leaf, err := authority.Sign(csr, ca.LeafRequest{
			Identity: installed.Identity(g.pod, authority.TrustDomain()), IPs: ips, TTL: ttl,
		})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNotSigned, err)
		}
		mu.Lock()
		defer mu.Unlock()
		serial = leaf.Serial
		return &api.IssuedCertificate{Certificate: string(leaf.CertPEM), Bundle: string(authority.Bundle())}, nil
	}
	status, err := c.retry(ctx, func() (*api.Status, error) {
		return c.Renew(ctx, g.pod.Namespace, g.pod.Name, g.name, sign)
	})
	if err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	if err := checkPod(g, status); err != nil {
		return nil, err
	}
	switch {
	case serial == "" || status.Cert.Serial != serial:
		return nil, fmt.Errorf("the gateway says that its certificate is %.40q, not the one that was made (%.40q)", status.Cert.Serial, serial)
	case status.Cert.Issuer != authority.Roots()[0]:
		return nil, fmt.Errorf("the gateway says that its certificate leads to %.16q, not to %.16q", status.Cert.Issuer, authority.Roots()[0])
	case !sameSet(status.Cert.Authorities, authority.Roots()):
		return nil, errors.New("the gateway says that it trusts other authorities than it was given")
	}
	return status, nil
}

func checkPod(g gateway, status *api.Status) error {
	if status.Pod.UID != string(g.pod.UID) {
		return errors.New("what answers serves another pod")
	}
	return nil
}

func holdsAll(list, wanted []string) bool {
	return !slices.ContainsFunc(wanted, func(w string) bool { return !slices.Contains(list, w) })
}

func sameSet(a, b []string) bool { return holdsAll(a, b) && holdsAll(b, a) }
