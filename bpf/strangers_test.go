//go:build linux

package bpf_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// TestStrangers: permissive mode remembers those whose plaintext strict mode would refuse,
// by client and port, and nobody else.
func TestStrangers(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		lab := netlab.New(t, 3)
		server := startPod(t, lab.Node(0), clsact, func(o *bpf.Options) { o.PlaintextFrom = sources(lab.Node(1).IP4.String() + "/32") })
		allowed := startAgent(t, lab.Node(1), lab.Node(1).OtherCgroup, 0)
		other := startAgent(t, lab.Node(2), lab.Node(2).OtherCgroup, 0)
		server.plain("allowed", allowed, dial{To: server.four(80)})
		server.plain("a stranger", other, dial{To: server.four(80)})
		server.plain("a stranger again", other, dial{To: server.four(80)})
		server.plain("a stranger, IPv6", other, dial{To: server.six(80), Six: true})
		server.plain("the pod itself", server.app, dial{To: server.four(80)})
		server.setStrict(true)
		server.refused("a stranger, strict", other, dial{To: server.four(80)})

		got, err := server.programs.Strangers()
		must(t, err)
		want := []api.Stranger{
			{Client: lab.Node(2).IP6, Port: 80, Connections: 1, LastSeen: time.Now()},
			{Client: lab.Node(2).IP4, Port: 80, Connections: 2, LastSeen: time.Now()},
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateApproxTime(expect.Patience)); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}
