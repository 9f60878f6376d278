//go:build linux

// Package exporter serves a gateway's metrics over HTTP, in a process of its own without
// privilege, key, certificate or eBPF map. It can only ask for the gateway's status over a socket
// that it inherits. An attacker who breaks into it learns what every scrape returns.
//
// Any client of the port may ask, so everything is bounded: connections, their time, the bytes of
// a request, and the gateway's work for scrapes. Concurrent scrapes share one question, and at
// most one is under way.
package exporter
