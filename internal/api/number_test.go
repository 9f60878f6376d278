package api

import (
	"net/netip"
	"testing"
)

// TestGatewayNumber: gateways of other releases make the same number of an address.
func TestGatewayNumber(t *testing.T) {
	for address, want := range map[string]uint32{"10.244.1.7": 0x5f53a1fe, "::ffff:10.244.1.7": 0x5f53a1fe, "fd00:10:244:1::7": 0x7eaabb46} {
		if n := GatewayNumber(netip.MustParseAddr(address)); n != want {
			t.Errorf("%s has the number %#x, want %#x", address, n, want)
		}
	}
}
