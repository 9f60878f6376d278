package api

import (
	"net/netip"
	"time"
)

// MaxEdges is how many edges a gateway keeps.
const MaxEdges = 1000

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
