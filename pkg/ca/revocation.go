package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
)

const (
	// MaxRevocations bounds the entries of a list.
	MaxRevocations = 1024
	// maxRevocationText bounds all lists together, in bytes: they travel in one message and lie in a
	// ConfigMap, of which both hold 1 MiB.
	maxRevocationText = 256 << 10
	// maxRevocationLists bounds the lists that hold at a time. A rotation has two.
	maxRevocationLists = 4
	// maxSignerChain bounds the certificates that lead from a list to a root.
	maxSignerChain = 8
	// maxSerial is how long a serial number may be, in hexadecimal digits (RFC 5280, section 4.1.2.2).
	maxSerial = 40
	// maxPodUID bounds the UID of a pod, in bytes: that of a serial number in a subject (ub-serial-number
	// of ITU-T X.520). A UUID has 36.
	maxPodUID = 64
)

var (
	// ErrRevoked means that a certificate was revoked.
	ErrRevoked = errors.New("certificate is revoked")
	// ErrRevocations means that lists of revocations cannot be used.
	ErrRevocations = errors.New("revocations cannot be used")
)

// Revocation takes back one certificate, or all that an identity or one pod of it had at a time.
type Revocation struct {
	// Serial is that of a certificate, in lower-case hexadecimal.
	Serial string `json:"serial,omitempty"`
	// Identity is the SPIFFE ID of which all certificates are revoked that were issued up to At: who
	// has a newer one is let in again.
	Identity string `json:"identity,omitempty"`
	// Pod is the UID of the pod that those certificates are of; those of Identity that name no pod are
	// revoked, too. Empty stands for all pods. It needs an Identity.
	Pod string `json:"pod,omitempty"`
	// At is when it was revoked, in seconds.
	At time.Time `json:"at"`
	// Until is when the last certificate that it is about has expired.
	Until time.Time `json:"until"`
}

func (r *Revocation) same(other *Revocation) bool {
	return r.Serial == other.Serial && r.Identity == other.Identity && r.Pod == other.Pod
}

// covers reports whether r is about all certificates that other is about: that of a pod that is gone is revoked again with
// all of its identity.
func (r *Revocation) covers(other *Revocation) bool {
	wider := r.Identity != "" && r.Identity == other.Identity && r.Pod == ""
	return (wider || r.same(other)) && !r.At.Before(other.At)
}

func (r *Revocation) check(trustDomain string) error {
	switch {
	case (r.Serial == "") == (r.Identity == ""):
		return fmt.Errorf("%w: one is about neither or both of serial number and identity", ErrRevocations)
	case r.Serial != "" && r.Pod != "":
		return fmt.Errorf("%w: one is about a pod and has no identity", ErrRevocations)
	case len(r.Pod) > maxPodUID:
		return fmt.Errorf("%w: the UID %.60q of a pod is too long", ErrRevocations, r.Pod)
	case r.At.IsZero() || r.Until.IsZero():
		return fmt.Errorf("%w: one has no time", ErrRevocations)
	case r.Serial != "":
		return CheckSerial(r.Serial)
	}
	id, err := identity.Parse(r.Identity)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRevocations, err)
	}
	if id.TrustDomain != trustDomain {
		return fmt.Errorf("%w: %s is not of trust domain %s", ErrRevocations, id, trustDomain)
	}
	return nil
}

// CheckSerial returns [ErrRevocations] unless serial is written as [Leaf.Serial] is.
func CheckSerial(serial string) error {
	n, ok := new(big.Int).SetString(serial, 16)
	if len(serial) > maxSerial || !ok || n.Sign() <= 0 || n.Text(16) != serial {
		return fmt.Errorf("%w: %.60q is no serial number in lower-case hexadecimal", ErrRevocations, serial)
	}
	return nil
}

// RevocationList is what one authority has revoked of its certificates.
type RevocationList struct {
	TrustDomain string `json:"trustDomain"`
	// Number grows from each list to the next.
	Number  int64        `json:"number"`
	Entries []Revocation `json:"entries"`
}

// signedList is a list with what proves whose it is.
type signedList struct {
	// List is the RevocationList in JSON, as it was signed.
	List      string `json:"list"`
	Signature []byte `json:"signature"`
	// Signer is PEM: the certificate whose key has signed, and what leads from it to a root, which is
	// left out unless it has signed.
	Signer string `json:"signer"`
}

// revocationStatement returns what is signed. It is not DER, as that of an [Endorsement].
func revocationStatement(list string) []byte { return []byte("kubectl-gateway revocation 1\n" + list) }

// heldList is a list that was verified.
type heldList struct {
	signedList
	RevocationList
	signer *x509.Certificate
	// serials, and holders with the time of their revocation, are those of the list.
	serials map[string]struct{}
	holders map[holder]time.Time
}

