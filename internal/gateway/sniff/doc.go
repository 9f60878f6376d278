//go:build linux

// Package sniff records the packets of the network namespace that it runs in, on every
// interface, loopback included, and writes them as pcapng.
package sniff
