/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * What the application is told about the two ends of its connections. The
 * getpeername hooks run for accept(2), too. They must return 1.
 */
#pragma once

#include "types.h"

/* The address to show as the other end, or NULL for the true one. The worker's
 * own sockets always show the true one. */
static __always_inline struct endpoint *peer_of(struct bpf_sock_addr *ctx)
{
	struct handover *h = bpf_sk_storage_get(&kgw_sockets, ctx->sk, NULL, 0);

	if (!h)
		return NULL;
	if (h->role != ROLE_CAPTURED && h->role != ROLE_PRESENTED)
		return NULL;
	return &h->addr;
}

SEC("cgroup/getpeername4")
int kgw_getpeer4(struct bpf_sock_addr *ctx)
{
	struct endpoint *peer = peer_of(ctx);

	if (peer && is_mapped(peer->ip)) {
		ctx->user_ip4 = peer->ip[3];
		ctx->user_port = peer->port;
	}
	return 1;
}

SEC("cgroup/getpeername6")
int kgw_getpeer6(struct bpf_sock_addr *ctx)
{
	struct endpoint *peer = peer_of(ctx);

	if (peer) {
		ctx->user_ip6[0] = peer->ip[0];
		ctx->user_ip6[1] = peer->ip[1];
		ctx->user_ip6[2] = peer->ip[2];
		ctx->user_ip6[3] = peer->ip[3];
		ctx->user_port = peer->port;
	}
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
	} else if (!ip[0] && !ip[1] && !ip[2] && ip[3] == bpf_htonl(1) && cfg->pod_ip6[3]) {
		ctx->user_ip6[0] = cfg->pod_ip6[0];
		ctx->user_ip6[1] = cfg->pod_ip6[1];
		ctx->user_ip6[2] = cfg->pod_ip6[2];
		ctx->user_ip6[3] = cfg->pod_ip6[3];
	}
	return 1;
}
