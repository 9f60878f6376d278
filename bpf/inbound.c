//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The eBPF programs of the gateway in the pod's network namespace, in an object of
// their own: a kernel that lacks something for them can still do all the rest.
//
//   steer.h     what both of them decide: which connections are the gateway's
//   ingress.h   every packet that comes in: SYNs are read and steered
//   lookup.h    whatever the kernel looks for a listener for
//
// They share the maps of gateway.c, and load on Linux 5.10 and later as that does.

#include "types.h"
#include "ingress.h"
#include "lookup.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";
