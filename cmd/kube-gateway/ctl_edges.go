//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
	reasons "github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// edgesTimeout is for a worker that is being started again.
const edgesTimeout = 8 * time.Second

// ctlEdges prints the edges of the gateway.
func ctlEdges(ctx context.Context, c *call, r control.Request) (err error) {
	var status api.Status
	if err := c.ask(ctx, r, &status); err != nil {
		return err
	}
	edges := &api.Edges{Since: status.Time, Time: status.Time, Edges: []api.Edge{}}
	if status.State != api.Starting && status.State != api.Uncertified && status.State != api.Standby {
		ctx, cancel := context.WithTimeoutCause(ctx, edgesTimeout, fmt.Errorf("no answer within %v", edgesTimeout))
		defer cancel()
		if edges, err = readEdges(ctx, c); err != nil {
			return err
		}
	}
	edges.Pod, edges.PodIPs, edges.Existing = status.Pod, status.PodIPs, status.Existing
	if edges.Edges == nil {
		return errors.New("the worker's answer lacks the edges")
	}
	addBeside(edges, &status)
	return c.print(edges, func(w io.Writer) { printEdges(w, edges) })
}

// readEdges returns the edges of the worker, and those of workers and gateways before. A worker that ends meanwhile is in both or
// in neither: then they are read again.
func readEdges(ctx context.Context, c *call) (*api.Edges, error) {
	earlier := func() (e *api.Edges, err error) {
		err = c.ask(ctx, control.Request{Op: control.OpInherited}, &e)
		return e, err
	}
	before, err := earlier()
	for err == nil {
		var edges, after *api.Edges
		if edges, err = handoff.ReadEdges(ctx, handoff.EdgesPath(*c.socket)); err != nil {
			return nil, api.WithHint(err, "try again: the worker may be starting")
		}
		if after, err = earlier(); err == nil && reflect.DeepEqual(before, after) {
			return api.MergeEdges(edges, after), nil
		}
		before = after
	}
	return nil, err
}

// Reasons of connections that no worker carries.
const (
	reasonStranger = "client did not show a gateway"
	reasonOutside  = "outside of all captured ranges"
)

// addBeside adds those of beside, for which what a peer has invented makes room.
func addBeside(edges *api.Edges, status *api.Status) {
	edges.Edges = append(edges.Edges, beside(status)...)
	edges.Bound(api.MaxEdges)
}

// beside returns the edges of connections that no worker carries and that the programs
// count: those of clients without a gateway that permissive mode lets in and strict mode
// refuses, and those into private address space that no range names.
func beside(status *api.Status) (list []api.Edge) {
	own := func(like netip.Addr) netip.Addr {
		for _, ip := range status.PodIPs {
			if ip.Is4() == like.Is4() {
				return ip
			}
		}
		return netip.Addr{}
	}
	for _, inbound := range []struct {
		strangers       []api.Stranger
		verdict, reason string
	}{{status.Capture.Strangers, api.EdgePlaintext, reasonStranger}, {status.Capture.Refused, api.EdgeRefused, reasons.Plaintext.String()}} {
		for _, s := range inbound.strangers {
			if ip := own(s.Client); ip.IsValid() {
				list = append(list, api.Edge{Direction: api.Inbound, Source: s.Client, Destination: netip.AddrPortFrom(ip, s.Port), Wire: api.WireNone,
					Verdict: inbound.verdict, Reason: inbound.reason, Connections: s.Connections, LastSeen: s.LastSeen})
			}
		}
	}
	verdict := api.EdgePlaintext
	if status.Mode == api.Strict && status.Capture.Outside == api.OutsideRefuse {
		verdict = api.EdgeRefused
	}
	for _, o := range status.Capture.OutsideNetworks {
		if ip := own(o.Network.Addr()); ip.IsValid() {
			list = append(list, api.Edge{Direction: api.Outbound, Source: ip, Destination: netip.AddrPortFrom(o.Network.Addr(), 0), Network: o.Network, Wire: api.WireNone,
				Verdict: verdict, Reason: reasonOutside, Connections: o.Connections})
		}
	}
	return list
}

func printEdges(w io.Writer, edges *api.Edges) {
	for _, e := range edges.Edges {
		destination := e.Destination.String()
		if e.Network.IsValid() {
			destination = e.Network.String()
		}
		if e.Dialled.IsValid() {
			destination = e.Dialled.String() + " (" + destination + ")"
		}
		fmt.Fprintf(w, "%-9s %v to %s %s", e.Direction, e.Source, destination, e.Verdict)
		if e.Reason != "" {
			fmt.Fprintf(w, ": %s", e.Reason)
		}
		fmt.Fprintf(w, ", %d connections, %d open, %d bytes sent, %d received", e.Connections, e.Open, e.Sent, e.Received)
		if !e.LastSeen.IsZero() {
			fmt.Fprintf(w, ", last seen %s", e.LastSeen.UTC().Format(time.RFC3339))
		}
		fmt.Fprintln(w)
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
