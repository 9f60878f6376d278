//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
 *
 * Every packet that comes into the pod: a SYN is read, and steered to the gateway if the
 * connection is the gateway's, or refused if it may not be in plaintext. All others pass.
 */

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#include "option.h"
#include "refuse.h"
#include "steer.h"

/* TC_ACT_UNSPEC of clsact, TCX_NEXT of tcx: the next program decides. */
#define NEXT TC_ACT_UNSPEC
#define DROP TC_ACT_SHOT

#define IP_OFFSET 0x1fff
#define IP_MF 0x2000

#define VLAN_ID 0x0fff

#define MAX_OPTIONS 40
/* Ethernet with a tag, and the longest headers of IPv4 and TCP. */
#define HEADERS (18 + 60 + 60)

enum packet {
	PACKET_OTHER, /* not a SYN, or not TCP */
	PACKET_SYN,
	/* TCP that cannot be read here: a fragment, or behind an IPv6 extension header. */
	PACKET_OPAQUE,
};

/* Only this helper knows where the network header is, on interfaces without a link layer
 * too. It reads no more than what is in one piece with the beginning. */
static __always_inline long load(struct __sk_buff *skb, __u32 at, void *to, __u32 len)
{
	return bpf_skb_load_bytes_relative(skb, at, to, len, BPF_HDR_START_NET);
}

static __always_inline long pull_headers(struct __sk_buff *skb)
{
	return bpf_skb_pull_data(skb, skb->len < HEADERS ? skb->len : HEADERS);
}

static __always_inline long load_header(struct __sk_buff *skb, __u32 at, void *to, __u32 len)
{
	if (load(skb, at, to, len) == 0)
		return 0;
	return pull_headers(skb) || load(skb, at, to, len);
}

/* What measure_option returns of ours, which is longer than any other. */
#define OURS 256

/* The length of the option at at in a list that ends before end, 0 if there is none. */
GLOBAL long measure_option(struct __sk_buff *skb, __u64 at, __u64 end)
{
	struct { __u8 kind, len; } head = {};
	struct option o;

	/* An option of one byte may be the last. */
	if (at + 1 > end || load(skb, at, &head, at + 2 > end ? 1 : 2) || head.kind == 0)
		return 0;
	if (head.kind == 1)
		return 1;
	if (head.len < 2 || at + head.len > end)
		return 0;
	if (head.kind == OPTION_KIND && head.len == sizeof(o) && load(skb, at, &o, sizeof(o)) == 0 && is_ours(&o))
		return OURS;
	return head.len;
}

/* So many options are looked at in one go. */
#define OPTIONS_STEP 5

/* Skips options from at on: returns OURS if one of them is ours, 0 if the list ends, and otherwise how long they are. */
GLOBAL long skip_options(struct __sk_buff *skb, __u64 at, __u64 end)
{
	__u64 begin = at;

	for (int i = 0; i < OPTIONS_STEP; i++) {
		long len = measure_option(skb, at, end);

		if (len == 0 || len == OURS)
			return len;
		at += len;
	}
	return at - begin;
}

/* Whether the option is in the list that begins at and ends before end. The list is
 * read as the kernel does: what comes before the first flaw counts. */
GLOBAL long find_option(struct __sk_buff *skb, __u64 at, __u64 end)
{
	for (int i = 0; i < MAX_OPTIONS / OPTIONS_STEP; i++) {
		long len = skip_options(skb, at, end);

		if (len == 0 || len == OURS)
			return len;
		at += len;
	}
	return false;
}

/* Reads a packet's ends, and of a SYN where TCP begins, and whether it has the option. */
static __always_inline enum packet parse(struct __sk_buff *skb, struct tuple *t, __u32 *begin, bool *shown)
{
	struct tcphdr tcp;
	__u32 at;

	/* The verifier sees that IPv4's addresses are no more than IPv6's if it comes by those first. */
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (load_header(skb, 0, &ip, sizeof(ip)) || ip.nexthdr == IPPROTO_UDP || ip.nexthdr == IPPROTO_ICMPV6)
			return PACKET_OTHER;
		__builtin_memcpy(t->client.ip, &ip.saddr, sizeof(t->client.ip));
		__builtin_memcpy(t->server.ip, &ip.daddr, sizeof(t->server.ip));
		if (ip.nexthdr != IPPROTO_TCP)
			return PACKET_OPAQUE;
		at = sizeof(ip);
	} else if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (load_header(skb, 0, &ip, sizeof(ip)) || ip.protocol != IPPROTO_TCP || ip.ihl < 5)
			return PACKET_OTHER;
		map_ip4(t->client.ip, ip.saddr);
		map_ip4(t->server.ip, ip.daddr);
		if (ip.frag_off & bpf_htons(IP_OFFSET | IP_MF))
			return PACKET_OPAQUE;
		at = ip.ihl * 4;
	} else {
		return PACKET_OTHER;
	}
	if (load_header(skb, at, &tcp, sizeof(tcp)))
		return PACKET_OTHER;
	if (!tcp.syn || tcp.ack || tcp.rst || tcp.fin)
		return PACKET_OTHER;
	pull_headers(skb);
	t->client.port = tcp.source;
	t->server.port = tcp.dest;
	*begin = at;
	*shown = find_option(skb, at + sizeof(tcp), at + tcp.doff * 4);
	return PACKET_SYN;
}

