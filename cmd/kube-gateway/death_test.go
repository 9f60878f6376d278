//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// deathTime is when a process was killed, and when it was certainly gone.
type deathTime struct{ killed, gone time.Time }

// killWorker kills a gateway's worker, and waits for the next one.
func killWorker(t *testing.T, g *gatewaylab.Gateway) (d deathTime) {
	t.Helper()
	worker := status(t, g).Worker
	d.killed = time.Now()
	must.Do(t, syscall.Kill(worker.PID, syscall.SIGKILL))
	// It is no zombie for long: the supervisor waits for it.
	eventually(t, "the worker is gone", func() error {
		if _, err := os.Stat("/proc/" + strconv.Itoa(worker.PID)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("it is there: %v", err)
		}
		return nil
	})
	d.gone = time.Now()
	awaitStatus(t, g, "the next worker serves", func(s *api.Status) bool { return s.State == api.Ready && s.Worker.PID != worker.PID })
	return d
}

// TestWorkerKilled kills the worker at either end, on either wire. The
// connections that it carried end with a RST at both ends, so that nobody takes what
// was cut off for complete; all others, those that come meanwhile included, succeed.
func TestWorkerKilled(t *testing.T) {
	for _, wire := range []api.Wire{api.WirePort, api.WireInband} {
		for _, end := range []string{"client", "server"} {
			t.Run(fmt.Sprintf("%s %s", wire, end), func(t *testing.T) {
				l := newLab(t)
				// Strict: no connection gets through without the worker.
				spec := func(n *netlab.Node) gatewaylab.Spec {
					return strict(with(quiet(l.spec(n)), func(c *api.Config) { c.Wire = wire }))
				}
				ga, gb := l.gateway(spec(l.a)), l.gateway(spec(l.b))
				tr := l.traffic(l.a, 0, l.b.Addr(portTraffic), l.b.Addr6(portTraffic))
				victim := map[string]*gatewaylab.Gateway{"client": ga, "server": gb}[end]
				var deaths []deathTime
				for range 2 {
					before := status(t, ga).Traffic.Outbound.Encrypted
					awaitStatus(t, ga, "traffic flows", func(s *api.Status) bool {
						return s.Traffic.Outbound.Encrypted >= before+50 && s.Traffic.Outbound.Active >= 8
					})
					deaths = append(deaths, killWorker(t, victim))
				}
				before := status(t, ga).Traffic.Outbound.Encrypted
				awaitStatus(t, ga, "traffic flows again", func(s *api.Status) bool { return s.Traffic.Outbound.Encrypted >= before+50 })
				s := tr.stop()
				s.undamaged(t)
				// Those that are held, at least.
				if s.Failures < 2*8 {
					t.Errorf("only %d connections failed", s.Failures)
				}
				for _, f := range s.Failed {
					inFlight := slices.ContainsFunc(deaths, func(d deathTime) bool { return f.Opened.Before(d.gone) && f.Time.After(d.killed) })
					if !f.Reset || !inFlight || f.Phase == "connect" {
						t.Errorf("killed at %v, and this failed: %+v", deaths, f)
					}
				}
				served := l.served(l.b)
				t.Logf("the servers saw %d resets", served.Resets)
				if served.Resets < 2*8 || served.Truncated != 0 || served.Failed != 0 {
					t.Errorf("the servers saw %+v", served)
				}
				if r := status(t, victim).Worker.Restarts; r != 2 {
					t.Errorf("%d restarts", r)
				}
			})
		}
	}
}

