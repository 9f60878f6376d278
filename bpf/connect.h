/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The capture: connect(2) of an application in the pod goes to the gateway's
 * listener on loopback, and the socket remembers where it was meant to go.
 */
#pragma once

#include "decide.h"
#include "udp.h"

static __always_inline bool is_tcp(struct bpf_sock_addr *ctx)
{
	return ctx->type == SOCK_STREAM &&
	       (ctx->protocol == IPPROTO_TCP || ctx->protocol == IPPROTO_MPTCP);
}

/* Whether somebody listens where captured connections go, in the caller's
 * network namespace. The tuple's source is all zeroes: no established
 * connection has that, so only a listener can match. */
static __always_inline bool gateway_listens(struct bpf_sock_addr *ctx, const struct config *cfg, bool v4)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;

	if (v4) {
		tuple.ipv4.daddr = bpf_htonl(0x7f000001);
		tuple.ipv4.dport = cfg->capture_port;
		sk = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	} else {
		tuple.ipv6.daddr[3] = bpf_htonl(1);
		tuple.ipv6.dport = cfg->capture_port;
		sk = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return false;
	bpf_sk_release(sk);
	return true;
}

struct sockaddr4 {
	__u16 family;
	__u16 port;
	__u32 ip;
	__u8 zero[8];
};

struct sockaddr6 {
	__u16 family;
	__u16 port;
	__u32 flowinfo;
	__u32 ip[4];
	__u32 scope;
};

/* Keeps the pod's address as the local address of a captured connection, which
 * would get 127.0.0.1 otherwise. Port 0 leaves the choice of a port to connect, so
 * that one port can serve many destinations as ever. It fails harmlessly on a
 * socket that is bound to a port already: names.h covers that one. */
static __always_inline void bind_pod_ip(struct bpf_sock_addr *ctx, const struct config *cfg, bool v4)
{
	if (ctx->family == AF_INET) {
		struct sockaddr4 addr = { .family = AF_INET, .ip = cfg->pod_ip4[3] };

		if (addr.ip && !ctx->sk->src_ip4)
			bpf_bind(ctx, (struct sockaddr *)&addr, sizeof(addr));
	} else {
		struct sockaddr6 addr = { .family = AF_INET6 };

		copy_ip(addr.ip, v4 ? cfg->pod_ip4 : cfg->pod_ip6);
		if ((addr.ip[0] || addr.ip[3]) && !ctx->sk->src_ip6[0] && !ctx->sk->src_ip6[3])
			bpf_bind(ctx, (struct sockaddr *)&addr, sizeof(addr));
	}
}

enum verdict { VERDICT_REFUSE, VERDICT_PASS, VERDICT_CAPTURE };

static __always_inline enum verdict judge(struct bpf_sock_addr *ctx, const struct config *cfg,
					  const struct endpoint *dst)
{
	__u32 action = action_for(cfg, dst);
	struct handover *h;

	if (action == ACTION_EXCLUDE || is_gateway(cfg))
		return VERDICT_PASS;
	if (action == ACTION_SERVICE && !cfg->inband_services) {
		if (cfg->strict) {
			COUNT(service_refused);
			return VERDICT_REFUSE;
		}
		COUNT(service_passed);
		return VERDICT_PASS;
	}
	if (!gateway_listens(ctx, cfg, is_mapped(dst->ip))) {
		COUNT(no_listener);
		return cfg->closed ? VERDICT_REFUSE : VERDICT_PASS;
	}
	/* SO_BINDTODEVICE puts loopback out of reach. */
	h = ctx->sk->bound_dev_if ? NULL : bpf_sk_storage_get(&kgw_sockets, ctx->sk, NULL,
							      BPF_SK_STORAGE_GET_F_CREATE);
	if (!h) {
		COUNT(uncapturable);
		return cfg->strict ? VERDICT_REFUSE : VERDICT_PASS;
	}
	h->addr = *dst;
	h->role = ROLE_CAPTURED;
	COUNT(captured);
	return VERDICT_CAPTURE;
}

/* Decides about one connect(2), except for writing the new destination, which
 * the verifier wants in the program for that family. */
static __always_inline enum verdict capture(struct bpf_sock_addr *ctx, const struct config *cfg,
					    const struct endpoint *dst)
{
	enum verdict v = judge(ctx, cfg, dst);
	struct handover *h;

	if (v == VERDICT_CAPTURE) {
		bind_pod_ip(ctx, cfg, is_mapped(dst->ip));
		return v;
	}
	/* A socket can connect again, to somewhere else. */
	h = bpf_sk_storage_get(&kgw_sockets, ctx->sk, NULL, 0);
	if (h && h->role == ROLE_CAPTURED)
		bpf_sk_storage_delete(&kgw_sockets, ctx->sk);
	return v;
}

SEC("cgroup/connect4")
int kgw_connect4(struct bpf_sock_addr *ctx)
{
	struct config *cfg = get_config();
	struct endpoint dst = {};

	if (!cfg || ctx->user_family != AF_INET)
		return PASS;
	map_ip4(dst.ip, ctx->user_ip4);
	dst.port = ctx->user_port;
	if (is_udp(ctx))
		return judge_udp(cfg, &dst);
	if (!is_tcp(ctx))
		return PASS;
	switch (capture(ctx, cfg, &dst)) {
	case VERDICT_REFUSE:
		return REFUSE;
	case VERDICT_CAPTURE:
		ctx->user_ip4 = bpf_htonl(0x7f000001);
		ctx->user_port = cfg->capture_port;
		return PASS;
	default:
		return PASS;
	}
}

SEC("cgroup/connect6")
int kgw_connect6(struct bpf_sock_addr *ctx)
{
	struct config *cfg = get_config();
	struct endpoint dst = {};

	if (!cfg || ctx->user_family != AF_INET6)
		return PASS;
	dst.ip[0] = ctx->user_ip6[0];
	dst.ip[1] = ctx->user_ip6[1];
	dst.ip[2] = ctx->user_ip6[2];
	dst.ip[3] = ctx->user_ip6[3];
	dst.port = ctx->user_port;
	if (is_udp(ctx))
		return judge_udp(cfg, &dst);
	if (!is_tcp(ctx))
		return PASS;
	switch (capture(ctx, cfg, &dst)) {
	case VERDICT_REFUSE:
		return REFUSE;
	case VERDICT_CAPTURE:
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		if (is_mapped(dst.ip)) {
			ctx->user_ip6[2] = bpf_htonl(0xffff);
			ctx->user_ip6[3] = bpf_htonl(0x7f000001);
		} else {
			ctx->user_ip6[2] = 0;
			ctx->user_ip6[3] = bpf_htonl(1);
		}
		ctx->user_port = cfg->capture_port;
		return PASS;
	default:
		return PASS;
	}
}
