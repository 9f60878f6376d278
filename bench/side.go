//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
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

// endTimeout bounds the end of a gateway after a failure, and that of other proxies.
const endTimeout = 5 * time.Second

// allSides are those that need nothing else. Base needs another program.
func allSides() []string { return []string{direct, splice, gateways, inband, service} }

// side is two pods, a client in the first, a server in the second, and what is
// between them.
type side struct {
	name           string
	lab            *netlab.Lab
	a, b           *netlab.Node
	client, server *agent
	// target is what the client dials.
	target   string
	relays   []*agent
	gateways []*gatewaylab.Gateway
	others   []*netlab.Process
	logs     []*lastWords
	dir      string
}

// newSide starts a side. program is the gateway's executable, like the side whose configuration gateways have.
func newSide(ctx context.Context, name, program, like string) (s *side, err error) {
	s = &side{name: name}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("starting %s: %w", name, s.explain(err)), s.close())
			s = nil
		}
	}()
	if s.lab, err = netlab.Open(2, warn); err != nil {
		return s, err
	}
	s.a, s.b = s.lab.Node(0), s.lab.Node(1)
	s.target = s.b.Addr(portServer)
	if s.server, err = startAgent(s.b, s.b.AppCgroup, "server", ":"+strconv.Itoa(portServer)); err != nil {
		return s, err
	}
	if s.client, err = startAgent(s.a, s.a.AppCgroup, "client"); err != nil {
		return s, err
	}
	if _, err = s.server.ask(ctx, order{Op: opTotals}); err != nil {
		return s, err
	}
	switch name {
	case direct:
	case splice:
		err = s.startRelays(ctx)
	case gateways, inband, service, base:
		err = s.startGateways(ctx, program, configuration(like))
	default:
		var other otherProxy
		if other, err = findOther(name); err == nil {
			err = s.startOthers(ctx, other)
		}
	}
	return s, err
}

func warn(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// configuration returns what a side's gateways have beyond the defaults.
func configuration(side string) func(*api.Config) {
	switch side {
	case inband:
		return func(c *api.Config) { c.Wire = api.WireInband }
	case service:
		return func(c *api.Config) {
			// The server of every lab.
			c.Services = []netip.Prefix{netip.MustParsePrefix("10.9.0.2/32"), netip.MustParsePrefix("fd00:9::2/128")}
		}
	}
	return nil
}

// startRelays makes the same hops that two gateways make.
func (s *side) startRelays(ctx context.Context) error {
	local, wire := "127.0.0.1:"+strconv.Itoa(api.CapturePort), s.b.Addr(api.PeerPort)
	for _, r := range []struct {
		node       *netlab.Node
		from, next string
	}{{s.b, wire, s.target}, {s.a, local, wire}} {
		relay, err := startAgent(r.node, r.node.GatewayCgroup, "relay", r.from, r.next)
		if err != nil {
			return err
		}
		s.relays = append(s.relays, relay)
		if _, err := relay.ask(ctx, order{Op: opTotals}); err != nil {
			return err
		}
	}
	s.target = local
	return nil
}

func (s *side) startGateways(ctx context.Context, program string, configure func(*api.Config)) (err error) {
	if s.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	authority, err := gatewaylab.NewAuthority()
	if err != nil {
		return err
	}
	for i, n := range []*netlab.Node{s.a, s.b} {
		log := &lastWords{}
		s.logs = append(s.logs, log)
		own := filepath.Join(s.dir, "kube-gateway-"+strconv.Itoa(i))
		if err := copyProgram(own, program); err != nil {
			return err
		}
		g, err := gatewaylab.Start(ctx, gatewaylab.Spec{
			Node: n, Program: own, Authority: authority, Dir: s.dir, Log: log, Configure: configure,
		})
		if err != nil {
			return err
		}
		s.gateways = append(s.gateways, g)
	}
	return nil
}

// copyProgram gives a gateway a file of its own, as on a node of its own: what is mapped of it is shared by the processes of
// that gateway alone. The file is written piece by piece, as runtimes do that unpack images, and like there the page cache has no huge pages of it.
func copyProgram(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	// Without the methods of files, which have the kernel copy it at once.
	_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 32<<10))
	return err
}

