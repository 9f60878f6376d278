// Package wire records what crosses the network between the nodes of the test
// cluster, with tcpdump on a node's own interface: the proof that the demo and
// the end-to-end tests rest on.
package wire

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// Filters of tcpdump for packets to or from a gateway that begin with a TLS
// record of application data (content type 23, RFC 8446 section 5.1).
const (
	TLSData  = "port 18443 and tcp[((tcp[12] & 0xf0) >> 2)] = 0x17"
	TLSData6 = "ip6 and port 18443 and ip6[40 + ((ip6[52] & 0xf0) >> 2)] = 0x17"
)

// ClusterVariable names the environment variable with the path of the cluster
// command (test/cluster), which runs commands inside nodes.
const ClusterVariable = "KUBE_GATEWAY_CLUSTER"

const (
	node = "node-1"
	// discardPort is where nobody listens (RFC 863): only the crossing of the
	// datagram that is sent there matters.
	discardPort = "9"
	// bufferKiB is tcpdump's buffer in the kernel. What does not fit is lost, and
	// Stop reports it. tcpdump reads a part of it once that is full, and after a second: in immediate mode
	// every packet would take as much room as the longest may.
	bufferKiB = "131072"
	// longestPacket is one that segmentation offload leaves in one piece, with headers.
	longestPacket = "65600"
	// priority lets tcpdump read before whoever sends.
	priority = "-10"
	// flushTimeout bounds the wait for the sentinel.
	flushTimeout = 30 * time.Second
)

// Recording is what tcpdump writes to a file.
type Recording struct {
	file string
	at   Place
	cmd  *exec.Cmd
	// said yields what tcpdump says when it ends.
	said chan string
}

// Place is an interface of node-1.
type Place struct {
	Device string
	// Beyond is an address that node-1 reaches through the device.
	Beyond string
}

// BetweenNodes is where node-1 is joined to the other node.
func BetweenNodes() Place { return Place{Device: "eth0", Beyond: "172.30.0.12"} }

// Start begins to record what passes a place into file: what is from or to one of
// hosts, or everything if none are named. It returns once tcpdump listens; the
// recording ends with Stop, or with ctx.
func Start(ctx context.Context, file string, at Place, hosts ...netip.Addr) (*Recording, error) {
	if os.Getenv(ClusterVariable) == "" {
		return nil, fmt.Errorf("%s does not name the cluster command: run this through make", ClusterVariable)
	}
	f, err := os.Create(file)
	if err != nil {
		return nil, fmt.Errorf("creating the recording file: %w", err)
	}
	defer f.Close()
	c := &Recording{file: file, at: at}
	c.cmd = OnNode(ctx, "nice", "-n", priority, "tcpdump", "-i", at.Device, "-n", "-U", "-B", bufferKiB, "-s", longestPacket, "-Z", "root", "-w", "-", filter(hosts))
	c.cmd.Stdout = f
	stderr, err := c.cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("starting tcpdump: %w", err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting tcpdump: %w", err)
	}
	var said strings.Builder
	lines := bufio.NewReader(stderr)
	for {
		line, err := lines.ReadString('\n')
		said.WriteString(line)
		if err != nil {
			return nil, fmt.Errorf("tcpdump ended: %w: %s", c.cmd.Wait(), said.String())
		}
		if strings.Contains(line, "listening on") {
			break
		}
	}
	c.said = make(chan string, 1)
	go func() {
		rest, _ := io.ReadAll(lines)
		c.said <- string(rest)
	}()
	return c, nil
}

// filter lets the sentinel pass, and what is from or to one of hosts.
func filter(hosts []netip.Addr) string {
	if len(hosts) == 0 {
		return ""
	}
	parts := []string{"udp dst port " + discardPort}
	for _, host := range hosts {
		parts = append(parts, "host "+host.String())
	}
	return strings.Join(parts, " or ")
}

// OnNode returns a command that runs inside node-1.
func OnNode(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, os.Getenv(ClusterVariable), append([]string{"exec", node, "--"}, args...)...)
}

// Open returns a recording that has ended.
func Open(file string) *Recording { return &Recording{file: file} }

// Stop ends the recording once everything sent before it is in the file: a
// datagram that is sent last must have arrived there.
func (c *Recording) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	sentinel := fmt.Sprintf("sentinel-%d", time.Now().UnixNano())
	for {
		if out, err := OnNode(ctx, "bash", "-c", "echo "+sentinel+" >/dev/udp/"+c.at.Beyond+"/"+discardPort).CombinedOutput(); err != nil {
			return fmt.Errorf("marking the end of the recording: %w: %s", err, out)
		}
		if found, err := c.Contains(sentinel); err != nil || found {
			return errors.Join(err, c.interrupt())
		}
		select {
		case <-ctx.Done():
			return errors.Join(errors.New("the end of the recording does not arrive in its file"), c.interrupt())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *Recording) interrupt() error {
	if err := c.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return fmt.Errorf("ending tcpdump: %w", err)
	}
	said := <-c.said // the pipe must be empty before Wait
	var exit *exec.ExitError
	if err := c.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("ending tcpdump: %w", err)
	}
	if !strings.Contains(said, "\n0 packets dropped by kernel") {
		return fmt.Errorf("the recording is not complete: %s", said)
	}
	return nil
}

// Contains reports whether text crossed the network in the clear.
func (c *Recording) Contains(text string) (bool, error) {
	data, err := os.ReadFile(c.file)
	if err != nil {
		return false, fmt.Errorf("reading the recording: %w", err)
	}
	return bytes.Contains(data, []byte(text)), nil
}

// Find returns what matches a pattern, each different text once.
func (c *Recording) Find(pattern *regexp.Regexp) ([]string, error) {
	data, err := os.ReadFile(c.file)
	if err != nil {
		return nil, fmt.Errorf("reading the recording: %w", err)
	}
	var found []string
	seen := map[string]bool{}
	for _, match := range pattern.FindAll(data, -1) {
		if text := string(match); !seen[text] {
			seen[text] = true
			found = append(found, text)
		}
	}
	return found, nil
}

// Packets returns a line of tcpdump for each packet that matches a filter.
func (c *Recording) Packets(ctx context.Context, filter string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "tcpdump", "-n", "-r", c.file, filter)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("reading the recording with %q: %w: %s", filter, err, stderr.String())
	}
	return strings.FieldsFunc(stdout.String(), func(r rune) bool { return r == '\n' }), nil
}
