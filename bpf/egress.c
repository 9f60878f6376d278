//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * Every packet that leaves the pod: connections that it forwards for others have no socket here, and
 * SYNs that a process writes by itself are in no connect(2), so that connect.c sees neither.
 */

#include "decide.h"

/* Of IPv6, before TCP. Senders use one or two. */
#define EXTENSION_HEADERS 4

#define IP6_OFFSET 0xfff8

/* Whether a TCP socket has made the packet: connect.c has judged it. A raw socket can have TCP's
 * number, too. */
static __always_inline bool has_socket(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return false;
	sk = bpf_sk_fullsock(sk);
	/* One that is not full answers a SYN. */
	return !sk || (sk->protocol == IPPROTO_TCP && sk->type == SOCK_STREAM);
}

/* What skip_header and skip_headers return where the headers have no end. */
#define HIDDEN (~0u)

/* Reads the extension header of a kind that begins at at: its length, and in the low byte the kind of the next one. 0 if TCP cannot be
 * behind it. */
GLOBAL long skip_header(struct __sk_buff *skb, __u32 at, __u32 kind)
{
	struct { __u8 next, len; __be16 fragment; } head;

	if (kind != IPPROTO_HOPOPTS && kind != IPPROTO_ROUTING && kind != IPPROTO_DSTOPTS && kind != IPPROTO_FRAGMENT)
		return 0;
	if (load_header(skb, at, &head, sizeof(head)))
		return HIDDEN;
	if (kind != IPPROTO_FRAGMENT)
		return (head.len + 1) * 8 << 8 | head.next;
	return head.fragment & bpf_htons(IP6_OFFSET) ? 0 : 8 << 8 | head.next;
}

/* Where TCP begins in an IPv6 packet, behind extension headers as well, of which the first one is of kind, or 0. */
GLOBAL long skip_headers(struct __sk_buff *skb, __u32 kind)
{
	__u32 at = sizeof(struct ipv6hdr);

	for (int i = 0; i <= EXTENSION_HEADERS; i++) {
		__u32 header;

		if (kind == IPPROTO_TCP)
			return at;
		header = skip_header(skb, at, kind);
		if (!header || header == HIDDEN)
			return header;
		at += header >> 8;
		kind = header & 0xff;
	}
	return HIDDEN;
}

/* Whether the packet is a SYN, its destination and its source port. One whose flags cannot be read counts, too: only who
 * has something to hide makes fragments that are so short, or so many headers. */
static __always_inline bool read_syn(struct __sk_buff *skb, struct tuple *t)
{
	struct { __be16 source, dest; } ports = {};
	struct endpoint *dst = &t->server;
	struct tcphdr tcp;
	__u32 at;

	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (load_header(skb, 0, &ip, sizeof(ip)))
			return false;
		__builtin_memcpy(dst->ip, &ip.daddr, sizeof(dst->ip));
		at = skip_headers(skb, ip.nexthdr);
		if (!at)
			return false;
	} else if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (load_header(skb, 0, &ip, sizeof(ip)) || ip.protocol != IPPROTO_TCP || ip.frag_off & bpf_htons(IP_OFFSET))
			return false;
		map_ip4(dst->ip, ip.daddr);
		at = ip.ihl * 4;
	} else {
		return false;
	}
	load_header(skb, at, &ports, sizeof(ports));
	dst->port = ports.dest;
	t->client.port = ports.source;
	return load_header(skb, at, &tcp, sizeof(tcp)) || (tcp.syn && !tcp.ack);
}

/* Whether the gateway lives, or has to be obeyed nevertheless. */
static __always_inline bool is_in_force(const struct config *cfg, const struct endpoint *dst)
{
	struct tuple t = { .server = *dst };
	struct bpf_sock *sk REFERENCE = inband_listener(&t);

	return sk || cfg->closed;
}

SEC("tc")
int kgw_egress(struct __sk_buff *skb)
{
	struct config *cfg = get_config();
	struct tuple t = {};
	const struct endpoint *dst = &t.server;
	enum action action;

	if (!cfg || has_socket(skb) || !read_syn(skb, &t))
		return NEXT;
	action = action_for(dst);
	if (action == ACTION_LOCAL || !is_in_force(cfg, dst))
		return NEXT;
	/* connect.c has counted what comes from a nested namespace, and let it pass: see make_nested. */
	if (!cfg->strict && bpf_map_delete_elem(&kgw_handover, &t) == 0)
		return NEXT;
	if (action < ACTION_POD)
		return judge_uncaptured(action, dst) == VERDICT_REFUSE ? DROP : NEXT;
	COUNT(forwarded);
	return cfg->strict ? DROP : NEXT;
}
