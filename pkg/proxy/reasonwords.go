//go:build linux

package proxy

import (
	"slices"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// maxReasons is how many reasons of one direction have a place in the counters. The
// place is that in api.UnencryptedReasons.
const maxReasons = 48

// reasonWord returns the word for what is logged as a reason.
func reasonWord(reason string) string {
	// Where plaintext was to be the way out, its failure is what ended the connection.
	if _, last, found := strings.Cut(reason, "; "); found {
		reason = last
	}
	switch reason {
	case reasonExhausted:
		return "exhausted"
	case reasonStopping:
		return "stopping"
	case reasonNoDestination:
		return "no_destination"
	case reasonNoSource:
		return "no_source"
	case reasonExpired:
		return "certificate_expired"
	case reasonNotYetValid:
		return "certificate_not_yet_valid"
	case reasonNoWire:
		return "no_wire"
	case reasonWaiting:
		return "peer_unknown"
	case reasonCrowded:
		return "crowded"
	case reasonPeerRefused:
		return "peer_refused"
	case reasonPeerSilent:
		return "peer_silent"
	case reasonPeerUnreachable:
		return "peer_unreachable"
	case reasonOptionLost:
		return "option_lost"
	case reasonNoNegotiation:
		return "no_negotiation"
	case reasonNoAnswer:
		return "no_answer"
	case reasonPeerReset:
		return "peer_reset"
	case reasonNotTrusted:
		return "not_trusted"
	case reasonRejected:
		return "rejected"
	case reasonPeerExpired, reasonClientExpired:
		return "peer_expired"
	case reasonPeerNotYetValid, reasonClientNotYetValid:
		return "peer_not_yet_valid"
	case reasonRejectedTime:
		return "rejected_time"
	case reasonBroken:
		return "broken"
	case reasonUnreachable:
		return "unreachable"
	case reasonPlaintext:
		return "plaintext"
	case reasonUndetermined:
		return "undetermined"
	case reasonNoHandshake:
		return "no_handshake"
	case reasonIdentity, statusNotAllowed.String():
		return "not_allowed"
	case reasonNotAllowed:
		return "forbidden"
	case reasonAppRefused:
		return "application_refused"
	case reasonAppUnreachable:
		return "application_unreachable"
	case statusUnreachable.String():
		return "peer_application_unreachable"
	}
	return api.OtherReason
}

// because notes and counts why c is not encrypted. It comes to this once at most in a
// connection's life.
func (c *connection) because(reason string) {
	c.line.Reason = reason
	words := api.UnencryptedReasons(c.line.Direction)
	i := slices.Index(words, reasonWord(reason))
	if i < 0 {
		i = slices.Index(words, api.OtherReason)
	}
	c.counters.reasons[i].Add(1)
}

// Unencrypted returns why connections were refused or carried in plaintext so far,
// without the reasons that have not occurred.
func (c *Counters) Unencrypted() []api.Unencrypted {
	var all []api.Unencrypted
	for _, d := range []struct {
		name     string
		counters *direction
	}{{api.Outbound, &c.outbound}, {api.Inbound, &c.inbound}} {
		for i, word := range api.UnencryptedReasons(d.name) {
			if n := d.counters.reasons[i].Load(); n > 0 {
				all = append(all, api.Unencrypted{Direction: d.name, Reason: word, Connections: n})
			}
		}
	}
	return all
}
