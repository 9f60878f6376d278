package authority

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Load returns the authority of a cluster: the one on this machine, or else the
// one in the cluster's Secret. It must be in the cluster's trust bundle: running
// gateways would refuse what another one issues. During a rotation the bundle of
// what Load returns holds both roots, also where the old authority is found. The
// error is [ErrNoAuthority] if there is neither, [ErrForeign] or [ErrNoBundle] if
// the cluster does not trust what was found, or one of those of [LoadDir].
func Load(ctx context.Context, l Location) (*ca.Authority, error) {
	files, err := l.files(ctx)
	if err != nil {
		return nil, err
	}
	a, err := files.get(current)
	where := files.String()
	if errors.Is(err, ErrNoAuthority) {
		secrets := &secretStore{client: l.Client}
		where = secrets.String()
		a, err = secrets.get(ctx, current)
		if apierrors.IsForbidden(err) || errors.Is(err, ErrNoAuthority) {
			return nil, noAuthority(ctx, l.Client, files.dir)
		}
	}
	if err != nil {
		return nil, err
	}
	bundle, err := fetchBundle(ctx, l.Client)
	if errors.Is(err, ErrNoBundle) {
		return nil, api.WithHint(fmt.Errorf("checking that the cluster trusts the authority of %s: %w", where, ErrNoBundle),
			"run 'kubectl gateway init-ca' again: it publishes the trust bundle and changes nothing else")
	}
	if err != nil {
		return nil, err
	}
	if !bundle.holds(a) {
		return nil, notTrusted(where, a, bundle)
	}
	if other := bundle.partner(a); other != nil {
		a = a.Trusting(other)
	}
	return a, nil
}

// notTrusted is the error for an authority that is not in the trust bundle.
func notTrusted(where string, a *ca.Authority, b *bundle) error {
	return fmt.Errorf("the authority of %s (%s) is a foreign one: %w", where, short(a.Root()), foreignError(b))
}

// noAuthority tells a cluster without an authority from one whose authority
// somebody else has.
func noAuthority(ctx context.Context, client kubernetes.Interface, dir string) error {
	err := fmt.Errorf("%w in %s", ErrNoAuthority, dir)
	if bundle, bundleErr := fetchBundle(ctx, client); bundleErr == nil {
		return api.WithHint(fmt.Errorf("%w, but the cluster trusts %s", err, bundle), foreignHint)
	}
	return api.WithHint(fmt.Errorf("%w and none in the cluster", err), "run 'kubectl gateway init-ca' first")
}
