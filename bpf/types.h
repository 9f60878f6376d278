/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The maps, and what is in them. Maps belong to one gateway, that is to one pod
 * and its network namespace.
 */
#pragma once

#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_MPTCP 262

/* An address as IPv6 in network order, IPv4 as ::ffff:a.b.c.d, so that a
 * dual-stack socket and an IPv4 socket name one address in one way. */
struct endpoint {
	__u32 ip[4];
	__u16 port; /* network order */
	__u16 pad;
};

enum action {
	ACTION_EXCLUDE = 0,
	ACTION_POD = 1,
	ACTION_SERVICE = 2,
	/* A node: its node ports are services, the others nobody's business. */
	ACTION_NODE = 3,
};

struct range {
	__u32 bits; /* of the v4-mapped form, for IPv4 */
	__u32 ip[4];
};

/* Longest prefix match over every range that somebody named. Go sizes it to
 * what it puts in; programs only read it. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct range);
	__type(value, __u32);
} kgw_ranges SEC(".maps");

/* Longest prefix match over the sources: 1 if strict mode lets their plaintext in. Sized
 * as kgw_ranges is. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct range);
	__type(value, __u32);
} kgw_plaintext SEC(".maps");

/* One bit a port. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536 / 64);
	__type(key, __u32);
	__type(value, __u64);
} kgw_ports SEC(".maps");

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

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} kgw_config SEC(".maps");

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
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} kgw_counters SEC(".maps");

enum role {
	/* The application's end of a captured connection: where it wanted to go. */
	ROLE_CAPTURED = 1,
	/* The worker's end of a connection to the application: the client to show. */
	ROLE_PRESENTING = 2,
	/* The worker's end of a captured connection: where the application wanted to go. */
	ROLE_GATEWAY = 3,
	/* The application's end of a connection from the worker: the client to show. */
	ROLE_PRESENTED = 4,
	/* The worker's end of a connection made in band, no matter which of the two
	 * connected: the other end has not shown that it has a gateway, or it has. */
	ROLE_INBAND = 5,
	ROLE_INBAND_SHOWN = 6,
	/* The in-band listener, and what it accepts until that is established. */
	ROLE_INBAND_LISTENER = 7,
};

struct handover {
	struct endpoint addr;
	__u32 role;
};

/* What a socket knows. The kernel frees it with the socket, and copies it from a
 * listener to what that accepts. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct handover);
} kgw_sockets SEC(".maps");

struct tuple {
	struct endpoint client, server;
};

/* From a connecting socket to the one that accepts it. An entry lives from the
 * SYN to the end of the handshake, at most until the connecting socket closes. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct tuple);
	__type(value, struct handover);
} kgw_handover SEC(".maps");

/* Inbound connections whose SYN had the option, from the SYN to the end of the
 * handshake. Which of those in a handshake are steered depends on this map alone, so
 * that its SYN-ACK and what the gateway accepts never tell different stories. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct tuple);
	__type(value, __u32);
} kgw_shown SEC(".maps");

/* The in-band listeners. The kernel takes one out when it is closed. */
enum { LISTENER4 = 0, LISTENER6 = 1, LISTENERS = 2 };

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, LISTENERS);
	__type(key, __u32);
	__type(value, __u32);
} kgw_listeners SEC(".maps");

/* The verifier wants every field of a context or a socket read at its own offset: the compiler
 * must neither compute a pointer to one of two fields nor skip a read. */
#define FIELD(f) (*(volatile typeof(f) *)&(f))

static __always_inline void copy_ip(__u32 to[4], const __u32 from[4])
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

static __always_inline void map_ip4(__u32 to[4], __u32 ip4)
{
	to[0] = 0;
	to[1] = 0;
	to[2] = bpf_htonl(0xffff);
	to[3] = ip4;
}

static __always_inline bool is_mapped(const __u32 ip[4])
{
	return ip[0] == 0 && ip[1] == 0 && ip[2] == bpf_htonl(0xffff);
}

static __always_inline bool same_ip(const __u32 a[4], const __u32 b[4])
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static __always_inline struct config *get_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&kgw_config, &zero);
}

/* The old value of the field must not be used: an instruction that returns it came
 * with Linux 5.12. */
#define COUNT(field)                                                              \
	do {                                                                      \
		__u32 zero_ = 0;                                                  \
		struct counters *c_ = bpf_map_lookup_elem(&kgw_counters, &zero_); \
		if (c_)                                                           \
			__sync_fetch_and_add(&c_->field, 1);                      \
	} while (0)
