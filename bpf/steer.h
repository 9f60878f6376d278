/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * Which inbound connections are the gateway's: those whose SYN had the option, and
 * in strict mode those in plaintext, which it resets.
 */
#pragma once

#include "socket.h"

/* Loopback, from where the worker dials the application. The kernel drops a packet from
 * outside with such a source, and the answer to it. */
static __always_inline bool is_loopback(const __u32 ip[4])
{
	if (is_mapped(ip))
		return (bpf_ntohl(ip[3]) >> 24) == 127;
	return !ip[0] && !ip[1] && !ip[2] && ip[3] == bpf_htonl(1);
}

/* Whether the connection comes from outside and goes to one of the pod's addresses, but not
 * to a port of the gateway. */
static __always_inline bool is_inbound(const struct config *cfg, const struct tuple *t)
{
	const __u32 *own = pod_ip_of(t->server.ip, cfg);

	return own && same_ip(t->server.ip, own) && !same_ip(t->client.ip, own) && !is_loopback(t->client.ip) &&
	       t->server.port != cfg->capture_port && t->server.port != cfg->peer_port &&
	       t->server.port != cfg->inband_port;
}

static __always_inline bool plaintext_allowed(const struct tuple *t)
{
	__u16 port = bpf_ntohs(t->server.port);
	struct range key = { .bits = 128 };
	struct ports *allowed;

	copy_ip(key.ip, t->client.ip);
	allowed = bpf_map_lookup_elem(&kgw_plaintext, &key);
	if (!allowed)
		return false;
	for (__u32 i = 0; i < MAX_PORTS; i++) {
		if (i >= allowed->count)
			return false;
		if (port >= allowed->list[i].first && port <= allowed->list[i].last)
			return true;
	}
	return false;
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

/* A REFERENCE to the in-band listener for a connection, or NULL. */
static __always_inline struct bpf_sock *inband_listener(const struct tuple *t)
{
	enum listener which = listener_of(t->server.ip);

	return bpf_map_lookup_elem(&kgw_listeners, &which);
}

/* Whether nothing passes when the gateway is gone. */
static __always_inline bool fails_closed(const struct config *cfg)
{
	return cfg->strict && cfg->closed;
}
