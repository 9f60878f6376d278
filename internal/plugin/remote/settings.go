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

// SetAllow changes the identity rules, see api.ParseAllow, as SetMode does the
// mode. No patterns allow everyone in the trust domain.
func (g *Conn) SetAllow(ctx context.Context, patterns []string) (*api.Status, error) {
	words := []string{"allow", "--everyone"}
	if len(patterns) > 0 {
		words = slices.Concat(words[:1], patterns)
	}
	status, err := g.tell(ctx, nil, words...)
	if err == nil && !slices.Equal(status.Allow, patterns) {
		return nil, fmt.Errorf("the gateway says that it allows %.200q", status.Allow)
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