/* Makes the key that lookups of sockets take from what parse has read already, and returns its size, or 0. Functions that
 * read a SYN once more are GLOBAL. */
static __always_inline __u32 key_of(struct __sk_buff *skb, __u64 begin, struct bpf_sock_tuple *key)
{
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return load(skb, offsetof(struct ipv6hdr, saddr), &key->ipv6.saddr, 2 * sizeof(key->ipv6.saddr)) ||
			load(skb, begin, &key->ipv6.sport, 2 * sizeof(key->ipv6.sport)) ? 0 : sizeof(key->ipv6);
	return load(skb, offsetof(struct iphdr, saddr), &key->ipv4.saddr, 2 * sizeof(key->ipv4.saddr)) ||
		load(skb, begin, &key->ipv4.sport, 2 * sizeof(key->ipv4.sport)) ? 0 : sizeof(key->ipv4);
}

/* The state of the connection that a SYN belongs to, or BPF_TCP_LISTEN if there is none. */
GLOBAL long state_of(struct __sk_buff *skb, __u64 begin)
{
	struct bpf_sock_tuple key = {};
	__u32 size = key_of(skb, begin, &key);

	if (!size)
		return BPF_TCP_LISTEN;

	struct bpf_sock *sk REFERENCE = bpf_skc_lookup_tcp(skb, &key, size, BPF_F_CURRENT_NETNS, 0);

	return sk ? sk->state : BPF_TCP_LISTEN;
}

/* Whether an application listens where a SYN goes: the kernel refuses what comes for it otherwise. */
GLOBAL long has_listener(struct __sk_buff *skb, __u64 begin)
{
	struct bpf_sock_tuple key = {};
	__u32 size = key_of(skb, begin, &key);

	if (!size)
		return false;
	if (size == sizeof(key.ipv6)) {
		__builtin_memset(key.ipv6.saddr, 0, sizeof(key.ipv6.saddr));
		key.ipv6.sport = 0;
	} else {
		key.ipv4.saddr = 0;
		key.ipv4.sport = 0;
	}

	struct bpf_sock *sk REFERENCE = bpf_skc_lookup_tcp(skb, &key, size, BPF_F_CURRENT_NETNS, 0);

	return sk != NULL;
}

/* Whether the frame is for another host, which a bridge does not know. The kernel drops it. */
static __always_inline bool is_overheard(struct __sk_buff *skb)
{
	return skb->pkt_type == 3; /* PACKET_OTHERHOST of linux/if_packet.h */
}

/* Whether the frame has two tags or more that name no VLAN. The kernel takes all of them off, but only the first one
 * before this program sees the packet. Nobody needs the second one. */
static __always_inline bool is_tagged_twice(struct __sk_buff *skb)
{
	__be16 second;

	return (skb->protocol == bpf_htons(ETH_P_8021Q) || skb->protocol == bpf_htons(ETH_P_8021AD)) &&
	       !(skb->vlan_tci & VLAN_ID) && load(skb, 0, &second, sizeof(second)) == 0 && !(second & bpf_htons(VLAN_ID));
}

/* Whether the kernel delivers a packet in this network namespace, and does not forward it. */
GLOBAL long is_for_here(struct __sk_buff *skb)
{
	struct bpf_fib_lookup route = { .ifindex = skb->ifindex };
	long answer;

	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		route.family = AF_INET6;
		if (load(skb, offsetof(struct ipv6hdr, saddr), route.ipv6_src, sizeof(route.ipv6_src)) ||
		    load(skb, offsetof(struct ipv6hdr, daddr), route.ipv6_dst, sizeof(route.ipv6_dst)))
			return false;
		/* Multicast is never TCP. */
		if ((route.ipv6_dst[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000))
			return false;
	} else {
		route.family = AF_INET;
		if (load(skb, offsetof(struct iphdr, saddr), &route.ipv4_src, sizeof(route.ipv4_src)) ||
		    load(skb, offsetof(struct iphdr, daddr), &route.ipv4_dst, sizeof(route.ipv4_dst)))
			return false;
	}
	answer = bpf_fib_lookup(skb, &route, sizeof(route), 0);
	return answer == BPF_FIB_LKUP_RET_NOT_FWDED || answer == BPF_FIB_LKUP_RET_FWD_DISABLED;
}

/* Refuses a SYN in plaintext. False says that it cannot be reported, or not be answered: the gateway
 * accepts the connection and resets it. */
static __always_inline bool refuse(struct __sk_buff *skb, struct tuple *t, __u32 tcp)
{
	int link = link_length(skb);

	if (link < 0 || bpf_ringbuf_output(&kgw_refused, t, sizeof(*t), 0))
		return false;
	COUNT(plaintext_refused);
	return make_rst(skb, link, tcp);
}

