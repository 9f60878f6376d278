package pcapng

import "encoding/binary"

// CookedSize is the size of a Cooked header in bytes.
const CookedSize = 20

// Hardware types (ARPHRD_ of Linux's if_arp.h) and packet types (PACKET_ of
// if_packet.h) that the programs know.
const (
	HardwareLoopback = 772
	TypeOutgoing     = 4
)

// Cooked is the header of LINKTYPE_LINUX_SLL2. It replaces the link's own header, so that
// links of all kinds look alike.
type Cooked struct {
	// Protocol is the EtherType of what follows.
	Protocol uint16
	// Index is the interface's number in its network namespace.
	Index uint32
	// Hardware and Type are one of the constants, or another number.
	Hardware uint16
	Type     uint8
	// Address is the sender's on the link, AddressLength bytes of it.
	AddressLength uint8
	Address       [8]byte
}

// Append appends the header to b.
func (c *Cooked) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, c.Protocol)
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint32(b, c.Index)
	b = binary.BigEndian.AppendUint16(b, c.Hardware)
	b = append(b, c.Type, c.AddressLength)
	return append(b, c.Address[:]...)
}

// ParseCooked returns the header at the start of data and the rest. It reports false if
// data are too short.
func ParseCooked(data []byte) (c Cooked, rest []byte, ok bool) {
	if len(data) < CookedSize {
		return Cooked{}, nil, false
	}
	c = Cooked{
		Protocol: binary.BigEndian.Uint16(data), Index: binary.BigEndian.Uint32(data[4:]),
		Hardware: binary.BigEndian.Uint16(data[8:]), Type: data[10], AddressLength: data[11],
	}
	copy(c.Address[:], data[12:])
	return c, data[CookedSize:], true
}
