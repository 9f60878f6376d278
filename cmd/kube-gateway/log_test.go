//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
)

// logged returns how many connections a gateway has logged, and how many lines its processes say
// that were dropped. Lines are numbered without gaps.
func logged(t *testing.T, g *gatewaylab.Gateway) (connections, dropped int) {
	t.Helper()
	numbers := map[string]int{}
	for line := range strings.Lines(g.Output()) {
		var entry struct {
			Msg, By  string
			N, Lines int
		}
		if !strings.HasSuffix(line, "\n") || json.Unmarshal([]byte(line), &entry) != nil {
			continue
		}
		if numbers[entry.By]++; entry.N != numbers[entry.By] {
			t.Fatalf("the line behind number %d of %q is %s", numbers[entry.By]-1, entry.By, line)
		}
		switch entry.Msg {
		case api.ConnectionMessage:
			connections++
		case api.LinesDroppedMessage:
			dropped += entry.Lines
		}
	}
	return connections, dropped
}

// TestLogLevels: which connections are logged changes while a gateway runs, and stays with the next
// worker. All are counted.
func TestLogLevels(t *testing.T) {
	l := newLab(t)
	l.gateway(strict(l.spec(l.a)))
	g := l.gateway(with(l.spec(l.b), func(c *api.Config) { c.Log = api.LogNone }))
	var encrypted, refused uint64
	round := func(level api.Log, want int) {
		t.Helper()
		before, _ := logged(t, g)
		ask[api.Status](t, g, "allow", "ns/prod/sa/*")
		l.refused(l.a, l.b.Addr(portEcho), "with rules for others")
		ask[api.Status](t, g, "allow", "--everyone")
		l.talk(l.a, l.b.Addr(portEcho))
		encrypted, refused = encrypted+1, refused+1
		awaitStatus(t, g, "connections are counted", func(s *api.Status) bool {
			return s.Log.Level == level && s.Traffic.Inbound.Encrypted == encrypted && s.Traffic.Inbound.NotAllowed == refused && s.Traffic.Inbound.Active == 0
		})
		eventually(t, fmt.Sprintf("%d more lines at level %s", want, level), func() error {
			if after, _ := logged(t, g); after != before+want {
				return fmt.Errorf("%d more: %s", after-before, g.Output())
			}
			return nil
		})
	}
	round(api.LogNone, 0)
	ask[api.Status](t, g, "log", "connections")
	round(api.LogConnections, 2)
	ask[api.Status](t, g, "log", "refused")
	round(api.LogRefused, 1)
	killWorker(t, g)
	round(api.LogRefused, 1)
	if s := ask[api.Status](t, g, "log", "none", "--limit=2000000"); s.Log.Level != api.LogNone || s.Log.Limit != 2_000_000 {
		t.Errorf("the log is %+v", s.Log)
	}
	round(api.LogNone, 0)
	for _, bad := range [][]string{{"log"}, {"log", ""}, {"log", "all"}, {"log", "none", "--limit=1000"}, {"log", "none", "none"}} {
		if _, err := tryAsk[api.Status](t, g, nil, bad...); err == nil {
			t.Errorf("%q is done", bad)
		}
	}
	if s := status(t, g); s.Log.Level != api.LogNone || s.Log.Limit != 2_000_000 || s.Log.Lines == 0 || s.Log.DroppedLines != 0 {
		t.Errorf("the log is %+v", s.Log)
	}
}

// TestLogIsBounded: a gateway that has written what it may counts the rest, says so in its log,
// and still logs refusals.
func TestLogIsBounded(t *testing.T) {
	l := newLab(t)
	l.gateway(strict(l.spec(l.a)))
	g := l.gateway(with(l.spec(l.b), func(c *api.Config) { c.LogLimit = api.MinLogLimit }))
	const connections = 200
	var talking sync.WaitGroup
	for range 4 {
		talking.Go(func() {
			for range connections / 4 {
				l.talk(l.a, l.b.Addr(portEcho))
			}
		})
	}
	talking.Wait()
	awaitStatus(t, g, "all connections have ended", func(s *api.Status) bool {
		return s.Traffic.Inbound.Encrypted == connections && s.Traffic.Inbound.Active == 0
	})
	eventually(t, "what is dropped is reported", func() error {
		if written, dropped := logged(t, g); dropped == 0 || written == 0 || written+dropped > connections {
			return fmt.Errorf("%d connections are logged, %d dropped", written, dropped)
		}
		return nil
	})
	ask[api.Status](t, g, "allow", "ns/prod/sa/*")
	l.refused(l.a, l.b.Addr(portEcho), "with rules for others")
	connection(t, g, "the refusal", func(c *api.Connection) bool { return c.Level == "WARN" })
	written, _ := logged(t, g)
	s := status(t, g)
	if int(s.Log.DroppedLines) != connections+1-written || s.Log.DroppedBytes == 0 || s.Log.Bytes > api.MinLogLimit/api.LogBurst {
		t.Errorf("%d connections are logged, and the log is %+v", written, s.Log)
	}
	for _, family := range ask[api.Metrics](t, g, "metrics").Families {
		if family.Name == "kube_gateway_log_dropped_lines_total" && family.Samples[0].Value != float64(s.Log.DroppedLines) {
			t.Errorf("metrics have %v dropped lines, status %d", family.Samples, s.Log.DroppedLines)
		}
	}
}
