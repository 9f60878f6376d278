package authority

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/keys"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/keycommand"
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
	Location
	Source
	// Store is [StoreLocal] if empty.
	Store Store
	// TrustDomain may be empty: that of the authority that exists or is imported,
	// else [ca.DefaultTrustDomain].
	TrustDomain string
	// Force replaces what is there.
	Force bool
	// NewKeys, if not nil, has an authority that is encrypted encrypted anew, with its passphrase.
	NewKeys *keys.Ring
	// Progress, if not nil, is told each thing that is done.
	Progress func(line string)
}

// InitResult is what Init has found and done.
type InitResult struct {
	Authority *ca.Authority
	// File holds the authority on this machine; empty if only the cluster has it.
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
	o.Store = cmp.Or(o.Store, StoreLocal)
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Store != StoreLocal && o.Store != StoreCluster {
		return nil, api.WithHint(fmt.Errorf("store %q is unknown", o.Store), fmt.Sprintf("use %s or %s", StoreLocal, StoreCluster))
	}
	if err := o.Source.Validate(); err != nil {
		return nil, err
	}
	if o.Store == StoreCluster && (o.Encrypt || o.Command != nil) {
		return nil, api.WithHint(errors.New("--store=cluster keeps the key in the open, in a Secret"), "leave it out: a key that is encrypted, or held by a program, is kept on this machine alone")
	}
	if o.TrustDomain != "" {
		if err := ca.ValidateTrustDomain(o.TrustDomain); err != nil {
			return nil, err
		}
	}
	files, err := o.files(ctx)
	if err != nil {
		return nil, err
	}
	i := &initializer{InitOptions: o, files: files, secrets: &secretStore{client: o.Client}}
	if o.Force {
		return i.replace(ctx)
	}
	return i.ensure(ctx)
}

// initializer is Init at work.
type initializer struct {
	InitOptions
	files   *dirStore
	secrets *secretStore
}

// ensure finds the authority or makes one where there is none.
func (i *initializer) ensure(ctx context.Context) (*InitResult, error) {
	local, err := i.files.get(current)
	if err != nil && !errors.Is(err, ErrNoAuthority) {
		return nil, err
	}
	bundle, err := fetchBundle(ctx, i.Client)
	if err != nil && !errors.Is(err, ErrNoBundle) {
		return nil, err
	}
	stored, err := i.secrets.get(ctx, current)
	switch {
	case errors.Is(err, ErrNoAuthority):
	case apierrors.IsForbidden(err) && i.Store == StoreLocal:
		// Someone who may not read Secrets of kube-system can still keep the
		// authority on this machine.
	case err != nil:
		return nil, err
	}
	a := local
	if a == nil {
		a = stored
	}
	if a == nil {
		return i.first(ctx, bundle)
	}
	differ := local != nil && stored != nil && !local.Equal(stored)
	if bundle == nil || differ {
		// What is missing, or differs, may be a rotation's to repair.
		if err := i.checkRotation(ctx, stored != nil); err != nil {
			return nil, err
		}
	}
	if differ {
		return nil, api.WithHint(fmt.Errorf("%s holds another authority than %s: %w", i.secrets, i.files, ErrForeign), foreignHint)
	}
	if bundle != nil && !bundle.holds(a) {
		return nil, foreignError(bundle)
	}
	if err := i.checkWanted(a); err != nil {
		return nil, err
	}
	result := &InitResult{Authority: a, InCluster: stored != nil}
	if local != nil {
		result.File = i.files.String()
	}
	if i.Encrypt || i.NewKeys != nil {
		if err := i.encrypt(ctx, local, stored, result); err != nil {
			return nil, err
		}
	}
	return result, i.publish(ctx, result)
}

// encrypt encrypts the key of an authority that exists, or changes its passphrase.
func (i *initializer) encrypt(ctx context.Context, local, stored *ca.Authority, result *InitResult) error {
	switch {
	case stored != nil:
		return api.WithHint(fmt.Errorf("%s has the key in the open", i.secrets), fmt.Sprintf("delete it first with 'kubectl delete secret %s -n %s'; its readers may have the key", SecretName, Namespace))
	case keys.KindOf(local) == keys.Program:
		return api.WithHint(errors.New("the key of the authority is held by a program: there is nothing to encrypt"), "'kubectl gateway rotate --ca --encrypt' replaces the authority by one in an encrypted file")
	case i.NewKeys != nil && keys.KindOf(local) == keys.Open:
		return api.WithHint(errors.New("the key of the authority has no passphrase that could be changed"), "'kubectl gateway init-ca --encrypt' gives it one")
	case i.NewKeys == nil && keys.KindOf(local) == keys.Encrypted:
		return nil
	}
	// Of several files one may be left with another passphrase.
	if err := i.checkRotation(ctx, false); err != nil {
		return err
	}
	ring, done := i.Keys, "key encrypted in "
	if i.NewKeys != nil {
		ring, done = i.NewKeys, "passphrase changed in "
		if err := local.Unlock(); err != nil {
			return err
		}
	}
	sealed, err := ring.Encrypt(local, nil)
	if err != nil {
		return err
	}
	remark, err := i.files.reseal(sealed)
	if err != nil {
		return err
	}
	result.Authority, result.Changed = sealed, true
	i.Progress(done + i.files.String())
	if remark != "" {
		i.Progress(remark)
	}
	if left := i.files.inTheOpen(); len(left) > 0 {
		i.Progress("backups of earlier authorities have their keys in the open, remove what is not needed: " + strings.Join(left, ", "))
	}
	return nil
}

