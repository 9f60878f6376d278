//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/verify"
)

// labCluster runs commands of the plugin in the containers of a lab's gateways.
type labCluster struct {
	l        *lab
	gateways map[string]*gatewaylab.Gateway
}

func (c *labCluster) node(pod string) *netlab.Node {
	for _, n := range c.l.net.Nodes() {
		if n.IP4.String() == pod {
			return n
		}
	}
	c.l.t.Fatalf("there is no pod %s", pod)
	return nil
}

func (c *labCluster) Run(ctx context.Context, ref remote.Ref, stdin io.Reader, stdout io.Writer, command ...string) error {
	n := c.node(ref.Pod)
	config, err := json.Marshal(api.Config{Version: api.ConfigVersion, Pod: api.PodRef{Namespace: "lab", Name: ref.Pod, UID: n.UID},
		PodIPs: []netip.Addr{n.IP4}, TrustDomain: gatewaylab.TrustDomain, Mode: api.Strict, OnFailure: api.FailClosed,
		Coverage: api.Coverage{Capture: []netip.Prefix{netip.PrefixFrom(n.IP4, 24).Masked()}}})
	if err != nil {
		return err
	}
	// The command's input must not keep Wait from returning.
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	go func() {
		defer write.Close()
		_, _ = io.Copy(write, stdin)
	}()
	var words bytes.Buffer
	p, err := n.TryStart(netlab.Command{Cgroup: n.GatewayCgroup, Path: c.l.self, Args: command[1:],
		Env: []string{api.EnvConfig + "=" + string(config)}, Stdin: read, Stdout: stdout, Stderr: &words})
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = p.Kill() })()
	if err := p.Wait(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return &remote.ExitError{Command: command[0], Code: 1, Stderr: words.String()}
	}
	return nil
}

func (c *labCluster) log(_ context.Context, g remote.Ref, _ time.Duration) ([]api.Connection, error) {
	running := c.gateways[g.Pod]
	if running == nil {
		return nil, errors.New("there is no gateway")
	}
	return running.Connections()
}

// pod describes a node as Kubernetes would.
func (c *labCluster) pod(n *netlab.Node) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "lab", Name: n.IP4.String(), UID: types.UID(n.UID)},
		Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: n.IP4.String()}, {IP: n.IP6.String()}}}}
	if c.gateways[pod.Name] == nil {
		return pod
	}
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: "kube-gateway", Env: []corev1.EnvVar{{Name: api.EnvConfig, Value: "{}"}}}}}
	pod.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: "kube-gateway",
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	return pod
}

func newLabCluster(l *lab) *labCluster {
	return &labCluster{l: l, gateways: map[string]*gatewaylab.Gateway{}}
}

func (c *labCluster) start(n *netlab.Node, change func(*gatewaylab.Spec)) {
	c.l.t.Helper()
	s := c.l.spec(n)
	if change != nil {
		change(&s)
	}
	c.gateways[n.IP4.String()] = c.l.gateway(s)
}

func (c *labCluster) verify(port uint16) *verify.Result {
	c.l.t.Helper()
	v := verify.Verifier{Gateways: &remote.Client{Runner: c}, Log: c.log, Port: port}
	r, err := v.Verify(c.l.t.Context(), c.pod(c.l.a), c.pod(c.l.b))
	if err != nil {
		c.l.t.Fatal(err)
	}
	c.noProbeIsLeft()
	return r
}

