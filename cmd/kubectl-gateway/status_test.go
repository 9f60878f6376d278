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
	prints(t, status,
		printed{"status --all", 0, header + bystd + db + web, "the gateway crashed with exit code 2: no cgroup; on-failure is closed|hint: kubectl gateway enable pod/db -n demo"},
		printed{"status", 0, "!bystander|web ", ""},
		printed{"status pod/bystander", 0, "not enabled", ""},
		printed{"status web -o wide", 0, "ON-FAILURE", ""},
	)
}

func TestStatusOfWhatCannotBeRead(t *testing.T) {
	prints(t, statusServer().start(t),
		printed{"status -A", 1, "NAMESPACE |not answering", "not allowed to run commands|pods/exec"},
		printed{"status web gone lost", 1, "web ", "error: pod \"gone\" not found in namespace \"demo\"\nerror: pod \"lost\" not found"},
		printed{"status -n void", 0, nothing, `no gateways found in namespace "void"`},
		printed{"status -o xml", 1, nothing, `unable to match a printer suitable for the output format "xml", allowed formats are: custom-columns,custom-columns-file,dot,go-template,`},
	)
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
	prints(t, run,
		printed{"status long --fail-if-expiring=30d", 0, "", "!error: "},
		printed{"status untold --fail-if-expiring=30d", 0, "", "!error: "},
		printed{"status --fail-if-expiring=soon", 1, nothing, "hint: write it like 12h"},
	)
}
