//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The events in the life of a TCP socket of the pod that the handover and the negotiation
 * in band need.
 */

#include "inband.h"

/* ctx->reply stays as it is: it may be another program's answer. */
SEC("sockops")
int kgw_sockops(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		if (sk)
			prepare_listener(ctx, sk);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		if (sk) {
			publish(ctx, sk);
			offer(ctx, sk);
		}
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		reserve_option(ctx);
		break;
	case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
		write_option(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		if (sk)
			read_answer(ctx, sk);
		note_urgent(ctx);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		if (sk && !accept_inband(ctx, sk))
			take(ctx, sk);
		note_urgent(ctx);
		break;
	case BPF_SOCK_OPS_PARSE_HDR_OPT_CB:
		note_urgent(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == BPF_TCP_CLOSE)
			withdraw(ctx);
		break;
	}
	return 1;
}
