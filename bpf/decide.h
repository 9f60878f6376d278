/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * What all programs that decide about a destination have in common: whose process
 * it is, and what the settings say about the destination.
 */
#pragma once

#include "socket.h"

/* A program returns VERDICT_REFUSE, and the call fails with EPERM, or VERDICT_PASS. */
enum verdict { VERDICT_REFUSE, VERDICT_PASS, VERDICT_CAPTURE };

/* No cgroup path of a node is deeper. Go refuses one that is. */
#define CGROUP_LEVELS 32

/* Names must be resolved before anything can be encrypted. */
#define DNS_PORT 53

/* What is_below_gateway returns where there is no cgroup. */
#define NO_CGROUP (-1)

/* So many levels are asked at a time. */
#define STEP 4

static __always_inline bool is_gateways(const struct config *cfg, __u64 cgroup)
{
	for (int i = 0; i < MAX_GATEWAYS; i++)
		if (cgroup == cfg->gateways[i])
			return true;
	return false;
}

/* Whether the caller's ancestor at level, or at one of the next ones, is the cgroup of a gateway. False says that more levels
 * are to be asked. */
GLOBAL long is_below_gateway(__u64 level)
{
	struct config *cfg = get_config();

	for (int i = 0; i < STEP; i++) {
		__u64 cgroup = bpf_get_current_ancestor_cgroup_id(level + i);

		if (!cfg || !cgroup)
			return NO_CGROUP;
		if (is_gateways(cfg, cgroup))
			return true;
	}
	return false;
}

/* Whether the caller belongs to a gateway, in a cgroup below its own too (some
 * runtimes make one in every container). The level of a gateway's cgroup in the
 * whole hierarchy is not known in a cgroup namespace, so every level is asked. */
GLOBAL long is_gateway(void)
{
	struct config *cfg = get_config();

	if (!cfg)
		return false;
	if (is_gateways(cfg, bpf_get_current_cgroup_id()))
		return true;
	for (__u64 level = 1; level < CGROUP_LEVELS; level += STEP) {
		long answer = is_below_gateway(level);

		if (answer)
			return answer != NO_CGROUP;
	}
	return false;
}

/* Whether the Internet does not route the address: RFC 1918, 6598, 3927, 4193 and 4291. */
static __always_inline bool is_private(const __u32 ip[4])
{
	__u32 first = bpf_ntohl(is_mapped(ip) ? ip[3] : ip[0]);

	if (!is_mapped(ip))
		return first >> 25 == 0xfc >> 1 || first >> 22 == 0xfe80 >> 6;
	return first >> 24 == 10 || first >> 20 == (172 << 4 | 16 >> 4) || first >> 16 == (192 << 8 | 168) ||
	       first >> 22 == (100 << 2 | 64 >> 6) || first >> 16 == (169 << 8 | 254);
}

/* The settings' word about an address and a port. */
static __always_inline enum action named_action(const struct endpoint *dst)
{
	struct destinations key = { .bits = ENDPOINT_BITS, .to = *dst };
	__u32 port = bpf_ntohs(dst->port);
	__u32 word = port / 64;
	__u64 *excluded = bpf_map_lookup_elem(&kgw_ports, &word);
	enum action *action = bpf_map_lookup_elem(&kgw_ranges, &key);
	struct config *cfg = get_config();

	if (!action || !cfg)
		return ACTION_OUTSIDE;
	if (*action >= ACTION_EXCLUDE && excluded && *excluded >> (port % 64) & 1)
		return ACTION_EXCLUDE;
	if (*action == ACTION_NODE)
		return port >= cfg->node_ports[0] && port <= cfg->node_ports[1] ? ACTION_SERVICE : ACTION_EXCLUDE;
	return *action;
}

/* action_for, with an endpoint's fields. */
GLOBAL long action_for_ip(__u32 ip0, __u32 ip1, __u32 ip2, __u32 ip3, __u32 port)
{
	struct endpoint dst = { .ip = { ip0, ip1, ip2, ip3 }, .port = port };
	enum action action = named_action(&dst);

	return action == ACTION_OUTSIDE && (!is_private(dst.ip) || is_own(dst.ip)) ? ACTION_LOCAL : action;
}

/* What becomes of connections to dst. Never ACTION_NODE. Those that are no business of the gateway, because they stay in the pod
 * or leave for the Internet, are ACTION_LOCAL. */
static __always_inline enum action action_for(const struct endpoint *dst)
{
	return action_for_ip(dst->ip[0], dst->ip[1], dst->ip[2], dst->ip[3], dst->port);
}

/* Counts by /24 of IPv4 and /64 of IPv6. */
static __always_inline void count_outside(const struct endpoint *dst)
{
	struct range network = { .bits = 96 + 24 };
	__u64 *connections, one = 1;

	copy_ip(network.ip, dst->ip);
	if (is_mapped(dst->ip)) {
		network.ip[3] &= bpf_htonl(0xffffff00);
	} else {
		network.bits = 64;
		network.ip[2] = network.ip[3] = 0;
	}
	COUNT(outside);
	connections = bpf_map_lookup_elem(&kgw_outside, &network);
	if (!connections && bpf_map_update_elem(&kgw_outside, &network, &one, BPF_NOEXIST) == 0)
		return;
	if (!connections)
		connections = bpf_map_lookup_elem(&kgw_outside, &network);
	if (connections)
		__sync_fetch_and_add(connections, 1);
}

/* Decides about a connection to an address that no range names. */
GLOBAL long judge_outside(__u32 ip0, __u32 ip1, __u32 ip2, __u32 ip3)
{
	struct endpoint dst = { .ip = { ip0, ip1, ip2, ip3 } };
	struct config *cfg = get_config();

	count_outside(&dst);
	if (!cfg || !cfg->strict || !cfg->refuse_outside)
		return VERDICT_PASS;
	COUNT(outside_refused);
	return VERDICT_REFUSE;
}

/* Decides about a connection that no range captures, and that is not ACTION_LOCAL. */
static __always_inline enum verdict judge_uncaptured(enum action action, const struct endpoint *dst)
{
	if (action != ACTION_EXCLUDE)
		return judge_outside(dst->ip[0], dst->ip[1], dst->ip[2], dst->ip[3]);
	COUNT(excluded);
	return VERDICT_PASS;
}

static __always_inline bool is_udp(struct bpf_sock_addr *ctx)
{
	return ctx->type == SOCK_DGRAM && ctx->protocol == IPPROTO_UDP;
}

/* UDP is not encrypted: it is counted where TCP would be captured, and refused there on
 * request. Questions to a name server are neither. What comes from its port is counted apart: that it is
 * an answer cannot be seen here. */
static __always_inline enum verdict judge_udp(struct bpf_sock_addr *ctx, const struct config *cfg, const struct endpoint *dst)
{
	if (dst->port == bpf_htons(DNS_PORT) || action_for(dst) < ACTION_POD || is_gateway())
		return VERDICT_PASS;
	if (ctx->sk->src_port == DNS_PORT) {
		COUNT(udp_answers);
		return VERDICT_PASS;
	}
	COUNT(udp);
	if (!cfg->block_udp || !cfg->strict)
		return VERDICT_PASS;
	COUNT(udp_refused);
	return VERDICT_REFUSE;
}
