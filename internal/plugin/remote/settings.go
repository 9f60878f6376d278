package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// SetMode changes the mode of the gateway and returns its status then. With api.ExistingReset the
// gateway resets open connections that the mode forbids.
func (g *Conn) SetMode(ctx context.Context, mode api.Mode, existing api.Existing) (*api.Status, error) {
	status, err := g.tell(ctx, nil, append([]string{"mode", string(mode)}, existingWords(existing)...)...)
	if err == nil && status.Mode != mode {
		return nil, fmt.Errorf("the gateway says that its mode is %.40q", status.Mode)
	}
	return status, newer(err, noSuchChange)
}

// noSuchChange is what a gateway lacks that does not know a command, or a flag of it.
const noSuchChange = "the gateway is too old for this command or for one of its flags"

func existingWords(existing api.Existing) []string {
	if existing == api.ExistingReset {
		return []string{"--existing=reset"}
	}
	return nil
}

// SetRules changes the identity rules, as SetMode does the mode.
func (g *Conn) SetRules(ctx context.Context, rules api.Rules, existing api.Existing) (*api.Status, error) {
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
	status, err := g.tell(ctx, nil, append(words, existingWords(existing)...)...)
	if err == nil && !status.Rules.Equal(rules) {
		return nil, fmt.Errorf("the gateway says that its rules are %.200q", status.Arguments())
	}
	return status, newer(err, noSuchChange)
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
