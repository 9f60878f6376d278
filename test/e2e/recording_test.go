//go:build e2e

package e2e

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/test/wire"
)

const (
	tlsData  = wire.TLSData
	tlsData6 = wire.TLSData6
)

// recording is a recording whose failures fail the test.
type recording struct {
	t *testing.T
	c *wire.Recording
}

// record starts to record what pods send and receive between the nodes. What other
// tests' pods do is none of it.
func record(t *testing.T, pods ...*pod) *recording {
	t.Helper()
	return recordAt(t, wire.BetweenNodes(), pods...)
}

// recordAt starts to record what pods send and receive through an interface of node-1.
func recordAt(t *testing.T, place wire.Place, pods ...*pod) *recording {
	t.Helper()
	var hosts []netip.Addr
	for _, p := range pods {
		hosts = append(hosts, p.ips...)
	}
	c := must.Get(wire.Start(t.Context(), filepath.Join(t.TempDir(), "wire.pcap"), place, hosts...))(t)
	return &recording{t, c}
}

func (w *recording) stop() {
	w.t.Helper()
	must.Do(w.t, w.c.Stop(w.t.Context()))
}

// contains reports whether text crossed the network in the clear.
func (w *recording) contains(text string) bool {
	w.t.Helper()
	found := must.Get(w.c.Contains(text))(w.t)
	return found
}

// count returns how many packets match a filter.
func (w *recording) count(filter string) int {
	w.t.Helper()
	packets := must.Get(w.c.Packets(w.t.Context(), filter))(w.t)
	return len(packets)
}
