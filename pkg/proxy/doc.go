// Package proxy is the gateway's data path: it accepts the connections that are captured in
// the pod, carries them to the gateway of the destination pod under mutual TLS, and connects
// what other gateways send to the application.
//
// The path of a connection reads in four files: outbound.go (from the captured socket to the
// peer), header.go (the first bytes inside TLS), inbound.go (from the peer to the local
// application) and relay.go (bytes both ways until the end). Everything else serves one of
// these: inband.go has the differences of wire=inband, and route.go chooses the wire for a
// destination. The table of internal/gateway/traffic has the reasons for failures.
//
// Two rules hold throughout. A connection that fails after the application's connect(2)
// succeeded ends with a RST, never with a clean end of file. And an idle connection holds no
// more than a few kilobytes: buffers are acquired when a socket is readable and released when
// it is not, and goroutines park (parking.go).
package proxy
