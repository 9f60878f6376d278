//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The kernel runs this when it looks for a listener: a captured connection finds that of the gateway, whatever
 * port of loopback it goes to.
 */

#include "spread.h"

SEC("sk_lookup")
int kgw_spread(struct bpf_sk_lookup *ctx)
{
	struct tuple t = {};
	enum listener which;

	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	read_lookup(ctx, &t);
	if (!is_loopback(t.server.ip) || !has_role(bpf_map_lookup_elem(&kgw_handover, &t), ROLE_CAPTURED))
		return SK_PASS;
	which = capture_listener_of(t.server.ip);

	struct bpf_sock *sk REFERENCE = bpf_map_lookup_elem(&kgw_listeners, &which);

	return sk && bpf_sk_assign(ctx, sk, 0) == 0 ? SK_PASS : SK_DROP;
}
