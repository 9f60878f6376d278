//go:build linux

package proxy

import (
	"bytes"
	"errors"
	"testing"
)

// appendFrame appends a frame to b.
func appendFrame(b []byte, kind frameKind, payload []byte) []byte {
	var prefix [framePrefix]byte
	putFrame(prefix[:], kind, len(payload))
	return append(append(b, prefix[:]...), payload...)
}

// readFrames returns the frames of a stream that arrives in pieces of size bytes, with the payloads of
// consecutive data joined, and the error that ends it.
func readFrames(stream []byte, size int) (all []frame, rest int, err error) {
	var s frames
	var b []byte
	for {
		f, n, err := s.next(b)
		switch {
		case err == nil:
			b = b[n:]
			last := len(all) - 1
			if f.kind == frameData && last >= 0 && all[last].kind == frameData {
				all[last].payload = append(all[last].payload, f.payload...)
				continue
			}
			all = append(all, frame{f.kind, bytes.Clone(f.payload)})
			continue
		case !errors.Is(err, errShortFrame):
			return all, len(b) + len(stream), err
		case len(stream) == 0:
			return all, len(b), nil
		}
		piece := min(size, len(stream))
		b = append(b[:len(b):len(b)], stream[:piece]...)
		stream = stream[piece:]
	}
}

func TestFrames(t *testing.T) {
	want := []frame{
		{frameHeader, []byte("header")}, {frameStatus, []byte{1}}, {frameData, bytes.Repeat([]byte("data"), 100)},
		{frameEnd, nil}, {frameGoAway, nil}, {frameHeader, make([]byte, maxHeader)}, {frameData, []byte{7}}, {frameUrgent, []byte{8}}, {frameData, []byte{9}}, {frameEnd, nil},
	}
	var stream []byte
	for _, f := range want {
		stream = appendFrame(stream, f.kind, f.payload)
	}
	for _, size := range []int{1, 2, 3, 5, 64, len(stream)} {
		got, rest, err := readFrames(stream, size)
		if err != nil || rest != 0 || len(got) != len(want) {
			t.Fatalf("pieces of %d: %d frames, %d bytes are left, %v", size, len(got), rest, err)
		}
		for i := range want {
			if got[i].kind != want[i].kind || !bytes.Equal(got[i].payload, want[i].payload) {
				t.Errorf("pieces of %d: frame %d is %v with %d bytes", size, i, got[i].kind, len(got[i].payload))
			}
		}
	}
}

func TestFramesAreStrict(t *testing.T) {
	for name, b := range map[string][]byte{
		"unknown":       appendFrame(nil, 7, nil),
		"zero":          appendFrame(nil, 0, nil),
		"huge header":   appendFrame(nil, frameHeader, make([]byte, maxHeader+1)),
		"empty status":  appendFrame(nil, frameStatus, nil),
		"long status":   appendFrame(nil, frameStatus, []byte{1, 1}),
		"empty data":    appendFrame(nil, frameData, nil),
		"end with data": appendFrame(nil, frameEnd, []byte{1}),
		"long go-away":  appendFrame(nil, frameGoAway, []byte{1}),
		"empty urgent":  appendFrame(nil, frameUrgent, nil),
		"long urgent":   appendFrame(nil, frameUrgent, []byte{1, 1}),
	} {
		// The prefix alone decides.
		if _, _, err := new(frames).next(b[:framePrefix]); !errors.Is(err, errUnexpected) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, frameData, []byte("hello")), frameEnd, nil), 3)
	f.Add(appendFrame(appendFrame(nil, frameHeader, appendHeader(nil, sixHeader())), frameStatus, []byte{1}), 1)
	f.Add(appendFrame(appendFrame(appendFrame(nil, frameData, []byte("hello")), frameUrgent, []byte("!")), frameData, []byte("!")), 2)
	f.Add([]byte{3, 0xff, 0xff, 0xff, 1}, 1)
	f.Fuzz(func(t *testing.T, stream []byte, size int) {
		size = min(max(size, 1), 1<<16)
		whole, wholeRest, wholeErr := readFrames(stream, len(stream)+1)
		pieces, piecesRest, piecesErr := readFrames(stream, size)
		if (wholeErr == nil) != (piecesErr == nil) || wholeRest != piecesRest || len(whole) != len(pieces) {
			t.Fatalf("at once %d frames, %d left, %v; in pieces of %d %d frames, %d left, %v",
				len(whole), wholeRest, wholeErr, size, len(pieces), piecesRest, piecesErr)
		}
		var again []byte
		for i, f := range whole {
			if f.kind != pieces[i].kind || !bytes.Equal(f.payload, pieces[i].payload) {
				t.Fatalf("frame %d: at once %v of %d bytes, in pieces %v of %d", i, f.kind, len(f.payload), pieces[i].kind, len(pieces[i].payload))
			}
			if err := f.kind.fits(len(f.payload)); err != nil {
				t.Fatal(err)
			}
			again = append(again, f.payload...)
		}
		if len(again) > len(stream) {
			t.Fatalf("%d bytes of payload in %d", len(again), len(stream))
		}
	})
}