// holder is whose certificates are revoked. everyPod stands for all pods of an identity, and an empty pod
// for what names none.
type holder struct{ identity, pod string }

const everyPod = "*"

// Revocations are the lists of all authorities that a bundle trusts. It is immutable; nil revokes nothing.
type Revocations struct{ lists []*heldList }

// ParseRevocations reads what [Revocations.Encode] returns, or nothing. It refuses a list that no signer
// below one of roots has signed for trustDomain: the error is [ErrRevocations]. A signer that has
// expired is looked at when it was last valid.
func ParseRevocations(text []byte, roots []*x509.Certificate, trustDomain string) (*Revocations, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	signed, err := decodeLists(text)
	if err != nil {
		return nil, err
	}
	var r *Revocations
	for _, list := range signed {
		held, err := list.verify(roots, trustDomain)
		if err != nil {
			return nil, err
		}
		if r.of(held.signer) != nil {
			return nil, fmt.Errorf("%w: two lists are of one authority", ErrRevocations)
		}
		r = r.with(held)
	}
	return r, nil
}

func decodeLists(text []byte) ([]signedList, error) {
	if len(text) > maxRevocationText {
		return nil, fmt.Errorf("%w: they are larger than %d bytes", ErrRevocations, maxRevocationText)
	}
	var signed []signedList
	if err := json.Unmarshal(text, &signed); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRevocations, err)
	}
	if len(signed) > maxRevocationLists {
		return nil, fmt.Errorf("%w: there are more than %d lists", ErrRevocations, maxRevocationLists)
	}
	return signed, nil
}

// ReadRevocations returns what a's own roots vouch for of text, and how many lists are none of theirs.
func (a *Authority) ReadRevocations(text []byte) (r *Revocations, refused int) {
	return ReadableRevocations(text, a.roots(), a.trustDomain)
}

// ReadableRevocations is ParseRevocations without the lists that it would refuse, which it counts.
func ReadableRevocations(text []byte, roots []*x509.Certificate, trustDomain string) (r *Revocations, refused int) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, 0
	}
	signed, err := decodeLists(text)
	if err != nil {
		return nil, 1
	}
	for _, list := range signed {
		held, err := list.verify(roots, trustDomain)
		if err != nil {
			refused++
			continue
		}
		r = r.Newest(&Revocations{[]*heldList{held}})
	}
	return r, refused
}

func (s *signedList) verify(roots []*x509.Certificate, trustDomain string) (*heldList, error) {
	chain, err := ParseCertificates([]byte(s.Signer))
	if err == nil && len(chain) > maxSignerChain {
		err = fmt.Errorf("more than %d certificates", maxSignerChain)
	}
	if err == nil {
		// A pod's certificate leads to a root, too.
		err = CheckSigner(chain[0])
	}
	if err == nil {
		err = leadsTo(chain, roots)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: who has signed them: %w", ErrRevocations, err)
	}
	algorithm, _ := signatureOf(chain[0].PublicKey)
	if err := chain[0].CheckSignature(algorithm, revocationStatement(s.List), s.Signature); err != nil {
		return nil, fmt.Errorf("%w: their signature is wrong: %w", ErrRevocations, err)
	}
	held := &heldList{signedList: *s, signer: chain[0], serials: make(map[string]struct{}), holders: make(map[holder]time.Time)}
	if err := json.Unmarshal([]byte(s.List), &held.RevocationList); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRevocations, err)
	}
	if err := held.check(trustDomain); err != nil {
		return nil, err
	}
	for _, e := range held.Entries {
		switch {
		case e.Serial != "":
			held.serials[e.Serial] = struct{}{}
		case e.Pod == "":
			held.revoke(holder{e.Identity, everyPod}, e.At)
		default:
			held.revoke(holder{e.Identity, e.Pod}, e.At)
			// It may be that pod's.
			held.revoke(holder{e.Identity, ""}, e.At)
		}
	}
	return held, nil
}

func (h *heldList) revoke(whose holder, at time.Time) {
	if at.After(h.holders[whose]) {
		h.holders[whose] = at
	}
}

func (l *RevocationList) check(trustDomain string) error {
	switch {
	case l.Number <= 0:
		return fmt.Errorf("%w: their number is %d", ErrRevocations, l.Number)
	case l.TrustDomain != trustDomain:
		return fmt.Errorf("%w: they are of trust domain %.60q, not %q", ErrRevocations, l.TrustDomain, trustDomain)
	case len(l.Entries) > MaxRevocations:
		return fmt.Errorf("%w: there are %d, at most %d are allowed", ErrRevocations, len(l.Entries), MaxRevocations)
	}
	for i := range l.Entries {
		if err := l.Entries[i].check(trustDomain); err != nil {
			return err
		}
	}
	return nil
}

