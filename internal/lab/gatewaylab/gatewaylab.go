//go:build linux

// Package gatewaylab runs whole gateways, supervisor and worker and eBPF
// programs, in the pods of a netlab: everything but Kubernetes. Tests of the
// gateway and the benchmark use it.
package gatewaylab

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// TrustDomain is that of every gateway in a lab.
const TrustDomain = "lab.test"

// startTimeout bounds a gateway's start, generously.
const startTimeout = 30 * time.Second

// NewAuthority makes an authority in memory.
func NewAuthority() (*ca.Authority, error) {
	return ca.New(ca.Options{TrustDomain: TrustDomain})
}

// Spec says how to run a gateway.
type Spec struct {
	Node *netlab.Node
	// Program is the gateway's executable, which may be a test binary that
	// acts as one.
	Program   string
	Authority *ca.Authority
	// Cgroup is that of the gateway's container, Node.GatewayCgroup if empty.
	Cgroup string
	// Mode is api.Permissive if empty; OnFailure is what goes with the mode.
	Mode      api.Mode
	OnFailure api.OnFailure
	// Capture is the whole lab network if empty.
	Capture []netip.Prefix
	// Configure changes the rest of the configuration if not nil.
	Configure func(*api.Config)
	// Dir is a directory for the files of the gateway's container.
	Dir string
	// Sandbox is the ID of the pod's sandbox, empty if the container is to know nothing of it.
	Sandbox string
	// Log receives the gateway's log if not nil.
	Log io.Writer
	// TTL is the life of the certificate, one hour if zero.
	TTL time.Duration
	// Uncertified starts the gateway without certificate, key and bundle. It waits
	// for them for CertificateTimeout, the gateway's default if zero.
	Uncertified        bool
	CertificateTimeout time.Duration
	// PortTimeout is how long the gateway waits for a port, its default if zero.
	PortTimeout time.Duration
	// RecycleInterval is how often an idle worker that has grown is replaced at most: the gateway's default if zero, never if
	// negative.
	RecycleInterval time.Duration
	// StatusPort is that of an api.StatusPort, 0 for none.
	StatusPort uint16
	// FIPS has the gateway run in FIPS 140-3 mode.
	FIPS bool
}

// Leaf is what the pod's certificate is about.
func (s *Spec) Leaf() ca.LeafRequest {
	return ca.LeafRequest{
		Identity: identity.ID{TrustDomain: TrustDomain, Namespace: "lab", ServiceAccount: "pod-" + s.Node.IP4.String()},
		IPs:      []netip.Addr{s.Node.IP4, s.Node.IP6},
		TTL:      s.TTL,
	}
}

// Gateway is a running gateway.
type Gateway struct {
	*netlab.Process
	*Container
	// Cgroup is that of its container.
	Cgroup string
}

