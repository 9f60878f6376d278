// Package proxy is the gateway's data path: it accepts the connections that
// were captured in the pod, carries them to the gateway of the destination pod
// under mutual TLS, and hands what other gateways send to the application.
//
// The path of a connection reads in four files: outbound.go (from the captured
// socket to the peer), header.go (what the first bytes on the wire mean),
// inbound.go (from the peer to the local application) and relay.go (bytes both
// ways until the end). Everything else serves one of these: inband.go is what
// wire=inband does otherwise, and route.go says which wire a destination takes.
// What may go wrong is in the table of internal/gateway/traffic.
//
// Two rules hold throughout. A connection that fails after the application's
// connect(2) succeeded ends with a RST, never with a clean end of file. And
// nothing that a connection needs while it is idle is larger than a few
// kilobytes: buffers are taken when a socket is readable and given back when
// it is not.
package proxy
