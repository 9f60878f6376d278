//go:build linux

package proxy

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// oneEdge waits until pod has one edge alone, and that fits.
func (pod *testPod) oneEdge(what string, fits func(api.Edge) bool) api.Edge {
	pod.t.Helper()
	var found []api.Edge
	defer func() {
		if pod.t.Failed() {
			pod.t.Logf("edges: %+v", found)
		}
	}()
	eventually(pod.t, what, func() bool {
		found = pod.proxy.Edges().Edges
		return len(found) == 1 && fits(found[0])
	})
	return found[0]
}

func TestEdgesOfEncryptedConnections(t *testing.T) {
	a := newAuthority(t)
	client, server := newPod(t, a, nil), newPod(t, a, nil)
	app := application(t, server.ip, echo)
	begin := time.Now()
	for range 3 {
		conn := client.dial(app)
		exchange(t, conn, "hello")
		end(t, conn)
	}
	client.oneEdge("three edges of a kind", func(e api.Edge) bool { return e.Connections == 3 && e.Open == 0 })
	conn := client.dial(app)
	exchange(t, conn, "open")
	// The bytes of the open connection count, too.
	out := client.oneEdge("the client's side", func(e api.Edge) bool { return e.Connections == 4 && e.Open == 1 && e.Sent == 19 && e.Received == 19 })
	in := server.oneEdge("the server's side", func(e api.Edge) bool { return e.Connections == 4 && e.Open == 1 && e.Sent == 19 && e.Received == 19 })
	for direction, e := range map[string]api.Edge{api.Outbound: out, api.Inbound: in} {
		if e.Direction != direction || e.Source != client.ip || e.Destination != app || e.Dialled.IsValid() ||
			e.Wire != api.WirePort || e.Verdict != api.EdgeEncrypted || e.Reason != "" ||
			e.Peer != "spiffe://"+testTrustDomain+"/ns/default/sa/app" || e.Sent != 19 || e.Received != 19 {
			t.Errorf("the edge is %+v", e)
		}
		if e.LastSeen.Before(begin) || e.LastSeen.After(time.Now()) {
			t.Errorf("it was last seen at %v", e.LastSeen)
		}
	}
}

func TestEdgeOfPlaintext(t *testing.T) {
	a := newAuthority(t)
	client := newPod(t, a, permissive)
	app := application(t, podAddress(), echo)
	conn := client.dial(app)
	exchange(t, conn, "hello")
	e := client.oneEdge("the open connection", func(e api.Edge) bool { return e.Open == 1 && e.Sent == 5 })
	if e.Verdict != api.EdgePlaintext || e.Reason != traffic.PeerRefused.String() || e.Wire != api.WireNone || e.Destination != app || e.Peer != "" {
		t.Errorf("the edge is %+v", e)
	}
}

func TestEdgesOfRefusals(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, func(o *Options) { o.Config.Allow = []string{"ns/other/sa/*"} })
	client, lonely := newPod(t, a, nil), newPod(t, a, nil)
	app := application(t, server.ip, echo)
	nobody := netip.AddrPortFrom(podAddress(), 80)
	for range 2 {
		client.dialReset(app)
		lonely.dialReset(nobody)
	}
	// What the client took for encrypted was refused by the peer.
	out := client.oneEdge("the client's side", func(e api.Edge) bool { return e.Connections == 2 && e.Verdict == api.EdgeRefused })
	if out.Open != 0 || out.Reason != traffic.PeerNotAllowed.String() || out.Peer == "" {
		t.Errorf("the client's edge is %+v", out)
	}
	in := server.oneEdge("the server's side", func(e api.Edge) bool { return e.Connections == 2 })
	if in.Verdict != api.EdgeRefused || in.Open != 0 || in.Reason != traffic.IdentityNotAllowed.String() || in.Source != client.ip || in.Destination != app {
		t.Errorf("the server's edge is %+v", in)
	}
	e := lonely.oneEdge("no gateway", func(e api.Edge) bool { return e.Connections == 2 })
	if e.Verdict != api.EdgeRefused || e.Reason != traffic.PeerRefused.String() || e.Wire != api.WireNone {
		t.Errorf("without a gateway there the edge is %+v", e)
	}
}

// TestEdgesOfLies: what a peer invents is in no edge, whatever it is refused for, and in no field of the log where an address is
// looked for.
func TestEdgesOfLies(t *testing.T) {
	for name, rules := range map[string][]string{traffic.Forbidden.String(): nil, traffic.IdentityNotAllowed.String(): {"ns/other/sa/*"}} {
		t.Run(name, func(t *testing.T) {
			a := newAuthority(t)
			server := newPod(t, a, func(o *Options) { o.Config.Allow = rules })
			s := newStranger(t, a, server)
			honest := header{Destination: netip.AddrPortFrom(server.ip, 80), Client: netip.AddrPortFrom(s.ip, 4000)}
			for _, lie := range []func(h *header){
				func(h *header) { h.Client = netip.AddrPortFrom(podAddress(), 4000) },
				func(h *header) { h.Destination = netip.AddrPortFrom(podAddress(), 80) },
				func(h *header) { h.Destination = netip.AddrPortFrom(server.ip, api.PeerPort) },
				func(h *header) {
					h.Client, h.Dialled = netip.AddrPortFrom(podAddress(), 4000), netip.AddrPortFrom(podAddress(), 80)
				},
			} {
				h := honest
				lie(&h)
				told := fmt.Sprintf("says that %v dials %v", h.Client, h.Destination)
				if got, err := s.say(server, appendHeader(nil, h)); string(got) != string(rune(statusNotAllowed)) {
					t.Errorf("got %q, %v", got, err)
				}
				server.logged(told, func(l api.Connection) bool {
					return l.Source == l.TLS.Remote && l.Source.Addr() == s.ip && l.Destination == l.TLS.Local && !l.Dialled.IsValid() &&
						l.Reason == name && strings.Contains(l.Error, told)
				})
			}
			e := server.oneEdge("all lies", func(e api.Edge) bool { return e.Connections == 4 })
			if e.Source != s.ip || e.Destination != netip.AddrPortFrom(server.ip, api.PeerPort) || e.Dialled.IsValid() ||
				e.Peer == "" || e.Verdict != api.EdgeRefused || e.Reason != name {
				t.Errorf("the edge is %+v", e)
			}
		})
	}
}

// TestEdgesAtOnce is for the race detector: connections settle while others read.
func TestEdgesAtOnce(t *testing.T) {
	a := newAuthority(t)
	client, server := newPod(t, a, nil), newPod(t, a, nil)
	app := application(t, server.ip, echo)
	const each, workers = 20, 8
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range each {
				conn, err := client.tryDial(app)
				if err != nil {
					t.Error(err)
					return
				}
				_, err = conn.Write([]byte("x"))
				if err == nil {
					_, err = conn.Read(make([]byte, 1))
				}
				if err != nil {
					t.Error(err)
				}
				_ = conn.Close()
				client.proxy.Edges()
			}
		})
	}
	all.Wait()
	for _, pod := range []*testPod{client, server} {
		pod.oneEdge("all have ended", func(e api.Edge) bool {
			return e.Connections == each*workers && e.Open == 0 && e.Sent == each*workers && e.Received == each*workers
		})
	}
}
