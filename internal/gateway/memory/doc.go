//go:build linux

// Package memory knows how much memory a gateway's pod may use, and what of it is left. The limit is
// that of the cgroups of the gateway's container and of its pod; it counts the application's memory
// and the socket buffers of both. It may change at any time.
//
// A Gauge reads the files of these cgroups. A Budget decides by them for how many connections there
// is memory, and how large their buffers may be: at the limit the kernel kills processes of the
// pod, and the worker of a gateway is among the first, with every connection that it carries.
package memory
