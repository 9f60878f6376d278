package pcapng

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrFormat says that the bytes are not pcapng, or not as a Writer writes it.
var ErrFormat = errors.New("not a pcapng recording")

// maxInterfaces bounds what a Reader remembers.
const maxInterfaces = 1024

// Block is one part of a recording. At most one of the pointers is set, and none for
// other kinds of blocks.
type Block struct {
	Interface  *Interface
	Packet     *Packet
	Statistics *Statistics
	// Raw is the whole block as it was read.
	Raw []byte
}

// Reader reads a recording.
type Reader struct {
	r          io.Reader
	buffer     []byte
	interfaces []Interface
	started    bool
}

// NewReader returns a Reader of r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Interfaces returns the interfaces of the blocks so far.
func (p *Reader) Interfaces() []Interface { return p.interfaces }

// Next returns the next block, which is valid until the next call. The error is
// io.EOF at the end of a recording that ends with a whole block,
// io.ErrUnexpectedEOF within one, and wraps ErrFormat if it is not one.
func (p *Reader) Next() (*Block, error) {
	var head [8]byte
	if _, err := io.ReadFull(p.r, head[:]); err != nil {
		return nil, err
	}
	kind, length := order.Uint32(head[:]), order.Uint32(head[4:])
	switch {
	case !p.started && kind != typeSection:
		return nil, fmt.Errorf("%w: it does not begin with a section", ErrFormat)
	case length < 12 || length%4 != 0 || length > maxBlock:
		return nil, fmt.Errorf("%w: a block of %d bytes", ErrFormat, length)
	}
	if cap(p.buffer) < int(length) {
		p.buffer = make([]byte, length)
	}
	raw := p.buffer[:length]
	copy(raw, head[:])
	if _, err := io.ReadFull(p.r, raw[8:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if order.Uint32(raw[length-4:]) != length {
		return nil, fmt.Errorf("%w: the two lengths of a block differ", ErrFormat)
	}
	b := &Block{Raw: raw}
	if err := p.parse(b, kind, raw[8:length-4]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return b, nil
}

func (p *Reader) parse(b *Block, kind uint32, body []byte) (err error) {
	switch kind {
	case typeSection:
		if p.started {
			return errors.New("a second section")
		}
		p.started = true
		if len(body) < 16 || order.Uint32(body) != byteOrderMagic {
			return errors.New("the section is not little-endian")
		}
		if order.Uint16(body[4:]) != 1 {
			return errors.New("an unknown version")
		}
	case typeInterface:
		b.Interface, err = p.parseInterface(body)
	case typePacket:
		b.Packet, err = p.parsePacket(body)
	case typeStatistics:
		b.Statistics, err = p.parseStatistics(body)
	}
	return err
}

func (p *Reader) parseInterface(body []byte) (*Interface, error) {
	if len(body) < 8 {
		return nil, errors.New("a short interface")
	}
	if len(p.interfaces) == maxInterfaces {
		return nil, errors.New("too many interfaces")
	}
	i := Interface{LinkType: order.Uint16(body), SnapLen: order.Uint32(body[4:])}
	resolution := byte(6) // the format's default
	if err := options(body[8:], func(code uint16, value []byte) {
		switch {
		case code == optionName:
			i.Name = string(value)
		case code == optionDescription:
			i.Description = string(value)
		case code == optionResolution && len(value) == 1:
			resolution = value[0]
		}
	}); err != nil {
		return nil, err
	}
	if resolution != nanoseconds {
		return nil, errors.New("times are not in nanoseconds")
	}
	p.interfaces = append(p.interfaces, i)
	return &i, nil
}

func (p *Reader) parsePacket(body []byte) (*Packet, error) {
	if len(body) < 20 {
		return nil, errors.New("a short packet block")
	}
	i, kept := order.Uint32(body), order.Uint32(body[12:])
	if int64(i) >= int64(len(p.interfaces)) {
		return nil, errors.New("a packet of an unknown interface")
	}
	if uint64(kept) > uint64(len(body)-20) {
		return nil, errors.New("a packet longer than its block")
	}
	return &Packet{Interface: int(i), Time: timeOf(body[4:]), Length: int(order.Uint32(body[16:])), Data: body[20 : 20+kept]}, nil
}

func (p *Reader) parseStatistics(body []byte) (*Statistics, error) {
	if len(body) < 12 {
		return nil, errors.New("short statistics")
	}
	i := order.Uint32(body)
	if int64(i) >= int64(len(p.interfaces)) {
		return nil, errors.New("statistics of an unknown interface")
	}
	s := Statistics{Interface: int(i), Time: timeOf(body[4:])}
	err := options(body[12:], func(code uint16, value []byte) {
		switch {
		case len(value) != 8:
		case code == optionReceived:
			s.Received = order.Uint64(value)
		case code == optionDropped:
			s.Dropped = order.Uint64(value)
		}
	})
	return &s, err
}

// options calls f for each option of a block.
func options(b []byte, f func(code uint16, value []byte)) error {
	for len(b) >= 4 {
		code, length := order.Uint16(b), int(order.Uint16(b[2:]))
		if code == optionEnd {
			return nil
		}
		padded := (length + 3) &^ 3
		if padded > len(b)-4 {
			return errors.New("an option longer than its block")
		}
		f(code, b[4:4+length])
		b = b[4+padded:]
	}
	return nil
}

func timeOf(b []byte) time.Time {
	return time.Unix(0, int64(uint64(order.Uint32(b))<<32|uint64(order.Uint32(b[4:]))))
}
