/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * UDP is not encrypted: it is counted where TCP would be captured, and refused
 * there on request. connect.h sees connect(2), this file what is sent without.
 */
#pragma once

#include "decide.h"

/* Names must be resolved before anything can be encrypted. */
#define DNS_PORT 53

static __always_inline bool is_udp(struct bpf_sock_addr *ctx)
{
	return ctx->type == SOCK_DGRAM && ctx->protocol == IPPROTO_UDP;
}

static __always_inline int judge_udp(const struct config *cfg, const struct endpoint *dst)
{
	if (dst->port == bpf_htons(DNS_PORT) || action_for(cfg, dst) == ACTION_EXCLUDE || is_gateway(cfg))
		return PASS;
	COUNT(udp);
	if (!cfg->block_udp || !cfg->strict)
		return PASS;
	COUNT(udp_refused);
	return REFUSE;
}

SEC("cgroup/sendmsg4")
int kgw_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct config *cfg = get_config();
	struct endpoint dst = {};

	if (!cfg || ctx->user_family != AF_INET || !is_udp(ctx))
		return PASS;
	map_ip4(dst.ip, ctx->user_ip4);
	dst.port = ctx->user_port;
	return judge_udp(cfg, &dst);
}

SEC("cgroup/sendmsg6")
int kgw_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct config *cfg = get_config();
	struct endpoint dst = {};

	if (!cfg || ctx->user_family != AF_INET6 || !is_udp(ctx))
		return PASS;
	dst.ip[0] = ctx->user_ip6[0];
	dst.ip[1] = ctx->user_ip6[1];
	dst.ip[2] = ctx->user_ip6[2];
	dst.ip[3] = ctx->user_ip6[3];
	dst.port = ctx->user_port;
	return judge_udp(cfg, &dst);
}
