//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestBothEnabled is the main job: what was readable on the wire before is not
// any more, in either direction, over TCP and HTTP, from sockets of either
// family; and both applications still see each other's true addresses.
func TestBothEnabled(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)

	before := record(t, a, b)
	a.talk(b.addr(portEcho), "canary-before")
	before.stop()
	if !before.contains("canary-before") {
		t.Fatal("the recording does not see the network: the cleartext is missing before anything is enabled")
	}

	enable(t, nil, a, b)
	for _, direction := range []struct{ from, to *pod }{{a, b}, {b, a}} {
		from, to := direction.from, direction.to
		t.Run(from.name+" to "+to.name, func(t *testing.T) {
			wire := record(t, from, to)
			r := from.talk(to.addr(portEcho), "canary-tcp")
			if r.Peer != to.addr(portEcho) {
				t.Errorf("the client's peer is %s, not the %s that it dialled", r.Peer, to.addr(portEcho))
			}
			if host(t, r.Local) != from.ips[0] {
				t.Errorf("the client's own address is %s, not the pod's %v", r.Local, from.ips[0])
			}
			r = from.app("mapped", to.addr(portEcho), "canary-mapped")
			if r.Error != "" || r.Received != "canary-mapped\n" {
				t.Errorf("from a v4-mapped socket: %+v", r)
			}
			if want := "[::ffff:" + to.ips[0].String() + "]:9000"; r.Peer != want {
				t.Errorf("the peer of a v4-mapped socket is %s, want %s", r.Peer, want)
			}
			r = from.app("first", to.addr(portServerFirst), "canary-first")
			if r.Error != "" || !strings.Contains(r.Received, "you said canary-first") {
				t.Errorf("server-first: %+v", r)
			}
			var seenClient, seenServer string
			fmt.Sscanf(r.Received, "hello %s from %s", &seenClient, &seenServer)
			if seenClient != r.Local || seenServer != to.addr(portServerFirst) {
				t.Errorf("the server saw %s at %s, the client is %s at %s", seenClient, seenServer, r.Local, r.Peer)
			}
			if r := from.app("upload", to.url(), "100000"); r.Error != "" || !r.Equal {
				t.Errorf("HTTP: %+v", r)
			}
			wire.stop()
			for _, canary := range []string{"canary-", "HTTP/1.1"} {
				if wire.contains(canary) {
					t.Errorf("%q is readable on the wire", canary)
				}
			}
			if n := wire.count(tlsData); n == 0 {
				t.Errorf("no TLS records to port %d on the wire", api.PeerPort)
			}
			if n := wire.count("tcp and tcp[tcpflags] & tcp-syn != 0 and not port 18443 and host " + to.ips[0].String()); n != 0 {
				t.Errorf("%d connection attempts went past the gateways", n)
			}
		})
	}
	traffic := a.traffic("a's connections are counted", func(tr api.Traffic) bool {
		return tr.Outbound.Encrypted >= 4 && tr.Inbound.Encrypted >= 4
	})
	if traffic.Outbound.Plaintext != 0 || traffic.Inbound.Plaintext != 0 {
		t.Errorf("counted plaintext: %+v", traffic)
	}
}

func host(t *testing.T, address string) netip.Addr {
	t.Helper()
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		t.Fatalf("address %q: %v", address, err)
	}
	return a.Addr()
}

// TestIPv6 is the same between the pods' IPv6 addresses.
func TestIPv6(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	if len(b.ips) < 2 || !b.ips[1].Is6() {
		t.Fatalf("the cluster is not dual-stack: %v", b.ips)
	}
	enable(t, nil, a, b)
	address := netip.AddrPortFrom(b.ips[1], portEcho).String()
	wire := record(t, a, b)
	r := a.talk(address, "canary-six")
	wire.stop()
	if r.Peer != address || host(t, r.Local) != a.ips[1] {
		t.Errorf("the client sees %s to %s", r.Local, r.Peer)
	}
	if wire.contains("canary-six") || wire.count(tlsData6) == 0 {
		t.Errorf("readable: %v, TLS records: %d", wire.contains("canary-six"), wire.count(tlsData6))
	}
}

