/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The handover: both ends of a loopback connection are sockets of the pod, and
 * what the connecting one knows must reach the accepting one before accept(2)
 * returns it. The four-tuple is what they have in common.
 */
#pragma once

#include "urgent.h"

/* Reads the two ends of ctx's socket. */
static __always_inline void ends_of(struct bpf_sock_ops *ctx, struct endpoint *local, struct endpoint *remote)
{
	__u32 local4 = FIELD(ctx->local_ip4), remote4 = FIELD(ctx->remote_ip4);

	for (int i = 0; i < 4; i++) {
		local->ip[i] = FIELD(ctx->local_ip6[i]);
		remote->ip[i] = FIELD(ctx->remote_ip6[i]);
	}
	if (ctx->family == AF_INET) {
		map_ip4(local->ip, local4);
		map_ip4(remote->ip, remote4);
	}
	local->port = bpf_htons(ctx->local_port);
	remote->port = bpf_htons(bpf_ntohl(ctx->remote_port));
}

/* The key of what a nested namespace connects: what lies between may show another source address. */
static __always_inline void make_nested(struct tuple *key)
{
	__builtin_memset(key->client.ip, 0, sizeof(key->client.ip));
}

/* The source port is known here, and the SYN is not sent yet: the accepting side
 * cannot be earlier, with TCP Fast Open either. The worker asks whether this has worked, before
 * it sends the first byte to an application. */
static __always_inline void publish(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct handover *h = known(sk);
	struct tuple key = {};
	struct handover copy;

	if (!has_role(h, ROLE_CAPTURED) && !has_role(h, ROLE_PRESENTING) && !has_role(h, ROLE_NESTED))
		return;
	copy = *h;
	ends_of(ctx, &key.client, &key.server);
	if (copy.role == ROLE_NESTED)
		make_nested(&key);
	if (bpf_map_update_elem(&kgw_handover, &key, &copy, BPF_ANY))
		return;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	if (h->role == ROLE_PRESENTING) {
		find_urgent(ctx);
		h->role = ROLE_HANDED_OVER;
	}
}

static __always_inline void take(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct handover *published;
	struct tuple key = {};
	struct notes *n;

	ends_of(ctx, &key.server, &key.client);
	published = bpf_map_lookup_elem(&kgw_handover, &key);
	if (!published)
		return;
	n = make_notes(sk);
	if (!n)
		/* Memory has run out: names.c asks the connecting socket. */
		return;
	n->handover.addr = published->addr;
	n->handover.action = published->action;
	n->handover.role = published->role == ROLE_CAPTURED ? ROLE_GATEWAY : ROLE_PRESENTED;
	if (n->handover.role == ROLE_GATEWAY) {
		find_urgent(ctx);
		/* The kernel shows nothing of the segment that ends the handshake of TCP Fast Open. */
		if (ctx->skb_tcp_flags & TH_SYN)
			set_urgent();
	}
	bpf_map_delete_elem(&kgw_handover, &key);
	/* An accepted socket has what its listener was tuned to, but for the priority. */
	n->tuning.set &= ~(1 << TUNE_PRIORITY);
}

/* Removes the entry of a connection that failed: the next socket with this tuple is not it. */
static __always_inline void withdraw(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct tuple key = {};

	ends_of(ctx, &key.client, &key.server);
	if (sk && has_role(known(sk), ROLE_NESTED))
		make_nested(&key);
	bpf_map_delete_elem(&kgw_handover, &key);
}
