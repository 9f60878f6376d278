//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The eBPF programs of the gateway at the pod's cgroup and its own, in one object.
// Along the path of a connection:
//
//   connect.h   application: connect(2) is sent to the gateway's listener
//   udp.h       application: UDP is counted, or refused
//   handover.h  both sides: what the connecting socket knows reaches the
//               socket that accepts it
//   inband.h    both gateways: an option in the handshake says that they are there
//   sockopt.h   worker: reads the original destination, names the client
//   names.h     application: getpeername(2), getsockname(2) and accept(2)
//               tell the addresses that it would see without a gateway
//
// Inbound connections are the business of inbound.c.
//
// They load on Linux 5.10 and later, so they use no helper, no map type and no
// instruction that came after it.

#include "types.h"
#include "connect.h"
#include "sockops.h"
#include "names.h"
#include "sockopt.h"
#include "udp.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";