// TestThirdPodIsNotAffected looks at a pod that is not enabled, on the same
// node as one that is: whatever it does goes where it went before.
func TestThirdPodIsNotAffected(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	pods := startPods(t, ns, podSpec("a", node1), podSpec("b", node2), podSpec("third", node1))
	a, b, third := pods[0], pods[1], pods[2]
	enable(t, nil, a, b)
	captured := a.status().Capture.Captured

	wire := record(t, a, b, third)
	r := third.talk(b.addr(portEcho), "canary-third")
	wire.stop()
	if r.Peer != b.addr(portEcho) || host(t, r.Local) != third.ips[0] {
		t.Errorf("the third pod sees %s to %s", r.Local, r.Peer)
	}
	if !wire.contains("canary-third") {
		t.Error("the third pod's connection was not direct")
	}
	seen := third.app("first", a.addr(portServerFirst), "hello")
	if seen.Error != "" || !strings.Contains(seen.Received, "hello "+seen.Local+" ") {
		t.Errorf("from the third pod to an enabled one on its node: %+v", seen)
	}
	// A destination in the captured ranges where nobody listens is refused by
	// the peer's kernel, at once, as ever.
	if r := third.app("talk", b.addr(1), "x"); !strings.Contains(r.Error, "refused") {
		t.Errorf("a closed port answers the third pod with %+v", r)
	}
	after := a.status()
	if after.Capture.Captured != captured {
		t.Errorf("the gateway on its node captured %d connections of the third pod", after.Capture.Captured-captured)
	}
	if in := b.status().Traffic.Inbound; in.Encrypted+in.Plaintext+in.Refused != 0 {
		t.Errorf("b's gateway saw the third pod: %+v", in)
	}
}

// TestApplicationRestarts has the kubelet restart the application's container,
// whose new cgroup must be captured as the old one was.
func TestApplicationRestarts(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, nil, a, b)
	// Told from the other pod, as an exec would end with the container.
	b.app("crash", a.url())
	eventually(t, "the kubelet restarts the application", func() error {
		restarts := kubectl(t, "-n", ns, "get", "pod", a.name, "-o",
			"jsonpath={.status.containerStatuses[0].restartCount}/{.status.containerStatuses[0].ready}")
		if restarts != "1/true" {
			return fmt.Errorf("restarts and readiness are %s", restarts)
		}
		return nil
	})
	wire := record(t, a, b)
	a.talk(b.addr(portEcho), "canary-restarted")
	b.talk(a.addr(portEcho), "canary-to-restarted")
	wire.stop()
	if wire.contains("canary-") || wire.count(tlsData) == 0 {
		t.Errorf("after a restart: readable %v, TLS records %d", wire.contains("canary-"), wire.count(tlsData))
	}
}

// TestApplicationsWork drives through the gateways what breaks proxies: large
// bodies both ways, a thousand connections at once, half-close.
func TestApplicationsWork(t *testing.T) {
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, []string{"--mode=strict"}, a, b)
	const gib = "1073741824"
	if r := a.app("download", b.url(), gib); r.Error != "" || !r.Equal {
		t.Errorf("downloading 1 GiB: %+v", r)
	}
	if r := a.app("upload", b.url(), gib); r.Error != "" || !r.Equal {
		t.Errorf("uploading 1 GiB: %+v", r)
	}
	if r := a.app("halfclose", b.addr(portCount), "10000000"); r.Error != "" || !r.Equal {
		t.Errorf("half-close: %+v", r)
	}
	if r := a.app("concurrent", b.addr(portEcho), "1000"); r.Error != "" || r.Count != 1000 {
		t.Errorf("1,000 connections at once: %+v", r)
	}
	traffic := a.traffic("all connections have ended", func(tr api.Traffic) bool { return tr.Outbound.Active == 0 })
	if traffic.Outbound.Encrypted < 1003 || traffic.Outbound.Plaintext+traffic.Outbound.Refused != 0 {
		t.Errorf("counted %+v", traffic.Outbound)
	}
}

// processesOf returns the processes in the pod's cgroup with an argument.
func processesOf(t *testing.T, p *pod, argument string) []int {
	t.Helper()
	found := processesIn(t, p, "cmdline", func(line string) bool { return strings.Contains(line, "\x00"+argument+"\x00") })
	if len(found) == 0 {
		t.Fatalf("no process of %s has the argument %q", p, argument)
	}
	return found
}

// processesIn returns the processes in the pod's cgroup of which a file in /proc fits. The
// nodes' processes are this machine's.
func processesIn(t *testing.T, p *pod, file string, fits func(text string) bool) []int {
	t.Helper()
	processes := must.Get(filepath.Glob("/proc/[0-9]*"))(t)
	var found []int
	for _, dir := range processes {
		// A process may end meanwhile.
		cgroup, _ := os.ReadFile(dir + "/cgroup")
		text, _ := os.ReadFile(filepath.Join(dir, file))
		if strings.Contains(string(cgroup), "pod"+p.uid) && fits(string(text)) {
			pid := must.Get(strconv.Atoi(filepath.Base(dir)))(t)
			found = append(found, pid)
		}
	}
	return found
}
