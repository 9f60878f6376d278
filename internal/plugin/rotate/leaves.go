package rotate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// DefaultTimeout bounds how long one gateway may take.
const DefaultTimeout = 30 * time.Second

// Result is the outcome for one pod.
type Result struct {
	Pod       *corev1.Pod
	Container string
	// OldSerial is that of the certificate before, "" if there was none.
	OldSerial string
	// Status is what the gateway says with its new certificate, nil if it failed.
	Status *api.Status
	// Warnings are for the user, one line each.
	Warnings []string
	// Err is why the certificate was not renewed, or why that is not known. Its
	// words may be the gateway's: clean them before they reach a terminal.
	Err error
}

// Rotator renews the certificates of gateways. It is safe for concurrent use.
type Rotator struct {
	Gateways  *remote.Client
	Authority ca.Issuer
	// TTL is how long the certificates are valid; the issuer's choice if zero.
	TTL time.Duration
	// Timeout of one gateway is DefaultTimeout if zero.
	Timeout time.Duration
}

// Rotate gives the gateway that runs in pod a new key and certificate.
func (r *Rotator) Rotate(ctx context.Context, pod *corev1.Pod) Result {
	result := Result{Pod: pod}
	result.Container, result.Err = r.Gateways.Ask(ctx, pod, cmp.Or(r.Timeout, DefaultTimeout), "the certificate may have been renewed", func(ctx context.Context, g *remote.Conn) error {
		return r.rotate(ctx, g, &result)
	})
	return result
}

func (r *Rotator) rotate(ctx context.Context, g *remote.Conn, result *Result) error {
	before, err := g.Status(ctx)
	if err != nil {
		return err
	}
	if before.State == api.Draining {
		return errors.New("the gateway is being disabled")
	}
	result.OldSerial = before.Cert.Serial
	if result.Status, err = g.Renew(ctx, r.Authority.Keeping(before.Cert.Authorities), r.TTL); err != nil {
		return err
	}
	_, own := r.Authority.(*ca.Authority)
	if end, ttl := result.Status.Cert.NotAfter, cmp.Or(r.TTL, ca.DefaultLeafTTL); own && time.Until(end) < ttl-time.Minute {
		result.Warnings = append(result.Warnings, fmt.Sprintf("its certificate ends with the authority's, on %s", end.UTC().Format(time.DateOnly)))
	}
	return nil
}
