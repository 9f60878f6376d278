//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The eBPF programs of the gateway, in one object. Along the path of a
// connection:
//
//   connect.h   application: connect(2) is sent to the gateway's listener
//   handover.h  both sides: what the connecting socket knows reaches the
//               socket that accepts it
//   sockopt.h   worker: reads the original destination, names the client
//   names.h     application: getpeername(2), getsockname(2) and accept(2)
//               tell the addresses that it would see without a gateway
//
// They load on Linux 5.10 and later, so they use no helper, no map type and no
// instruction that came after it.

#include "types.h"
#include "connect.h"
#include "handover.h"
#include "names.h"
#include "sockopt.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";
