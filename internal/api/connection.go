package api

import (
	"net/netip"
	"time"
)

// ConnectionMessage is the value of "msg" in the log line of a connection. All other
// lines of a gateway's log have another one.
const ConnectionMessage = "connection"

// Values of Connection.Direction, seen from the pod.
const (
	Outbound = "outbound"
	Inbound  = "inbound"
)

// Values of Connection.Wire and of Wire.
const (
	// WireAuto is WirePort to pods and WireInband to Services and node ports. It is a
	// setting alone: a connection has one of the others.
	WireAuto = "auto"
	// WirePort is TLS to port PeerPort of the peer.
	WirePort = "port"
	// WireInband is TLS on the very connection that the application opened, negotiated
	// in the TCP handshake.
	WireInband = "inband"
	// WireNone is a connection that did not go to a gateway.
	WireNone = "none"
)

// Connection is one line of a gateway's log, written when a connection ends.
type Connection struct {
	Time        time.Time      `json:"time"`
	Level       string         `json:"level"`
	Message     string         `json:"msg"`
	Direction   string         `json:"direction"`
	Source      netip.AddrPort `json:"source"`
	Destination netip.AddrPort `json:"destination"`
	// Dialled is what the client of an inbound connection dialled, as its gateway
	// reports, if that is not Destination: the address of a Service.
	Dialled netip.AddrPort `json:"dialled,omitzero"`
	// Peer is the identity of the other gateway, empty without one.
	Peer      string `json:"peer,omitempty"`
	Wire      string `json:"wire"`
	Encrypted bool   `json:"encrypted"`
	// TLS describes the connection between the gateways, zero without a handshake.
	TLS TLS `json:"tls,omitzero"`
	// Reason says why the connection was not encrypted or was refused.
	Reason string `json:"reason,omitempty"`
	// Sent and Received count bytes of the application in this pod.
	Sent     uint64 `json:"bytesSent"`
	Received uint64 `json:"bytesReceived"`
	// Duration is in seconds.
	Duration float64 `json:"duration"`
	Error    string  `json:"error,omitempty"`
}

// TLS describes the connection between two gateways, in the words of crypto/tls.
type TLS struct {
	// Version is as "TLS 1.3", KeyExchange as "X25519MLKEM768", Cipher as
	// "TLS_AES_128_GCM_SHA256".
	Version     string `json:"version"`
	KeyExchange string `json:"keyExchange,omitempty"`
	Cipher      string `json:"cipher"`
	// Resumed means that an earlier handshake sent and verified the certificates.
	Resumed bool `json:"resumed,omitempty"`
	// Reused means that the connection between the gateways has carried others before, one after
	// the other, so that there was no handshake. Their lines have the same Local and Remote.
	Reused bool `json:"reused,omitempty"`
	// Local and Remote are the two ends of that connection, by which verify finds it.
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
}
