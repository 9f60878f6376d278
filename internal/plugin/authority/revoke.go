package authority

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Revoke has the authority of a cluster revoke entries, besides what it has revoked, and publishes that. It
// returns the authority with all that it and the other one of a rotation have revoked. Errors are those of
// [Load], [ca.ErrRevocations], and [ErrChanged] if somebody else wrote at the same time.
func Revoke(ctx context.Context, l Location, entries []ca.Revocation) (*ca.Authority, error) {
	a, err := Load(ctx, l)
	if err != nil {
		return nil, err
	}
	signers := []*ca.Authority{a}
	if len(a.Roots()) > 1 {
		// The certificates of both authorities are good.
		rotation, err := OpenRotation(ctx, l)
		if err != nil {
			return nil, err
		}
		for _, other := range []*ca.Authority{rotation.Current(), rotation.Other()} {
			if other != nil && !other.Equal(a) {
				signers = append(signers, other)
			}
		}
		if len(signers) < 2 {
			return nil, api.WithHint(fmt.Errorf("a rotation of the authority is under way, and the key of the other authority is not here"),
				"revoke where 'kubectl gateway rotate --ca' is run, or finish that first: it takes back the old certificates")
		}
	}
	m, err := getBundle(ctx, l.Client)
	if err != nil {
		return nil, err
	}
	published, _ := a.ReadRevocations([]byte(m.Data[RevokedKey]))
	revoked := published
	for _, signer := range signers {
		if revoked, err = signer.Revoke(revoked, entries, time.Now()); err != nil {
			return nil, fmt.Errorf("revoking: %w", err)
		}
	}
	if !revoked.Equal(published) {
		m = m.DeepCopy()
		m.Data[RevokedKey] = string(revoked.Encode())
		if _, err := l.Client.CoreV1().ConfigMaps(Namespace).Update(ctx, m, metav1.UpdateOptions{FieldManager: managedBy}); err != nil {
			return nil, clusterError("publishing what is revoked", "update", "configmap "+BundleName, err)
		}
	}
	return a.Revoking(revoked), nil
}

// Revoked returns what the authorities that a cluster trusts have revoked. It needs no key.
func Revoked(ctx context.Context, client kubernetes.Interface) (*ca.Revocations, error) {
	b, err := fetchBundle(ctx, client)
	if err != nil {
		return nil, err
	}
	revoked, err := ca.ParseRevocations(b.revoked, b.certificates, b.trustDomain)
	if err != nil {
		return nil, fmt.Errorf("reading configmap %s in %s: %w", BundleName, Namespace, err)
	}
	return revoked, nil
}
