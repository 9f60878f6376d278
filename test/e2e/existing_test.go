//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestExisting enables pods between which connections are open: they stay, are
// counted and listed; or they are reset and made anew, encrypted.
func TestExisting(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	service := b.clusterIP()
	l := startLoad(a, b.addr(portTraffic), service)
	l.await("all connections are held", func(s trafficSummary) bool { return s.Held == 2*heldConnections })
	enable(t, nil, b)
	enable(t, nil, a)
	l.more(10)
	existing := a.status().Existing
	if existing == nil || existing.Outbound != 2*heldConnections || existing.Inbound != 0 || len(existing.Connections) != 2*heldConnections {
		t.Errorf("of %d held connections, a's status says %+v", 2*heldConnections, existing)
	}
	// b's gateway was there first: requests that it saw before a's may be open.
	if existing := b.status().Existing; existing == nil || existing.Inbound < 2*heldConnections || existing.Outbound != 0 {
		t.Errorf("of %d held connections, b's status says %+v", 2*heldConnections, existing)
	}
	if out := gateway(t, "-n", ns, "status"); !strings.Contains(out.stdout+out.stderr, fmt.Sprint(2*heldConnections)) || !strings.Contains(out.stdout+out.stderr, "reset") {
		t.Errorf("status does not tell of them or of the way out: %s%s", out.stdout, out.stderr)
	}
	if s := l.show(); s.Failures != 0 {
		t.Errorf("reporting cost connections: %s", s.failures())
	}

	// A gateway that runs is told to.
	before := time.Now()
	enable(t, []string{"--existing=reset"}, a)
	l.await("the connections are made anew", func(s trafficSummary) bool { return s.Failures >= 2*heldConnections && s.Held == 2*heldConnections })
	eventually(t, "no plaintext connection is left", func() error {
		existing := a.status().Existing
		if existing == nil || existing.Outbound != 0 || existing.Reset < 2*heldConnections {
			return fmt.Errorf("%+v", existing)
		}
		return nil
	})
	l.more(10)
	s := l.stop()
	s.checkIntact(t)
	b.checkServedIntact()
	if s.Failures != 2*heldConnections {
		t.Errorf("%d connections failed, %d were reset:\n%s", s.Failures, 2*heldConnections, s.failures())
	}
	for _, f := range s.Failed {
		if f.Kind != "held" || !f.Reset || f.Opened.After(before) {
			t.Errorf("failed: %v", f)
		}
	}
	// Nothing else was: what is encrypted is not reset.
	enable(t, []string{"--existing=reset"}, a, b)
}

// TestExistingAtStart resets what is open when a gateway starts, or does not
// look.
func TestExistingAtStart(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	l := startLoad(a, b.addr(portTraffic))
	l.await("all connections are held", func(s trafficSummary) bool { return s.Held == heldConnections })
	enable(t, []string{"--existing=leave"}, b)
	if existing := b.status().Existing; existing != nil && existing.Inbound+existing.Outbound != 0 {
		t.Errorf("b's gateway looked: %+v", existing)
	}
	enable(t, []string{"--existing=reset"}, a)
	enabled := time.Now()
	l.await("the connections are made anew", func(s trafficSummary) bool { return s.Failures >= heldConnections && s.Held == heldConnections })
	l.more(10)
	if existing := a.status().Existing; existing == nil || existing.Outbound != 0 || existing.Reset < heldConnections {
		t.Errorf("a's status says %+v", existing)
	}
	s := l.stop()
	s.checkIntact(t)
	b.checkServedIntact()
	for _, f := range s.Failed {
		if !f.Reset || f.Phase == "connect" || f.Opened.After(enabled) {
			t.Errorf("failed: %v", f)
		}
	}
}
