//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// metricsAddr is all addresses of a pod.
var metricsAddr = fmt.Sprintf(":%d", api.MetricsPort)

// exporting has a gateway serve metrics.
func exporting(s gatewaylab.Spec) gatewaylab.Spec {
	return with(s, func(c *api.Config) { c.MetricsAddr = metricsAddr })
}

// get asks for the metrics at an address, as a process in a cgroup of a node.
func (l *lab) get(n *netlab.Node, cgroup, address string) result {
	l.t.Helper()
	return l.client(n, cgroup, "get", "http://"+address+"/metrics")
}

// scrape is get as it must succeed, for a line that must be there.
func (l *lab) scrape(n *netlab.Node, cgroup, address, line string) {
	l.t.Helper()
	if r := l.get(n, cgroup, address); r.Error != "" || r.Count != 200 || !strings.Contains(r.Received, "\n"+line) {
		l.t.Fatalf("scraping %s: no %q in %+v", address, line, r)
	}
}

// processes returns the processes of a pod's gateway.
func processes(t *testing.T, n *netlab.Node) (pids []int) {
	t.Helper()
	text := must.Get(os.ReadFile(filepath.Join(n.GatewayCgroup, "cgroup.procs")))(t)
	for line := range strings.Lines(string(text)) {
		pid := must.Get(strconv.Atoi(strings.TrimSpace(line)))(t)
		pids = append(pids, pid)
	}
	return pids
}

// exporterOf returns the process that is neither supervisor nor worker.
func exporterOf(t *testing.T, n *netlab.Node, g *gatewaylab.Gateway) (pid int) {
	t.Helper()
	eventually(t, "there is an exporter", func() error {
		pids := processes(t, n)
		worker := status(t, g).Worker.PID
		pids = slices.DeleteFunc(pids, func(pid int) bool { return pid == g.Pid || pid == worker })
		if len(pids) != 1 {
			return fmt.Errorf("%d processes besides supervisor %d and worker %d", len(pids), g.Pid, worker)
		}
		pid = pids[0]
		// It is what it is only after it has replaced the supervisor's program by its own.
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || !strings.Contains(string(text), "exporter") {
			return fmt.Errorf("it is %q: %v", text, err)
		}
		return nil
	})
	return pid
}

// closedPort fails the test if anything listens at the port for metrics of a node.
func closedPort(t *testing.T, n *netlab.Node) {
	t.Helper()
	ln, err := n.Listen("tcp", metricsAddr)
	if err != nil {
		t.Errorf("the port for metrics: %v", err)
		return
	}
	ln.Close()
}

// TestExporter: metrics are served at both addresses of the pod, to anybody in
// permissive mode, and by nobody if nobody asked for it.
func TestExporter(t *testing.T) {
	l := newLabOf(t, 3)
	plain := l.net.Node(2)
	l.gateway(l.spec(l.b))
	if n := len(processes(t, l.b)); n != 2 {
		t.Errorf("a gateway without a port for metrics has %d processes", n)
	}
	closedPort(t, l.b)

	g := l.gateway(exporting(l.spec(l.a)))
	if addr := status(t, g).MetricsAddr; addr != metricsAddr {
		t.Errorf("the status says %q", addr)
	}
	l.talk(l.a, l.b.Addr(portEcho))
	const encrypted = `kube_gateway_connections_total{direction="outbound",result="encrypted"} `
	for _, address := range []string{l.a.Addr(api.MetricsPort), l.a.Addr6(api.MetricsPort)} {
		l.scrape(plain, plain.OtherCgroup, address, encrypted+"1\n")
		r := l.get(plain, plain.OtherCgroup, address)
		if want := fmt.Sprintf(`identity="spiffe://lab.test/ns/lab/sa/pod-%v",mode="permissive"`, l.a.IP4); !strings.Contains(r.Received, want) {
			t.Errorf("no %s in %s", want, r.Received)
		}
		for _, secret := range []string{l.b.IP4.String(), l.a.UID, "PRIVATE", "CERTIFICATE"} {
			if strings.Contains(r.Received, secret) {
				t.Errorf("%q is in %s", secret, r.Received)
			}
		}
	}
	l.scrape(l.a, l.a.AppCgroup, "127.0.0.1:"+strconv.Itoa(api.MetricsPort), encrypted)
	// Nobody's connection is in plaintext for that.
	if s := status(t, g); s.Traffic.Inbound != (api.Direction{}) || s.Existing.Inbound != 0 {
		t.Errorf("scrapes are counted: %+v, %+v", s.Traffic.Inbound, s.Existing)
	}

	// The worker may come and go.
	killWorker(t, g)
	l.scrape(plain, plain.OtherCgroup, l.a.Addr(api.MetricsPort), "kube_gateway_worker_restarts_total 1\n")
	l.scrape(plain, plain.OtherCgroup, l.a.Addr(api.MetricsPort), encrypted+"1\n")
}

