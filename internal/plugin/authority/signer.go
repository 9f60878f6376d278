package authority

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signer"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Where a signer of the cluster issues the certificates, no key is kept. Which signer that is
// stands in the ConfigMap of the trust bundle, for all operators. Who has chosen it also has it in a
// file, and believes that one: who can write the ConfigMap cannot choose another signer for them.
const signerName = "signer.json"

// signerError is ErrSigner, with what leads to the signer. bundle may be that of an authority: then who has that
// must be the signer.
type signerError struct {
	error
	choice signer.Choice
	bundle *bundle
}

func (e *signerError) Unwrap() error { return e.error }

// Open returns what issues the certificates of a cluster's gateways: its authority, as [Load]
// does, or the signer of the cluster that was chosen. With Keys it opens the authority's key, before
// anything is done that needs it. Errors are those of Load, of [ca.Authority.Unlock] and of [signer.New].
func Open(ctx context.Context, l Location) (ca.Issuer, error) {
	a, err := Load(ctx, l)
	if err == nil && l.Keys != nil {
		err = a.Unlock()
	}
	if err == nil {
		return a, nil
	}
	if !errors.Is(err, ErrSigner) {
		return nil, err
	}
	s, err := openSigner(ctx, l, err)
	if err != nil {
		// A nil pointer would be an issuer.
		return nil, err
	}
	return s, nil
}

// OpenSigner is Open for a cluster whose certificates come from a signer.
func OpenSigner(ctx context.Context, l Location) (*signer.Signer, error) {
	_, err := Load(ctx, l)
	if err == nil {
		return nil, errors.New("certificates come from an authority, and not from a signer of the cluster")
	}
	return openSigner(ctx, l, err)
}

// openSigner opens the signer that err leads to.
func openSigner(ctx context.Context, l Location, err error) (*signer.Signer, error) {
	found, ok := errors.AsType[*signerError](err)
	if !ok {
		return nil, err
	}
	s, err := signer.New(ctx, l.Client, found.choice, found.bundle.certificates)
	if err != nil {
		return nil, err
	}
	if found.bundle.signer == nil {
		return found.bundle.authorityAs(s)
	}
	if l.Remark != nil && !s.Settled() {
		l.Remark(fmt.Sprintf("the roots of signer %s have changed, and not all gateways are known to trust those of now alone: "+
			"'kubectl gateway rotate --ca' brings them there, and so does 'kubectl gateway watch' by itself", s.Name))
	}
	return s, nil
}

// authorityAs returns s as the signer that the authority of b is. The error is [ErrForeign] if it is not.
func (b *bundle) authorityAs(s *signer.Signer) (*signer.Signer, error) {
	revoked, _ := ca.ReadableRevocations(b.revoked, b.certificates, b.trustDomain)
	own, err := s.OfAuthority(b.certificates, revoked)
	if err == nil && b.trustDomain == s.TrustDomain() {
		return own, nil
	}
	return nil, api.WithHint(fmt.Errorf("%w: configmap %s in %s has %s, and signer %s is none of it", ErrForeign, BundleName, Namespace, b, s.Name),
		"find out whether 'kubectl gateway watch --sign' of that authority runs, and for this signer; right after a rotation, try again")
}

// signerOf is the error about a cluster whose certificates come from a signer, according to the
// bundle or to what was chosen here.
func signerOf(files *dirStore, chosen *signer.Choice, b *bundle, bundleErr error) error {
	switch {
	case errors.Is(bundleErr, ErrNoBundle):
		return api.WithHint(fmt.Errorf("looking for signer %s in the cluster: %w", chosen.Name, bundleErr),
			fmt.Sprintf("'kubectl gateway init-ca --signer=%s' publishes it again", chosen.Name))
	case bundleErr != nil:
		return bundleErr
	case b.signer == nil:
		return &signerError{fmt.Errorf("%w: signer %s, which was chosen here; configmap %s in %s has %s", ErrSigner, chosen.Name, BundleName, Namespace, b), *chosen, b}
	case chosen != nil && *b.signer != *chosen:
		return api.WithHint(fmt.Errorf("%w: configmap %s in %s has %s, and %s has signer %s", ErrForeign, BundleName, Namespace, b,
			filepath.Join(files.dir, signerName), chosen.Name),
			"find out who has chosen another one; if that is right, remove the file, or choose again with 'kubectl gateway init-ca --signer=… --force'")
	}
	return &signerError{api.WithHint(fmt.Errorf("%w: %s", ErrSigner, b), "it signs, revokes and rotates by itself"), *b.signer, b}
}

