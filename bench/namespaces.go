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
	"sync"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// endTimeout bounds the end of a gateway after a failure, and that of other proxies.
const endTimeout = 5 * time.Second

// namespaces are two pods without Kubernetes, and what is between client and server in them.
type namespaces struct {
	lab      *netlab.Lab
	a, b     *netlab.Node
	relays   []*agent
	gateways []*gatewaylab.Gateway
	others   []*netlab.Process
	logs     []*logEnd
	dir      string
}

// startInNamespaces starts a side. program is the gateway's executable, like the side whose configuration gateways have.
func startInNamespaces(ctx context.Context, s *side, program, like string) (err error) {
	n := &namespaces{}
	s.between = n
	if n.lab, err = netlab.Open(2, warn); err != nil {
		return err
	}
	n.a, n.b = n.lab.Node(0), n.lab.Node(1)
	s.target = n.b.Addr(portServer)
	if s.server, err = startAgent(n.b, n.b.AppCgroup, "server", ":"+strconv.Itoa(portServer)); err != nil {
		return err
	}
	if s.client, err = startAgent(n.a, n.a.AppCgroup, "client"); err != nil {
		return err
	}
	if _, err = s.server.ask(ctx, order{Op: opTotals}); err != nil {
		return err
	}
	switch s.name {
	case direct:
		return nil
	case splice:
		s.target, err = n.startRelays(ctx, s.target)
		return err
	case gateways, inband, service, base:
		return n.startGateways(ctx, program, configuration(like))
	}
	other, err := findOther(s.name)
	if err == nil {
		s.target, err = n.startOthers(ctx, other, s.target)
	}
	return err
}

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

// startRelays makes the same hops to target that two gateways make, and returns the first.
func (n *namespaces) startRelays(ctx context.Context, target string) (string, error) {
	local, wire := "127.0.0.1:"+strconv.Itoa(api.CapturePort), n.b.Addr(api.PeerPort)
	for _, r := range []struct {
		node       *netlab.Node
		from, next string
	}{{n.b, wire, target}, {n.a, local, wire}} {
		relay, err := startAgent(r.node, r.node.GatewayCgroup, "relay", r.from, r.next)
		if err != nil {
			return "", err
		}
		n.relays = append(n.relays, relay)
		if _, err := relay.ask(ctx, order{Op: opTotals}); err != nil {
			return "", err
		}
	}
	return local, nil
}

func (n *namespaces) startGateways(ctx context.Context, program string, configure func(*api.Config)) (err error) {
	if n.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	authority, err := gatewaylab.NewAuthority()
	if err != nil {
		return err
	}
	for i, node := range []*netlab.Node{n.a, n.b} {
		log := &logEnd{}
		n.logs = append(n.logs, log)
		own := filepath.Join(n.dir, "kube-gateway-"+strconv.Itoa(i))
		if err := copyProgram(own, program); err != nil {
			return err
		}
		g, err := gatewaylab.Start(ctx, gatewaylab.Spec{
			Node: node, Program: own, Authority: authority, Dir: n.dir, Log: log, Configure: configure,
		})
		if err != nil {
			return err
		}
		n.gateways = append(n.gateways, g)
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

func (n *namespaces) encrypts() bool { return len(n.gateways) > 0 }

func (n *namespaces) traffic(ctx context.Context) (outbound, inbound api.Direction, err error) {
	out, err := n.gateways[0].Status(ctx)
	if err != nil {
		return outbound, inbound, fmt.Errorf("asking the client's gateway: %w", err)
	}
	in, err := n.gateways[1].Status(ctx)
	if err != nil {
		return outbound, inbound, fmt.Errorf("asking the server's gateway: %w", err)
	}
	return out.Traffic.Outbound, in.Traffic.Inbound, nil
}

func (n *namespaces) costs() (c costs, err error) {
	for _, node := range []*netlab.Node{n.a, n.b} {
		proxy, err := cpuTime(node.GatewayCgroup)
		if err != nil {
			return c, err
		}
		pod, err := cpuTime(node.PodCgroup)
		if err != nil {
			return c, err
		}
		c.proxies += proxy
		c.all += pod
	}
	return c, nil
}

func (n *namespaces) memory() (out, in memory, err error) {
	return memoryOfBoth(n.a.GatewayCgroup, n.b.GatewayCgroup)
}

// lastWords is part of between. The gateways are ended before, because they write their lines a little later.
func (n *namespaces) lastWords() (all []words) {
	for _, g := range n.gateways {
		kill := time.AfterFunc(endTimeout, func() { g.Kill() })
		if g.End() != nil {
			g.Stop()
		}
		kill.Stop()
	}
	for _, r := range n.relays {
		all = append(all, words{"a relay", r.Output()})
	}
	for _, p := range n.others {
		all = append(all, words{"a proxy", p.Output()})
	}
	for i, l := range n.logs {
		all = append(all, words{fmt.Sprintf("gateway %d", i+1), l.String()})
	}
	return all
}

func (n *namespaces) close() error {
	for _, r := range n.relays {
		r.close()
	}
	var err error
	for _, p := range n.others {
		// Asked to, they end their children, too.
		if p.Signal(syscall.SIGTERM) == nil {
			select {
			case <-p.Done():
			case <-time.After(endTimeout):
			}
		}
	}
	if len(n.others) > 0 {
		// A child that is left would keep the output open.
		for _, node := range []*netlab.Node{n.a, n.b} {
			err = errors.Join(err, os.WriteFile(filepath.Join(node.GatewayCgroup, "cgroup.kill"), []byte("1"), 0o644))
		}
	}
	for _, p := range n.others {
		p.Stop()
	}
	for _, g := range n.gateways {
		g.Stop()
	}
	if n.lab != nil {
		err = errors.Join(err, n.lab.Close())
	}
	return errors.Join(err, os.RemoveAll(n.dir))
}

// logEnd keeps the end of a log, and is otherwise as quick a reader as a
// container runtime.
type logEnd struct {
	mu sync.Mutex
	b  []byte
}

const maxLogEnd = 4 << 10

func (l *logEnd) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(p) >= maxLogEnd {
		l.b = append(l.b[:0], p[len(p)-maxLogEnd:]...)
		return len(p), nil
	}
	if extra := len(l.b) + len(p) - maxLogEnd; extra > 0 {
		l.b = append(l.b[:0], l.b[extra:]...)
	}
	l.b = append(l.b, p...)
	return len(p), nil
}

func (l *logEnd) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}