// explain adds to err what the processes of the side wrote last. The gateways
// are ended before, because they write their lines a little later.
func (s *side) explain(err error) error {
	for _, g := range s.gateways {
		kill := time.AfterFunc(endTimeout, func() { g.Kill() })
		if g.End() != nil {
			g.Stop()
		}
		kill.Stop()
	}
	var b strings.Builder
	note := func(who, text string) {
		if text = strings.TrimSpace(text); text != "" {
			fmt.Fprintf(&b, "\n--- %s:\n%s", who, text)
		}
	}
	for _, a := range append([]*agent{s.client, s.server}, s.relays...) {
		if a != nil {
			note("a process of the benchmark", a.Output())
		}
	}
	for _, p := range s.others {
		note(s.name, p.Output())
	}
	for i, l := range s.logs {
		note(fmt.Sprintf("gateway %d", i+1), l.String())
	}
	return fmt.Errorf("%w%s", err, b.String())
}

// close ends all processes and removes the network.
func (s *side) close() error {
	for _, a := range append([]*agent{s.client, s.server}, s.relays...) {
		if a != nil {
			a.close()
		}
	}
	var err error
	for _, p := range s.others {
		// Asked to, they end their children, too.
		if p.Signal(syscall.SIGTERM) == nil {
			select {
			case <-p.Done():
			case <-time.After(endTimeout):
			}
		}
	}
	if len(s.others) > 0 {
		// A child that is left would keep the output open.
		for _, n := range []*netlab.Node{s.a, s.b} {
			err = errors.Join(err, os.WriteFile(filepath.Join(n.GatewayCgroup, "cgroup.kill"), []byte("1"), 0o644))
		}
	}
	for _, p := range s.others {
		p.Stop()
	}
	for _, g := range s.gateways {
		g.Stop()
	}
	if s.lab != nil {
		err = errors.Join(err, s.lab.Close())
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// costs are CPU times since the start.
type costs struct {
	// proxies is what is between client and server, all is that and both of
	// them, including what the kernel does in their name.
	proxies, all time.Duration
}

func (s *side) costs() (c costs, err error) {
	for _, n := range []*netlab.Node{s.a, s.b} {
		proxy, err := cpuTime(n.GatewayCgroup)
		if err != nil {
			return c, err
		}
		pod, err := cpuTime(n.PodCgroup)
		if err != nil {
			return c, err
		}
		c.proxies += proxy
		c.all += pod
	}
	return c, nil
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
		if len(s.gateways) > 0 {
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

// traffic returns what the client's gateway says it has sent out, and the
// server's that came in.
func (s *side) traffic(ctx context.Context) (outbound, inbound api.Direction, err error) {
	out, err := s.gateways[0].Status(ctx)
	if err != nil {
		return outbound, inbound, fmt.Errorf("asking the client's gateway: %w", err)
	}
	in, err := s.gateways[1].Status(ctx)
	if err != nil {
		return outbound, inbound, fmt.Errorf("asking the server's gateway: %w", err)
	}
	return out.Traffic.Outbound, in.Traffic.Inbound, nil
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
	if len(s.gateways) == 0 {
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

// lastWords keeps the end of a log, and is otherwise as quick a reader as a
// container runtime.
type lastWords struct {
	mu sync.Mutex
	b  []byte
}

const maxLastWords = 4 << 10

func (l *lastWords) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(p) >= maxLastWords {
		l.b = append(l.b[:0], p[len(p)-maxLastWords:]...)
		return len(p), nil
	}
	if extra := len(l.b) + len(p) - maxLastWords; extra > 0 {
		l.b = append(l.b[:0], l.b[extra:]...)
	}
	l.b = append(l.b, p...)
	return len(p), nil
}

func (l *lastWords) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}
