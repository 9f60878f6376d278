//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/test/e2e/app/appreport"
)

// portTraffic is the test application's port for traffic.
const portTraffic = 9003

// trafficSummary is what "app traffic" prints.
type trafficSummary struct{ appreport.Traffic }

// load is constant traffic from one pod, made by the application itself: it
// does not depend on the API server.
type load struct {
	t    *testing.T
	from *pod
	held int // to each target
	to   []string
}

// heldConnections is how many connections traffic holds to each target.
const heldConnections = 4

// startLoad starts traffic from a pod, and returns when it flows to all targets.
// Its held connections last as long as it does.
func startLoad(from *pod, targets ...string) *load {
	from.t.Helper()
	return startLoadWith(from, nil, targets...)
}

// shortLife is the life of held connections that must end while a gateway
// drains.
const shortLife = "--life=2s"

func startLoadWith(from *pod, flags []string, targets ...string) *load {
	from.t.Helper()
	l := &load{t: from.t, from: from, held: heldConnections, to: targets}
	// A server that listens already may still be unknown to a Service.
	for _, target := range targets {
		eventually(l.t, target+" answers", func() error {
			once := parse[trafficSummary](l.t, from.appCommand("traffic", "--for=100ms", "--held=0", target))
			if once.Failures != 0 || once.Requests == 0 {
				return errors.New(once.failures())
			}
			return nil
		})
	}
	l.from.appCommand(slices.Concat([]string{"traffic", "start", fmt.Sprintf("--held=%d", l.held)}, flags, targets)...)
	l.t.Cleanup(func() {
		// The test's own context is done by then. Harmless when it has ended; the pod goes anyway.
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		ref := remote.Ref{Namespace: from.namespace, Pod: from.name, Container: "app"}
		_ = reach(l.t).Runner.Run(ctx, ref, nil, io.Discard, "/app", "traffic", "stop")
	})
	l.await("traffic flows", func(s trafficSummary) bool {
		return s.Held > 0 && (len(s.Targets) == len(targets) || slices.Contains(flags, "--workers=0"))
	})
	return l
}

// control makes a request of the application's server by the pod's loopback. A forwarded port costs the
// node a fifth of what a command in the pod does.
func (p *pod) control(method, path string) string {
	p.t.Helper()
	conn := must.Get(reach(p.t).Ports.DialPort(p.t.Context(), p.namespace, p.name, portHTTP))(p.t)
	defer conn.Close()
	request := must.Get(http.NewRequestWithContext(p.t.Context(), method, "http://localhost"+path, nil))(p.t)
	must.Do(p.t, request.Write(conn))
	response := must.Get(http.ReadResponse(bufio.NewReader(conn), request))(p.t)
	defer response.Body.Close()
	text := must.Get(io.ReadAll(response.Body))(p.t)
	if response.StatusCode != http.StatusOK {
		p.t.Fatalf("%s %s of %s: %s: %s", method, path, p, response.Status, text)
	}
	return string(text)
}

// show returns the summary so far.
func (l *load) show() trafficSummary {
	l.t.Helper()
	return parse[trafficSummary](l.t, l.from.control(http.MethodGet, "/traffic"))
}

// await waits until a summary is accepted, and returns it.
func (l *load) await(what string, accept func(trafficSummary) bool) trafficSummary {
	l.t.Helper()
	var s trafficSummary
	eventually(l.t, what, func() error {
		if s = l.show(); !accept(s) {
			return fmt.Errorf("traffic is %+v", s)
		}
		return nil
	})
	return s
}

// more waits until n more requests to every target are answered, and n more
// messages are received for every held connection.
func (l *load) more(n uint64) {
	l.t.Helper()
	before := l.show()
	l.await(fmt.Sprintf("%d more requests", n), func(s trafficSummary) bool {
		for _, target := range l.to {
			if s.Targets[target] < before.Targets[target]+n {
				return false
			}
		}
		return s.Messages >= before.Messages+n*uint64(l.held*len(l.to))
	})
}

// stop ends the traffic and returns what it came to.
func (l *load) stop() trafficSummary {
	l.t.Helper()
	return parse[trafficSummary](l.t, l.from.control(http.MethodDelete, "/traffic"))
}

// stopClean ends the traffic, which must have been without any fault at both
// ends.
func (l *load) stopClean(servers ...*pod) trafficSummary {
	l.t.Helper()
	s := l.stop()
	l.t.Logf("%s: %d requests, %d messages, longest wait %v, longest gap %v", l.from, s.Requests, s.Messages, s.LongestWait, s.LongestGap)
	s.checkIntact(l.t)
	if s.Failures != 0 {
		l.t.Errorf("%d of %d requests and held connections failed:\n%s", s.Failures, s.Requests+uint64(s.Failures), s.failures())
	}
	for _, p := range servers {
		if served := p.served(); served.Resets+served.Failed != 0 {
			l.t.Errorf("at %s %d connections were reset, %d failed", p, served.Resets, served.Failed)
		}
		p.checkServedIntact()
	}
	return s
}

// failures lists the first failures.
func (s trafficSummary) failures() string {
	var lines []string
	for _, f := range s.Failed[:min(10, len(s.Failed))] {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}

// checkIntact fails the test if a byte was lost, doubled or altered, or if a
// stream was cut off as if it were complete.
func (s trafficSummary) checkIntact(t *testing.T) {
	t.Helper()
	if s.Damage != (appreport.Damage{}) {
		t.Errorf("lost %d, duplicated %d, altered %d, truncated %d:\n%s", s.Lost, s.Duplicated, s.Altered, s.Truncated, s.failures())
	}
}

// served returns what clients did at the pod's own server.
func (p *pod) served() appreport.Served {
	p.t.Helper()
	return parse[appreport.Served](p.t, p.control(http.MethodGet, "/served"))
}

// checkServedIntact is checkIntact for the other end.
func (p *pod) checkServedIntact() {
	p.t.Helper()
	if s := p.served(); s.Damage != (appreport.Damage{}) {
		p.t.Errorf("at %s: lost %d, duplicated %d, altered %d, truncated %d", p, s.Lost, s.Duplicated, s.Altered, s.Truncated)
	}
}

// clusterIP makes a Service of the pod's traffic port and returns its address.
func (p *pod) clusterIP() string {
	p.t.Helper()
	kubectl(p.t, "-n", p.namespace, "create", "service", "clusterip", p.name, fmt.Sprintf("--tcp=%d:%d", portTraffic, portTraffic))
	ip := kubectl(p.t, "-n", p.namespace, "get", "service", p.name, "-o", "jsonpath={.spec.clusterIP}")
	return fmt.Sprintf("%s:%d", ip, portTraffic)
}

// byKind counts failures by kind and phase.
func (s trafficSummary) byKind() map[string]int {
	counts := map[string]int{}
	for _, f := range s.Failed {
		counts[f.Kind+"/"+f.Phase]++
	}
	return counts
}

// unexpected returns the failures that do not fulfil a condition.
func (s trafficSummary) unexpected(expected func(appreport.Failure) bool) []appreport.Failure {
	return slices.DeleteFunc(slices.Clone(s.Failed), expected)
}
