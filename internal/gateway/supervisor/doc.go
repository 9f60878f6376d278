//go:build linux

// Package supervisor is the privileged half of a gateway. It takes the key out of its
// environment, attaches the eBPF programs, opens the listeners and the control socket, and
// keeps one worker running: an ordinary user without capabilities, which alone reads from
// the network. The supervisor parses nothing that comes from the network; what it hears
// from its children is in package handoff.
//
// The life of a gateway reads in this order: supervisor.go (start; ports.go
// waits for ports that others hold, reserve.go keeps new connections away from them), programs.go (what goes
// into the kernel, by a loader: loader.go), worker.go (one worker after the other), settings.go (what can change
// meanwhile; certificate.go for certificates), disable.go (the end; ended.go
// keeps it from coming back). status.go is what is
// told of it, and answer.go the requests of the control socket.
//
// The order matters: capture starts only once the worker has said that it serves, so an
// application never meets a gateway that is not there yet. And when settings change, the
// stricter of the two halves goes first.
package supervisor
