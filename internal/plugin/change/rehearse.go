package change

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/edges"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

// Refused are connections that a gateway has seen and that strict mode would have refused.
type Refused struct {
	// Direction is api.Outbound or api.Inbound, seen from the pod.
	Direction string `json:"direction"`
	// Peer is the other end, nil if it is not known. Port is the destination's, 0 if it is
	// not known.
	Peer *edges.Endpoint `json:"peer,omitempty"`
	Port uint16          `json:"port,omitempty"`
	// PeerHasGateway is set for a pod with a gateway: it may be younger than the connections,
	// or the gateways do not reach each other.
	PeerHasGateway bool `json:"peerHasGateway,omitempty"`
	// Network holds the destinations outside of all ranges, which are not known one by one.
	Network     netip.Prefix `json:"network,omitzero"`
	Connections uint64       `json:"connections"`
	// LastSeen is when a connection last began or ended, by the clock of this machine. It is
	// zero if that is not known.
	LastSeen time.Time `json:"lastSeen,omitzero"`
	Reason   string    `json:"reason"`
	// Existing is set for connections that are open and that no gateway carries. The change
	// leaves them open, and the next ones like them are refused.
	Existing bool `json:"existing,omitempty"`
}

// Rehearsal is what strict mode would have refused at one pod.
type Rehearsal struct {
	Pod       *corev1.Pod
	Container string
	// Since is when the gateway began to see what it has seen.
	Since   time.Time
	Refused []Refused
	// Unlisted counts connections that no more is known of: too many addresses were seen.
	Unlisted uint64
	Warnings []string
	Err      error
}

// Reasons of connections that only counters tell of.
const (
	reasonService      = "Service address, which the wire port does not reach"
	reasonUncapturable = "socket that cannot be captured"
	reasonOutside      = "outside of all captured ranges (--outside=refuse)"
	reasonUDP          = "UDP (--block-udp)"
)

// Rehearse finds out what strict mode would have refused of what the gateway of pod has
// seen. It changes nothing.
func (c *Changer) Rehearse(ctx context.Context, pod *corev1.Pod, names *edges.Names) Rehearsal {
	result := Rehearsal{Pod: pod}
	var status *api.Status
	result.Container, result.Err = c.Gateways.Ask(ctx, pod, cmp.Or(c.Timeout, DefaultTimeout), "", func(ctx context.Context, conn *remote.Conn) (err error) {
		status, err = conn.Status(ctx)
		return err
	})
	if result.Err != nil {
		return result
	}
	collector := edges.Collector{Gateways: c.Gateways, Timeout: cmp.Or(c.Timeout, DefaultTimeout), Now: time.Now}
	views, err := collector.Collect(ctx, []corev1.Pod{*pod})
	if err == nil {
		err = views[0].Err
	}
	if result.Err = err; err != nil {
		return result
	}
	coverage := status.Capture.Coverage
	if c.Carry != nil && status.Capture.Fingerprint != "" {
		// Strict mode comes with it.
		coverage = withNodeSide(c.Carry.Survey.Again(pod, status.Capture.Named, coverage), status)
	}
	result.judge(status, &coverage, &views[0], names)
	if c.Survey != nil {
		result.Warnings = c.Survey.StrictLines(pod, status.Capture.Named)
	}
	return result
}

func existing(e *edges.Edge) int {
	if e.Existing {
		return 1
	}
	return 0
}

// knows reports whether connections with peer are among those that would be refused.
func (r *Rehearsal) knows(direction string, peer *edges.Endpoint, port uint16) bool {
	return slices.ContainsFunc(r.Refused, func(known Refused) bool {
		return known.Direction == direction && known.Peer != nil && known.Port == port && *known.Peer == *peer
	})
}

// judge takes what would be refused with coverage from what the gateway says.
func (r *Rehearsal) judge(status *api.Status, coverage *api.Coverage, view *edges.View, names *edges.Names) {
	r.Since = status.StartedAt
	list := edges.Join([]edges.View{*view}, names)
	listed := map[string]uint64{}
	slices.SortStableFunc(list.Items, func(a, b edges.Edge) int { return cmp.Compare(existing(&a), existing(&b)) })
	for i := range list.Items {
		e := &list.Items[i]
		// Networks are the counters' to tell.
		if e.Verdict != edges.Plaintext || e.Destination.Network.IsValid() {
			continue
		}
		direction, peer := api.Outbound, &e.Destination
		if e.SeenBy[0] == edges.DestinationSide {
			direction, peer = api.Inbound, &e.Source
		}
		if !e.Existing {
			listed[direction] += e.Connections
		}
		// The gateways may never have tried to meet on an existing connection.
		enabled := names.HasGateway(peer)
		if direction == api.Inbound && coverage.Accepts(e.Source.Address, e.Port) || e.Existing && (enabled || r.knows(direction, peer, e.Port)) {
			continue
		}
		r.Refused = append(r.Refused, Refused{Direction: direction, Peer: peer, Port: e.Port, PeerHasGateway: enabled,
			Connections: e.Connections, LastSeen: e.LastSeen, Reason: e.Reason, Existing: e.Existing})
	}
	add := func(connections uint64, reason string, network netip.Prefix) {
		if connections > 0 {
			r.Refused = append(r.Refused, Refused{Direction: api.Outbound, Network: network, Connections: connections, Reason: reason})
		}
	}
	c := &status.Capture
	add(c.ServicePassed, reasonService, netip.Prefix{})
	if status.Mode != api.Strict {
		add(c.Uncapturable, reasonUncapturable, netip.Prefix{})
	}
	if coverage.Outside == api.OutsideRefuse {
		rest := c.OutsideConnections
		for _, o := range c.OutsideNetworks {
			add(o.Connections, reasonOutside, o.Network)
			rest -= min(rest, o.Connections)
		}
		add(rest, reasonOutside, netip.Prefix{})
	}
	if c.BlockUDP {
		add(c.UDP-min(c.UDP, c.UDPRefused), reasonUDP, netip.Prefix{})
	}
	// The counters are older than the worker, which has the addresses.
	for direction, counted := range map[string]uint64{api.Outbound: status.Traffic.Outbound.Plaintext, api.Inbound: status.Traffic.Inbound.Plaintext} {
		r.Unlisted += counted - min(counted, listed[direction])
	}
	r.Unlisted += uint64(list.Unlisted)
	slices.SortStableFunc(r.Refused, func(a, b Refused) int {
		return cmp.Or(cmp.Compare(a.Direction, b.Direction), cmp.Compare(b.Connections, a.Connections))
	})
}
