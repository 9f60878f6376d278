//go:build linux

package proxy

import (
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// Edges returns who the gateway has talked to, open connections included. Which pod
// that is it leaves to others to say.
func (p *Proxy) Edges() api.Edges {
	p.live.settleAll()
	return p.edges.Read()
}

// edgeKey returns what c is an edge of, the way it was carried.
func (c *connection) edgeKey(verdict string) traffic.Key {
	return traffic.Key{
		Direction: c.direction, Source: c.line.Source.Addr(),
		Destination: c.line.Destination, Dialled: c.line.Dialled,
		Peer: c.line.Peer, Wire: c.line.Wire,
		Verdict: verdict, Reason: c.line.Reason,
	}
}

// openEdge counts c once it is decided that it is carried, and how.
func (c *connection) openEdge() {
	verdict := api.EdgePlaintext
	if c.line.Encrypted {
		verdict = api.EdgeEncrypted
	}
	c.edge.Store(c.proxy.edges.Open(c.edgeKey(verdict), time.Now()))
}

// closeEdge counts the end of c, whose bytes must have been settled.
func (c *connection) closeEdge() {
	now := time.Now()
	e := c.edge.Load()
	if e == nil {
		c.proxy.edges.Pass(c.edgeKey(api.EdgeRefused), now)
		return
	}
	verdict := e.Verdict()
	// The peer's refusal comes when this side already relays.
	if verdict == api.EdgeEncrypted && c.line.Reason != "" {
		verdict = api.EdgeRefused
	}
	c.proxy.edges.Close(e, c.edgeKey(verdict), c.line.Sent, c.line.Received, now)
}
