//go:build linux

package proxy

import (
	"bytes"
	"errors"
	"testing"
)

// splitIn has a framing split a stream that arrives in pieces of size bytes, and returns the bytes of the
// application, whose urgent ones are where urgent says.
func splitIn(stream []byte, size int) (all []byte, urgent []int, complete bool, err error) {
	f := new(framing)
	for len(stream) > 0 && err == nil {
		piece := min(size, len(stream))
		err = f.split(bytes.Clone(stream[:piece]), func(next frame) error {
			if next.kind == frameUrgent {
				urgent = append(urgent, len(all))
			}
			all = append(all, next.payload...)
			return nil
		})
		stream = stream[piece:]
	}
	return all, urgent, f.complete(), err
}

func TestFraming(t *testing.T) {
	var stream []byte
	for _, f := range []frame{data("before"), {frameUrgent, []byte("!")}, data("behind")} {
		stream = appendFrame(stream, f.kind, f.payload)
	}
	for size := 1; size <= len(stream); size++ {
		all, urgent, complete, err := splitIn(stream, size)
		if string(all) != "before!behind" || len(urgent) != 1 || urgent[0] != 6 || !complete || err != nil {
			t.Errorf("pieces of %d: %q, urgent at %v, complete: %t, %v", size, all, urgent, complete, err)
		}
		if _, _, complete, err := splitIn(stream[:len(stream)-1], size); complete || err != nil {
			t.Errorf("a byte is missing: complete: %t, %v", complete, err)
		}
	}
	for _, f := range []frame{headed(sixHeader()), answered(statusOK), ending(), {frameGoAway, nil}} {
		if _, _, _, err := splitIn(appendFrame(nil, f.kind, f.payload), 3); !errors.Is(err, errUnexpected) {
			t.Errorf("%v: %v", f.kind, err)
		}
	}
}

func FuzzFraming(f *testing.F) {
	f.Add(appendFrame(appendFrame(appendFrame(nil, frameData, []byte("hello")), frameUrgent, []byte("!")), frameData, []byte("?")), 3)
	f.Add(appendFrame(nil, frameHeader, appendHeader(nil, sixHeader())), 1)
	f.Add([]byte{3, 0xff, 0xff, 0xff, 1, 6, 0, 0, 1, 6}, 2)
	f.Fuzz(func(t *testing.T, stream []byte, size int) {
		whole, wholeUrgent, wholeComplete, wholeErr := splitIn(stream, len(stream)+1)
		pieces, piecesUrgent, piecesComplete, piecesErr := splitIn(stream, min(max(size, 1), 1<<16))
		if (wholeErr == nil) != (piecesErr == nil) || !bytes.Equal(whole, pieces) || len(wholeUrgent) != len(piecesUrgent) ||
			wholeErr == nil && wholeComplete != piecesComplete {
			t.Fatalf("at once %q, urgent at %v, complete: %t, %v; in pieces of %d %q, urgent at %v, complete: %t, %v",
				whole, wholeUrgent, wholeComplete, wholeErr, size, pieces, piecesUrgent, piecesComplete, piecesErr)
		}
		if len(whole) > len(stream) {
			t.Fatalf("%d bytes of payload in %d", len(whole), len(stream))
		}
	})
}
