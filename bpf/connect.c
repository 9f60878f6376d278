//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The capture: connect(2) of an application in the pod goes to the gateway's
 * listener on loopback, and the socket remembers its original destination.
 */

#include "decide.h"
#include "spread.h"

static __always_inline bool is_tcp(struct bpf_sock_addr *ctx)
{
	return ctx->type == SOCK_STREAM &&
	       (ctx->protocol == IPPROTO_TCP || ctx->protocol == IPPROTO_MPTCP);
}

/* Whether the gateway listens for connections of a family, in the caller's network namespace. */
GLOBAL int listens(struct bpf_sock_addr *ctx, __u32 mapped)
{
	struct config *cfg = get_config();
	struct bpf_sock_tuple key = {};
	struct endpoint to = {};

	if (!cfg)
		return false;
	loopback(mapped, to.ip);
	to.port = cfg->capture_port;

	struct bpf_sock *sk REFERENCE = bpf_sk_lookup_tcp(ctx, &key, question_key(&to, &key), BPF_F_CURRENT_NETNS, 0);

	return sk && has_role(known(sk), ROLE_CAPTURE_LISTENER);
}

/* Whether the worker connects to an application that does not listen, from ::1: the kernel finds no route for
 * the RST to there, as the SYN counts as one that came by the interface of the pod's address. */
GLOBAL int is_hopeless(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_tuple key = {};
	struct endpoint dst = {};
	__u32 source[4];

	read_addr6(ctx, &dst);
	if (is_mapped(dst.ip) || !has_role(known(ctx->sk), ROLE_PRESENTING))
		return false;
	for (int i = 0; i < 4; i++)
		source[i] = FIELD(ctx->sk->src_ip6[i]);
	if (!is_loopback(source) || is_loopback(dst.ip))
		return false;

	struct bpf_sock *sk REFERENCE = bpf_sk_lookup_tcp(ctx, &key, question_key(&dst, &key), BPF_F_CURRENT_NETNS, 0);

	return !sk;
}

/* Decides where the gateway does not listen. While it lives, that is in a network namespace which a
 * process of the pod has made. A gateway that is gone has this program still if it fails closed. */
static __always_inline enum verdict judge_unreachable(const struct config *cfg, const struct endpoint *dst)
{
	struct tuple t = { .server = *dst };
	struct bpf_sock *sk REFERENCE = inband_listener(&t);

	if (sk) {
		COUNT(nested);
		return cfg->strict ? VERDICT_REFUSE : VERDICT_PASS;
	}
	COUNT(no_listener);
	return cfg->strict || cfg->closed ? VERDICT_REFUSE : VERDICT_PASS;
}

/* Keeps the pod's address as the local address of a captured connection, which
 * would get 127.0.0.1 otherwise. Port 0 leaves the choice of a port to connect(2), so
 * that one port can serve many destinations as ever. It fails harmlessly on a
 * socket that is bound to a port already: names.c covers that one. */
GLOBAL int bind_pod_ip(struct bpf_sock_addr *ctx)
{
	struct handover *h = known(ctx->sk);
	struct config *cfg = get_config();
	const __u32 *own = h && cfg ? pod_ip_of(h->addr.ip, cfg) : NULL;

	if (!own)
		return 0;
	if (ctx->family == AF_INET) {
		struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = own[3] };

		if (!ctx->sk->src_ip4)
			bpf_bind(ctx, (struct sockaddr *)&addr, sizeof(addr));
	} else {
		struct sockaddr_in6 addr = { .sin6_family = AF_INET6 };

		copy_ip(addr.sin6_addr.s6_addr32, own);
		if (!ctx->sk->src_ip6[0] && !ctx->sk->src_ip6[3])
			bpf_bind(ctx, (struct sockaddr *)&addr, sizeof(addr));
	}
	return 0;
}

