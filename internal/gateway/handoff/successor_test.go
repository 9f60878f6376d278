//go:build linux

package handoff

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// meeting connects two gateways.
func meeting(t *testing.T) (from, to *Neighbour) {
	t.Helper()
	must.BeRoot(t, "to take over")
	offer := must.Get(NewOffer())(t)
	accepted := make(chan *Neighbour, 1)
	go func() {
		n, err := offer.Accept(t.Context())
		if err != nil {
			t.Error(err)
		}
		accepted <- n
	}()
	to = must.Get(Meet(t.Context(), &offer.Handover))(t)
	if from = <-accepted; from == nil {
		t.FailNow()
	}
	t.Cleanup(func() { from.Close(); to.Close() })
	return from, to
}

// TestNeighbours: a message and its files arrive as they were, and the end of a gateway is seen.
func TestNeighbours(t *testing.T) {
	from, to := meeting(t)
	ln := must.Get(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer ln.Close()
	f := must.Get(ln.(*net.TCPListener).File())(t)
	defer f.Close()
	edges := &api.Edges{Edges: make([]api.Edge, api.MaxEdges)}
	for i := range edges.Edges {
		edges.Edges[i] = api.Edge{Direction: api.Inbound, Wire: api.WirePort, Verdict: api.EdgeEncrypted,
			Source: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Destination: netip.MustParseAddrPort("10.0.0.1:80")}
	}
	revoked := json.RawMessage(`[{"list":"` + strings.Repeat("x", 256<<10) + `"}]`)
	sent := []*Message{
		{Welcome: &Welcome{Cgroups: []uint64{1, 2}, Inband: 18445, Metrics: true, Revoked: revoked}},
		{Totals: &Totals{Edges: edges, Unencrypted: []api.Unencrypted{{Direction: api.Outbound, Reason: "plain\x1btext"}}}},
		{Refused: "no\nway"},
	}
	go func() {
		for i, m := range sent {
			var files []*os.File
			if i == 0 {
				files = []*os.File{f, f}
			}
			if err := from.Send(m, files...); err != nil {
				t.Error(err)
			}
		}
		from.Close()
	}()
	for i := range sent {
		m, files, err := to.Receive(time.Now().Add(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		want := map[int]int{0: 2}[i]
		if len(files) != want {
			t.Errorf("message %d brings %d files", i, len(files))
		}
		for _, f := range files {
			got, err := net.FileListener(f)
			if err != nil || got.Addr().String() != ln.Addr().String() {
				t.Errorf("a file is not the listener: %v, %v", got, err)
			}
			if err := f.SetDeadline(time.Time{}); !errors.Is(err, os.ErrNoDeadline) {
				t.Errorf("connections to a listener of another gateway wake this process: %v", err)
			}
			f.Close()
		}
		sent[i].Refused = api.OneLine(sent[i].Refused)
		if sent[i].Totals != nil {
			sent[i].Totals.Unencrypted[0].Reason = "plain?text"
		}
		if diff := cmp.Diff(sent[i], m, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})); diff != "" {
			t.Errorf("message %d (-sent +received):\n%s", i, diff)
		}
	}
	if _, _, err := to.Receive(time.Now().Add(time.Minute)); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// TestOffer: who does not know the token gets nothing, and cannot keep the right one away.
func TestOffer(t *testing.T) {
	must.BeRoot(t, "to take over")
	offer := must.Get(NewOffer())(t)
	accepted := make(chan error, 1)
	go func() {
		n, err := offer.Accept(t.Context())
		if n != nil {
			n.Close()
		}
		accepted <- err
	}()
	for range 2 * maxStrangers {
		silent := must.Get(net.Dial("unix", "@"+offer.Handover.Socket))(t)
		defer silent.Close()
	}
	wrong := offer.Handover
	wrong.Token = make([]byte, len(wrong.Token))
	if _, err := Meet(t.Context(), &wrong); err == nil {
		t.Error("a stranger was let in")
	}
	n := must.Get(Meet(t.Context(), &offer.Handover))(t)
	n.Close()
	if err := <-accepted; err != nil {
		t.Error(err)
	}
	if _, err := Meet(t.Context(), &offer.Handover); err == nil {
		t.Error("an offer is good for two")
	}
}

// TestImpostor: a successor does not believe one that does not know the token, and sends nothing that
// would help it.
func TestImpostor(t *testing.T) {
	offer := must.Get(NewOffer())(t)
	defer offer.Close()
	go func() {
		conn, err := offer.ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		said := make([]byte, 2*nonceSize)
		_, _ = conn.Write(make([]byte, nonceSize))
		_, _ = io.ReadFull(conn, said)
		_, _ = conn.Write(said[nonceSize:]) // its own proof
	}()
	if _, err := Meet(t.Context(), &offer.Handover); !errors.Is(err, errProof) {
		t.Errorf("an impostor: %v", err)
	}
}

func TestNobodyComes(t *testing.T) {
	offer := must.Get(NewOffer())(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := offer.Accept(ctx); err == nil {
		t.Error("somebody came")
	}
	if _, err := Meet(t.Context(), &offer.Handover); err == nil {
		t.Error("an offer stays after its time")
	}
}

func FuzzMessage(f *testing.F) {
	for _, m := range []Message{
		{Hello: &Hello{Cgroup: 1}}, {Attached: true}, {Refused: "x"}, {Welcome: &Welcome{Cgroups: []uint64{1}}},
		{Welcome: &Welcome{Cgroups: []uint64{1}, Revoked: json.RawMessage(`[{"list":"{}","signature":"eA==","signer":"x"}]`)}},
		{Totals: &Totals{
			Unencrypted: []api.Unencrypted{{Direction: api.Inbound, Reason: "x"}},
			Strangers:   []api.Stranger{{Client: netip.MustParseAddr("10.0.0.1")}},
			Outside:     []api.OutsideNetwork{{Network: netip.MustParsePrefix("10.0.0.0/24")}},
			Edges: &api.Edges{Edges: []api.Edge{{Direction: api.Inbound, Wire: api.WireNone, Verdict: api.EdgeRefused,
				Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddrPort("10.0.0.2:80")}}},
		}},
	} {
		text, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
		f.Add(append(text[:len(text)-1], `,"unknown":1}`...))
	}
	f.Add([]byte(`{"refused":"` + "\\u001b" + `"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseMessage(text)
		if err != nil {
			return
		}
		if m.Refused != api.OneLine(m.Refused) {
			t.Errorf("%q", m.Refused)
		}
		if m.Totals != nil {
			for _, u := range m.Totals.Unencrypted {
				if u.Reason != api.OneLine(u.Reason) {
					t.Errorf("%q", u.Reason)
				}
			}
			if e := m.Totals.Edges; e != nil && len(e.Edges) > api.MaxEdges {
				t.Errorf("%d edges", len(e.Edges))
			}
		}
		// What was accepted can be passed on.
		again := must.Get(json.Marshal(m))(t)
		if _, err := parseMessage(again); err != nil {
			t.Errorf("%s: %v", again, err)
		}
	})
}
