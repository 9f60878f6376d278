package api

import "encoding/json"

// DisabledMessage is the termination message of a gateway that was disabled. A gateway that ended
// for another reason leaves that reason, or nothing.
const DisabledMessage = "disabled"

// HandedOverMessage is the termination message of a gateway that has handed over to another one. A
// plugin that does not know it drops the last line, as it looks like the log, and reads the first one.
const HandedOverMessage = DisabledMessage + "\n" + `{"handedOver":true}`

// ExitUnserved is the exit code of a gateway that ended with an error before it served, and has left
// nothing in the kernel.
const ExitUnserved = 3

// CertificateRequest is a gateway's request to an authority. The key is made in the gateway and
// does not leave it.
type CertificateRequest struct {
	// CSR is a PKCS #10 request in PEM form. Only its public key counts: the plugin takes the
	// identity from the API server.
	CSR string `json:"csr"`
}

// IssuedCertificate answers a CertificateRequest.
type IssuedCertificate struct {
	// Certificate is PEM: the leaf, then the intermediates up to a root in Bundle.
	Certificate string `json:"certificate"`
	// Bundle is PEM: the roots that replace those that the gateway trusts.
	Bundle string `json:"bundle"`
	// Revoked is that of a TrustBundle.
	Revoked json.RawMessage `json:"revoked,omitempty"`
	// First is for a sidecar without a certificate, which takes none without it.
	First *FirstSettings `json:"first,omitempty"`
}

// TrustBundle replaces the roots that a gateway trusts.
type TrustBundle struct {
	// Bundle is PEM.
	Bundle string `json:"bundle"`
	// Revoked are the lists of what the authorities of Bundle have revoked (package ca), or nothing. Of
	// each authority a gateway keeps the list with the highest number that it has seen.
	Revoked json.RawMessage `json:"revoked,omitempty"`
}

// DisableReport says how a gateway that was disabled has ended.
type DisableReport struct {
	// Drained counts the connections that ended by themselves after the capture was
	// stopped, Aborted those that were reset at the drain timeout.
	Drained uint64 `json:"drained"`
	Aborted uint64 `json:"aborted"`
	// Left names the programs, maps and filters that could not be removed from the pod.
	// Empty proves that nothing is left.
	Left []string `json:"left,omitempty"`
}

// Handover is what a gateway tells its successor: where it waits for it, and how each
// knows the other. It goes from one to the other through the plugin, over exec.
type Handover struct {
	// Socket is the name of an abstract Unix socket in the pod's network namespace, without
	// the leading zero byte.
	Socket string `json:"socket"`
	// Token is known to both gateways and to the plugin only. Neither end sends it: each
	// proves that it knows it.
	Token []byte `json:"token"`
}
