//go:build linux

package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// The header is the first thing that the connecting gateway sends inside TLS:
//
//	length   uint16, of everything after it
//	version  uint8
//	fields   each: type uint8, length uint16, value
//
// Integers are big endian. Types below 0x80 are critical: a gateway that does not know one
// refuses the connection. It skips unknown types from 0x80 on. No type may occur twice. An
// address is 4 or 16 bytes of IP and 2 of port.
//
// The accepting gateway answers with one status byte, together with its first data or, with api.ALPNFrames and
// where the header asks for that, at once.
const (
	headerVersion = 1
	// maxHeader is the largest header in bytes, its length included. The known fields take
	// 93; the rest is room for future fields.
	maxHeader = 512

	fieldDestination = 0x01
	fieldClient      = 0x02
	fieldAgain       = 0x83 // empty
	fieldWaits       = 0x84 // empty
	fieldBound       = 0x85
	fieldDialled     = 0x86
	// optionalField is the bit that lets a gateway skip a field.
	optionalField = 0x80

	headerPrefix = 2
	fieldPrefix  = 3
)

// header names the two ends of the application's connection.
type header struct {
	// Destination is what the application dialled, or the pod that was chosen for that.
	Destination netip.AddrPort
	// Dialled is the Service that the application dialled, if Destination is the pod that was chosen for it. It is for the log
	// alone.
	Dialled netip.AddrPort
	// Client is the address that the application connects from, as far as the certificate names it.
	Client netip.AddrPort
	// Bound is the address that the application has bound if the certificate does not name that. The connection
	// between the gateways comes from there, unless something between them translates it.
	Bound netip.AddrPort
	// Again means that the connection was sent before, and that its peer may have begun it.
	Again bool
	// Waits means that the application waits for the answer, and sends nothing before: the answer is to come
	// as soon as it is known. Only gateways that speak api.ALPNFrames heed it.
	Waits bool
}

// source returns the application's own end.
func (h *header) source() netip.AddrPort {
	if h.Bound.IsValid() {
		return h.Bound
	}
	return h.Client
}

// status is the accepting gateway's answer.
type status byte

const (
	statusOK          status = 1
	statusRefused     status = 2
	statusNotAllowed  status = 3
	statusUnreachable status = 4
	// statusAgain means that the connection was not started, for a reason that a handshake would
	// show: the dialling gateway is to dial. It exists in frames only.
	statusAgain status = 5
	// statusBegun means that the connection, which was sent once more, has been begun before.
	statusBegun status = 6
)

func (s status) String() string {
	if s.received() == traffic.Other {
		return fmt.Sprintf("peer answered with unknown status %d", byte(s))
	}
	return s.received().String()
}

// received is the reason of the side that receives s, which is not ok.
func (s status) received() traffic.Reason {
	switch s {
	case statusRefused:
		return traffic.ApplicationRefused
	case statusNotAllowed:
		return traffic.PeerNotAllowed
	case statusUnreachable:
		return traffic.PeerApplicationUnreachable
	case statusAgain:
		return traffic.PeerReset
	case statusBegun:
		return traffic.PeerLost
	}
	return traffic.Other
}

var (
	// errShortHeader means that more bytes are needed.
	errShortHeader  = errors.New("header is incomplete")
	errHeaderSize   = fmt.Errorf("header is longer than %d bytes", maxHeader)
	errHeaderField  = errors.New("header has a field of the wrong length")
	errHeaderTwice  = errors.New("header has a field twice")
	errHeaderAddr   = errors.New("header has an address that cannot be used")
	errHeaderMisses = errors.New("header lacks the destination or the client")
)

