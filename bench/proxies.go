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
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// otherProxy is an established TLS proxy, which in each pod does the same as a
// gateway, as far as it can. None is part of the benchmark unless asked for.
type otherProxy struct {
	name string
	// program is what Debian's packages of that name bring.
	program, packages string
	// arguments stand before the path of the configuration.
	arguments []string
	// config relays TCP from one address to another, with mutual TLS 1.3 on the side
	// towards the other pod, and all else as it is by default. It is a template of
	// a hop.
	config string
}

// hop is one of the two proxies between a client and its server.
type hop struct {
	node *netlab.Node
	port uint16
	// From is where it listens, Next where it dials.
	From, Next string
	// Cert is a file with certificate and key, CA one with the roots, Dir is for
	// whatever else it writes.
	Cert, CA, Dir string
	// Serve is true at the server's end, where TLS ends.
	Serve bool
}

func otherProxies() []otherProxy {
	return []otherProxy{
		{name: "haproxy", program: "haproxy", packages: "haproxy", arguments: []string{"-db", "-f"}, config: `global
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
`},
		// One worker a processor is the package's own setting. The client's side
		// does not verify the server's name: nginx knows only DNS names.
		{name: "nginx", program: "nginx", packages: "nginx libnginx-mod-stream", arguments: []string{"-c"}, config: `daemon off;
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
worker_processes auto;
pid {{.Dir}}/nginx.pid;
error_log stderr;
events { worker_connections 8192; }
stream {
    server {
        listen {{.From}}{{if .Serve}} ssl{{end}};
        proxy_pass {{.Next}};
        proxy_half_close on;
{{- if .Serve}}
        ssl_protocols TLSv1.3;
        ssl_certificate {{.Cert}};
        ssl_certificate_key {{.Cert}};
        ssl_client_certificate {{.CA}};
        ssl_verify_client on;
{{- else}}
        proxy_ssl on;
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_certificate {{.Cert}};
        proxy_ssl_certificate_key {{.Cert}};
{{- end}}
    }
}
`},
		{name: "stunnel", program: "stunnel4", packages: "stunnel4", config: `foreground = yes
pid =
syslog = no
debug = err
[relay]
client = {{if .Serve}}no{{else}}yes{{end}}
accept = {{.From}}
connect = {{.Next}}
cert = {{.Cert}}
CAfile = {{.CA}}
verifyChain = yes
sslVersionMin = TLSv1.3
`},
	}
}

// otherProxyNames are what --with takes.
func otherProxyNames() []string {
	var names []string
	for _, o := range otherProxies() {
		names = append(names, o.name)
	}
	return names
}

// findOther returns the proxy of that name.
func findOther(name string) (otherProxy, error) {
	for _, o := range otherProxies() {
		if o.name == name {
			return o, nil
		}
	}
	return otherProxy{}, fmt.Errorf("there is no side %q", name)
}

func (o *otherProxy) find() (string, error) {
	path, err := exec.LookPath(o.program)
	if err != nil {
		return "", api.WithHint(fmt.Errorf("looking for %s: %w", o.name, err), "apt-get install "+o.packages)
	}
	return filepath.Abs(path)
}

// startOthers makes the same hops to target that two gateways make, and returns the first.
func (n *namespaces) startOthers(ctx context.Context, o otherProxy, target string) (string, error) {
	program, err := o.find()
	if err != nil {
		return "", err
	}
	if n.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return "", err
	}
	authority, err := gatewaylab.NewAuthority()
	if err != nil {
		return "", err
	}
	config, err := template.New(o.name).Parse(o.config)
	if err != nil {
		return "", err
	}
	local, wire := fmt.Sprintf("127.0.0.1:%d", api.CapturePort), n.b.Addr(api.PeerPort)
	for _, h := range []hop{
		{node: n.b, port: api.PeerPort, From: wire, Next: target, Serve: true},
		{node: n.a, port: api.CapturePort, From: local, Next: wire},
	} {
		h.Dir = filepath.Join(n.dir, h.node.UID)
		h.Cert, h.CA = filepath.Join(h.Dir, "cert.pem"), filepath.Join(h.Dir, "ca.pem")
		path, err := h.prepare(authority, config)
		if err != nil {
			return "", err
		}
		p, err := h.node.TryStart(netlab.Command{
			Cgroup: h.node.GatewayCgroup, Path: program, Args: append(slices.Clone(o.arguments), path),
		})
		if err != nil {
			return "", err
		}
		n.others = append(n.others, p)
		if err := waitListening(ctx, h.node, p, h.port); err != nil {
			return "", err
		}
	}
	return local, nil
}

// prepare writes what the hop's proxy reads and returns the path of its
// configuration.
func (h *hop) prepare(authority *ca.Authority, config *template.Template) (path string, err error) {
	leaf, err := authority.Issue(ca.LeafRequest{
		Identity: identity.ID{TrustDomain: gatewaylab.TrustDomain, Namespace: "lab", ServiceAccount: config.Name()},
		IPs:      []netip.Addr{h.node.IP4, h.node.IP6}, TTL: time.Hour,
	})
	if err != nil {
		return "", err
	}
	var text bytes.Buffer
	if err := config.Execute(&text, h); err != nil {
		return "", err
	}
	if err := os.Mkdir(h.Dir, 0o700); err != nil {
		return "", err
	}
	path = filepath.Join(h.Dir, "config")
	for name, content := range map[string][]byte{
		h.Cert: append(leaf.CertPEM, leaf.KeyPEM...), h.CA: authority.Bundle(), path: text.Bytes(),
	} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			return "", err
		}
	}
	return path, nil
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
			return fmt.Errorf("the proxy has ended: %w", p.Wait())
		case <-ctx.Done():
			return fmt.Errorf("waiting for the proxy to listen: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
