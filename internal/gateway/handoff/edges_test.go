//go:build linux

package handoff

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func someEdges(n int) api.Edges {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	edges := api.Edges{Since: now.Add(-time.Hour), Time: now, Edges: []api.Edge{}, Forgotten: 7}
	for i := range n {
		edges.Edges = append(edges.Edges, api.Edge{
			Direction: api.Inbound, Source: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}),
			Destination: netip.MustParseAddrPort("[fd00::1]:80"), Dialled: netip.MustParseAddrPort("10.96.0.1:80"),
			Peer: "spiffe://td/ns/a/sa/b", Wire: api.WireInband, Verdict: api.EdgeRefused, Reason: "no",
			Connections: 3, Open: 1, Sent: 5, Received: 6, LastSeen: now,
		})
	}
	return edges
}

// edgesSocket opens the socket as the supervisor does, and takes it over as a worker does.
func edgesSocket(t *testing.T) (net.Listener, string) {
	t.Helper()
	path := EdgesPath(filepath.Join(t.TempDir(), "control.sock"))
	var ln net.Listener
	for range 2 {
		if ln != nil {
			ln.Close() // a dead gateway leaves its path
		}
		f, err := ListenEdges(path)
		if err == nil {
			ln, err = net.FileListener(f)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
	}
	return ln, path
}

func TestEdgesAreTold(t *testing.T) {
	l, path := edgesSocket(t)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	want := someEdges(api.MaxEdges)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	// Whoever asks before there is a worker waits for it.
	got := make(chan error, 1)
	go func() {
		edges, err := ReadEdges(t.Context(), path)
		if err == nil {
			if diff := cmp.Diff(want, *edges, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
				cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				err = fmt.Errorf("(-told +read):\n%s", diff)
			}
		}
		got <- err
	}()
	// One that does not read holds nobody up for ever.
	silent := must.Get(net.Dial("unix", path))(t)
	defer silent.Close()
	go func() { served <- ServeEdges(ctx, l, func() api.Edges { return want }) }()
	if err := <-got; err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestEdgesOfADeadWorkerAreAwaitedNoLongerThanAsked(t *testing.T) {
	_, path := edgesSocket(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	go cancel(fmt.Errorf("enough"))
	if edges, err := ReadEdges(ctx, path); err == nil {
		t.Errorf("told %+v", edges)
	}
}

func TestEdgesAnswerIsBounded(t *testing.T) {
	edges := someEdges(api.MaxEdges)
	for i := range edges.Edges {
		edges.Edges[i].Peer = strings.Repeat("x", maxEdgeWords)
	}
	text := encodeEdges(edges, api.MaxEdgesAnswer)
	if len(text) > api.MaxEdgesAnswer || len(text) < api.MaxEdgesAnswer/2 {
		t.Fatalf("%d bytes", len(text))
	}
	got := must.Get(parseEdges(text))(t)
	if n := uint64(len(got.Edges)); n == 0 || got.Forgotten != 7+3*(api.MaxEdges-n) {
		t.Errorf("%d edges, %d forgotten", n, got.Forgotten)
	}
}

// TestEdgesAnswerLeavesOutThoseOfTheLargestHolder: a peer whose name is long and that was seen last displaces its own.
func TestEdgesAnswerLeavesOutThoseOfTheLargestHolder(t *testing.T) {
	edges := someEdges(api.MaxEdges)
	own := edges.Edges[api.MaxEdges-20:]
	for i := range own {
		own[i].Direction, own[i].LastSeen = api.Outbound, time.Time{}
	}
	for i := range edges.Edges[:api.MaxEdges-20] {
		edges.Edges[i].Direction, edges.Edges[i].Peer = api.Inbound, strings.Repeat("x", maxEdgeWords)
	}
	got := must.Get(parseEdges(encodeEdges(edges, api.MaxEdgesAnswer)))(t)
	left := slices.DeleteFunc(got.Edges, func(e api.Edge) bool { return e.Direction == api.Inbound })
	if len(left) != len(own) {
		t.Errorf("%d of the %d edges of the pod itself are left", len(left), len(own))
	}
}

func TestWorkersAnswersThatAreRefused(t *testing.T) {
	good := string(encodeEdges(someEdges(1), api.MaxEdgesAnswer))
	if _, err := parseEdges([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"", "{", "[]", good + good, good + "x",
		strings.Replace(good, `"edges"`, `"wedges"`, 1),
		strings.Replace(good, `"inbound"`, `"sideways"`, 1),
		strings.Replace(good, `"inband"`, `"pigeon"`, 1),
		strings.Replace(good, `"refused"`, `"fine"`, 1),
		strings.Replace(good, `"open":1`, `"open":-1`, 1),
		strings.Replace(good, `"10.0.0.0"`, `"fe80::1%\u001b[2J"`, 1),
		strings.Replace(good, `"no"`, `"`+strings.Repeat("x", maxEdgeWords+1)+`"`, 1),
		string(encodeEdges(someEdges(api.MaxEdges+1), 1<<30)),
		good + strings.Repeat(" ", api.MaxEdgesAnswer),
	} {
		if text != good {
			if edges, err := parseEdges([]byte(text)); err == nil {
				t.Errorf("%.80q was read as %+v", text, edges)
			}
		} else {
			t.Error("a case that changes nothing")
		}
	}
	// The pod is not the worker's to say.
	edges, err := parseEdges([]byte(strings.Replace(good, `"pod":{`, `"existing":{"outbound":1,"inbound":2},"pod":{"uid":"mine",`, 1)))
	if err != nil || edges.Pod.UID != "" || edges.Existing != nil {
		t.Errorf("%+v, %v", edges, err)
	}
}

func FuzzParseEdges(f *testing.F) {
	f.Add(encodeEdges(someEdges(0), api.MaxEdgesAnswer))
	f.Add(encodeEdges(someEdges(2), api.MaxEdgesAnswer))
	f.Add([]byte(`{"edges":[{"direction":"outbound","source":"::","destination":"1.2.3.4:5","wire":"none","verdict":"plaintext","reason":"\u001b[2J"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		edges, err := parseEdges(text)
		if err != nil {
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("the error is %q", err)
			}
			return
		}
		for _, e := range edges.Edges {
			words := e.Direction + e.Wire + e.Verdict + e.Peer + e.Reason + e.Source.String() + e.Destination.String() + e.Dialled.String()
			if strings.ContainsFunc(words, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("harmful words are left in %q", words)
			}
		}
		if _, err := json.Marshal(edges); err != nil {
			t.Errorf("what was read cannot be told: %v", err)
		}
	})
}