// checkRotation fails if a rotation is under way, here or in the cluster.
func (i *initializer) checkRotation(ctx context.Context, inCluster bool) error {
	stores := []store{i.files}
	if inCluster {
		stores = append(stores, i.secrets)
	}
	for _, s := range stores {
		found, err := s.read(ctx)
		if err != nil && !errors.Is(err, ErrNoAuthority) {
			return err
		}
		if found[next] != nil || found[previous] != nil {
			return api.WithHint(fmt.Errorf("%w, and its rotation is under way", ErrExists), "'kubectl gateway rotate --ca' continues the rotation, and publishes the trust bundle")
		}
	}
	return nil
}

// checkWanted returns ErrExists if the options ask for another authority than a.
func (i *initializer) checkWanted(a *ca.Authority) error {
	const hint = "leave the flag out to keep the authority, or replace it with --force, or with 'kubectl gateway rotate --ca' while traffic goes on"
	if i.TrustDomain != "" && i.TrustDomain != a.TrustDomain() {
		return api.WithHint(fmt.Errorf("%w, for trust domain %q instead of %q", ErrExists, a.TrustDomain(), i.TrustDomain), hint)
	}
	if i.Command != nil && !i.exists() {
		if keys.KindOf(a) == keys.Program {
			if command, err := keys.CommandOf(a); err == nil && command.Equal(i.Command) {
				return nil
			}
		}
		return api.WithHint(fmt.Errorf("%w, and its key is not that of --key-command", ErrExists), hint)
	}
	if !i.exists() {
		return nil
	}
	imported, err := i.get(i.Keys, i.TrustDomain)
	if err != nil {
		return err
	}
	if imported.Fingerprint() != a.Fingerprint() {
		return api.WithHint(fmt.Errorf("%w, another one than that of --from-cert", ErrExists), hint)
	}
	return nil
}

// first sets up the first authority of a cluster.
func (i *initializer) first(ctx context.Context, b *bundle) (*InitResult, error) {
	if i.NewKeys != nil {
		return nil, api.WithHint(fmt.Errorf("changing its passphrase: %w", ErrNoAuthority), "'kubectl gateway init-ca --encrypt' makes one")
	}
	a, err := i.make(i.Keys, i.TrustDomain, nil)
	if err != nil {
		return nil, err
	}
	// With --from-cert, the one that is published may be the very same.
	if b != nil && !b.holds(a) {
		return nil, foreignError(b)
	}
	if err := i.files.write(a, current, false); err != nil {
		return nil, err
	}
	return i.written(ctx, a)
}

// retired returns the roots that were retired here or in the cluster's Secret, as far as
// that was read.
func (i *initializer) retired(ctx context.Context) ([]*x509.Certificate, error) {
	all, err := i.files.retiredRoots(ctx)
	if err != nil {
		return nil, err
	}
	stored, err := i.secrets.retiredRoots(ctx)
	for _, root := range stored {
		all = withRoot(all, root)
	}
	return all, err
}

// replace puts a new authority in the place of all that is there.
func (i *initializer) replace(ctx context.Context) (*InitResult, error) {
	a, err := i.make(i.Keys, i.TrustDomain, nil)
	if err != nil {
		return nil, err
	}
	retired, err := i.retired(ctx)
	if err == nil {
		err = checkNotRetired(a, retired, i.files.dir)
	}
	if err != nil {
		return nil, err
	}
	if i.Store == StoreLocal {
		// A Secret that is left behind would hold an authority that nobody trusts
		// any more, and only the operator may delete a key.
		_, err := i.secrets.get(ctx, current)
		switch {
		case i.secrets.secrets[current] != nil:
			return nil, api.WithHint(fmt.Errorf("%w in secret %s in %s, and it would stay there", ErrExists, SecretName, Namespace),
				fmt.Sprintf("add --store=cluster, or delete it first with 'kubectl delete secret %s -n %s'", SecretName, Namespace))
		case !errors.Is(err, ErrNoAuthority) && !apierrors.IsForbidden(err):
			return nil, err
		}
	}
	// A rotation that is under way would go on with what is left of it.
	if err := i.endRotation(ctx); err != nil {
		return nil, err
	}
	i.files.backup = ""
	if err := i.files.supersede(a); err != nil {
		return nil, err
	}
	if err := i.files.remove(signerName); err != nil {
		return nil, err
	}
	if i.files.backup != "" {
		i.Progress("old authority kept as " + i.files.backup)
	}
	return i.written(ctx, a)
}

