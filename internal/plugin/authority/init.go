package authority

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Store says where the authority's key is kept.
type Store string

const (
	// StoreLocal keeps the key on this machine only.
	StoreLocal Store = "local"
	// StoreCluster keeps it in a Secret of the cluster as well.
	StoreCluster Store = "cluster"
)

// InitOptions say what authority Init is to set up.
type InitOptions struct {
	Client kubernetes.Interface
	// Dir is the directory on this machine; if empty, that of [ResolveDir].
	Dir string
	// Getenv is os.Getenv if nil.
	Getenv func(string) string
	// Store is [StoreLocal] if empty.
	Store Store
	// TrustDomain may be empty: that of the authority that exists or is
	// brought along, else [ca.DefaultTrustDomain].
	TrustDomain string
	// TTL is [ca.DefaultTTL] if zero.
	TTL time.Duration
	// CertPEM and KeyPEM are the authority that is brought along (see
	// [ca.Import]); both empty if one is to be made.
	CertPEM, KeyPEM []byte
	// Force replaces what is there.
	Force bool
	// Progress, if not nil, is told each thing that is done.
	Progress func(line string)
}

// InitResult is what Init has found and done.
type InitResult struct {
	Authority *ca.Authority
	// File holds the authority on this machine; empty if it lies only in the
	// cluster.
	File string
	// Backup holds the one that was replaced, or is empty.
	Backup string
	// InCluster reports whether the Secret holds the authority.
	InCluster bool
	// Created reports whether the authority is new.
	Created bool
	// Changed reports whether anything at all was written.
	Changed bool
}

