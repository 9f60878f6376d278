package verify

import (
	"bytes"
	"maps"
	"slices"
)

// maxPending bounds what a stream keeps of segments that came too early, in bytes.
const maxPending = 128 << 10

// stream is one direction of a connection, put together from its segments.
type stream struct {
	canary []byte
	next   uint32
	// begun means that the SYN was seen, and nothing is missing before next.
	begun bool
	// lost means that there was no room for all of pending.
	lost    bool
	pending map[uint32][]byte
	waiting int
	// tail is the end of what was read, in which the canary may have begun.
	tail    []byte
	records records
}

// add takes a segment and reports whether the canary is now complete.
func (s *stream) add(g segment, known bool) bool {
	switch {
	case g.syn:
		// A second SYN may be sent again, or belong to another connection.
		if !known || s.next != g.sequence+1 {
			*s = stream{canary: s.canary, next: g.sequence + 1, begun: true}
		}
		g.sequence++
	case !known:
		s.next = g.sequence
	}
	found := s.take(g.sequence, g.payload)
	for progress := true; progress && len(s.pending) > 0; {
		progress = false
		for _, sequence := range slices.Collect(maps.Keys(s.pending)) {
			if int32(sequence-s.next) <= 0 {
				payload := s.pending[sequence]
				delete(s.pending, sequence)
				s.waiting -= len(payload)
				found = s.take(sequence, payload) || found
				progress = true
			}
		}
	}
	return found
}

func (s *stream) take(sequence uint32, payload []byte) bool {
	ahead := int32(sequence - s.next)
	switch {
	case len(payload) == 0:
		return false
	case ahead > 0:
		s.postpone(sequence, payload)
		return false
	case -int64(ahead) >= int64(len(payload)):
		return false
	}
	payload = payload[-ahead:]
	s.next += uint32(len(payload))
	s.records.feed(payload)
	keep := len(s.canary) - 1
	edge := append(s.tail, payload[:min(keep, len(payload))]...)
	found := bytes.Contains(edge, s.canary) || bytes.Contains(payload, s.canary)
	if len(payload) >= keep {
		edge = payload
	}
	s.tail = append(s.tail[:0], edge[max(0, len(edge)-keep):]...)
	return found
}

func (s *stream) postpone(sequence uint32, payload []byte) {
	if s.waiting+len(payload) > maxPending {
		s.lost = true
		return
	}
	if s.pending == nil {
		s.pending = map[uint32][]byte{}
	}
	s.waiting += len(payload) - len(s.pending[sequence])
	s.pending[sequence] = bytes.Clone(payload)
}

// whole reports whether everything was seen from the beginning on.
func (s *stream) whole() bool { return s.begun && !s.lost && len(s.pending) == 0 }

// pure reports whether the stream is TLS with application data.
func (s *stream) pure() bool { return s.whole() && !s.records.broken && s.records.data > 0 }
