// Package fakegateway stands for the gateways of a cluster: it answers the commands that
// the plugin runs in their containers, so that tests exercise the plugin's side whole.
package fakegateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

// record is what gateways were asked.
type record struct {
	mu    sync.Mutex
	asked []string
}

// Asked returns the commands so far, and forgets them.
func (r *record) Asked() (asked []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked, r.asked = r.asked, nil
	return asked
}

// Call is one use of 'kube-gateway ctl' in a container.
type Call struct {
	remote.Ref
	// Words are those behind ctl, without the output format.
	Words  []string
	stdin  *bufio.Reader
	stdout io.Writer
}

// Op is the name of the control command.
func (c *Call) Op() string { return c.Words[0] }

// Read parses the line that the command was given.
func (c *Call) Read(into any) error {
	line, err := c.stdin.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("reading the input: %w", err)
	}
	return json.Unmarshal(line, into)
}

// Request asks the other side for the certificate for csr, as 'ctl renew' does.
func (c *Call) Request(csr []byte) (*api.IssuedCertificate, error) {
	if err := json.NewEncoder(c.stdout).Encode(api.CertificateRequest{CSR: string(csr)}); err != nil {
		return nil, err
	}
	var issued api.IssuedCertificate
	return &issued, c.Read(&issued)
}

// Gateways answers commands. Answers are written as JSON, nil ones are not. Errors are
// those of a remote.Runner, or come from Refuse.
type Gateways func(ctx context.Context, call *Call) (answer any, err error)

// Refuse is the error of a gateway that says why it refuses.
func Refuse(words string) error {
	return &remote.ExitError{Command: remote.GatewayProgram, Code: 1, Stderr: "error: " + words + "\n"}
}

// Run makes Gateways a remote.Runner.
func (g Gateways) Run(ctx context.Context, ref remote.Ref, stdin io.Reader, stdout io.Writer, command ...string) error {
	if len(command) < 3 || command[0] != remote.GatewayProgram || command[1] != "ctl" || !strings.HasSuffix(strings.Join(command, " "), " -o json") {
		return fmt.Errorf("unexpected command %q", command)
	}
	call := &Call{Ref: ref, Words: command[2 : len(command)-2], stdout: stdout}
	if stdin != nil {
		call.stdin = bufio.NewReader(stdin)
	}
	if pipe, ok := stdin.(io.Closer); ok {
		defer context.AfterFunc(ctx, func() { pipe.Close() })()
	}
	answer, err := g(ctx, call)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("running a command: %w", context.Cause(ctx))
	}
	if answer != nil {
		err = errors.Join(err, json.NewEncoder(stdout).Encode(answer))
	}
	return err
}

// Client returns a client of these gateways, which asks each once.
func (g Gateways) Client(kube kubernetes.Interface) *remote.Client {
	return &remote.Client{Kube: kube, Runner: g}
}
