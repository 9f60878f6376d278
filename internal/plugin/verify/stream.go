package verify

import (
	"bytes"
	"maps"
	"slices"
)

// maxPending bounds the segments that a stream keeps for later, in bytes, and maxSegments their number.
const (
	maxPending  = 128 << 10
	maxSegments = 512
)

// stream is one direction of a connection, put together from its segments.
type stream struct {
	canary []byte
	next   uint32
	// begun is set once the SYN was seen: nothing before next is missing.
	begun bool
	// lost is set if pending had no room for a segment.
	lost    bool
	pending map[uint32][]byte
	waiting int
	// tail is the end of the data so far. The canary may begin in it.
	tail    []byte
	records records
}

// add adds a segment and reports whether it completes the canary.
func (s *stream) add(g segment, known bool) bool {
	switch {
	case g.syn:
		// A second SYN is a retransmission, or begins another connection.
		if !known || s.next != g.sequence+1 {
			*s = stream{canary: s.canary, next: g.sequence + 1, begun: true}
		}
		g.sequence++
	case !known:
		s.next = g.sequence
	}
	found := s.accept(g.sequence, g.payload)
	for progress := true; progress && len(s.pending) > 0; {
		progress = false
		for _, sequence := range slices.Collect(maps.Keys(s.pending)) {
			if int32(sequence-s.next) <= 0 {
				payload := s.pending[sequence]
				delete(s.pending, sequence)
				s.waiting -= len(payload)
				found = s.accept(sequence, payload) || found
				progress = true
			}
		}
	}
	return found
}

// accept reads a segment if it is the next one, and keeps it if it is a later one.
func (s *stream) accept(sequence uint32, payload []byte) bool {
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
	if s.waiting+len(payload) > maxPending || len(s.pending) >= maxSegments {
		s.lost = true
		return
	}
	if s.pending == nil {
		s.pending = map[uint32][]byte{}
	}
	s.waiting += len(payload) - len(s.pending[sequence])
	s.pending[sequence] = bytes.Clone(payload)
}

// whole reports whether everything from the SYN on was seen.
func (s *stream) whole() bool { return s.begun && !s.lost && len(s.pending) == 0 }

// pure reports whether the stream is TLS with application data.
func (s *stream) pure() bool { return s.whole() && !s.records.broken && s.records.data > 0 }
