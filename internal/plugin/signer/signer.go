package signer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Errors that callers can tell apart with [errors.Is].
var (
	// ErrDenied means that the signer, or who approves for it, has said no.
	ErrDenied = errors.New("it has denied the request")
	// ErrFailed means that the signer could not issue a certificate.
	ErrFailed = errors.New("it has failed")
	// ErrUnanswered means that there was no answer in time.
	ErrUnanswered = errors.New("it has not answered")
	// ErrUnfit means that what was issued is no certificate for the gateway that asked.
	ErrUnfit = errors.New("its certificate cannot be used")
	// ErrNewRoot means that a certificate leads to a root that not all gateways trust yet.
	ErrNewRoot = errors.New("its certificate leads to a new root, which not all gateways are known to trust")
)

// Signer is a signer of the cluster as a [ca.Issuer]. It is immutable and safe for concurrent use.
type Signer struct {
	Choice
	client  kubernetes.Interface
	request Request
	// trust are the signer's roots. known are those that all gateways were brought, among which
	// may be some that the signer had before. kept are those of the latter that one gateway keeps.
	trust, known, kept []*x509.Certificate
	// own says that the authority of this cluster is the signer, and revoked is what that has revoked.
	own     bool
	revoked *ca.Revocations
}

var _ ca.Issuer = (*Signer)(nil)

// New reads from the cluster what the signer of choice is trusted by, and how it is asked. known are
// the roots that all gateways were brought.
func New(ctx context.Context, client kubernetes.Interface, choice Choice, known []*x509.Certificate) (*Signer, error) {
	trust, err := choice.Trust(ctx, client)
	if err != nil {
		return nil, err
	}
	request, err := choice.resolve(ctx, client)
	if err != nil {
		return nil, err
	}
	return &Signer{Choice: choice, client: client, request: request, trust: trust, known: known}, nil
}

// OfAuthority returns s as the signer that the cluster's own authority is ('watch --sign'). Its trust bundle, with roots,
// is brought to all gateways by those who have its key, and revoked is what they have revoked. Trusted is what
// both the trust bundle and the signer's objects have. The error is [ErrNoTrust] if that is nothing.
func (s *Signer) OfAuthority(roots []*x509.Certificate, revoked *ca.Revocations) (*Signer, error) {
	t := *s
	t.own, t.known, t.revoked = true, roots, revoked
	if t.trust = without(s.trust, without(s.trust, roots)); len(t.trust) == 0 {
		return nil, fmt.Errorf("signer %s has none of the roots of the cluster's trust bundle: %w", s.Name, ErrNoTrust)
	}
	return &t, nil
}

// Own reports whether the authority of this cluster is the signer.
func (s *Signer) Own() bool { return s.own }

// String names s.
func (s *Signer) String() string {
	return fmt.Sprintf("signer %s of trust domain %s", s.Name, s.Choice.TrustDomain)
}

// TrustDomain is part of [ca.Issuer].
func (s *Signer) TrustDomain() string { return s.Choice.TrustDomain }

// Asks returns by which object the signer is asked: RequestPod or RequestCSR.
func (s *Signer) Asks() Request { return s.request }

// Trust returns the signer's roots.
func (s *Signer) Trust() []*x509.Certificate { return s.trust }

// New returns the roots that not all gateways are known to trust.
func (s *Signer) New() []*x509.Certificate { return without(s.trust, s.known) }

// Gone returns the roots that gateways may trust and the signer is not trusted by any more.
func (s *Signer) Gone() []*x509.Certificate { return without(s.known, s.trust) }

// Settled reports whether all gateways are known to trust the signer's roots and no others, or others see to that.
func (s *Signer) Settled() bool { return s.own || len(s.New()) == 0 && len(s.Gone()) == 0 }

// Knowing returns a copy of s for which all gateways were brought known.
func (s *Signer) Knowing(known []*x509.Certificate) *Signer {
	t := *s
	t.known = known
	return &t
}

// Keeping is part of [ca.Issuer]. A root that the signer had before stays with the gateways that
// trust it until no gateway needs it. It is given to no other, because who says so is
// the ConfigMap alone.
func (s *Signer) Keeping(roots []string) ca.Issuer {
	t := *s
	t.kept = slices.DeleteFunc(s.Gone(), func(root *x509.Certificate) bool { return !slices.Contains(roots, ca.Fingerprint(root)) })
	t.kept = t.kept[:min(len(t.kept), maxRoots-len(t.trust))]
	return &t
}

// Bundle is part of [ca.Issuer].
func (s *Signer) Bundle() []byte { return ca.EncodeCertificates(s.roots()) }

// Roots is part of [ca.Issuer].
func (s *Signer) Roots() []string { return ca.Fingerprints(s.roots()) }

func (s *Signer) roots() []*x509.Certificate { return slices.Concat(s.trust, s.kept) }

// Revocations is part of [ca.Issuer]: nobody but a signer can revoke what it has issued.
func (s *Signer) Revocations() *ca.Revocations { return s.revoked }

// Certify is part of [ca.Issuer]. It files a request for the very pod of about, waits for the
// answer until shortly before the end of ctx, and checks it. Lifetimes are the signer's choice, up to
// the TTL of about if that is not zero.
func (s *Signer) Certify(ctx context.Context, csr []byte, about ca.LeafRequest) (_ *ca.Leaf, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("signer %s: %w", s.Name, err)
		}
	}()
	request, err := ca.ParseRequest(csr)
	if err == nil {
		err = checkRequest(request, about)
	}
	if err != nil {
		return nil, api.WithHint(fmt.Errorf("reading the gateway's request: %w", err), "use the plugin and the gateway image of one release")
	}
	text, err := s.ask(ctx, request, csr, about)
	if err != nil {
		return nil, err
	}
	return s.leaf(text, request, about)
}

// without returns list without those in others.
func without(list, others []*x509.Certificate) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(list), func(cert *x509.Certificate) bool { return slices.ContainsFunc(others, cert.Equal) })
}