// chosen returns the signer that was chosen on this machine, nil if none was.
func (s *dirStore) chosen() (*signer.Choice, error) {
	text, err := readPrivate(s.dir, signerName)
	if errors.Is(err, ErrNoAuthority) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var chosen signer.Choice
	if err = json.Unmarshal(text, &chosen); err == nil {
		err = chosen.Validate()
	}
	if err != nil {
		return nil, api.WithHint(fmt.Errorf("reading %s: %w", filepath.Join(s.dir, signerName), err), "choose again with 'kubectl gateway init-ca --signer=…'")
	}
	return &chosen, nil
}

// readSigner reads which signer m names, if any.
func (b *bundle) readSigner(m *corev1.ConfigMap) error {
	text := m.Annotations[signerAnnotation]
	if text == "" {
		return nil
	}
	var choice signer.Choice
	err := json.Unmarshal([]byte(text), &choice)
	if err == nil {
		choice.TrustBundle, choice.TrustDomain = m.Data[signerKey], b.trustDomain
		err = choice.Validate()
	}
	if err != nil {
		return api.WithHint(fmt.Errorf("reading the signer (configmap %s in %s): %w: %w", BundleName, Namespace, ca.ErrDamaged, err),
			"choose again with 'kubectl gateway init-ca --signer=… --force'")
	}
	b.signer = &choice
	return nil
}

// putSigner writes a signer, and the roots that all gateways were brought, in the place of the
// ConfigMap that was read; old is nil if there was none.
func putSigner(ctx context.Context, l Location, old *corev1.ConfigMap, choice signer.Choice, known []*x509.Certificate) (*bundle, error) {
	m := old.DeepCopy()
	if old == nil {
		m = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: BundleName}}
	}
	setMeta(&m.ObjectMeta, choice.TrustDomain)
	delete(m.Annotations, rotationAnnotation)
	m.Data, m.BinaryData = map[string]string{BundleKey: string(ca.EncodeCertificates(known))}, nil
	if choice.TrustBundle != "" {
		m.Data[signerKey] = choice.TrustBundle
	}
	choice.TrustBundle = ""
	text, err := json.Marshal(choice)
	if err != nil {
		return nil, fmt.Errorf("encoding the signer: %w", err)
	}
	m.Annotations[signerAnnotation] = string(text)
	return writeBundle(ctx, l.Client, m, old == nil)
}

// Brought notes in the cluster that all gateways were brought roots, and no others that the
// signer s does not have. The error is [ErrForeign] if another one was chosen meanwhile, and
// [ErrChanged] if somebody else wrote at the same time.
func Brought(ctx context.Context, l Location, s *signer.Signer, roots []*x509.Certificate) error {
	old, err := getBundle(ctx, l.Client)
	if err != nil {
		return err
	}
	b, err := readBundle(old)
	switch {
	case err != nil:
		return err
	case b.signer == nil || *b.signer != s.Choice:
		return foreignError(b)
	case slices.Equal(ca.Fingerprints(b.certificates), ca.Fingerprints(roots)):
		return nil
	}
	_, err = putSigner(ctx, l, old, s.Choice, roots)
	return err
}

// SignerOptions say which signer InitSigner is to choose.
type SignerOptions struct {
	Location
	// Choice is complete but for the trust domain: if that is empty, it is that of the cluster, else
	// [ca.DefaultTrustDomain].
	Choice signer.Choice
	// Force puts the signer in the place of an authority, or of another signer.
	Force bool
	// Progress, if not nil, is told each thing that is done.
	Progress func(line string)
}

// SignerResult is what InitSigner has found and done.
type SignerResult struct {
	Signer *signer.Signer
	// File has the choice on this machine, and Backup the authority that was there.
	File, Backup string
	// Created reports whether the signer is a new one, and Changed whether anything at all was written.
	Created, Changed bool
}

