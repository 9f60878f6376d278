package verify

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/crypto/cryptobyte"
)

// Content types of TLS records (RFC 8446 section 5.1).
const (
	recordChangeCipher = 20
	recordAlert        = 21
	recordHandshake    = 22
	recordData         = 23
)

const (
	recordHeader = 5
	// maxRecord is the largest record of TLS 1.3 (RFC 8446 section 5.2).
	maxRecord = 1<<14 + 256
	// maxHello is how much of the first record is kept.
	maxHello = 4096
	// shownBytes is how much of a packet or a record is shown.
	shownBytes = 48
)

// records parses a stream that should consist of TLS records. The zero value is at the
// start of a stream.
type records struct {
	header    [recordHeader]byte
	have      int // bytes of header
	remaining int // bytes of the record's body that are missing
	kind      byte
	// broken is set if something is not a record.
	broken bool
	// data counts records of application data.
	data int
	// hello is the beginning of the body of the first record.
	hello []byte
	first bool
	// shown is the beginning of the last record of application data.
	shown []byte
}

func (r *records) feed(b []byte) {
	for len(b) > 0 && !r.broken {
		if r.remaining == 0 && r.have < recordHeader {
			n := copy(r.header[r.have:], b)
			r.have += n
			b = b[n:]
			if r.have == recordHeader {
				r.begin()
			}
			continue
		}
		n := min(len(b), r.remaining)
		r.body(b[:n])
		b = b[n:]
		if r.remaining -= n; r.remaining == 0 {
			r.have = 0
		}
	}
}

// begin parses a complete header. Every body has at least a byte.
func (r *records) begin() {
	r.kind = r.header[0]
	r.remaining = int(binary.BigEndian.Uint16(r.header[3:]))
	version := binary.BigEndian.Uint16(r.header[1:])
	// The first record's version may be that of TLS 1.0 (RFC 8446 section 5.1).
	known := version == 0x0303 || version == 0x0301 && !r.first
	typed := r.kind >= recordChangeCipher && r.kind <= recordData
	if !known || !typed || !r.first && r.kind != recordHandshake || r.remaining == 0 || r.remaining > maxRecord {
		r.broken = true
		return
	}
	if r.kind == recordData {
		r.data++
		r.shown = append(r.shown[:0], r.header[:]...)
	}
}

func (r *records) body(b []byte) {
	if !r.first {
		r.hello = append(r.hello, b[:min(len(b), maxHello-len(r.hello))]...)
		r.first = len(b) == r.remaining
	}
	if r.kind == recordData {
		r.shown = append(r.shown, b[:min(len(b), max(0, shownBytes-len(r.shown)))]...)
	}
}

// hello holds the parameters that a server chose.
type hello struct {
	version, cipher, group uint16
}

// parseServerHello reads a ServerHello (RFC 8446 section 4.1.3), which is not
// encrypted. It reports false if b is not one of TLS 1.3.
func parseServerHello(b []byte) (hello, bool) {
	const serverHello, supportedVersions, keyShare = 2, 43, 51
	const lengthVersionAndRandom = 3 + 2 + 32
	var h hello
	var kind uint8
	var session, extensions cryptobyte.String
	s := cryptobyte.String(b)
	if !s.ReadUint8(&kind) || kind != serverHello || !s.Skip(lengthVersionAndRandom) || !s.ReadUint8LengthPrefixed(&session) ||
		!s.ReadUint16(&h.cipher) || !s.Skip(1) || !s.ReadUint16LengthPrefixed(&extensions) {
		return h, false
	}
	for !extensions.Empty() {
		var extension uint16
		var value cryptobyte.String
		if !extensions.ReadUint16(&extension) || !extensions.ReadUint16LengthPrefixed(&value) {
			return h, false
		}
		switch extension {
		case supportedVersions:
			value.ReadUint16(&h.version)
		case keyShare:
			value.ReadUint16(&h.group)
		}
	}
	return h, h.version != 0
}

// around returns the shown part of a packet with the canary, from the canary on.
func around(data, canary []byte) []byte {
	at := max(0, bytes.Index(data, canary))
	return bytes.Clone(data[at:min(len(data), at+shownBytes)])
}