// Start runs a gateway and returns once it is ready, or waits for a certificate if
// it was started without one.
func Start(ctx context.Context, s Spec) (*Gateway, error) {
	g, err := Launch(s)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	go func() { // a gateway that ends will not answer
		select {
		case <-g.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	status, err := g.status(ctx, startTimeout)
	if want := s.started(); err == nil && status.State != want {
		err = fmt.Errorf("it is %s: %s", status.State, status.Reason)
	}
	if err != nil {
		g.Stop()
		return nil, fmt.Errorf("starting a gateway: %w\n%s", err, g.Output())
	}
	return g, nil
}

// started is the state that a gateway gets to by itself.
func (s *Spec) started() api.State {
	var c api.Config
	if s.Configure != nil {
		s.Configure(&c)
	}
	switch {
	case s.Uncertified:
		return api.Uncertified
	case c.Replaces != "":
		return api.Standby
	}
	return api.Ready
}

// Launch runs a gateway and does not wait.
func Launch(s Spec) (*Gateway, error) {
	env, err := s.Environment()
	if err != nil {
		return nil, err
	}
	cgroup := cmp.Or(s.Cgroup, s.Node.GatewayCgroup)
	// The path of a socket has 107 bytes at most.
	container, err := NewContainer(filepath.Join(s.Dir, s.Node.UID[:8]), s.Sandbox)
	if err != nil {
		return nil, err
	}
	command := netlab.Command{
		Cgroup: cgroup,
		Path:   s.Program,
		Args:   []string{"supervise"},
		Env:    env,
	}
	if s.CertificateTimeout != 0 {
		command.Args = append(command.Args, "--certificate-timeout", s.CertificateTimeout.String())
	}
	if s.Log != nil {
		command.Stdout, command.Stderr = s.Log, s.Log
	}
	if s.PortTimeout != 0 {
		command.Args = append(command.Args, "--port-timeout", s.PortTimeout.String())
	}
	if s.RecycleInterval != 0 {
		command.Args = append(command.Args, "--recycle-interval", max(0, s.RecycleInterval).String())
	}
	process, err := s.Node.TryStart(container.In(command))
	if err != nil {
		return nil, err
	}
	return &Gateway{Process: process, Container: container, Cgroup: cgroup}, nil
}

// Environment is that of the gateway's container.
func (s *Spec) Environment() ([]string, error) {
	if s.Mode == "" {
		s.Mode = api.Permissive
	}
	if s.OnFailure == "" {
		s.OnFailure = map[api.Mode]api.OnFailure{api.Permissive: api.FailOpen, api.Strict: api.FailClosed}[s.Mode]
	}
	if s.Capture == nil {
		s.Capture = []netip.Prefix{netip.PrefixFrom(s.Node.IP4, 24).Masked(), netip.PrefixFrom(s.Node.IP6, 64).Masked()}
	}
	if s.TTL == 0 {
		s.TTL = time.Hour
	}
	about := s.Leaf()
	c := api.Config{
		Version: api.ConfigVersion,
		Pod:     api.PodRef{Namespace: "lab", Name: s.Node.IP4.String(), UID: s.Node.UID, ServiceAccount: about.Identity.ServiceAccount},
		PodIPs:  about.IPs, TrustDomain: TrustDomain, Mode: s.Mode, OnFailure: s.OnFailure, Coverage: api.Coverage{Capture: s.Capture},
	}
	if s.Configure != nil {
		s.Configure(&c)
	}
	config, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	env := []string{api.EnvConfig + "=" + string(config)}
	if c.Sidecar {
		// As the kubelet tells it.
		var ips []string
		for _, ip := range c.PodIPs {
			ips = append(ips, ip.String())
		}
		env = append(env, api.EnvPodNamespace+"="+c.Pod.Namespace, api.EnvPodName+"="+c.Pod.Name, api.EnvPodUID+"="+c.Pod.UID,
			api.EnvServiceAccount+"="+c.Pod.ServiceAccount, api.EnvPodIPs+"="+strings.Join(ips, ","))
	}
	if s.StatusPort != 0 {
		port, err := json.Marshal(api.StatusPort{Port: s.StatusPort, Roots: s.Authority.Roots()})
		if err != nil {
			return nil, err
		}
		env = append(env, api.EnvStatusPort+"="+string(port))
	}
	if s.FIPS {
		env = append(env, "GODEBUG=fips140=on")
	}
	if s.Uncertified {
		return env, nil
	}
	leaf, err := s.Authority.Issue(about)
	if err != nil {
		return nil, err
	}
	return append(env,
		api.EnvCert+"="+string(leaf.CertPEM),
		api.EnvKey+"="+string(leaf.KeyPEM), api.EnvCA+"="+string(s.Authority.Bundle()),
	), nil
}

// Status asks the gateway how it is.
func (g *Gateway) Status(ctx context.Context) (*api.Status, error) { return g.status(ctx, 0) }

func (g *Gateway) status(ctx context.Context, wait time.Duration) (*api.Status, error) {
	return g.Call(ctx, control.Request{Op: control.OpStatus, Wait: wait})
}

// Call sends a request to the gateway's control socket.
func (g *Gateway) Call(ctx context.Context, r control.Request) (*api.Status, error) {
	var s api.Status
	if err := control.Call(ctx, g.Socket(), r, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// Connections returns the connection lines of the gateway's log, if it was
// started without a Log of its own.
func (g *Gateway) Connections() ([]api.Connection, error) {
	var found []api.Connection
	lines := bufio.NewScanner(strings.NewReader(g.Output()))
	for lines.Scan() {
		var c api.Connection
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return nil, fmt.Errorf("log line %q: %w", lines.Text(), err)
		}
		if c.Message == api.ConnectionMessage {
			found = append(found, c)
		}
	}
	return found, nil
}

// End asks the gateway to end, as the kubelet does, and waits for it.
func (g *Gateway) End() error {
	if err := g.Signal(os.Interrupt); err != nil {
		return err
	}
	return g.Wait()
}
