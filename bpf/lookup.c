//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * The kernel runs this when it looks for a listener: for the first SYN, for one with the
 * tuple of a connection in TIME_WAIT, and for the ACK that answers a SYN cookie. ingress.c
 * cannot steer the last two. In strict mode this also sees what ingress.c does not read:
 * fragments, and what is behind extension headers.
 */

#include "steer.h"

#define LOOPBACK_IFINDEX 1

/* Whether the kernel says by which interface a packet came (Linux 5.17). Without that, a source
 * address which the pod got a moment ago counts as one from outside. */
const volatile bool knows_interface = false;

/* Whether this is no packet but a program that asks who listens (question_key): on loopback perhaps the
 * pod's other gateway, whose listener is not known here. Nobody can connect from such an address. */
static __always_inline bool is_question(const struct tuple *t)
{
	__u32 any[4] = {};

	if (is_mapped(t->client.ip))
		map_ip4(any, bpf_htonl(INADDR_ANY));
	return same_ip(t->client.ip, any) && !t->client.port;
}

/* Whether the worker dials an application of the pod. Packets to other addresses than ::1 do not count as those of loopback.
 * What comes from outside with such a source gets no answer: that goes to loopback. */
static __always_inline bool is_workers(const struct config *cfg, const struct tuple *t)
{
	return cfg->sources6 && is_source6(t->client.ip);
}

SEC("sk_lookup")
int kgw_lookup(struct bpf_sk_lookup *ctx)
{
	struct config *cfg = get_config();
	struct tuple t = {};
	bool shown;

	if (!cfg || ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	read_lookup(ctx, &t);
	if ((knows_interface && ctx->ingress_ifindex == LOOPBACK_IFINDEX) || is_question(&t) || is_workers(cfg, &t) ||
	    !is_inbound(cfg, &t))
		return SK_PASS;
	shown = bpf_map_lookup_elem(&kgw_shown, &t);
	if (!shown && (!cfg->strict || plaintext_allowed(&t)))
		return SK_PASS;

	struct bpf_sock *sk REFERENCE = inband_listener(&t);

	if (!sk) {
		/* This program ends with the supervisor, which holds the listeners: none should be
		 * missing. A gateway that is gone is what fails_closed is about. */
		if (!cfg->strict)
			return SK_PASS;
		if (!shown)
			COUNT(plaintext_refused);
		return SK_DROP;
	}
	/* Of two gateways that know the connection the newer one takes it. The one that does not know it
	 * leaves it to the other, whose choice the kernel prefers to SK_DROP. */
	return bpf_sk_assign(ctx, sk, shown ? BPF_SK_LOOKUP_F_REPLACE : 0) && cfg->strict ? SK_DROP : SK_PASS;
}
