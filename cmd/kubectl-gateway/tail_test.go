package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
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
	prints(t, run,
		printed{"tail -A --no-follow", 1, "demo/web", "pod/mute -n other: error: opening the log"},
		printed{"tail pod/web pod/bystander --no-follow", 1, "web", "pod/bystander -n demo: error: the pod has no gateway"},
		printed{"tail pod/web pod/gone --no-follow", 1, "web", `error: pod "gone" not found`},
		printed{"tail -n void --no-follow", 1, "", `no gateways found in namespace "void"`},
		printed{"tail --since=-1s", 1, "", "is negative"},
		printed{"tail --tail=-2", 1, "", "below -1"},
		printed{"tail --max-log-requests=0", 1, "", "not positive"},
		printed{"tail -o yaml", 1, "", "allowed formats are: go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file"},
		printed{"tail --template={{.Pood}}", 1, "", "hint: it is a Go template"},
		printed{"tail --template={{.Pod}} -o json", 1, "", "[output template] were all set"},
		printed{"tail -A --max-log-requests=1", 1, "", "at most 1 at a time"},
	)
}

func TestTailChooses(t *testing.T) {
	server := tailServer()
	server.logs["web"] += `2030-05-01T12:00:02Z {"time":"2030-05-01T12:00:02Z","level":"INFO","msg":"connection","destination":"10.0.2.3:80","encrypted":false}
2030-05-01T12:00:03Z {"time":"2030-05-01T12:00:03Z","level":"WARN","msg":"connection","destination":"10.0.2.4:80","encrypted":false}
`
	run := server.start(t)
	for args, want := range map[string]string{
		"":                                      "10.0.2.2:9000 web\n10.0.2.3:80 web\n10.0.2.4:80 web\n",
		"--plaintext-only":                      "10.0.2.3:80 web\n",
		"--errors":                              "10.0.2.4:80 web\n",
		"--errors --plaintext-only pod/web":     "10.0.2.3:80 web\n10.0.2.4:80 web\n",
		"--plaintext-only --errors --since=10m": "10.0.2.3:80 web\n10.0.2.4:80 web\n",
	} {
		code, stdout, stderr := run(append([]string{"tail", "--no-follow", "--template={{.Destination}} {{.Pod}}"}, strings.Fields(args)...)...)
		if code != 0 || stdout != want || stderr != "" {
			t.Errorf("%q: exit code %d, %q, %q", args, code, stdout, stderr)
		}
	}
}

// TestTailOutlivesRequests: --request-timeout is for requests that end.
func TestTailOutlivesRequests(t *testing.T) {
	server := tailServer()
	server.slowLogs = time.Second
	code, stdout, stderr := server.start(t)("tail", "pod/web", "--no-follow", "--request-timeout=300ms")
	if code != 0 || stderr != "" || strings.Count(stdout, "\n") != 1 {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

// A selection that holds nothing yet is waited for, until Ctrl-C.
func TestTailWaits(t *testing.T) {
	for args, want := range map[string]string{
		"-n void": `no gateways found in namespace "void" yet: waiting for some`, "-l app=none -n void": `no gateways found in namespace "void" yet`,
		"pod/bystander": "pod/bystander -n demo: the pod has no gateway yet\nhint: 'kubectl gateway enable pod/bystander -n demo' adds one\n",
	} {
		ctx, cancel := context.WithCancel(t.Context())
		errOut := &ending{text: want, end: cancel}
		var out bytes.Buffer
		code := runOn(t, ctx, tailServer(), genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: errOut}, append([]string{"tail"}, strings.Fields(args)...)...)
		if code != 0 || out.Len() > 0 {
			t.Errorf("%s: exit code %d, %q, %q", args, code, &out, errOut.got.String())
		}
	}
}

// ending calls end once text has been written.
type ending struct {
	mu   sync.Mutex
	text string
	end  func()
	got  strings.Builder
}

func (e *ending) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.got.Write(p)
	if strings.Contains(e.got.String(), e.text) {
		e.end()
	}
	return len(p), nil
}
