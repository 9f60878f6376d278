//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Filters of tcpdump for packets that begin with a TLS record of application
// data (content type 23, RFC 8446 section 5.1).
const (
	tlsData  = "port 18443 and tcp[((tcp[12] & 0xf0) >> 2)] = 0x17"
	tlsData6 = "ip6 and port 18443 and ip6[40 + ((ip6[52] & 0xf0) >> 2)] = 0x17"
)

// onNode returns a command that runs inside a node of the test cluster.
func onNode(t *testing.T, node string, args ...string) *exec.Cmd {
	t.Helper()
	cluster := os.Getenv("KUBE_GATEWAY_CLUSTER")
	if cluster == "" {
		t.Fatal("KUBE_GATEWAY_CLUSTER does not name the cluster command: run the tests with 'make test-e2e'")
	}
	return exec.CommandContext(t.Context(), cluster, append([]string{"exec", node, "--"}, args...)...)
}

// wireCapture records what crosses the network between the nodes.
type wireCapture struct {
	t    *testing.T
	file string
	cmd  *exec.Cmd
}

// capture starts to record. It returns once tcpdump listens.
func capture(t *testing.T) *wireCapture {
	t.Helper()
	w := &wireCapture{t: t, file: filepath.Join(t.TempDir(), "wire.pcap")}
	f, err := os.Create(w.file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w.cmd = onNode(t, node1, "tcpdump", "-i", "eth0", "-n", "-U", "--immediate-mode", "-Z", "root", "-w", "-")
	w.cmd.Stdout = f
	stderr, err := w.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "listening on") {
			go func() {
				for lines.Scan() { // keep the pipe empty
				}
			}()
			return w
		}
	}
	t.Fatalf("tcpdump ended: %v", w.cmd.Wait())
	return nil
}

// stop ends the capture once everything sent before it is in the file: a
// datagram sent last must have arrived there.
func (w *wireCapture) stop() {
	w.t.Helper()
	sentinel := fmt.Sprintf("sentinel-%d", time.Now().UnixNano())
	eventually(w.t, "the capture is complete", func() error {
		send := onNode(w.t, node1, "bash", "-c", "echo "+sentinel+" >/dev/udp/172.30.0.12/9")
		if out, err := send.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %s", err, out)
		}
		if !w.contains(sentinel) {
			return fmt.Errorf("the sentinel is not in the capture")
		}
		return nil
	})
	w.cmd.Process.Signal(syscall.SIGINT)
	w.cmd.Wait()
}

// contains reports whether text crossed the network in the clear.
func (w *wireCapture) contains(text string) bool {
	w.t.Helper()
	data, err := os.ReadFile(w.file)
	if err != nil {
		w.t.Fatal(err)
	}
	return bytes.Contains(data, []byte(text))
}

// count returns how many packets match a filter.
func (w *wireCapture) count(filter string) int {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "tcpdump", "-n", "-r", w.file, filter)
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("tcpdump -r with %q: %v", filter, err)
	}
	return bytes.Count(out, []byte("\n"))
}
