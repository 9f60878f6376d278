package main

import (
	"fmt"
	"net/netip"
	"regexp"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/change"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/edges"
)

// TestRehearsals compares everything that a dry run prints, for a gateway that has seen
// plaintext, one that has not, and one that does not answer. None is told to change.
func TestRehearsals(t *testing.T) {
	plaintext := `{"direction":"outbound","source":"10.0.1.7","destination":"10.0.9.9:80","wire":"none","verdict":"plaintext","reason":"peer has no gateway: no answer","connections":3,"lastSeen":"2026-01-01T00:00:00Z"}`
	s := &apiServer{gateway: func(pod string, command []string) (string, string, int) {
		seen := ""
		switch {
		case pod == "broken":
			return "", "panic: no words\n", 2
		case command[2] == "status":
			return fmt.Sprintf(`{"state":"ready","mode":"permissive","startedAt":"2026-01-01T00:00:00Z","pod":{"uid":"uid-%s"},"traffic":{"outbound":{},"inbound":{"plaintext":%d}}}`,
				pod, map[string]int{"web": 2}[pod]), "", 0
		case command[2] != "edges":
			t.Errorf("a dry run told a gateway %q", command)
		case pod == "web":
			seen = plaintext
		}
		return fmt.Sprintf(`{"pod":{"uid":"uid-%s"},"time":"2026-01-01T00:00:00Z","edges":[%s]}`, pod, seen), "", 0
	}}
	for _, name := range []string{"web", "quiet", "broken"} {
		s.pods = append(s.pods, podWithGateway("demo", name, gatewayRuns()))
	}
	run := s.start(t)
	code, stdout, stderr := run("mode", "quiet", "strict", "--dry-run")
	if want := "pod/quiet nothing that was seen would be refused (dry run)\n"; code != 0 || stdout != want || stderr != "" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	code, stdout, stderr = run("mode", "web", "quiet", "strict", "--dry-run", "-o", "name", "--parallel=1")
	if code != 0 || stdout != "pod/web\npod/quiet\n" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	code, stdout, _ = run("mode", "web", "quiet", "broken", "strict", "--dry-run", "--parallel=1", "-o", "json")
	golden.Check(t, "mode-dry-run.json", regexp.MustCompile(`"lastSeen": "[^"]*"`).ReplaceAllString(stdout, `"lastSeen": "NOW"`))
	if code != 1 {
		t.Errorf("with a gateway that does not answer: exit code %d", code)
	}
	fails(t, run, 1, map[string]string{"mode web permissive --dry-run": "error: --dry-run is about strict mode"})
}

func TestRefusedWords(t *testing.T) {
	now := time.Now()
	pod := &edges.Endpoint{Kind: "pod", Namespace: "shop", Name: "web", Address: netip.MustParseAddr("10.0.0.1")}
	for want, r := range map[string]change.Refused{
		"inbound from pod/web (10.0.0.1), port 80: 1 connection, the last one 3m ago; plaintext":     {Direction: api.Inbound, Peer: pod, Port: 80, Connections: 1, LastSeen: now.Add(-3 * time.Minute), Reason: "plaintext"},
		"outbound to 10.0.0.9, port 80: 2 connections, open now; plaintext":                          {Direction: api.Outbound, Peer: &edges.Endpoint{Address: netip.MustParseAddr("10.0.0.9")}, Port: 80, Connections: 2, LastSeen: now, Reason: "plaintext", Existing: true},
		"outbound to pod/web (10.0.0.1), port 80: 2 connections; no answer; it has a gateway by now": {Direction: api.Outbound, Peer: pod, Port: 80, Connections: 2, Reason: "no answer", PeerHasGateway: true},
		"outbound to 172.16.1.0/24: 5 connections; outside":                                          {Direction: api.Outbound, Network: netip.MustParsePrefix("172.16.1.0/24"), Connections: 5, Reason: "outside"},
		"outbound: 5 connections; UDP":                                                               {Direction: api.Outbound, Connections: 5, Reason: "UDP"},
	} {
		if got := refusedWords(&r, "shop", now); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
	told := tellRehearsal(change.Rehearsal{Pod: &corev1.Pod{}, Unlisted: 4}, now)
	if len(told.notes) != 1 || told.done != "strict mode would have refused connections (dry run)" {
		t.Errorf("%+v", told)
	}
}
