/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * What the maps hold, and the numbers that Go shares: generate.sh makes both into Go.
 */
#pragma once

#include <linux/types.h>

/* An address as IPv6 in network order, IPv4 as ::ffff:a.b.c.d: a dual-stack socket and
 * an IPv4 socket name one address in one way. */
struct endpoint {
	__u32 ip[4];
	__u16 port; /* network order */
	__u16 pad;
};

struct address {
	__u32 ip[4];
};

/* A TCP connection: the client is the end that connected. */
struct tuple {
	struct endpoint client, server;
};

/* What becomes of connections to a range. */
enum action {
	ACTION_EXCLUDE, /* never captured */
	ACTION_POD,
	ACTION_SERVICE,
	ACTION_NODE, /* a node: its node ports are Services, its other ports are excluded */
};

struct range {
	__u32 bits; /* of the v4-mapped form, for IPv4 */
	__u32 ip[4];
};

struct config {
	__u64 own_cgroup;
	/* Addresses of the pod, zero if it has none of that family. */
	__u32 pod_ip4[4];
	__u32 pod_ip6[4];
	__u32 strict;
	__u32 closed;
	__u32 inband_services;
	__u32 block_udp;
	__u16 capture_port, peer_port, inband_port; /* network order */
	__u16 node_ports[2]; /* host order, first and last */
	__u16 pad[3];
};

struct counters {
	__u64 captured;
	__u64 service_passed;
	__u64 service_refused;
	__u64 no_listener;
	__u64 uncapturable;
	__u64 udp;
	__u64 udp_refused;
	__u64 steered;
	__u64 plaintext_refused;
	__u64 plaintext_allowed;
	__u64 nested;
	__u64 forwarded;
};

enum role {
	/* The application's end of a captured connection: its original destination. */
	ROLE_CAPTURED = 1,
	/* The worker's end of a connection to the application: the client to show. */
	ROLE_PRESENTING,
	/* The same, once the client is in the handover map. */
	ROLE_HANDED_OVER,
	/* The worker's end of a captured connection: its original destination. */
	ROLE_GATEWAY,
	/* The application's end of a connection from the worker: the client to show. */
	ROLE_PRESENTED,
	/* The worker's end of a connection made in band, whichever end connected: the other
	 * end has not shown that it has a gateway, or it has. */
	ROLE_INBAND,
	ROLE_INBAND_SHOWN,
	/* The listeners that the supervisor has marked, and what they accept until that is
	 * established. */
	ROLE_CAPTURE_LISTENER,
	ROLE_INBAND_LISTENER,
};

struct handover {
	struct endpoint addr;
	enum role role;
};

enum listener { LISTENER4, LISTENER6, LISTENERS };

/* The options of SOCKOPT_LEVEL, a level that no protocol of the kernel uses. */
enum sockopt {
	SOCKOPT_LEVEL = 0x6b6777, /* "kgw" */
	/* get: struct endpoint */
	SOCKOPT_ORIGINAL_DESTINATION = 1,
	/* set, before connect(2): struct endpoint */
	SOCKOPT_PRESENT_AS = 2,
	/* set, before connect(2): an int of 1 */
	SOCKOPT_INBAND = 3,
	/* get: an int, 1 or 0 */
	SOCKOPT_PEER_SHOWN = 4,
	/* set, before listen(2): an int, ROLE_CAPTURE_LISTENER or ROLE_INBAND_LISTENER */
	SOCKOPT_LISTENER = 5,
	/* get: an int, 1 or 0 */
	SOCKOPT_HANDED_OVER = 6,
};
