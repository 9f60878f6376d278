// Package verify proves on the wire that two pods talk under TLS. A random text,
// the canary, goes over a new connection from one pod to the other while the
// packets of both are captured. It must show on loopback, between application and
// gateway, or the capture proves nothing; it must never show on another interface,
// where the very connection that the gateways name must be nothing but TLS records.
//
// Everything that is read comes from the network. No length in it is trusted, and
// what is remembered is bounded; what does not fit makes a result inconclusive.
package verify
