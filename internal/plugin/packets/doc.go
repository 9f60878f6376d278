// Package packets has the gateway in a pod capture the pod's packets, and
// receives the capture from there.
package packets
