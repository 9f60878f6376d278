//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The addresses of the two ends of a connection, as the application gets them. The
 * getpeername hooks run for accept(2), too. All of these must return 1.
 */

#include "spread.h"

/* Finds the address to show as the other end; false says that the true one is
 * right. The worker's own sockets show that, or how the application has tuned its end. */
static __always_inline bool peer_of(struct bpf_sock *sk, struct endpoint *peer)
{
	struct handover *h = known(sk);

	if (!has_role(h, ROLE_CAPTURED) && !has_role(h, ROLE_PRESENTED))
		return false;
	*peer = h->addr;
	return true;
}

/* peer_of for the socket of an application that uses MPTCP: what connect.c saw is not that
 * one but the one below it, which has the same addresses. */
static __always_inline bool peer_of_subflow(struct bpf_sock_addr *ctx, const struct tuple *t, struct endpoint *peer)
{
	struct bpf_sock_tuple key = {};
	struct bpf_sock *sk REFERENCE = bpf_sk_lookup_tcp(ctx, &key, lookup_key(t, &key), BPF_F_CURRENT_NETNS, 0);

	return sk && peer_of(sk, peer);
}

/* Whether the worker may have dialled from ip: 127.0.0.1 is not its address. */
static __always_inline bool may_be_workers(const __u32 ip[4])
{
	return is_source6(ip) || (is_loopback(ip) && ip[3] != bpf_htonl(INADDR_LOOPBACK));
}

/* peer_of for a socket that knows nothing, at t.server. The other end of its connection knows whether it
 * is the worker's; if it has gone, nobody is shown, and never loopback, which some applications
 * trust. */
static __always_inline bool peer_of_lost(struct bpf_sock_addr *ctx, const struct tuple *t, struct endpoint *peer)
{
	struct tuple back = { .client = t->server, .server = t->client };
	struct bpf_sock_tuple key = {};
	struct handover *h;

	if (!may_be_workers(t->client.ip) || is_loopback(t->server.ip))
		return false;

	struct bpf_sock *sk REFERENCE = bpf_sk_lookup_tcp(ctx, &key, lookup_key(&back, &key), BPF_F_CURRENT_NETNS, 0);

	*peer = t->client;
	if (!sk || sk->state == BPF_TCP_LISTEN) {
		__u32 nobody[4] = {};

		if (is_mapped(peer->ip))
			map_ip4(peer->ip, bpf_htonl(INADDR_ANY));
		else
			copy_ip(peer->ip, nobody);
		return true;
	}
	h = known(sk);
	if (!has_role(h, ROLE_HANDED_OVER) && !has_role(h, ROLE_PRESENTING))
		return false;
	*peer = h->addr;
	return true;
}

/* Whether the socket is the worker's end of a connection to an application. */
static __always_inline bool leads_to_application(struct bpf_sock *sk)
{
	struct handover *h = known(sk);

	return has_role(h, ROLE_GATEWAY) || has_role(h, ROLE_HANDED_OVER);
}

/* Names a tuning; false says that it has no name. */
static __always_inline bool name_tuning(const struct tuning *t, struct endpoint *name)
{
	__u32 set = t->set, alive = t->value[TUNE_KEEPALIVE], idle = t->value[TUNE_KEEPIDLE],
	      interval = t->value[TUNE_KEEPINTVL], count = t->value[TUNE_KEEPCNT];

	/* The kernel may have refused a value that does not fit. */
	if (set >> (TUNE_KEEPCNT + 1) || alive > 1 || idle >> 16 || interval >> (NAME_KEEPCNT - NAME_KEEPINTVL) ||
	    count >> (NAME_KEEPALIVE - NAME_KEEPCNT))
		return false;
	map_ip4(name->ip, bpf_htonl(NAME_PREFIX | set << NAME_SET | alive << NAME_KEEPALIVE | count << NAME_KEEPCNT |
				    interval << NAME_KEEPINTVL));
	name->port = bpf_htons(idle);
	return true;
}

