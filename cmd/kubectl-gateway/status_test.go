package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/status"
)

func statusServer() *apiServer {
	return &apiServer{
		pods: []corev1.Pod{
			podWithGateway("demo", "web", gatewayRuns()),
			podWithGateway("demo", "db", gatewayDied()),
			podWithGateway("demo", "bystander", nil),
			podWithGateway("other", "mute", gatewayRuns()),
		},
		answers: map[string]string{"web": readyStatus("web")},
	}
}

func TestStatusTable(t *testing.T) {
	status := statusServer().start(t)
	const (
		header = "POD         NODE     IP         STATE         MODE     IDENTITY                         CERT-EXPIRY   ENCRYPTED   PLAINTEXT\n"
		bystd  = "bystander   node-1   10.0.1.7   not enabled   -        -                                -             -           -\n"
		db     = "db          node-1   10.0.1.7   crashed       strict   -                                -             -           -\n"
		web    = "web         node-1   10.0.1.7   ready         strict   spiffe://td/ns/demo/sa/default   -             4           1\n"
	)
	code, stdout, stderr := status("status", "--all")
	if code != 0 || stdout != header+bystd+db+web {
		t.Errorf("exit code %d, stdout:\n%s\nwant:\n%s", code, stdout, header+bystd+db+web)
	}
	if !strings.Contains(stderr, "the gateway crashed with exit code 2: no cgroup; on-failure is closed") ||
		!strings.Contains(stderr, "hint: kubectl gateway enable pod/db -n demo") {
		t.Errorf("stderr:\n%s", stderr)
	}
	if code, stdout, _ = status("status"); code != 0 || strings.Contains(stdout, "bystander") || !strings.Contains(stdout, "web ") {
		t.Errorf("without a selection: exit code %d, stdout:\n%s", code, stdout)
	}
	if code, stdout, _ = status("status", "pod/bystander"); code != 0 || !strings.Contains(stdout, "not enabled") {
		t.Errorf("a named pod: exit code %d, stdout:\n%s", code, stdout)
	}
	if code, stdout, _ = status("status", "web", "-o", "wide"); code != 0 || !strings.Contains(stdout, "ON-FAILURE") {
		t.Errorf("wide: exit code %d, stdout:\n%s", code, stdout)
	}
}

func TestStatusOfWhatCannotBeRead(t *testing.T) {
	status := statusServer().start(t)
	code, stdout, stderr := status("status", "-A")
	if code != 1 || !strings.HasPrefix(stdout, "NAMESPACE ") || !strings.Contains(stdout, "not answering") ||
		!strings.Contains(stderr, "not allowed to run commands") || !strings.Contains(stderr, "pods/exec") {
		t.Errorf("a gateway that may not be asked: exit code %d\n%s\n%s", code, stdout, stderr)
	}
	code, stdout, stderr = status("status", "web", "gone", "lost")
	if code != 1 || !strings.Contains(stdout, "web ") ||
		!strings.Contains(stderr, "error: pod \"gone\" not found in namespace \"demo\"\nerror: pod \"lost\" not found") {
		t.Errorf("pods that are not there: exit code %d\n%s\n%s", code, stdout, stderr)
	}
	code, stdout, stderr = status("status", "-n", "void")
	if code != 0 || stdout != "" || !strings.Contains(stderr, `no gateways found in namespace "void"`) {
		t.Errorf("an empty namespace: exit code %d\n%s\n%s", code, stdout, stderr)
	}
	code, _, stderr = status("status", "-o", "xml")
	if code != 1 || !strings.Contains(stderr, "hint: use wide, json, yaml, dot or svg") {
		t.Errorf("an unknown format: exit code %d\n%s", code, stderr)
	}
}

func TestStatusForPrograms(t *testing.T) {
	run := statusServer().start(t)
	for format, decode := range map[string]func([]byte, *status.List) error{
		"json": func(text []byte, list *status.List) error { return json.Unmarshal(text, list) },
		"yaml": func(text []byte, list *status.List) error { return yaml.UnmarshalStrict(text, list) },
	} {
		code, stdout, stderr := run("status", "--all", "-o", format)
		var list status.List
		if err := decode([]byte(stdout), &list); err != nil || code != 0 || stderr != "" {
			t.Fatalf("%s: exit code %d, %v, stderr %q, stdout:\n%s", format, code, err, stderr, stdout)
		}
		if list.Kind != status.Kind || list.APIVersion != status.APIVersion || len(list.Items) != 3 ||
			list.Items[1].State != status.Crashed || list.Items[2].Status.Traffic.Outbound.Encrypted != 4 {
			t.Errorf("%s: %+v", format, list)
		}
		if _, stdout, _ = run("status", "-n", "void", "-o", format); !strings.Contains(stdout, "[]") {
			t.Errorf("%s of nothing: %q", format, stdout)
		}
	}
}

func TestStatusFailsIfCertificatesEnd(t *testing.T) {
	until := func(name string, left time.Duration) string {
		return strings.Replace(readyStatus(name), `"mode"`,
			fmt.Sprintf(`"certificate":{"notBefore":"2020-01-01T00:00:00Z","notAfter":%q},"mode"`, time.Now().Add(left).Format(time.RFC3339)), 1)
	}
	server := &apiServer{
		pods: []corev1.Pod{
			podWithGateway("demo", "long", gatewayRuns()), podWithGateway("demo", "short", gatewayRuns()),
			podWithGateway("demo", "over", gatewayRuns()), podWithGateway("demo", "untold", gatewayRuns()),
		},
		answers: map[string]string{"long": until("long", 60*24*time.Hour), "short": until("short", 25*time.Hour),
			"over": until("over", -time.Hour), "untold": readyStatus("untold")},
	}
	run := server.start(t)
	for _, c := range []struct {
		flag  string
		names []string
	}{
		{"1h", []string{"over"}}, {"48h", []string{"over", "short"}}, {"30d", []string{"over", "short"}}, {"10w", []string{"long", "over", "short"}},
	} {
		for _, format := range []string{"", "json"} {
			code, stdout, stderr := run("status", "-o", format, "--fail-if-expiring", c.flag)
			_, told, _ := strings.Cut(stderr, "error: certificates end within ")
			told, _, _ = strings.Cut(told, "\n")
			var named []string
			for _, word := range strings.Fields(told) {
				if name, ok := strings.CutPrefix(word, "pod/"); ok {
					named = append(named, name)
				}
			}
			if code != 1 || !slices.Equal(named, c.names) || !strings.Contains(stderr, "hint: 'kubectl gateway rotate' renews them\n") {
				t.Errorf("%s: exit code %d, stderr:\n%s", c.flag, code, stderr)
			}
			if _, without, _ := run("status", "-o", format); without != stdout {
				t.Errorf("%s: the flag changes the output:\n%s\n%s", c.flag, stdout, without)
			}
		}
	}
	for _, pods := range []string{"long", "untold"} {
		if code, _, stderr := run("status", pods, "--fail-if-expiring=30d"); code != 0 || strings.Contains(stderr, "error: ") {
			t.Errorf("%s: exit code %d, stderr:\n%s", pods, code, stderr)
		}
	}
	if code, _, stderr := run("status", "--fail-if-expiring=soon"); code != 1 || !strings.Contains(stderr, "hint: write it like 12h") {
		t.Errorf("no duration: exit code %d, stderr:\n%s", code, stderr)
	}
}
