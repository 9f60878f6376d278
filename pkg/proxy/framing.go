//go:build linux

package proxy

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// framing is what a connection in band has with api.ALPNFrames: behind the header and behind the status there are frames
// of data and urgent frames, and no others. The end is that of TLS. nil is a connection without frames.
type framing struct {
	frames frames
	// short is the beginning of a frame, of which more is to come.
	short []byte
}

// agreeOnFrames is called after a handshake for a connection that has TLS for itself.
func (c *connection) agreeOnFrames() {
	if c.tls.ConnectionState().NegotiatedProtocol == api.ALPNFrames {
		c.framing = new(framing)
	}
}

// prefix is how many bytes are left free in front of the application's data.
func (f *framing) prefix() int {
	if f == nil {
		return 0
	}
	return framePrefix
}

// frameUp makes a frame of what source has read last, which is in b from front to size, with its prefix before that. It
// returns the size of all.
func (f *framing) frameUp(source *plainReader, b *buffer, front, size int) int {
	if f == nil {
		return size
	}
	return source.frameUp(b, front, size, false)
}

// split calls deliver with each of the frames in data, which follows what split has got before.
func (f *framing) split(data []byte, deliver func(frame) error) error {
	if len(f.short) > 0 {
		data, f.short = append(f.short, data...), nil
	}
	for len(data) > 0 {
		next, n, err := f.frames.next(data)
		switch {
		case errors.Is(err, errShortFrame):
			f.short = bytes.Clone(data)
			return nil
		case err != nil:
			return err
		case next.kind != frameData && next.kind != frameUrgent:
			return fmt.Errorf("%w: %v", errUnexpected, next.kind)
		}
		if err := deliver(next); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// complete reports whether no frame is missing a part.
func (f *framing) complete() bool { return f == nil || len(f.short) == 0 && f.frames.left == 0 }

// unframe delivers what the peer has sent to the application.
func (c *connection) unframe(data []byte) error {
	if c.framing == nil {
		return c.deliver(data, false)
	}
	return c.framing.split(data, func(f frame) error {
		if f.kind == frameUrgent {
			return c.deliverUrgent(f.payload)
		}
		return c.deliver(f.payload, false)
	})
}