// endRotation puts the other authorities of a rotation away, whatever their state.
func (i *initializer) endRotation(ctx context.Context) error {
	for _, at := range []slot{next, previous} {
		i.files.backup = ""
		if err := i.files.retire(slotFiles[at]); err != nil {
			return err
		}
		if i.files.backup != "" {
			i.Progress(slotFiles[at] + " kept as " + i.files.backup)
		}
		if i.Store != StoreCluster {
			continue
		}
		if _, err := i.secrets.get(ctx, at); i.secrets.secrets[at] == nil && !errors.Is(err, ErrNoAuthority) {
			return err
		}
		if err := i.secrets.empty(ctx, at, false); err != nil {
			return err
		}
	}
	return nil
}

// written goes on with an authority that is on disk.
func (i *initializer) written(ctx context.Context, a *ca.Authority) (*InitResult, error) {
	i.Progress("authority written to " + i.files.String())
	result := &InitResult{Authority: a, File: i.files.String(), Backup: i.files.backup, Created: true, Changed: true}
	return result, i.publish(ctx, result)
}

// publish brings the cluster's part up to date.
func (i *initializer) publish(ctx context.Context, result *InitResult) error {
	retired, err := i.retired(ctx)
	if err != nil {
		return err
	}
	changed, err := publishBundle(ctx, i.Client, result.Authority, retired, i.Force)
	if err != nil {
		return err
	}
	if changed {
		result.Changed = true
		i.Progress(fmt.Sprintf("trust bundle published as configmap %s in %s", BundleName, Namespace))
	}
	if i.Store != StoreCluster {
		return nil
	}
	if changed, err = i.secrets.publish(ctx, result.Authority, i.Force); err != nil {
		return err
	}
	result.InCluster = true
	if changed {
		result.Changed = true
		i.Progress(fmt.Sprintf("authority stored as secret %s in %s", SecretName, Namespace))
	}
	return nil
}

// Source says where a new authority comes from, and how its key is kept.
type Source struct {
	// CertPEM and KeyPEM are an authority that exists (see [ca.Import]). Both are empty
	// if one is to be made. KeyPEM is empty as well if Command has the key.
	CertPEM, KeyPEM []byte
	// TTL is the lifetime of one that is made; [ca.DefaultTTL] if zero.
	TTL time.Duration
	// Command, if not nil, is the program that holds the key.
	Command *keycommand.Command
	// Encrypt has the key encrypted with a new passphrase.
	Encrypt bool
}

// Validate returns what contradicts itself in s.
func (s *Source) Validate() error {
	switch {
	case s.Command != nil && s.Encrypt:
		return api.WithHint(errors.New("a key that a program holds is in no file that could be encrypted"), "give either --encrypt or --key-command")
	case s.Command != nil && len(s.KeyPEM) > 0:
		return api.WithHint(errors.New("the key is given twice"), "give either --from-key or --key-command")
	case s.Command == nil && (len(s.CertPEM) == 0) != (len(s.KeyPEM) == 0):
		return api.WithHint(errors.New("a certificate and its private key are needed together"), "give both --from-cert and --from-key, or --key-command for the key")
	case s.exists() && s.TTL != 0:
		return api.WithHint(errors.New("the lifetime of an existing certificate cannot be chosen"), "leave out --ttl")
	}
	return nil
}

// exists reports whether s is an authority that exists.
func (s *Source) exists() bool { return len(s.CertPEM) > 0 }

// get imports the authority, or makes it. trustDomain may be empty: that of the
// certificate, or else [ca.DefaultTrustDomain]. A key that is to be encrypted is not yet.
func (s *Source) get(ring *keys.Ring, trustDomain string) (*ca.Authority, error) {
	var key crypto.Signer
	if s.Command != nil {
		var err error
		if key, err = ring.Command(s.Command); err != nil {
			return nil, err
		}
	}
	var a *ca.Authority
	var err error
	switch {
	case !s.exists():
		if a, err = ca.New(ca.Options{TrustDomain: trustDomain, TTL: s.TTL, Key: key}); err != nil {
			return nil, fmt.Errorf("making the authority: %w", err)
		}
	case key != nil:
		a, err = ca.ImportSigner(s.CertPEM, key, trustDomain)
	default:
		a, err = ca.Import(s.CertPEM, s.KeyPEM, trustDomain)
	}
	if err == nil {
		err = a.ValidAt(time.Now())
	}
	if errors.Is(err, ca.ErrMismatch) {
		err = api.WithHint(err, "the first certificate of --from-cert must be the one that --from-key, or the key of --key-command, belongs to")
	}
	if err != nil {
		return nil, fmt.Errorf("importing the authority: %w", err)
	}
	if s.Command != nil {
		return keys.HoldByCommand(a, s.Command)
	}
	return a, nil
}

// make is get with a key that is kept as s, or else like, has it. like may be nil.
func (s *Source) make(ring *keys.Ring, trustDomain string, like *ca.Authority) (*ca.Authority, error) {
	a, err := s.get(ring, trustDomain)
	if err != nil || s.Command != nil {
		return a, err
	}
	if s.Encrypt || like != nil && keys.KindOf(like) == keys.Encrypted {
		return ring.Encrypt(a, like)
	}
	return a, nil
}
