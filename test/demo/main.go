// Command demo shows the main job on the embedded cluster: it looks at the wire
// between two pods, enables their gateways, and looks again. It fails if the
// second look still finds a byte of cleartext. "make demo" runs it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/test/wire"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "\nthe demo failed:", err)
		os.Exit(1)
	}
}

// greeting is what the demo's applications say to each other.
var greeting = regexp.MustCompile(`greetings from pod-0[12] over (tcp|http)`)

// allGreetings is how many different texts match: two pods, two protocols.
const allGreetings = 4

// patience bounds every wait for the cluster.
const patience = 2 * time.Minute

// Both directions of both applications meet in these packets.
const (
	toPeer   = wire.TLSData + " and dst port 18443"
	fromPeer = wire.TLSData + " and src port 18443"
)

// Packets with data on the applications' own ports: the length of the IP
// packet less both headers is not zero.
const inTheClear = "(port 9000 or port 9080) and tcp and (ip[2:2] - ((ip[0] & 0xf) << 2) - ((tcp[12] & 0xf0) >> 2)) != 0"

func run(ctx context.Context) error {
	heading("Two pods on two nodes greet each other over raw TCP and HTTP")
	if err := command(ctx, "kubectl", "apply", "-f", "examples/demo.yaml"); err != nil {
		return err
	}
	if err := command(ctx, "kubectl", "-n", "demo", "wait", "--for=condition=Ready", "pod/pod-01", "pod/pod-02", "--timeout=2m"); err != nil {
		return err
	}
	if err := command(ctx, "kubectl", "-n", "demo", "get", "pods", "-o", "wide"); err != nil {
		return err
	}

	dir, err := os.MkdirTemp("", "demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var before, after []string
	heading("On the wire between the nodes, before")
	if enabled(ctx) {
		fmt.Println("(the pods have gateways from an earlier demo: delete the namespace demo to see the cleartext again)")
	} else if before, _, err = look(ctx, filepath.Join(dir, "before.pcap"), readable); err != nil {
		return err
	} else if clear, err := wire.Open(filepath.Join(dir, "before.pcap")).Packets(ctx, inTheClear); err != nil || len(clear) == 0 {
		// Without this control an empty result afterwards would prove nothing.
		return errors.Join(errors.New("no data was seen on the applications' own ports"), err)
	}
	for _, text := range before {
		fmt.Printf("  readable: %q\n", text)
	}

	heading("Three commands")
	for _, args := range [][]string{
		{"gateway", "init-ca"},
		{"gateway", "-n", "demo", "enable", "pod/pod-01", "pod/pod-02"},
		{"gateway", "-n", "demo", "status"},
	} {
		if err := command(ctx, "kubectl", args...); err != nil {
			return err
		}
	}

	heading("On the wire between the nodes, after")
	after, packets, err := look(ctx, filepath.Join(dir, "after.pcap"), encrypted)
	if err != nil {
		return err
	}
	clear, err := wire.Open(filepath.Join(dir, "after.pcap")).Packets(ctx, inTheClear)
	if err != nil {
		return err
	}
	if len(clear) > 0 {
		return fmt.Errorf("%d packets with data are still on the applications' own ports: %s", len(clear), clear[0])
	}
	for _, line := range packets[:min(len(packets), 6)] {
		fmt.Println("  " + line)
	}
	if len(after) > 0 {
		return fmt.Errorf("still readable on the wire: %q", after)
	}
	if err := answered(ctx); err != nil {
		return err
	}
	summary(before, packets)
	return nil
}

// answered shows that the applications still work.
func answered(ctx context.Context) error {
	for _, pod := range []string{"pod-01", "pod-02"} {
		out, err := exec.CommandContext(ctx, "kubectl", "-n", "demo", "logs", pod, "-c", "app", "--since=5s").Output()
		if err != nil {
			return fmt.Errorf("reading the log of %s: %w", pod, err)
		}
		for _, protocol := range []string{"tcp: ", "http: "} {
			if !regexp.MustCompile(protocol + `.* answers`).Match(out) {
				return fmt.Errorf("%s gets no answers over %s any more: %s", pod, strings.Trim(protocol, ": "), out)
			}
		}
	}
	return nil
}

// enabled reports whether the pods have gateways already.
func enabled(ctx context.Context) bool {
	out, err := exec.CommandContext(ctx, "kubectl", "-n", "demo", "get", "pods", "-o", "jsonpath={.items[*].spec.ephemeralContainers}").Output()
	return err == nil && strings.Contains(string(out), "kube-gateway")
}

// look records until done says so, and returns the greetings that were
// readable and the packets that were encrypted.
func look(ctx context.Context, file string, done func(texts, packets []string) bool) (texts, packets []string, err error) {
	c, err := wire.Start(ctx, file, wire.BetweenNodes())
	if err != nil {
		return nil, nil, err
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if texts, packets, err = read(ctx, c); err != nil || done(texts, packets) {
			break
		}
		select {
		case <-wait.Done():
			return nil, nil, errors.Join(fmt.Errorf("the applications were not seen on the wire within %v: %q, %d encrypted packets", patience, texts, len(packets)), c.Stop(ctx))
		case <-time.After(200 * time.Millisecond):
		}
	}
	if err := errors.Join(err, c.Stop(ctx)); err != nil {
		return nil, nil, err
	}
	return read(ctx, c)
}

func read(ctx context.Context, c *wire.Recording) (texts, packets []string, err error) {
	texts, err = c.Find(greeting)
	if err != nil {
		return nil, nil, err
	}
	// tcpdump cannot read a file without its header, which it writes at once.
	packets, err = c.Packets(ctx, "("+toPeer+") or ("+fromPeer+")")
	return texts, packets, err
}

// readable says that every greeting was seen.
func readable(texts, _ []string) bool { return len(texts) == allGreetings }

// encrypted says that a few rounds of greetings went by. A round of one pod is
// two connections of two such packets or more.
func encrypted(_, packets []string) bool { return len(packets) >= 3*2*2*2 }

func summary(before, packets []string) {
	heading("What was proven")
	if len(before) > 0 {
		fmt.Printf("  before: %d greetings in cleartext on the wire, over TCP and HTTP, in both directions\n", len(before))
	}
	fmt.Printf("  after:  %d packets of TLS records on port 18443, not one byte of cleartext, and the applications\n", len(packets))
	fmt.Println("          did not notice: no restart, same addresses, same answers")
	fmt.Printf(`
The cluster stays up. To go on by hand:
  export KUBECONFIG=%s
  export XDG_DATA_HOME=%s
  export PATH=%s:%s:$PATH
  kubectl gateway -n demo tail --all
and to end it:
  make cluster-down
`, os.Getenv("KUBECONFIG"), os.Getenv("XDG_DATA_HOME"), directoryOf("kubectl-gateway"), directoryOf("kubectl"))
}

// directoryOf returns where on PATH a program lies.
func directoryOf(program string) string {
	path, err := exec.LookPath(program)
	if err != nil {
		return "."
	}
	return filepath.Dir(path)
}

func heading(text string) { fmt.Printf("\n== %s\n", text) }

// command runs a command as a person would type it.
func command(ctx context.Context, name string, args ...string) error {
	fmt.Printf("$ %s %s\n", name, strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}
