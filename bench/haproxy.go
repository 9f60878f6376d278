//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/netlab"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/identity"
)

// haproxy is an established TLS proxy in each pod, as far as it can do the same
// as a gateway. It is no part of the benchmark unless asked for.
const haproxy = "haproxy"

// haproxyConfig relays TCP from one address to another, with mutual TLS 1.3 on
// the side towards the other pod. Everything else is as it is by default.
const haproxyConfig = `global
    maxconn 4000
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-server-options ssl-min-ver TLSv1.3
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
listen relay
    bind {{.From}}{{if .Serve}} ssl crt {{.Cert}} ca-file {{.CA}} verify required{{end}}
    server next {{.Next}}{{if not .Serve}} ssl crt {{.Cert}} ca-file {{.CA}} verify required{{end}}
`

func findHAProxy() (string, error) {
	path, err := exec.LookPath("haproxy")
	if err != nil {
		return "", api.WithHint(fmt.Errorf("looking for haproxy: %w", err), "apt-get install haproxy")
	}
	return filepath.Abs(path)
}

// startHAProxies makes the same hops that two gateways make.
func (s *side) startHAProxies(ctx context.Context) error {
	program, err := findHAProxy()
	if err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	authority, err := gatewaylab.NewAuthority()
	if err != nil {
		return err
	}
	parsed, err := template.New("haproxy").Parse(haproxyConfig)
	if err != nil {
		return err
	}
	local, wire := fmt.Sprintf("127.0.0.1:%d", api.CapturePort), s.b.Addr(api.PeerPort)
	for _, h := range []struct {
		node *netlab.Node
		port uint16
		// What haproxyConfig fills in.
		From, Next, Cert, CA string
		Serve                bool
	}{
		{node: s.b, port: api.PeerPort, From: wire, Next: s.target, Serve: true},
		{node: s.a, port: api.CapturePort, From: local, Next: wire},
	} {
		leaf, err := authority.Issue(ca.LeafRequest{
			Identity: identity.ID{TrustDomain: gatewaylab.TrustDomain, Namespace: "lab", ServiceAccount: "haproxy"},
			IPs:      []netip.Addr{h.node.IP4, h.node.IP6}, TTL: time.Hour,
		})
		if err != nil {
			return err
		}
		file := func(name string) string { return filepath.Join(s.dir, h.node.UID+name) }
		h.Cert, h.CA = file(".pem"), file("-ca.pem")
		var config bytes.Buffer
		if err := parsed.Execute(&config, h); err != nil {
			return err
		}
		for name, text := range map[string][]byte{
			h.Cert: append(leaf.CertPEM, leaf.KeyPEM...), h.CA: authority.Bundle(), file(".cfg"): config.Bytes(),
		} {
			if err := os.WriteFile(name, text, 0o600); err != nil {
				return err
			}
		}
		p, err := h.node.TryStart(netlab.Command{
			Cgroup: h.node.GatewayCgroup, Path: program, Args: []string{"-db", "-f", file(".cfg")},
		})
		if err != nil {
			return err
		}
		s.others = append(s.others, p)
		if err := waitListening(ctx, h.node, p, h.port); err != nil {
			return err
		}
	}
	s.target = local
	return nil
}

// waitListening waits until something listens on the port of the node. It looks
// at the list of sockets, because a connection would count.
func waitListening(ctx context.Context, n *netlab.Node, p *netlab.Process, port uint16) error {
	ctx, cancel := context.WithTimeout(ctx, slack)
	defer cancel()
	for {
		listening := false
		if err := n.Do(func() error {
			text, err := os.ReadFile("/proc/thread-self/net/tcp")
			if err != nil {
				return fmt.Errorf("reading the list of sockets: %w", err)
			}
			for line := range strings.Lines(string(text)) {
				// The second field is the local address, the fourth the
				// state; 0A is TCP_LISTEN.
				f := strings.Fields(line)
				listening = listening || len(f) > 3 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port))
			}
			return nil
		}); err != nil || listening {
			return err
		}
		select {
		case <-p.Done():
			return fmt.Errorf("haproxy has ended: %w", p.Wait())
		case <-ctx.Done():
			return fmt.Errorf("waiting for haproxy to listen: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
