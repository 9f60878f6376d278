package verify

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"sync"

	"github.com/kubectl-gateway/kubectl-gateway/internal/pcapng"
)

// maxStreams bounds the streams that an observer follows.
const maxStreams = 1024

// Sighting is a packet, or a TLS record, that proves something.
type Sighting struct {
	Interface   string         `json:"interface"`
	Source      netip.AddrPort `json:"source,omitzero"`
	Destination netip.AddrPort `json:"destination,omitzero"`
	// Data are the first bytes of what was seen.
	Data Hex `json:"data"`
}

// Hex is bytes that are written as hexadecimal digits.
type Hex []byte

// MarshalText implements [encoding.TextMarshaler].
func (h Hex) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (h *Hex) UnmarshalText(text []byte) (err error) {
	*h, err = hex.AppendDecode(nil, text)
	return err
}

// observer looks for the canary, and for TLS, in the packets of one pod. It is safe
// for concurrent use.
type observer struct {
	canary []byte
	// changed is called, without the lock, after each sighting.
	changed func()

	mu      sync.Mutex
	streams map[streamKey]*observed
	// loopback and network are where the canary was seen first.
	loopback, network *Sighting
	// crowded is set if there were too many streams.
	crowded bool
	// cut counts packets of which a part is missing.
	cut int
}

type streamKey struct {
	number              int
	source, destination netip.AddrPort
}

type observed struct {
	stream
	on string
}

func newObserver(canary string, changed func()) *observer {
	return &observer{canary: []byte(canary), changed: changed, streams: map[streamKey]*observed{}}
}

// add examines a packet of an interface.
func (o *observer) add(about pcapng.Interface, p *pcapng.Packet) {
	cooked, packet, ok := pcapng.ParseCooked(p.Data)
	if about.LinkType != pcapng.LinuxSLL2 || !ok {
		return
	}
	o.mu.Lock()
	seen := o.see(about.Name, cooked, p, packet)
	o.mu.Unlock()
	if seen {
		o.changed()
	}
}

func (o *observer) see(on string, cooked pcapng.Cooked, p *pcapng.Packet, packet []byte) bool {
	if p.Length > len(p.Data) {
		o.cut++
	}
	g, isTCP := parseSegment(cooked, packet)
	found := bytes.Contains(packet, o.canary)
	if isTCP {
		found = o.follow(p.Interface, on, g) || found
	}
	if !found {
		return false
	}
	seen := &o.network
	if cooked.Hardware == pcapng.HardwareLoopback {
		seen = &o.loopback
	}
	if *seen == nil {
		*seen = &Sighting{Interface: on, Source: g.source, Destination: g.destination, Data: around(packet, o.canary)}
	}
	return true
}

// follow adds a segment to its stream and reports whether the canary is in there.
func (o *observer) follow(number int, on string, g segment) bool {
	key := streamKey{number, g.source, g.destination}
	s, known := o.streams[key]
	if !known {
		if len(o.streams) == maxStreams {
			o.crowded = true
			return false
		}
		s = &observed{stream: stream{canary: o.canary}, on: on}
		o.streams[key] = s
	}
	return s.add(g, known)
}

// between returns the two directions of a connection, from the first end to the second
// and back. A direction that was not seen is nil.
func (o *observer) between(a, b netip.AddrPort) (there, back *observed) {
	for key, s := range o.streams {
		switch {
		case key.source == a && key.destination == b:
			there = s
		case key.source == b && key.destination == a:
			back = s
		}
	}
	return there, back
}

// sightings returns where the canary was seen.
func (o *observer) sightings() (loopback, network *Sighting) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.loopback, o.network
}
