package ca_test

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// A gateway makes a key and a request, an authority signs it, and a peer that trusts
// the authority's bundle accepts the certificate.
func Example() {
	now := time.Date(2026, 4, 1, 12, 0, 0, 0, time.UTC)
	authority, err := ca.New(ca.Options{TrustDomain: "prod.example.org", Now: now})
	check(err)

	id := identity.ID{TrustDomain: "prod.example.org", Namespace: "shop", ServiceAccount: "cart"}
	ips := []netip.Addr{netip.MustParseAddr("10.0.2.2")}
	key, err := ca.NewKey()
	check(err)
	request, err := ca.NewRequest(key, id, ips)
	check(err)

	leaf, err := authority.Sign(request, ca.LeafRequest{Identity: id, IPs: ips, TTL: 24 * time.Hour, Now: now})
	check(err)

	chain, err := ca.ParseCertificates(leaf.CertPEM)
	check(err)
	roots, err := ca.ParseCertificates(authority.Bundle())
	check(err)
	root, err := ca.Verify(chain, roots, now)
	check(err)
	fmt.Println(chain[0].URIs[0], "until", leaf.NotAfter.Format(time.DateTime))
	fmt.Println("issued by the authority:", ca.Fingerprint(root) == authority.Fingerprint())

	// Output:
	// spiffe://prod.example.org/ns/shop/sa/cart until 2026-04-02 12:00:00
	// issued by the authority: true
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
