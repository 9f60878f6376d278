//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * Datagrams of sockets that are not connected. connect.c sees the others.
 */

#include "decide.h"

/* An address without a family (AF_UNSPEC) is one of IPv4 to the kernel, too. */
SEC("cgroup/sendmsg4")
int kgw_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct config *cfg = get_config();
	struct endpoint dst = {};

	if (!cfg || !is_udp(ctx))
		return VERDICT_PASS;
	read_addr4(ctx, &dst);
	return judge_udp(ctx, cfg, &dst);
}

SEC("cgroup/sendmsg6")
int kgw_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct config *cfg = get_config();
	struct endpoint dst = {};

	if (!cfg || ctx->user_family != AF_INET6 || !is_udp(ctx))
		return VERDICT_PASS;
	read_addr6(ctx, &dst);
	return judge_udp(ctx, cfg, &dst);
}
