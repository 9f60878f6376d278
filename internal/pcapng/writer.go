package pcapng

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// Writer writes a recording. It is not safe for concurrent use.
type Writer struct {
	w          io.Writer
	block      []byte
	interfaces int
	written    int64
}

// NewWriter begins a recording on w, made by the named application.
func NewWriter(w io.Writer, application string) (*Writer, error) {
	p := &Writer{w: w}
	p.begin(typeSection)
	p.block = order.AppendUint32(p.block, byteOrderMagic)
	p.block = order.AppendUint16(p.block, 1) // major version
	p.block = order.AppendUint16(p.block, 0)
	p.block = order.AppendUint64(p.block, ^uint64(0)) // the section's length is not known
	p.option(optionApplication, []byte(application))
	p.endOptions()
	return p, p.end()
}

// Written returns how many bytes have been written.
func (p *Writer) Written() int64 { return p.written }

// AddInterface describes an interface and returns its number.
func (p *Writer) AddInterface(i Interface) (int, error) {
	p.begin(typeInterface)
	p.block = order.AppendUint16(p.block, i.LinkType)
	p.block = order.AppendUint16(p.block, 0)
	p.block = order.AppendUint32(p.block, i.SnapLen)
	p.option(optionName, []byte(i.Name))
	if i.Description != "" {
		p.option(optionDescription, []byte(i.Description))
	}
	p.option(optionResolution, []byte{nanoseconds})
	p.endOptions()
	number := p.interfaces
	p.interfaces++
	return number, p.end()
}

// WritePacket writes a packet of an interface that was added. The data are those of
// head and then tail.
func (p *Writer) WritePacket(i int, at time.Time, length int, head, tail []byte) error {
	size := len(head) + len(tail)
	switch {
	case i < 0 || i >= p.interfaces:
		return fmt.Errorf("writing a packet: there is no interface %d", i)
	case size > MaxPacket:
		return errors.New("writing a packet: it is too long")
	}
	p.begin(typePacket)
	p.block = order.AppendUint32(p.block, uint32(i))
	p.time(at)
	p.block = order.AppendUint32(p.block, uint32(size))
	p.block = order.AppendUint32(p.block, uint32(max(length, size)))
	p.block = append(append(p.block, head...), tail...)
	p.pad()
	return p.end()
}

// WriteStatistics writes the numbers of an interface, at the end of the recording.
func (p *Writer) WriteStatistics(s Statistics) error {
	p.begin(typeStatistics)
	p.block = order.AppendUint32(p.block, uint32(s.Interface))
	p.time(s.Time)
	p.option(optionReceived, order.AppendUint64(nil, s.Received))
	p.option(optionDropped, order.AppendUint64(nil, s.Dropped))
	p.endOptions()
	return p.end()
}

func (p *Writer) begin(kind uint32) {
	p.block = order.AppendUint32(p.block[:0], kind)
	p.block = order.AppendUint32(p.block, 0) // the length, see end
}

func (p *Writer) end() error {
	length := uint32(len(p.block) + 4)
	order.PutUint32(p.block[4:], length)
	p.block = order.AppendUint32(p.block, length)
	n, err := p.w.Write(p.block)
	p.written += int64(n)
	if err != nil {
		return fmt.Errorf("writing the packets: %w", err)
	}
	return nil
}

func (p *Writer) time(at time.Time) {
	ns := uint64(at.UnixNano())
	p.block = order.AppendUint32(p.block, uint32(ns>>32))
	p.block = order.AppendUint32(p.block, uint32(ns))
}

func (p *Writer) option(code uint16, value []byte) {
	p.block = order.AppendUint16(p.block, code)
	p.block = order.AppendUint16(p.block, uint16(len(value)))
	p.block = append(p.block, value...)
	p.pad()
}

func (p *Writer) endOptions() { p.block = order.AppendUint32(p.block, optionEnd) }

func (p *Writer) pad() {
	for len(p.block)%4 != 0 {
		p.block = append(p.block, 0)
	}
}
