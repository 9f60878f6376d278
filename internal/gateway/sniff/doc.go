//go:build linux

// Package sniff captures the packets of the network namespace that it runs in,
// on every interface, loopback too, and writes them as pcapng.
package sniff