// TestExporterIsUnprivileged reads what the kernel says of it. It has nothing but what
// it inherits, and not the worker's user.
func TestExporterIsUnprivileged(t *testing.T) {
	l := newLab(t)
	g := l.gateway(exporting(l.spec(l.a)))
	pid := exporterOf(t, l.a, g)
	// It has dropped what it will drop when it answers.
	l.scrape(l.b, l.b.OtherCgroup, l.a.Addr(api.MetricsPort), "kube_gateway_info")
	dir := "/proc/" + strconv.Itoa(pid)
	expectUnprivileged(t, "exporter", pid, api.ExporterID)
	if environ, err := os.ReadFile(dir + "/environ"); err != nil || len(environ) > 0 {
		t.Errorf("the exporter's environment is %q, %v", environ, err)
	}
	files := must.Get(os.ReadDir(dir + "/fd"))(t)
	sockets := 0
	for _, f := range files {
		target, err := os.Readlink(filepath.Join(dir, "fd", f.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		switch {
		case err != nil:
			t.Fatal(err)
		case strings.HasPrefix(target, "socket:"):
			sockets++
		// The Go runtime looks at the limits of its own cgroup.
		case strings.HasPrefix(target, "/sys/fs/cgroup/"):
		case target == "/dev/null", strings.HasPrefix(target, "pipe:"), target == "anon_inode:[eventpoll]", target == "anon_inode:[eventfd]":
		default:
			t.Errorf("the exporter has %s", target)
		}
	}
	// The question's, the listener, and perhaps one of a connection that ends just now.
	if sockets < 2 || sockets > 3 {
		t.Errorf("the exporter has %d sockets", sockets)
	}
}

// TestExporterStrict: in strict mode the port is like any other of the pod: plaintext
// reaches it from allowed sources alone, and gateways do on both wires, if the identity
// rules let them.
func TestExporterStrict(t *testing.T) {
	for _, wire := range []api.Wire{api.WirePort, api.WireInband} {
		t.Run(string(wire), func(t *testing.T) {
			l := newLabOf(t, 3)
			allowed := l.net.Node(2)
			g := l.gateway(with(strict(l.spec(l.a)), func(c *api.Config) {
				c.MetricsAddr = metricsAddr
				c.PlaintextFrom = []api.Source{{From: netip.PrefixFrom(allowed.IP4, 32)}}
			}))
			l.gateway(with(l.spec(l.b), func(c *api.Config) { c.Wire = wire }))
			address := l.a.Addr(api.MetricsPort)
			if r := l.get(l.b, l.b.OtherCgroup, address); r.Error == "" || r.Received != "" {
				t.Errorf("a plaintext scrape: %+v", r)
			}
			l.scrape(allowed, allowed.OtherCgroup, address, `kube_gateway_guarded_connections_total{result="refused"} 1`)
			l.scrape(l.b, l.b.AppCgroup, address, "kube_gateway_info")
			l.scrape(l.b, l.b.AppCgroup, l.a.Addr6(api.MetricsPort), "kube_gateway_info")
			c := connection(t, g, "the scrape", func(c *api.Connection) bool {
				return c.Direction == api.Inbound && c.Destination.Port() == api.MetricsPort && c.Encrypted
			})
			if c.Wire != string(wire) || c.Source.Addr() != l.b.IP4 && c.Source.Addr() != l.b.IP6 || !strings.Contains(c.Peer, "/sa/pod-"+l.b.IP4.String()) {
				t.Errorf("the scrape is logged as %+v", c)
			}
			ask[api.Status](t, g, "allow", "ns/other/sa/*")
			if r := l.get(l.b, l.b.AppCgroup, address); r.Error == "" {
				t.Errorf("a scrape that no rule allows: %+v", r)
			}
			ask[api.Status](t, g, "allow", "ns/lab/sa/*")
			l.scrape(l.b, l.b.AppCgroup, address, "kube_gateway_info")
		})
	}
}

// TestExporterDies: the exporter is started again whatever becomes of it, scrapes that
// come meanwhile wait for it, and traffic does not notice.
func TestExporterDies(t *testing.T) {
	l := newLab(t)
	g := l.gateway(exporting(l.spec(l.a)))
	l.gateway(l.spec(l.b))
	held := l.hold(l.a, l.b.Addr(portEcho))
	before := status(t, g)
	for range 3 {
		pid := exporterOf(t, l.a, g)
		must.Do(t, syscall.Kill(pid, syscall.SIGKILL))
		l.scrape(l.b, l.b.OtherCgroup, l.a.Addr(api.MetricsPort), "kube_gateway_info")
		if next := exporterOf(t, l.a, g); next == pid {
			t.Error("it is the same as before")
		}
		held.say("it goes on")
	}
	after := status(t, g)
	if after.Worker != before.Worker || after.State != api.Ready || after.Traffic.Outbound.Encrypted != 1 {
		t.Errorf("the gateway before and after: %+v, %+v", before, after)
	}
	if !strings.Contains(g.Output(), "exporter of metrics ended") {
		t.Errorf("nothing of it in the log: %s", g.Output())
	}
}

// TestExporterEnds: however the gateway ends, nothing of its exporter is left, and the
// metrics tell of the drain before.
func TestExporterEnds(t *testing.T) {
	gone := func(t *testing.T, n *netlab.Node) {
		t.Helper()
		eventually(t, "no process is left", func() error {
			if pids := processes(t, n); len(pids) > 0 {
				return fmt.Errorf("%v", pids)
			}
			return nil
		})
		closedPort(t, n)
	}
	t.Run("disabled", func(t *testing.T) {
		l := newLab(t)
		g := l.gateway(exporting(l.spec(l.a)))
		l.gateway(l.spec(l.b))
		held := l.hold(l.a, l.b.Addr(portEcho))
		asked := make(chan error, 1)
		go func() {
			asked <- control.Call(t.Context(), g.Socket(), control.Request{Op: control.OpDisable, DrainTimeout: time.Hour}, new(api.DisableReport))
		}()
		awaitStatus(t, g, "it drains", func(s *api.Status) bool { return s.State == api.Draining })
		l.scrape(l.b, l.b.OtherCgroup, l.a.Addr(api.MetricsPort), `kube_gateway_state{state="draining"} 1`)
		held.end()
		if err := <-asked; err != nil {
			t.Error(err)
		}
		// Before anybody else could have closed it.
		closedPort(t, l.a)
		checkDisabled(t, l.a, g)
		gone(t, l.a)
	})
	t.Run("stopped", func(t *testing.T) {
		l := newLab(t)
		g := l.gateway(exporting(l.spec(l.a)))
		pause(t, exporterOf(t, l.a, g))
		disable(t, l.a, g, time.Second)
		gone(t, l.a)
	})
	t.Run("terminated", func(t *testing.T) {
		l := newLab(t)
		g := l.gateway(exporting(l.spec(l.a)))
		l.endApplication(l.a)
		must.Do(t, g.Signal(syscall.SIGTERM))
		if err := ended(t, g); err != nil {
			t.Errorf("%v\n%s", err, g.Output())
		}
		gone(t, l.a)
	})
	t.Run("killed", func(t *testing.T) {
		l := newLab(t)
		nowhere := must.Get(os.OpenFile(os.DevNull, os.O_WRONLY, 0))(t)
		defer nowhere.Close()
		spec := exporting(l.spec(l.a))
		spec.Log = nowhere
		g := l.gateway(spec)
		// It does not see that its socket has ended: only the kernel can end it now. Its
		// output is nobody's, whose end would be waited for.
		pause(t, exporterOf(t, l.a, g))
		must.Do(t, kill(g))
		gone(t, l.a)
		l.gateway(exporting(l.spec(l.a)))
		l.scrape(l.b, l.b.OtherCgroup, l.a.Addr(api.MetricsPort), "kube_gateway_info")
	})
}

// TestExporterAddress: an address is kept to, and one in use is the gateway's last word.
func TestExporterAddress(t *testing.T) {
	l := newLab(t)
	loopback := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), api.MetricsPort).String()
	l.gateway(with(l.spec(l.a), func(c *api.Config) { c.MetricsAddr = loopback }))
	l.scrape(l.a, l.a.AppCgroup, loopback, "kube_gateway_info")
	if r := l.get(l.b, l.b.OtherCgroup, l.a.Addr(api.MetricsPort)); !strings.Contains(r.Error, "refused") {
		t.Errorf("from another pod: %+v", r)
	}

	taken := must.Get(l.b.Listen("tcp4", net.JoinHostPort(l.b.IP4.String(), strconv.Itoa(api.MetricsPort))))(t)
	defer taken.Close()
	g := l.fails("with the port taken", exporting(l.spec(l.b)), metricsAddr)
	if words, err := g.LastWords(); err != nil || !strings.Contains(words, "serving metrics") || !strings.Contains(words, "hint: ") || !strings.Contains(words, "--metrics-addr") {
		t.Errorf("its last words are %q, %v", words, err)
	}
	if left := leftovers(t, l.b); len(left) > 0 {
		t.Errorf("left in the pod: %q", left)
	}
}
