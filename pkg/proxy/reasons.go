//go:build linux

package proxy

// The values of "reason" in a connection's log line: why it was not encrypted, or
// was refused. People search logs for them, so that they stay as they are; what
// differs from case to case is in "error". An answer of the peer other than ok is
// a reason, too: see status.String.
const (
	// Either side.
	reasonExhausted = "out of local resources"
	reasonStopping  = "gateway is stopping"

	// Outbound, before anything is dialled.
	reasonNoDestination = "original destination is unknown"
	reasonNoSource      = "no source address"
	reasonExpired       = "own certificate expired"
	reasonNotYetValid   = "own certificate is not valid yet"
	// reasonNoWire is a Service or node port that is captured although the setting
	// is wire=port, which cannot reach it.
	reasonNoWire  = "wire port does not reach Services"
	reasonWaiting = "nothing is known about the peer in time"
	reasonCrowded = "too many handshakes with the peer"

	// Outbound, wire=port: nobody answers at the peer's port.
	reasonPeerRefused     = "peer has no gateway: connection refused"
	reasonPeerSilent      = "peer has no gateway: no answer"
	reasonPeerUnreachable = "peer has no gateway: unreachable"

	// Outbound, wire=inband. Whether the peer has no gateway or something on the
	// way removed the option looks the same from here.
	reasonOptionLost    = "peer has no gateway: TCP option not shown"
	reasonNoNegotiation = "wire inband is not available"

	// Outbound, once there is a peer.
	reasonNoAnswer   = "peer is no gateway: no answer to the TLS handshake"
	reasonPeerReset  = "peer ended the connection in the TLS handshake"
	reasonNotTrusted = "peer is no trusted gateway: TLS handshake failed"
	reasonRejected   = "peer rejected our certificate"
	// Time: a clock is wrong, or a certificate was not renewed. The peer does not
	// say which of the two ends of our certificate's life it is about.
	reasonPeerExpired     = "peer is no trusted gateway: its certificate expired"
	reasonPeerNotYetValid = "peer is no trusted gateway: its certificate is not valid yet"
	reasonRejectedTime    = "peer rejected our certificate: expired or not valid yet by its clock"
	reasonBroken          = "connection broke at the start"
	reasonUnreachable     = "destination cannot be reached"

	// Inbound, before the peer has proven who it is.
	reasonPlaintext         = "plaintext is not allowed"
	reasonUndetermined      = "whether the peer has a gateway is unknown"
	reasonNoHandshake       = "no valid TLS handshake"
	reasonClientExpired     = "no valid TLS handshake: peer's certificate expired"
	reasonClientNotYetValid = "no valid TLS handshake: peer's certificate is not valid yet"

	// Inbound, after that.
	reasonIdentity       = "identity is not allowed"
	reasonNotAllowed     = "peer is not allowed to do this"
	reasonAppRefused     = "application refused the connection"
	reasonAppUnreachable = "application cannot be reached"
)
