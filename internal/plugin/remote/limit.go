package remote

import (
	"io"
	"sync"
)

// gate passes writes on until it is closed, and swallows them from then on.
type gate struct {
	mu sync.Mutex
	to io.Writer
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.to == nil {
		return len(p), nil
	}
	return g.to.Write(p)
}

// close returns once no write is under way.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.to = nil
}

// head keeps the first limit bytes written to it and drops the rest.
type head struct {
	limit int
	data  []byte
	// full is called once when something had to be dropped.
	full func()
}

// Write never fails: an error would make the streams' library log on its own.
func (h *head) Write(p []byte) (int, error) {
	room := h.limit - len(h.data)
	if len(p) <= room {
		h.data = append(h.data, p...)
		return len(p), nil
	}
	h.data = append(h.data, p[:room]...)
	if h.full != nil {
		h.full()
		h.full = nil
	}
	return len(p), nil
}

func (h *head) String() string { return string(h.data) }
