//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The eBPF programs of the gateway in the pod's network namespace, in an object of
// their own: a kernel that lacks something for them can still do all the rest.
//
//   ingress.c   every packet that comes in: SYNs are read and steered
//   lookup.c    every TCP packet that the kernel looks for a listener for
//   egress.c    every packet that goes out: what has no socket in the pod is counted, or dropped
//
// steer.h has what the first two decide: which connections are the gateway's. All share the
// maps of gateway.c, and load on Linux 5.10 and later as that does.

#include "ingress.c"
#include "lookup.c"
#include "egress.c"

char LICENSE[] SEC("license") = "Dual MIT/GPL";
