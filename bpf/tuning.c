//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The options that an application sets on its sockets. The worker sets them on the socket that leads
 * to the other pod: packets of the application's own socket never leave this one. Nothing is changed
 * here, and no option is refused.
 */

#include "socket.h"

/* From asm-generic/socket.h and linux/tcp.h. */
#define SOL_SOCKET 1
#define SO_KEEPALIVE 9
#define SO_PRIORITY 12
#define TCP_KEEPIDLE 4
#define TCP_KEEPINTVL 5
#define TCP_KEEPCNT 6
#define TCP_CONGESTION 13
#define TCP_USER_TIMEOUT 18

/* The option that is set, or TUNABLES. */
GLOBAL long tunable_of(struct bpf_sockopt *ctx)
{
	switch (ctx->level) {
	case SOL_SOCKET:
		switch (ctx->optname) {
		case SO_KEEPALIVE:
			return TUNE_KEEPALIVE;
		case SO_PRIORITY:
			return TUNE_PRIORITY;
		}
		break;
	case IPPROTO_TCP:
		switch (ctx->optname) {
		case TCP_KEEPIDLE:
			return TUNE_KEEPIDLE;
		case TCP_KEEPINTVL:
			return TUNE_KEEPINTVL;
		case TCP_KEEPCNT:
			return TUNE_KEEPCNT;
		case TCP_USER_TIMEOUT:
			return TUNE_USER_TIMEOUT;
		case TCP_CONGESTION:
			return TUNE_CONGESTION;
		}
		break;
	case IPPROTO_IP:
		if (ctx->optname == IP_TOS)
			return TUNE_TOS;
		break;
	case IPPROTO_IPV6:
		if (ctx->optname == IPV6_TCLASS)
			return TUNE_TCLASS;
		break;
	}
	return TUNABLES;
}

/* Whether n are of a socket of the worker that has a role: how that is tuned is nobody's business. */
static __always_inline bool is_workers(const struct notes *n)
{
	enum role role = n->handover.role;

	return role && role != ROLE_CAPTURED && role != ROLE_PRESENTED;
}

static __always_inline void note(struct bpf_sockopt *ctx, __u64 which)
{
	void *end = ctx->optval_end;
	__u32 *number = ctx->optval;
	char *name = ctx->optval;
	struct tuning *t;
	struct notes *n;

	/* The buffer has 16 bytes at least. */
	if (name + sizeof(t->congestion) > (char *)end)
		return;
	n = make_notes(ctx->sk);
	if (!n || is_workers(n))
		return;
	t = &n->tuning;
	if (which == TUNE_CONGESTION) {
		__builtin_memcpy(t->congestion, name, sizeof(t->congestion));
	} else if (which < TUNE_CONGESTION) {
		t->value[which] = *number;
		if (which == TUNE_TOS) {
			/* It may be a single byte, and sets the priority too. */
			t->value[which] &= 0xff;
			t->set &= ~(1 << TUNE_PRIORITY);
		}
	}
	t->set |= 1 << which;
}

SEC("cgroup/setsockopt")
int kgw_tune(struct bpf_sockopt *ctx)
{
	/* The verifier knows the bounds of all 64 bits only. */
	__u64 which = tunable_of(ctx);

	/* sockopt.c has dealt with it. */
	if (ctx->level == SOCKOPT_LEVEL)
		return CONTINUE;
	if (which < TUNABLES && ctx->sk && ctx->sk->protocol == IPPROTO_TCP)
		note(ctx, which);
	/* The kernel is to read the option from the process itself: it may be longer than what programs
	 * see. A negative length says that another program has dealt with it. */
	if (ctx->optlen > 0)
		ctx->optlen = 0;
	return CONTINUE;
}