static __always_inline enum verdict judge_service(const struct config *cfg)
{
	if (cfg->strict) {
		COUNT(service_refused);
		return VERDICT_REFUSE;
	}
	COUNT(service_passed);
	return VERDICT_PASS;
}

/* Decides about a connection that the gateway can carry. */
static __always_inline enum verdict capture(struct bpf_sock_addr *ctx, const struct config *cfg, enum action action, const struct endpoint *dst)
{
	struct handover *h;

	/* SO_BINDTODEVICE puts loopback out of reach. */
	h = ctx->sk->bound_dev_if ? NULL : remember(ctx->sk);
	if (!h) {
		COUNT(uncapturable);
		return cfg->strict ? VERDICT_REFUSE : VERDICT_PASS;
	}
	h->addr = *dst;
	h->role = ROLE_CAPTURED;
	h->action = action;
	COUNT(captured);
	return VERDICT_CAPTURE;
}

static __always_inline enum verdict judge_tcp(struct bpf_sock_addr *ctx, const struct config *cfg, const struct endpoint *dst)
{
	enum action action = action_for(dst);
	struct handover *h;
	enum verdict v;
	bool reachable;

	if (action == ACTION_LOCAL || is_gateway())
		return VERDICT_PASS;
	reachable = listens(ctx, is_mapped(dst->ip));
	if (action < ACTION_POD)
		v = judge_uncaptured(action, dst);
	else if (action == ACTION_SERVICE && !cfg->inband_services)
		v = judge_service(cfg);
	else
		v = reachable ? capture(ctx, cfg, action, dst) : judge_unreachable(cfg, dst);
	/* Where the pod forwards the connection, egress.c does not count it once more. */
	h = v == VERDICT_PASS && !reachable ? remember(ctx->sk) : NULL;
	if (h)
		h->role = ROLE_NESTED;
	return v;
}

/* Decides about one connect(2). gateway is where a captured connection goes. A program of each family writes
 * the new destination: the verifier wants that. */
static __always_inline enum verdict judge(struct bpf_sock_addr *ctx, const struct config *cfg,
					  const struct endpoint *dst, struct endpoint *gateway)
{
	struct handover *h;
	enum verdict v;

	if (is_udp(ctx))
		return judge_udp(ctx, cfg, dst);
	if (!is_tcp(ctx))
		return VERDICT_PASS;
	v = judge_tcp(ctx, cfg, dst);
	if (v == VERDICT_CAPTURE) {
		bind_pod_ip(ctx);
		loopback_of(dst->ip, gateway->ip);
		gateway->port = spread(ctx);
		return v;
	}
	h = known(ctx->sk);
	/* The socket connects to somewhere else than before, or was an accepted one. */
	if (has_role(h, ROLE_CAPTURED) || has_role(h, ROLE_PRESENTED))
		forget(h);
	return v;
}

SEC("cgroup/connect4")
int kgw_connect4(struct bpf_sock_addr *ctx)
{
	struct endpoint dst = {}, gateway = {};
	struct config *cfg = get_config();
	enum verdict v;

	if (!cfg || ctx->user_family != AF_INET)
		return VERDICT_PASS;
	read_addr4(ctx, &dst);
	v = judge(ctx, cfg, &dst, &gateway);
	if (v == VERDICT_CAPTURE)
		write_addr4(ctx, &gateway);
	return v != VERDICT_REFUSE;
}

SEC("cgroup/connect6")
int kgw_connect6(struct bpf_sock_addr *ctx)
{
	struct endpoint dst = {}, gateway = {};
	struct config *cfg = get_config();
	enum verdict v;

	if (!cfg || ctx->user_family != AF_INET6)
		return VERDICT_PASS;
	read_addr6(ctx, &dst);
	if (is_hopeless(ctx))
		return VERDICT_REFUSE;
	v = judge(ctx, cfg, &dst, &gateway);
	if (v == VERDICT_CAPTURE)
		write_addr6(ctx, &gateway);
	return v != VERDICT_REFUSE;
}
