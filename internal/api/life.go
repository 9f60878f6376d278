package api

// DisabledMessage is the termination message of a gateway that was disabled. Others have
// the reason of their end, or nothing.
const DisabledMessage = "disabled"

// CertificateRequest is a gateway's request to an authority. The gateway makes the key and
// keeps it.
type CertificateRequest struct {
	// CSR is a PKCS #10 request in PEM form. Only its public key counts: the plugin knows
	// the identity from the cluster.
	CSR string `json:"csr"`
}

// IssuedCertificate answers a CertificateRequest.
type IssuedCertificate struct {
	// Certificate is PEM: the leaf, then the intermediates up to a root in Bundle.
	Certificate string `json:"certificate"`
	// Bundle is PEM: the roots that replace those that the gateway trusts.
	Bundle string `json:"bundle"`
}

// TrustBundle replaces the roots that a gateway trusts.
type TrustBundle struct {
	// Bundle is PEM.
	Bundle string `json:"bundle"`
}

// DisableReport is a gateway's report of its end.
type DisableReport struct {
	// Drained counts the connections that ended by themselves after the capture was
	// stopped, Aborted those that were reset at the drain timeout.
	Drained uint64 `json:"drained"`
	Aborted uint64 `json:"aborted"`
	// Left names the programs, maps and filters that could not be removed from the pod.
	// Empty proves that nothing is left.
	Left []string `json:"left,omitempty"`
}
