package remote

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// SetMode changes the mode of the gateway in a container and returns its status
// then. Errors are those of Exec, and the gateway's own words for why it refused:
// after those nothing has changed. Clean what comes from the gateway before it
// reaches a terminal.
func (c *Client) SetMode(ctx context.Context, namespace, pod, container string, mode api.Mode) (*api.Status, error) {
	return c.tell(ctx, namespace, pod, container, nil, "mode", string(mode))
}

// SetAllow changes the identity rules, see api.ParseAllow, as SetMode does the
// mode. No patterns allow everyone in the trust domain.
func (c *Client) SetAllow(ctx context.Context, namespace, pod, container string, patterns []string) (*api.Status, error) {
	if len(patterns) == 0 {
		patterns = []string{"--everyone"}
	}
	return c.tell(ctx, namespace, pod, container, nil, append([]string{"allow"}, patterns...)...)
}

// tell runs a control command that changes the gateway and prints its status.
func (c *Client) tell(ctx context.Context, namespace, pod, container string, stdin io.Reader, words ...string) (*api.Status, error) {
	status, err := c.ask(ctx, namespace, pod, container, stdin, control(words...))
	if err != nil {
		return nil, err
	}
	return status, nil
}

// control is the command line of a control command.
func control(words ...string) []string {
	return slices.Concat([]string{GatewayProgram, "ctl"}, words, []string{"-o", "json"})
}

// ownWords turns what the gateway's program says when it fails ("error: …", and
// perhaps "hint: …" below) into such an error.
func ownWords(err error) error {
	var exit *ExitError
	if !errors.As(err, &exit) {
		return err
	}
	text, ok := strings.CutPrefix(strings.TrimSpace(exit.Stderr), "error: ")
	if !ok {
		return err
	}
	text, hint, _ := strings.Cut(text, "\nhint: ")
	own := &lineError{errors.New(text)}
	if hint == "" {
		return own
	}
	return api.WithHint(own, oneLine(errors.New(hint)))
}