// leadsTo returns an error unless chain, of an authority and what is above it, leads to one of roots.
func leadsTo(chain, roots []*x509.Certificate) error {
	_, notAfter := Validity(chain)
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, CurrentTime: time.Now()}
	if options.CurrentTime.After(notAfter) {
		options.CurrentTime = notAfter
	}
	for _, root := range roots {
		options.Roots.AddCert(root)
	}
	for _, between := range chain[1:] {
		options.Intermediates.AddCert(between)
	}
	_, err := chain[0].Verify(options)
	return err
}

// Revoke returns r with the list of a anew: what it has that is not over at now, and entries. One of the same certificate or
// identity is about as much and as long as both are. If that changes nothing, it returns r itself. Lists of others of which
// everything is over are left out.
// The number of the list is the seconds of now, or one more than before.
func (a *Authority) Revoke(r *Revocations, entries []Revocation, now time.Time) (*Revocations, error) {
	old := r.of(a.chain[0])
	next := RevocationList{TrustDomain: a.trustDomain, Number: now.Unix()}
	if old != nil {
		next.Number = max(next.Number, old.Number+1)
		next.Entries = slices.DeleteFunc(slices.Clone(old.Entries), func(e Revocation) bool { return now.After(e.Until) })
	}
	changed := false
	for _, e := range entries {
		e.At, e.Until = e.At.UTC().Truncate(time.Second), e.Until.UTC().Truncate(time.Second)
		i := slices.IndexFunc(next.Entries, func(is Revocation) bool { return is.same(&e) })
		if i < 0 {
			next.Entries, changed = append(next.Entries, e), true
			continue
		}
		is := &next.Entries[i]
		if e.Serial == "" && e.At.After(is.At) {
			is.At, changed = e.At, true
		}
		if e.Until.After(is.Until) {
			is.Until, changed = e.Until, true
		}
	}
	if !changed {
		return r, nil
	}
	if err := next.check(a.trustDomain); err != nil {
		return nil, api.WithHint(err, "entries end with the certificates that they are about; a new authority ('kubectl gateway rotate --ca') takes back all at once")
	}
	text, err := json.Marshal(next)
	if err != nil {
		return nil, fmt.Errorf("writing the revocations: %w", err)
	}
	list := signedList{List: string(text), Signer: string(EncodeCertificates(a.chain[:max(1, len(a.chain)-1)]))}
	if list.Signature, err = a.sign(revocationStatement(list.List)); err != nil {
		return nil, err
	}
	held, err := list.verify([]*x509.Certificate{a.Root()}, a.trustDomain)
	if err != nil {
		return nil, err
	}
	result := r.without(a.chain[0]).current(now).with(held)
	if len(result.lists) > maxRevocationLists {
		return nil, api.WithHint(fmt.Errorf("%w: %d authorities below one root have revoked certificates, at most %d may", ErrRevocations, len(result.lists), maxRevocationLists),
			"a list ends with its last entry; a new root ('kubectl gateway rotate --ca') takes back all at once")
	}
	if size := len(result.Encode()); size > maxRevocationText {
		return nil, fmt.Errorf("%w: they would be %d bytes, at most %d are allowed", ErrRevocations, size, maxRevocationText)
	}
	return result, nil
}

// Newest returns the lists of r and other, of each authority the one with the higher number. If they would be more than may be
// read, those are left out of which everything is over.
func (r *Revocations) Newest(other *Revocations) *Revocations {
	if other == nil {
		return r
	}
	for _, list := range other.lists {
		switch is := r.of(list.signer); {
		case is == nil:
			r = r.with(list)
		case is.Number < list.Number:
			r = r.without(list.signer).with(list)
		}
	}
	if r != nil && len(r.lists) > maxRevocationLists {
		return r.current(time.Now())
	}
	return r
}

// Lost returns what r revokes and newer lists of the same authorities in other do not, although it is not over. An authority signs
// no such list, unless it is shown an older one of its own as the last.
func (r *Revocations) Lost(other *Revocations) (lost []Revocation) {
	if r == nil {
		return nil
	}
	for _, is := range r.lists {
		list := other.of(is.signer)
		if list == nil || list.Number <= is.Number {
			continue
		}
		for _, e := range is.Entries {
			// The number is not less than the time of signing.
			over := e.Until.Unix() <= list.Number
			if !over && !slices.ContainsFunc(list.Entries, func(n Revocation) bool { return n.covers(&e) }) {
				lost = append(lost, e)
			}
		}
	}
	return lost
}

