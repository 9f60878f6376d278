package edges

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/status"
)

// Proposal is what identity rules would allow the peers of a pod that its gateway has seen.
type Proposal struct {
	Pod *corev1.Pod
	// Rules has in Allow a rule for each peer, with the ports that it has connected to, and is
	// otherwise what the gateway has in force. Allow is empty if nobody has connected.
	Rules api.Rules
	// Since is when the gateway's worker began to count, Forgotten how many connections it
	// has no room to remember.
	Since     time.Time
	Forgotten uint64
	// Err is why the gateway could not be asked, or that there is none.
	Err error
}

// Propose asks the gateway of a pod whom it has let in encrypted, and returns the rules for that.
func (c *Collector) Propose(ctx context.Context, pod *corev1.Pod) Proposal {
	p := Proposal{Pod: pod}
	_, p.Err = c.Gateways.Ask(ctx, pod, cmp.Or(c.Timeout, status.DefaultTimeout), "", func(ctx context.Context, conn *remote.Conn) error {
		st, err := conn.Status(ctx)
		if err != nil {
			return err
		}
		seen, err := conn.Edges(ctx)
		if err != nil {
			return err
		}
		p.Rules, p.Since, p.Forgotten = st.Rules, seen.Since, seen.Forgotten
		p.Rules.Allow = proposed(&View{Pod: pod, Edges: seen})
		// The gateway's words must not become anything else in a shell.
		if _, err := p.Rules.Parse(); err != nil {
			return fmt.Errorf("reading the rules of the gateway: %w", err)
		}
		return nil
	})
	return p
}

// proposed returns the rules for what the gateway of v has let in.
func proposed(v *View) []string {
	type peer struct{ namespace, account string }
	ports := make(map[peer][]api.PortRange)
	for i := range v.Edges.Edges {
		e := &v.Edges.Edges[i]
		id, err := identity.Parse(e.Peer)
		if err != nil || e.Direction != api.Inbound || verdictOf(e) != Encrypted || !v.own(e.Destination.Addr()) {
			continue
		}
		port := e.Destination.Port()
		k := peer{id.Namespace, id.ServiceAccount}
		ports[k] = append(ports[k], api.PortRange{First: port, Last: port})
	}
	order := func(a, b peer) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.account, b.account))
	}
	return lists.Map(slices.SortedFunc(maps.Keys(ports), order), func(k peer) string {
		return api.NewRule(k.namespace, k.account, api.NewPorts(ports[k]...)).String()
	})
}
