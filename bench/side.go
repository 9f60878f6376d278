//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// The sides that are compared. Each has two pods of its own, so that all of them
// can be there at the same time and take turns.
const (
	direct   = "direct"
	splice   = "splice"
	gateways = "gateways"
	inband   = "inband"
	service  = "service"
	base     = "base"
)

// allSides are those that need nothing else. Base needs another program.
func allSides() []string { return []string{direct, splice, gateways, inband, service} }

// side is a client in one pod, a server in another, and what is between them.
type side struct {
	between
	name           string
	client, server *agent
	// target is what the client dials.
	target string
}

// between is where the pods of a side are, and what is between client and server.
type between interface {
	// encrypts reports whether gateways are.
	encrypts() bool
	// traffic returns what the client's gateway says it has sent out, and the server's that came in.
	traffic(context.Context) (outbound, inbound api.Direction, err error)
	costs() (costs, error)
	// memory returns what the proxies on the client's and the server's side take.
	memory() (out, in memory, err error)
	// lastWords ends what is between, and returns what it wrote last by who did.
	lastWords() []words
	// close ends it, and removes the pods.
	close() error
}

// words are what somebody wrote.
type words struct{ who, text string }

func warn(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// costs are CPU times since the start.
type costs struct {
	// proxies is what is between client and server, all is that and both of
	// them, including what the kernel does in their name.
	proxies, all time.Duration
}

// tally is what a side has carried since the start, according to those who did.
type tally struct {
	server            outcome
	outbound, inbound api.Direction
}

// settled waits until no connection is open, and returns the tally.
func (s *side) settled(ctx context.Context) (t tally, err error) {
	ctx, cancel := context.WithTimeout(ctx, slack)
	defer cancel()
	for {
		if t.server, err = s.server.ask(ctx, order{Op: opTotals}); err != nil {
			return t, err
		}
		open := int64(t.server.Open)
		if s.encrypts() {
			if t.outbound, t.inbound, err = s.traffic(ctx); err != nil {
				return t, err
			}
			open += t.outbound.Active + t.inbound.Active
		}
		if open == 0 {
			return t, nil
		}
		select {
		case <-ctx.Done():
			return t, fmt.Errorf("connections stay open: %+v", t)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// explain adds to err what the processes of the side wrote last. What is between is ended before.
func (s *side) explain(err error) error {
	var all []words
	for _, a := range []*agent{s.client, s.server} {
		if a != nil {
			all = append(all, words{"a process of the benchmark", a.Output()})
		}
	}
	if s.between != nil {
		all = append(all, s.lastWords()...)
	}
	var b strings.Builder
	for _, w := range all {
		if text := strings.TrimSpace(w.text); text != "" {
			fmt.Fprintf(&b, "\n--- %s:\n%s", w.who, text)
		}
	}
	return fmt.Errorf("%w%s", err, b.String())
}

// close ends all processes and removes the pods.
func (s *side) close() error {
	for _, a := range []*agent{s.client, s.server} {
		if a != nil {
			a.close()
		}
	}
	if s.between == nil {
		return nil
	}
	return s.between.close()
}

// check compares what the client says it did between two tallies with what
// everybody else says. A fast fallback to plaintext is no result.
func (s *side) check(before, after tally, client outcome) error {
	n := uint64(client.Connections)
	if got := uint64(after.server.Connections - before.server.Connections); got != n {
		return fmt.Errorf("the client made %d connections, the server had %d", n, got)
	}
	up, down := after.server.Received-before.server.Received, after.server.Sent-before.server.Sent
	if up != client.Sent || down != client.Received {
		return fmt.Errorf("the client sent %d and received %d bytes, the server received %d and sent %d",
			client.Sent, client.Received, up, down)
	}
	if !s.encrypts() {
		return nil
	}
	for _, g := range []struct {
		name           string
		before, after  api.Direction
		sent, received uint64
	}{
		{"the client's gateway", before.outbound, after.outbound, client.Sent, client.Received},
		{"the server's gateway", before.inbound, after.inbound, client.Received, client.Sent},
	} {
		encrypted, plaintext, refused := g.after.Encrypted-g.before.Encrypted,
			g.after.Plaintext-g.before.Plaintext, g.after.Refused-g.before.Refused
		if encrypted != n || plaintext != 0 || refused != 0 {
			return fmt.Errorf("of %d connections %s says: %d encrypted, %d plaintext, %d refused",
				n, g.name, encrypted, plaintext, refused)
		}
		if s, r := g.after.Sent-g.before.Sent, g.after.Received-g.before.Received; s != g.sent || r != g.received {
			return fmt.Errorf("%s says %d bytes sent and %d received, the client says %d and %d",
				g.name, s, r, g.sent, g.received)
		}
	}
	return nil
}
