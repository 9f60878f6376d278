//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/test/e2e/app/appreport"
)

// kill sends SIGKILL to processes and returns when the kernel has ended them:
// from then on none of their sockets is open.
func kill(t *testing.T, pids ...int) time.Time {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatalf("killing process %d: %v", pid, err)
		}
	}
	for _, pid := range pids {
		eventually(t, fmt.Sprintf("process %d has ended", pid), func() error {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err == nil && !strings.Contains(string(status), "\nState:\tZ") && !strings.Contains(string(status), "\nState:\tX") {
				return fmt.Errorf("it is there")
			}
			return nil
		})
	}
	return time.Now()
}

// inFlight accepts what ends connections that were open at one of the times when
// something was killed: resets, and refusals where connect(2) waited for the
// other end.
func inFlight(deaths ...time.Time) func(appreport.Failure) bool {
	return func(f appreport.Failure) bool {
		ends := f.Reset || f.Refused && f.Phase == "connect"
		return ends && slices.ContainsFunc(deaths, func(death time.Time) bool {
			return !f.Opened.After(death) && death.Sub(f.Time) < time.Second
		})
	}
}

// TestWorkerDeath kills the processes that carry the traffic, at both ends and
// several times, under load. Connections in flight are reset; others wait for
// the next worker, and succeed.
func TestWorkerDeath(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	service := b.clusterIP()
	enable(t, []string{"--mode=strict"}, a, b)
	l := startLoad(a, b.addr(portTraffic), service)
	var deaths []time.Time
	const rounds = 4
	for i := range rounds {
		victim := []*pod{a, b}[i%2]
		before := victim.status().Worker
		deaths = append(deaths, kill(t, processesOf(t, victim, "worker")...))
		eventually(t, "a new worker", func() error {
			s := victim.status()
			if s.State != api.Ready || s.Worker.PID == before.PID || s.Worker.Restarts != before.Restarts+1 {
				return fmt.Errorf("%s, %+v", s.State, s.Worker)
			}
			return nil
		})
		l.more(10)
		l.await("all connections are held again", func(s trafficSummary) bool { return s.Held == 2*l.held })
	}
	s := l.stop()
	t.Logf("%d workers killed: %d requests, %d failures %v, longest wait %v", rounds, s.Requests, s.Failures, s.byKind(), s.LongestWait)
	s.checkIntact(t)
	b.checkServedIntact()
	if s.Failures < rounds*2*l.held {
		t.Errorf("%d failures, although %d held connections were open at each of %d deaths", s.Failures, 2*l.held, rounds)
	}
	for _, f := range s.unexpected(inFlight(deaths...)) {
		t.Errorf("not in flight, or not reset: %v", f)
	}
	// The counters of a gateway outlive its workers.
	if out := a.status().Traffic.Outbound; out.Encrypted < s.Requests || out.Plaintext != 0 {
		t.Errorf("%d requests, counted %+v", s.Requests, out)
	}
}

// killWhole kills all of a pod's gateway, as the kubelet or the kernel would.
func killWhole(t *testing.T, p *pod) time.Time {
	t.Helper()
	workers := processesOf(t, p, "worker")
	supervisors := processesOf(t, p, "supervise")
	kill(t, supervisors...)
	for _, pid := range workers {
		eventually(t, "the worker ends with its supervisor", func() error {
			if syscall.Kill(pid, 0) == nil {
				return fmt.Errorf("process %d is there", pid)
			}
			return nil
		})
	}
	return time.Now()
}