// appendHeader appends the wire form of h to b.
func appendHeader(b []byte, h header) []byte {
	start := len(b)
	b = append(b, 0, 0, headerVersion)
	b = appendAddress(b, fieldDestination, h.Destination)
	b = appendAddress(b, fieldClient, h.Client)
	if h.Again {
		b = append(b, fieldAgain, 0, 0)
	}
	if h.Waits {
		b = append(b, fieldWaits, 0, 0)
	}
	if h.Bound.IsValid() {
		b = appendAddress(b, fieldBound, h.Bound)
	}
	if h.Dialled.IsValid() {
		b = appendAddress(b, fieldDialled, h.Dialled)
	}
	binary.BigEndian.PutUint16(b[start:], uint16(len(b)-start-headerPrefix))
	return b
}

func appendAddress(b []byte, field byte, a netip.AddrPort) []byte {
	ip := a.Addr().AsSlice()
	b = append(b, field)
	b = binary.BigEndian.AppendUint16(b, uint16(len(ip)+2))
	b = append(b, ip...)
	return binary.BigEndian.AppendUint16(b, a.Port())
}

// parseHeader reads the header at the front of b and returns its size. errShortHeader means
// that b holds only a part of it; every other error is final.
func parseHeader(b []byte) (header, int, error) {
	if len(b) < headerPrefix {
		return header{}, 0, errShortHeader
	}
	size := headerPrefix + int(binary.BigEndian.Uint16(b))
	switch {
	case size > maxHeader:
		return header{}, 0, errHeaderSize
	case size == headerPrefix:
		return header{}, 0, errHeaderMisses
	case len(b) > headerPrefix && b[headerPrefix] != headerVersion:
		return header{}, 0, fmt.Errorf("header version %d is not supported", b[headerPrefix])
	case len(b) < size:
		return header{}, 0, errShortHeader
	}
	h, err := parseFields(b[headerPrefix+1 : size])
	return h, size, err
}

func parseFields(b []byte) (header, error) {
	var h header
	var seen [256 / 64]uint64
	for len(b) > 0 {
		if len(b) < fieldPrefix {
			return header{}, errHeaderField
		}
		field, size := b[0], int(binary.BigEndian.Uint16(b[1:]))
		b = b[fieldPrefix:]
		if size > len(b) {
			return header{}, errHeaderField
		}
		value := b[:size]
		b = b[size:]
		if seen[field/64]&(1<<(field%64)) != 0 {
			return header{}, errHeaderTwice
		}
		seen[field/64] |= 1 << (field % 64)
		var err error
		switch {
		case field == fieldDestination:
			h.Destination, err = parseAddress(value)
		case field == fieldClient:
			h.Client, err = parseAddress(value)
		case field == fieldBound:
			h.Bound, err = parseAddress(value)
		case field == fieldDialled:
			h.Dialled, err = parseAddress(value)
		case field == fieldAgain:
			h.Again, err = true, empty(value)
		case field == fieldWaits:
			h.Waits, err = true, empty(value)
		case field&optionalField == 0:
			err = fmt.Errorf("header has an unknown critical field %#02x", field)
		}
		if err != nil {
			return header{}, err
		}
	}
	if !h.Destination.IsValid() || !h.Client.IsValid() {
		return header{}, errHeaderMisses
	}
	if h.Destination.Addr().Is4() != h.Client.Addr().Is4() || h.Destination.Addr().Is4() != h.source().Addr().Is4() {
		return header{}, errHeaderAddr
	}
	return h, nil
}

func empty(value []byte) error {
	if len(value) != 0 {
		return errHeaderField
	}
	return nil
}

// parseAddress accepts unicast addresses in one form only: an IPv4 address mapped into IPv6
// would be a second name that checks do not know.
func parseAddress(value []byte) (netip.AddrPort, error) {
	if len(value) != 4+2 && len(value) != 16+2 {
		return netip.AddrPort{}, errHeaderField
	}
	ip, _ := netip.AddrFromSlice(value[:len(value)-2])
	port := binary.BigEndian.Uint16(value[len(value)-2:])
	if ip.Is4In6() || ip.IsUnspecified() || ip.IsMulticast() || port == 0 {
		return netip.AddrPort{}, errHeaderAddr
	}
	return netip.AddrPortFrom(ip, port), nil
}
