package authority

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/keys"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Phase is how far the replacement of an authority by its successor has come.
type Phase int

const (
	// Idle means that no rotation is under way.
	Idle Phase = iota
	// Trusting means that the successor exists. It signs nothing before every
	// gateway trusts it.
	Trusting
	// Reissuing means that the successor signs, and that the root of its
	// predecessor is still in the trust bundle.
	Reissuing
	// Dropping means that the predecessor's root is out of the trust bundle, and
	// may still be trusted by gateways.
	Dropping
)

func (p Phase) String() string {
	return [...]string{Idle: "idle", Trusting: "trusting", Reissuing: "reissuing", Dropping: "dropping"}[p]
}

// Rotation is the replacement of a cluster's authority as it stands. What is kept
// says how far it has come, so that any operator who opens it can continue it:
//
//	Idle       current                 bundle: its root
//	Trusting   current, next           bundle: both roots, once Publish is done
//	Reissuing  current, previous       bundle: both roots
//	Dropping   current, previous       bundle: the root of current
//
// The authorities are kept on this machine, in Secrets of the cluster, or in both.
// Of both, the cluster's count: other operators see them, too. A crash leaves every
// change undone or done. A Rotation must not be used concurrently; other operators
// may work at the same time.
type Rotation struct {
	client kubernetes.Interface
	// stores starts with the one that counts. states are what they hold.
	stores []store
	states []state
	// retired are the roots that one of stores has retired.
	retired []*x509.Certificate
	// keys opens their keys.
	keys *keys.Ring
	// files is one of stores, or nil.
	files *dirStore
	// bundle is nil if the cluster has lost it.
	bundle *bundle
}

// OpenRotation looks how far the rotation of a cluster's authority has come, and
// changes nothing. Errors are those of [Load]; [ErrForeign] also means that another
// operator has begun a rotation whose authorities are not to be found here.
func OpenRotation(ctx context.Context, l Location) (*Rotation, error) {
	files, err := l.files(ctx)
	if err != nil {
		return nil, err
	}
	r := &Rotation{client: l.Client, keys: l.Keys}
	for _, s := range []store{&secretStore{client: l.Client}, files} {
		found, err := s.read(ctx)
		if errors.Is(err, ErrNoAuthority) || err == nil && found[current] == nil {
			continue
		}
		if apierrors.IsForbidden(err) {
			// Where a signer issues the certificates, nobody needs the right to read Secrets.
			if other := noAuthority(ctx, l.Client, files); errors.Is(other, ErrSigner) {
				return nil, other
			}
		}
		if err != nil {
			return nil, err
		}
		retired, err := s.retiredRoots(ctx)
		if err != nil {
			return nil, err
		}
		for _, root := range retired {
			r.retired = withRoot(r.retired, root)
		}
		r.stores, r.states = append(r.stores, s), append(r.states, found)
		if s == store(files) {
			r.files = files
		}
	}
	if len(r.stores) == 0 {
		return nil, noAuthority(ctx, l.Client, files)
	}
	for i, s := range r.stores[1:] {
		if !r.related(r.states[i+1]) {
			return nil, api.WithHint(fmt.Errorf("%s holds another authority than %s: %w", s, r.stores[0], ErrForeign),
				fmt.Sprintf("the cluster's counts: move %s away", s))
		}
	}
	if err := checkNotRetired(r.Current(), r.retired, r.stores[0].String()); err != nil {
		return nil, err
	}
	r.bundle, err = fetchBundle(ctx, l.Client)
	if errors.Is(err, ErrNoBundle) && r.Other() != nil {
		return r, nil // the bundle can be made again from what is kept
	}
	if err != nil {
		return nil, err
	}
	return r, r.checkBundle(r.bundle)
}

// related reports whether the store that counts has been in state s, or is to get
// there.
func (r *Rotation) related(s state) bool {
	s = s.plain()
	for _, a := range r.states[0] {
		if a != nil && (a.Equal(s[current]) || a.Equal(s[next])) {
			return true
		}
	}
	return false
}

// checkBundle returns ErrForeign unless the current root is in the bundle, and no
// root besides those of the rotation.
func (r *Rotation) checkBundle(b *bundle) error {
	if !b.holds(r.Current()) {
		return notTrusted(r.stores[0].String(), r.Current(), b)
	}
	known := r.Both().Roots()
	for _, cert := range b.certificates {
		if slices.Contains(known, ca.Fingerprint(cert)) {
			continue
		}
		err := fmt.Errorf("%w, besides that of %s: configmap %s in %s has %s", ErrForeign, r.stores[0], BundleName, Namespace, short(cert))
		if slices.ContainsFunc(r.retired, cert.Equal) {
			return api.WithHint(fmt.Errorf("%w; %w", err, ErrRetired), "find out who put it back; 'kubectl gateway init-ca' removes it")
		}
		if partner, _ := b.partner(r.Current()); partner != nil && partner.Equal(cert) {
			return api.WithHint(err, "another operator has begun a rotation: only they can continue it, "+
				"or someone with copies of all their files authority*.pem")
		}
		return api.WithHint(err, fmt.Sprintf("find out who trusts it, then remove it: 'kubectl edit configmap %s -n %s'", BundleName, Namespace))
	}
	return nil
}

// kept returns what the store that counts holds.
func (r *Rotation) kept() state { return r.states[0].plain() }

// Phase returns how far the rotation has come.
func (r *Rotation) Phase() Phase {
	kept := r.kept()
	switch {
	case kept[previous] != nil && (r.bundle == nil || r.bundle.holds(kept[previous])) &&
		!slices.ContainsFunc(r.retired, kept[previous].Root().Equal):
		return Reissuing
	case kept[previous] != nil:
		return Dropping
	case kept[next] != nil:
		return Trusting
	}
	return Idle
}

// Current returns the authority that signs. Its bundle is its own root alone.
func (r *Rotation) Current() *ca.Authority { return r.states[0][current] }

// Both returns the authority that signs, with the roots of both authorities in its
// bundle.
func (r *Rotation) Both() *ca.Authority {
	if other := r.Other(); other != nil {
		return r.Current().Trusting(other.Root())
	}
	return r.Current()
}

// Other returns the successor in phase Trusting, the predecessor in later phases,
// and nil in phase Idle.
func (r *Rotation) Other() *ca.Authority {
	kept := r.kept()
	if kept[previous] != nil {
		return kept[previous]
	}
	return kept[next]
}

// Where names the places where the authorities are kept.
func (r *Rotation) Where() []string {
	var list []string
	for _, s := range r.stores {
		list = append(list, s.String())
	}
	return list
}

// Backup returns the path of the last backup that was made on this machine, or "".
func (r *Rotation) Backup() string {
	if r.files == nil {
		return ""
	}
	return r.files.backup
}

// Follows returns [ErrExists] if s is an authority that exists, and not the
// successor in the rotation that is under way.
func (r *Rotation) Follows(s Source) error {
	if !s.exists() {
		return nil
	}
	a, err := s.get(r.keys, r.Current().TrustDomain())
	if err != nil {
		return err
	}
	successor := r.Current()
	if r.Phase() == Trusting {
		successor = r.Other()
	}
	if a.Equal(successor) {
		return nil
	}
	return api.WithHint(fmt.Errorf("%w: a rotation to authority %s is under way", ErrExists, short(successor.Root())),
		"leave out --from-cert and --from-key to finish it first")
}
