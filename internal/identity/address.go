package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
)

// CheckAddress returns why ip cannot be an address that a certificate vouches for. Every
// machine has loopback and link-local addresses: nobody can be told from others by them,
// and applications trust some of them.
func CheckAddress(ip netip.Addr) error {
	if !ip.IsValid() || ip.Zone() != "" {
		return fmt.Errorf("address %v cannot stand in a certificate", ip)
	}
	plain := ip.Unmap()
	switch {
	case plain.IsUnspecified(), plain.IsMulticast(), plain == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("address %v cannot stand in a certificate", ip)
	case plain.IsLoopback():
		return fmt.Errorf("address %v is loopback, which every machine has", ip)
	case plain.IsLinkLocalUnicast():
		return fmt.Errorf("address %v is link-local, which every machine may have", ip)
	}
	return nil
}

// CheckAddresses is CheckAddress for each address that cert names.
func CheckAddresses(cert *x509.Certificate) error {
	for _, name := range cert.IPAddresses {
		ip, ok := netip.AddrFromSlice(name)
		if !ok {
			return errors.New("the certificate names something that is no address")
		}
		if err := CheckAddress(ip.Unmap()); err != nil {
			return fmt.Errorf("the certificate names what it cannot vouch for: %w", err)
		}
	}
	return nil
}
