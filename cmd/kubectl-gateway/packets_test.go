package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/pcapng"
)

// shortRecording is one packet.
func shortRecording(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	w := must.Get(pcapng.NewWriter(&b, "test"))(t)
	must.Get(w.AddInterface(pcapng.Interface{Name: "eth0", LinkType: pcapng.LinuxSLL2}))(t)
	must.Do(t, w.WritePacket(0, time.Unix(1, 0), 3, nil, []byte("abc")))
	must.Do(t, w.WriteStatistics(pcapng.Statistics{Received: 2, Dropped: 1}))
	return b.String()
}

func packetsServer(answer string) *apiServer {
	return &apiServer{
		pods: []corev1.Pod{podWithGateway("demo", "web", gatewayRuns()), podWithGateway("demo", "db", gatewayDied()), podWithGateway("demo", "plain", nil)},
		gateway: func(string, []string) (string, string, int) {
			return answer, "", 0
		},
	}
}

func TestPackets(t *testing.T) {
	want := shortRecording(t)
	run := packetsServer(want).start(t)
	const told = "recording the packets of pod/web -n demo, end with Ctrl-C\nwarning: the packets on loopback hold what the application says in plaintext\n"
	const summary = "1 packets, 168B, 1 dropped by the kernel\n"
	code, stdout, stderr := run("packets", "pod/web")
	if code != 0 || stdout != want || stderr != told+summary {
		t.Errorf("exit code %d, %d bytes of %d, stderr:\n%s", code, len(stdout), len(want), stderr)
	}
	file := filepath.Join(t.TempDir(), "x.pcapng")
	must.Do(t, os.WriteFile(file, []byte(strings.Repeat("old", 1000)), 0o644))
	code, stdout, stderr = run("packets", "web", "-w", file, "--interface=eth0")
	text, err := os.ReadFile(file)
	if code != 0 || stdout != "" || strings.Contains(stderr, "warning") || err != nil || string(text) != want {
		t.Errorf("to a file: exit code %d, %v, %d bytes, stderr:\n%s", code, err, len(text), stderr)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is open to others: %v, %v", info.Mode(), err)
	}
}

func TestPacketsFails(t *testing.T) {
	run := packetsServer(shortRecording(t)).start(t)
	fails(t, run, 1, map[string]string{
		"packets pod/db":                    "error: no gateway runs in pod demo/db\nhint: 'kubectl gateway enable pod/db -n demo'",
		"packets pod/plain":                 "error: no gateway runs in pod demo/plain\nhint: ",
		"packets pod/web --port=70000":      "error: --port \"70000\" is not a port",
		"packets pod/web --max-bytes=many":  `error: --max-bytes "many" is not a size` + "\nhint: ",
		"packets pod/web --duration=0s":     "error: --duration \"0s\" is not positive",
		"packets pod/web -w /nonesuch/file": "error: creating the file: ",
		"packets pod/nobody":                "error: pod \"nobody\" not found",
	})
	prints(t, packetsServer("no packets at all").start(t), printed{"packets pod/web", 1, "", "not a pcapng recording|hint: "})
}
