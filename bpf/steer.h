/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * Which inbound connections are the gateway's: those whose SYN had the option, and
 * in strict mode those in plaintext, which are refused.
 */
#pragma once

#include "socket.h"

/* Whether the gateway itself listens there. */
static __always_inline bool is_gateway_port(const struct config *cfg, const struct endpoint *server)
{
	return server->port == cfg->peer_port ||
	       ((server->port == cfg->capture_port || server->port == cfg->inband_port) && is_loopback(server->ip));
}

/* Whether the connection comes from outside. Which address of the pod it goes to, and by which
 * interface it comes, does not matter. */
static __always_inline bool is_inbound(const struct config *cfg, const struct tuple *t)
{
	return !is_own(t->client.ip) && !is_gateway_port(cfg, &t->server);
}

/* Whether strict mode allows plaintext from an address to a port. */
GLOBAL int source_allowed(__u32 ip0, __u32 ip1, __u32 ip2, __u32 ip3, __u32 port)
{
	struct range key = { .bits = 128, .ip = { ip0, ip1, ip2, ip3 } };
	struct ports *allowed = bpf_map_lookup_elem(&kgw_plaintext, &key);

	__s64 outside = -1;

	if (!allowed)
		return false;
	/* Negative unless one of the ranges has the port. A loop that branches takes the verifier three times as long. */
#pragma clang loop unroll(full)
	for (int i = 0; i < MAX_PORTS; i++)
		outside &= ((__s64)port - allowed->list[i].first) | ((__s64)allowed->list[i].end - 1 - port);
	return outside >= 0;
}

static __always_inline bool plaintext_allowed(const struct tuple *t)
{
	const __u32 *ip = t->client.ip;

	return source_allowed(ip[0], ip[1], ip[2], ip[3], bpf_ntohs(t->server.port));
}

/* Counts a connection of a client without a gateway. A SYN that is sent again counts again. */
static __always_inline void count_stranger(const struct tuple *t)
{
	struct endpoint key = { .port = t->server.port };
	struct seen *known, first = { .connections = 1, .last = bpf_ktime_get_ns() };

	copy_ip(key.ip, t->client.ip);
	known = bpf_map_lookup_elem(&kgw_strangers, &key);
	if (!known) {
		bpf_map_update_elem(&kgw_strangers, &key, &first, BPF_NOEXIST);
		return;
	}
	__sync_fetch_and_add(&known->connections, 1);
	known->last = first.last;
}

/* Whether nothing passes when the gateway is gone. */
static __always_inline bool fails_closed(const struct config *cfg)
{
	return cfg->strict && cfg->closed;
}
