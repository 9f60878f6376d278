//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/verify"
)

// verified runs verify and returns its only result, and its exit code.
func verified(t *testing.T, args ...string) (verify.Result, int) {
	t.Helper()
	out := tryGateway(t, append(args, "-o", "json")...)
	var list struct{ Items []verify.Result }
	if err := json.Unmarshal([]byte(out.stdout), &list); err != nil || len(list.Items) != 1 {
		t.Fatalf("%v: exit code %d, %v in %s%s", args, out.code, err, out.stdout, out.stderr)
	}
	return list.Items[0], out.code
}

// TestVerify looks at all three verdicts, and at what is left behind.
func TestVerify(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	pods := startPods(t, ns, podSpec("a", node1), podSpec("b", node2), podSpec("plain", node2))
	a, b, plain := pods[0], pods[1], pods[2]
	if out := tryGateway(t, "-n", ns, "verify", a.String(), b.String()); out.code != 2 || !strings.Contains(out.stderr, "no gateway runs") || !strings.Contains(out.stderr, "hint: ") {
		t.Errorf("without gateways: exit code %d\n%s%s", out.code, out.stdout, out.stderr)
	}
	enable(t, nil, a, b)

	wire := record(t, a, b)
	r, code := verified(t, "-n", ns, "verify", a.String(), b.String())
	if code != 0 || r.Verdict != verify.Encrypted {
		t.Fatalf("exit code %d: %s %q", code, r.Verdict, r.Reasons)
	}
	wire.stop()
	// Another recording, between the nodes, agrees.
	if wire.contains(r.Canary) || wire.count(tlsData) == 0 {
		t.Errorf("between the nodes: canary readable %v, %d TLS records", wire.contains(r.Canary), wire.count(tlsData))
	}
	id := "spiffe://" + strings.TrimPrefix(a.status().Identity, "spiffe://")
	if r.From.Identity != id || r.To.Identity == "" || r.Wire != "port" || r.TLS.Version != "TLS 1.3" || r.From.TLS == nil || r.To.TLS == nil {
		t.Errorf("the result is %+v", r)
	}
	out := gateway(t, "-n", ns, "verify", b.String())
	if !strings.Contains(out.stdout, "√ encrypted") || !strings.Contains(out.stdout, "pod/b -n "+ns+" > pod/a") || !strings.Contains(out.stdout, "17 03 03") {
		t.Errorf("with a peer that is chosen:\n%s", out.stdout)
	}

	wire = record(t, a, plain)
	r, code = verified(t, "-n", ns, "verify", a.String(), plain.String(), "--port=9000")
	wire.stop()
	if code != 1 || r.Verdict != verify.Plaintext || !wire.contains(r.Canary) {
		t.Errorf("to a pod without a gateway: exit code %d, %s, between the nodes %v", code, r.Verdict, wire.contains(r.Canary))
	}
	gateway(t, "-n", ns, "mode", a.String(), "strict")
	r, code = verified(t, "-n", ns, "verify", a.String(), plain.String(), "--port=9000")
	if code != 2 || r.Verdict != verify.Inconclusive || r.From.Network != nil || len(r.Reasons) < 2 || !strings.Contains(r.Reasons[0], "the gateway of pod/a") {
		t.Errorf("in strict mode: exit code %d, %s %q", code, r.Verdict, r.Reasons)
	}
	if left := strings.TrimSpace(onNode(t, node1, "find", "/sys/fs/cgroup", "-name", "kube-gateway-probe-*")); left != "" {
		t.Errorf("left on the node: %s", left)
	}
}

// onNode runs a command on a node of the test cluster.
func onNode(t *testing.T, node string, args ...string) string {
	t.Helper()
	out := runCommand(t.Context(), t, "", os.Getenv("KUBE_GATEWAY_CLUSTER"), append([]string{"exec", node, "--"}, args...)...)
	if out.code != 0 {
		t.Fatalf("on %s: %v: %s", node, args, out.stderr)
	}
	return out.stdout
}

// TestPackets ends a recording with Ctrl-C and has tcpdump read it.
func TestPackets(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, nil, a, b)
	file := filepath.Join(t.TempDir(), "a.pcapng")
	packets := start(t, "kubectl-gateway", "-n", ns, "packets", a.String(), "-w", file)
	// The file is not empty any more once the recording has begun.
	await(t, "the recording has begun", func() bool {
		info, err := os.Stat(file)
		return err == nil && info.Size() > 0
	})
	a.talk(b.addr(portEcho), "canary-of-the-recording")
	// The pattern is not what is looked for, or it would find itself.
	runs := func() bool {
		return strings.Contains(onNode(t, node1, "pgrep", "-fa", "kube-gateway|containerd"), "/kube-gateway packets")
	}
	if !runs() {
		t.Error("the process that records is not found")
	}
	err := packets.interrupt()
	if said := packets.stderr.String(); err != nil || !strings.Contains(said, "0 dropped by the kernel") || !strings.Contains(said, "in plaintext") {
		t.Errorf("%v, stderr:\n%s", err, said)
	}
	for filter, want := range map[string]bool{"port 18443": true, "portrange 64512-65535": true, "port 1": false} {
		out := runCommand(t.Context(), t, "", "tcpdump", "-n", "-r", file, filter)
		if out.code != 0 || out.stdout != "" != want {
			t.Errorf("%s: exit code %d, packets %v: %s", filter, out.code, out.stdout != "", out.stderr)
		}
	}
	await(t, "the recording has ended in the pod", func() bool { return !runs() })
}
