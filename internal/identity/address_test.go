package identity

import (
	"crypto/x509"
	"net"
	"net/netip"
	"testing"
)

func TestCheckAddress(t *testing.T) {
	for text, good := range map[string]bool{
		"10.0.0.1": true, "192.0.2.1": true, "fd00::1": true, "2001:db8::1": true, "::ffff:10.0.0.1": true, "100.64.0.1": true,
		"127.0.0.1": false, "127.255.0.9": false, "::1": false, "::ffff:127.0.0.1": false,
		"169.254.0.1": false, "::ffff:169.254.0.1": false, "fe80::1": false, "febf::1": false, "fe80::1%eth0": false, "fd00::1%eth0": false,
		"0.0.0.0": false, "::": false, "::ffff:0.0.0.0": false, "224.0.0.1": false, "ff02::1": false, "255.255.255.255": false,
	} {
		ip := netip.MustParseAddr(text)
		if err := CheckAddress(ip); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
		if ip.Zone() != "" {
			continue
		}
		cert := &x509.Certificate{IPAddresses: []net.IP{net.ParseIP("10.0.0.9"), net.ParseIP(text)}}
		if err := CheckAddresses(cert); (err == nil) != good {
			t.Errorf("a certificate for %s: %v", text, err)
		}
	}
	if CheckAddress(netip.Addr{}) == nil || CheckAddresses(&x509.Certificate{IPAddresses: []net.IP{{1, 2, 3}}}) == nil || CheckAddresses(&x509.Certificate{}) != nil {
		t.Error("what is no address")
	}
}
