//go:build linux

// Package supervisor is the privileged half of a gateway. It takes the key out
// of its environment, attaches the eBPF programs, opens the listeners and the
// control socket, and then keeps one worker running: an ordinary user without
// capabilities, which alone reads from the network. The supervisor parses
// nothing that comes from the network; of the worker it reads short replies of a
// fixed form (reply.go), and counters in shared memory.
//
// The order matters: capture starts only once the worker has said that it
// serves, so an application never meets a gateway that is not there yet. And when
// settings change (settings.go), the stricter of the two halves goes first.
package supervisor
