/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * Negotiation in band: two gateways find each other in the TCP handshake, by an option in
 * the SYN and the SYN-ACK. Anybody can send this hint: mutual TLS follows, or nothing.
 */
#pragma once

#include "handover.h"
#include "option.h"

static __always_inline void write_options(struct bpf_sock_ops *ctx, bool on)
{
	int flags = ctx->bpf_sock_ops_cb_flags;

	if (on)
		flags |= BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
	else
		flags &= ~BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
	bpf_sock_ops_cb_flags_set(ctx, flags);
}

/* The worker has marked this socket, and its SYN is about to be made. */
static __always_inline void offer(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct handover *h = known(sk);

	if (!has_role(h, ROLE_INBAND) && !has_role(h, ROLE_INBAND_SHOWN) && !has_role(h, ROLE_INBAND_GIVEN_UP))
		return;
	h->role = ROLE_INBAND;
	write_options(ctx, true);
}

/* Whether the packet in the making gets the option. */
GLOBAL long has_option(struct bpf_sock_ops *ctx)
{
	__u32 flags = ctx->skb_tcp_flags & (TH_SYN | TH_ACK);
	struct bpf_sock *sk = ctx->sk;
	struct tuple key = {};
	struct handover *h;

	if (flags == (TH_SYN | TH_ACK)) {
		/* The SYN is not at hand: not with a SYN cookie, nor when a SYN-ACK is sent
		 * again. */
		ends_of(ctx, &key.server, &key.client);
		return bpf_map_lookup_elem(&kgw_shown, &key) != NULL;
	}
	if (flags != TH_SYN || !sk)
		return false;
	/* Some middleboxes drop a SYN with an option that they do not know, or the SYN-ACK: later
	 * SYNs go without. */
	h = known(sk);
	return has_role(h, ROLE_INBAND) && ctx->total_retrans < h->offers;
}

/* What the second option of a SYN-ACK says: the gateway's number, and above it the port in network order. 0 if there is none. What a
 * connection of the gateway finds at the pod's own address, another one to that address finds as well; other addresses of the pod are
 * not known to the other end. */
GLOBAL long answer_for(struct bpf_sock_ops *ctx)
{
	struct config *cfg = get_config();
	struct endpoint local = {}, remote = {};

	if (!cfg || (ctx->skb_tcp_flags & (TH_SYN | TH_ACK)) != (TH_SYN | TH_ACK))
		return 0;
	ends_of(ctx, &local, &remote);
	if (same_ip(local.ip, cfg->pod_ip4))
		return (__u64)local.port << 32 | cfg->number4;
	if (same_ip(local.ip, cfg->pod_ip6))
		return (__u64)local.port << 32 | cfg->number6;
	return 0;
}

static __always_inline void reserve_option(struct bpf_sock_ops *ctx)
{
	if (!has_option(ctx))
		return;
	if (!answer_for(ctx) || bpf_reserve_hdr_opt(ctx, sizeof(struct option) + sizeof(struct answer_option), 0))
		bpf_reserve_hdr_opt(ctx, sizeof(struct option), 0);
}

static __always_inline void write_option(struct bpf_sock_ops *ctx)
{
	struct option o = OPTION;
	__u64 answer;

	if (!has_option(ctx))
		return;
	bpf_store_hdr_opt(ctx, &o, sizeof(o), 0);
	answer = answer_for(ctx);
	if (answer) {
		struct answer_option a = { OPTION_KIND, sizeof(a), ANSWER_EXID, bpf_htonl(answer), answer >> 32 };

		/* Fails if there is no room for it. */
		bpf_store_hdr_opt(ctx, &a, sizeof(a), 0);
	}
}

/* The SYN-ACK has come: did the other end answer? */
static __always_inline void read_answer(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct option o = { .kind = OPTION_KIND, .len = 2 + sizeof(o.exid), .exid = OPTION_EXID };
	struct answer_option a = { .kind = OPTION_KIND, .len = 2 + sizeof(a.exid), .exid = ANSWER_EXID };
	struct handover *h = known(sk);

	if (!has_role(h, ROLE_INBAND))
		return;
	if (bpf_load_hdr_opt(ctx, &o, sizeof(o), 0) == sizeof(o) && is_ours(&o)) {
		h->role = ROLE_INBAND_SHOWN;
		if (bpf_load_hdr_opt(ctx, &a, sizeof(a), 0) == sizeof(a))
			h->answer = (struct answer){ .gateway = bpf_ntohl(a.gateway), .port = a.port };
	} else if (ctx->total_retrans >= h->offers)
		h->role = ROLE_INBAND_GIVEN_UP;
	write_options(ctx, false);
}

/* Prepares the gateway's listeners. Only a process of the gateway can mark one: its address would be
 * no proof, because every process can have it in a network namespace of its own. */
static __always_inline void prepare_listener(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct endpoint local = {}, remote = {};
	struct handover *h = known(sk);
	enum listener which;

	bool capture = has_role(h, ROLE_CAPTURE_LISTENER);

	if (!capture && !has_role(h, ROLE_INBAND_LISTENER)) {
		/* The socket was captured before, or accepted: what it accepts would have its role. */
		if (h)
			forget(h);
		return;
	}
	if (!capture)
		write_options(ctx, true);
	ends_of(ctx, &local, &remote);
	which = capture ? capture_listener_of(local.ip) : listener_of(local.ip);
	bpf_sock_map_update(ctx, &kgw_listeners, &which, BPF_ANY);
}

/* Notes on a new connection of the in-band listener what its SYN showed. False says that
 * another listener accepts it. */
static __always_inline bool accept_inband(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct handover *h = known(sk);
	struct tuple key = {};
	struct config *cfg;

	if (!has_role(h, ROLE_INBAND_LISTENER))
		return false;
	write_options(ctx, false);
	ends_of(ctx, &key.server, &key.client);
	if (bpf_map_lookup_elem(&kgw_shown, &key)) {
		bpf_map_delete_elem(&kgw_shown, &key);
		h->role = ROLE_INBAND_SHOWN;
		COUNT(steered);
		return true;
	}
	h->role = ROLE_INBAND;
	cfg = get_config();
	/* A process of the pod can connect to the listener itself: that is not counted. */
	if (cfg && !(key.server.port == cfg->inband_port && is_loopback(key.server.ip)))
		COUNT(plaintext_refused);
	return true;
}
