//go:build linux

package proxy

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

var headers = []header{
	{Destination: netip.MustParseAddrPort("10.0.2.2:80"), Client: netip.MustParseAddrPort("10.0.1.7:40312")},
	{Destination: netip.MustParseAddrPort("[fd00::2]:443"), Client: netip.MustParseAddrPort("[fd00::1]:65535"), Again: true},
	{Destination: netip.MustParseAddrPort("[fd00::2]:443"), Client: netip.MustParseAddrPort("[fd00::1]:65535"), Again: true, Waits: true},
	{Destination: netip.MustParseAddrPort("10.0.2.2:80"), Client: netip.MustParseAddrPort("10.0.1.7:40312"), Waits: true},
	{
		Destination: netip.MustParseAddrPort("[fd00::2]:443"), Client: netip.MustParseAddrPort("[fd00::1]:65535"),
		Bound: netip.MustParseAddrPort("[fd00:1::1]:65535"), Again: true, Waits: true, Dialled: netip.MustParseAddrPort("[fd00:2::1]:80"),
	},
}

func TestHeaderRoundTrip(t *testing.T) {
	for _, h := range headers {
		wire := appendHeader(nil, h)
		got, n, err := parseHeader(append(wire, "data"...))
		if err != nil || got != h || n != len(wire) {
			t.Errorf("parseHeader(%x) = %v, %d, %v; want %v, %d", wire, got, n, err, h, len(wire))
		}
		for cut := range wire {
			if _, _, err := parseHeader(wire[:cut]); !errors.Is(err, errShortHeader) {
				t.Errorf("first %d bytes: %v, want %v", cut, err, errShortHeader)
			}
		}
	}
}

func TestHeaderIsStrict(t *testing.T) {
	destination := string([]byte{1, 0, 6, 10, 0, 2, 2, 0, 80})
	client := string([]byte{2, 0, 6, 10, 0, 1, 7, 0x9d, 0x78})
	wire := func(version byte, fields string) []byte {
		size := 1 + len(fields)
		return append([]byte{byte(size >> 8), byte(size), version}, fields...)
	}
	for _, c := range []struct {
		name string
		wire []byte
		want string
	}{
		{"both fields", wire(1, destination+client), ""},
		{"unknown optional field", wire(1, destination+"\x80\x00\x03abc"+client), ""},
		{"sent once more", wire(1, destination+client+"\x83\x00\x00"), ""},
		{"sent once more, with a value", wire(1, destination+client+"\x83\x00\x01a"), "wrong length"},
		{"waits", wire(1, destination+client+"\x84\x00\x00"), ""},
		{"waits, with a value", wire(1, destination+client+"\x84\x00\x01a"), "wrong length"},
		{"waits twice", wire(1, destination+client+"\x84\x00\x00\x84\x00\x00"), "twice"},
		{"bound", wire(1, destination+client+"\x85\x00\x06\x0a\x00\x01\x08\x9d\x78"), ""},
		{"bound to port zero", wire(1, destination+client+"\x85\x00\x06\x0a\x00\x01\x08\x00\x00"), "cannot be used"},
		{"bound to another family", wire(1, destination+client+"\x85\x00\x12\xfd"+strings.Repeat("\x00", 14)+"\x01\x00\x50"), "cannot be used"},
		{"dialled", wire(1, destination+client+"\x86\x00\x06\x0a\x60\x00\x01\x00\x50"), ""},
		{"dialled nowhere", wire(1, destination+client+"\x86\x00\x06\x0a\x60\x00\x01\x00\x00"), "cannot be used"},
		{"unknown critical field", wire(1, destination+client+"\x03\x00\x00"), "unknown critical field"},
		{"another version", wire(2, destination+client), "version 2"},
		{"too long", append([]byte{2, 0}, make([]byte, 512)...), "longer than 512"},
		{"longest length", []byte{0xff, 0xff}, "longer than 512"},
		{"nothing", []byte{0, 0}, "lacks"},
		{"no client", wire(1, destination), "lacks"},
		{"no destination", wire(1, client), "lacks"},
		{"a field twice", wire(1, destination+destination+client), "twice"},
		{"an optional field twice", wire(1, "\x80\x00\x00\x80\x00\x00"+destination+client), "twice"},
		{"a field beyond the end", wire(1, destination+client+"\x80\x00\x01"), "wrong length"},
		{"half a field", wire(1, destination+client+"\x80"), "wrong length"},
		{"an address of five bytes", wire(1, "\x01\x00\x05abcde"+client), "wrong length"},
		{"port zero", wire(1, "\x01\x00\x06\x0a\x00\x00\x01\x00\x00"+client), "cannot be used"},
		{"unspecified", wire(1, "\x01\x00\x06\x00\x00\x00\x00\x00\x50"+client), "cannot be used"},
		{"mapped", wire(1, "\x01\x00\x12"+strings.Repeat("\x00", 10)+"\xff\xff\x0a\x00\x02\x02\x00\x50"+client), "cannot be used"},
		{"two families", wire(1, "\x01\x00\x12\xfd"+strings.Repeat("\x00", 14)+"\x01\x00\x50"+client), "cannot be used"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := parseHeader(c.wire)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && (err == nil || errors.Is(err, errShortHeader) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want an error about %q", err, c.want)
			}
		})
	}
}

func TestHeaderDoesNotAllocate(t *testing.T) {
	wire := appendHeader(nil, headers[len(headers)-1])
	scratch := make([]byte, 0, maxHeader)
	if n := testing.AllocsPerRun(100, func() {
		h, _, err := parseHeader(wire)
		if err != nil {
			t.Fatal(err)
		}
		scratch = appendHeader(scratch[:0], h)
	}); n > 2 {
		t.Errorf("%v allocations for a round trip", n)
	}
}

func FuzzParseHeader(f *testing.F) {
	for _, h := range headers {
		f.Add(appendHeader(nil, h))
	}
	f.Add([]byte{0, 4, 1, 0x80, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := parseHeader(b)
		if err != nil {
			return
		}
		if n > len(b) || n > maxHeader {
			t.Fatalf("%d bytes of %d were taken", n, len(b))
		}
		// What was accepted has a canonical form that means the same.
		wire := appendHeader(nil, h)
		again, m, err := parseHeader(wire)
		if err != nil || again != h || m != len(wire) {
			t.Fatalf("%v became %v, %v", h, again, err)
		}
		if n == len(wire) && bytes.Equal(b[:n], wire) {
			return
		}
		if n < len(wire) {
			t.Fatalf("%x is shorter than the canonical form of %v", b[:n], h)
		}
	})
}
