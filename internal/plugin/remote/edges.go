package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Edges asks the gateway in a container who it talks to. Errors are those of SetMode.
//
// The answer is parsed, but its words are the gateway's: clean them before they reach
// a terminal.
func (c *Client) Edges(ctx context.Context, namespace, pod, container string) (*api.Edges, error) {
	return askNewer(ctx, c, namespace, pod, container, "edges", "its gateway is too old to tell", parseEdges)
}

func parseEdges(text []byte) (*api.Edges, error) {
	var edges api.Edges
	if err := json.Unmarshal(text, &edges); err != nil {
		return nil, fmt.Errorf("reading its answer: %w", &lineError{err})
	}
	if edges.Edges == nil || len(edges.Edges) > api.MaxEdges {
		return nil, errors.New("its answer is not a list of edges")
	}
	return &edges, nil
}
