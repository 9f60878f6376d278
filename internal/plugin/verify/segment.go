package verify

import (
	"encoding/binary"
	"net/netip"

	"github.com/kubectl-gateway/kubectl-gateway/internal/pcapng"
)

const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	protoTCP  = 6
	// maxExtensions bounds the headers between those of IPv6 and TCP.
	maxExtensions = 8
)

// segment is one segment of TCP.
type segment struct {
	source, destination netip.AddrPort
	sequence            uint32
	syn                 bool
	payload             []byte
}

// parseSegment returns the segment in an IP packet. It reports false if there is none, or
// not all of it.
func parseSegment(c pcapng.Cooked, packet []byte) (segment, bool) {
	var source, destination netip.Addr
	switch {
	case c.Protocol == etherIPv4 && len(packet) >= 20:
		header, total := int(packet[0]&0xf)*4, int(binary.BigEndian.Uint16(packet[2:]))
		if total == 0 { // segmentation offload: the length exceeds the field
			total = len(packet)
		}
		fragment := binary.BigEndian.Uint16(packet[6:]) & 0x3fff
		if packet[0]>>4 != 4 || header < 20 || total < header || total > len(packet) || packet[9] != protoTCP || fragment != 0 {
			return segment{}, false
		}
		source, destination = netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20]))
		packet = packet[header:total]
	case c.Protocol == etherIPv6 && len(packet) >= 40:
		total := int(binary.BigEndian.Uint16(packet[4:]))
		if total == 0 {
			total = len(packet) - 40
		}
		if packet[0]>>4 != 6 || total > len(packet)-40 {
			return segment{}, false
		}
		source, destination = netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40]))
		rest, ok := skipExtensions(packet[6], packet[40:40+total])
		if !ok {
			return segment{}, false
		}
		packet = rest
	default:
		return segment{}, false
	}
	if len(packet) < 20 {
		return segment{}, false
	}
	header := int(packet[12]>>4) * 4
	if header < 20 || header > len(packet) {
		return segment{}, false
	}
	return segment{
		source:      netip.AddrPortFrom(source, binary.BigEndian.Uint16(packet)),
		destination: netip.AddrPortFrom(destination, binary.BigEndian.Uint16(packet[2:])),
		sequence:    binary.BigEndian.Uint32(packet[4:]),
		syn:         packet[13]&2 != 0,
		payload:     packet[header:],
	}, true
}

// skipExtensions returns the TCP segment behind the extension headers of IPv6 (RFC 8200
// section 4). It reports false if something else is there.
func skipExtensions(next byte, b []byte) ([]byte, bool) {
	for range maxExtensions {
		switch next {
		case protoTCP:
			return b, true
		case 0, 43, 60: // hop-by-hop, routing, destination options
			if len(b) < 8 {
				return nil, false
			}
			length := (int(b[1]) + 1) * 8
			if length > len(b) {
				return nil, false
			}
			next, b = b[0], b[length:]
		default:
			return nil, false
		}
	}
	return nil, false
}
