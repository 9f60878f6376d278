package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// GatewayProgram is the gateway's program in its image.
const GatewayProgram = "/kube-gateway"

// statusLimit bounds a gateway's answer, in bytes. A real one has a few
// thousand; a gateway that somebody took over must not fill this memory.
const statusLimit = 1 << 20

// errTooLong says that a gateway's answer exceeds statusLimit.
var errTooLong = errors.New("the gateway's answer is too long")

// Status asks the gateway in a container how it is. With wait above zero the
// gateway answers once it is ready, or after that time. Errors are those of
// SetMode; a status that the gateway printed before it failed comes with the error.
//
// The answer is parsed, but its words are the gateway's: clean them before they
// reach a terminal.
func (c *Client) Status(ctx context.Context, namespace, pod, container string, wait time.Duration) (*api.Status, error) {
	command := []string{GatewayProgram, "ctl", "status", "-o", "json"}
	if wait > 0 {
		command = append(command, "--wait="+wait.String())
	}
	return c.ask(ctx, namespace, pod, container, nil, command)
}

// ask runs a command of the gateway that prints its status.
func (c *Client) ask(ctx context.Context, namespace, pod, container string, stdin io.Reader, command []string) (*api.Status, error) {
	text, err := c.read(ctx, namespace, pod, container, stdin, nil, command)
	status, err := parsed(text, err, namespace, pod, parseStatus)
	return status, ownWords(err)
}

// askNewer runs a command that not every gateway has: tooOld is what to say of one
// without.
func askNewer[T any](ctx context.Context, c *Client, namespace, pod, container, command, tooOld string, parse func([]byte) (*T, error)) (*T, error) {
	text, err := c.read(ctx, namespace, pod, container, nil, nil, control(command))
	answer, err := parsed(text, err, namespace, pod, parse)
	if err == nil {
		return answer, nil
	}
	if err = ownWords(err); strings.HasPrefix(err.Error(), "unknown control command") {
		err = api.WithHint(errors.New(tooOld), "use the plugin and the gateway image of one release")
	}
	return nil, err
}

// read runs a command of the gateway and returns what it prints. What it had
// printed before it failed comes with the *ExitError. through, if not nil, stands
// between the command and what keeps its words.
func (c *Client) read(ctx context.Context, namespace, pod, container string, stdin io.Reader,
	through func(io.Writer) io.Writer, command []string) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	answer := &head{limit: statusLimit, full: func() { cancel(errTooLong) }}
	var stdout io.Writer = answer
	if through != nil {
		stdout = through(answer)
	}
	err := c.Exec(ctx, namespace, pod, container, stdin, stdout, nil, command...)
	if err != nil && !errors.As(err, new(*ExitError)) {
		return nil, err
	}
	// The writer may have been cut in the moment the command ended.
	if context.Cause(ctx) == errTooLong {
		return nil, asking(namespace, pod, errTooLong)
	}
	return answer.data, err
}

// parsed parses what read returned.
func parsed[T any](text []byte, err error, namespace, pod string, parse func([]byte) (*T, error)) (*T, error) {
	if err != nil && len(text) == 0 {
		return nil, err
	}
	answer, parseErr := parse(text)
	if parseErr != nil {
		return nil, errors.Join(err, asking(namespace, pod, parseErr))
	}
	return answer, err
}

func asking(namespace, pod string, err error) error {
	return fmt.Errorf("asking the gateway of pod %s/%s: %w", namespace, pod, err)
}

// parseStatus reads a gateway's answer. Unknown fields and states are those of a
// newer gateway, and no mistake.
func parseStatus(text []byte) (*api.Status, error) {
	var status api.Status
	if err := json.Unmarshal(text, &status); err != nil {
		return nil, fmt.Errorf("reading its answer: %w", &lineError{err})
	}
	if status.State == "" {
		return nil, errors.New("its answer is not a status")
	}
	return &status, nil
}
