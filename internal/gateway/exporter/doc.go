//go:build linux

// Package exporter serves a gateway's metrics over HTTP, in a process of its own that
// has nothing: no privilege, no key, no certificate, no eBPF map. What it may do is ask
// one question over a socket that it inherits, how the gateway is, and pass on the
// answer. Whoever breaks into it learns what every scrape tells.
//
// Anybody who reaches the port may ask, so everything is bounded: connections, their
// time, the bytes of a request, and how much work scrapes make for the gateway. Scrapes
// that come together share one question, and there is never more than one under way.
package exporter
