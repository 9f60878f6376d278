// Package verify proves on the wire that the connections between two pods are TLS. A
// random text, the canary, is sent over a new connection from one pod to the other
// while the packets of both are recorded. The canary must appear on loopback, between
// application and gateway, or the recording proves nothing. It must not appear on
// another interface: there the connection that the gateways name must consist of TLS
// records.
//
// All input comes from the network. No length in it is trusted, and memory is bounded:
// a result is inconclusive if the traffic exceeds the bounds.
package verify
