package api

import "net/netip"

// ProbeEvent is one line of what 'kube-gateway probe' prints.
type ProbeEvent struct {
	// Event is one of the constants below.
	Event string `json:"event"`
	// Local and Remote are the ends of the connection, as an application sees
	// them; Local alone is where a probe listens.
	Local  netip.AddrPort `json:"local,omitzero"`
	Remote netip.AddrPort `json:"remote,omitzero"`
	Error  string         `json:"error,omitempty"`
}

// Values of ProbeEvent.Event.
const (
	// ProbeListening means that connections are accepted at Local.
	ProbeListening = "listening"
	// ProbeSent means that the connection exists and the text is on its way.
	ProbeSent = "sent"
	// ProbeEchoed means that the text came back.
	ProbeEchoed = "echoed"
	// ProbeEnded means that the connection ended, by the other end or with Error.
	ProbeEnded = "ended"
)