// clean runs 'kube-gateway clean' in a pod, as the container that the plugin adds after the
// gateway of a number.
func (l *lab) clean(n *netlab.Node, number int) (output, lastWords string, err error) {
	l.t.Helper()
	config, err := json.Marshal(api.Config{
		Version: api.ConfigVersion, Pod: api.PodRef{Namespace: "lab", Name: "clean", UID: n.UID},
		PodIPs: []netip.Addr{n.IP4, n.IP6}, TrustDomain: gatewaylab.TrustDomain,
		Mode: api.Permissive, OnFailure: api.FailOpen, Number: number, Coverage: api.Coverage{Capture: []netip.Prefix{netip.PrefixFrom(n.IP4, 24).Masked()}},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	container := must.Get(gatewaylab.NewContainer(l.t.TempDir(), ""))(l.t)
	p := n.Start(container.In(netlab.Command{
		Cgroup: n.GatewayCgroup, Path: l.self, Args: []string{"clean"},
		Env: []string{api.EnvConfig + "=" + string(config)},
	}))
	err = p.Wait()
	text, readErr := container.LastWords()
	if readErr != nil {
		l.t.Fatal(readErr)
	}
	return p.Output(), text, err
}

// TestGatewayKilled kills the whole gateway. One that fails open leaves plaintext, and
// before Linux 6.6 an inbound filter without effect; one that fails closed leaves nothing
// through in either direction, until it is cleaned away or the next one takes over.
func TestGatewayKilled(t *testing.T) {
	for _, wire := range []api.Wire{api.WirePort, api.WireInband} {
		t.Run(string(wire), func(t *testing.T) {
			l := newLab(t)
			l.gateway(with(l.spec(l.b), func(c *api.Config) { c.Wire = wire }))
			spec := with(l.spec(l.a), func(c *api.Config) { c.Wire = wire })

			g := l.gateway(spec)
			objects := objectsOf(t, l.a)
			freed := func() {
				t.Helper()
				eventually(t, "the kernel frees everything", func() error {
					if left := append(objects.left(), leftovers(t, l.a)...); len(left) > 0 {
						return fmt.Errorf("%q", left)
					}
					return nil
				})
			}
			l.talk(l.a, l.b.Addr(portEcho))
			g.Stop()
			l.talk(l.a, l.b.Addr(portEcho))
			l.talk(l.b, l.a.Addr(portEcho))
			if !hasTCX(t) {
				l.cleanFilter(l.a)
				l.talk(l.b, l.a.Addr(portEcho))
			}
			freed()

			spec.Mode = api.Strict
			closedBoth := func() {
				t.Helper()
				for _, address := range []string{l.b.Addr(portEcho), l.b.Addr6(portEcho)} {
					if r := l.client(l.a, l.a.AppCgroup, "talk", address, "hello"); !r.NotPermitted {
						t.Errorf("out of a closed pod: %+v", r)
					}
				}
				// SYNs are dropped. The peer's gateway would try for minutes.
				if conn, err := l.dialWithin(l.b, l.a.Addr(portEcho), time.Second); err == nil {
					conn.Stop()
					t.Error("into a closed pod: connected")
				}
			}
			g = l.gateway(spec)
			l.talk(l.a, l.b.Addr(portEcho))
			objects = objectsOf(t, l.a)
			if output, words, err := l.clean(l.a, 0); err == nil || !strings.Contains(output, "hint: ") || !strings.HasPrefix(words, "a gateway runs") {
				t.Errorf("cleaning while a gateway runs: %v, %s, %q", err, output, words)
			}
			l.talk(l.a, l.b.Addr(portEcho))
			g.Stop()
			closedBoth()
			if left := leftovers(t, l.a); len(left) < 5 {
				t.Errorf("a closed gateway left only %q", left)
			}

			output, words, err := l.clean(l.a, 0)
			if err != nil || words != api.DisabledMessage || !strings.Contains(output, "4 programs and 2 filters") {
				t.Errorf("cleaning: %v, %s, %q", err, output, words)
			}
			freed()
			l.talk(l.a, l.b.Addr(portEcho))
			l.talk(l.b, l.a.Addr(portEcho))
			if output, words, err := l.clean(l.a, 0); err != nil || words != api.DisabledMessage {
				t.Errorf("cleaning what is clean: %v, %s, %q", err, output, words)
			}

			// The next gateway takes over from a closed one.
			l.gateway(spec).Stop()
			closedBoth()
			spec.Mode = api.Permissive
			g = l.gateway(spec)
			l.talk(l.a, l.b.Addr(portEcho))
			disable(t, l.a, g, time.Minute)
			l.talk(l.a, l.b.Addr(portEcho))
			l.talk(l.b, l.a.Addr(portEcho))
		})
	}
}

// hasTCX says whether the kernel has tcx, which came with Linux 6.6.
func hasTCX(t *testing.T) bool {
	t.Helper()
	_, err := link.QueryPrograms(link.QueryOptions{Target: 1, Attach: ebpf.AttachTCXIngress})
	if err != nil && !errors.Is(err, syscall.EINVAL) {
		t.Fatalf("looking for tcx: %v", err)
	}
	return err == nil
}

// cleanFilter checks that a killed gateway without tcx left its filters and
// nothing else, and removes it.
func (l *lab) cleanFilter(n *netlab.Node) {
	l.t.Helper()
	eventually(l.t, "the kernel frees all but the filters", func() error {
		if left := leftovers(l.t, n); !slices.Equal(left, []string{"filter kgw_egress of interface eth0", "filter kgw_ingress of interface eth0"}) {
			return fmt.Errorf("%q", left)
		}
		return nil
	})
	output, words, err := l.clean(n, 0)
	if err != nil || words != api.DisabledMessage || !strings.Contains(output, "0 programs and 2 filters") {
		l.t.Errorf("cleaning: %v, %s, %q", err, output, words)
	}
}

// dialWithin keeps a connection from outside of the gateway's reach, if it comes
// about within patience.
func (l *lab) dialWithin(n *netlab.Node, address string, patience time.Duration) (*netlab.Process, error) {
	l.t.Helper()
	p := n.Start(netlab.Command{Cgroup: n.OtherCgroup, Path: l.self, Args: []string{"hold", address}})
	select {
	case <-p.Done():
	case <-time.After(patience):
		if strings.Contains(p.Output(), "connected") {
			return p, nil
		}
		p.Stop()
	}
	if text := p.Output(); strings.HasPrefix(text, "connected") {
		return p, nil
	}
	return nil, fmt.Errorf("%s", strings.TrimSpace(p.Output()))
}
