package verify

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/packets"
)

// Verdict is the result in a word.
type Verdict string

const (
	// Encrypted means that the canary arrived, was not in the clear on the network, and
	// that the network carried TLS instead.
	Encrypted Verdict = "encrypted"
	// Plaintext means that the canary was in the clear on the network.
	Plaintext Verdict = "plaintext"
	// Inconclusive means that neither is proven.
	Inconclusive Verdict = "inconclusive"
)

// Result is the outcome for two pods.
type Result struct {
	Verdict Verdict `json:"verdict"`
	// Reasons say why the verdict is not Encrypted.
	Reasons []string `json:"reasons,omitempty"`
	From    Side     `json:"from"`
	To      Side     `json:"to"`
	// Destination is where the canary was sent.
	Destination netip.AddrPort `json:"destination,omitzero"`
	// Wire and TLS are those of the connection, as the gateway of From logs it.
	Wire string  `json:"wire,omitempty"`
	TLS  api.TLS `json:"tls,omitzero"`
	// Canary is the text.
	Canary string `json:"canary"`
}

// Side is one of the pods.
type Side struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	// Gateway reports whether a gateway runs in the pod. Without one there is no
	// recording.
	Gateway bool `json:"gateway"`
	// Identity is what the other pod's gateway verified.
	Identity string `json:"identity,omitempty"`
	// Loopback is where the canary was seen between application and gateway,
	// Network where it was in the clear on another interface.
	Loopback *Sighting `json:"loopback,omitempty"`
	Network  *Sighting `json:"network,omitempty"`
	// TLS is a record of application data of the connection.
	TLS *Sighting `json:"tls,omitempty"`
	// Records counts the records of application data in both directions.
	Records int `json:"records"`
	// Packets counts the packets that were recorded, Dropped those for which the kernel
	// had no room.
	Packets uint64 `json:"packets"`
	Dropped uint64 `json:"dropped"`
}

// String returns the pod's name and namespace.
func (s *Side) String() string { return "pod/" + s.Pod + " -n " + s.Namespace }

// evidence is everything that was gathered on one side.
type evidence struct {
	side     *Side
	observer *observer
	summary  packets.Summary
	// line is the gateway's log line of the connection, nil if there is none.
	line *api.Connection
	// unlogged is why there is none, empty if that is not known.
	unlogged string
}

// judge decides by the evidence of the pods that have a gateway. problem is why the
// canary did not arrive, empty if it did.
func (r *Result) judge(from, to *evidence, problem string) {
	r.Verdict = Inconclusive
	reason := func(format string, args ...any) { r.Reasons = append(r.Reasons, fmt.Sprintf(format, args...)) }
	all := []*evidence{from}
	if to != nil {
		all = append(all, to)
	}
	for _, e := range all {
		e.side.Loopback, e.side.Network = e.observer.loopback, e.observer.network
		e.side.Packets, e.side.Dropped = e.summary.Packets, e.summary.Dropped
		if n := e.side.Network; n != nil {
			r.Verdict = Plaintext
			reason("the canary is readable on %s of %s", n.Interface, e.side)
		}
	}
	if line := from.line; line != nil {
		r.Wire, r.TLS, r.To.Identity = line.Wire, line.TLS, line.Peer
		if line.Reason != "" {
			reason("the gateway of %s says: %s", from.side, line.Reason)
		}
	}
	if to != nil && to.line != nil {
		r.From.Identity = to.line.Peer
	}
	if r.Verdict == Plaintext {
		return
	}
	if problem != "" {
		reason("%s", problem)
	}
	if to == nil {
		reason("no gateway runs in %s", &r.To)
	}
	if problem == "" { // a canary that did not arrive proves nothing
		for _, e := range all {
			r.judgeSide(e, e == from, reason)
		}
	}
	if len(r.Reasons) == 0 {
		r.Verdict = Encrypted
	}
}

// judgeSide finds the gaps in the proof of one side.
func (r *Result) judgeSide(e *evidence, client bool, reason func(string, ...any)) {
	switch {
	case !e.summary.Complete:
		reason("the capture in %s has no end", e.side)
	case e.summary.Dropped > 0:
		reason("the kernel dropped %d packets of the capture in %s", e.summary.Dropped, e.side)
	case e.observer.crowded || e.observer.cut > 0:
		reason("there is too much traffic in %s to follow all of it", e.side)
	}
	if e.side.Loopback == nil {
		reason("the canary was not seen on loopback of %s: the connection did not go through its gateway", e.side)
	}
	if e.line == nil {
		text := fmt.Sprintf("the log of the gateway of %s does not contain the connection", e.side)
		if e.unlogged != "" {
			text += ": " + e.unlogged
		}
		reason("%s", text)
		return
	}
	if !e.line.Encrypted {
		reason("the gateway of %s did not encrypt the connection", e.side)
		return
	}
	there, back := e.observer.between(e.line.TLS.Local, e.line.TLS.Remote)
	if there == nil || back == nil {
		reason("the connection of the gateways, %v to %v, was not seen on the network of %s", e.line.TLS.Local, e.line.TLS.Remote, e.side)
		return
	}
	if e.line.TLS.Reused && !(there.begun && back.begun) {
		reason("the connection of the gateways is older than the recording in %s: try again", e.side)
		return
	}
	if !there.pure() || !back.pure() {
		reason("the connection of the gateways is not all TLS as seen in %s", e.side)
		return
	}
	e.side.Records = there.records.data + back.records.data
	sender, receiver, key := there, back, e.line.TLS
	if !client {
		sender, receiver = back, there
		key.Local, key.Remote = key.Remote, key.Local
	}
	e.side.TLS = &Sighting{Interface: sender.on, Source: key.Local, Destination: key.Remote, Data: sender.records.shown}
	if says, shows := e.line.TLS, described(receiver.records.hello); shows != "" && shows != strings.Join([]string{says.Version, says.KeyExchange, says.Cipher}, " ") {
		reason("the gateway of %s logs %s %s %s, the network shows %s", e.side, says.Version, says.KeyExchange, says.Cipher, shows)
	} else if shows == "" {
		reason("the server's hello cannot be read in %s", e.side)
	}
}

// described returns the parameters that a server chose, in the words of a gateway, or "".
func described(serverHello []byte) string {
	h, ok := parseServerHello(serverHello)
	if !ok {
		return ""
	}
	return strings.Join([]string{tls.VersionName(h.version), tls.CurveID(h.group).String(), tls.CipherSuiteName(h.cipher)}, " ")
}
