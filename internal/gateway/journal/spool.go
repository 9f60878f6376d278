//go:build linux

package journal

import (
	"bytes"
	"sync/atomic"
	"unsafe"
)

// SpoolSize is how many bytes a Spool needs: room for the lines of about two thousand connections, twice.
const SpoolSize = 2 << 20

// maxWrite is how much a pipe takes at once, so that lines of different processes do not come in between
// (pipe(7): PIPE_BUF).
const maxWrite = 4096

// Spool keeps lines until they are written. Its memory may be shared with a process that writes the rest
// when this one dies. Two batches take turns: one is filled while the other is written.
type Spool struct {
	batches [2]Batch
	filling int
}

// Batch is a part of a Spool.
type Batch struct {
	state *batchState
	lines []byte
}

// batchState is at the front of a batch in memory.
type batchState struct {
	// filled and written are how many bytes of the batch are lines, and how many of these need not be written any more.
	// turn grows with each batch.
	filled, written, turn atomic.Int64
}

// NewSpool returns the Spool in memory, which has SpoolSize bytes, all zero for a new one. nil is memory of its own.
func NewSpool(memory []byte) *Spool {
	if memory == nil {
		memory = make([]byte, SpoolSize)
	}
	var s Spool
	size := len(memory) / len(s.batches)
	for i := range s.batches {
		part := memory[i*size : (i+1)*size]
		s.batches[i] = Batch{(*batchState)(unsafe.Pointer(unsafe.SliceData(part))), part[unsafe.Sizeof(batchState{}):]}
	}
	return &s
}

// Add adds a line, and reports false if there is no room for it.
func (s *Spool) Add(line []byte) bool {
	b := &s.batches[s.filling]
	filled := b.filled()
	if !s.Fits(len(line)) {
		return false
	}
	copy(b.lines[filled:], line)
	b.state.filled.Store(int64(filled + len(line)))
	return true
}

// Fits reports whether there is room for a line of so many bytes.
func (s *Spool) Fits(size int) bool {
	b := &s.batches[s.filling]
	return b.filled()+size <= len(b.lines)
}

// Take returns the lines that are there. Those that are added meanwhile go elsewhere. The batch before must have been
// written.
func (s *Spool) Take() *Batch {
	b := &s.batches[s.filling]
	s.filling = 1 - s.filling
	s.batches[s.filling].state.turn.Store(b.state.turn.Load() + 1)
	return b
}

// Rest calls write with what a process has left that used the same memory, and empties it. The
// content is that process's word.
func (s *Spool) Rest(write func([]byte)) {
	first := 0
	if s.batches[1].state.turn.Load() < s.batches[0].state.turn.Load() {
		first = 1
	}
	for _, i := range []int{first, 1 - first} {
		s.batches[i].Write(write)
		s.batches[i].state.turn.Store(0)
	}
	s.filling = 0
}

// Write calls write with the lines, as many at once as a pipe takes, and empties the batch.
func (b *Batch) Write(write func([]byte)) {
	filled := b.filled()
	rest := b.lines[min(b.written(), filled):filled]
	for len(rest) > 0 {
		end := len(rest)
		if end > maxWrite {
			if end = bytes.LastIndexByte(rest[:maxWrite], '\n') + 1; end == 0 {
				end = bytes.IndexByte(rest, '\n') + 1
			}
			if end == 0 {
				end = len(rest)
			}
		}
		// Nothing is written twice: a reader would count it.
		b.state.written.Store(int64(b.written() + end))
		write(rest[:end])
		rest = rest[end:]
	}
	b.state.filled.Store(0)
	b.state.written.Store(0)
}

// filled and written are within bounds, whatever the other process has done to its memory.
func (b *Batch) filled() int { return int(min(max(b.state.filled.Load(), 0), int64(len(b.lines)))) }

func (b *Batch) written() int { return int(min(max(b.state.written.Load(), 0), int64(len(b.lines)))) }
