//go:build linux

package proxy

import (
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// Edges returns the edges of the gateway, open connections included, without the pod.
func (p *Proxy) Edges() api.Edges {
	p.live.accountAll()
	return p.edges.Read()
}

// edgeKey returns the key of c's edge.
func (c *connection) edgeKey(verdict string) traffic.Key {
	source := c.line.Source.Addr()
	if c.client.IsValid() {
		// Both gateways know this one, and whose it is.
		source = c.client.Addr()
	}
	return traffic.Key{
		Direction: c.direction, Source: source,
		Destination: c.line.Destination, Dialled: c.line.Dialled,
		Peer: c.line.Peer, Wire: c.line.Wire,
		Verdict: verdict, Reason: c.line.Reason,
	}
}

// openEdge counts c once it is decided how c is carried.
func (c *connection) openEdge() {
	verdict := api.EdgePlaintext
	if c.line.Encrypted {
		verdict = api.EdgeEncrypted
	}
	c.edge.Store(c.proxy.edges.Open(c.edgeKey(verdict), time.Now()))
}

// closeEdge counts the end of c, whose bytes must be in the totals.
func (c *connection) closeEdge() {
	now := time.Now()
	e := c.edge.Load()
	if e == nil {
		c.proxy.edges.Pass(c.edgeKey(api.EdgeRefused), now)
		return
	}
	verdict := e.Verdict()
	// The peer may refuse when this side already relays.
	if verdict == api.EdgeEncrypted && c.line.Reason != "" && c.audited == nil {
		verdict = api.EdgeRefused
	}
	c.proxy.edges.Close(e, c.edgeKey(verdict), c.sent.Load(), c.received.Load(), now)
}
