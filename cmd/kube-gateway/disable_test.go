//go:build linux

package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/test/e2e/app/appreport"
)

// TestDisableUnderTraffic disables and enables the gateways of both ends in turn,
// several times, while connections are made and held in both directions: none may
// fail, and no byte be lost, doubled or altered.
func TestDisableUnderTraffic(t *testing.T) {
	for name, configure := range map[string]func(l *lab) func(*api.Config){
		"port":    func(*lab) func(*api.Config) { return func(c *api.Config) { c.Wire = api.WirePort } },
		"inband":  func(*lab) func(*api.Config) { return func(c *api.Config) { c.Wire = api.WireInband } },
		"service": func(l *lab) func(*api.Config) { return l.services },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			spec := configure(l)
			ab := l.traffic(l.a, 200*time.Millisecond, l.b.Addr(portTraffic), l.b.Addr6(portTraffic))
			ba := l.traffic(l.b, 200*time.Millisecond, l.a.Addr(portTraffic))
			ga, gb := l.gateway(with(quiet(l.spec(l.a)), spec)), l.gateway(with(quiet(l.spec(l.b)), spec))
			encrypted := func() {
				t.Helper()
				awaitStatus(t, ga, "traffic is encrypted in both directions", func(s *api.Status) bool {
					return s.Traffic.Outbound.Encrypted >= 20 && s.Traffic.Inbound.Encrypted >= 20
				})
			}
			for range 3 {
				encrypted()
				report := disable(t, l.a, ga, time.Minute)
				if report.Aborted != 0 || report.Drained == 0 {
					t.Errorf("report of the one gateway: %+v", report)
				}
				ga = l.gateway(with(quiet(l.spec(l.a)), spec))
				encrypted()
				report = disable(t, l.b, gb, time.Minute)
				if report.Aborted != 0 || report.Drained == 0 {
					t.Errorf("report of the other gateway: %+v", report)
				}
				gb = l.gateway(with(quiet(l.spec(l.b)), spec))
			}
			for _, s := range []trafficSummary{ab.stop(), ba.stop()} {
				s.perfect(t)
			}
			for _, s := range []appreport.Served{l.served(l.a), l.served(l.b)} {
				if s.Resets != 0 || s.Complete == 0 {
					t.Errorf("the servers saw %+v", s)
				}
			}
		})
	}
}

// TestDisableDrains: a connection that is open goes on, new ones go directly, and
// the gateway ends with the connection. Who asked need not wait, and may ask again.
func TestDisableDrains(t *testing.T) {
	l := newLab(t)
	ga, gb := l.gateway(l.spec(l.a)), l.gateway(l.spec(l.b))
	open := l.hold(l.a, l.b.Addr(portEcho))

	ctx, hangUp := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() {
		asked <- control.Call(ctx, ga.Socket(), control.Request{Op: control.OpDisable, DrainTimeout: time.Hour}, new(api.DisableReport))
	}()
	awaitStatus(t, ga, "the gateway drains", func(s *api.Status) bool { return s.State == api.Draining && len(s.Capture.Programs) <= 9 })
	hangUp()
	if err := <-asked; err == nil {
		t.Error("a request was answered after it was given up")
	}
	open.say("while draining")
	before := status(t, gb).Traffic.Inbound.Encrypted
	l.talk(l.a, l.b.Addr(portEcho))
	l.talk(l.b, l.a.Addr(portEcho))
	if after := status(t, gb).Traffic.Inbound.Encrypted; after != before {
		t.Error("a new connection was captured")
	}
	for _, r := range []control.Request{{Op: control.OpMode, Mode: api.Strict}, {Op: control.OpCSR}, {Op: control.OpReset}} {
		if _, err := ga.Call(t.Context(), r); err == nil || !strings.Contains(err.Error(), "disabled") || api.Hint(err) == "" {
			t.Errorf("%s while draining: %v", r.Op, err)
		}
	}

	again := make(chan api.DisableReport, 2)
	for range 2 {
		go func() {
			var report api.DisableReport
			if err := control.Call(t.Context(), ga.Socket(), control.Request{Op: control.OpDisable}, &report); err != nil {
				t.Error(err)
			}
			again <- report
		}()
	}
	open.say("still there")
	open.end()
	for range 2 {
		if report := <-again; report.Aborted != 0 || report.Drained != 1 || len(report.Left) != 0 {
			t.Errorf("the report is %+v", report)
		}
	}
	checkDisabled(t, l.a, ga)
}

// TestDisableAborts: what has not ended by the drain timeout is reset at both ends.
func TestDisableAborts(t *testing.T) {
	for _, wire := range []api.Wire{api.WirePort, api.WireInband} {
		t.Run(string(wire), func(t *testing.T) {
			l := newLab(t)
			ga := l.gateway(with(l.spec(l.a), func(c *api.Config) { c.Wire = wire }))
			l.gateway(l.spec(l.b))
			held := l.traffic(l.a, 0, l.b.Addr(portTraffic))
			// The server can see reset only what has reached it.
			eventually(t, "connections are held", func() error {
				s, err := l.askServed(l.b)
				if err == nil && s.Held < 4 {
					err = fmt.Errorf("%d are held at the server", s.Held)
				}
				return err
			})
			report := disable(t, l.a, ga, 100*time.Millisecond)
			if report.Aborted < 4 {
				t.Errorf("the report is %+v", report)
			}
			s := held.stop()
			s.undamaged(t)
			if s.Failures < 4 {
				t.Errorf("only %d connections failed", s.Failures)
			}
			for _, f := range s.Failed {
				if !f.Reset {
					t.Errorf("not reset: %+v", f)
				}
			}
			if served := l.served(l.b); served.Resets < 4 {
				t.Errorf("the server saw %+v", served)
			}
		})
	}
}

// TestDisableStrict: a gateway that refuses plaintext and fails closed can be
// disabled like any other, and leaves the pod open.
func TestDisableStrict(t *testing.T) {
	l := newLab(t)
	g := l.gateway(strict(l.spec(l.a)))
	l.refused(l.b, l.a.Addr(portEcho), "plaintext")
	disable(t, l.a, g, time.Minute)
	l.talk(l.a, l.b.Addr(portEcho))
	l.talk(l.b, l.a.Addr(portEcho))
}

// TestDisableUncertified: a gateway that waits for its first certificate has
// nothing to drain.
func TestDisableUncertified(t *testing.T) {
	l := newLab(t)
	spec := l.spec(l.a)
	spec.Uncertified = true
	g := l.gateway(spec)
	if report := ask[api.DisableReport](t, g, "disable", "--drain-timeout", "1m"); report.Drained+report.Aborted != 0 || len(report.Left) != 0 {
		t.Errorf("the report is %+v", report)
	}
	checkDisabled(t, l.a, g)
}
