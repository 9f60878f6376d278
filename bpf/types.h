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

/* What becomes of connections to a destination. */
enum action {
	ACTION_OUTSIDE, /* no range names it */
	ACTION_LOCAL,	/* it does not leave the pod */
	ACTION_EXCLUDE, /* never captured, but counted */
	ACTION_POD,
	ACTION_SERVICE,
	ACTION_NODE, /* a node: its node ports are Services, its other ports are excluded */
};

/* Addresses: the bits of the v4-mapped form, for IPv4. */
struct range {
	__u32 bits;
	__u32 ip[4];
};

/* Destinations: the same, or ENDPOINT_BITS for one address and one port. */
struct destinations {
	__u32 bits;
	struct endpoint to;
};

#define ENDPOINT_BITS (128 + 16)

/* At most so many ranges of ports are told apart for one source. */
#define MAX_PORTS 32

/* Ports, in host order. A range without an end has none. */
struct ports {
	struct {
		__u32 first, end;
	} list[MAX_PORTS];
};

/* At most so many gateways of one pod are known to each other: one that serves, the one that takes
 * over from it, and two whose connections have not ended. */
#define MAX_GATEWAYS 4

/* A power of two of ports, the last ones that there are: the kernel gives them to no socket by
 * itself (net.ipv4.ip_local_port_range). api.FirstSpreadPort is the first one. */
#define SPREAD_PORTS 1024

struct config {
	/* Their cgroups, the own one first. Zero is none. */
	__u64 gateways[MAX_GATEWAYS];
	/* Addresses of the pod, zero if it has none of that family. */
	__u32 pod_ip4[4];
	__u32 pod_ip6[4];
	__u32 strict;
	__u32 closed;
	__u32 inband_services;
	__u32 block_udp;
	__u32 refuse_outside;
	__u32 spread; /* spread.c is attached */
	__u32 sources6; /* the range of is_source6 leads to loopback */
	__u32 number4, number6; /* by which it answers at the pod's addresses */
	__u16 capture_port, peer_port, inband_port; /* network order */
	__u16 other_inband; /* that of the gateway which hands over, or takes over, or zero */
	__u16 node_ports[2]; /* host order, first and last */
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
	__u64 excluded;
	__u64 outside;
	__u64 outside_refused;
	__u64 nested;
	__u64 forwarded;
	__u64 udp_answers;
};

/* Connections, and when the last one began (bpf_ktime_get_ns). */
struct seen {
	__u64 connections;
	__u64 last;
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
	/* The end that connected, once it is established: no SYN with the option was answered. */
	ROLE_INBAND_GIVEN_UP,
	/* The listeners that the supervisor has marked, and what they accept until that is
	 * established. */
	ROLE_CAPTURE_LISTENER,
	ROLE_INBAND_LISTENER,
	/* An application's socket in a network namespace within the pod: connect.c has let its connection
	 * pass. */
	ROLE_NESTED,
};

/* What becomes of the SYN of a captured connection. */
enum hold {
	HOLD_UNDECIDED, /* none has been seen */
	HOLD_WAITS,	/* the worker is to find out whether there is a connection */
	HOLD_ADMITTED,
};

/* What the SYN-ACK of a connection in band says about the gateway that has answered. */
struct answer {
	__u32 gateway; /* 0: nothing */
	__u16 port;    /* network order */
	__u16 pad;
};

struct handover {
	struct endpoint addr;
	enum role role;
	enum action action; /* for ROLE_CAPTURED and ROLE_GATEWAY */
	__u32 offers;       /* for ROLE_INBAND: how many SYNs of the handshake have the option */
	enum hold hold;	    /* for ROLE_CAPTURED, in the handover map */
	struct answer answer; /* for ROLE_INBAND_SHOWN, of the end that has connected */
};

enum listener { LISTENER4, LISTENER6, CAPTURE4, CAPTURE6, LISTENERS };

/* The options of SOCKOPT_LEVEL, a level that no protocol of the kernel uses. */
enum sockopt {
	SOCKOPT_LEVEL = 0x6b6777, /* "kgw" */
	/* get: struct handover */
	SOCKOPT_ORIGINAL_DESTINATION = 1,
	/* set, before connect(2): struct endpoint */
	SOCKOPT_PRESENT_AS = 2,
	/* set, before connect(2): an int, how many SYNs have the option, 1 or more */
	SOCKOPT_INBAND = 3,
	/* get: an int, the role: ROLE_INBAND, ROLE_INBAND_SHOWN or ROLE_INBAND_GIVEN_UP, or 0 */
	SOCKOPT_NEGOTIATED = 4,
	/* set, before listen(2): an int, ROLE_CAPTURE_LISTENER or ROLE_INBAND_LISTENER */
	SOCKOPT_LISTENER = 5,
	/* get: an int, 1, or 2 if the connection is established, or 0 */
	SOCKOPT_HANDED_OVER = 6,
	/* get: struct tuning, that of the application at the last getpeername(2) */
	SOCKOPT_TUNING = 7,
	/* set: struct tuple, of a connection that waits: the socket has its original destination then */
	SOCKOPT_WAITING = 8,
	/* set: struct tuple, of a connection that need not wait any longer */
	SOCKOPT_ADMIT = 9,
	/* set: struct endpoint, a destination to which there was a connection just now, or there was none */
	SOCKOPT_WORKS = 10,
	SOCKOPT_FAILS = 11,
	/* get: an int, 1 if the address of the other end cannot be that of a pod or node, or 0 */
	SOCKOPT_FROM_OUTSIDE = 12,
	/* get: struct answer */
	SOCKOPT_ANSWER = 13,
	/* get: a __u64, notes.urgent */
	SOCKOPT_URGENT = 14,
};

/* Options of an application's socket that packets on the wire show, or that say how long to wait for
 * packets. All but the last one have a number as their value. */
enum tunable {
	TUNE_KEEPALIVE,
	TUNE_KEEPIDLE,
	TUNE_KEEPINTVL,
	TUNE_KEEPCNT,
	TUNE_USER_TIMEOUT,
	TUNE_TOS,
	TUNE_TCLASS,
	TUNE_PRIORITY,
	TUNE_CONGESTION,
	TUNABLES,
};

struct tuning {
	__u32 set; /* a bit for each tunable that the application has set */
	__u32 value[TUNE_CONGESTION];
	char congestion[16]; /* TCP_CA_NAME_MAX */
};

/* The name of a tuning of keepalive alone, which most are: an IPv4 address, with tuning.set and the values from these bits on, and
 * TCP_KEEPIDLE as the port. As it is a multicast address, no end of a TCP connection has it. */
enum tuning_name {
	NAME_MASK = 0xf8000000,
	NAME_PREFIX = 0xe0000000,
	NAME_SET = 23,
	NAME_KEEPALIVE = 22,
	NAME_KEEPCNT = 15,
	NAME_KEEPINTVL = 0,
};

/* The notes of a socket. */
struct notes {
	struct handover handover;
	/* The worker has asked whose connection it is: it has accepted or connected the socket, and getpeername(2) may say the name
	 * of the tuning. Programs cannot tell that from accept(2). */
	__u32 asked;
	/* How an application has tuned it; on a socket of the worker, how the application at the other end
	 * has. */
	struct tuning tuning;
	/* Of a socket of the worker that leads to an application: the place in the stream of the first byte that was
	 * urgent, counted from 1, or 0. */
	__u64 urgent;
};
