package pcapng

import (
	"encoding/binary"
	"time"
)

// Block types and option codes of the format.
const (
	typeSection    = 0x0a0d0d0a
	typeInterface  = 1
	typeStatistics = 5
	typePacket     = 6

	byteOrderMagic = 0x1a2b3c4d

	optionEnd         = 0
	optionApplication = 4 // shb_userappl
	optionName        = 2 // if_name
	optionDescription = 3 // if_description
	optionResolution  = 9 // if_tsresol
	optionReceived    = 4 // isb_ifrecv
	optionDropped     = 5 // isb_ifdrop

	// nanoseconds is the value of if_tsresol for 10^-9 seconds.
	nanoseconds = 9
)

// LinuxSLL2 is the link type of packets behind the header of type [Cooked]
// (LINKTYPE_LINUX_SLL2).
const LinuxSLL2 = 276

// MaxPacket is how many bytes of a packet are kept at most: more than the largest
// that segmentation offload makes, as in tcpdump.
const MaxPacket = 256 << 10

// maxBlock bounds a block: the largest packet and what stands around it.
const maxBlock = MaxPacket + 4096

var order = binary.LittleEndian

// Interface is where packets were recorded.
type Interface struct {
	Name        string
	Description string
	LinkType    uint16
	// SnapLen is how many bytes of a packet are kept at most.
	SnapLen uint32
}

// Packet is one recorded packet.
type Packet struct {
	// Interface is the number of the interface, in the order of their blocks.
	Interface int
	Time      time.Time
	// Length is the packet's own length, that of Data unless it was cut.
	Length int
	Data   []byte
}

// Statistics counts what happened at an interface during the recording.
type Statistics struct {
	Interface int
	Time      time.Time
	// Received counts packets that passed the filter, Dropped those of them for
	// which there was no room.
	Received, Dropped uint64
}
