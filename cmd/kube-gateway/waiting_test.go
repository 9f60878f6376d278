//go:build linux

package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// TestConnectWaits: an application learns from connect(2) whether there is somebody at the other end, whatever
// becomes of the worker meanwhile.
func TestConnectWaits(t *testing.T) {
	l := newLab(t)
	ga := l.gateway(strict(l.spec(l.a)))
	l.gateway(strict(l.spec(l.b)))
	if s := status(t, ga); slices.ContainsFunc(s.Missing, func(m string) bool { return strings.Contains(m, "connect(2)") }) {
		t.Errorf("missing: %q", s.Missing)
	}
	l.b.NFT("table inet t { chain c { type filter hook prerouting priority -150; iifname eth0 tcp dport 18443 drop; }; }")
	waiting := l.a.Start(netlab.Command{
		Cgroup: l.a.AppCgroup, Path: l.app, Args: []string{"talk", l.b.Addr(portEcho), "hello"}, Env: []string{"DIAL_TIMEOUT=1m"},
	})
	waits := func(s *api.Status) bool { return s.Traffic.Outbound.Active == 1 }
	awaitStatus(t, ga, "a connection waits", waits)
	killWorker(t, ga)
	awaitStatus(t, ga, "it waits for the next worker", waits)
	l.b.NFT("")
	if r := l.result(waiting); r.Error != "" || r.Received != "hello\n" {
		t.Errorf("talking: %+v", r)
	}
	for _, closed := range []string{l.b.Addr(9), l.b.Addr6(9)} {
		if r := l.client(l.a, l.a.AppCgroup, "talk", closed, "hello"); !strings.Contains(r.Error, "connect: connection refused") {
			t.Errorf("talking to %s: %+v", closed, r)
		}
	}
	l.talk(l.a, l.b.Addr6(portEcho))
}
