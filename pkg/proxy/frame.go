//go:build linux

package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Frames are what travels inside TLS with api.ALPNReuse and api.ALPNFrames, where one TLS connection carries the
// connections of applications one after the other:
//
//	kind     uint8
//	length   uint24, of the payload
//	payload
//
// Integers are big endian. For each connection the dialling gateway sends a header, the accepting
// one a status, and then both any number of data frames and one end. The next header follows only
// when both ends have been sent. The accepting gateway may send go-away at any time: it still
// serves a header that was sent before it arrived, and no other. With api.ALPNFrames an urgent frame may
// stand wherever a data frame may. In band there are only these two: framing.go.
type frameKind byte

const (
	frameHeader frameKind = 1 // a header; starts a connection
	frameStatus frameKind = 2 // one byte, a status; answers a header
	frameData   frameKind = 3 // bytes of the application
	frameEnd    frameKind = 4 // empty; ends one direction
	frameGoAway frameKind = 5 // empty; asks the dialling gateway to close the TLS connection
	frameUrgent frameKind = 6 // one byte of the application, which is urgent

	// framePrefix is the size of what precedes the payload, in bytes.
	framePrefix = 4
	// maxFrame is the largest payload, in bytes.
	maxFrame = 1<<24 - 1
)

var (
	// errShortFrame means that more bytes are needed.
	errShortFrame = errors.New("frame is incomplete")
	// errUnexpected means that the peer sent a frame that has no place where it is.
	errUnexpected = errors.New("peer sent an unexpected frame")
)

func (k frameKind) String() string {
	switch k {
	case frameHeader:
		return "header"
	case frameStatus:
		return "status"
	case frameData:
		return "data"
	case frameEnd:
		return "end"
	case frameGoAway:
		return "go-away"
	case frameUrgent:
		return "urgent"
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// fits returns why no frame of this kind has so long a payload.
func (k frameKind) fits(size int) error {
	ok := false
	switch k {
	case frameHeader:
		ok = size <= maxHeader
	case frameStatus, frameUrgent:
		ok = size == 1
	case frameData:
		ok = size > 0
	case frameEnd, frameGoAway:
		ok = size == 0
	}
	if !ok {
		return fmt.Errorf("%w: %v of %d bytes", errUnexpected, k, size)
	}
	return nil
}

// putFrame writes the prefix of a frame to the front of b.
func putFrame(b []byte, kind frameKind, size int) {
	binary.BigEndian.PutUint32(b, uint32(kind)<<24|uint32(size))
}

// frame is a frame, or of data a part of one.
type frame struct {
	kind    frameKind
	payload []byte
}

// frames splits a stream into frames. The zero value is at the start of a stream.
type frames struct {
	// left is how much of the payload of a data frame has not been returned.
	left int
}

// next returns the frame at the front of b, whose payload lies in b, and the number of bytes that
// it takes. Of data it returns what is there. errShortFrame means that b must be longer; every
// other error is final.
func (s *frames) next(b []byte) (f frame, n int, err error) {
	if s.left > 0 {
		if len(b) == 0 {
			return frame{}, 0, errShortFrame
		}
		n = min(s.left, len(b))
		s.left -= n
		return frame{frameData, b[:n]}, n, nil
	}
	if len(b) < framePrefix {
		return frame{}, 0, errShortFrame
	}
	prefix := binary.BigEndian.Uint32(b)
	kind, size := frameKind(prefix>>24), int(prefix&maxFrame)
	if err := kind.fits(size); err != nil {
		return frame{}, 0, err
	}
	payload := b[framePrefix:]
	switch {
	case len(payload) >= size:
		payload = payload[:size]
	case kind != frameData || len(payload) == 0:
		return frame{}, 0, errShortFrame
	default:
		s.left = size - len(payload)
	}
	return frame{kind, payload}, framePrefix + len(payload), nil
}

// reading says where in a connection the frames of one side are.
type reading uint8

const (
	// idle: between connections.
	idle reading = iota
	// asked: the header has been sent, and there is no status yet.
	asked
	// open: data may come.
	open
	// ended: the side has sent its end.
	ended
)
