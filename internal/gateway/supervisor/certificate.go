//go:build linux

package supervisor

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// CertificateTimeout is how long a gateway that was started without a certificate waits for
// its first one. The plugin delivers within seconds; a gateway without a certificate must
// not stay forever.
const CertificateTimeout = 10 * time.Minute

const (
	// maxPendingKeys bounds the requests that wait for a certificate. One more replaces the
	// oldest, so that abandoned requests never block the next.
	maxPendingKeys = 4
	// pendingKeyLife is how long a key waits for its certificate: long enough for
	// a person to unlock the authority.
	pendingKeyLife = 5 * time.Minute
)

// pendingKeys are the keys that wait for a certificate. They exist in memory only.
type pendingKeys struct {
	mu   sync.Mutex
	keys []pendingKey // the oldest first
}

type pendingKey struct {
	*ecdsa.PrivateKey
	expiry *time.Timer
}

// add makes a key that is forgotten after pendingKeyLife.
func (p *pendingKeys) add() (*ecdsa.PrivateKey, error) {
	key, err := ca.NewKey()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.keys) >= maxPendingKeys {
		p.remove(p.keys[0].PrivateKey)
	}
	p.keys = append(p.keys, pendingKey{key, time.AfterFunc(pendingKeyLife, func() { p.forget(key) })})
	return key, nil
}

func (p *pendingKeys) forget(key *ecdsa.PrivateKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(key)
}

func (p *pendingKeys) remove(key *ecdsa.PrivateKey) {
	p.keys = slices.DeleteFunc(p.keys, func(k pendingKey) bool {
		if k.PrivateKey != key {
			return false
		}
		k.expiry.Stop()
		return true
	})
}

// of returns the key that cert was made for, or nil.
func (p *pendingKeys) of(cert *x509.Certificate) *ecdsa.PrivateKey {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range p.keys {
		if key.PublicKey.Equal(cert.PublicKey) {
			return key.PrivateKey
		}
	}
	return nil
}

// requestCertificate makes a new key and a request for it.
func (s *supervisor) requestCertificate() (*api.CertificateRequest, error) {
	st, _ := s.snapshot()
	id, err := identity.Parse(st.Identity)
	if err != nil {
		return nil, err
	}
	key, err := s.keys.add()
	if err != nil {
		return nil, err
	}
	csr, err := ca.NewRequest(key, id, st.PodIPs)
	if err != nil {
		return nil, err
	}
	return &api.CertificateRequest{CSR: string(csr)}, nil
}

// installCertificate brings a certificate for one of the pending keys into force, for
// connections from then on. After an error nothing has changed.
func (s *supervisor) installCertificate(issued *api.IssuedCertificate) error {
	if issued == nil {
		return errors.New("no certificate is given")
	}
	s.settings.Lock()
	defer s.settings.Unlock()
	roots, err := parseBundle(issued.Bundle)
	if err != nil {
		return err
	}
	chain, err := parseCertificates("certificate", issued.Certificate, maxChain)
	if err != nil {
		return err
	}
	key := s.keys.of(chain[0])
	if key == nil {
		return api.WithHint(errors.New("the certificate is for no key of this gateway that waits for one"),
			fmt.Sprintf("renew again: a request is good for one certificate, within %v", pendingKeyLife))
	}
	st, _ := s.snapshot()
	config, text := s.settings.config, []byte(nil)
	if config.Sidecar && st.State == api.Uncertified {
		if config, err = settle(config, issued.First); err != nil {
			return err
		}
		if text, err = json.Marshal(config); err != nil {
			return fmt.Errorf("writing the first settings: %w", err)
		}
	}
	if err := checkLeaf(chain[0], st.Identity, st.PodIPs, time.Now()); err != nil {
		return err
	}
	if err := checkChain(chain, roots, time.Now()); err != nil {
		return err
	}
	keyPEM, err := ca.EncodeKey(key)
	if err != nil {
		return err
	}
	m, err := handoff.ReadMaterial(s.settings.material)
	if err != nil {
		return err
	}
	kept := []byte(m.Revoked)
	if config.Sidecar && st.State == api.Uncertified {
		kept = s.recallRevoked()
	}
	// The certificate need not wait until a list that cannot be used is mended.
	revoked, err := s.usableRevocations(kept, issued.Revoked, roots)
	if err != nil {
		return err
	}
	if err := s.exchange(config, func(m *handoff.Material) {
		m.Cert, m.Key, m.CA, m.Revoked = ca.EncodeCertificates(chain), keyPEM, ca.EncodeCertificates(roots), revoked.Encode()
		if text != nil {
			m.Config = text
		}
	}, s.applyMaterial); err != nil {
		return err
	}
	s.update(func(st *api.Status) {
		st.Cert = describeCertificate(chain, roots, revoked)
		if text != nil {
			st.Mode, st.Rules = config.Mode, config.Rules
			st.Capture.Coverage, st.Capture.Fingerprint, st.Capture.Named = config.Coverage, config.Fingerprint(), config.Named
			st.Log = describeLog(config)
		}
		if st.State == api.Uncertified {
			st.State = api.Starting
		}
	})
	s.keepRevoked(revoked)
	s.keys.forget(key)
	s.Log.Info("new certificate", "serial", chain[0].SerialNumber.Text(16), "notAfter", chain[0].NotAfter)
	return nil
}

