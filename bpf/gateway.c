//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The eBPF programs of the gateway at the pod's cgroup and its own, in one object.
// Along the path of a connection:
//
//   connect.c   application: connect(2) goes to the gateway's listener
//   sendmsg.c   application: UDP is counted, or refused
//   spread.c    application: many ports lead to the gateway's listener
//   hold.c      both ends: connect(2) waits until the worker knows what becomes of the connection
//   sockops.c   both ends: handover.h brings what the connecting socket knows to the one that
//               accepts it, inband.h tells gateways of each other in the handshake, urgent.h tells
//               the worker that there is urgent data
//   sockopt.c   worker: reads the original destination, names the client
//   tuning.c    application: notes options that are to reach the wire
//   names.c     application: getpeername(2), getsockname(2) and accept(2) return the addresses
//               that it would see without a gateway
//
// Inbound connections are the business of inbound.c.
//
// They load on Linux 5.10 and later, so they use no helper, no map type and no
// instruction that came after it.

#include "connect.c"
#include "sendmsg.c"
#include "spread.c"
#include "hold.c"
#include "sockops.c"
#include "sockopt.c"
#include "tuning.c"
#include "names.c"

char LICENSE[] SEC("license") = "Dual MIT/GPL";