// Among returns the lists whose signers lead to roots.
func (r *Revocations) Among(roots []*x509.Certificate) *Revocations {
	if r == nil {
		return nil
	}
	var left *Revocations
	for _, list := range r.lists {
		if chain, err := ParseCertificates([]byte(list.Signer)); err == nil && leadsTo(chain, roots) == nil {
			left = left.with(list)
		}
	}
	return left
}

// Check returns [ErrRevoked] if leaf is revoked by the authority that has issued it. leaf must have
// been verified.
func (r *Revocations) Check(leaf *x509.Certificate) error {
	if r == nil {
		return nil
	}
	for _, list := range r.lists {
		// A certificate is named by its issuer and its serial number (RFC 5280, section 4.1.2.2).
		if !bytes.Equal(list.signer.RawSubject, leaf.RawIssuer) {
			continue
		}
		if _, revoked := list.serials[leaf.SerialNumber.Text(16)]; revoked {
			return ErrRevoked
		}
		if len(leaf.URIs) == 0 {
			continue
		}
		for _, pod := range []string{everyPod, podUID(leaf)} {
			// It was issued some time within the second that it says.
			if at, revoked := list.holders[holder{leaf.URIs[0].String(), pod}]; revoked && !leaf.NotBefore.Add(Backdate).After(at) {
				return fmt.Errorf("%w: those of %s up to %s are", ErrRevoked, leaf.URIs[0], at.Format(time.RFC3339))
			}
		}
	}
	return nil
}

// Encode returns r as one text in JSON, or nil if there is nothing to say.
func (r *Revocations) Encode() []byte {
	if r == nil {
		return nil
	}
	signed := make([]signedList, len(r.lists))
	for i, list := range r.lists {
		signed[i] = list.signedList
	}
	text, err := json.Marshal(signed)
	if err != nil { // strings and bytes can always be encoded
		panic(err)
	}
	return text
}

// Numbers returns the number of each list by the fingerprint of its signer, nil if there is none.
func (r *Revocations) Numbers() map[string]int64 {
	if r == nil {
		return nil
	}
	numbers := make(map[string]int64, len(r.lists))
	for _, list := range r.lists {
		numbers[Fingerprint(list.signer)] = list.Number
	}
	return numbers
}

// Reached reports whether somebody who has the lists of numbers has all of r.
func (r *Revocations) Reached(numbers map[string]int64) bool {
	for signer, number := range r.Numbers() {
		if numbers[signer] < number {
			return false
		}
	}
	return true
}

// Equal reports whether r and other have the same lists.
func (r *Revocations) Equal(other *Revocations) bool { return maps.Equal(r.Numbers(), other.Numbers()) }

// Entries returns what is revoked and not over at now, the newest last.
func (r *Revocations) Entries(now time.Time) []Revocation {
	var all []Revocation
	if r == nil {
		return nil
	}
	for _, list := range r.lists {
		for _, e := range list.Entries {
			if !now.After(e.Until) {
				all = append(all, e)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Revocation) int { return a.At.Compare(b.At) })
	return all
}

func (r *Revocations) of(signer *x509.Certificate) *heldList {
	if r == nil {
		return nil
	}
	for _, list := range r.lists {
		if list.signer.Equal(signer) {
			return list
		}
	}
	return nil
}

func (r *Revocations) with(list *heldList) *Revocations {
	if r == nil {
		return &Revocations{[]*heldList{list}}
	}
	return &Revocations{append(slices.Clone(r.lists), list)}
}

func (r *Revocations) without(signer *x509.Certificate) *Revocations {
	if r == nil {
		return nil
	}
	return &Revocations{slices.DeleteFunc(slices.Clone(r.lists), func(list *heldList) bool { return list.signer.Equal(signer) })}
}

// current returns the lists that are about something at now.
func (r *Revocations) current(now time.Time) *Revocations {
	if r == nil {
		return nil
	}
	return &Revocations{slices.DeleteFunc(slices.Clone(r.lists), func(list *heldList) bool {
		return !slices.ContainsFunc(list.Entries, func(e Revocation) bool { return !now.After(e.Until) })
	})}
}

// Revoking returns a copy of a that hands out revocations besides its bundle.
func (a *Authority) Revoking(r *Revocations) *Authority {
	b := *a
	b.revoked = r
	return &b
}

// Revocations returns what a hands out besides its bundle.
func (a *Authority) Revocations() *Revocations { return a.revoked }

// String keeps long lists out of messages.
func (r *Revocation) String() string {
	text := strings.TrimPrefix(r.Identity, "spiffe://")
	switch {
	case r.Serial != "":
		return "certificate " + r.Serial
	case r.Pod != "":
		return text + " in pod " + r.Pod
	}
	return text
}
