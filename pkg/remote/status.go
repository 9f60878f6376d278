package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
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
// Exec; a status that the gateway printed before it failed comes with the error.
//
// The answer is parsed, but its words are the gateway's: clean them before they
// reach a terminal.
func (c *Client) Status(ctx context.Context, namespace, pod, container string, wait time.Duration) (*api.Status, error) {
	command := []string{GatewayProgram, "ctl", "status", "-o", "json"}
	if wait > 0 {
		command = append(command, "--wait="+wait.String())
	}
	return c.ask(ctx, namespace, pod, container, command)
}

// ask runs a command of the gateway that prints its status.
func (c *Client) ask(ctx context.Context, namespace, pod, container string, command []string) (*api.Status, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	answer := &head{limit: statusLimit, full: func() { cancel(errTooLong) }}
	err := c.Exec(ctx, namespace, pod, container, nil, answer, nil, command...)
	if err != nil && (!errors.As(err, new(*ExitError)) || len(answer.data) == 0) {
		return nil, err
	}
	// The writer may have been cut in the moment the command ended.
	if context.Cause(ctx) == errTooLong {
		return nil, fmt.Errorf("asking the gateway of pod %s/%s: %w", namespace, pod, errTooLong)
	}
	status, parseErr := parseStatus(answer.data)
	if parseErr != nil {
		return nil, errors.Join(err, fmt.Errorf("asking the gateway of pod %s/%s: %w", namespace, pod, parseErr))
	}
	return status, err
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
