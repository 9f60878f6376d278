package main

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const tailLog = `2030-05-01T12:00:00Z {"time":"2030-05-01T12:00:00Z","level":"INFO","msg":"connection","direction":"outbound","source":"10.0.1.5:1","destination":"10.0.2.2:9000","encrypted":true}
2030-05-01T12:00:01Z {"time":"2030-05-01T12:00:01Z","level":"INFO","msg":"ready"}
`

func tailServer() *apiServer {
	return &apiServer{
		pods: []corev1.Pod{
			podWithGateway("demo", "web", gatewayRuns()),
			podWithGateway("demo", "bystander", nil),
			podWithGateway("other", "mute", gatewayRuns()),
		},
		logs: map[string]string{"web": tailLog},
	}
}

func TestTailPrintsConnections(t *testing.T) {
	run := tailServer().start(t)
	for _, args := range [][]string{{}, {"--all"}, {"pod/web"}, {"-f=false", "--since=1h"}} {
		args := append([]string{"tail"}, args...)
		if !strings.Contains(strings.Join(args, " "), "-f=") {
			args = append(args, "--no-follow")
		}
		code, stdout, stderr := run(args...)
		if code != 0 || stderr != "" || strings.Count(stdout, "\n") != 1 ||
			!strings.Contains(stdout, "web  → out  10.0.1.5:1 → 10.0.2.2:9000  encrypted") {
			t.Errorf("%q: exit code %d, stderr %q, stdout:\n%s", args, code, stderr, stdout)
		}
	}
}

func TestTailForPrograms(t *testing.T) {
	code, stdout, _ := tailServer().start(t)("tail", "--no-follow", "-o", "json")
	var object map[string]any
	if err := json.Unmarshal([]byte(stdout), &object); err != nil || code != 0 || object["pod"] != "web" || object["namespace"] != "demo" {
		t.Errorf("exit code %d, %v, stdout %q", code, err, stdout)
	}
}

func TestTailErrors(t *testing.T) {
	run := tailServer().start(t)
	for _, c := range []struct {
		args   string
		stdout string
		stderr string
	}{
		{"-A --no-follow", "demo/web", "pod/mute -n other: opening the log"},
		{"pod/web pod/bystander --no-follow", "web", "pod/bystander -n demo: the pod has no gateway"},
		{"pod/web pod/gone --no-follow", "web", `error: pod "gone" not found`},
		{"-n void", "", `no gateways found in namespace "void"`},
		{"--since=-1s", "", "is negative"},
		{"--tail=-2", "", "below -1"},
		{"--max-log-requests=0", "", "not positive"},
		{"-o yaml", "", "hint: use json"},
		{"-A --max-log-requests=1", "", "at most 1 at a time"},
	} {
		code, stdout, stderr := run(append([]string{"tail"}, strings.Fields(c.args)...)...)
		if code != 1 || !strings.Contains(stderr, c.stderr) || !strings.Contains(stdout, c.stdout) {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", c.args, code, stdout, stderr)
		}
	}
}
