/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * What the application is told about the two ends of its connections. The
 * getpeername hooks run for accept(2), too. They must return 1.
 */
#pragma once

#include "types.h"

/* Finds the address to show as the other end; false says that the true one is
 * right. The worker's own sockets always show the true one. */
static __always_inline bool peer_of(struct bpf_sock *sk, struct endpoint *peer)
{
	struct handover *h = bpf_sk_storage_get(&kgw_sockets, sk, NULL, 0);

	if (!h)
		return false;
	if (h->role != ROLE_CAPTURED && h->role != ROLE_PRESENTED)
		return false;
	*peer = h->addr;
	return true;
}

/* The socket of an application that uses MPTCP is not the one that connect.h
 * saw, which is below it, with the same addresses. */
static __always_inline bool peer_of_subflow(struct bpf_sock_addr *ctx, struct bpf_sock_tuple *tuple, __u32 size,
					    struct endpoint *peer)
{
	struct bpf_sock *sk = bpf_sk_lookup_tcp(ctx, tuple, size, BPF_F_CURRENT_NETNS, 0);
	bool found;

	if (!sk)
		return false;
	found = peer_of(sk, peer);
	bpf_sk_release(sk);
	return found;
}

SEC("cgroup/getpeername4")
int kgw_getpeer4(struct bpf_sock_addr *ctx)
{
	struct config *cfg = get_config();
	struct bpf_sock_tuple tuple = {};
	struct endpoint peer = {};

	if (!peer_of(ctx->sk, &peer)) {
		if (!cfg || ctx->user_port != cfg->capture_port)
			return 1;
		tuple.ipv4.saddr = ctx->user_ip4;
		tuple.ipv4.sport = ctx->user_port;
		tuple.ipv4.daddr = ctx->sk->src_ip4;
		tuple.ipv4.dport = bpf_htons(ctx->sk->src_port);
		if (!peer_of_subflow(ctx, &tuple, sizeof(tuple.ipv4), &peer))
			return 1;
	}
	if (is_mapped(peer.ip)) {
		ctx->user_ip4 = peer.ip[3];
		ctx->user_port = peer.port;
	}
	return 1;
}

SEC("cgroup/getpeername6")
int kgw_getpeer6(struct bpf_sock_addr *ctx)
{
	struct config *cfg = get_config();
	struct bpf_sock_tuple tuple = {};
	struct endpoint peer = {};

	if (!peer_of(ctx->sk, &peer)) {
		if (!cfg || ctx->user_port != cfg->capture_port)
			return 1;
		peer.ip[0] = ctx->user_ip6[0];
		peer.ip[1] = ctx->user_ip6[1];
		peer.ip[2] = ctx->user_ip6[2];
		peer.ip[3] = ctx->user_ip6[3];
		if (is_mapped(peer.ip)) {
			tuple.ipv4.saddr = peer.ip[3];
			tuple.ipv4.sport = ctx->user_port;
			tuple.ipv4.daddr = ctx->sk->src_ip6[3];
			tuple.ipv4.dport = bpf_htons(ctx->sk->src_port);
			if (!peer_of_subflow(ctx, &tuple, sizeof(tuple.ipv4), &peer))
				return 1;
		} else {
			copy_ip(tuple.ipv6.saddr, peer.ip);
			tuple.ipv6.sport = ctx->user_port;
			tuple.ipv6.daddr[0] = ctx->sk->src_ip6[0];
			tuple.ipv6.daddr[1] = ctx->sk->src_ip6[1];
			tuple.ipv6.daddr[2] = ctx->sk->src_ip6[2];
			tuple.ipv6.daddr[3] = ctx->sk->src_ip6[3];
			tuple.ipv6.dport = bpf_htons(ctx->sk->src_port);
			if (!peer_of_subflow(ctx, &tuple, sizeof(tuple.ipv6), &peer))
				return 1;
		}
	}
	ctx->user_ip6[0] = peer.ip[0];
	ctx->user_ip6[1] = peer.ip[1];
	ctx->user_ip6[2] = peer.ip[2];
	ctx->user_ip6[3] = peer.ip[3];
	ctx->user_port = peer.port;
	return 1;
}

static __always_inline bool is_captured(struct bpf_sock_addr *ctx)
{
	struct handover *h = bpf_sk_storage_get(&kgw_sockets, ctx->sk, NULL, 0);

	return h && h->role == ROLE_CAPTURED;
}

/* A socket that was bound to a port alone has a loopback address once it is
 * captured: without a gateway it would have the pod's. */
SEC("cgroup/getsockname4")
int kgw_getsock4(struct bpf_sock_addr *ctx)
{
	struct config *cfg = get_config();

	if (cfg && cfg->pod_ip4[3] && ctx->user_ip4 == bpf_htonl(0x7f000001) && is_captured(ctx))
		ctx->user_ip4 = cfg->pod_ip4[3];
	return 1;
}

SEC("cgroup/getsockname6")
int kgw_getsock6(struct bpf_sock_addr *ctx)
{
	struct config *cfg = get_config();
	__u32 ip[4] = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] };

	if (!cfg || !is_captured(ctx))
		return 1;
	if (is_mapped(ip)) {
		if (cfg->pod_ip4[3] && ip[3] == bpf_htonl(0x7f000001))
			ctx->user_ip6[3] = cfg->pod_ip4[3];
	} else if (!ip[0] && !ip[1] && !ip[2] && ip[3] == bpf_htonl(1) && cfg->pod_ip6[0]) {
		ctx->user_ip6[0] = cfg->pod_ip6[0];
		ctx->user_ip6[1] = cfg->pod_ip6[1];
		ctx->user_ip6[2] = cfg->pod_ip6[2];
		ctx->user_ip6[3] = cfg->pod_ip6[3];
	}
	return 1;
}
