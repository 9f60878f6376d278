// Package fidelity compares how sockets behave with gateways and without.
//
// A scenario is a short play for two pods, a client and a server: system calls of both, one after
// another. What each call returns is a line of its transcript: names of errors, bytes, events, and
// how long it took, as a class ("at once", "after about 3 s"). The transcripts are those of the kernel
// where no gateway is in between, and have to be the same where there are two, or one. What is not the
// same stands in docs/FIDELITY.md, with the reason.
//
// agent.go makes the system calls, one process in each pod. host.go reaches it and writes the
// transcript. The scenarios are in connect.go, closing.go, data.go, events.go and options.go.
package fidelity
