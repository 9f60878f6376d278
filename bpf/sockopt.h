/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The worker's interface: socket options instead of bpf(2), so that it needs no
 * privilege. sockopt.go has the Go side of it and the meaning of the numbers.
 */
#pragma once

#include "types.h"

#define SOCKOPT_LEVEL 0x6b6777
#define SOCKOPT_ORIGINAL_DESTINATION 1
#define SOCKOPT_PRESENT_AS 2
#define SOCKOPT_INBAND 3
#define SOCKOPT_PEER_SHOWN 4

#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80

/* What the kernel itself said must stay when it is not about an option of ours. */
#define CONTINUE 1

/* The compiler would merge the two writes into one of eight bytes, which the
 * verifier refuses. */
#define ANSWER(ctx, size)                   \
	do {                                \
		(ctx)->optlen = (size);     \
		asm volatile("" ::: "memory"); \
		(ctx)->retval = 0;          \
	} while (0)

/* Programs see one page of a longer option, and the kernel fails the call with
 * EFAULT unless they say that they leave all of it alone (Linux before 6.5). */
#define PAGE 4096

static __always_inline int not_ours(struct bpf_sockopt *ctx)
{
	if (ctx->optlen > PAGE)
		ctx->optlen = 0;
	return CONTINUE;
}

static __always_inline bool original_destination(struct bpf_sock *sk, struct endpoint *to)
{
	struct handover *h = bpf_sk_storage_get(&kgw_sockets, sk, NULL, 0);
	struct tuple key = {};
	__u32 server4, client4;

	if (h) {
		*to = h->addr;
		return h->role == ROLE_GATEWAY;
	}
	for (int i = 0; i < 4; i++) {
		key.server.ip[i] = FIELD(sk->src_ip6[i]);
		key.client.ip[i] = FIELD(sk->dst_ip6[i]);
	}
	server4 = FIELD(sk->src_ip4);
	client4 = FIELD(sk->dst_ip4);
	if (sk->family == AF_INET) {
		map_ip4(key.server.ip, server4);
		map_ip4(key.client.ip, client4);
	}
	key.server.port = bpf_htons(sk->src_port);
	key.client.port = sk->dst_port;
	h = bpf_map_lookup_elem(&kgw_handover, &key);
	if (!h)
		return false;
	*to = h->addr;
	return h->role == ROLE_CAPTURED;
}

static __always_inline int peer_shown(struct bpf_sockopt *ctx)
{
	void *end = ctx->optval_end;
	__u32 *to = ctx->optval;
	struct handover *h;

	if (!ctx->sk || (void *)(to + 1) > end)
		return CONTINUE;
	h = bpf_sk_storage_get(&kgw_sockets, ctx->sk, NULL, 0);
	*to = h && h->role == ROLE_INBAND_SHOWN;
	ANSWER(ctx, sizeof(*to));
	return CONTINUE;
}

SEC("cgroup/getsockopt")
int kgw_getsockopt(struct bpf_sockopt *ctx)
{
	void *end = ctx->optval_end;
	void *to = ctx->optval;
	struct endpoint dst;

	if (ctx->level == SOCKOPT_LEVEL) {
		if (ctx->optname == SOCKOPT_PEER_SHOWN)
			return peer_shown(ctx);
		if (ctx->optname != SOCKOPT_ORIGINAL_DESTINATION)
			return not_ours(ctx);
	} else if (ctx->level == SOL_IP || ctx->level == SOL_IPV6) {
		if (ctx->optname != SO_ORIGINAL_DST)
			return not_ours(ctx);
	} else {
		return not_ours(ctx);
	}
	if (!ctx->sk || !original_destination(ctx->sk, &dst))
		return not_ours(ctx);

	if (ctx->level == SOCKOPT_LEVEL) {
		struct endpoint *e = to;

		if ((void *)(e + 1) > end)
			return CONTINUE;
		*e = dst;
		ANSWER(ctx, sizeof(*e));
	} else if (ctx->level == SOL_IP) {
		struct sockaddr4 *a = to;

		if ((void *)(a + 1) > end || !is_mapped(dst.ip))
			return CONTINUE;
		__builtin_memset(a, 0, sizeof(*a));
		a->family = AF_INET;
		a->port = dst.port;
		a->ip = dst.ip[3];
		ANSWER(ctx, sizeof(*a));
	} else {
		struct sockaddr6 *a = to;

		if ((void *)(a + 1) > end)
			return CONTINUE;
		__builtin_memset(a, 0, sizeof(*a));
		a->family = AF_INET6;
		a->port = dst.port;
		copy_ip(a->ip, dst.ip);
		ANSWER(ctx, sizeof(*a));
	}
	return CONTINUE;
}

SEC("cgroup/setsockopt")
int kgw_setsockopt(struct bpf_sockopt *ctx)
{
	struct endpoint *e = ctx->optval;
	__u32 *on = ctx->optval;
	void *end = ctx->optval_end;
	struct handover *h;

	if (ctx->level != SOCKOPT_LEVEL)
		return not_ours(ctx);
	switch (ctx->optname) {
	case SOCKOPT_PRESENT_AS:
		if ((void *)(e + 1) > end)
			return 0; /* EPERM */
		break;
	case SOCKOPT_INBAND:
		if ((void *)(on + 1) > end || *on != 1)
			return 0;
		break;
	default:
		return not_ours(ctx);
	}
	if (!ctx->sk)
		return 0;
	h = bpf_sk_storage_get(&kgw_sockets, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!h)
		return 0;
	if (ctx->optname == SOCKOPT_PRESENT_AS && (void *)(e + 1) <= end) {
		h->addr = *e;
		h->role = ROLE_PRESENTING;
	} else {
		h->role = ROLE_INBAND;
	}
	ctx->optlen = -1; /* handled: the kernel never sees it */
	return CONTINUE;
}
