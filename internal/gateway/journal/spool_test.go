//go:build linux

package journal

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSpool: what one process has added and not written, the next one finds in the same memory, the
// oldest first.
func TestSpool(t *testing.T) {
	memory := make([]byte, SpoolSize)
	dead := NewSpool(memory)
	dead.Add([]byte("written before\n"))
	dead.Take().Write(func([]byte) {})
	dead.Add([]byte("taken\n"))
	dead.Add([]byte(strings.Repeat("x", maxWrite-1) + "\n"))
	batch := dead.Take()
	dead.Add([]byte("added last\n"))
	// It dies while it writes the first piece.
	func() {
		defer func() { _ = recover() }()
		batch.Write(func(b []byte) { panic(string(b)) })
	}()

	var got []string
	s := NewSpool(memory)
	s.Rest(func(b []byte) { got = append(got, string(b)) })
	want := []string{strings.Repeat("x", maxWrite-1) + "\n", "added last\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got = nil
	s.Rest(func(b []byte) { got = append(got, string(b)) })
	if got != nil {
		t.Errorf("twice: %q", got)
	}
}

func TestSpoolIsBounded(t *testing.T) {
	s := NewSpool(nil)
	line := []byte(strings.Repeat("x", 1023) + "\n")
	added := 0
	for s.Add(line) {
		added++
	}
	if most := SpoolSize / 2 / len(line); added != most-1 {
		t.Errorf("%d lines were added, want %d", added, most-1)
	}
	s.Take().Write(func(b []byte) { added -= len(b) / len(line) })
	if added != 0 {
		t.Errorf("%d lines were not written", added)
	}
}

// TestSpoolDistrusts: whatever is in the memory, no more than the memory is written.
func TestSpoolDistrusts(t *testing.T) {
	memory := make([]byte, SpoolSize)
	s := NewSpool(memory)
	for _, c := range [][2]int64{{1 << 40, 0}, {-1, 5}, {5, 1 << 40}, {1 << 40, -1}} {
		s.batches[0].state.filled.Store(c[0])
		s.batches[0].state.written.Store(c[1])
		size := 0
		s.Rest(func(b []byte) { size += len(b) })
		if size > SpoolSize/2 {
			t.Errorf("%v: %d bytes", c, size)
		}
	}
}
