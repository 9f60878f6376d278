//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The worker's interface: socket options instead of bpf(2), so that it needs no
 * privilege. sockopt.go has the Go side of it.
 */

#include "socket.h"

/* From linux/socket.h and linux/netfilter_ipv4.h. Programs made for iptables ask in this way,
 * and IP6T_SO_ORIGINAL_DST has the same value. */
#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80

/* Programs return FAIL, and the call fails with EPERM, or CONTINUE: what the kernel itself
 * said stays unless the option is ours. */
#define FAIL 0
#define CONTINUE 1

/* The compiler would merge the two writes into one of eight bytes, which the
 * verifier refuses. */
#define ANSWER(ctx, size)                   \
	do {                                \
		(ctx)->optlen = (size);     \
		asm volatile("" ::: "memory"); \
		(ctx)->retval = 0;          \
	} while (0)

/* Programs see one page of a longer option, and the kernel fails the call with
 * EFAULT unless they say that they leave all of it alone (Linux before 6.5). */
#define PAGE 4096

static __always_inline int not_ours(struct bpf_sockopt *ctx)
{
	if (ctx->optlen > PAGE)
		ctx->optlen = 0;
	return CONTINUE;
}

static __always_inline bool original_destination(struct bpf_sock *sk, struct handover *to)
{
	struct handover *h = known(sk);

	if (!has_role(h, ROLE_GATEWAY))
		return false;
	*to = *h;
	return true;
}

/* Says how the application at the other end has tuned its socket. */
static __always_inline int answer_tuning(struct bpf_sockopt *ctx)
{
	void *end = ctx->optval_end;
	struct tuning *to = ctx->optval;
	struct notes *from;

	if (!ctx->sk || (void *)(to + 1) > end)
		return CONTINUE;
	from = notes_of(ctx->sk);
	if (from)
		*to = from->tuning;
	else
		to->set = 0;
	ANSWER(ctx, sizeof(*to));
	return CONTINUE;
}

/* Whether the address of the other end cannot be that of a pod or node, as far as the settings know. That of a Service is nobody's
 * own: a second network that is captured like Services has addresses that no certificate names. */
static __always_inline bool is_from_outside(struct bpf_sock *sk)
{
	struct destinations key = { .bits = ENDPOINT_BITS };
	enum action *action;

	if (sk->family == AF_INET)
		map_ip4(key.to.ip, sk->dst_ip4);
	else
		for (int i = 0; i < 4; i++)
			key.to.ip[i] = FIELD(sk->dst_ip6[i]);
	action = bpf_map_lookup_elem(&kgw_ranges, &key);
	return !action || *action == ACTION_OUTSIDE || *action == ACTION_SERVICE;
}

/* Gives a number. */
static __always_inline int answer(struct bpf_sockopt *ctx, __u32 number)
{
	void *end = ctx->optval_end;
	__u32 *to = ctx->optval;

	if (!ctx->sk || (void *)(to + 1) > end)
		return CONTINUE;
	*to = number;
	ANSWER(ctx, sizeof(*to));
	return CONTINUE;
}

/* Says what the gateway that has answered in band has said about itself. */
static __always_inline int answer_inband(struct bpf_sockopt *ctx)
{
	void *end = ctx->optval_end;
	struct answer *to = ctx->optval;
	struct handover *h;

	if (!ctx->sk || (void *)(to + 1) > end)
		return CONTINUE;
	h = known(ctx->sk);
	*to = (struct answer){};
	if (has_role(h, ROLE_INBAND_SHOWN))
		*to = h->answer;
	ANSWER(ctx, sizeof(*to));
	return CONTINUE;
}

/* The role of a connection in band, or 0. */
static __always_inline __u32 negotiated(const struct handover *h)
{
	return has_role(h, ROLE_INBAND) || has_role(h, ROLE_INBAND_SHOWN) || has_role(h, ROLE_INBAND_GIVEN_UP) ? h->role : 0;
}

/* Whether the application sees the client: 2 if the connection is established as well, or else 1. */
static __always_inline __u32 handed_over(struct bpf_sockopt *ctx)
{
	if (!ctx->sk || !has_role(known(ctx->sk), ROLE_HANDED_OVER))
		return 0;
	return ctx->sk->state == BPF_TCP_ESTABLISHED ? 2 : 1;
}

