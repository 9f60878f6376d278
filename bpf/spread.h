/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * Captured connections to different destinations go to different ports of loopback, so that they can
 * have the same source port, as without a gateway. Nobody listens at these ports: spread.c
 * finds the gateway's listener for a connection by both of its ends.
 */
#pragma once

#include "socket.h"

/* So many ports are tried. */
#define SPREAD_TRIES 8

static __always_inline bool is_spread(__u16 port)
{
	return bpf_ntohs(port) >= 65536 - SPREAD_PORTS;
}

/* Multiplicative hashing: the upper bits are the good ones. */
static __always_inline __u32 hash_of(const struct endpoint *e)
{
	const __u32 golden = 0x9e3779b1;
	__u32 hash = bpf_ntohs(e->port);

	for (int i = 0; i < 4; i++)
		hash = hash * golden + bpf_ntohl(e->ip[i]);
	return hash * golden;
}

/* Whether somebody listens there: if the connection were not known to spread.c, for want of memory, it
 * would be theirs. */
static __always_inline bool has_listener_at(struct bpf_sock_addr *ctx, const struct endpoint *to)
{
	struct bpf_sock_tuple key = {};
	struct bpf_sock *sk REFERENCE = bpf_sk_lookup_tcp(ctx, &key, question_key(to, &key), BPF_F_CURRENT_NETNS, 0);

	return sk;
}

/* Whether ctx's socket is bound to a port that has a connection to the gateway there already, for another
 * destination than dst. A second one to dst is to fail. */
static __always_inline bool is_taken(struct bpf_sock_addr *ctx, const struct endpoint *dst, const struct endpoint *gateway)
{
	struct tuple t = { .client = *gateway };
	struct bpf_sock_tuple key = {};
	struct handover *h;

	if (!ctx->sk->src_port)
		return false;
	if (ctx->family == AF_INET) {
		map_ip4(t.server.ip, ctx->sk->src_ip4);
	} else {
		for (int i = 0; i < 4; i++)
			t.server.ip[i] = FIELD(ctx->sk->src_ip6[i]);
	}
	/* The kernel chooses the source when the socket connects. */
	if (!t.server.ip[3])
		loopback_of(dst->ip, t.server.ip);
	t.server.port = bpf_htons(ctx->sk->src_port);

	struct bpf_sock *sk REFERENCE = bpf_sk_lookup_tcp(ctx, &key, lookup_key(&t, &key), BPF_F_CURRENT_NETNS, 0);

	if (!sk || sk->state == BPF_TCP_LISTEN)
		return false;
	h = known(sk);
	return !has_role(h, ROLE_CAPTURED) || !same_ip(h->addr.ip, dst->ip) || h->addr.port != dst->port;
}

/* Whether a captured connection of ctx's socket may go to that port of the gateway. */
GLOBAL int is_free(struct bpf_sock_addr *ctx, __u32 port)
{
	struct handover *h = known(ctx->sk);
	struct endpoint dst, to = {};

	if (!h)
		return false;
	dst = h->addr;
	loopback_of(dst.ip, to.ip);
	to.port = bpf_htons(port);
	return !has_listener_at(ctx, &to) && !is_taken(ctx, &dst, &to);
}

/* Chooses the port of the gateway, in network order, to which a captured connection of ctx's socket goes: the listener's own if
 * no other one is free. */
GLOBAL int spread(struct bpf_sock_addr *ctx)
{
	struct handover *h = known(ctx->sk);
	struct config *cfg = get_config();
	__u32 hash;

	if (!h || !cfg)
		return 0;
	hash = hash_of(&h->addr) >> 16;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; cfg->spread && i < SPREAD_TRIES; i++) {
		__u32 port = 65536 - SPREAD_PORTS + ((hash + i) & (SPREAD_PORTS - 1));

		if (is_free(ctx, port))
			return bpf_htons(port);
	}
	return cfg->capture_port;
}
