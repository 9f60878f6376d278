/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * Addresses and sockets, as all programs see them.
 */
#pragma once

#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>

#include "maps.h"

/* From linux/socket.h and linux/net.h, which are not for programs. */
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2

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
	return !(ip[0] | ip[1] | (ip[2] ^ bpf_htonl(0xffff)));
}

static __always_inline bool same_ip(const __u32 a[4], const __u32 b[4])
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]));
}

/* The worker dials the application from loopback. The kernel drops a packet from outside with such
 * a source, and the answer to it. */
static __always_inline bool is_loopback(const __u32 ip[4])
{
	if (is_mapped(ip))
		return (bpf_ntohl(ip[3]) >> 24) == 127;
	return !(ip[0] | ip[1] | ip[2] | (ip[3] ^ bpf_htonl(1)));
}

/* Whether ip is one that the worker dials the application from over IPv6, where the range leads to loopback:
 * 100:0:0:1::/64, which nobody else has (Sources6). */
static __always_inline bool is_source6(const __u32 ip[4])
{
	return !((ip[0] ^ bpf_htonl(0x01000000)) | (ip[1] ^ bpf_htonl(1)));
}

/* Whether the pod's network namespace has the address. The handshake of a connection from outside that
 * shows it as its source cannot end: the answer stays in the namespace. */
GLOBAL long is_own_ip(__u32 ip0, __u32 ip1, __u32 ip2, __u32 ip3)
{
	struct address key = { .ip = { ip0, ip1, ip2, ip3 } };

	return is_loopback(key.ip) || bpf_map_lookup_elem(&kgw_own, &key);
}

static __always_inline bool is_own(const __u32 ip[4])
{
	return is_own_ip(ip[0], ip[1], ip[2], ip[3]);
}

/* 127.0.0.1 or ::1. The gateway listens there. */
static __always_inline void loopback(bool mapped, __u32 to[4])
{
	if (mapped) {
		map_ip4(to, bpf_htonl(INADDR_LOOPBACK));
	} else {
		to[0] = 0;
		to[1] = 0;
		to[2] = 0;
		to[3] = bpf_htonl(1);
	}
}

/* The same in the family of ip. */
static __always_inline void loopback_of(const __u32 ip[4], __u32 to[4])
{
	loopback(is_mapped(ip), to);
}

static __always_inline enum listener listener_of(const __u32 ip[4])
{
	return is_mapped(ip) ? LISTENER4 : LISTENER6;
}

static __always_inline enum listener capture_listener_of(const __u32 ip[4])
{
	return is_mapped(ip) ? CAPTURE4 : CAPTURE6;
}

/* The pod's address in the family of ip, or NULL. */
static __always_inline const __u32 *pod_ip_of(const __u32 ip[4], const struct config *cfg)
{
	const __u32 *own = is_mapped(ip) ? cfg->pod_ip4 : cfg->pod_ip6;

	return own[0] | own[3] ? own : NULL;
}

/* The address that a system call names. */
static __always_inline void read_addr4(const struct bpf_sock_addr *ctx, struct endpoint *e)
{
	map_ip4(e->ip, ctx->user_ip4);
	e->port = ctx->user_port;
}

static __always_inline void read_addr6(const struct bpf_sock_addr *ctx, struct endpoint *e)
{
	for (int i = 0; i < 4; i++)
		e->ip[i] = FIELD(ctx->user_ip6[i]);
	e->port = ctx->user_port;
}

static __always_inline void write_addr4(struct bpf_sock_addr *ctx, const struct endpoint *e)
{
	ctx->user_ip4 = e->ip[3];
	ctx->user_port = e->port;
}

static __always_inline void write_addr6(struct bpf_sock_addr *ctx, const struct endpoint *e)
{
	for (int i = 0; i < 4; i++)
		FIELD(ctx->user_ip6[i]) = e->ip[i];
	ctx->user_port = e->port;
}

/* The ends of a connection that the kernel looks for a listener for. */
static __always_inline void read_lookup(struct bpf_sk_lookup *ctx, struct tuple *t)
{
	if (ctx->family == AF_INET) {
		map_ip4(t->client.ip, ctx->remote_ip4);
		map_ip4(t->server.ip, ctx->local_ip4);
	} else {
		for (int i = 0; i < 4; i++) {
			t->client.ip[i] = FIELD(ctx->remote_ip6[i]);
			t->server.ip[i] = FIELD(ctx->local_ip6[i]);
		}
	}
	t->client.port = ctx->remote_port;
	t->server.port = bpf_htons(ctx->local_port);
}

/* Makes the key that lookups of sockets take, and returns its size. The socket found is
 * the server's end. */
static __always_inline __u32 lookup_key(const struct tuple *t, struct bpf_sock_tuple *key)
{
	if (is_mapped(t->server.ip)) {
		key->ipv4.saddr = t->client.ip[3];
		key->ipv4.sport = t->client.port;
		key->ipv4.daddr = t->server.ip[3];
		key->ipv4.dport = t->server.port;
		return sizeof(key->ipv4);
	}
	copy_ip(key->ipv6.saddr, t->client.ip);
	key->ipv6.sport = t->client.port;
	copy_ip(key->ipv6.daddr, t->server.ip);
	key->ipv6.dport = t->server.port;
	return sizeof(key->ipv6);
}

/* Makes the key that asks who listens at to: no established connection has a source that is all zeroes. */
static __always_inline __u32 question_key(const struct endpoint *to, struct bpf_sock_tuple *key)
{
	struct tuple t = { .server = *to };

	return lookup_key(&t, key);
}

static __always_inline void release(struct bpf_sock **sk)
{
	if (*sk)
		bpf_sk_release(*sk);
}

/* A variable that holds a reference to a socket, and gives it back at the end of its scope. */
#define REFERENCE __attribute__((cleanup(release)))

/* A REFERENCE to the in-band listener for a connection, or NULL. */
static __always_inline struct bpf_sock *inband_listener(const struct tuple *t)
{
	enum listener which = listener_of(t->server.ip);

	return bpf_map_lookup_elem(&kgw_listeners, &which);
}
