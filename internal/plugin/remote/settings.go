package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// SetMode changes the mode of the gateway and returns its status then.
func (g *Conn) SetMode(ctx context.Context, mode api.Mode) (*api.Status, error) {
	status, err := g.tell(ctx, nil, "mode", string(mode))
	if err == nil && status.Mode != mode {
		return nil, fmt.Errorf("the gateway says that its mode is %.40q", status.Mode)
	}
	return status, err
}

// SetRules changes the identity rules, as SetMode does the mode.
func (g *Conn) SetRules(ctx context.Context, rules api.Rules) (*api.Status, error) {
	words := []string{"allow", "--everyone"}
	if len(rules.Allow) > 0 {
		words = slices.Concat(words[:1], rules.Allow)
	}
	for _, pattern := range rules.Deny {
		words = append(words, "--deny="+pattern)
	}
	if rules.Audit {
		words = append(words, "--audit")
	}
	status, err := g.tell(ctx, nil, words...)
	if err == nil && !status.Rules.Equal(rules) {
		return nil, fmt.Errorf("the gateway says that its rules are %.200q", status.Arguments())
	}
	return status, err
}

// SetCoverage changes the coverage, as SetMode does the mode.
func (g *Conn) SetCoverage(ctx context.Context, cover *api.Cover) (*api.Status, error) {
	line, err := json.Marshal(cover)
	if err != nil {
		return nil, fmt.Errorf("writing the coverage: %w", err)
	}
	status, err := g.tell(ctx, line, "cover")
	if err == nil && status.Capture.Fingerprint != cover.Coverage.Fingerprint() {
		return nil, errors.New("the gateway says that it has another coverage")
	}
	return status, newer(err, "the gateway cannot change what it captures")
}
