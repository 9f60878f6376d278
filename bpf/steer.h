/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * Which inbound connections are the gateway's: those whose SYN had the option, and
 * in strict mode those in plaintext, which are refused.
 */
#pragma once

#include "socket.h"

/* Whether a connection begins in the pod's network namespace. The handshake of one from outside that
 * shows such a source cannot end: the answer stays in the namespace. */
static __always_inline bool is_own(const __u32 ip[4])
{
	struct address key;

	if (is_loopback(ip))
		return true;
	copy_ip(key.ip, ip);
	return bpf_map_lookup_elem(&kgw_own, &key);
}

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

static __always_inline bool plaintext_allowed(const __u32 ip[4])
{
	struct range key = { .bits = 128 };
	__u32 *allowed;

	copy_ip(key.ip, ip);
	allowed = bpf_map_lookup_elem(&kgw_plaintext, &key);
	return allowed && *allowed;
}

/* Whether nothing passes when the gateway is gone. */
static __always_inline bool fails_closed(const struct config *cfg)
{
	return cfg->strict && cfg->closed;
}
