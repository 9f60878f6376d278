//go:build linux

package handoff

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
)

// Only the worker knows the edges. It writes them to clients of a Unix socket beside the control
// socket, for root alone. The worker reads nothing there. The supervisor only opens the socket,
// so that clients wait while a worker is started again.

const (
	// edgesWriteTimeout bounds how long a client may hold up the next one.
	edgesWriteTimeout = 2 * time.Second
	// edgesRetry is how long to wait after accept(2) has failed.
	edgesRetry = time.Second
	// maxEdgeWords bounds a reason or an identity, in bytes: a SPIFFE ID has at
	// most 2048.
	maxEdgeWords = 2048
)

// EdgesPath returns the path of the socket for edges beside a control socket.
func EdgesPath(controlSocket string) string {
	return filepath.Join(filepath.Dir(controlSocket), "edges.sock")
}

// ListenEdges opens the socket at path. It replaces the socket of a dead gateway.
func ListenEdges(path string) (*os.File, error) {
	ln, err := control.Listen(path)
	if err != nil {
		return nil, fmt.Errorf("opening the socket for edges: %w", err)
	}
	defer ln.Close()
	ln.SetUnlinkOnClose(false)
	f, err := ln.File()
	if err != nil {
		return nil, fmt.Errorf("keeping the socket for edges: %w", err)
	}
	return f, nil
}

// ServeEdges writes what read returns to each client of ln, until ctx is done. It closes ln.
func ServeEdges(ctx context.Context, ln net.Listener, read func() api.Edges) error {
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accepting on the socket for edges: %w", err)
		case err != nil:
			select {
			case <-ctx.Done():
			case <-time.After(edgesRetry):
			}
			continue
		}
		// A client that does not read to the end gets nothing.
		_ = conn.SetDeadline(time.Now().Add(edgesWriteTimeout))
		_, _ = conn.Write(encodeEdges(read(), api.MaxEdgesAnswer))
		_ = conn.Close()
	}
}

// encodeEdges returns edges in at most limit bytes, as many as that allows.
func encodeEdges(edges api.Edges, limit int) []byte {
	for {
		text, err := json.Marshal(edges)
		if err != nil {
			return nil // every value of the type can be encoded
		}
		if len(text) <= limit || len(edges.Edges) == 0 {
			return text
		}
		edges.Bound(len(edges.Edges) * 3 / 4)
	}
}

// ReadEdges reads the edges of the worker at path. It waits for a worker that is being started
// again, until ctx is done. The pod and the existing connections stay empty: the worker does not
// decide them.
func ReadEdges(ctx context.Context, path string) (*api.Edges, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("reaching the worker: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	text, err := io.ReadAll(io.LimitReader(conn, api.MaxEdgesAnswer+1))
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("asking the worker: %w", context.Cause(ctx))
	case err != nil:
		return nil, fmt.Errorf("asking the worker: %w", err)
	}
	return parseEdges(text)
}

// parseEdges reads a worker's answer. It is strict, and its result is harmless.
func parseEdges(text []byte) (*api.Edges, error) {
	var edges api.Edges
	if err := parseStrictly(text, api.MaxEdgesAnswer, &edges); err != nil {
		return nil, fmt.Errorf("reading the worker's answer: %s", api.OneLine(err.Error()))
	}
	if err := checkEdges(&edges); err != nil {
		return nil, fmt.Errorf("reading the worker's answer: %w", err)
	}
	return &edges, nil
}

// checkEdges returns why edges cannot be used, makes their texts harmless, and removes what a worker
// does not decide.
func checkEdges(edges *api.Edges) error {
	if len(edges.Edges) > api.MaxEdges {
		return fmt.Errorf("there are %d edges", len(edges.Edges))
	}
	for i := range edges.Edges {
		if err := checkEdge(&edges.Edges[i]); err != nil {
			return fmt.Errorf("edge %d: %w", i, err)
		}
	}
	edges.Pod, edges.PodIPs, edges.Existing = api.PodRef{}, nil, nil
	return nil
}

func checkEdge(e *api.Edge) error {
	switch {
	case e.Direction != api.Outbound && e.Direction != api.Inbound:
		return errors.New("its direction is unknown")
	case e.Wire != api.WireNone && e.Wire != api.WirePort && e.Wire != api.WireInband:
		return errors.New("its wire is unknown")
	case e.Verdict != api.EdgeEncrypted && e.Verdict != api.EdgePlaintext && e.Verdict != api.EdgeRefused:
		return errors.New("its verdict is unknown")
	case e.Open < 0:
		return errors.New("it has a negative number of connections")
	case len(e.Peer) > maxEdgeWords || len(e.Reason) > maxEdgeWords:
		return errors.New("its words are too long")
	}
	for _, a := range []netip.Addr{e.Source, e.Destination.Addr(), e.Dialled.Addr()} {
		// A zone is text, and no pod's address has one.
		if a.Zone() != "" {
			return errors.New("its address has a zone")
		}
	}
	e.Peer, e.Reason = api.OneLine(e.Peer), api.OneLine(e.Reason)
	return nil
}