/* Brings how the application has tuned its end to the worker's end, which is at t.server. True says that the name is to be
 * shown as the other end. */
static __always_inline bool bring_tuning(struct bpf_sock_addr *ctx, const struct tuple *t, struct endpoint *name)
{
	struct tuple back = { .client = t->server, .server = t->client };
	struct bpf_sock_tuple key = {};
	struct bpf_sock *sk REFERENCE = bpf_sk_lookup_tcp(ctx, &key, lookup_key(&back, &key), BPF_F_CURRENT_NETNS, 0);
	struct notes *from = sk ? notes_of(sk) : NULL;
	struct notes *to = from ? notes_of(ctx->sk) : NULL;

	if (!to)
		return false;
	to->tuning = from->tuning;
	return to->asked && name_tuning(&to->tuning, name);
}

/* Whether the true other end of ctx's connection may be the gateway's listener. */
static __always_inline bool is_redirected(struct bpf_sock_addr *ctx)
{
	struct config *cfg = get_config();

	return cfg && (ctx->user_port == cfg->capture_port || (cfg->spread && is_spread(ctx->user_port)));
}

SEC("cgroup/getpeername4")
int kgw_getpeer4(struct bpf_sock_addr *ctx)
{
	struct endpoint peer = {};
	struct tuple t = {};

	if (!peer_of(ctx->sk, &peer)) {
		read_addr4(ctx, &t.client);
		map_ip4(t.server.ip, ctx->sk->src_ip4);
		t.server.port = bpf_htons(ctx->sk->src_port);
		if (leads_to_application(ctx->sk)) {
			if (!bring_tuning(ctx, &t, &peer))
				return 1;
		} else if (!(is_redirected(ctx) && peer_of_subflow(ctx, &t, &peer)) && !peer_of_lost(ctx, &t, &peer)) {
			return 1;
		}
	}
	if (is_mapped(peer.ip))
		write_addr4(ctx, &peer);
	return 1;
}

SEC("cgroup/getpeername6")
int kgw_getpeer6(struct bpf_sock_addr *ctx)
{
	struct endpoint peer = {};
	struct tuple t = {};

	if (!peer_of(ctx->sk, &peer)) {
		read_addr6(ctx, &t.client);
		for (int i = 0; i < 4; i++)
			t.server.ip[i] = FIELD(ctx->sk->src_ip6[i]);
		t.server.port = bpf_htons(ctx->sk->src_port);
		if (leads_to_application(ctx->sk)) {
			if (!bring_tuning(ctx, &t, &peer))
				return 1;
		} else if (!(is_redirected(ctx) && peer_of_subflow(ctx, &t, &peer)) && !peer_of_lost(ctx, &t, &peer)) {
			return 1;
		}
	}
	write_addr6(ctx, &peer);
	return 1;
}

/* Replaces loopback by the pod's address on a captured socket. One that was bound to a port
 * alone has loopback: without a gateway it would have the pod's. */
static __always_inline bool to_pod_ip(struct bpf_sock_addr *ctx, struct endpoint *e)
{
	struct config *cfg = get_config();
	const __u32 *own;
	__u32 loopback[4];

	loopback_of(e->ip, loopback);
	if (!cfg || !same_ip(e->ip, loopback) || !has_role(known(ctx->sk), ROLE_CAPTURED))
		return false;
	own = pod_ip_of(e->ip, cfg);
	if (!own)
		return false;
	copy_ip(e->ip, own);
	return true;
}

SEC("cgroup/getsockname4")
int kgw_getsock4(struct bpf_sock_addr *ctx)
{
	struct endpoint local = {};

	read_addr4(ctx, &local);
	if (to_pod_ip(ctx, &local))
		write_addr4(ctx, &local);
	return 1;
}

SEC("cgroup/getsockname6")
int kgw_getsock6(struct bpf_sock_addr *ctx)
{
	struct endpoint local = {};

	read_addr6(ctx, &local);
	if (to_pod_ip(ctx, &local))
		write_addr6(ctx, &local);
	return 1;
}