// TestGatewayDeathOpen kills whole gateways that fail open: their pods go on in
// plaintext, in both directions, and nothing of them is left.
func TestGatewayDeathOpen(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	services := []string{a.clusterIP(), b.clusterIP()}
	enable(t, []string{"--on-failure=open"}, a, b)
	out := startLoad(a, b.addr(portTraffic), services[1])
	in := startLoad(b, a.addr(portTraffic), services[0])
	objects := gatewayObjects(t, a)

	death := killWhole(t, a)
	out.more(10)
	in.more(10)
	eventually(t, "nothing of the dead gateway is in the kernel", func() error {
		if left := objects.left(); len(left) != 0 {
			return fmt.Errorf("%v", left)
		}
		return nil
	})
	checkSaysDead(t, a)
	wire := record(t, a, b)
	a.talk(b.addr(portEcho), "canary-death-out")
	b.talk(a.addr(portEcho), "canary-death-in")
	wire.stop()
	if !wire.contains("canary-death-out") || !wire.contains("canary-death-in") {
		t.Error("without its gateway the pod does not speak plaintext")
	}

	// A new gateway takes over, and that fails nothing.
	before := out.show().Failures + in.show().Failures
	enable(t, []string{"--on-failure=open"}, a)
	out.more(10)
	in.more(10)
	eventually(t, "traffic is encrypted again", func() error {
		wire := record(t, a, b)
		a.talk(b.addr(portEcho), "canary-taken-out")
		b.talk(a.addr(portEcho), "canary-taken-in")
		wire.stop()
		if wire.contains("canary-taken") {
			return fmt.Errorf("plaintext is on the wire")
		}
		return nil
	})
	outcome, income := out.stop(), in.stop()
	t.Logf("out: %d requests, %d failures, longest wait %v; in: %d requests, %d failures, longest wait %v",
		outcome.Requests, outcome.Failures, outcome.LongestWait, income.Requests, income.Failures, income.LongestWait)
	if after := outcome.Failures + income.Failures; after != before {
		t.Errorf("taking over cost %d connections", after-before)
	}
	for _, s := range []trafficSummary{outcome, income} {
		s.checkIntact(t)
		for _, f := range s.unexpected(inFlight(death)) {
			t.Errorf("not in flight, or not reset: %v", f)
		}
	}
	a.checkServedIntact()
	b.checkServedIntact()
}

// checkSaysDead waits until status says that the pod's gateway is gone and what
// to do.
func checkSaysDead(t *testing.T, p *pod) {
	t.Helper()
	eventually(t, "status reports the death", func() error {
		out := tryGateway(t, "-n", p.namespace, "status", p.String())
		if !strings.Contains(out.stdout+out.stderr, "kubectl gateway enable") {
			return fmt.Errorf("exit %d, %s%s", out.code, out.stdout, out.stderr)
		}
		return nil
	})
}

// TestGatewayDeathClosed kills a whole gateway that fails closed: nothing goes
// out or comes in, until the next gateway takes over.
func TestGatewayDeathClosed(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	pods := startPods(t, ns, podSpec("a", node1), podSpec("b", node2), podSpec("third", node2))
	a, b, third := pods[0], pods[1], pods[2]
	service := b.clusterIP()
	enable(t, []string{"--mode=strict"}, a, b)
	l := startLoad(a, b.addr(portTraffic), service)
	objects := gatewayObjects(t, a)
	death := killWhole(t, a)
	l.await("requests fail", func(s trafficSummary) bool { return len(s.unexpected(inFlight(death))) > 0 })
	s := l.stop()
	s.checkIntact(t)
	b.checkServedIntact()
	for _, f := range s.unexpected(inFlight(death)) {
		if !f.NotPermitted {
			t.Errorf("after the death: %v", f)
		}
	}
	for _, target := range []string{b.addr(portEcho), service} {
		if r := a.app("talk", target, "x"); !r.NotPermitted {
			t.Errorf("to %s: %+v", target, r)
		}
	}
	// Also those that come in: with and without a gateway at the other end.
	for _, client := range []*pod{b, third} {
		if r := client.app("talk", a.addr(portEcho), "x"); r.Error == "" || r.Received != "" {
			t.Errorf("%s reaches the pod without its gateway: %+v", client, r)
		}
	}
	checkSaysDead(t, a)

	enable(t, []string{"--mode=strict"}, a)
	l = startLoad(a, b.addr(portTraffic), service)
	l.more(10)
	l.stopClean()
	b.talk(a.addr(portEcho), "hello")
	var names []string
	for _, c := range get[corev1.Pod](t, "-n", ns, "pod", a.name).Spec.EphemeralContainers {
		names = append(names, c.Name)
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"kube-gateway", "kube-gateway-2"}) {
		t.Errorf("the pod has the ephemeral containers %v", names)
	}
	if r := third.app("talk", a.addr(portEcho), "x"); r.Error == "" {
		t.Errorf("plaintext comes in: %+v", r)
	}
	if left := objects.left(); len(left) != 0 {
		t.Errorf("of the dead gateway, the kernel still has %v", left)
	}
}