// errUnused means that new lists are not used, although they were signed.
var errUnused = errors.New("the new list of what is revoked is not used")

// revocations returns the newest of the lists that have been in force and of those that were sent, as far
// as roots vouch for them: no list is replaced by an older one, nor by one that does not revoke what the
// older does, as whoever signed it was shown one that is older still. With errUnused it returns those that
// have been in force.
func (s *supervisor) revocations(kept, sent []byte, roots []*x509.Certificate) (*ca.Revocations, error) {
	trustDomain := s.settings.config.TrustDomain
	has, refused := ca.ReadableRevocations(kept, roots, trustDomain)
	if refused > 0 {
		s.Log.Info("lists of what is revoked are left out: no root vouches for them", "lists", refused)
	}
	brought, err := ca.ParseRevocations(sent, roots, trustDomain)
	if err != nil {
		return nil, err
	}
	if lost := has.Lost(brought); len(lost) > 0 {
		return has, api.WithHint(fmt.Errorf("%w, as it has lost something: %s (%d in all)", errUnused, lost[0].String(), len(lost)),
			"somebody has put an older list into the trust bundle's ConfigMap, or taken the list away: revoke again what was revoked before, a pod that is gone by its service account")
	}
	newest := has.Newest(brought)
	// There may be too many together.
	if _, err := ca.ParseRevocations(newest.Encode(), roots, trustDomain); err != nil {
		return has, fmt.Errorf("%w: %w", errUnused, err)
	}
	return newest, nil
}

// usableRevocations is revocations where everything else goes on with what has been in force.
func (s *supervisor) usableRevocations(kept, sent []byte, roots []*x509.Certificate) (*ca.Revocations, error) {
	revoked, err := s.revocations(kept, sent, roots)
	if errors.Is(err, errUnused) {
		s.Log.Error("what is revoked stays as it was", "error", err)
		err = nil
	}
	return revoked, err
}

// installTrust replaces the trust bundle, for connections from then on, and what is revoked, for open
// connections as well. After an error nothing has changed.
func (s *supervisor) installTrust(bundle *api.TrustBundle) error {
	if bundle == nil {
		return errors.New("no trust bundle is given")
	}
	s.settings.Lock()
	defer s.settings.Unlock()
	roots, err := parseBundle(bundle.Bundle)
	if err != nil {
		return err
	}
	m, err := handoff.ReadMaterial(s.settings.material)
	if err != nil {
		return err
	}
	if !m.Certified() {
		return api.WithHint(errors.New("the gateway has no certificate yet"), "its first certificate brings the roots that it trusts")
	}
	chain, err := parseCertificates("certificate", string(m.Cert), maxChain)
	if err != nil {
		return err
	}
	if issuerOf(chain, roots, time.Now()) == "" {
		return api.WithHint(errors.New("the gateway's own certificate leads to none of the new roots: its peers would refuse it"),
			"renew its certificate with the new authority first")
	}
	revoked, err := s.revocations(m.Revoked, bundle.Revoked, roots)
	if err != nil {
		return err
	}
	return s.trust(m, chain, roots, revoked)
}