// InitSigner has a signer of the cluster issue the certificates of gateways. It makes no key. An authority,
// or another signer, is replaced with Force alone, and gateways go on to trust what they
// trust until they were brought the signer's roots: 'rotate --ca' does that. Where the authority is the signer, it stays,
// and the choice is that of this machine alone.
func InitSigner(ctx context.Context, o SignerOptions) (*SignerResult, error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	files, err := o.files(ctx)
	if err != nil {
		return nil, err
	}
	old, err := getBundle(ctx, o.Client)
	if err != nil && !errors.Is(err, ErrNoBundle) {
		return nil, err
	}
	var was *bundle
	if old != nil {
		if was, err = readBundle(old); err != nil && !o.Force {
			return nil, err
		}
	}
	given := o.Choice.TrustDomain
	o.Choice.Request, o.Choice.TrustDomain = cmp.Or(o.Choice.Request, signer.RequestAuto), cmp.Or(given, ca.DefaultTrustDomain)
	if given == "" && was != nil {
		o.Choice.TrustDomain = was.trustDomain
	}
	if err := o.Choice.Validate(); err != nil {
		return nil, err
	}
	if own := o.own(ctx, files, was); own != nil {
		result := &SignerResult{Signer: own}
		err := o.write(ctx, files, old, was, result, nil)
		result.Created = result.Changed
		return result, err
	}
	if err := o.checkReplaces(ctx, files, was); err != nil {
		return nil, err
	}
	s, err := signer.New(ctx, o.Client, o.Choice, nil)
	if err != nil {
		return nil, err
	}
	known := s.Trust()
	if named, err := ca.TrustDomainOf(known); given == "" && was == nil && err == nil && named != "" {
		o.Choice.TrustDomain, s.Choice.TrustDomain = named, named
	}
	if was != nil {
		known = was.certificates
	}
	result := &SignerResult{Signer: s.Knowing(known), Created: was == nil || was.signer == nil || was.signer.Name != o.Choice.Name}
	return result, o.write(ctx, files, old, was, result, known)
}

// own returns the signer if it is the cluster's authority, whose key somebody else has: it replaces nothing.
func (o *SignerOptions) own(ctx context.Context, files *dirStore, was *bundle) *signer.Signer {
	if was == nil || was.signer != nil || o.Force {
		return nil
	}
	if _, err := files.get(current); !errors.Is(err, ErrNoAuthority) {
		return nil
	}
	s, err := signer.New(ctx, o.Client, o.Choice, nil)
	if err != nil {
		return nil
	}
	own, err := was.authorityAs(s)
	if err != nil {
		return nil
	}
	return own
}

// checkReplaces returns why the signer cannot take the place of what is there.
func (o *SignerOptions) checkReplaces(ctx context.Context, files *dirStore, was *bundle) error {
	stored := &secretStore{client: o.Client}
	if _, err := stored.get(ctx, current); stored.secrets[current] != nil {
		return api.WithHint(fmt.Errorf("%w in secret %s in %s, and it would stay there", ErrExists, SecretName, Namespace),
			fmt.Sprintf("delete it first with 'kubectl delete secret %s -n %s'", SecretName, Namespace))
	} else if !errors.Is(err, ErrNoAuthority) && !apierrors.IsForbidden(err) {
		return err
	}
	if o.Force {
		return nil
	}
	const hint = "--force puts the signer in its place; gateways that run go on, and 'kubectl gateway rotate --ca' then brings them the signer's roots and certificates"
	if _, err := files.get(current); !errors.Is(err, ErrNoAuthority) {
		return api.WithHint(fmt.Errorf("%w in %s", ErrExists, files.dir), hint)
	}
	switch {
	case was == nil:
	case was.signer == nil:
		return api.WithHint(fmt.Errorf("%w: configmap %s in %s has %s", ErrForeign, BundleName, Namespace, was), hint)
	case was.signer.Name != o.Choice.Name, was.trustDomain != o.Choice.TrustDomain:
		return api.WithHint(fmt.Errorf("%w: %s", ErrExists, was), hint)
	}
	return nil
}

// write writes what is not there yet: the choice on this machine first, so that who is interrupted
// believes what was chosen.
func (o *SignerOptions) write(ctx context.Context, files *dirStore, old *corev1.ConfigMap, was *bundle, result *SignerResult, known []*x509.Certificate) error {
	result.File = filepath.Join(files.dir, signerName)
	if chosen, err := files.chosen(); err != nil && !o.Force || chosen == nil || *chosen != o.Choice {
		text, err := json.MarshalIndent(o.Choice, "", "  ")
		if err != nil {
			return fmt.Errorf("encoding the signer: %w", err)
		}
		if err := files.prepare(); err != nil {
			return err
		}
		if err := files.place(append(text, '\n'), signerName, true); err != nil {
			return err
		}
		result.Changed = true
		o.Progress("signer written to " + result.File)
	}
	// With both, nobody could tell which one is meant.
	for _, name := range slotFiles {
		files.backup = ""
		if err := files.retire(name); err != nil {
			return err
		}
		if files.backup != "" {
			result.Changed = true
			o.Progress(name + " kept as " + files.backup)
			if name == fileName {
				result.Backup = files.backup
			}
		}
	}
	if result.Signer.Own() || was != nil && was.signer != nil && *was.signer == o.Choice {
		return nil
	}
	if _, err := putSigner(ctx, o.Location, old, o.Choice, known); err != nil {
		return err
	}
	result.Changed = true
	o.Progress(fmt.Sprintf("signer published in configmap %s in %s", BundleName, Namespace))
	return nil
}
