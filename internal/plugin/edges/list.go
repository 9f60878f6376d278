package edges

import (
	"net/netip"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/status"
)

// Kind and APIVersion of a List. Fields are only ever added under one version.
const (
	Kind       = "GatewayEdgeList"
	APIVersion = status.APIVersion
)

// Verdict says how the connections of an edge were carried.
type Verdict string

const (
	Encrypted Verdict = "encrypted"
	Plaintext Verdict = "plaintext"
	Refused   Verdict = "refused"
)

// Sides that have seen an edge.
const (
	SourceSide      = "source"
	DestinationSide = "destination"
)

// List is what status --edges prints with -o json and -o yaml.
type List struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	Items      []Edge `json:"items"`
	// Forgotten counts the connections of edges that gateways had no room for.
	Forgotten uint64 `json:"forgotten,omitempty"`
	// Unlisted counts open connections that no gateway carries and of which there were
	// too many to list.
	Unlisted int `json:"unlisted,omitempty"`
	// Unasked are the pods whose gateways did not answer, with the reason.
	Unasked []Unasked `json:"unasked,omitempty"`
}

// Unasked is a pod whose gateway did not report its edges.
type Unasked struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Error     string `json:"error"`
	Hint      string `json:"hint,omitempty"`
}

// Edge sums up the connections from one endpoint to a port of another that were
// carried alike.
type Edge struct {
	Source      Endpoint `json:"source"`
	Destination Endpoint `json:"destination"`
	Port        uint16   `json:"port"`
	Verdict     Verdict  `json:"verdict"`
	// Reason says why connections were not encrypted or were refused.
	Reason string `json:"reason,omitempty"`
	// Wire is api.WirePort or api.WireInband of an encrypted edge.
	Wire string `json:"wire,omitempty"`
	// SourceIdentity and DestinationIdentity are what the other end's gateway has
	// verified, empty if it did not answer.
	SourceIdentity      string `json:"sourceIdentity,omitempty"`
	DestinationIdentity string `json:"destinationIdentity,omitempty"`
	// Backends are the pods, or workloads, behind a Service that accepted connections.
	// Only those whose gateways were asked are known.
	Backends []Endpoint `json:"backends,omitempty"`
	Counts
	// LastSeen is when a connection last began or ended, by the clock of this machine. It is
	// zero of those into a network.
	LastSeen time.Time `json:"lastSeen"`
	// Existing is set for open connections that no gateway carries.
	Existing bool `json:"existing,omitempty"`
	// SeenBy holds SourceSide, DestinationSide or both.
	SeenBy []string `json:"seenBy"`
}

// Counts are the numbers of an edge.
type Counts struct {
	// Connections counts since the worker of a gateway started, Open what is open now.
	Connections uint64 `json:"connections"`
	Open        uint64 `json:"open"`
	// Sent and Received count bytes of the source's application. They are not known
	// where Existing.
	Sent     uint64 `json:"bytesSent"`
	Received uint64 `json:"bytesReceived"`
}

func (c *Counts) add(o Counts) {
	*c = Counts{c.Connections + o.Connections, c.Open + o.Open, c.Sent + o.Sent, c.Received + o.Received}
}

// Endpoint is one end of an edge.
type Endpoint struct {
	// Kind is as in targets: pod, svc, node, or that of a workload. It is empty if
	// only the address is known.
	Kind      string `json:"kind,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	// Address is one of those that the edge was seen with.
	Address netip.Addr `json:"address"`
	// Network holds destinations that are not known one by one. Address is its first one then,
	// and the edge has no port.
	Network netip.Prefix `json:"network,omitzero"`
}

// key is equal for two endpoints that a reader sees as one.
func (e *Endpoint) key() endpointKey {
	k := endpointKey{kind: e.Kind, namespace: e.Namespace, name: e.Name}
	if e.Kind == "" {
		k.address, k.network = e.Address, e.Network
	}
	return k
}

type endpointKey struct {
	kind, namespace, name string
	address               netip.Addr
	network               netip.Prefix
}

// Text names an endpoint, with its namespace unless that is home.
func (e *Endpoint) Text(home string) string {
	switch {
	case e.Network.IsValid():
		return e.Network.String()
	case e.Kind == "":
		return e.Address.String()
	case e.Namespace == "" || e.Namespace == home:
		return e.Kind + "/" + e.Name
	}
	return e.Namespace + "/" + e.Kind + "/" + e.Name
}

// Counts returns how many items have each verdict.
func (l *List) Counts() map[Verdict]int {
	counts := make(map[Verdict]int)
	for _, e := range l.Items {
		counts[e.Verdict]++
	}
	return counts
}
