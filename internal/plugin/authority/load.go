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

// LoadOptions say where Load looks for the authority.
type LoadOptions struct {
	Client kubernetes.Interface
	// Dir is the directory on this machine; if empty, that of [ResolveDir].
	Dir string
	// Getenv is os.Getenv if nil.
	Getenv func(string) string
}

// Load returns the authority of a cluster: the one on this machine, or else the
// one in the cluster's Secret. Either must be in the cluster's trust bundle:
// what another issues would be refused by the gateways that run already. While a
// rotation is under way, the bundle of what Load returns holds both its roots, on
// the side of the old authority as on that of the new one. The
// error is [ErrNoAuthority] if neither exists, [ErrForeign] or [ErrNoBundle] if
// the cluster does not trust what was found, or one of those of [LoadDir].
func Load(ctx context.Context, opts LoadOptions) (*ca.Authority, error) {
	dir, err := ResolveDir(ctx, opts.Client, opts.Dir, opts.Getenv)
	if err != nil {
		return nil, err
	}
	a, err := LoadDir(dir)
	where := Path(dir)
	if errors.Is(err, ErrNoAuthority) {
		where = "secret " + SecretName + " in " + Namespace
		a, err = FetchAuthority(ctx, opts.Client)
		if apierrors.IsForbidden(err) || errors.Is(err, ErrNoAuthority) {
			return nil, noAuthority(ctx, opts.Client, dir)
		}
	}
	if err != nil {
		return nil, err
	}
	bundle, err := FetchBundle(ctx, opts.Client)
	if errors.Is(err, ErrNoBundle) {
		return nil, api.WithHint(fmt.Errorf("checking that the cluster trusts the authority of %s: %w", where, ErrNoBundle),
			"run 'kubectl gateway init-ca' again: it publishes the trust bundle and changes nothing else")
	}
	if err != nil {
		return nil, err
	}
	if !bundle.Holds(a) {
		return nil, fmt.Errorf("the authority of %s (%s) is a foreign one: %w", where, short(a.Root()), foreignError(bundle))
	}
	if other := bundle.partner(a); other != nil {
		a = a.Trusting(other)
	}
	return a, nil
}

// noAuthority tells a cluster without an authority from one whose authority
// lies with somebody else.
func noAuthority(ctx context.Context, client kubernetes.Interface, dir string) error {
	err := fmt.Errorf("%w in %s", ErrNoAuthority, dir)
	if bundle, bundleErr := FetchBundle(ctx, client); bundleErr == nil {
		return api.WithHint(fmt.Errorf("%w, but the cluster trusts %s", err, bundle), foreignHint)
	}
	return api.WithHint(fmt.Errorf("%w and none in the cluster", err), "run 'kubectl gateway init-ca' first")
}