/* Refuses a SYN to a port where nobody listens, as the kernel does. */
static __always_inline bool reject(struct __sk_buff *skb, __u32 tcp)
{
	int link = link_length(skb);

	return link >= 0 && make_rst(skb, link, tcp);
}

/* Lets a SYN begin anew, as the connection that it belongs to has the wrong listener: the SYN becomes
 * the RST that ends that one, and a copy of it comes in by the same interface, behind it. */
static __always_inline void begin_again(struct __sk_buff *skb, __u32 tcp)
{
	int link = link_length(skb);

	if (link >= 0 && bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS) == 0)
		make_own_rst(skb, link + tcp);
}

/* Whether the pod's other gateway has steered the SYN to its listener. An unassigned packet may still
 * have the socket of its sender. */
GLOBAL long is_others(struct __sk_buff *skb)
{
	struct config *cfg = get_config();
	struct bpf_sock *sk = skb->sk;
	__u32 ip[4];

	if (!cfg || !cfg->other_inband || !sk)
		return false;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->state != BPF_TCP_LISTEN || bpf_htons(sk->src_port) != cfg->other_inband)
		return false;
	if (sk->family == AF_INET) {
		map_ip4(ip, sk->src_ip4);
	} else {
		for (int i = 0; i < 4; i++)
			ip[i] = FIELD(sk->src_ip6[i]);
	}
	return is_loopback(ip);
}

/* Judges a SYN from outside to the pod. */
static __always_inline int steer(struct __sk_buff *skb, const struct config *cfg, struct tuple *t, __u32 tcp, bool shown)
{
	bool remembered = shown || bpf_map_lookup_elem(&kgw_shown, t);
	__u32 state, one = 1;

	if (!remembered && !cfg->strict) {
		if (!plaintext_allowed(t) && is_for_here(skb))
			count_stranger(t);
		return NEXT;
	}
	if (!is_for_here(skb))
		return NEXT;
	state = state_of(skb, tcp);
	if (state != BPF_TCP_LISTEN && state != BPF_TCP_TIME_WAIT && state != BPF_TCP_NEW_SYN_RECV)
		return NEXT; /* the connection exists */
	/* In strict mode lookup.c would find the gateway's listener. */
	if (shown && state != BPF_TCP_NEW_SYN_RECV && !has_listener(skb, tcp))
		return cfg->strict && reject(skb, tcp) ? bpf_redirect(skb->ifindex, 0) : NEXT;
	/* Without the option, another connection had this tuple and failed, or it is the retransmission of
	 * a SYN that had it: the client has given the option up, and its SYN-ACK has none then. */
	if (shown)
		bpf_map_update_elem(&kgw_shown, t, &one, BPF_ANY);
	else if (remembered)
		bpf_map_delete_elem(&kgw_shown, t);
	if (state == BPF_TCP_NEW_SYN_RECV) {
		/* A retransmission: the kernel knows the connection, and it is the gateway's. */
		if (!shown && remembered && !cfg->strict)
			begin_again(skb, tcp);
		return NEXT;
	}

	if (!shown) {
		if (!cfg->strict)
			return NEXT;
		if (plaintext_allowed(t)) {
			COUNT(plaintext_allowed);
			return NEXT;
		}
	}

	struct bpf_sock *sk REFERENCE = inband_listener(t);

	if (!sk) {
		if (!fails_closed(cfg))
			return NEXT;
		if (!shown)
			COUNT(plaintext_refused);
		return DROP;
	}
	if (!shown && refuse(skb, t, tcp))
		return bpf_redirect(skb->ifindex, 0);
	/* The kernel ends a connection in TIME_WAIT first, and then asks lookup.c. */
	if (state == BPF_TCP_TIME_WAIT || bpf_sk_assign(skb, sk, 0) == 0)
		return NEXT;
	return cfg->strict ? DROP : NEXT;
}

/* Judges TCP to the pod that cannot be read here. lookup.c judges it again, unless the
 * gateway is gone. */
static __always_inline int guard(struct __sk_buff *skb, const struct config *cfg, const struct tuple *t)
{
	if (!fails_closed(cfg) || plaintext_allowed(t) || !is_for_here(skb))
		return NEXT;

	struct bpf_sock *sk REFERENCE = inband_listener(t);

	return sk ? NEXT : DROP;
}

SEC("tc")
int kgw_ingress(struct __sk_buff *skb)
{
	struct config *cfg = get_config();
	struct tuple t = {};
	bool shown = false;
	enum packet packet;
	__u32 tcp = 0;

	if (!cfg || is_overheard(skb))
		return NEXT;
	if (is_tagged_twice(skb))
		return fails_closed(cfg) ? DROP : NEXT;
	packet = parse(skb, &t, &tcp, &shown);
	if (packet == PACKET_OTHER || !is_inbound(cfg, &t))
		return NEXT;
	/* Only one of two gateways remembers a connection, so that all programs know whose it is. */
	if (packet == PACKET_SYN && is_others(skb))
		return NEXT;
	return packet == PACKET_SYN ? steer(skb, cfg, &t, tcp, shown) : guard(skb, cfg, &t);
}
