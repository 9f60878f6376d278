package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Edges asks the gateway who it talks to.
func (g *Conn) Edges(ctx context.Context) (*api.Edges, error) {
	edges, err := ask(ctx, g, nil, g.parseEdges, "edges")
	if err != nil {
		return nil, newer(err, "its gateway is too old to tell")
	}
	return edges, nil
}

func (g *Conn) parseEdges(text []byte) (*api.Edges, error) {
	var edges api.Edges
	if err := json.Unmarshal(text, &edges); err != nil {
		return nil, fmt.Errorf("reading its answer: %w", &lineError{err})
	}
	if edges.Edges == nil || len(edges.Edges) > api.MaxEdges {
		return nil, errors.New("its answer is not a list of edges")
	}
	if err := g.mine(edges.Pod); err != nil {
		return nil, err
	}
	return &edges, nil
}