// inheritRevocations has this gateway begin with the lists that were in force in the one before, as if it
// were that one. They are verified as those that are sent.
func (s *supervisor) inheritRevocations(kept []byte) error {
	if len(kept) == 0 {
		return nil
	}
	s.settings.Lock()
	defer s.settings.Unlock()
	m, err := handoff.ReadMaterial(s.settings.material)
	if err != nil {
		return err
	}
	chain, err := parseCertificates("certificate", string(m.Cert), maxChain)
	if err != nil {
		return err
	}
	roots, err := parseBundle(string(m.CA))
	if err != nil {
		return err
	}
	revoked, err := s.usableRevocations(kept, m.Revoked, roots)
	if err != nil {
		return err
	}
	return s.trust(m, chain, roots, revoked)
}

// trust brings roots and what is revoked into force, beside m's certificate, of which chain is. It is
// called with the lock held.
func (s *supervisor) trust(m *handoff.Material, chain, roots []*x509.Certificate, revoked *ca.Revocations) error {
	if string(ca.EncodeCertificates(roots)) == string(m.CA) && string(revoked.Encode()) == string(m.Revoked) {
		return nil
	}
	if err := s.exchange(s.settings.config, func(m *handoff.Material) {
		m.CA, m.Revoked = ca.EncodeCertificates(roots), revoked.Encode()
	}, s.applyMaterial); err != nil {
		return err
	}
	s.update(func(st *api.Status) { st.Cert = describeCertificate(chain, roots, revoked) })
	s.keepRevoked(revoked)
	s.Log.Info("new trust bundle", "authorities", ca.Fingerprints(roots), "revocations", len(revoked.Entries(time.Now())))
	return nil
}

// awaitCertificate returns true once the gateway has a certificate. Otherwise the gateway
// was asked to end, or the error says that no certificate came.
func (s *supervisor) awaitCertificate(ctx context.Context) (bool, error) {
	timeout := s.CertificateTimeout
	if timeout == 0 {
		timeout = CertificateTimeout
	}
	var late <-chan time.Time
	if !s.settings.config.Sidecar {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		late = timer.C
	}
	for {
		st, changed := s.snapshot()
		if st.State != api.Uncertified {
			return true, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false, nil
		case <-s.Terminate:
			return false, nil
		case <-s.end.begun:
			return false, nil
		case <-late:
			return false, api.WithHint(fmt.Errorf("no certificate was delivered within %v", timeout),
				"the plugin that started the gateway has ended: run 'kubectl gateway enable' again")
		}
	}
}

// checkLeaf reports why cert cannot be the gateway's, if anything.
func checkLeaf(cert *x509.Certificate, own string, podIPs []netip.Addr, now time.Time) error {
	id, err := identity.FromCertificate(cert)
	switch {
	case err != nil:
		return fmt.Errorf("the new certificate: %w", err)
	case id.String() != own:
		return api.WithHint(fmt.Errorf("the new certificate is for %s, the gateway is %s", id, own), "enable the pod again if its identity changed")
	case cert.IsCA:
		return errors.New("the new certificate is that of an authority")
	}
	if err := identity.CheckAddresses(cert); err != nil {
		return fmt.Errorf("the new certificate: %w", err)
	}
	for _, ip := range podIPs {
		if !ca.NamesAddress(cert, ip) {
			return fmt.Errorf("the new certificate does not name the pod's address %v", ip)
		}
	}
	for _, usage := range ca.PeerUsages() {
		if !slices.Contains(cert.ExtKeyUsage, usage) {
			return errors.New("the new certificate is not for servers and clients alike")
		}
	}
	return checkTime("the new certificate", cert, now)
}
