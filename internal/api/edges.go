package api

import (
	"net/netip"
	"slices"
	"time"
)

// MaxEdges is how many edges a gateway keeps, and MaxEdgesOfStrangers how many of them may belong to
// unauthenticated clients: a sender of SYNs from many addresses must not push out the edges of the pod's own traffic.
const (
	MaxEdges            = 1000
	MaxEdgesOfStrangers = MaxEdges / 4
)

// MaxEdgesAnswer bounds the edges of a gateway in JSON, in bytes.
const MaxEdgesAnswer = 960 << 10

// Values of Edge.Verdict: how the connections of an edge were carried.
const (
	EdgeEncrypted = "encrypted"
	EdgePlaintext = "plaintext"
	// EdgeRefused includes what the peer's gateway refused.
	EdgeRefused = "refused"
)

// Edges are the edges of a gateway. The worker keeps them in memory, and each worker starts
// without any.
type Edges struct {
	Pod    PodRef       `json:"pod"`
	PodIPs []netip.Addr `json:"podIPs"`
	// Since is when the counts began, Time the gateway's clock when it answered.
	Since time.Time `json:"since"`
	Time  time.Time `json:"time"`
	// Edges are at most MaxEdges, the one last seen first.
	Edges []Edge `json:"edges"`
	// Forgotten counts the connections of edges beyond MaxEdges.
	Forgotten uint64 `json:"forgotten,omitempty"`
	// Existing is that of Status: the connections that no gateway carries. It is
	// nil if the gateway does not list them.
	Existing *ExistingConnections `json:"existing,omitempty"`
}

// Edge sums up the connections between two addresses that were carried alike.
type Edge struct {
	// Direction is Outbound or Inbound, seen from the pod.
	Direction string `json:"direction"`
	// Source is the pod that connects. If the client of an inbound connection has no
	// gateway, it is the address that the connection came from.
	Source netip.Addr `json:"source"`
	// Destination is what an outbound connection dialled, which may be a Service, and what
	// an inbound one reached in this pod.
	Destination netip.AddrPort `json:"destination"`
	// Network holds the destinations of an outbound edge that are not known one by one:
	// Destination is its first address then, without a port, and LastSeen is zero.
	Network netip.Prefix `json:"network,omitzero"`
	// Dialled is what the client of an inbound connection dialled, as its gateway
	// reports, if that is not Destination: the address of a Service.
	Dialled netip.AddrPort `json:"dialled,omitzero"`
	// Peer is the identity of the other gateway, empty without one.
	Peer string `json:"peer,omitempty"`
	// Wire is WirePort, WireInband, or WireNone.
	Wire    string `json:"wire"`
	Verdict string `json:"verdict"`
	// Reason says why connections were not encrypted or were refused.
	Reason string `json:"reason,omitempty"`
	// Connections counts those whose verdict is known, Open those of them that have not
	// ended.
	Connections uint64 `json:"connections"`
	Open        int64  `json:"open"`
	// Sent and Received count bytes of the application in this pod. The numbers of open
	// connections are a few seconds old.
	Sent     uint64 `json:"bytesSent"`
	Received uint64 `json:"bytesReceived"`
	// LastSeen is when a connection last began or ended.
	LastSeen time.Time `json:"lastSeen"`
}

// EdgeHolder returns whose an edge of this direction and peer is: the peer's that has connected, which chooses what there
// is to tell of that, or the pod's own (empty). stranger says that an unauthenticated client has connected.
func EdgeHolder(direction, peer string) (holder string, stranger bool) {
	if direction == Outbound {
		return "", false
	}
	return peer, peer == ""
}

// Bound leaves n edges at most, in their order, and counts the connections of the others as forgotten. As in a gateway's own
// table, what a holder has beyond an equal share makes room first, and of that what was not seen for longest.
func (e *Edges) Bound(n int) {
	if len(e.Edges) <= n {
		return
	}
	byAge := make([]int, len(e.Edges))
	for i := range byAge {
		byAge[i] = i
	}
	slices.SortStableFunc(byAge, func(i, k int) int { return e.Edges[k].LastSeen.Compare(e.Edges[i].LastSeen) })
	// newer is how many edges of the same holder were seen later.
	newer, held, strangers := make([]int, len(e.Edges)), make(map[string]int), 0
	for _, i := range byAge {
		holder, stranger := EdgeHolder(e.Edges[i].Direction, e.Edges[i].Peer)
		if !stranger {
			newer[i] = held[holder]
			held[holder]++
			continue
		}
		if newer[i] = strangers; strangers >= MaxEdgesOfStrangers {
			newer[i] = len(e.Edges)
		}
		strangers++
	}
	slices.SortStableFunc(byAge, func(i, k int) int { return newer[i] - newer[k] })
	left := slices.Sorted(slices.Values(byAge[:n]))
	for _, i := range byAge[n:] {
		e.Forgotten += e.Edges[i].Connections
	}
	kept := make([]Edge, n)
	for k, i := range left {
		kept[k] = e.Edges[i]
	}
	e.Edges = kept
}
