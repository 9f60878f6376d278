package api

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
)

// GatewayNumber returns the number by which a gateway says in a SYN-ACK that it has the pod at ip. It is not 0. It is made of the
// address, so that only who has proved that address by a certificate is taken for the gateway.
func GatewayNumber(ip netip.Addr) uint32 {
	sum := sha256.Sum256(ip.Unmap().AsSlice())
	return max(1, binary.BigEndian.Uint32(sum[:]))
}
