package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/metrics"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// busyStatus is of a gateway that has something to tell.
func busyStatus() *api.Status {
	return &api.Status{
		State: api.Ready, Version: "v1", Mode: api.Strict, Identity: `spiffe://td/ns/"a\b"/sa/c`, StartedAt: time.Unix(1e9, 0),
		Traffic: api.Traffic{Outbound: api.Direction{Encrypted: 3, Sent: 1 << 50}},
	}
}

func metricsServer(t *testing.T) *apiServer {
	t.Helper()
	all := metrics.Read(busyStatus())
	text := must.Get(json.Marshal(all))(t)
	return &apiServer{
		pods: []corev1.Pod{podWithGateway("demo", "web", gatewayRuns()), podWithGateway("demo", "db", gatewayDied()),
			podWithGateway("demo", "plain", nil), podWithGateway("demo", "old", gatewayRuns()), podWithGateway("demo", "evil", gatewayRuns())},
		gateway: func(pod string, command []string) (string, string, int) {
			switch {
			case pod == "old" || !slices.Contains(command, "metrics"):
				return "", "error: unknown control command \"metrics\"\nhint: x\n", 1
			case pod == "evil":
				return `{"families":[{"name":"a","type":"gauge","help":"\u001b[2J","samples":[{"labels":{"b":"c\u001b[2J\nd"},"value":1}]}]}`, "", 0
			}
			return string(text), "", 0
		},
	}
}

// TestMetrics: the text is what the gateway itself prints, to the letter.
func TestMetrics(t *testing.T) {
	run := metricsServer(t).start(t)
	var want bytes.Buffer
	must.Do(t, metrics.Write(&want, busyStatus()))
	code, stdout, stderr := run("metrics", "pod/web")
	if diff := cmp.Diff(want.String(), stdout); code != 0 || stderr != "" || diff != "" {
		t.Errorf("exit code %d, %s\n%s", code, stderr, diff)
	}
	code, stdout, stderr = run("metrics", "web", "-o", "json")
	var got api.Metrics
	if err := json.Unmarshal([]byte(stdout), &got); code != 0 || stderr != "" || err != nil {
		t.Errorf("exit code %d, %s, %v", code, stderr, err)
	}
	if all := metrics.Read(busyStatus()); !reflect.DeepEqual(&got, all) {
		t.Error(cmp.Diff(all, &got))
	}
}

func TestMetricsCleans(t *testing.T) {
	run := metricsServer(t).start(t)
	for _, output := range []string{"text", "json"} {
		code, stdout, stderr := run("metrics", "pod/evil", "-o", output)
		if code != 0 || stderr != "" || strings.Contains(stdout, "\x1b") || strings.Contains(stdout, "\nd") || !strings.Contains(stdout, "[2J") {
			t.Errorf("exit code %d, %s\n%q", code, stderr, stdout)
		}
	}
}

func TestMetricsFails(t *testing.T) {
	run := metricsServer(t).start(t)
	fails(t, run, 1, map[string]string{
		"metrics pod/db":               "error: no gateway runs in pod demo/db\nhint: 'kubectl gateway enable pod/db -n demo'",
		"metrics pod/plain":            "error: no gateway runs in pod demo/plain\nhint: ",
		"metrics pod/old":              "error: reading the metrics of pod demo/old: its gateway is too old to have metrics\nhint: ",
		"metrics pod/nobody":           `error: pod "nobody" not found`,
		"metrics pod/web -o yaml":      `error: `,
		"metrics pod/web --timeout=0s": "error: --timeout \"0s\" is not positive",
	})
}
