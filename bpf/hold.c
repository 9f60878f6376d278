//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * connect(2) of a captured connection waits until the worker knows what becomes of the connection: the
 * SYN does not reach the gateway's listener before. The kernel shows each packet to raw sockets first, so
 * that kgw_knock decides, and kgw_wait follows. A SYN that is sent again is shown again.
 */

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#include "socket.h"

/* What a filter returns: how much of the packet the socket gets. */
#define NOTHING 0
#define ALL (-1)

/* A connection does not wait for this long after another one to its destination. */
#define WORKS_NS 1000000000ull

static __always_inline long load_net(struct __sk_buff *skb, __u32 at, void *to, __u32 len)
{
	return bpf_skb_load_bytes_relative(skb, at, to, len, BPF_HDR_START_NET);
}

/* The captured connection whose SYN the packet is, or NULL. */
static __always_inline struct handover *connecting(struct __sk_buff *skb)
{
	struct tuple t = {};
	struct handover *h;
	struct tcphdr tcp;
	__u32 at;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (load_net(skb, 0, &ip, sizeof(ip)) || ip.protocol != IPPROTO_TCP || ip.ihl < 5)
			return NULL;
		map_ip4(t.client.ip, ip.saddr);
		map_ip4(t.server.ip, ip.daddr);
		at = ip.ihl * 4;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (load_net(skb, 0, &ip, sizeof(ip)) || ip.nexthdr != IPPROTO_TCP)
			return NULL;
		__builtin_memcpy(t.client.ip, &ip.saddr, sizeof(t.client.ip));
		__builtin_memcpy(t.server.ip, &ip.daddr, sizeof(t.server.ip));
		at = sizeof(ip);
	} else {
		return NULL;
	}
	if (load_net(skb, at, &tcp, sizeof(tcp)) || !tcp.syn || tcp.ack)
		return NULL;
	t.client.port = tcp.source;
	t.server.port = tcp.dest;
	h = bpf_map_lookup_elem(&kgw_handover, &t);
	return has_role(h, ROLE_CAPTURED) ? h : NULL;
}

static __always_inline bool works(const struct endpoint *to)
{
	struct endpoint key = *to;
	__u64 *since = bpf_map_lookup_elem(&kgw_works, &key);

	return since && bpf_ktime_get_ns() - *since < WORKS_NS;
}

/* At the worker's raw sockets: they get the SYNs that wait, and nothing else. */
SEC("socket")
int kgw_knock(struct __sk_buff *skb)
{
	struct handover *h = connecting(skb);

	if (!h)
		return NOTHING;
	if (h->hold == HOLD_UNDECIDED)
		h->hold = works(&h->addr) ? HOLD_ADMITTED : HOLD_WAITS;
	return h->hold == HOLD_WAITS ? ALL : NOTHING;
}

/* At the gateway's listeners, and what they accept. */
SEC("socket")
int kgw_wait(struct __sk_buff *skb)
{
	struct handover *h = connecting(skb);

	return h && h->hold == HOLD_WAITS ? NOTHING : ALL;
}
