// Package bpf holds the eBPF programs of the gateway and everything Go needs
// to use them.
//
// [PodCgroup] finds where to attach, [Load] loads, [Programs.AttachSockets] and
// [Programs.StartCapture] attach. Those need privilege and belong to the
// supervisor. [OriginalDestination] and [PresentAs] are socket options: they
// need none and are all that the worker uses.
//
// The programs are written for Linux 5.10 and later. What they need of the kernel,
// and since when it exists, is listed in features.go; the releases were taken from
// the kernel's history, and a test keeps the list complete.
//
// The package is empty on systems other than Linux.
package bpf
