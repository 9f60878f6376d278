//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
)

// edgesTimeout is for a worker that is being started again.
const edgesTimeout = 8 * time.Second

// ctlEdges prints the edges of the gateway.
func ctlEdges(ctx context.Context, c *call, args []string) error {
	status, err := c.current(ctx, args)
	if err != nil {
		return err
	}
	edges := &api.Edges{Since: status.Time, Time: status.Time, Edges: []api.Edge{}}
	if status.State != api.Starting && status.State != api.Uncertified {
		ctx, cancel := context.WithTimeoutCause(ctx, edgesTimeout, fmt.Errorf("no answer within %v", edgesTimeout))
		defer cancel()
		if edges, err = handoff.ReadEdges(ctx, handoff.EdgesPath(*c.socket)); err != nil {
			return api.WithHint(err, "try again: the worker may be starting")
		}
	}
	edges.Pod, edges.PodIPs, edges.Existing = status.Pod, status.PodIPs, status.Existing
	if edges.Edges == nil {
		return errors.New("the worker's answer lacks the edges")
	}
	return c.print(edges, func(w io.Writer) { printEdges(w, edges) })
}

func printEdges(w io.Writer, edges *api.Edges) {
	for _, e := range edges.Edges {
		destination := e.Destination.String()
		if e.Dialled.IsValid() {
			destination = e.Dialled.String() + " (" + destination + ")"
		}
		fmt.Fprintf(w, "%-9s %v to %s %s", e.Direction, e.Source, destination, e.Verdict)
		if e.Reason != "" {
			fmt.Fprintf(w, ": %s", e.Reason)
		}
		fmt.Fprintf(w, ", %d connections, %d open, %d bytes sent, %d received, last seen %s\n",
			e.Connections, e.Open, e.Sent, e.Received, e.LastSeen.UTC().Format(time.RFC3339))
	}
	if edges.Forgotten > 0 {
		fmt.Fprintf(w, "%d connections of edges that are not listed\n", edges.Forgotten)
	}
	if e := edges.Existing; e != nil {
		for _, c := range e.Connections {
			fmt.Fprintf(w, "%-9s %v and %v plaintext: no gateway carries it\n", c.Direction, c.Local, c.Remote)
		}
	}
}
