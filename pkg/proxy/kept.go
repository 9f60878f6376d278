//go:build linux

package proxy

import "sync"

// maxKept bounds what is kept of an application's data until the peer has answered, in bytes. An
// application that sends more waits for the answer.
const maxKept = 64 << 10

// kept is the beginning of an application's data. While it is on, a plainReader adds what it reads, so
// that after a rewind it returns the same once more. The zero value is off.
type kept struct {
	mu sync.Mutex
	on bool
	b  *buffer
	// n bytes of b are kept, of which the next call of again returns those from at on. The last urgent one is at
	// urgent - 1.
	n, at, urgent int
}

// keep has r keep what it reads from now on.
func (r *plainReader) keep() {
	r.kept.mu.Lock()
	r.kept.on = true
	r.kept.mu.Unlock()
}

// drop ends that, and gives up what is kept and not to be returned again.
func (r *plainReader) drop() {
	k := &r.kept
	k.mu.Lock()
	defer k.mu.Unlock()
	k.on = false
	k.release(r.pools)
}

// rewind has r return what is kept once more.
func (r *plainReader) rewind() {
	r.kept.mu.Lock()
	r.kept.on, r.kept.at = false, 0
	r.kept.mu.Unlock()
}

// full reports whether nothing more can be kept.
func (r *plainReader) full() bool {
	r.kept.mu.Lock()
	defer r.kept.mu.Unlock()
	return r.kept.on && r.kept.n >= maxKept && r.kept.at == r.kept.n
}

// release returns the buffer when nobody needs it. k.mu is locked.
func (k *kept) release(pools *bufferPools) {
	if !k.on && k.at == k.n && k.b != nil {
		pools.put(k.b)
		k.b, k.n, k.at, k.urgent = nil, 0, 0, 0
	}
}

// add keeps data, which r has read.
func (k *kept) add(r *plainReader, data []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.on {
		return
	}
	if r.urgent {
		k.urgent = k.n + 1
	}
	k.append(r.pools, data)
	k.at = k.n
}

// part keeps data, which r has read and whose byte at is urgent, for again to return it in parts.
func (k *kept) part(r *plainReader, data []byte, at int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.at, k.urgent = k.n, k.n+at+1
	k.append(r.pools, data)
}

// append needs k.mu.
func (k *kept) append(pools *bufferPools, data []byte) {
	if need := k.n + len(data); k.b == nil || need > len(k.b.b) {
		larger := pools.get(classFor(need))
		if k.b != nil {
			copy(larger.b, k.b.b[:k.n])
			pools.put(k.b)
		}
		k.b = larger
	}
	k.n += copy(k.b.b[k.n:], data)
}

// bound returns the part of room that may be read at once.
func (k *kept) bound(room []byte) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.on {
		return room[:min(len(room), maxKept-k.n)]
	}
	return room
}

// again returns a buffer as plainReader.next does, of data that is kept, or nil.
func (k *kept) again(r *plainReader) (*buffer, int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.at+1 == k.urgent && !r.marks {
		k.at++
	}
	if k.at == k.n {
		k.release(r.pools)
		return nil, 0
	}
	until := k.n
	switch {
	case k.at+1 < k.urgent:
		until = k.urgent - 1
	case k.at+1 == k.urgent:
		until = k.urgent
	}
	r.urgent = until == k.urgent
	b := r.pools.get(classFor(r.reserve + until - k.at + r.tail))
	n := copy(b.b[r.reserve:sealPayload[b.class]-r.tail], k.b.b[k.at:until])
	k.at += n
	k.release(r.pools)
	return b, r.reserve + n
}