// noProbeIsLeft looks for what probes could leave in the cgroups of pods.
func (c *labCluster) noProbeIsLeft() {
	c.l.t.Helper()
	for _, n := range c.l.net.Nodes() {
		found, err := filepath.Glob(filepath.Join(n.PodCgroup, "kube-gateway-probe-*"))
		if err != nil || len(found) > 0 {
			c.l.t.Errorf("left behind: %v, %v", found, err)
		}
		app, err := os.ReadFile(filepath.Join(n.PodCgroup, "cgroup.procs"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) || len(app) > 0 {
			c.l.t.Errorf("in the pod's own cgroup: %q, %v", app, err)
		}
	}
}

func TestVerifyEncrypted(t *testing.T) {
	for name, change := range map[string]func(*gatewaylab.Spec){
		"permissive": nil,
		"strict":     func(s *gatewaylab.Spec) { s.Mode = api.Strict },
		"in-band":    func(s *gatewaylab.Spec) { s.Configure = func(c *api.Config) { c.Wire = api.WireInband } },
	} {
		t.Run(name, func(t *testing.T) {
			c := newLabCluster(newLab(t))
			c.start(c.l.a, change)
			c.start(c.l.b, change)
			for _, port := range []uint16{0, portEcho} {
				r := c.verify(port)
				if r.Verdict != verify.Encrypted || len(r.Reasons) > 0 {
					t.Fatalf("port %d: %s: %q", port, r.Verdict, r.Reasons)
				}
				wire := api.WirePort
				if name == "in-band" {
					wire = api.WireInband
				}
				if r.Wire != wire || r.TLS.Version != "TLS 1.3" || r.TLS.KeyExchange != "X25519MLKEM768" || r.TLS.Cipher == "" {
					t.Errorf("wire %s, %+v", r.Wire, r.TLS)
				}
				for pod, s := range map[string]verify.Side{c.l.a.IP4.String(): r.From, c.l.b.IP4.String(): r.To} {
					if s.Identity != "spiffe://lab.test/ns/lab/sa/pod-"+pod || s.Pod != pod {
						t.Errorf("side %+v", s)
					}
					if s.Loopback == nil || s.Loopback.Interface != "lo" || !strings.HasPrefix(string(s.Loopback.Data), r.Canary[:20]) {
						t.Errorf("on loopback: %+v", s.Loopback)
					}
					if s.TLS == nil || s.TLS.Interface != "eth0" || len(s.TLS.Data) < 20 || s.TLS.Data[0] != 23 || s.Records == 0 || s.Network != nil {
						t.Errorf("on the network: %+v, %+v, %d records", s.TLS, s.Network, s.Records)
					}
				}
			}
		})
	}
}

func TestVerifyPlaintext(t *testing.T) {
	t.Run("no gateway at the peer", func(t *testing.T) {
		c := newLabCluster(newLab(t))
		c.start(c.l.a, nil)
		r := c.verify(portEcho)
		if r.Verdict != verify.Plaintext || r.From.Network == nil || r.From.Network.Interface != "eth0" || r.From.Loopback == nil ||
			len(r.Reasons) != 2 || !strings.Contains(r.Reasons[0], "readable on eth0") {
			t.Errorf("%s: %q, %+v", r.Verdict, r.Reasons, r.From)
		}
	})
	// What the gateway does not capture goes around it.
	t.Run("excluded", func(t *testing.T) {
		c := newLabCluster(newLab(t))
		for _, n := range []*netlab.Node{c.l.a, c.l.b} {
			c.start(n, func(s *gatewaylab.Spec) {
				s.Configure = func(c *api.Config) { c.Exclude = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")} }
			})
		}
		r := c.verify(0)
		if r.Verdict != verify.Plaintext || r.From.Network == nil || r.From.Loopback != nil || r.To.Network == nil {
			t.Errorf("%s: %q", r.Verdict, r.Reasons)
		}
	})
}

func TestVerifyInconclusive(t *testing.T) {
	strict := func(s *gatewaylab.Spec) { s.Mode = api.Strict }
	c := newLabCluster(newLab(t))
	c.start(c.l.a, strict)
	for port, want := range map[uint16]string{portEcho: "no gateway runs in pod/" + c.l.b.IP4.String(), 1: "the connection failed"} {
		r := c.verify(port)
		if r.Verdict != verify.Inconclusive || !strings.Contains(strings.Join(r.Reasons, "\n"), want) {
			t.Errorf("port %d: %s: %q", port, r.Verdict, r.Reasons)
		}
	}
	if _, err := (&verify.Verifier{Gateways: &remote.Client{Runner: c}, Log: c.log}).Verify(t.Context(), c.pod(c.l.a), c.pod(c.l.b)); !errors.Is(err, verify.ErrNoPort) || api.Hint(err) == "" {
		t.Errorf("without a port: %v", err)
	}
	if _, err := (&verify.Verifier{Gateways: &remote.Client{Runner: c}, Log: c.log}).Verify(t.Context(), c.pod(c.l.b), c.pod(c.l.a)); !errors.Is(err, verify.ErrNoGateway) || api.Hint(err) == "" {
		t.Errorf("without a gateway: %v", err)
	}
	// A peer whom the other pod does not let in.
	c.start(c.l.b, func(s *gatewaylab.Spec) {
		strict(s)
		s.Configure = func(c *api.Config) { c.Allow = []string{"ns/other/sa/*"} }
	})
	r := c.verify(0)
	if r.Verdict != verify.Inconclusive || !strings.Contains(strings.Join(r.Reasons, "\n"), "the connection") {
		t.Errorf("not allowed: %s: %q", r.Verdict, r.Reasons)
	}
}