// Init sets up the authority of a cluster. Where one exists, it only repairs
// what is missing of it (the trust bundle, the Secret of [StoreCluster]). It
// refuses to replace anything ([ErrExists], [ErrForeign]) without Force.
//
// The key is on disk before the cluster hears of the authority: interrupted in
// between, Init finishes the work when it is run again.
func Init(ctx context.Context, o InitOptions) (*InitResult, error) {
	if o.Store == "" {
		o.Store = StoreLocal
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	dir, err := ResolveDir(ctx, o.Client, o.Dir, o.Getenv)
	if err != nil {
		return nil, err
	}
	if o.Force {
		return o.replace(ctx, dir)
	}
	return o.ensure(ctx, dir)
}

func (o *InitOptions) validate() error {
	switch {
	case o.Store != StoreLocal && o.Store != StoreCluster:
		return api.WithHint(fmt.Errorf("store %q is unknown", o.Store), fmt.Sprintf("use %s or %s", StoreLocal, StoreCluster))
	case (len(o.CertPEM) == 0) != (len(o.KeyPEM) == 0):
		return api.WithHint(errors.New("a certificate and its private key are needed together"), "give both --from-cert and --from-key")
	case len(o.CertPEM) > 0 && o.TTL != 0:
		return api.WithHint(errors.New("the lifetime of an existing certificate cannot be chosen"), "leave out --ttl")
	case o.TrustDomain != "":
		return ca.ValidateTrustDomain(o.TrustDomain)
	}
	return nil
}

// mint makes the authority that the options describe or takes the one that they
// bring along.
func (o *InitOptions) mint() (*ca.Authority, error) {
	if len(o.CertPEM) == 0 {
		a, err := ca.New(ca.Options{TrustDomain: o.TrustDomain, TTL: o.TTL})
		if err != nil {
			return nil, fmt.Errorf("making the authority: %w", err)
		}
		return a, nil
	}
	a, err := ca.Import(o.CertPEM, o.KeyPEM, o.TrustDomain)
	if err == nil {
		err = a.ValidAt(time.Now())
	}
	if errors.Is(err, ca.ErrMismatch) {
		err = api.WithHint(err, "the first certificate of --from-cert must be the one that --from-key belongs to")
	}
	if err != nil {
		return nil, fmt.Errorf("importing the authority: %w", err)
	}
	return a, nil
}

// ensure finds the authority or makes one where there is none.
func (o *InitOptions) ensure(ctx context.Context, dir string) (*InitResult, error) {
	local, err := LoadDir(dir)
	if err != nil && !errors.Is(err, ErrNoAuthority) {
		return nil, err
	}
	bundle, err := FetchBundle(ctx, o.Client)
	if err != nil && !errors.Is(err, ErrNoBundle) {
		return nil, err
	}
	stored, err := FetchAuthority(ctx, o.Client)
	switch {
	case errors.Is(err, ErrNoAuthority):
	case apierrors.IsForbidden(err) && o.Store == StoreLocal:
		// Whoever may not read Secrets of kube-system can still keep the
		// authority on this machine.
	case err != nil:
		return nil, err
	}
	a := local
	if a == nil {
		a = stored
	}
	if a == nil {
		return o.first(ctx, dir, bundle)
	}
	if bundle == nil || local != nil && stored != nil && !local.Equal(stored) {
		// What is missing, or differs, may be a rotation's to repair.
		if err := o.checkRotation(ctx, dir, stored != nil); err != nil {
			return nil, err
		}
	}
	if local != nil && stored != nil && !local.Equal(stored) {
		return nil, api.WithHint(fmt.Errorf("secret %s in %s holds another authority than %s: %w", SecretName, Namespace, Path(dir), ErrForeign), foreignHint)
	}
	if bundle != nil && !bundle.Holds(a) {
		return nil, foreignError(bundle)
	}
	if err := o.wants(a); err != nil {
		return nil, err
	}
	result := &InitResult{Authority: a, InCluster: stored != nil}
	if local != nil {
		result.File = Path(dir)
	}
	return result, o.publish(ctx, result)
}

// checkRotation fails if a rotation is under way, here or in the cluster.
func (o *InitOptions) checkRotation(ctx context.Context, dir string, inCluster bool) error {
	places := []place{&dirPlace{store: store{dir: dir}}}
	if inCluster {
		places = append(places, &clusterPlace{client: o.Client})
	}
	for _, p := range places {
		state, err := p.read(ctx)
		if err != nil && !errors.Is(err, ErrNoAuthority) {
			return err
		}
		if state[next] != nil || state[previous] != nil {
			return api.WithHint(fmt.Errorf("%w, and its rotation is under way", ErrExists), "'kubectl gateway rotate --ca' continues the rotation, and publishes the trust bundle")
		}
	}
	return nil
}

// wants reports ErrExists if the options ask for something else than a.
func (o *InitOptions) wants(a *ca.Authority) error {
	const hint = "leave the flag out to keep the authority, or replace it with --force, or with 'kubectl gateway rotate --ca' while traffic goes on"
	if o.TrustDomain != "" && o.TrustDomain != a.TrustDomain() {
		return api.WithHint(fmt.Errorf("%w, for trust domain %q instead of %q", ErrExists, a.TrustDomain(), o.TrustDomain), hint)
	}
	if len(o.CertPEM) == 0 {
		return nil
	}
	brought, err := o.mint()
	if err != nil {
		return err
	}
	if !brought.Certificate().Equal(a.Certificate()) {
		return api.WithHint(fmt.Errorf("%w, another one than that of --from-cert", ErrExists), hint)
	}
	return nil
}

// first sets up the first authority of a cluster.
func (o *InitOptions) first(ctx context.Context, dir string, bundle *Bundle) (*InitResult, error) {
	a, err := o.mint()
	if err != nil {
		return nil, err
	}
	// With --from-cert, the one that is published may be the very same.
	if bundle != nil && !bundle.Holds(a) {
		return nil, foreignError(bundle)
	}
	if err := CreateDir(dir, a); err != nil {
		return nil, err
	}
	result := &InitResult{Authority: a, File: Path(dir), Created: true, Changed: true}
	o.Progress("authority written to " + result.File)
	return result, o.publish(ctx, result)
}

// replace puts a new authority in the place of all that is there.
func (o *InitOptions) replace(ctx context.Context, dir string) (*InitResult, error) {
	a, err := o.mint()
	if err != nil {
		return nil, err
	}
	if o.Store == StoreLocal {
		// A Secret that is left behind would hold an authority that nobody
		// trusts any more; deleting a key is the operator's business.
		if exists, err := secretExists(ctx, o.Client); err != nil {
			return nil, err
		} else if exists {
			return nil, api.WithHint(fmt.Errorf("%w in secret %s in %s, and it would stay there", ErrExists, SecretName, Namespace),
				fmt.Sprintf("add --store=cluster, or delete it first with 'kubectl delete secret %s -n %s'", SecretName, Namespace))
		}
	}
	// What is left of a rotation would go on with it.
	if err := o.endRotation(ctx, dir); err != nil {
		return nil, err
	}
	backup, err := ReplaceDir(dir, a)
	if err != nil {
		return nil, err
	}
	result := &InitResult{Authority: a, File: Path(dir), Backup: backup, Created: true, Changed: true}
	if backup != "" {
		o.Progress("old authority kept as " + backup)
	}
	o.Progress("authority written to " + result.File)
	return result, o.publish(ctx, result)
}

// endRotation puts the other authorities of a rotation away, whatever their state.
func (o *InitOptions) endRotation(ctx context.Context, dir string) error {
	s := store{dir: dir}
	for _, name := range []string{nextName, previousName} {
		if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		backup, err := s.retire(name)
		if err != nil {
			return err
		}
		o.Progress(name + " kept as " + backup)
	}
	if o.Store != StoreCluster {
		return nil
	}
	for _, name := range []string{NextSecretName, PreviousSecretName} {
		err := o.Client.CoreV1().Secrets(Namespace).Delete(ctx, name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return clusterError("removing what is left of a rotation", "delete", "secret "+name, err)
		}
	}
	return nil
}

// publish brings the cluster's part up to date.
func (o *InitOptions) publish(ctx context.Context, result *InitResult) error {
	changed, err := PublishBundle(ctx, o.Client, result.Authority, o.Force)
	if err != nil {
		return err
	}
	if changed {
		result.Changed = true
		o.Progress(fmt.Sprintf("trust bundle published as configmap %s in %s", BundleName, Namespace))
	}
	if o.Store != StoreCluster {
		return nil
	}
	changed, err = PublishAuthority(ctx, o.Client, result.Authority, o.Force)
	if err != nil {
		return err
	}
	result.InCluster = true
	if changed {
		result.Changed = true
		o.Progress(fmt.Sprintf("authority stored as secret %s in %s", SecretName, Namespace))
	}
	return nil
}
