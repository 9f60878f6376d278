//go:build linux

package proxy

import (
	"sync"
	"sync/atomic"
)

// Classes of buffers, smallest first. A class holds sealPayload bytes of plaintext as TLS
// records; the larger ones also have room for a part of a further record. The sizes are size
// classes of the Go allocator, so nothing is lost to rounding.
const (
	classTiny = iota
	classRecord
	classBatch
	classBulk
	classes
)

const (
	recordHeader = 5
	// maxRecordPayload is the most plaintext in one record (RFC 8446, 5.1).
	maxRecordPayload = 1 << 14
	// maxRecordBody is the longest body of a record (RFC 8446, 5.2).
	maxRecordBody = maxRecordPayload + 256
	// recordOverhead is what sealing adds to a record: header, content type
	// and the 16-byte tag that all cipher suites of TLS 1.3 share.
	recordOverhead = recordHeader + 1 + 16
)

var (
	classSize   = [classes]int{4 << 10, 18 << 10, 72 << 10, 520 << 10}
	sealPayload = [classes]int{4000, maxRecordPayload, 4 * maxRecordPayload, 32 * maxRecordPayload}
)

// buffer is a slice of one class. It is passed by pointer, so that the pools do not allocate.
type buffer struct {
	b     []byte
	class int
}

// bufferPools lends buffers. A connection holds one only while it keeps bytes or is inside a
// system call.
type bufferPools struct {
	pools [classes]sync.Pool
	// less is how many of the largest classes a pace does not reach while memory is scarce.
	less atomic.Int32
	// pipes has every *pipe that is not in use.
	pipes sync.Pool
}

// paced returns the class of a pace.
func (p *bufferPools) paced(pace *pace) int {
	return min(int(pace.class), classes-1-int(p.less.Load()))
}

// fit keeps paces from buffers larger than size, but not from those of one record. 0 allows all.
func (p *bufferPools) fit(size int) {
	less := 0
	for class := classes - 1; size > 0 && class > classRecord && classSize[class] > size; class-- {
		less++
	}
	p.less.Store(int32(less))
}

func (p *bufferPools) get(class int) *buffer {
	if b, ok := p.pools[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{make([]byte, classSize[class]), class}
}

// put takes a buffer back, or nil.
func (p *bufferPools) put(b *buffer) {
	if b != nil {
		p.pools[b.class].Put(b)
	}
}

// classFor returns the smallest class that holds n bytes, or the largest.
func classFor(n int) int {
	for class, size := range classSize {
		if n <= size {
			return class
		}
	}
	return classBulk
}

// sealedSize returns how many bytes n bytes of plaintext become as records.
func sealedSize(n int) int {
	return n + (n+maxRecordPayload-1)/maxRecordPayload*recordOverhead
}

// pace chooses how much to read at once. It starts small, rises one class whenever a read
// fills its buffer, and falls after a row of reads that fill less than half of the class
// below.
type pace struct {
	class, low int8
}

// patience is how many small reads in a row make a pace fall.
const patience = 8

// note records a read of n bytes into room bytes.
func (p *pace) note(n, room int) {
	switch {
	case n == room:
		p.low = 0
		if p.class < classes-1 {
			p.class++
		}
	case p.class > 0 && n < classSize[p.class-1]/2:
		if p.low++; p.low >= patience {
			p.class, p.low = p.class-1, 0
		}
	default:
		p.low = 0
	}
}