SEC("cgroup/getsockopt")
int kgw_getsockopt(struct bpf_sockopt *ctx)
{
	void *end = ctx->optval_end;
	void *to = ctx->optval;
	struct handover dst;

	switch (ctx->level) {
	case SOCKOPT_LEVEL:
		if (ctx->optname == SOCKOPT_NEGOTIATED)
			return answer(ctx, ctx->sk ? negotiated(known(ctx->sk)) : 0);
		if (ctx->optname == SOCKOPT_HANDED_OVER)
			return answer(ctx, handed_over(ctx));
		if (ctx->optname == SOCKOPT_FROM_OUTSIDE)
			return answer(ctx, ctx->sk && is_from_outside(ctx->sk));
		if (ctx->optname == SOCKOPT_TUNING)
			return answer_tuning(ctx);
		if (ctx->optname == SOCKOPT_ANSWER)
			return answer_inband(ctx);
		if (ctx->optname != SOCKOPT_ORIGINAL_DESTINATION)
			return not_ours(ctx);
		break;
	case SOL_IP:
	case SOL_IPV6:
		if (ctx->optname == SO_ORIGINAL_DST)
			break;
		/* fallthrough */
	default:
		return not_ours(ctx);
	}
	if (!ctx->sk || !original_destination(ctx->sk, &dst))
		return not_ours(ctx);

	if (ctx->level == SOCKOPT_LEVEL) {
		struct handover *h = to;

		if ((void *)(h + 1) > end)
			return CONTINUE;
		*h = dst;
		ANSWER(ctx, sizeof(*h));
	} else if (ctx->level == SOL_IP) {
		struct sockaddr_in *a = to;

		if ((void *)(a + 1) > end || !is_mapped(dst.addr.ip))
			return CONTINUE;
		*a = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = dst.addr.port, .sin_addr.s_addr = dst.addr.ip[3] };
		ANSWER(ctx, sizeof(*a));
	} else {
		struct sockaddr_in6 *a = to;

		if ((void *)(a + 1) > end)
			return CONTINUE;
		*a = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = dst.addr.port };
		copy_ip(a->sin6_addr.s6_addr32, dst.addr.ip);
		ANSWER(ctx, sizeof(*a));
	}
	return CONTINUE;
}

/* The entry of a connection that waits, or NULL. */
static __always_inline struct handover *waiting(struct bpf_sockopt *ctx)
{
	void *end = ctx->optval_end;
	struct tuple *t = ctx->optval, key;
	struct handover *h;

	if ((void *)(t + 1) > end)
		return NULL;
	key = *t;
	h = bpf_map_lookup_elem(&kgw_handover, &key);
	return has_role(h, ROLE_CAPTURED) && h->hold != HOLD_UNDECIDED ? h : NULL;
}

/* Gives the socket the original destination of a connection that waits. */
static __always_inline int set_waiting(struct bpf_sockopt *ctx)
{
	struct handover *from = waiting(ctx), *h;

	h = from && ctx->sk ? remember(ctx->sk) : NULL;
	if (!h)
		return FAIL;
	h->addr = from->addr;
	h->action = from->action;
	h->role = ROLE_GATEWAY;
	ctx->optlen = -1;
	return CONTINUE;
}

static __always_inline int admit(struct bpf_sockopt *ctx)
{
	struct handover *h = waiting(ctx);

	if (!h)
		return FAIL;
	h->hold = HOLD_ADMITTED;
	ctx->optlen = -1;
	return CONTINUE;
}

/* Notes whether there was a connection to a destination. */
static __always_inline int note_destination(struct bpf_sockopt *ctx, bool works)
{
	void *end = ctx->optval_end;
	struct endpoint *to = ctx->optval, key;
	__u64 now = bpf_ktime_get_ns();

	if ((void *)(to + 1) > end)
		return FAIL;
	key = *to;
	if (works)
		bpf_map_update_elem(&kgw_works, &key, &now, BPF_ANY);
	else
		bpf_map_delete_elem(&kgw_works, &key);
	ctx->optlen = -1;
	return CONTINUE;
}

SEC("cgroup/setsockopt")
int kgw_setsockopt(struct bpf_sockopt *ctx)
{
	struct endpoint *client = ctx->optval;
	__u32 *number = ctx->optval;
	void *end = ctx->optval_end;
	enum role role = ROLE_PRESENTING;
	struct handover *h;
	struct notes *n;

	if (ctx->level != SOCKOPT_LEVEL)
		return not_ours(ctx);
	switch (ctx->optname) {
	case SOCKOPT_WAITING:
		return set_waiting(ctx);
	case SOCKOPT_ADMIT:
		return admit(ctx);
	case SOCKOPT_WORKS:
	case SOCKOPT_FAILS:
		return note_destination(ctx, ctx->optname == SOCKOPT_WORKS);
	case SOCKOPT_PRESENT_AS:
		if ((void *)(client + 1) > end)
			return FAIL;
		break;
	case SOCKOPT_INBAND:
		if ((void *)(number + 1) > end || !*number)
			return FAIL;
		role = ROLE_INBAND;
		break;
	case SOCKOPT_LISTENER:
		if ((void *)(number + 1) > end || (*number != ROLE_CAPTURE_LISTENER && *number != ROLE_INBAND_LISTENER))
			return FAIL;
		role = *number;
		break;
	default:
		return not_ours(ctx);
	}
	n = ctx->sk ? make_notes(ctx->sk) : NULL;
	if (!n)
		return FAIL;
	h = &n->handover;
	/* The verifier wants the second check. The socket may have led to another application before, for another client. */
	if (role == ROLE_PRESENTING && (void *)(client + 1) <= end) {
		*n = (struct notes){};
		h->addr = *client;
	}
	if (role == ROLE_INBAND && (void *)(number + 1) <= end)
		h->offers = *number;
	h->role = role;
	ctx->optlen = -1; /* handled: the kernel never sees it */
	return CONTINUE;
}
