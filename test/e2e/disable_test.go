//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// disable ends the gateways of pods, and returns what the plugin says.
func disable(t *testing.T, flags []string, pods ...*pod) output {
	t.Helper()
	args := append([]string{"-n", pods[0].namespace, "disable"}, flags...)
	for _, p := range pods {
		args = append(args, p.String())
	}
	return gateway(t, args...)
}

// encrypted reports whether what the pods say to each other can be read on the
// wire; only one direction of two may be wrong.
func encrypted(t *testing.T, a, b *pod) bool {
	t.Helper()
	canary := fmt.Sprintf("canary-%s-%d-", a.namespace, time.Now().UnixNano())
	wire := record(t, a, b)
	a.talk(b.addr(portEcho), canary+"out")
	b.talk(a.addr(portEcho), canary+"in")
	wire.stop()
	out, in := wire.contains(canary+"out"), wire.contains(canary+"in")
	if out != in {
		t.Errorf("readable are out %v, in %v", out, in)
	}
	return !out
}

// TestDisable disables and enables gateways again, at one end, at the other and
// at both, under traffic that must not notice.
func TestDisable(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	services := []string{a.clusterIP(), b.clusterIP()}
	if encrypted(t, a, b) {
		t.Fatal("the recording does not see plaintext before anything is enabled")
	}
	enable(t, nil, a, b)
	out := startLoadWith(a, []string{shortLife}, b.addr(portTraffic), services[1])
	in := startLoadWith(b, []string{shortLife}, a.addr(portTraffic), services[0])
	for _, victims := range [][]*pod{{a}, {b}, {a, b}} {
		if !encrypted(t, a, b) {
			t.Error("plaintext is on the wire before disable")
		}
		var objects []kernelObjects
		for _, p := range victims {
			objects = append(objects, gatewayObjects(t, p))
		}
		said := disable(t, nil, victims...)
		for i, p := range victims {
			objects[i].checkGone(t, p)
			if text := said.stdout + said.stderr; !strings.Contains(text, p.String()) || !strings.Contains(text, "listed") {
				t.Errorf("disable does not say that the container stays listed: %s", text)
			}
			if status := tryGateway(t, "-n", ns, "status", p.String()); status.code != 0 || !strings.Contains(status.stdout, "disabled") {
				t.Errorf("status of a disabled gateway: exit %d, %s%s", status.code, status.stdout, status.stderr)
			}
		}
		noSecrets(t, ns)
		if encrypted(t, a, b) {
			t.Error("no plaintext is on the wire after disable")
		}
		out.more(10)
		in.more(10)
		// Once more changes nothing.
		disable(t, nil, victims...)
		enable(t, nil, victims...)
		out.more(10)
		in.more(10)
	}
	if !encrypted(t, a, b) {
		t.Error("plaintext is on the wire after the last enable")
	}
	out.stopClean(b)
	in.stopClean(a)
}

// TestDisableDrains looks at connections that are open when a gateway is
// disabled: those that end in time are drained, the others are reset.
func TestDisableDrains(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, nil, a, b)
	l := startLoad(a, b.addr(portTraffic))
	drains := time.Now()
	reports := disableReports(t, "-n", ns, "disable", a.String(), "--drain-timeout=1s", "-o", "json")
	if len(reports) != 1 || reports[0].Aborted < heldConnections || len(reports[0].Left) != 0 {
		t.Errorf("reported %+v for %d connections that do not end", reports, heldConnections)
	}
	l.more(5)
	s := l.stop()
	s.checkIntact(t)
	b.checkServedIntact()
	if s.Failures != heldConnections {
		t.Errorf("%d connections failed, %d were held", s.Failures, heldConnections)
	}
	for _, f := range s.Failed {
		if f.Kind != "held" || !f.Reset || f.Opened.After(drains) {
			t.Errorf("failed: %v", f)
		}
	}
}

// disableReports runs disable with -o json and returns the gateways' reports.
func disableReports(t *testing.T, args ...string) []api.DisableReport {
	t.Helper()
	list := parse[struct {
		Items []struct {
			api.DisableReport
			Report *api.DisableReport
		}
	}](t, gateway(t, args...).stdout)
	var reports []api.DisableReport
	for _, item := range list.Items {
		if item.Report != nil {
			item.DisableReport = *item.Report
		}
		reports = append(reports, item.DisableReport)
	}
	return reports
}

// TestDisableDead cleans up what a gateway left that failed closed: the pod is
// reachable again.
func TestDisableDead(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, []string{"--on-failure=closed"}, a)
	objects := gatewayObjects(t, a)
	killWhole(t, a)
	if r := a.app("talk", b.addr(portEcho), "x"); !r.NotPermitted {
		t.Fatalf("without its gateway the pod connects: %+v", r)
	}
	disable(t, nil, a)
	objects.checkGone(t, a)
	a.talk(b.addr(portEcho), "direct")
	b.talk(a.addr(portEcho), "direct")
	// One that failed open left nothing, which is no error either.
	enable(t, []string{"--on-failure=open"}, a)
	killWhole(t, a)
	disable(t, nil, a)
	a.talk(b.addr(portEcho), "direct")
}
